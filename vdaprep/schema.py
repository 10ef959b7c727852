"""The contract between the two programs, version 1: names, metadata and records of shards.

    OUT/DATASET/dataset.json              DatasetRecord, written last
    OUT/DATASET/SPLIT/shard-0001.tar      clips, one after the other
    OUT/DATASET/SPLIT/shard-0001.json     ShardRecord, written after the tar

A clip's members, in this order, so that any window of frames is one contiguous range of bytes:

    KEY.json              ClipMeta
    KEY.f000.rgb.jpg      the frame, JPEG
    KEY.f000.depth.zst    codec.encode_depth of the frame
    KEY.f000.diff.zst     codec.encode_diff of the frame and the one before it; absent without differences
    KEY.f001.rgb.jpg ...

JSON is canonical: sorted keys, no spaces, ASCII, no nan or infinity. Both records hold a checksum of themselves.
"""

import dataclasses
import hashlib
import json
import math
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar, cast

from vdaprep.errors import DataError, ShardError, UsageError, VdakitError

__all__ = [
    "DATASET_FILE",
    "MAX_CLIP_FRAMES",
    "SCHEMA_VERSION",
    "ClipEntry",
    "ClipMeta",
    "DataError",
    "DatasetRecord",
    "DepthSpec",
    "DiffSpec",
    "Rejection",
    "ShardError",
    "ShardRecord",
    "ShardSummary",
    "UsageError",
    "VdakitError",
    "canonical_json",
    "clip_key",
    "member_kind",
    "member_name",
    "parse_json",
    "parse_sealed_json",
    "record_name",
    "sealed_json",
    "shard_name",
]

SCHEMA_VERSION = 1
DATASET_FILE = "dataset.json"
MAX_CLIP_FRAMES = 1000  # frame numbers in member names have three digits
MAX_KEY_LENGTH = 80  # a USTAR name has 100 bytes, the longest member ending 15

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    _Record = TypeVar("_Record", bound=DataclassInstance)
else:
    _Record = TypeVar("_Record")

_Data = bytes | memoryview  # named here: ClipEntry has a field `bytes`
_DAMAGED = "the shard is damaged: convert it again."
_DEPTH_KINDS = ("linear", "half", "log")
_MEMBER = re.compile(
    r"^(?P<key>[a-z0-9_-]+)\.(?:(?P<meta>json)|f(?P<frame>\d{3})\.(?P<kind>rgb\.jpg|depth\.zst|diff\.zst))$"
)


def canonical_json(value: object) -> bytes:
    """Serialise to the one spelling that equal values share: sorted keys, no spaces, ASCII, finite numbers only."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def parse_json(data: bytes, *, where: str) -> dict[str, Any]:
    """Parse a JSON object; raises ShardError naming `where` if the bytes are anything else."""
    try:
        value: object = json.loads(data)
    except ValueError as error:
        raise ShardError(f"{where}: not valid JSON ({error}).") from error
    if not isinstance(value, dict):
        raise ShardError(f"{where}: found a JSON {type(value).__name__}, expected an object.")
    return cast(dict[str, Any], value)


def sealed_json(value: Mapping[str, Any]) -> bytes:
    """Serialise as `canonical_json` does, with a `checksum`: the SHA-256 of all else, so that any change shows."""
    return canonical_json({**value, "checksum": hashlib.sha256(canonical_json(value)).hexdigest()})


def parse_sealed_json(data: bytes, *, where: str) -> dict[str, Any]:
    """Undo `sealed_json`; raises ShardError naming `where` if this is no JSON of this version, or was changed."""
    value = parse_json(data, where=where)
    _check_version(value, where=where)
    checksum = value.pop("checksum", None)
    try:
        found = hashlib.sha256(canonical_json(value)).hexdigest()
    except ValueError as error:  # nan and infinity are no JSON, but Python reads them
        raise ShardError(f"{where}: not valid JSON ({error}).") from error
    if found != checksum:
        raise ShardError(f"{where}: differs from the checksum that it holds; it was changed or damaged.")
    return value


def clip_key(dataset: str, trajectory: str, first_frame: int) -> str:
    """Name a clip `{dataset}-{trajectory}-{first frame}`: lower case, `[a-z0-9_-]`, at most 80 characters.

    A longer name keeps its start and ends in eight hexadecimal digits of the full name's SHA-256.
    """
    name = re.sub(r"[^a-z0-9_]+", "-", f"{dataset}/{trajectory}".lower()).strip("-")
    room = MAX_KEY_LENGTH - 1 - 6
    if len(name) > room:
        name = f"{name[: room - 9]}-{hashlib.sha256(f'{dataset}/{trajectory}'.encode()).hexdigest()[:8]}"
    return f"{name}-{first_frame:06d}"


def member_name(key: str, frame: int | None, kind: str) -> str:
    """Name a member: `kind` is `json` (frame None), `rgb.jpg`, `depth.zst` or `diff.zst`."""
    return f"{key}.{kind}" if frame is None else f"{key}.f{frame:03d}.{kind}"


def member_kind(name: str) -> tuple[str, int | None, str]:
    """Split a member's name into (key, frame or None, kind); raises ShardError for a name outside the contract."""
    match = _MEMBER.match(name)
    if match is None:
        raise ShardError(f"member {name!r}: not a name of schema version {SCHEMA_VERSION}.")
    if match["meta"]:
        return match["key"], None, "json"
    return match["key"], int(match["frame"]), match["kind"]


