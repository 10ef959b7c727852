"""Packing `interpolation` keeps its bound, its masks and its size, and numpy and torch decode the same."""

import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from vdaprep.errors import ShardError
from vdaprep.shards import codec
from vdaprep.shards.codec import interpolation
from vdaprep.shards.codec.interpolation import decompress_interpolated, pack_interpolated, planes_of_interpolated
from vdaprep.shards.codec.zstd import compress, decompress
from vdaprep.shards.depth_codes import SKY_CODE, UNKNOWN_CODE, code_depth
from vdaprep.shards.metadata import MAX_CODE, DepthSpec

STEPS = st.sampled_from([3, 5, 7, 11, 13, 25, 99])
SHAPES = st.one_of(
    st.tuples(st.integers(1, 5), st.integers(1, 5)),
    st.tuples(st.just(1), st.integers(1, 140)),
    st.tuples(st.integers(1, 140), st.just(1)),
    st.tuples(st.integers(30, 68), st.integers(30, 68)),
)
EXTREMES = st.sampled_from([UNKNOWN_CODE, 1, 2, 32767, MAX_CODE - 1, MAX_CODE, SKY_CODE])


def values_of(planes: np.ndarray) -> np.ndarray:
    return planes[0].astype(np.int32) | planes[1].astype(np.int32) << 8


def unpack_interpolated(data: bytes, *, height: int, width: int, where: str = "depth") -> np.ndarray:
    unpacked = decompress_interpolated(data, height=height, width=width, where=where)
    return planes_of_interpolated(unpacked, height=height, width=width)


