"""The same batches for any number of workers and ranks, and what a window holds."""

import itertools
import threading
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
import torch
import webdataset

from vdaprep.shards import codec, reader
from vdaprep.shards.dataset import open_shards
from vdaprep.shards.metadata import ClipMeta
from vdatrain.config import parse_mix
from vdatrain.data import samples
from vdatrain.data.sampler import (
    MAX_STRIDE,
    DistributedPositions,
    EvalSampler,
    Window,
    WindowSampler,
    WindowShape,
    dataset_weights,
)
from vdatrain.data.samples import read_window
from vdatrain.data.stream import stream_batches


@pytest.fixture(scope="module")
def clips(toy_shards):
    return open_shards(toy_shards).clips(split="train")


@pytest.fixture(scope="module")
def order(clips):
    return WindowSampler(tuple(clip.num_frames for clip in clips), WindowShape(4), seed=3)


def _take(clips, order, *, positions, workers=0, count=6):
    with closing(stream_batches(clips, order, positions=positions, workers=workers)) as batches:
        return [
            [(sample.key, sample.window, int(sample.rgb.sum())) for sample in batch]
            for batch in itertools.islice(batches, count)
        ]


@pytest.fixture(scope="module")
def whole(clips, order):
    """Global batches of four, read in one process: 24 positions, two epochs and a part."""
    return _take(clips, order, positions=DistributedPositions(4))


# ---------------------------------------------------------------------------------------------------------- the order


