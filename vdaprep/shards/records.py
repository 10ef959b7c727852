"""The records beside tars and in `dataset.json`: what lies where, with checksums."""

import dataclasses
import fnmatch
import hashlib
import itertools
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vdaprep.errors import ShardError
from vdaprep.shards.canonical import SCHEMA_VERSION, check_version, contract, crc32, parse_sealed_json, sealed_json
from vdaprep.shards.names import DATASET_FILE, MAX_CLIP_FRAMES, MAX_KEY_LENGTH
from vdaprep.storage.documents import Document, Fields, path_problem, shown
from vdaprep.storage.limits import MAX_FRAME_BYTES, MAX_SMALL_DOCUMENT_BYTES

_Data = bytes | memoryview  # named here: ClipEntry has a field `bytes`
MAX_TAR_BYTES = 2**50
"""Bytes of a tar, and of anything else that is counted, that a record may say."""
_MAX_META_BYTES = MAX_SMALL_DOCUMENT_BYTES + (1 << 10)  # header and padding
_MAX_ENTRIES = 2**22  # clips, shards, trajectories, rejected inputs
_KEY = re.compile(f"[a-z0-9_-]{{1,{MAX_KEY_LENGTH}}}")
_DAMAGED = "the shard is damaged: vdaprep repair makes it again."


@dataclass(frozen=True)
class ClipEntry:
    """Where a clip lies in its tar, with checksums by which a window is found whole."""

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
        if _KEY.fullmatch(self.key) is None:
            raise ShardError(f"clip {shown(self.key)}: is no key, which has letters a to z, digits, _ and - only.")
        if len(self.frame_offsets) != self.frames or any(a >= b for a, b in zip(bounds, bounds[1:], strict=False)):
            raise ShardError(f"clip {self.key}: the record's offsets do not ascend through {self.frames} frames.")
        meta, *frames = (b - a for a, b in itertools.pairwise(bounds))
        if meta > _MAX_META_BYTES or max(frames) > MAX_FRAME_BYTES:
            raise ShardError(
                f"clip {self.key}: has {meta} bytes of metadata and frames of up to {max(frames)} bytes, expected at "
                f"most {_MAX_META_BYTES} and {MAX_FRAME_BYTES}."
            )
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
        """Compare `frame_range`'s bytes with their checksums; ShardError names the frame."""
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
    encoders: Mapping[str, str] = dataclasses.field(default_factory=dict[str, str])
    """Encoders of video, and their versions, by codec: another version may write other bytes."""
    schema_version: int = SCHEMA_VERSION
    """Version of the format."""

    def __post_init__(self) -> None:
        end = 0
        for clip in self.clips:
            if clip.offset < end or clip.offset + clip.bytes > self.tar_bytes:
                raise ShardError(
                    f"clip {clip.key}: lies at bytes {clip.offset} to {clip.offset + clip.bytes}, expected {end} or "
                    f"more to at most {self.tar_bytes}; {_DAMAGED}"
                )
            end = clip.offset + clip.bytes

    @property
    def num_frames(self) -> int:
        """Frames in all clips."""
        return sum(clip.frames for clip in self.clips)

    def to_bytes(self) -> bytes:
        """Serialise as the `.json` beside the tar."""
        value = dataclasses.asdict(self)
        value["tar"] = {name: value.pop(f"tar_{name}") for name in ("name", "bytes", "sha256")}
        for name in ("clamped_far", "encoders"):
            if not value[name]:
                del value[name]
        return sealed_json(value)

    @classmethod
    def from_bytes(cls, data: bytes, *, where: str) -> "ShardRecord":
        """Parse a record; raises ShardError naming `where` for what is not allowed."""
        document = parse_sealed_json(data, where=where)
        with contract(where):
            document.expect_only(_RECORD_FIELDS)
            tar = document.mapping("tar")
            size = tar.integer("bytes", 0, MAX_TAR_BYTES)
            kinds = document.mapping("kinds")
            encoders = document.optional_mapping("encoders")
            return cls(
                tar_name=_tar_name(tar, "name"),
                tar_bytes=size,
                tar_sha256=tar.sha256("sha256"),
                clips=tuple(_clip_entry(item, size) for item in document.mappings("clips", at_most=_MAX_ENTRIES)),
                options=_options(document),
                plan=document.text("plan"),
                kinds={kind: _pair(kinds, kind) for kind in kinds.values},
                rejected=_rejections(document),
                clamped_near=document.integer("clamped_near", 0, MAX_TAR_BYTES),
                clamped_far=_counts(document.optional_mapping("clamped_far")),
                encoders={} if encoders is None else dict(encoders.all_texts()),
                schema_version=check_version(document),
            )


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


