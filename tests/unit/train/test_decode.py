"""A device decodes images and depth to the same numbers as the codec."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from vdaprep.shards import codec
from vdaprep.shards.depth_codes import SKY_CODE
from vdaprep.shards.metadata import DepthSpec
from vdatrain.data import decode

SPECS = {
    "linear": DepthSpec("linear", 0.0, unit_m=0.01),
    "half": DepthSpec("half", 0.0, unit_m=0.1, packing="nibbles"),
    "log": DepthSpec("log", 0.0005, near_m=0.1, far_m=1000.0, packing="nibbles"),
    "sparse": DepthSpec("log", 0.0022, near_m=0.1, far_m=1000.0, packing="sparse"),
    "interpolated": DepthSpec("log", 0.0022, near_m=0.1, far_m=1000.0, packing="interpolation", steps=11),
}
SHAPES = st.one_of(st.tuples(st.integers(1, 5), st.integers(1, 5)), st.tuples(st.integers(30, 67), st.integers(30, 67)))


def stacked(frames: Sequence[np.ndarray]) -> torch.Tensor:
    """Put what `decompress_depth` gives into rows, as a window has them."""
    longest = max(map(len, frames))
    return torch.from_numpy(np.stack([np.pad(frame, (0, longest - len(frame))) for frame in frames]))


def check(codes: np.ndarray, spec: DepthSpec) -> None:
    size = codes.shape[1:]
    packed = [codec.pack_codes(frame, spec) for frame in codes]
    unpacked = stacked([codec.decompress_depth(data, spec, height=size[0], width=size[1]) for data in packed])
    expected = np.stack([codec.unpack_codes(data, spec, height=size[0], width=size[1]) for data in packed])
    for found in (decode.codes_of_bytes(unpacked, spec, size=size), decode.decode_codes(unpacked, spec, size=size)):
        assert found.dtype == torch.int32
        np.testing.assert_array_equal(found, expected)
    metres = [codec.decode_depth(data, spec, height=size[0], width=size[1]) for data in packed]
    np.testing.assert_array_equal(decode.decode_depth(unpacked, spec, size=size), np.stack(metres))


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
@settings(max_examples=15, deadline=None)
@given(
    shape=SHAPES,
    smooth=st.booleans(),
    masked=st.sampled_from([(), (0,), (SKY_CODE,), (0, SKY_CODE)]),
    seed=st.integers(0, 99),
)
def test_depth_is_that_of_the_codec(
    spec: DepthSpec, shape: tuple[int, int], smooth: bool, masked: tuple[int, ...], seed: int
) -> None:
    """Frames with few rests and with many, some of which have masks, in one window."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(20_000, 20_000 + 12, (3, *shape)) if smooth else rng.integers(1, SKY_CODE, (3, *shape))
    for value, frame in zip(masked, codes[1:], strict=False):
        frame[rng.random(shape) < (0.8 if spec.packing == "sparse" else 0.3)] = value
    check(codes.astype(np.uint16), spec)


HALVES = st.tuples(st.integers(1, 9), st.integers(1, 9))
EXTREMES = st.sampled_from([0, 1, 127, 128, 254, 255])


@settings(max_examples=40, deadline=None)
@given(
    planes=st.tuples(st.integers(1, 9), st.integers(1, 9)).flatmap(
        lambda half: arrays(
            np.uint8, (2, 3 * half[0], 2 * half[1]), elements=st.sampled_from([0, 1, 127, 128, 254, 255])
        )
    ),
    cut=st.integers(0, 1),
)
def test_colours_of_small_frames_are_those_of_the_codec(planes: np.ndarray, cut: int) -> None:
    check_colours(planes, cut)


def check_colours(planes: np.ndarray, cut: int) -> None:
    size = planes.shape[1] * 2 // 3 - cut, planes.shape[2] - cut
    expected = np.empty((len(planes), *size, 3), np.uint8)
    for one, rgb in zip(planes, expected, strict=True):
        codec.rgb_of_planes(one, out=rgb)
    for found in (
        decode.rgb_of_planes(torch.from_numpy(planes), size),
        decode.decode_images(torch.from_numpy(planes), size),
    ):
        np.testing.assert_array_equal(found, expected)


def test_every_colour_is_that_of_the_codec() -> None:
    """Every luma, at every fifth of both chromas."""
    some = np.concatenate([np.arange(0, 256, 5), [254]])
    blue, red = (axis.reshape(-1, 1, 1) for axis in np.meshgrid(some, some))
    planes = np.empty((len(blue), 24, 16), np.uint8)  # a frame of 16x16 pixels for each pair
    planes[:, :16] = np.arange(256).reshape(16, 16)
    planes[:, 16:20], planes[:, 20:] = blue, red
    check_colours(planes, 0)
