"""Where a clip lies in its tar, with checksums by which a part of it can be told to be whole."""

import dataclasses
import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vdaprep.errors import ShardError
from vdaprep.shards.canonical import SCHEMA_VERSION, build, contract, crc32, parse_sealed_json, sealed_json

_Data = bytes | memoryview  # named here: ClipEntry has a field `bytes`
_DAMAGED = "the shard is damaged: convert it again."


@dataclass(frozen=True)
class ClipEntry:
    """Where a clip lies in its tar: `bytes` bytes from `offset`; frame f's members start at `frame_offsets[f]`.

    `crc32` holds the CRC-32 of the metadata's bytes and then of each frame's, headers and padding included, so that
    whoever reads a window can tell that it is whole without reading the shard.
    """

    key: str
    offset: int
    bytes: int
    frames: int
    frame_offsets: tuple[int, ...]
    crc32: tuple[int, ...]

    def __post_init__(self) -> None:
        bounds = (self.offset, *self.frame_offsets, self.offset + self.bytes)
        if len(self.frame_offsets) != self.frames or any(a >= b for a, b in zip(bounds, bounds[1:], strict=False)):
            raise ShardError(f"clip {self.key}: the record's offsets do not ascend through {self.frames} frames.")
        if len(self.crc32) != self.frames + 1:
            raise ShardError(f"clip {self.key}: the record has {len(self.crc32)} checksums for {self.frames} frames.")

    def frame_range(self, first: int, count: int) -> tuple[int, int]:
        """Return the bytes [start, stop) of the tar that hold frames `first` to `first + count - 1`."""
        if first < 0 or count < 1 or first + count > self.frames:
            raise ShardError(f"clip {self.key}: frames {first} to {first + count - 1} asked for, it has {self.frames}.")
        last = first + count
        return self.frame_offsets[first], self.frame_offsets[last] if last < self.frames else self.offset + self.bytes

    def meta_range(self) -> tuple[int, int]:
        """Return the bytes [start, stop) of the tar that hold the clip's `.json` member."""
        return self.offset, self.frame_offsets[0]

    def is_whole(self, data: _Data, *, start: int, stop: int) -> bool:
        """Tell whether `data` is as long as the tar's bytes [start, stop) and what it has whole has its checksum."""
        bounds = (self.offset, *self.frame_offsets, self.offset + self.bytes)
        view = memoryview(data)
        return len(data) == stop - start and all(
            crc32(view[a - start : b - start]) == expected
            for (a, b), expected in zip(itertools.pairwise(bounds), self.crc32, strict=True)
            if start <= a and b <= stop
        )

    def check_meta(self, data: _Data, *, where: str) -> None:
        """Compare the bytes of `meta_range` with their checksum; raises ShardError naming `where` if they differ."""
        if crc32(data) != self.crc32[0]:
            raise ShardError(f"{where}: the metadata of clip {self.key} differs from its checksum; {_DAMAGED}")

    def check_frames(self, data: _Data, *, first: int, count: int, where: str) -> None:
        """Compare the bytes of `frame_range` with their checksums; raises ShardError naming `where` and the frame."""
        start, stop = self.frame_range(first, count)
        if len(data) != stop - start:
            raise ShardError(f"{where}: ends inside clip {self.key}; {_DAMAGED}")
        view = memoryview(data)
        for frame in range(first, first + count):
            a, b = self.frame_range(frame, 1)
            if crc32(view[a - start : b - start]) != self.crc32[frame + 1]:
                raise ShardError(f"{where}: frame {frame} of clip {self.key} differs from its checksum; {_DAMAGED}")


@dataclass(frozen=True)
class Rejection:
    """An input that was left out: the file inside the raw tree and the reason."""

    file: str
    reason: str


