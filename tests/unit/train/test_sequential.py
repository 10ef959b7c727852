"""The sequential order: whole shards, the windows of the full shuffle, and a state that goes on exactly."""

import functools
import itertools
import threading
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest
import torch
import webdataset

from vdaprep.errors import ShardError, UsageError
from vdaprep.shards.dataset import open_shards
from vdaprep.shards.reader import Clip
from vdaprep.shards.records import ClipEntry
from vdatrain.data import sequential
from vdatrain.data.loader import train_loader
from vdatrain.data.sampler import DistributedPositions, WindowSampler, WindowShape
from vdatrain.data.sequential import sequential_windows, stream_sequential
from vdatrain.data.stream import FaultPolicy, stream_batches


@pytest.fixture(scope="module")
def clips(toy_shards):
    return open_shards(toy_shards).clips(split="train")


@pytest.fixture(scope="module")
def sampler(clips):
    return WindowSampler(tuple(clip.num_frames for clip in clips), WindowShape(4), seed=3)


def read(clips, sampler, *, count, positions=DistributedPositions(1), buffer=4, **options):  # noqa: B008 - it is frozen
    with closing(stream_sequential(clips, sampler, positions=positions, buffer=buffer, **options)) as batches:
        return list(itertools.chain.from_iterable(itertools.islice(batches, count)))


def windows_of(samples):
    return [sample.window for sample in samples]


def test_an_epoch_has_the_windows_of_the_full_shuffle_to_the_last_bit(clips, sampler):
    count = sampler.windows_per_epoch
    found = {sample.window.position: sample for sample in read(clips, sampler, count=2 * count + 4)}
    assert set(found) >= set(range(2 * count))  # the buffer looks four windows ahead
    assert list(found) != sorted(found)
    with closing(stream_batches(clips, sampler, positions=DistributedPositions(1))) as shuffled:
        for [sample] in itertools.islice(shuffled, count):
            other = found[sample.window.position]
            assert (sample.window, sample.key) == (other.window, other.key)
            assert torch.equal(sample.depth_bytes, other.depth_bytes)
            assert torch.equal(sample.rgb, other.rgb)


@pytest.mark.parametrize("workers", [0, 3])
def test_it_goes_on_from_any_position_for_any_number_of_workers(clips, sampler, workers):
    whole = windows_of(read(clips, sampler, count=20))
    for start in (0, 3, 13):
        positions = DistributedPositions(1, start=start)
        assert (
            windows_of(read(clips, sampler, count=6, positions=positions, workers=workers)) == whole[start : start + 6]
        )


def test_it_goes_on_without_reading_what_was_shown(clips, sampler, monkeypatch):
    """Shards whose windows have left the buffer are not read again."""
    asked: list[str] = []
    real = sequential._ShardReader._read
    monkeypatch.setattr(
        sequential._ShardReader,
        "_read",
        lambda self, clip, end: asked.append(clip.entry.key) or real(self, clip, end=end),
    )
    done = 3 * sampler.windows_per_epoch
    read(clips, sampler, count=1, positions=DistributedPositions(1, start=done), workers=0)
    assert 0 < len(asked) <= 8


def test_ranks_and_workers_divide_the_shards(clips, sampler):
    tars = [clip.tar for clip in clips]
    both = [windows_of(read(clips, sampler, count=8, positions=DistributedPositions(1, rank, 2))) for rank in range(2)]
    shown = Counter(window.position for windows in both for window in windows)
    assert set(shown.values()) == {1}
    first = [{tars[window.clip] for window in windows[:2]} for windows in both]
    assert not first[0] & first[1]


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_webloader_reads_the_pipeline(clips, sampler):
    pipeline = sequential_windows(clips, sampler, positions=DistributedPositions(1), buffer=4)
    loader = webdataset.WebLoader(pipeline, batch_size=None, num_workers=2)
    shown = [item.window.position for item in itertools.islice(loader, 10)]
    assert len(set(shown)) == 10


@pytest.mark.parametrize(("buffer", "most"), [(4, 1.0), (64, 0.2)])
def test_a_larger_buffer_mixes_more(buffer, most):
    """Fraction of batches of four with two windows of one clip: 0.1 % in the full shuffle; see the module's table."""
    entry = ClipEntry("c", 0, 100_000, 64, tuple(range(512, 512 * 65, 512)), crc32=(0,) * 65)
    clips = [Clip("d", Path(f"shard-{number // 16:04d}.tar"), entry) for number in range(16 * 30)]
    sampler = WindowSampler((64,) * len(clips), WindowShape(32))
    read = functools.partial(sequential._unread, clips=clips)
    items = webdataset.DataPipeline(*sequential._stages(clips, sampler, DistributedPositions(1), buffer, read))
    windows = [item.window.clip for item in itertools.islice(items, 800)]
    twice = [len(set(windows[start : start + 4])) < 4 for start in range(0, 800, 4)]
    assert most / 10 < sum(twice) / len(twice) <= most


def test_threads_end_with_the_stream(clips, sampler):
    before = set(threading.enumerate())
    read(clips, sampler, count=2, workers=2)
    assert set(threading.enumerate()) <= before


def test_a_bad_window_is_named_or_left_out(tmp_path, write_dataset):
    write_dataset(tmp_path / "a", lengths=(8, 8))
    clips = open_shards(tmp_path).clips(split="train")
    sampler = WindowSampler((8, 8), WindowShape(4))
    clip = clips[1]
    data = bytearray(clip.tar.read_bytes())
    data[sum(clip.entry.frame_range(1, 1)) // 2] ^= 1
    clip.tar.write_bytes(data)
    with pytest.raises(ShardError, match="differs from its checksum") as caught:
        read(clips, sampler, count=4, buffer=1)
    assert clip.entry.key in str(caught.value)
    said: list[str] = []
    samples = read(clips, sampler, count=6, buffer=1, faults=FaultPolicy(9, on_skip=said.append))
    assert len(samples) == 6
    assert said
    clip.tar.unlink()
    with pytest.raises(ShardError, match=r"cannot be read for clip .* \(No such file"):
        read(clips, sampler, count=4, buffer=1)


def test_a_buffer_that_cannot_be_is_a_sentence(toy_shards):
    with pytest.raises(UsageError, match="--shuffle-buffer 0: expected at least 1"):
        train_loader(toy_shards, frames=2, size=28, order="sequential", shuffle_buffer=0)
