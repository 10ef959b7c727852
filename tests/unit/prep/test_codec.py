"""Every code goes round within its promise, and damage is noticed."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from vdaprep.errors import ShardError
from vdaprep.shards import codec, depth_codes
from vdaprep.shards.codec.zstd import compress
from vdaprep.shards.metadata import DepthSpec, DiffSpec

LOG = DepthSpec("log", 0.0005, near_m=0.1, far_m=1000.0)
LINEAR = DepthSpec("linear", 0.0, unit_m=0.01)
HALF = DepthSpec("half", 0.0, unit_m=0.1)
SHAPES = st.tuples(st.integers(1, 9), st.integers(1, 9))


@pytest.mark.parametrize("packing", codec.LOSSLESS)
@given(codes=arrays(np.uint16, SHAPES))
def test_codes_survive_packing(packing: str, codes: np.ndarray) -> None:
    height, width = codes.shape
    spec = replace(LINEAR, packing=packing)
    assert np.array_equal(codec.unpack_codes(codec.pack_codes(codes, spec), spec, height=height, width=width), codes)


@pytest.mark.parametrize("error", [0.0001, 0.0005, 0.01])
def test_log_keeps_its_promise_at_every_depth(error: float) -> None:
    spec = DepthSpec("log", error, near_m=0.1, far_m=1000.0)
    depth_m = np.geomspace(0.1, 1000.0, 400_000, dtype=np.float32).reshape(400, 1000)
    codes, clamped = depth_codes.code_depth(depth_m, spec)
    decoded = depth_codes.depth_table(spec)[codes].astype(np.float64)
    assert np.abs(decoded / depth_m - 1).max() <= error
    assert (np.diff(codes.ravel().astype(int)) >= 0).all()
    assert codes.min() >= 1
    assert codes.max() < depth_codes.SKY_CODE
    assert clamped <= 1  # the first one may round below 0.1


def test_log_codes_are_the_formula() -> None:
    depth_m = np.geomspace(0.1, 1000.0, 10_001, dtype=np.float32)[None]
    step = LOG.log_step
    exact = 1 + np.log(depth_m.astype(np.float64) / 0.1) / step
    codes, _ = depth_codes.code_depth(depth_m, LOG)
    assert np.abs(codes - exact).max() <= 0.5 + 1e-3
    assert 2 * np.log1p(0.0005) * 0.99 < step < 2 * np.log1p(0.0005)


@given(arrays(np.float32, SHAPES, elements=st.floats(width=32, allow_nan=True, allow_infinity=True)))
def test_any_float_decodes_within_the_promise(depth_m: np.ndarray) -> None:
    data, clamped = codec.encode_depth(depth_m, LOG)
    decoded = codec.decode_depth(data, LOG, height=depth_m.shape[0], width=depth_m.shape[1])
    unknown = np.isnan(depth_m) | (depth_m <= 0)
    near = ~unknown & (depth_m < np.float32(0.1))
    sky = depth_m > np.float32(1000)
    rest = ~(unknown | near | sky)
    assert np.isnan(decoded[unknown]).all()
    assert np.isposinf(decoded[sky]).all()
    assert np.allclose(decoded[near], 0.1)
    assert clamped == near.sum()
    assert (np.abs(decoded[rest].astype(np.float64) - depth_m[rest]) <= 0.0005 * depth_m[rest]).all()


def test_linear_keeps_integers() -> None:
    integers = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    depth_m = (integers * np.float64(0.01)).astype(np.float32)
    depth_m[integers == 0] = np.nan
    depth_m[integers == 65535] = np.inf
    assert np.array_equal(depth_codes.code_depth(depth_m, LINEAR)[0], integers)


def test_half_keeps_every_positive_half() -> None:
    bits = np.arange(1, 0x7C00, dtype=np.uint16)
    depth_m = (bits.view(np.float16).astype(np.float64) * 0.1).astype(np.float32)[None]
    codes, _ = depth_codes.code_depth(depth_m, HALF)
    assert np.array_equal(codes[0], bits)
    assert np.isposinf(
        depth_codes.depth_table(HALF)[depth_codes.code_depth(np.array([[np.inf]], np.float32), HALF)[0]]
    ).all()


@pytest.mark.parametrize("spec", [LINEAR, HALF])
def test_depth_that_is_not_exact_is_refused(spec: DepthSpec) -> None:
    with pytest.raises(ValueError, match=r"3.14159 m at row 0, column 1 would decode as"):
        depth_codes.code_depth(np.array([[3.0, 3.14159]], np.float32), spec)


def test_too_small_an_error_for_16_bits_is_refused() -> None:
    with pytest.raises(ShardError, match="takes 460982 codes, expected at most 65534"):
        DepthSpec("log", 1e-5, near_m=0.1, far_m=1000.0)


def test_disparity_range_leaves_sky_and_unknown_out() -> None:
    codes = np.array([[0, 200, 65535, 400]], np.uint16)
    assert depth_codes.disparity_range(codes, LINEAR) == pytest.approx((0.25, 0.5))
    assert depth_codes.disparity_range(np.array([[0, 65535]], np.uint16), LINEAR) is None


@given(arrays(np.uint8, (8, 12, 3)), arrays(np.uint8, (8, 12, 3)), st.sampled_from([1, 2, 3, 4]))
def test_differences_are_within_a_step(now: np.ndarray, before: np.ndarray, scale: int) -> None:
    spec = DiffSpec(scale, 2)
    small = [codec.shrink(frame, spec) for frame in (now, before)]
    decoded = codec.decode_diff(codec.encode_diff(*small, spec), spec, height=8, width=12)
    truth = (small[0] - small[1]).transpose(2, 0, 1)
    assert decoded.shape == (3, *spec.size_of(8, 12))
    assert np.abs(decoded * 2.0 - truth.clip(-254, 254)).max() <= 1 + 1e-4


def test_shrinking_averages_areas() -> None:
    frame = np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8)
    blocks = frame.reshape(2, 4, 3, 4, 3).mean(axis=(1, 3))
    assert np.allclose(codec.shrink(frame, DiffSpec(4, 2)), blocks, atol=1e-4)


@pytest.mark.parametrize("scale", [*range(1, 9), 15, 16, 17, 32])
@pytest.mark.parametrize("odd", [0, 1])
def test_shrinking_is_that_of_opencv(scale: int, odd: int) -> None:
    shape = 3 * scale + odd * (scale // 3), 5 * scale + odd * (scale // 3)
    frame = np.random.default_rng(scale).integers(0, 256, (*shape, 3), dtype=np.uint8)
    frame[: scale + 1, : scale + 1] = 255
    rows, columns = DiffSpec(scale, 2).size_of(*shape)
    expected = cv2.resize(frame.astype(np.float64), (columns, rows), interpolation=cv2.INTER_AREA)
    assert np.allclose(codec.shrink(frame, DiffSpec(scale, 2)), expected, rtol=0, atol=1e-3)
    mirrored = codec.shrink(frame[:, ::-1], DiffSpec(scale, 2))
    assert np.allclose(mirrored[:, ::-1], expected, rtol=0, atol=1e-3) or odd


@pytest.mark.parametrize("packing", ["bytes", "nibbles"])
@given(codes=arrays(np.uint16, SHAPES))
def test_packing_is_prediction_zigzag_and_planes(packing: str, codes: np.ndarray) -> None:
    spec = replace(LINEAR, packing=packing)
    height, width = codes.shape
    padded = np.pad(codes.astype(np.int64), ((1, 0), (1, 0)))
    residual = padded[1:, 1:] - padded[1:, :-1] - padded[:-1, 1:] + padded[:-1, :-1]
    signed = (residual + 32768) % 65536 - 32768
    zigzag = np.where(signed < 0, -2 * signed - 1, 2 * signed)
    for array in (codes, np.asfortranarray(codes)):
        low, high = codec.unpack_planes(codec.pack_codes(array, spec), spec, height=height, width=width)
        assert np.array_equal(low + 256 * high.astype(np.int64), zigzag)


def test_no_previous_frame_is_no_difference() -> None:
    spec = DiffSpec(4, 2)
    small = np.full((2, 3, 3), 77, np.float32)
    assert not codec.decode_diff(codec.encode_diff(small, None, spec), spec, height=8, width=12).any()


def test_every_flipped_bit_of_depth_is_noticed() -> None:
    depth_m = np.random.default_rng(0).uniform(1, 5, (6, 5)).astype(np.float32)
    data = codec.encode_depth(depth_m, LOG)[0]
    truth = codec.decode_depth(data, LOG, height=6, width=5)
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        try:
            found = codec.decode_depth(bytes(flipped), LOG, height=6, width=5, where="x.depth.zst")
        except ShardError as error:
            assert str(error).startswith("x.depth.zst: ")  # noqa: PT017 - either a sentence or equal numbers
        else:
            assert np.array_equal(found, truth)


@pytest.mark.parametrize("more", [b"", b"\0", b"\0\0"])
@pytest.mark.parametrize("bits", [b"\xe0\0", b"\0\1"])
def test_lone_points_of_another_number_than_the_bits_say_are_refused(bits: bytes, more: bytes) -> None:
    spec = replace(LINEAR, packing="sparse")
    data = compress(bits + b"\2\2\2\0\0" + more)  # three rows of five pixels: a bit is left over
    if (bits, more) == (b"\xe0\0", b"\0"):
        assert codec.unpack_codes(data, spec, height=3, width=5)[0].tolist() == [1, 2, 3, 0, 0]
    else:
        with pytest.raises(ShardError, match=r"x: has \d+ bytes for \d known pixels; the shard is damaged"):
            codec.unpack_codes(data, spec, height=3, width=5, where="x")


def test_a_size_that_lies_is_refused_before_unpacking() -> None:
    bomb = codec.pack_codes(np.zeros((2000, 2000), np.uint16), LINEAR)
    with pytest.raises(ShardError, match=r"bomb: holds 8000000 bytes when unpacked, expected 24"):
        codec.unpack_planes(bomb, LINEAR, height=3, width=4, where="bomb")


def test_jpeg_round_trip_and_cut() -> None:
    frame = np.full((16, 24, 3), (200, 100, 50), np.uint8)
    data = codec.encode_rgb(frame, quality=95)
    assert np.abs(codec.decode_rgb(data).astype(int) - frame).max() <= 3
    with pytest.raises(ShardError, match="f000: not a whole JPEG"):
        codec.decode_rgb(data[:-20], where="f000")
    with pytest.raises(ShardError, match="cannot be decoded"):
        codec.decode_rgb(b"\xff\xd8 nothing \xff\xd9")
