"""A clip's depth takes the smaller packing, and kind `half` where it is that, whatever was thought likely."""

import numpy as np
import pytest

from vdaprep.shards import codec
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


@pytest.mark.parametrize(
    ("depth_m", "kind", "packing"),
    [
        (smooth(), "log", "nibbles"),
        (noisy(), "log", "bytes"),
        (halves(), "half", "nibbles"),
        (halves_but_one(), "log", "nibbles"),
    ],
)
@pytest.mark.parametrize("likely", ["nibbles", "bytes"])
def test_what_is_likely_decides_no_bytes(depth_m: np.ndarray, kind: str, packing: str, likely: str) -> None:
    frames = codec.settle([codec.pack_depth(frame, ASKED, likely=likely) for frame in depth_m], ASKED)
    expected = codec.settle([codec.pack_depth(frame, ASKED) for frame in depth_m], ASKED)
    assert [frame.data for frame in frames] == [frame.data for frame in expected]
    assert {(frame.spec.kind, frame.spec.packing) for frame in frames} == {(kind, packing)}


def test_the_likely_packing_is_the_smaller_one() -> None:
    assert codec.likely_packing(codec.pack_depth(smooth()[0], ASKED)) == "nibbles"
    assert codec.likely_packing(codec.pack_depth(noisy()[0], ASKED)) == "bytes"


@pytest.mark.parametrize("small_m", [1.0, 2.0**-14, 2.0**-24])
def test_halves_decode_as_they_are(small_m: float) -> None:
    """Those below 2 ** -14 m have fewer digits, and bits of their own."""
    depth_m = halves()[0]
    depth_m[5, 5] = small_m
    packed = codec.pack_depth(depth_m, ASKED)
    assert packed.spec.kind == "half"
    decoded = codec.decode_depth(packed.data, packed.spec, height=packed.height, width=packed.width)
    np.testing.assert_array_equal(decoded, np.where(depth_m > 1000, np.inf, depth_m))
