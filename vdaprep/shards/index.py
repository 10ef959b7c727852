"""A collection's index: clips as a sequence over arrays, each made when asked for.

Of a clip the arrays keep the key, the offset, and 8 bytes a frame: its length in the tar and its checksum. That is half
a kibibyte for 64 frames, where a ClipEntry takes five.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast, overload

import numpy as np
from jaxtyping import Int64, UInt32

from vdaprep.shards.reader import Clip
from vdaprep.shards.records import ClipEntry
from vdaprep.storage.cache import CachedTar
from vdaprep.storage.paths import StoragePath


@dataclass(frozen=True, eq=False)
class ShardClips:
    """The clips of one shard."""

    dataset: str
    """Name of the data set."""
    tar: StoragePath | CachedTar
    """Where the shard is read."""
    evaluation_max_m: float
    """Depth up to which predictions are evaluated, in metres."""
    keys: bytes
    """Names of the clips, one after the other, ASCII."""
    key_lengths: UInt32[np.ndarray, " clips"]
    """Their lengths."""
    offsets: Int64[np.ndarray, " clips"]
    """First byte of each clip in the tar."""
    lengths: Int64[np.ndarray, " clips"]
    """Frames of each clip."""
    sizes: UInt32[np.ndarray, " parts"]
    """Bytes of each clip's metadata and then of each of its frames."""
    crc32: UInt32[np.ndarray, " parts"]
    """Checksums of the same."""

    @classmethod
    def of(
        cls, entries: Sequence[ClipEntry], *, dataset: str, tar: StoragePath | CachedTar, evaluation_max_m: float
    ) -> "ShardClips":
        """Pack the entries of a record."""
        bounds = [(e.offset, *e.frame_offsets, e.offset + e.bytes) for e in entries]
        return cls(
            dataset=dataset,
            tar=tar,
            evaluation_max_m=evaluation_max_m,
            keys="".join(entry.key for entry in entries).encode("ascii"),
            key_lengths=np.array([len(entry.key) for entry in entries], np.uint32),
            offsets=np.array([entry.offset for entry in entries], np.int64),
            lengths=np.array([entry.frames for entry in entries], np.int64),
            sizes=_joined([np.array([b - a for a, b in itertools.pairwise(line)], np.uint32) for line in bounds]),
            crc32=_joined([np.array(entry.crc32, np.uint32) for entry in entries]),
        )


def _joined(parts: Sequence[np.ndarray]) -> UInt32[np.ndarray, " parts"]:
    return np.concatenate([np.empty(0, np.uint32), *parts])


class ClipIndex(Sequence[Clip]):
    """The clips of some shards, in order; equal to any sequence of equal clips.

    Args:
        shards: The clips of each.
    """

    def __init__(self, shards: Sequence[ShardClips]) -> None:
        shards = [shard for shard in shards if len(shard.lengths)]
        self._places = [(shard.dataset, shard.tar, shard.evaluation_max_m) for shard in shards]
        counts = np.array([len(shard.lengths) for shard in shards], np.int64)
        self.shard_ends: Int64[np.ndarray, " shards"] = np.cumsum(counts)
        """Number of the first clip after each shard; shards without clips are left out."""
        self.lengths: Int64[np.ndarray, " clips"] = np.concatenate(
            [np.empty(0, np.int64), *(shard.lengths for shard in shards)]
        )
        """Frames of each clip."""
        self._offsets = np.concatenate([np.empty(0, np.int64), *(shard.offsets for shard in shards)])
        self._keys = b"".join(shard.keys for shard in shards)
        self._key_ends = np.cumsum(_joined([shard.key_lengths for shard in shards]), dtype=np.int64)
        self._part_ends = np.cumsum(self.lengths + 1)
        self._sizes = _joined([shard.sizes for shard in shards])
        self._crc32 = _joined([shard.crc32 for shard in shards])

    def __len__(self) -> int:
        return len(self.lengths)

    @overload
    def __getitem__(self, index: int) -> Clip: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Clip, ...]: ...
    def __getitem__(self, index: int | slice) -> Clip | tuple[Clip, ...]:
        """Return a clip, or several as a tuple; IndexError beyond the last."""
        if isinstance(index, slice):
            return tuple(self._clip(number) for number in range(len(self))[index])
        return self._clip(range(len(self))[index])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and tuple(self) == tuple(cast(Sequence[object], other))

    __hash__ = None  # pyright: ignore[reportAssignmentType] - as a list has none

    def __repr__(self) -> str:
        return f"<ClipIndex: {len(self)} clips of {len(self._places)} shards>"

    def datasets(self) -> list[tuple[str, int]]:
        """Return data set and number of clips of each stretch of shards of one data set."""
        counts = np.diff(self.shard_ends, prepend=0).tolist()
        pairs = zip((dataset for dataset, _, _ in self._places), counts, strict=True)
        grouped = itertools.groupby(pairs, key=lambda pair: pair[0])
        return [(dataset, sum(count for _, count in group)) for dataset, group in grouped]

    def first_of_shards(self) -> tuple[Clip, ...]:
        """Return the first clip of each shard."""
        return tuple(self._clip(start) for start in (0, *self.shard_ends[:-1].tolist()) if len(self))

    def _clip(self, number: int) -> Clip:
        dataset, tar, limit_m = self._places[int(np.searchsorted(self.shard_ends, number, side="right"))]
        frames = int(self.lengths[number])
        stop, key_stop = int(self._part_ends[number]), int(self._key_ends[number])
        parts = slice(stop - frames - 1, stop)
        key_start = int(self._key_ends[number - 1]) if number else 0
        offset = int(self._offsets[number])
        ends = (offset + np.cumsum(self._sizes[parts], dtype=np.int64)).tolist()
        entry = ClipEntry(
            key=self._keys[key_start:key_stop].decode("ascii"),
            offset=offset,
            bytes=ends[-1] - offset,
            frames=frames,
            frame_offsets=tuple(ends[:-1]),
            crc32=tuple(self._crc32[parts].tolist()),
        )
        return Clip(dataset, tar, entry, limit_m)


def lengths_of(clips: Sequence[Clip]) -> Int64[np.ndarray, " clips"]:
    """Return the number of frames of each clip."""
    return clips.lengths if isinstance(clips, ClipIndex) else np.array([clip.num_frames for clip in clips], np.int64)


def shards_of(clips: Sequence[Clip]) -> Int64[np.ndarray, " clips"]:
    """Return the number of each clip's shard, from 0, counted as they come."""
    if isinstance(clips, ClipIndex):
        return np.searchsorted(clips.shard_ends, np.arange(len(clips)), side="right")
    return np.cumsum([0, *(one.tar != other.tar for one, other in itertools.pairwise(clips))])
