"""The same batches for any number of workers and ranks, and damage as a sentence."""

import itertools
import multiprocessing
import os
import shutil
import signal
from contextlib import closing

import numpy as np
import pytest
import torch
import webdataset

from vdaprep import codec
from vdaprep.schema import ClipMeta, ShardError, VdakitError, member_kind
from vdaprep.shards import read_members
from vdatrain import stream
from vdatrain.index import read_index
from vdatrain.stream import read_window, stream_batches
from vdatrain.windows import MAX_STRIDE, EvaluationOrder, Share, TrainingOrder, Window, WindowShape

# torch counts the processors it may use and advises against more workers than those.
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")


@pytest.fixture(scope="module")
def clips(toy_shards):
    return read_index(toy_shards, split="train")


@pytest.fixture(scope="module")
def order(clips):
    return TrainingOrder(tuple(clip.num_frames for clip in clips), WindowShape(4), seed=3)


def _take(clips, order, *, share, workers=0, count=6):
    with closing(stream_batches(clips, order, share=share, workers=workers)) as batches:
        return [
            [(sample.key, sample.window, int(sample.rgb.sum())) for sample in batch]
            for batch in itertools.islice(batches, count)
        ]


@pytest.fixture(scope="module")
def whole(clips, order):
    """Global batches of four, read in one process: 24 positions, two epochs and a part."""
    return _take(clips, order, share=Share(4))


# ---------------------------------------------------------------------------------------------------------- the order


def test_positions_run_on_over_epochs(whole, order):
    windows = [window for batch in whole for _, window, _ in batch]
    assert windows == [order.at(position) for position in range(24)]
    assert order.windows_per_epoch < 24


@pytest.mark.parametrize("workers", [1, 3])
def test_the_order_does_not_depend_on_the_number_of_workers(clips, order, whole, workers):
    assert _take(clips, order, share=Share(4), workers=workers) == whole


@pytest.mark.parametrize("workers", [0, 3])
def test_two_ranks_interleave_to_the_global_batch(clips, order, whole, workers):
    ranks = [_take(clips, order, share=Share(2, rank, world=2), workers=workers) for rank in range(2)]
    assert [[a, b, c, d] for (a, c), (b, d) in zip(*ranks, strict=True)] == whole


@pytest.mark.parametrize(("start", "workers"), [(4, 2), (7, 0), (7, 1), (20, 0)])
def test_resuming_continues_the_sequence(clips, order, whole, start, workers):
    flat = [item for batch in whole for item in batch]
    resumed = _take(clips, order, share=Share(2, start=start), workers=workers, count=2)
    assert [item for batch in resumed for item in batch] == flat[start : start + 4]


@pytest.mark.parametrize("workers", [0, 3])
def test_evaluation_ends_after_the_last_window(clips, workers):
    order = EvaluationOrder(tuple(clip.num_frames for clip in clips), WindowShape(5))
    batches = _take(clips, order, share=Share(4), workers=workers, count=99)
    windows = [window for batch in batches for _, window, _ in batch]
    assert windows == [order.at(position) for position in range(order.total)]
    assert [len(batch) for batch in batches[:-1]] == [4] * (len(batches) - 1)


def test_the_global_generator_is_left_alone_and_workers_end(clips, order):
    before = torch.get_rng_state()
    _take(clips, order, share=Share(1), workers=2, count=2)
    assert torch.equal(torch.get_rng_state(), before)
    assert not multiprocessing.active_children()


# ---------------------------------------------------------------------------------------------------------- a window


def test_a_window_holds_what_the_codec_decodes(clips, toy_frame):
    clip = clips[2]
    sample = read_window(clip, Window(5, 2, 6, WindowShape(4)))
    members = _members_of(clip)
    meta = ClipMeta.from_bytes(members[None, "json"], where="")
    assert sample.size == (60, 80)
    for row, frame in enumerate(range(6, 10)):
        rgb = codec.decode_rgb(members[frame, "rgb.jpg"])
        np.testing.assert_array_equal(sample.rgb[row], rgb)
        assert np.abs(rgb.astype(int) - toy_frame(2, frame, (60, 80))[0]).mean() < 3
        planes = codec.unpack_planes(members[frame, "depth.zst"], height=60, width=80)
        np.testing.assert_array_equal(sample.depth_planes[row], planes)
        diff = codec.decode_diff(members[frame, "diff.zst"], meta.diff, height=60, width=80)
        np.testing.assert_array_equal(sample.differences[row], diff)
    assert sample.differences.dtype == torch.int8
    assert sample.diff_valid.all()
    np.testing.assert_array_equal(sample.intrinsics, np.array(meta.intrinsics)[6:10])
    np.testing.assert_array_equal(sample.camera_to_world, np.array(meta.camera_to_world)[6:10])
    assert (sample.disparity_min, sample.disparity_max) == (meta.disparity_min, meta.disparity_max)
    assert (sample.dataset, sample.key, sample.depth) == ("alpha", clip.entry.key, meta.depth)


def _members_of(clip):
    start, stop = clip.entry.offset, clip.entry.offset + clip.entry.bytes
    members = list(read_members(clip.tar, start=start, stop=stop))
    return {member_kind(member.name)[1:]: member.data for member in members}