def test_positions_run_on_over_epochs(whole, order):
    windows = [window for batch in whole for _, window, _ in batch]
    assert windows == [order[position] for position in range(24)]
    assert order.windows_per_epoch < 24


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_ranks_and_workers_do_not_change_the_global_batches(clips, order, whole, ranks, workers):
    shares = [DistributedPositions(4 // ranks, rank, world=ranks) for rank in range(ranks)]
    parts = [_take(clips, order, positions=positions, workers=workers) for positions in shares]
    assert [_interleave(batches) for batches in zip(*parts, strict=True)] == whole


def _interleave(batches):
    return [item for items in zip(*batches, strict=True) for item in items]


@pytest.mark.slow
def test_nor_do_they_with_a_mix_and_images_beside(clips, order):
    mixed = replace(order, weights=dataset_weights(clips, parse_mix("alpha=0.5,beta=3"), order.shape))
    images = mixed.of_images()

    def steps(ranks, workers, start=0, count=5):
        shares = [DistributedPositions(4 // ranks, rank, world=ranks, start=start) for rank in range(ranks)]
        found = [
            (
                _take(clips, mixed, positions=positions, workers=workers, count=count),
                _take(clips, images, positions=positions.of_images(2), workers=workers, count=count),
            )
            for positions in shares
        ]
        return [
            (_interleave(windows[n] for windows, _ in found), _interleave(stills[n] for _, stills in found))
            for n in range(count)
        ]

    whole = steps(1, 0)
    assert {(len(windows), len(stills)) for windows, stills in whole} == {(4, 8)}
    assert [window.position for _, stills in whole for _, window, _ in stills] == list(range(40))
    assert {window.shape.num_frames for _, stills in whole for _, window, _ in stills} == {1}
    for ranks, workers in [(1, 3), (2, 0), (2, 1), (4, 3)]:
        assert steps(ranks, workers) == whole
    assert steps(2, 1, start=8, count=3) == whole[2:]


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 3])
def test_every_rank_gets_whole_batches_for_ever_however_little_there_is(tmp_path, write_dataset, ranks):
    write_dataset(tmp_path / "a", lengths=(5, 2))
    write_dataset(tmp_path / "b", lengths=(9,))
    clips = open_shards(tmp_path).clips(split="train")
    order = WindowSampler((5, 2, 9), WindowShape(4))
    for rank in range(ranks):
        batches = _take(clips, order, positions=DistributedPositions(2, rank, world=ranks), workers=2, count=9)
        assert [len(batch) for batch in batches] == [2] * 9


@pytest.mark.parametrize(("start", "workers"), [(4, 2), (7, 0), (7, 1), (20, 3)])
def test_resuming_continues_the_sequence(clips, order, whole, start, workers):
    flat = [item for batch in whole for item in batch]
    resumed = _take(clips, order, positions=DistributedPositions(2, start=start), workers=workers, count=2)
    assert [item for batch in resumed for item in batch] == flat[start : start + 4]


@pytest.mark.parametrize("workers", [0, 3])
def test_evaluation_ends_after_the_last_window(clips, workers):
    order = EvalSampler(tuple(clip.num_frames for clip in clips), WindowShape(5))
    batches = _take(clips, order, positions=DistributedPositions(4), workers=workers, count=99)
    windows = [window for batch in batches for _, window, _ in batch]
    assert windows == [order[position] for position in range(len(order))]
    assert [len(batch) for batch in batches[:-1]] == [4] * (len(batches) - 1)


def test_the_global_generator_is_left_alone_and_threads_end(clips, order):
    before, others = torch.get_rng_state(), set(threading.enumerate())
    _take(clips, order, positions=DistributedPositions(1), workers=2, count=2)
    assert torch.equal(torch.get_rng_state(), before)
    assert set(threading.enumerate()) <= others


# ---------------------------------------------------------------------------------------------------------- a window


def test_a_window_holds_what_the_codec_decodes(clips, toy_frame):
    clip = clips[2]
    sample = read_window(clip, Window(5, 2, 6, WindowShape(4)))
    members = _members_of(clip)
    meta = clip.meta
    assert sample.size == (60, 80)
    for row, frame in enumerate(range(6, 10)):
        rgb = codec.decode_rgb(members[frame, "rgb.jpg"])
        np.testing.assert_array_equal(sample.rgb[row], rgb)
        assert np.abs(rgb.astype(int) - toy_frame(2, frame, (60, 80))[0]).mean() < 3
        unpacked = codec.decompress_depth(members[frame, "depth.zst"], meta.depth, height=60, width=80)
        np.testing.assert_array_equal(sample.depth_bytes[row], unpacked)
        diff = codec.decode_diff(members[frame, "diff.zst"], meta.diff, height=60, width=80)
        np.testing.assert_array_equal(sample.differences[row], diff)
    assert sample.differences.dtype == torch.int8
    assert sample.diff_valid.all()
    np.testing.assert_array_equal(sample.intrinsics, np.array(meta.intrinsics)[6:10])
    np.testing.assert_array_equal(sample.camera_to_world, np.array(meta.camera_to_world)[6:10])
    assert (sample.disparity_min, sample.disparity_max) == (meta.disparity_min, meta.disparity_max)
    assert (sample.dataset, sample.key, sample.depth) == ("alpha", clip.entry.key, meta.depth)


def _members_of(clip):
    return {(frame.index, kind): data for frame in clip.frames() for kind, data in frame.members.items()}


def test_the_first_difference_is_the_shards(clips):
    assert not read_window(clips[0], Window(0, 0, 0, WindowShape(3))).diff_valid[0]
    assert read_window(clips[0], Window(0, 0, 1, WindowShape(3))).diff_valid.all()
    assert read_window(clips[2], Window(0, 2, 0, WindowShape(3))).diff_valid.all()


def test_a_stride_skips_frames_and_adds_up_differences(clips):
    dense = read_window(clips[4], Window(0, 4, 1, WindowShape(13)))
    sparse = read_window(clips[4], Window(0, 4, 1, WindowShape(4, stride=4)))
    np.testing.assert_array_equal(sparse.rgb, dense.rgb[::4])
    np.testing.assert_array_equal(sparse.depth_bytes, dense.depth_bytes[::4])
    np.testing.assert_array_equal(sparse.intrinsics, dense.intrinsics[::4])
    assert sparse.differences.dtype == torch.int16
    sums = dense.differences.to(torch.int16)[1:].reshape(3, 4, *dense.differences.shape[1:]).sum(1)
    np.testing.assert_array_equal(sparse.differences[1:], sums)
    assert not sparse.differences[0].any()
    assert sparse.diff_valid.tolist() == [False, True, True, True]


def test_sums_of_differences_are_not_clipped(clips, monkeypatch):
    monkeypatch.setattr(codec, "decode_diff", lambda *_, **__: np.full((3, 15, 20), -127, np.int8))
    sample = read_window(clips[4], Window(0, 4, 0, WindowShape(2, stride=16)))
    assert (sample.differences[1] == 16 * -127).all()
    assert torch.iinfo(sample.differences.dtype).max >= MAX_STRIDE * 127


def test_a_stride_over_an_invalid_difference_is_invalid(tmp_path, write_dataset, monkeypatch):
    write_dataset(tmp_path / "a", lengths=(9,))
    (clip,) = open_shards(tmp_path).clips(split="train")
    meta = clip.meta
    holed = ClipMeta(**{**vars(meta), "diff_valid": tuple(frame != 3 for frame in range(9))})
    monkeypatch.setattr(reader, "read_meta", lambda _: holed)
    sample = read_window(clip, Window(0, 0, 0, WindowShape(5, stride=2)))
    assert sample.diff_valid.tolist() == [False, True, False, True, True]
    assert not sample.differences[2].any()


def test_without_differences_and_poses(clips):
    sample = read_window(clips[5], Window(0, 5, 0, WindowShape(3)))
    assert sample.differences is None
    assert sample.diff is None
    assert sample.camera_to_world is None
    assert not sample.diff_valid.any()


def test_a_single_frame_has_the_difference_to_the_frame_before(clips):
    sample = read_window(clips[1], Window(0, 1, 2, WindowShape(1)))
    pair = read_window(clips[1], Window(0, 1, 1, WindowShape(2)))
    assert sample.rgb.shape == (1, 60, 80, 3)
    assert sample.diff_valid.tolist() == [True]
    assert torch.equal(sample.differences[0], pair.differences[1])
    assert not read_window(clips[1], Window(0, 1, 2, WindowShape(1, stride=2))).diff_valid.any()


def test_large_arrays_are_unpacked_into_page_locked_memory_if_asked(clips, monkeypatch):
    """Such memory needs a GPU, so here torch is only asked for it."""
    pinned = []

    def empty(shape, *, dtype, pin_memory):
        pinned.append((shape, dtype, pin_memory))
        return torch.zeros(shape, dtype=dtype)

    plain = read_window(clips[0], Window(0, 0, 1, WindowShape(3)))
    monkeypatch.setattr(samples.torch, "empty", empty)
    sample = read_window(clips[0], Window(0, 0, 1, WindowShape(3)), pin=True)
    assert pinned == [
        ((3, 60, 80, 3), torch.uint8, True),
        ((3, 2 * 60 * 80), torch.uint8, True),
        ((3, 3, 15, 20), torch.int8, True),
    ]
    for name in ("rgb", "depth_bytes", "differences"):
        assert torch.equal(getattr(sample, name), getattr(plain, name))


def test_a_batch_may_mix_sizes(whole):
    datasets = [{key.split("-")[0] for key, _, _ in batch} for batch in whole]
    assert {"alpha", "beta"} in datasets


# ------------------------------------------------------------------------------------------------------ plain readers


# webdataset leaves closing a shard to the garbage collector.
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
def test_a_plain_webdataset_reads_the_same_tars(toy_shards, clips):
    tars = [str(tar) for tar in sorted(toy_shards.glob("*/train/*.tar"))]
    samples = list(webdataset.WebDataset(tars, shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == [clip.entry.key for clip in clips]
    for clip, sample in zip(clips, samples, strict=True):
        meta = ClipMeta.from_bytes(sample["json"], where=clip.entry.key)
        assert meta.num_frames == clip.num_frames
        rgb = codec.decode_rgb(sample["f002.rgb.jpg"])
        depth_m = codec.decode_depth(sample["f002.depth.zst"], meta.depth, height=meta.height, width=meta.width)
        assert rgb.shape == (*depth_m.shape, 3)
