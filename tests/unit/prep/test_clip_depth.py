"""A clip's depth takes the smaller packing, and kind `half` where it is that, whatever was thought likely."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from vdaprep.shards import codec
from vdaprep.shards.depth_codes import SKY_CODE
from vdaprep.shards.metadata import DepthSpec

ASKED = DepthSpec("log", 0.0005, near_m=0.1, far_m=1000.0, packing="nibbles")
SHAPE = (9, 40, 56)


def smooth() -> np.ndarray:
    return np.linspace(1, 30, np.prod(SHAPE), dtype=np.float32).reshape(SHAPE)


def noisy() -> np.ndarray:
    depth_m = (2 * np.exp(np.random.default_rng(0).normal(0, 0.01, SHAPE))).astype(np.float32)
    depth_m[:, ::7] = np.nan
    return depth_m


def halves() -> np.ndarray:
    depth_m = smooth().astype(np.float16).astype(np.float32)
    depth_m[:, 0], depth_m[:, 1], depth_m[:, 2] = np.nan, np.inf, 20_000
    return depth_m


def halves_but_one() -> np.ndarray:
    depth_m = halves()
    depth_m[-1, -1, -1] = np.float32(1.0001)
    return depth_m


def lone() -> np.ndarray:
    depth_m = smooth()
    depth_m[np.random.default_rng(0).random(SHAPE) < 0.84] = np.nan
    return depth_m


@pytest.mark.parametrize(
    ("depth_m", "kind", "packing"),
    [
        (smooth(), "log", "nibbles"),
        (noisy(), "log", "bytes"),
        (halves(), "half", "nibbles"),
        (halves_but_one(), "log", "nibbles"),
        (lone(), "log", "sparse"),
    ],
)
@pytest.mark.parametrize("likely", codec.LOSSLESS)
def test_what_is_likely_decides_no_bytes(depth_m: np.ndarray, kind: str, packing: str, likely: str) -> None:
    frames = codec.settle([codec.pack_depth(frame, ASKED, likely=likely) for frame in depth_m], ASKED)
    expected = codec.settle([codec.pack_depth(frame, ASKED) for frame in depth_m], ASKED)
    assert [frame.data for frame in frames] == [frame.data for frame in expected]
    assert {(frame.spec.kind, frame.spec.packing) for frame in frames} == {(kind, packing)}


def test_the_likely_packing_is_the_smaller_one() -> None:
    assert codec.likely_packing(codec.pack_depth(smooth()[0], ASKED)) == "nibbles"
    assert codec.likely_packing(codec.pack_depth(noisy()[0], ASKED)) == "bytes"
    assert codec.likely_packing(codec.pack_depth(lone()[0], ASKED)) == "sparse"


INTERPOLATED = DepthSpec("log", 0.0022, near_m=0.1, far_m=1000.0, packing="interpolation", steps=11)


def test_lone_points_are_not_interpolated() -> None:
    assert codec.suited(smooth()[0], INTERPOLATED) == INTERPOLATED
    assert codec.suited(lone()[0], ASKED) == ASKED
    spec = codec.suited(lone()[0], INTERPOLATED)
    assert (spec.packing, spec.steps, spec.relative_error) == ("sparse", 1, 0.0022)
    [packed] = codec.settle([codec.pack_depth(lone()[0], spec)], INTERPOLATED)
    found = codec.decode_depth(packed.data, packed.spec, height=packed.height, width=packed.width)
    assert np.array_equal(np.isnan(found), np.isnan(lone()[0]))
    assert np.allclose(found, lone()[0], rtol=0.0022, atol=0, equal_nan=True)
    assert len(packed.data) < len(codec.pack_depth(lone()[0], INTERPOLATED).data)


@pytest.mark.parametrize("likely", codec.LOSSLESS)
def test_few_unknown_pixels_are_no_lone_points(likely: str) -> None:
    assert not any(codec.pack_depth(depth_m, ASKED, likely=likely).is_sparse for depth_m in (*noisy(), *halves()))


@pytest.mark.parametrize("small_m", [1.0, 2.0**-14, 2.0**-24])
def test_halves_decode_as_they_are(small_m: float) -> None:
    """Those below 2 ** -14 m have fewer digits, and bits of their own."""
    depth_m = halves()[0]
    depth_m[5, 5] = small_m
    packed = codec.pack_depth(depth_m, ASKED)
    assert packed.spec.kind == "half"
    decoded = codec.decode_depth(packed.data, packed.spec, height=packed.height, width=packed.width)
    np.testing.assert_array_equal(decoded, np.where(depth_m > 1000, np.inf, depth_m))


HALVES = [0.0, -0.0, -1.0, np.nan, -np.inf, np.inf, 2.0**-24, 2.0**-14, 1.0, 1000.0, 1000.5, 65504.0, 1e6]
OTHERS = [1.0001, 999.9, 2.0**-25, 0.1]  # of which none up to far_m is a half


@given(depth_m=arrays(np.float32, (1, 40), elements=st.sampled_from(HALVES)), other=st.sampled_from([None, *OTHERS]))
def test_a_frame_is_halves_if_all_its_depths_are(depth_m: np.ndarray, other: float | None) -> None:
    depth_m[0, ::16] = 2.0  # what is looked at first
    if other is not None:
        depth_m[0, 17] = other
    packed = codec.pack_depth(depth_m, ASKED)
    assert (packed.spec.kind == "half") == (other is None)
    if other is None:
        codes = codec.unpack_codes(packed.data, packed.spec, height=1, width=40)
        known = (depth_m > 0) & (depth_m <= 1000)
        bits = np.where(known, depth_m, 0).astype(np.float16).view(np.uint16)
        expected = np.where(depth_m > 1000, SKY_CODE, bits)
        np.testing.assert_array_equal(codes, expected)
