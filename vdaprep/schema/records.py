"""The records that are written when a shard, in the end a data set, is complete."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vdaprep.schema.documents import SCHEMA_VERSION, build, contract, parse_sealed_json, sealed_json
from vdaprep.schema.entry import ClipEntry


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
