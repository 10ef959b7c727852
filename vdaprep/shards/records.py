"""The records beside tars and in `dataset.json`: what lies where, with checksums."""

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
    """Where a clip lies in its tar, with checksums that tell a window to be whole without the rest of the shard."""

    key: str
    """Name of the clip."""
    offset: int
    """First byte of the clip in the tar."""
    bytes: int
    """Bytes of the clip."""
    frames: int
    """Number of frames."""
    frame_offsets: tuple[int, ...]
    """First byte of each frame's members in the tar."""
    crc32: tuple[int, ...]
    """CRC-32 of the metadata's bytes and then of each frame's, headers and padding included."""

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
        """Return whether `data` is all of the tar's bytes [start, stop), by length and checksums."""
        bounds = (self.offset, *self.frame_offsets, self.offset + self.bytes)
        view = memoryview(data)
        return len(data) == stop - start and all(
            crc32(view[a - start : b - start]) == expected
            for (a, b), expected in zip(itertools.pairwise(bounds), self.crc32, strict=True)
            if start <= a and b <= stop
        )

    def check_meta(self, data: _Data, *, where: str) -> None:
        """Compare the bytes of `meta_range` with their checksum; raises ShardError naming `where`."""
        if crc32(data) != self.crc32[0]:
            raise ShardError(f"{where}: the metadata of clip {self.key} differs from its checksum; {_DAMAGED}")

    def check_frames(self, data: _Data, *, first: int, count: int, where: str) -> None:
        """Compare the bytes of `frame_range` with their checksums; raises ShardError naming the frame."""
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
    """An input that was left out."""

    file: str
    """Path inside the raw tree."""
    reason: str
    """Why."""


@dataclass(frozen=True)
class ShardRecord:
    """The record and index of one tar, written after it."""

    tar_name: str
    """File name of the tar."""
    tar_bytes: int
    """Bytes of the tar."""
    tar_sha256: str
    """SHA-256 of the tar, hexadecimal."""
    clips: tuple[ClipEntry, ...]
    """Clips in the order of the tar."""
    options: Mapping[str, Any]
    """Options of the conversion that decide bytes."""
    plan: str
    """SHA-256 of the list of frames that were planned for the tar."""
    kinds: Mapping[str, Sequence[int]]
    """Members and their bytes by kind: [members, bytes]."""
    rejected: tuple[Rejection, ...] = ()
    """Frames that were left out while encoding."""
    clamped_near: int = 0
    """Depth pixels nearer than the code's near end."""
    clamped_far: Mapping[str, int] = dataclasses.field(default_factory=dict[str, int])
    """Pixels of finite depth beyond the code's far end, which are stored as sky, by trajectory, where there are any;
    records of earlier releases do not count them."""
    schema_version: int = SCHEMA_VERSION
    """Version of the format."""

    @property
    def num_frames(self) -> int:
        """Frames in all clips."""
        return sum(clip.frames for clip in self.clips)

    def to_bytes(self) -> bytes:
        """Serialise as the `.json` beside the tar."""
        value = dataclasses.asdict(self)
        value["tar"] = {name: value.pop(f"tar_{name}") for name in ("name", "bytes", "sha256")}
        if not self.clamped_far:
            del value["clamped_far"]
        return sealed_json(value)

    @classmethod
    def from_bytes(cls, data: bytes, *, where: str) -> "ShardRecord":
        """Parse a record; raises ShardError naming `where` for what is not allowed."""
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
    """A shard's entry in `dataset.json`."""

    split: str
    """Split, and name of the folder."""
    name: str
    """File name of the tar."""
    bytes: int
    """Bytes of the tar."""
    sha256: str
    """SHA-256 of the tar, hexadecimal."""
    record_sha256: str
    """SHA-256 of the record beside the tar."""
    clips: int
    """Number of clips."""
    frames: int
    """Number of frames."""


@dataclass(frozen=True)
class DatasetRecord:
    """`dataset.json`: what a converted data set is."""

    dataset: str
    """Name of the data set."""
    source: Mapping[str, Any]
    """Facts of its manifest, such as version and `evaluation_max_m`."""
    options: Mapping[str, Any]
    """Options of the conversion that decide bytes."""
    splits: Mapping[str, Sequence[str]]
    """Trajectories by split."""
    totals: Mapping[str, Any]
    """Clips, frames, bytes, bytes by kind of member, depth pixels that were too near and, if any, too far."""
    shards: tuple[ShardSummary, ...]
    """Shards, by split and number."""
    rejected: tuple[Rejection, ...]
    """Inputs that were left out."""
    schema_version: int = SCHEMA_VERSION
    """Version of the format."""

    def to_bytes(self) -> bytes:
        """Serialise as `dataset.json`."""
        return sealed_json(dataclasses.asdict(self))

    @classmethod
    def from_bytes(cls, data: bytes, *, where: str) -> "DatasetRecord":
        """Parse `dataset.json`; raises ShardError naming `where` for what is not allowed."""
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
    """Add up shards to `DatasetRecord.totals`."""
    kinds: Counter[str] = Counter()
    for record in records:
        kinds.update({kind: size for kind, (_, size) in record.kinds.items()})
    beyond = sum(sum(record.clamped_far.values()) for record in records)
    return {
        "clips": sum(len(record.clips) for record in records),
        "frames": sum(record.num_frames for record in records),
        "bytes": sum(record.tar_bytes for record in records),
        "bytes_by_kind": dict(kinds),
        "clamped_near": sum(record.clamped_near for record in records),
        **({"clamped_far": beyond} if beyond else {}),
    }