def summary_of(split: str, record: ShardRecord) -> ShardSummary:
    """Return what `dataset.json` holds of a shard."""
    return ShardSummary(
        split=split,
        name=record.tar_name,
        bytes=record.tar_bytes,
        sha256=record.tar_sha256,
        record_sha256=hashlib.sha256(record.to_bytes()).hexdigest(),
        clips=len(record.clips),
        frames=record.num_frames,
    )


@dataclass(frozen=True)
class DataTerms:
    """Under which terms a data set may be used."""

    dataset: str
    """Name of the data set."""
    licence: str
    """Its licence; empty where nothing says it."""
    citation: str
    """Whom to cite; empty where nothing says it."""
    commercial: bool | None
    """Whether the licence allows commercial use; None where nothing says it."""

    def named(self, *, unsaid: str = "licence not said") -> str:
        """Return name and licence, for messages; `unsaid` where nothing says the licence."""
        return f"{self.dataset} ({self.licence or unsaid})"

    @classmethod
    def from_fields(cls, dataset: str, fields: Fields) -> "DataTerms":
        """Take the terms from what a document says of a data set; raises DocumentError."""
        allowed = fields.get("commercial", bool, "true or false") if "commercial" in fields else None
        texts = {name: fields.optional_text(name) or "" for name in ("licence", "citation")}
        return cls(dataset, **texts, commercial=allowed)

    @classmethod
    def parse_all(cls, value: object, *, where: str) -> "tuple[DataTerms, ...]":
        """Read a list of terms as mappings, None as none; raises DocumentError, naming `where`."""
        fields = Fields({"data": [] if value is None else value}, where=where)
        items = fields.mappings("data", at_most=_MAX_ENTRIES)
        return tuple(cls.from_fields(item.text("dataset"), item) for item in items)


@dataclass(frozen=True)
class DatasetRecord:
    """`dataset.json`: what a converted data set is."""

    dataset: str
    """Name of the data set."""
    source: Mapping[str, Any]
    """Facts of its manifest, such as `evaluation_max_m` and the licence."""
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

    @property
    def terms(self) -> DataTerms:
        """The terms that the data set may be used under."""
        return DataTerms.from_fields(self.dataset, Fields(self.source, where=DATASET_FILE))

    @property
    def teacher_terms(self) -> tuple[DataTerms, ...]:
        """The terms of the weights that labelled it, or of the data that these have seen."""
        return DataTerms.parse_all(self.source.get("teacher_terms"), where=DATASET_FILE)

    def to_bytes(self) -> bytes:
        """Serialise as `dataset.json`."""
        return sealed_json(dataclasses.asdict(self))

    @classmethod
    def from_bytes(cls, data: bytes, *, where: str) -> "DatasetRecord":
        """Parse `dataset.json`; raises ShardError naming `where` for what is not allowed."""
        document = parse_sealed_json(data, where=where)
        with contract(where):
            document.expect_only([item.name for item in dataclasses.fields(cls)])
            splits = document.mapping("splits")
            return cls(
                dataset=document.name("dataset"),
                source=_source(document.mapping("source")),
                options=_options(document),
                splits={name: splits.path_names(name, at_most=_MAX_ENTRIES) for name in splits.names("a split")},
                totals=document.mapping("totals").values,
                shards=tuple(_summary(item) for item in document.mappings("shards", at_most=_MAX_ENTRIES)),
                rejected=_rejections(document),
                schema_version=check_version(document),
            )


_RECORD_FIELDS = (
    "schema_version", "tar", "clips", "options", "plan", "kinds", "rejected", "clamped_near", "clamped_far",
    "encoders",
)  # fmt: skip


