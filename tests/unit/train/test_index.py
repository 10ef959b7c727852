"""The index of a training: the clips that the records have, half a kibibyte each, and places found without a pass."""

import dataclasses
import pickle
from pathlib import Path

import numpy as np
import pytest

from tests.bench.tables.g_scale import kib_a_clip, write_records
from vdaprep.shards.dataset import open_shards
from vdaprep.shards.index import ClipIndex, ShardClips, lengths_of, shards_of
from vdaprep.shards.reader import Clip, read_record
from vdaprep.shards.records import ClipEntry
from vdatrain.data.sampler import EvalSampler, WindowSampler, WindowShape

TAR = Path("shard-0001.tar")
ENTRIES = {
    "one clip of one frame": [[(0, 512, (1024,), 2048)]],
    "clips of several lengths": [[(0, 700, (1024, 4096, 4097), 9000), (9000, 10, (9600,), 11000)]],
    "several shards": [[(0, 1, (512,), 1024)], [(512, 2, (1024, 1536), 2048)], [(0, 3, (512,), 1024)]],
    "an empty shard between": [[(0, 1, (512,), 1024)], [], [(512, 2, (1024, 1536), 2048)]],
    "beyond 4 GiB": [[(2**33, 2**33 + 5, (2**33 + 9, 2**33 + 2**28), 2**33 + 2**28 + 7)]],
    "many frames": [[(0, 100, tuple(range(1000, 2000)), 5000)]],
    "nothing": [],
}


def entry(number: int, offset: int, _: int, frames: tuple[int, ...], end: int) -> ClipEntry:
    crc32 = tuple((number + 3) * 2**29 + frame for frame in range(len(frames) + 1))
    return ClipEntry(f"toy-{'x' * number}-{offset:06d}", offset, end - offset, len(frames), frames, crc32)


@pytest.mark.parametrize("shards", ENTRIES.values(), ids=ENTRIES)
def test_clips_come_out_as_they_went_in(shards: list[list[tuple[int, int, tuple[int, ...], int]]]) -> None:
    expected: list[Clip] = []
    packed: list[ShardClips] = []
    for number, rows in enumerate(shards):
        entries = [entry(nth, *row) for nth, row in enumerate(rows)]
        tar, limit_m = TAR.with_name(f"shard-{number}.tar"), float(number)
        expected += [Clip(f"d{number // 2}", tar, one, limit_m) for one in entries]
        packed.append(ShardClips.of(entries, dataset=f"d{number // 2}", tar=tar, evaluation_max_m=limit_m))
    index = ClipIndex(packed)
    assert index == tuple(expected)
    assert index == pickle.loads(pickle.dumps(index))
    assert (len(index), list(index), index[1:]) == (len(expected), expected, tuple(expected[1:]))
    assert lengths_of(index).tolist() == lengths_of(expected).tolist() == [clip.num_frames for clip in expected]
    assert sum(count for _, count in index.datasets()) == len(expected)
    if expected:
        assert index[-1] == expected[-1]
        assert shards_of(index).tolist() == shards_of(expected).tolist()
        assert [clip.tar for clip in index.first_of_shards()] == list(dict.fromkeys(clip.tar for clip in expected))
        assert index != expected[:-1]
        assert index != [*expected[:-1], dataclasses.replace(expected[-1], dataset="another")]
    with pytest.raises(IndexError):
        index[len(expected)]


def test_the_index_is_what_the_records_say(toy_shards: Path) -> None:
    shards = open_shards(toy_shards)
    entries = [entry for tar in shards.tars for entry in read_record(tar).clips]
    assert [clip.entry for clip in shards.clips()] == entries
    assert shards.clips(split="train").datasets() == [("alpha", 5), ("beta", 2)]


@pytest.mark.slow
def test_a_clip_takes_less_than_a_kibibyte(tmp_path: Path) -> None:
    assert kib_a_clip(write_records(tmp_path / "shards", clips=320)) < 1


def test_a_place_is_found_without_looking_at_every_clip() -> None:
    """An epoch is shuffled once; what is looked up after that takes neither a hash nor a sum over the clips."""
    looked_at = 0

    class Watched(np.ndarray):
        def __array_finalize__(self, _: object) -> None:
            nonlocal looked_at
            looked_at += 1

    lengths = np.full(1000, 16).view(Watched)
    for order in (WindowSampler(lengths, WindowShape(4)), EvalSampler(lengths, WindowShape(4))):
        assert type(order).__hash__ is object.__hash__
        first = order[0]
        looked_at = 0
        found = [order[position] for position in range(500)]
        assert looked_at == 0
        assert found[0] == first
