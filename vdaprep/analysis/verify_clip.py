"""One clip against its entry of the record and the format: every byte, member and frame."""

import tarfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from vdaprep.errors import ShardError
from vdaprep.shards import codec, depth_codes, reader
from vdaprep.shards.canonical import canonical_json, parse_json
from vdaprep.shards.metadata import ClipMeta
from vdaprep.shards.names import clip_key, clip_keys, member_name
from vdaprep.shards.records import ClipEntry, codec_of, version_of
from vdaprep.shards.tar import Member, header, split_members
from vdaprep.storage.paths import StoragePath


@dataclass(frozen=True)
class CheckedClip:
    """What is kept of a clip that was found whole."""

    key: str
    """The clip's key."""
    dataset: str
    """The data set's name."""
    split: str
    """The split's name."""
    trajectory: str
    """The trajectory's name."""
    frame_ids: tuple[int, ...]
    """Numbers of its frames."""
    kinds: Mapping[str, tuple[int, int]]
    """Members and bytes of each kind."""
    has_depth: bool
    """Whether the depth of any pixel is known, or none is expected, as of frames without labels."""


def check_clip(reading: reader.TarPass, entry: ClipEntry, *, options: Mapping[str, Any]) -> CheckedClip:
    """Read and decode a clip's members; raises ShardError, naming the first thing wrong.

    Checksums, names, order and offsets of members are compared with `entry`; metadata with the names, with the
    conversion's `options` and with the decoded depth and differences.
    """
    meta, size = _check_meta(reading, entry, options)
    content = _Content(meta)
    sizes, counts = Counter({"json": size}), Counter({"json": 1})
    for frame in range(entry.frames):
        kinds = meta.kinds_of(frame)
        start, stop = entry.frame_range(frame, 1)
        data = reading.read(start, stop)
        entry.check_frames(data, first=frame, count=1, where=str(reading.tar))
        names = [member_name(entry.key, frame, kind) for kind in kinds]
        for kind, member in zip(kinds, _expect_members(reading.tar, entry, start, data, names), strict=True):
            content.check(frame, kind, member.data, where=f"{reading.tar}: {member.name}")
            sizes[kind] += len(member.data)
            counts[kind] += 1
    content.check_range(where=f"{reading.tar}: {member_name(entry.key, None, 'json')}")
    found = {kind: (counts[kind], sizes[kind]) for kind in counts}
    has_depth = meta.depth is None or meta.disparity_max > 0
    return CheckedClip(entry.key, meta.dataset, meta.split, meta.trajectory, meta.frame_ids, found, has_depth)


def _check_meta(reading: reader.TarPass, entry: ClipEntry, options: Mapping[str, Any]) -> tuple[ClipMeta, int]:
    """Return a clip's metadata, and its bytes."""
    start, stop = entry.meta_range()
    data = reading.read(start, stop)
    entry.check_meta(data, where=str(reading.tar))
    [member] = _expect_members(reading.tar, entry, start, data, [member_name(entry.key, None, "json")])
    where = f"{reading.tar}: {member.name}"
    content = bytes(member.data)
    meta = ClipMeta.from_bytes(content, where=where)
    for problem in _meta_problems(reading.tar, entry, meta, content, options):
        raise ShardError(f"{where}: {problem}")
    return meta, len(member.data)


def _expect_members(tar: StoragePath, entry: ClipEntry, start: int, data: bytes, names: Sequence[str]) -> list[Member]:
    """Return the members in `data`, from byte `start` of the tar; ShardError for any others."""
    members = split_members(data, where=str(tar))
    for name, member in zip_longest(names, members):
        if name is None or member is None or member.name != name:
            found = "nothing" if member is None else f"{member.name} at byte {start + member.offset}"
            raise ShardError(f"{tar}: clip {entry.key}: found {found}, expected {name or 'nothing'}.")
        if data[member.offset : member.offset + tarfile.BLOCKSIZE] != header(name, len(member.data)):
            raise ShardError(f"{tar}: the header of {name} is not as the format has it; the shard is damaged.")
    return members