def test_the_first_difference_is_the_shards(clips):
    assert not read_window(clips[0], Window(0, 0, 0, WindowShape(3))).diff_valid[0]
    assert read_window(clips[0], Window(0, 0, 1, WindowShape(3))).diff_valid.all()
    assert read_window(clips[2], Window(0, 2, 0, WindowShape(3))).diff_valid.all()


def test_a_stride_skips_frames_and_adds_up_differences(clips):
    dense = read_window(clips[4], Window(0, 4, 1, WindowShape(13)))
    sparse = read_window(clips[4], Window(0, 4, 1, WindowShape(4, stride=4)))
    np.testing.assert_array_equal(sparse.rgb, dense.rgb[::4])
    np.testing.assert_array_equal(sparse.depth_planes, dense.depth_planes[::4])
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
    (clip,) = read_index(tmp_path, split="train")
    meta = stream.read_meta(clip)
    holed = ClipMeta(**{**vars(meta), "diff_valid": tuple(frame != 3 for frame in range(9))})
    monkeypatch.setattr(stream, "read_meta", lambda _: holed)
    sample = read_window(clip, Window(0, 0, 0, WindowShape(5, stride=2)))
    assert sample.diff_valid.tolist() == [False, True, False, True, True]
    assert not sample.differences[2].any()


def test_without_differences_and_poses(clips):
    sample = read_window(clips[5], Window(0, 5, 0, WindowShape(3)))
    assert sample.differences is None
    assert sample.diff is None
    assert sample.camera_to_world is None
    assert not sample.diff_valid.any()


def test_a_single_frame(clips):
    sample = read_window(clips[1], Window(0, 1, 2, WindowShape(1)))
    assert sample.rgb.shape == (1, 60, 80, 3)


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


# -------------------------------------------------------------------------------------------------------------- damage


@pytest.fixture
def copied(tmp_path, toy_shards):
    shutil.copytree(toy_shards, tmp_path / "shards")
    return read_index(tmp_path / "shards", split="train")


def _flip_byte(path, offset):
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("where", ["frame", "metadata"])
def test_a_flipped_byte_is_named_when_its_batch_comes(copied, order, where, workers):
    window = order.at(2)
    clip = copied[window.clip]
    start, stop = clip.entry.frame_range(window.first + 1, 1) if where == "frame" else clip.entry.meta_range()
    _flip_byte(clip.tar, (start + stop) // 2)
    bad = [i for i in range(3) if order.at(i).clip == window.clip] if where == "metadata" else [2]
    with closing(stream_batches(copied, order, share=Share(1), workers=workers)) as batches:
        for _ in range(bad[0]):
            next(batches)
        with pytest.raises(ShardError, match="differs from its checksum") as caught:
            next(batches)
    text = str(caught.value)
    assert str(clip.tar) in text
    assert clip.entry.key in text
    assert "\n" not in text
    assert type(caught.value) is ShardError


@pytest.mark.parametrize("workers", [0, 1])
def test_a_tar_that_is_gone_or_shrinks_while_training(copied, order, workers):
    clip = copied[order.at(0).clip]
    data = clip.tar.read_bytes()
    clip.tar.unlink()
    with pytest.raises(ShardError, match=r"cannot be read for clip .* \(No such file or directory\)\.$"):
        _take(copied, order, share=Share(1), workers=workers)
    clip.tar.write_bytes(data[: clip.entry.frame_range(order.at(0).first, 4)[1] - 100])
    with pytest.raises(ShardError, match=f"{clip.tar}: ends inside clip {clip.entry.key}"):
        _take(copied, order, share=Share(1), workers=workers)


def test_members_that_break_the_contract_are_named(copied, monkeypatch):
    clip, window = copied[0], Window(0, 0, 0, WindowShape(2))
    whole = stream._members

    def without(kind):
        def members(clip, data):
            found = whole(clip, data)
            return stream._Members(
                found.key, found.where, {name: data for name, data in found.contents.items() if kind not in name}
            )

        return members

    for kind in ("f001.rgb.jpg", "f001.depth.zst", "f001.diff.zst"):
        monkeypatch.setattr(stream, "_members", without(kind))
        with pytest.raises(ShardError, match=f"has no member {clip.entry.key}.{kind}; convert it again"):
            read_window(clip, window)
    monkeypatch.setattr(stream, "_members", whole)
    monkeypatch.setattr(codec, "decode_rgb", lambda data, where: np.zeros((60, 82, 3), np.uint8))
    with pytest.raises(ShardError, match=r"frame 0 is 82x60 pixels, its metadata says 80x60"):
        read_window(clip, window)


def test_a_killed_worker_is_one_sentence(clips, order):
    with closing(stream_batches(clips, order, share=Share(1), workers=1)) as batches:
        next(batches)
        (worker,) = multiprocessing.active_children()
        os.kill(worker.pid, signal.SIGKILL)
        with pytest.raises(VdakitError, match="a process that reads shards was killed") as caught:
            for _ in range(20):
                next(batches)
    assert "\n" not in str(caught.value)
