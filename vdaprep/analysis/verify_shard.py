"""One shard against its record and, clip by clip, against the schema."""

import hashlib
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vdaprep.analysis.verify_clip import CheckedClip, check_clip
from vdaprep.errors import ShardError
from vdaprep.shards import reader
from vdaprep.shards.canonical import canonical_json, parse_json
from vdaprep.shards.names import record_name
from vdaprep.shards.records import ClipEntry, ShardRecord
from vdaprep.storage.paths import StoragePath, opened

OnFrames = Callable[[int], None]


@dataclass(frozen=True)
class Finding:
    """Something that is wrong with a file."""

    file: str
    """Path or URL."""
    what: str
    """Sentence that says what is wrong and what to do."""

    def __str__(self) -> str:
        return f"{self.file}: {self.what}"


@dataclass(frozen=True)
class CheckedShard:
    """A shard that was looked at."""

    tar: StoragePath
    """Where it lies."""
    record: ShardRecord | None
    """Its record; None if there is no readable one."""
    record_sha256: str
    """Of the record's bytes."""
    clips: tuple[CheckedClip, ...]
    """What was found of each clip; empty unless deep."""
    findings: tuple[Finding, ...]
    """What is wrong."""

    @property
    def name(self) -> str:
        """The shard's place in its data set, `SPLIT/shard-0001.tar`."""
        return f"{self.tar.parent.name}/{self.tar.name}"


def made_again(what: str, *, recoded: bool) -> str:
    """Name recode instead of repair in a sentence about shards that recode made."""
    return what.replace("vdaprep repair", "vdaprep recode").replace("run convert", "run recode") if recoded else what


def check_shard(tar: StoragePath, *, deep: bool, on_frames: OnFrames) -> CheckedShard:
    """Compare a tar, read once, with its record; `deep`: every member with the schema.

    A tar that is not as long as its record says is not read. Raises DataError if a server does not answer.
    """
    path = tar.with_name(record_name(tar.name))
    try:
        data = reader.record_bytes(tar)
        record = _parse_record(data, tar)
    except ShardError as error:
        return CheckedShard(tar, None, "", (), (finding_of(tar, error),))
    problems = [*check_canonical(data, where=str(path)), *_check_record(tar, record)]
    found = _check_tar(tar, record, deep=deep, on_frames=on_frames)
    clips = tuple(item for item in found if isinstance(item, CheckedClip))
    findings = [Finding(str(path), what) for what in problems]
    findings += (item for item in found if isinstance(item, Finding))
    findings += (Finding(str(path), what) for what in _check_kinds(record, clips))
    return CheckedShard(tar, record, hashlib.sha256(data).hexdigest(), clips, tuple(findings))


def _parse_record(data: bytes, tar: StoragePath) -> ShardRecord:
    name = record_name(tar.name)
    record = ShardRecord.from_bytes(data, where=str(tar.with_name(name)))
    if not all(isinstance(pair, list) and len(pair) == 2 for pair in record.kinds.values()):
        raise ShardError(f"{tar}: its record {name} does not count members and bytes of each kind.")
    return record


def _check_record(tar: StoragePath, record: ShardRecord) -> Iterator[str]:
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


def _check_tar(
    tar: StoragePath, record: ShardRecord, *, deep: bool, on_frames: OnFrames
) -> list[CheckedClip | Finding]:
    """Read a tar from its beginning to its end; what is wrong with all of it comes first."""
    found: list[CheckedClip | Finding] = []
    try:
        reader.check_size(tar, record)
        with opened(tar) as file:
            reading = reader.TarPass(tar, file)
            for entry in record.clips:
                if deep:
                    found.append(_check_clip(reading, entry, record.options))
                reading.go_to(entry.offset + entry.bytes)
                on_frames(entry.frames)
            reader.check_sum(reading, record)
    except ShardError as error:
        found.insert(0, finding_of(tar, error))
    return found


def _check_clip(reading: reader.TarPass, entry: ClipEntry, options: Mapping[str, Any]) -> CheckedClip | Finding:
    try:
        return check_clip(reading, entry, options=options)
    except ShardError as error:
        return finding_of(reading.tar, error)


def _check_kinds(record: ShardRecord, clips: Sequence[CheckedClip]) -> Iterator[str]:
    """Compare each kind of member's record with what all clips hold, if all were read."""
    if len(clips) != len(record.clips):
        return
    members, size = Counter[str](), Counter[str]()
    for clip in clips:
        members.update({kind: count for kind, (count, _) in clip.kinds.items()})
        size.update({kind: total for kind, (_, total) in clip.kinds.items()})
    expected = {kind: [members[kind], size[kind]] for kind in sorted(members)}
    if dict(record.kinds) != expected:
        yield f"says {dict(record.kinds)} of its members, expected {expected}."


def check_canonical(data: bytes, *, where: str) -> Iterator[str]:
    """Yield a sentence if JSON in `where` is not spelt as this program spells it."""
    if canonical_json(parse_json(data, where=where).values) != data:
        yield "is not canonical JSON (sorted keys, no spaces, ASCII): it was changed after it was written."


def finding_of(file: StoragePath, error: ShardError) -> Finding:
    """Turn an error about a file into a finding."""
    return Finding(str(file), str(error).removeprefix(f"{file}: "))
