"""One shard against its record and, clip by clip, against the schema: every byte, every member, every frame."""

import tarfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt16

from vdaprep import codec, shards
from vdaprep.errors import ShardError
from vdaprep.schema import (
    ClipEntry,
    ClipMeta,
    ShardRecord,
    canonical_json,
    clip_key,
    member_name,
    parse_json,
    record_name,
)

OnFrames = Callable[[int], None]
_RIGID = 1e-3  # how far a rotation times its transpose may be from the identity


@dataclass(frozen=True)
class Finding:
    """Something that is wrong: the file, and the sentence about it."""

    file: str
    what: str

    def __str__(self) -> str:
        return f"{self.file}: {self.what}"


@dataclass(frozen=True)
class CheckedClip:
    """What is kept of a clip that was found whole; `kinds` maps a kind to (members, bytes)."""

    key: str
    dataset: str
    split: str
    trajectory: str
    frame_ids: tuple[int, ...]
    kinds: Mapping[str, tuple[int, int]]


@dataclass(frozen=True)
class CheckedShard:
    """A shard that was looked at; `record` is None if there is no readable one, `clips` is empty unless deep."""

    tar: Path
    record: ShardRecord | None
    clips: tuple[CheckedClip, ...]
    findings: tuple[Finding, ...]

    @property
    def name(self) -> str:
        """The shard's place in its data set, `SPLIT/shard-0001.tar`."""
        return f"{self.tar.parent.name}/{self.tar.name}"


def check_shard(tar: Path, *, deep: bool, on_frames: OnFrames) -> CheckedShard:
    """Compare a tar with its record, and with `deep` every member with the schema."""
    record, problem = read_record(tar)
    if record is None:
        return CheckedShard(tar, None, (), (Finding(str(tar), problem),))
    path = tar.with_name(record_name(tar.name))
    findings = [Finding(str(path), what) for what in _check_record(path, tar, record)]
    try:
        shards.check_tar(tar, record)
    except ShardError as error:
        findings.append(finding_of(tar, error))
    clips: list[CheckedClip] = []
    if deep and tar.is_file():
        found = _check_clips(tar, record, on_frames)
        clips = [clip for clip in found if isinstance(clip, CheckedClip)]
        findings += (item for item in found if isinstance(item, Finding))
        findings += _check_kinds(path, record, clips)
    else:
        on_frames(record.num_frames)
    return CheckedShard(tar, record, tuple(clips), tuple(findings))


def read_record(tar: Path) -> tuple[ShardRecord | None, str]:
    """Read a tar's record, or say in a sentence why there is none."""
    try:
        record = shards.read_record(tar)
    except (ShardError, OSError) as error:
        return None, str(error).removeprefix(f"{tar}: ")
    if not all(isinstance(pair, list) and len(pair) == 2 for pair in record.kinds.values()):
        return None, f"its record {record_name(tar.name)} does not count members and bytes of each kind."
    return record, ""