def _meta_problems(
    tar: StoragePath, entry: ClipEntry, meta: ClipMeta, data: bytes, options: Mapping[str, Any]
) -> Iterator[str]:
    ids = meta.frame_ids
    key = clip_key(meta.dataset, meta.trajectory, ids[0])
    diff = None if meta.diff is None else meta.diff.to_json(version=meta.schema_version)
    depth = None if meta.depth is None else meta.depth.to_json(version=meta.schema_version)
    allowed = _allowed_depths(options)
    short_side = options.get("short_side") or min(meta.height, meta.width)
    stride = options.get("frame_stride") or 1
    checks = [
        (canonical_json(parse_json(data, where="").values) == data, "is not canonical JSON."),
        (
            entry.key in clip_keys(meta.dataset, meta.trajectory, ids[0]),
            f"is of clip {key}, found in clip {entry.key}.",
        ),
        (meta.split == tar.parent.name, f"is of split {meta.split}, found in {tar.parent.name}."),
        (len(ids) == entry.frames, f"has {len(ids)} frames, the record says {entry.frames}."),
        (
            ids == tuple(range(ids[0], ids[0] + stride * len(ids), stride)),
            "its frame numbers do not follow one another.",
        ),
        (len(ids) <= (options.get("clip_frames") or len(ids)), f"has {len(ids)} frames, more than clip_frames allows."),
        (min(meta.height, meta.width) <= short_side, f"{meta.width}x{meta.height} is larger than short_side allows."),
        (meta.schema_version == version_of(options), f"is of version {meta.schema_version}, unlike the options."),
        (depth in allowed, "its depth code is not the one of the options."),
        (codec_of(options) == meta.rgb.codec, f"its frames are {meta.rgb.codec}, unlike those of the options."),
        (diff == options.get("diff"), "its differences are not those of the options."),
    ]
    yield from (problem for holds, problem in checks if not holds)


def _allowed_depths(options: Mapping[str, Any]) -> list[Any]:
    """Return how a clip's depth may be coded: as the options say, or as `settle` chooses.

    Where it is a teacher's, frames may be without: None.
    """
    depth: dict[str, Any] = options.get("depth") or {}
    allowed = [depth]
    if depth.get("packing") == "nibbles":
        kinds = [depth, codec.HALF_METRES.to_json()] if depth.get("kind") == "log" else [depth]
        allowed = [{**kind, "packing": packing} for kind in kinds for packing in codec.LOSSLESS]
    elif depth.get("packing") == "interpolation":
        allowed += [{**depth, "packing": "sparse", "steps": 1}]
    return [*allowed, None] if depth.get("kind") == "relative" else allowed


class _Content:
    """Decodes a clip's members and compares them with its metadata."""

    def __init__(self, meta: ClipMeta) -> None:
        self._meta = meta
        self._ranges: list[tuple[float, float]] = []

    def check(self, frame: int, kind: str, data: memoryview, *, where: str) -> None:
        """Decode a member of a frame; raises ShardError naming `where`."""
        height, width = self._meta.height, self._meta.width
        if kind == "rgb.jpg":
            codec.decode_rgb(data, size=(height, width), where=where)
        elif kind == "depth.zst":
            self._check_depth(data, where=where)
        elif kind == "rgb.mp4":
            count = min(self._meta.rgb.group, self._meta.num_frames - frame)
            codec.decode_group(data, codec=self._meta.rgb.codec, size=(height, width), count=count, where=where)
        else:
            self._check_diff(frame, data, where=where)

    def check_range(self, *, where: str) -> None:
        """Compare all frames' disparity range with the metadata; raises ShardError."""
        meta = self._meta
        found = min((low for low, _ in self._ranges), default=0.0), max((high for _, high in self._ranges), default=0.0)
        if found != (meta.disparity_min, meta.disparity_max):
            said = f"{meta.disparity_min:.17g} to {meta.disparity_max:.17g}"
            raise ShardError(f"{where}: says disparity {said} 1/m, its frames have {found[0]:.17g} to {found[1]:.17g}.")
        if meta.diff is None and any(meta.diff_valid):
            raise ShardError(f"{where}: says that differences are valid, and has none.")
        if meta.diff is not None and not all(meta.diff_valid[1:]):
            raise ShardError(f"{where}: says that a difference inside the clip is not valid.")

    def _check_depth(self, data: memoryview, *, where: str) -> None:
        spec = reader.labels_of(self._meta, where=where)
        codes = codec.unpack_codes(data, spec, height=self._meta.height, width=self._meta.width, where=where)
        unused = depth_codes.unused_code(codes, spec)
        if unused is not None:
            raise ShardError(f"{where}: has depth code {unused}, which its kind does not use.")
        found = depth_codes.disparity_range(codes, spec)
        self._ranges += [] if found is None else [found]

    def _check_diff(self, frame: int, data: memoryview, *, where: str) -> None:
        meta = self._meta
        assert meta.stored_diff is not None  # without, no such member is expected
        steps = codec.decode_diff(data, meta.stored_diff, height=meta.height, width=meta.width, where=where)
        if steps.any() and not meta.diff_valid[frame]:
            raise ShardError(f"{where}: is not zero, though the metadata says that it is not valid.")