def shard_name(number: int) -> str:
    """Name the shard `number` (from 1)."""
    return f"shard-{number:04d}.tar"


def record_name(tar_name: str) -> str:
    """Name the record that stands beside a shard's tar."""
    return tar_name.removesuffix(".tar") + ".json"


@dataclass(frozen=True)
class DepthSpec:
    """How depth codes become metres; `codec` holds the table.

    `linear` and `half` have `unit_m` (metres a unit); `log` has `near_m`, `far_m`. `relative_error` bounds every
    decoded pixel (0: exact).
    """

    kind: str
    relative_error: float
    unit_m: float | None = None
    near_m: float | None = None
    far_m: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in _DEPTH_KINDS:
            raise ShardError(f"depth kind {self.kind!r} is not one of {', '.join(_DEPTH_KINDS)}.")
        if self.kind == "log":
            ok = self.near_m is not None and self.far_m is not None and 0 < self.near_m < self.far_m < math.inf
            ok = ok and 0 < self.relative_error < 1
        else:
            ok = self.unit_m is not None and 0 < self.unit_m < math.inf and self.relative_error >= 0
        if not ok:
            raise ShardError(f"depth of kind {self.kind!r} has impossible settings: {self.to_json()}.")

    def to_json(self) -> dict[str, Any]:
        """Return the fields that this kind has."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value is not None}


@dataclass(frozen=True)
class DiffSpec:
    """How differences are stored: averaged over `scale` x `scale` pixels, in steps of `step` grey levels."""

    scale: int
    step: int

    def __post_init__(self) -> None:
        if self.scale < 1 or self.step < 1:
            raise ShardError(f"differences need a scale and a step of at least 1, found {self.scale} and {self.step}.")

    def size_of(self, height: int, width: int) -> tuple[int, int]:
        """Return (rows, columns) of the stored difference of a frame of `height` x `width` pixels."""
        half = self.scale // 2
        return max(1, (height + half) // self.scale), max(1, (width + half) // self.scale)


@dataclass(frozen=True)
class ClipMeta:
    """The metadata member of a clip of T frames.

    intrinsics: T x (fx, fy, cx, cy) in pixels of the stored size, pixel centres at integers. camera_to_world: T 4x4
    matrices in metres, OpenCV axes, or None where the data set has no poses. disparity_min, disparity_max: 1/m over
    the clip's known non-sky pixels, both 0 if there is none. diff: None without differences.
    """

    dataset: str
    split: str
    trajectory: str
    frame_ids: tuple[int, ...]
    height: int
    width: int
    intrinsics: tuple[tuple[float, ...], ...]
    camera_to_world: tuple[tuple[tuple[float, ...], ...], ...] | None
    depth: DepthSpec
    disparity_min: float
    disparity_max: float
    diff: DiffSpec | None
    diff_valid: tuple[bool, ...]
    source: Mapping[str, str] = field(default_factory=dict[str, str])
    schema_version: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        count = len(self.frame_ids)
        for name, values in [
            ("intrinsics", self.intrinsics),
            ("camera_to_world", self.camera_to_world),
            ("diff_valid", self.diff_valid),
        ]:
            if values is not None and len(values) != count:
                raise ShardError(f"clip metadata: {name} has {len(values)} entries for {count} frames.")
        if not 1 <= count <= MAX_CLIP_FRAMES or self.height < 1 or self.width < 1:
            raise ShardError(f"clip metadata: {count} frames of {self.width}x{self.height} pixels cannot be.")
        if not 0 <= self.disparity_min <= self.disparity_max < math.inf:
            raise ShardError(f"clip metadata: disparity range {self.disparity_min} to {self.disparity_max} cannot be.")

    @property
    def num_frames(self) -> int:
        """T, the number of frames."""
        return len(self.frame_ids)

    def to_bytes(self) -> bytes:
        """Serialise as the clip's `.json` member."""
        value = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}  # asdict copies every number
        value["depth"] = self.depth.to_json()
        value["diff"] = None if self.diff is None else dataclasses.asdict(self.diff)
        return canonical_json(value)

    @classmethod
    def from_bytes(cls, data: bytes, *, where: str) -> "ClipMeta":
        """Parse the clip's `.json` member; raises ShardError naming `where` for what the contract does not allow."""
        value = parse_json(data, where=where)
        _check_version(value, where=where)
        poses = value.get("camera_to_world")
        try:
            fields: dict[str, Any] = {
                **value,
                "frame_ids": tuple(int(i) for i in value["frame_ids"]),
                "intrinsics": _rows(value["intrinsics"], length=4),
                "camera_to_world": None if poses is None else tuple(_square(pose) for pose in poses),
                "depth": _build(DepthSpec, value["depth"]),
                "diff": None if value["diff"] is None else _build(DiffSpec, value["diff"]),
                "diff_valid": tuple(bool(flag) for flag in value["diff_valid"]),
            }
            return _build(cls, fields)
        except (TypeError, KeyError, ValueError) as error:
            raise ShardError(f"{where}: clip metadata breaks schema version {SCHEMA_VERSION} ({error}).") from error


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

    def check_meta(self, data: _Data, *, where: str) -> None:
        """Compare the bytes of `meta_range` with their checksum; raises ShardError naming `where` if they differ."""
        if zlib.crc32(data) != self.crc32[0]:
            raise ShardError(f"{where}: the metadata of clip {self.key} differs from its checksum; {_DAMAGED}")

    def check_frames(self, data: _Data, *, first: int, count: int, where: str) -> None:
        """Compare the bytes of `frame_range` with their checksums; raises ShardError naming `where` and the frame."""
        start, stop = self.frame_range(first, count)
        if len(data) != stop - start:
            raise ShardError(f"{where}: ends inside clip {self.key}; {_DAMAGED}")
        view = memoryview(data)
        for frame in range(first, first + count):
            a, b = self.frame_range(frame, 1)
            if zlib.crc32(view[a - start : b - start]) != self.crc32[frame + 1]:
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
        try:
            tar = value.pop("tar")
            fields: dict[str, Any] = {
                **value,
                **{f"tar_{name}": tar[name] for name in ("name", "bytes", "sha256")},
                "clips": tuple(_clip_entry(clip) for clip in value["clips"]),
                "rejected": tuple(_build(Rejection, item) for item in value["rejected"]),
            }
            return _build(cls, fields)
        except (TypeError, KeyError, ValueError) as error:
            raise ShardError(f"{where}: the record breaks schema version {SCHEMA_VERSION} ({error}).") from error


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
        try:
            fields: dict[str, Any] = {
                **value,
                "shards": tuple(_build(ShardSummary, item) for item in value["shards"]),
                "rejected": tuple(_build(Rejection, item) for item in value["rejected"]),
            }
            return _build(cls, fields)
        except (TypeError, KeyError, ValueError) as error:
            raise ShardError(f"{where}: breaks schema version {SCHEMA_VERSION} ({error}).") from error