def check(codes: np.ndarray, steps: int) -> np.ndarray:
    """Encode and decode; return the decoded codes."""
    height, width = codes.shape
    data, promised = pack_interpolated(codes, steps=steps)
    planes = unpack_interpolated(data, height=height, width=width)
    decoded = codec.codes_of_values(values_of(planes), steps=steps)
    assert np.array_equal(decoded, promised)
    for mask in (UNKNOWN_CODE, SKY_CODE):
        assert np.array_equal(decoded == mask, codes == mask)
    assert np.abs(decoded - codes.astype(int)).max() <= steps // 2
    on_device = codec.codes_of_values(torch.from_numpy(values_of(planes))[None, None], steps=steps, xp=torch)
    assert np.array_equal(on_device[0, 0].numpy(), decoded)
    return decoded


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(
    codes=SHAPES.flatmap(lambda shape: arrays(np.uint16, shape, elements=EXTREMES | st.integers(0, SKY_CODE))),
    steps=STEPS,
)
def test_any_codes_decode_within_the_bound(codes: np.ndarray, steps: int) -> None:
    check(codes, steps)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32), shape=SHAPES, steps=STEPS, holes=st.sampled_from([0.0, 0.02, 0.5]), sky=st.booleans()
)
def test_scenes_decode_within_the_bound(seed: int, shape: tuple[int, int], steps: int, holes: float, sky: bool) -> None:
    """Smooth depth with an edge, sky above, holes between: sky beside unknown, borders of every kind."""
    rng = np.random.default_rng(seed)
    rows, columns = np.indices(shape)
    codes = (20_000 + 40 * rows - 25 * columns + 9_000 * (columns > shape[1] // 2)).astype(np.uint16)
    codes[rng.random(shape) < holes] = UNKNOWN_CODE
    if sky:
        codes[: shape[0] // 3] = SKY_CODE
    check(codes, steps)


@pytest.mark.parametrize("code", [UNKNOWN_CODE, SKY_CODE, 1, MAX_CODE])
def test_what_is_one_code_takes_no_space(code: int) -> None:
    codes = np.full((480, 640), code, np.uint16)
    assert np.array_equal(check(codes, 11), codes)
    assert len(pack_interpolated(codes, steps=11)[0]) < 200


def test_metres_keep_the_relative_error() -> None:
    """The bound in codes is the spec's in metres; a smooth scene takes a small part of the bytes of exact codes."""
    spec = DepthSpec("log", 0.0022, near_m=0.1, far_m=1000.0, packing="interpolation", steps=11)
    rows, columns = np.indices((120, 160), np.float32)
    depth_m = (4 + 0.03 * rows + np.sin(columns / 9)).astype(np.float32)
    data, _ = codec.encode_depth(depth_m, spec)
    decoded = codec.decode_depth(data, spec, height=120, width=160)
    assert np.abs(decoded / depth_m - 1).max() <= 0.0022
    exact = DepthSpec("log", 0.0022, near_m=0.1, far_m=1000.0, packing="nibbles")
    assert len(data) < 0.5 * len(codec.encode_depth(depth_m, exact)[0])
    assert code_depth(depth_m, spec)[0].max() > 5 * code_depth(depth_m, exact)[0].max()


@pytest.mark.parametrize("wrong", [100 + 6, 100 - 6, UNKNOWN_CODE, SKY_CODE])
def test_what_decodes_beyond_the_bound_is_not_packed(wrong: int, monkeypatch: pytest.MonkeyPatch) -> None:
    codes = np.full((3, 4), 100, np.uint16)
    decoded = codes.astype(np.int32)
    decoded[1, 2] = wrong
    monkeypatch.setattr(interpolation, "codes_of_values", lambda *_, **__: decoded)
    with pytest.raises(ValueError, match=f"code 100 at row 1, column 2 would decode as {wrong}, expected at most 5"):
        pack_interpolated(codes, steps=11)


@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (5, 1), (31, 33), (64, 65)])
def test_passes_and_the_coarsest_grid_reach_each_pixel_once(shape: tuple[int, int]) -> None:
    seen = np.zeros(shape, int)
    seen[::32, ::32] += 1
    for one in interpolation.passes(*shape):
        assert seen[one.source].all()  # it depends on earlier ones alone
        seen[one.target] += 1
    assert (seen == 1).all()


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(values=SHAPES.flatmap(lambda shape: arrays(np.int32, (2, *shape), elements=st.integers(0, 65535))), steps=STEPS)
def test_values_of_damage_decode_in_numpy_as_in_torch_each_frame_alone(values: np.ndarray, steps: int) -> None:
    decoded = np.stack([codec.codes_of_values(frame, steps=steps) for frame in values])
    on_device = codec.codes_of_values(torch.from_numpy(values), steps=steps, xp=torch)
    assert np.array_equal(on_device.numpy(), decoded)
    assert np.array_equal(decoded == UNKNOWN_CODE, values == 0)
    assert np.array_equal(decoded == SKY_CODE, values == 1)


def test_flags_of_a_later_version_are_refused() -> None:
    good = decompress(pack_interpolated(np.ones((2, 2), np.uint16), steps=5)[0], size=(0, 99), where="x")
    with pytest.raises(ShardError, match="^x: has flags 4, expected at most 3"):
        unpack_interpolated(compress(b"\4" + good[1:]), height=2, width=2, where="x")


def test_a_bomb_takes_no_memory() -> None:
    bomb = compress(bytes(50_000_000))
    tracemalloc.start()
    with pytest.raises(ShardError, match="holds 50000000 bytes when unpacked, expected"):
        unpack_interpolated(bomb, height=20, width=20)
    assert tracemalloc.get_traced_memory()[1] < 100_000
    tracemalloc.stop()


@pytest.mark.slow
def test_damage_is_a_sentence() -> None:
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 65536, (9, 7)).astype(np.uint16)
    good = decompress(pack_interpolated(codes, steps=5)[0], size=(0, 1 << 16), where="x")
    for place in range(len(good)):
        for data in (good[:place], good + good[: place + 1]):
            with pytest.raises(ShardError, match="^x.depth.zst: "):
                unpack_interpolated(compress(data), height=9, width=7, where="x.depth.zst")
        changed = good[:place] + bytes([good[place] ^ 0xFF]) + good[place + 1 :]
        try:
            planes = unpack_interpolated(compress(changed), height=9, width=7, where="x.depth.zst")
        except ShardError as error:
            assert str(error).startswith("x.depth.zst: ")  # noqa: PT017 - either a sentence or other depth
        else:
            codec.codes_of_values(values_of(planes), steps=5)
    with pytest.raises(ShardError, match="holds 8 bytes when unpacked, expected 23 to 236"):
        unpack_interpolated(compress(b"12345678"), height=9, width=7)
