"""Shards on disk: a tar written whole or not at all, then its record; and the reading of both."""

import hashlib
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vdaprep.encode import EncodedClip
from vdaprep.errors import ShardError
from vdaprep.outputs import Output, write_file
from vdaprep.schema import Rejection, ShardRecord, member_kind, record_name
from vdaprep.tar import TarWriter, write_clip


@dataclass(frozen=True)
class Member:
    """One member of a tar: its place and its bytes."""

    name: str
    offset: int
    data: bytes


def write_shard(
    output: Output,
    name: str,
    clips: Iterable[EncodedClip],
    *,
    options: Mapping[str, Any],
    plan: str,
    rejected: list[Rejection],
) -> ShardRecord:
    """Write a tar, complete or not at all, then its record; a shard without record is none.

    `name` is the tar's path below the output. `rejected` is read after the last clip, so that encoding may add to it.
    Raises OutputError if either cannot be stored.
    """
    with output.new_file(name) as file:
        tar = TarWriter(file)
        entries = [write_clip(tar, clip) for clip in clips]
        tar.finish()
    record = ShardRecord(
        tar_name=name.rpartition("/")[2],
        tar_bytes=tar.offset,
        tar_sha256=tar.sha256,
        clips=tuple(entry for entry, _ in entries),
        options=options,
        plan=plan,
        kinds={kind: [tar.members[kind], tar.bytes[kind]] for kind in sorted(tar.members)},
        rejected=tuple(rejected),
        clamped_near=sum(clamped for _, clamped in entries),
    )
    write_file(output, record_name(name), record.to_bytes())
    return record


def read_record(tar: Path) -> ShardRecord:
    """Read the record beside a tar; raises ShardError if there is none or it is damaged."""
    path = tar.with_name(record_name(tar.name))
    try:
        return ShardRecord.from_bytes(path.read_bytes(), where=str(path))
    except FileNotFoundError as error:
        raise ShardError(
            f"{tar}: has no record {path.name} beside it, so it was never finished; run convert again."
        ) from error


def check_tar(tar: Path, record: ShardRecord) -> None:
    """Compare a tar with its record, size and SHA-256; raises ShardError if they differ."""
    if not tar.is_file():
        raise ShardError(f"{tar}: is missing, though its record is there; run convert again.")
    size = tar.stat().st_size
    if size != record.tar_bytes:
        raise ShardError(f"{tar}: has {size} bytes, its record says {record.tar_bytes}; the shard is cut or damaged.")
    with tar.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != record.tar_sha256:
        raise ShardError(f"{tar}: its SHA-256 is not the one in its record; the shard is damaged.")


def read_members(tar: Path, *, start: int = 0, stop: int | None = None) -> Iterator[Member]:
    """Yield the members of a tar between two offsets, in order; raises ShardError where it is no tar of ours."""
    with tar.open("rb") as file:
        file.seek(start)
        try:
            with tarfile.open(fileobj=file, mode="r:") as archive:
                for info in archive:
                    if stop is not None and info.offset >= stop:
                        return
                    content = archive.extractfile(info)
                    data = b"" if content is None else content.read()
                    if len(data) != info.size:
                        raise ShardError(f"{tar}: is cut short inside member {info.name}.")
                    member_kind(info.name)
                    yield Member(info.name, info.offset, data)
        except tarfile.TarError as error:
            raise ShardError(f"{tar}: is not readable as a tar ({error}).") from error