def _check_version(value: Mapping[str, Any], *, where: str) -> None:
    found = value.get("schema_version")
    if found != SCHEMA_VERSION:
        raise ShardError(
            f"{where}: schema version {found!r}, this program reads version {SCHEMA_VERSION}; "
            "convert again, or use the release that wrote it."
        )


def _build(cls: type[_Record], fields: Mapping[str, Any]) -> _Record:
    """Construct a record from parsed JSON, refusing numbers where text belongs and the other way round."""
    checked = dict(fields)
    for item in dataclasses.fields(cls):
        found = checked.get(item.name)
        if found is None:
            continue
        if item.type in (float, float | None) and isinstance(found, int) and not isinstance(found, bool):
            checked[item.name] = float(found)
        elif item.type in (int, str, float) and type(found) is not item.type:
            raise ValueError(f"{item.name} is {found!r}")
    return cls(**checked)


def _clip_entry(clip: Mapping[str, Any]) -> ClipEntry:
    lists = {name: tuple(int(i) for i in clip[name]) for name in ("frame_offsets", "crc32")}
    return _build(ClipEntry, {**clip, **lists})


def _rows(rows: Sequence[Sequence[Any]], *, length: int) -> tuple[tuple[float, ...], ...]:
    result = tuple(tuple(float(x) for x in row) for row in rows)
    if any(len(row) != length or not all(map(math.isfinite, row)) for row in result):
        raise ValueError(f"expected rows of {length} finite numbers")
    return result


def _square(rows: Sequence[Sequence[Any]]) -> tuple[tuple[float, ...], ...]:
    result = _rows(rows, length=4)
    if len(result) != 4:
        raise ValueError("a pose is not 4x4")
    return result