def _clip_entry(fields: Fields, tar_bytes: int) -> ClipEntry:
    fields.expect_only([item.name for item in dataclasses.fields(ClipEntry)])
    offset = fields.integer("offset", 0, tar_bytes)
    return ClipEntry(
        key=fields.text("key", at_most=MAX_KEY_LENGTH),
        offset=offset,
        bytes=fields.integer("bytes", 0, tar_bytes - offset),
        frames=fields.integer("frames", 1, MAX_CLIP_FRAMES),
        frame_offsets=fields.integers("frame_offsets", 0, tar_bytes, at_most=MAX_CLIP_FRAMES),
        crc32=fields.integers("crc32", 0, 2**32 - 1, at_most=1 + MAX_CLIP_FRAMES),
    )


def _summary(fields: Fields) -> ShardSummary:
    fields.expect_only([item.name for item in dataclasses.fields(ShardSummary)])
    return ShardSummary(
        split=fields.name("split"),
        name=_tar_name(fields, "name"),
        bytes=fields.integer("bytes", 0, MAX_TAR_BYTES),
        sha256=fields.sha256("sha256"),
        record_sha256=fields.sha256("record_sha256"),
        clips=fields.integer("clips", 0, _MAX_ENTRIES),
        frames=fields.integer("frames", 0, _MAX_ENTRIES * MAX_CLIP_FRAMES),
    )


def _tar_name(fields: Fields, key: str) -> str:
    name = fields.name(key)
    if not fnmatch.fnmatchcase(name, "?*.tar"):
        fields.fail(key, f"is {shown(name)}, expected the name of a tar, such as shard-0001.tar")
    return name


def _pair(fields: Fields, key: str) -> list[int]:
    found = fields.integers(key, 0, MAX_TAR_BYTES, at_most=2)
    if len(found) != 2:
        fields.fail(key, f"has {len(found)} entries, expected the number of members and their bytes")
    return list(found)


def _counts(fields: Fields | None) -> dict[str, int]:
    """Return numbers by the names of trajectories."""
    if fields is None:
        return {}
    names = fields.names("a trajectory", problem_of=path_problem)
    return {name: fields.integer(name, 1, MAX_TAR_BYTES) for name in names}


def _rejections(document: Document) -> tuple[Rejection, ...]:
    found = document.mappings("rejected", at_most=_MAX_ENTRIES)
    for fields in found:
        fields.expect_only(("file", "reason"))
    return tuple(Rejection(fields.text("file"), fields.text("reason")) for fields in found)


def _source(fields: Fields) -> Mapping[str, Any]:
    fields.optional_number("evaluation_max_m", 0.0)
    DataTerms.from_fields("", fields)
    DataTerms.parse_all(fields.values.get("teacher_terms"), where=DATASET_FILE)
    return fields.values


def _options(document: Document) -> Mapping[str, Any]:
    """Return a conversion's options, those compared with numbers as numbers."""
    options = document.mapping("options")
    for name in ("short_side", "clip_frames", "frame_stride"):
        options.optional_integer(name, 1, 2**31)
    options.optional_mapping("depth")
    options.optional_text("rgb")
    return options.values


def version_of(options: Mapping[str, Any]) -> int:
    """Return the version of the format that a conversion with these options writes."""
    return 1 if "rgb" not in options else SCHEMA_VERSION


def codec_of(options: Mapping[str, Any]) -> str:
    """Return the codec of the frames that a conversion with these options writes."""
    return str(options.get("rgb", "jpeg")).partition(":")[0]


def totals(records: Sequence[ShardRecord]) -> dict[str, Any]:
    """Add up shards to `DatasetRecord.totals`."""
    kinds: Counter[str] = Counter()
    for record in records:
        kinds.update({kind: size for kind, (_, size) in record.kinds.items()})
    beyond = sum(sum(record.clamped_far.values()) for record in records)
    found = {(codec, encoder) for record in records for codec, encoder in record.encoders.items()}
    encoders = {codec: sorted(one for of, one in found if of == codec) for codec, _ in sorted(found)}
    return {
        "clips": sum(len(record.clips) for record in records),
        "frames": sum(record.num_frames for record in records),
        "bytes": sum(record.tar_bytes for record in records),
        "bytes_by_kind": dict(kinds),
        "clamped_near": sum(record.clamped_near for record in records),
        **({"clamped_far": beyond} if beyond else {}),
        **({"encoders": encoders} if encoders else {}),
    }
