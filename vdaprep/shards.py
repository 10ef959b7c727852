"""Shards on disk: a tar written whole or not at all, then its record; and the reading of both."""

import contextlib
import hashlib
import os
import tarfile
import zlib
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from vdaprep.encode import EncodedClip
from vdaprep.errors import ShardError
from vdaprep.schema import ClipEntry, Rejection, ShardRecord, member_kind, member_name, record_name

_TEMPORARY = ".vdaprep-tmp"  # ends the name of a file that is not complete


@dataclass(frozen=True)
class Member:
    """One member of a tar: its place and its bytes."""

    name: str
    offset: int
    data: bytes


def write_shard(
    path: Path, clips: Iterable[EncodedClip], *, options: Mapping[str, Any], plan: str, rejected: list[Rejection]
) -> ShardRecord:
    """Write a tar under a temporary name, flush it, rename it, then write its record; a shard without record is none.

    `rejected` is read after the last clip, so that encoding may add to it. Raises OSError if the disk does.
    """
    with _new_file(path) as file:
        tar = _TarWriter(file)
        entries = [_write_clip(tar, clip) for clip in clips]
        tar.finish()
    record = ShardRecord(
        tar_name=path.name,
        tar_bytes=tar.offset,
        tar_sha256=tar.sha256.hexdigest(),
        clips=tuple(entry for entry, _ in entries),
        options=options,
        plan=plan,
        kinds={kind: [tar.members[kind], tar.bytes[kind]] for kind in sorted(tar.members)},
        rejected=tuple(rejected),
        clamped_near=sum(clamped for _, clamped in entries),
    )
    write_file(path.with_name(record_name(path.name)), record.to_bytes())
    return record


def write_file(path: Path, data: bytes) -> None:
    """Write a small file so that it is either complete under its name or not there."""
    with _new_file(path) as file:
        file.write(data)


def remove_unfinished(folder: Path) -> None:
    """Delete the temporary files that a dead run left below a folder; call it only while no other run writes there."""
    for path in folder.rglob(f"*{_TEMPORARY}"):
        path.unlink()


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


class _TarWriter:
    """Writes USTAR members with mtime, uid and gid 0 and mode 0644, so that equal clips are equal bytes."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.offset = 0
        self.sha256 = hashlib.sha256()
        self._crc32 = 0
        self.members: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()

    def add(self, key: str, frame: int | None, kind: str, data: bytes) -> None:
        info = tarfile.TarInfo(member_name(key, frame, kind))
        info.size = len(data)
        self._write(info.tobuf(tarfile.USTAR_FORMAT))
        self._write(data)
        self._write(bytes(-len(data) % tarfile.BLOCKSIZE))
        self.members[kind] += 1
        self.bytes[kind] += len(data)

    def finish(self) -> None:
        self._write(bytes(2 * tarfile.BLOCKSIZE))
        self._write(bytes(-self.offset % tarfile.RECORDSIZE))

    def take_crc32(self) -> int:
        """Return the CRC-32 of what was written since the last call."""
        taken, self._crc32 = self._crc32, 0
        return taken

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self.sha256.update(data)
        self._crc32 = zlib.crc32(data, self._crc32)
        self.offset += len(data)


def _write_clip(tar: _TarWriter, clip: EncodedClip) -> tuple[ClipEntry, int]:
    start = tar.offset
    tar.add(clip.key, None, "json", clip.meta.to_bytes())
    frame_offsets: list[int] = []
    checksums = [tar.take_crc32()]
    for number, members in enumerate(clip.frames):
        frame_offsets.append(tar.offset)
        for kind, data in members:
            tar.add(clip.key, number, kind, data)
        checksums.append(tar.take_crc32())
    entry = ClipEntry(
        clip.key, start, tar.offset - start, len(clip.frames), tuple(frame_offsets), crc32=tuple(checksums)
    )
    return entry, clip.clamped_near


@contextlib.contextmanager
def _new_file(path: Path) -> Generator[BinaryIO]:
    """Open a temporary file that takes the name `path` once its bytes are on the disk; an error leaves nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + _TEMPORARY)
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