@dataclass(frozen=True)
class ShardRecord:
    """The commit record and index of one tar; `plan` is the SHA-256 of the frames that were to go into it.

    `options` are the conversion's, `kinds` maps a member kind to [members, bytes], `clamped_near` counts depth
    pixels nearer than the code's near end, `rejected` lists frames left out while encoding.
    """

    tar_name: str
    tar_bytes: int
    tar_sha256: str
    clips: tuple[ClipEntry, ...]
    options: Mapping[str, Any]
    plan: str
    kinds: Mapping[str, Sequence[int]]
    rejected: tuple[Rejection, ...] = ()
    clamped_near: int = 0
    schema_version: int = SCHEMA_VERSION

    @property
    def num_frames(self) -> int:
        """Frames in all clips."""
        return sum(clip.frames for clip in self.clips)

    def to_bytes(self) -> bytes:
        """Serialise as the `.json` beside the tar."""
        value = dataclasses.asdict(self)
        value["tar"] = {name: value.pop(f"tar_{name}") for name in ("name", "bytes", "sha256")}
        return sealed_json(value)

    @classmethod
    def from_bytes(cls, data: bytes, *, where: str) -> "ShardRecord":
        """Parse a record; raises ShardError naming `where` for anything the contract does not allow."""
        value = parse_sealed_json(data, where=where)
        with contract(f"{where}: the record"):
            tar = value.pop("tar")
            fields: dict[str, Any] = {
                **value,
                **{f"tar_{name}": tar[name] for name in ("name", "bytes", "sha256")},
                "clips": tuple(_clip_entry(clip) for clip in value["clips"]),
                "rejected": tuple(build(Rejection, item) for item in value["rejected"]),
            }
            return build(cls, fields)


@dataclass(frozen=True)
class ShardSummary:
    """A shard's line in `dataset.json`; `record_sha256` is of the record beside the tar."""

    split: str
    name: str
    bytes: int
    sha256: str
    record_sha256: str
    clips: int
    frames: int


@dataclass(frozen=True)
class DatasetRecord:
    """`dataset.json`: what a converted data set is.

    `splits` maps a split to its trajectories; `totals` holds clips, frames, bytes, clamped_near and bytes by kind.
    """

    dataset: str
    source: Mapping[str, Any]
    options: Mapping[str, Any]
    splits: Mapping[str, Sequence[str]]
    totals: Mapping[str, Any]
    shards: tuple[ShardSummary, ...]
    rejected: tuple[Rejection, ...]
    schema_version: int = SCHEMA_VERSION

    def to_bytes(self) -> bytes:
        """Serialise as `dataset.json`."""
        return sealed_json(dataclasses.asdict(self))

    @classmethod
    def from_bytes(cls, data: bytes, *, where: str) -> "DatasetRecord":
        """Parse `dataset.json`; raises ShardError naming `where` for anything the contract does not allow."""
        value = parse_sealed_json(data, where=where)
        with contract(f"{where}:"):
            fields: dict[str, Any] = {
                **value,
                "shards": tuple(build(ShardSummary, item) for item in value["shards"]),
                "rejected": tuple(build(Rejection, item) for item in value["rejected"]),
            }
            return build(cls, fields)


def _clip_entry(clip: Mapping[str, Any]) -> ClipEntry:
    lists = {name: tuple(int(i) for i in clip[name]) for name in ("frame_offsets", "crc32")}
    return build(ClipEntry, {**clip, **lists})


def totals(records: Sequence[ShardRecord]) -> dict[str, Any]:
    """Add up shards: clips, frames, bytes of the tars, bytes by kind of member, depth pixels that were too near."""
    kinds: Counter[str] = Counter()
    for record in records:
        kinds.update({kind: size for kind, (_, size) in record.kinds.items()})
    return {
        "clips": sum(len(record.clips) for record in records),
        "frames": sum(record.num_frames for record in records),
        "bytes": sum(record.tar_bytes for record in records),
        "bytes_by_kind": dict(kinds),
        "clamped_near": sum(record.clamped_near for record in records),
    }