def _check_record(path: Path, tar: Path, record: ShardRecord) -> Iterator[str]:
    yield from check_canonical(path)
    if record.tar_name != tar.name:
        yield f"is the record of {record.tar_name}, expected one of {tar.name}."
    end = 0
    for clip in record.clips:
        if clip.offset != end:
            yield f"clip {clip.key} begins at byte {clip.offset}, expected {end}, where the one before it ends."
        end = clip.offset + clip.bytes
    padded = -(-(end + 2 * tarfile.BLOCKSIZE) // tarfile.RECORDSIZE) * tarfile.RECORDSIZE
    if record.tar_bytes != padded:
        yield f"says {record.tar_bytes} bytes, expected {padded} after clips that end at byte {end}."
    for key, count in Counter(clip.key for clip in record.clips).items():
        if count > 1:
            yield f"lists clip {key} {count} times."


def _check_clips(tar: Path, record: ShardRecord, on_frames: OnFrames) -> list[CheckedClip | Finding]:
    found: list[CheckedClip | Finding] = []
    for entry in record.clips:
        try:
            found.append(check_clip(tar, entry, options=record.options))
        except ShardError as error:
            found.append(finding_of(tar, error))
        on_frames(entry.frames)
    return found


def _check_kinds(path: Path, record: ShardRecord, clips: Sequence[CheckedClip]) -> Iterator[Finding]:
    """Compare what the record says of each kind of member with what all clips hold; silent if one is damaged."""
    if len(clips) != len(record.clips):
        return
    members, size = Counter[str](), Counter[str]()
    for clip in clips:
        members.update({kind: count for kind, (count, _) in clip.kinds.items()})
        size.update({kind: total for kind, (_, total) in clip.kinds.items()})
    expected = {kind: [members[kind], size[kind]] for kind in sorted(members)}
    if dict(record.kinds) != expected:
        yield Finding(str(path), f"says {dict(record.kinds)} of its members, expected {expected}.")


def check_canonical(path: Path) -> Iterator[str]:
    """Yield a sentence if a file's JSON is not spelt as this program spells it."""
    data = path.read_bytes()
    if canonical_json(parse_json(data, where=str(path))) != data:
        yield "is not canonical JSON (sorted keys, no spaces, ASCII): it was changed after it was written."


def finding_of(file: Path, error: ShardError) -> Finding:
    """Turn an error about a file into a finding."""
    return Finding(str(file), str(error).removeprefix(f"{file}: "))


# -------------------------------------------------------------------------------------------------------------- clips


def check_clip(tar: Path, entry: ClipEntry, *, options: Mapping[str, Any]) -> CheckedClip:
    """Read and decode every member of a clip; raises ShardError, naming the first thing that is wrong.

    Checksums, names, order and offsets of members are compared with `entry`; metadata with the names, with the
    conversion's `options` and with the decoded depth and differences.
    """
    _check_sums(tar, entry)
    members = shards.read_members(tar, start=entry.offset, stop=entry.offset + entry.bytes)
    first = next(members, None)
    if first is None or first.name != member_name(entry.key, None, "json") or first.offset != entry.offset:
        raise ShardError(f"{tar}: clip {entry.key}: does not begin with its metadata.")
    where = f"{tar}: {first.name}"
    meta = ClipMeta.from_bytes(first.data, where=where)
    for problem in _meta_problems(tar, entry, meta, first.data, options):
        raise ShardError(f"{where}: {problem}")
    content = _Content(meta)
    count, size = Counter({"json": 1}), Counter({"json": len(first.data)})
    for expected, member in zip_longest(_expected(entry, meta), members):
        name, frame, kind, offset = expected or ("nothing", 0, "", None)
        if member is None or member.name != name or offset not in (None, member.offset):
            found = "nothing" if member is None else f"{member.name} at byte {member.offset}"
            raise ShardError(f"{tar}: clip {entry.key}: found {found}, expected {name}.")
        content.check(frame, kind, member.data, where=f"{tar}: {member.name}")
        count[kind] += 1
        size[kind] += len(member.data)
    content.check_range(where=where)
    kinds = {kind: (count[kind], size[kind]) for kind in count}
    return CheckedClip(entry.key, meta.dataset, meta.split, meta.trajectory, meta.frame_ids, kinds)


def _check_sums(tar: Path, entry: ClipEntry) -> None:
    with tar.open("rb") as file:
        start, stop = entry.meta_range()
        file.seek(start)
        entry.check_meta(file.read(stop - start), where=str(tar))
        for frame in range(entry.frames):
            start, stop = entry.frame_range(frame, 1)
            entry.check_frames(file.read(stop - start), first=frame, count=1, where=str(tar))


def _expected(entry: ClipEntry, meta: ClipMeta) -> Iterator[tuple[str, int, str, int | None]]:
    """Yield name, frame, kind and, for a frame's first member, offset of all members after the metadata."""
    kinds = ("rgb.jpg", "depth.zst") if meta.diff is None else ("rgb.jpg", "depth.zst", "diff.zst")
    for frame, offset in enumerate(entry.frame_offsets):
        for kind in kinds:
            yield member_name(entry.key, frame, kind), frame, kind, offset if kind == kinds[0] else None


def _meta_problems(
    tar: Path, entry: ClipEntry, meta: ClipMeta, data: bytes, options: Mapping[str, Any]
) -> Iterator[str]:
    ids = meta.frame_ids
    key = clip_key(meta.dataset, meta.trajectory, ids[0])
    diff = None if meta.diff is None else asdict(meta.diff)
    short_side = options.get("short_side") or min(meta.height, meta.width)
    stride = options.get("frame_stride") or 1
    checks = [
        (canonical_json(parse_json(data, where="")) == data, "is not canonical JSON."),
        (key == entry.key, f"is of clip {key}, found in clip {entry.key}."),
        (meta.split == tar.parent.name, f"is of split {meta.split}, found in {tar.parent.name}."),
        (len(ids) == entry.frames, f"has {len(ids)} frames, the record says {entry.frames}."),
        (
            ids == tuple(range(ids[0], ids[0] + stride * len(ids), stride)),
            "its frame numbers do not follow one another.",
        ),
        (len(ids) <= options.get("clip_frames", len(ids)), f"has {len(ids)} frames, more than clip_frames allows."),
        (min(meta.height, meta.width) <= short_side, f"{meta.width}x{meta.height} is larger than short_side allows."),
        (meta.depth.to_json() == options.get("depth"), "its depth code is not the one of the options."),
        (diff == options.get("diff"), "its differences are not those of the options."),
        (all(min(row[:2]) > 0 for row in meta.intrinsics), "a focal length is not positive."),
        (_are_rigid(meta.camera_to_world), "a pose is not a rotation and a translation."),
    ]
    yield from (problem for holds, problem in checks if not holds)


def _are_rigid(poses: Sequence[Sequence[Sequence[float]]] | None) -> bool:
    if poses is None:
        return True
    matrices = np.array(poses)
    rotation = matrices[:, :3, :3]
    orthogonal = np.abs(rotation @ rotation.transpose(0, 2, 1) - np.eye(3)).max() < _RIGID
    last = np.abs(matrices[:, 3] - [0, 0, 0, 1]).max() == 0
    return bool(orthogonal and last and np.linalg.det(rotation).min() > 0)


class _Content:
    """Decodes a clip's members and compares them with its metadata."""

    def __init__(self, meta: ClipMeta) -> None:
        self._meta = meta
        self._ranges: list[tuple[float, float]] = []

    def check(self, frame: int, kind: str, data: bytes, *, where: str) -> None:
        """Decode a member of a frame; raises ShardError naming `where`."""
        height, width = self._meta.height, self._meta.width
        if kind == "rgb.jpg":
            found = codec.decode_rgb(data, where=where).shape
            if found != (height, width, 3):
                raise ShardError(f"{where}: is {found[1]}x{found[0]} pixels, the metadata says {width}x{height}.")
        elif kind == "depth.zst":
            self._check_codes(codec.unpack_codes(data, height=height, width=width, where=where), where=where)
        else:
            self._check_diff(frame, data, where=where)

    def check_range(self, *, where: str) -> None:
        """Compare the disparity range of all frames with the metadata; raises ShardError naming `where`."""
        meta = self._meta
        found = min((low for low, _ in self._ranges), default=0.0), max((high for _, high in self._ranges), default=0.0)
        if found != (meta.disparity_min, meta.disparity_max):
            said = f"{meta.disparity_min:.17g} to {meta.disparity_max:.17g}"
            raise ShardError(f"{where}: says disparity {said} 1/m, its frames have {found[0]:.17g} to {found[1]:.17g}.")
        if meta.diff is None and any(meta.diff_valid):
            raise ShardError(f"{where}: says that differences are valid, and has none.")
        if meta.diff is not None and not all(meta.diff_valid[1:]):
            raise ShardError(f"{where}: says that a difference inside the clip is not valid.")

    def _check_codes(self, codes: UInt16[np.ndarray, "h w"], *, where: str) -> None:
        unused = np.isinf(codec.depth_table(self._meta.depth))
        unused[codec.SKY_CODE] = False
        if unused[codes].any():
            raise ShardError(f"{where}: has depth code {codes[unused[codes]][0]}, which its kind does not use.")
        found = codec.disparity_range(codes, self._meta.depth)
        self._ranges += [] if found is None else [found]

    def _check_diff(self, frame: int, data: bytes, *, where: str) -> None:
        meta = self._meta
        assert meta.diff is not None  # without, no such member is expected
        steps = codec.decode_diff(data, meta.diff, height=meta.height, width=meta.width, where=where)
        if steps.any() and not meta.diff_valid[frame]:
            raise ShardError(f"{where}: is not zero, though the metadata says that it is not valid.")
