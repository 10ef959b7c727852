"""TODO"""

import hashlib
import io
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from vdaprep.errors import ShardError
from vdaprep.shards import codec
from vdaprep.shards.metadata import ClipMeta
from vdaprep.shards.names import member_kind, record_name
from vdaprep.shards.records import ClipEntry, ShardRecord
from vdaprep.storage.paths import PIECE_BYTES, StoragePath, is_file, opened, read_bytes, size_of


@dataclass(frozen=True)
class Member:
    """One member of a tar: its place and its bytes."""

    name: str
    offset: int
    data: bytes


def read_record(tar: StoragePath) -> ShardRecord:
    """Read the record beside a tar; raises ShardError if there is none or it is damaged."""
    return ShardRecord.from_bytes(record_bytes(tar), where=str(tar.with_name(record_name(tar.name))))


def record_bytes(tar: StoragePath) -> bytes:
    """Return what the record beside a tar holds; raises ShardError if there is none."""
    path = tar.with_name(record_name(tar.name))
    try:
        return read_bytes(path)
    except FileNotFoundError as error:
        raise ShardError(
            f"{tar}: has no record {path.name} beside it, so it was never finished; run convert again."
        ) from error


def check_tar(tar: StoragePath, record: ShardRecord) -> None:
    """Compare a tar with its record, size and SHA-256; raises ShardError if they differ."""
    check_size(tar, record)
    with opened(tar) as file:
        check_sum(TarPass(tar, file), record)


def check_size(tar: StoragePath, record: ShardRecord) -> None:
    """Compare a tar's size with its record; raises ShardError if it differs or if there is no tar."""
    if not is_file(tar):
        raise ShardError(f"{tar}: is missing, though its record is there; run convert again.")
    size = size_of(tar)
    if size != record.tar_bytes:
        raise ShardError(f"{tar}: has {size} bytes, its record says {record.tar_bytes}; the shard is cut or damaged.")


class TarPass:
    """One way through a tar, front to back, on which every byte is summed up, those that nobody asks for too."""

    def __init__(self, tar: StoragePath, file: io.BufferedReader) -> None:
        self.tar = tar
        self._file = file
        self._position = 0
        self._sha256 = hashlib.sha256()

    def read(self, start: int, stop: int) -> bytes:
        """Return the bytes from one offset to another, fewer where the tar ends; raises ShardError to go back."""
        if start < self._position:
            raise ShardError(f"{self.tar}: two clips of the record share byte {start}.")
        self.go_to(start)
        return self._take(stop - start)

    def go_to(self, offset: int) -> None:
        """Pass over what lies before an offset; nothing happens if it was passed already."""
        while self._position < offset and self._take(min(PIECE_BYTES, offset - self._position)):
            pass

    def sha256(self) -> str:
        """Go on to the end; returns the SHA-256 of everything, in hexadecimal."""
        while self._take(PIECE_BYTES):
            pass
        return self._sha256.hexdigest()

    def _take(self, size: int) -> bytes:
        data = self._file.read(size)
        self._position += len(data)
        self._sha256.update(data)
        return data


def check_sum(reading: TarPass, record: ShardRecord) -> None:
    """Read a tar to its end and compare its SHA-256 with its record; raises ShardError if they differ."""
    if reading.sha256() != record.tar_sha256:
        raise ShardError(f"{reading.tar}: its SHA-256 is not the one in its record; the shard is damaged.")


def read_members(tar: StoragePath, *, start: int = 0, stop: int | None = None) -> Iterator[Member]:
    """Yield the members of a tar between two offsets, in order; raises ShardError where it is no tar of ours."""
    with opened(tar, start=start, stop=stop) as file:
        yield from _members(file, stop=stop, where=str(tar))


def members_in(data: bytes, *, where: str) -> Iterator[Member]:
    """Yield the members that a part of a tar holds, offsets being those in it; raises ShardError as `read_members`."""
    return _members(io.BytesIO(data), stop=len(data), where=where)


def _members(file: io.BufferedReader | io.BytesIO, *, stop: int | None, where: str) -> Iterator[Member]:
    try:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            for info in archive:
                content = archive.extractfile(info)
                data = b"" if content is None else content.read()
                if len(data) != info.size:
                    raise ShardError(f"{where}: is cut short inside member {info.name}.")
                member_kind(info.name)
                yield Member(info.name, info.offset, data)
                if stop is not None and info.offset_data + len(data) + -len(data) % tarfile.BLOCKSIZE >= stop:
                    return  # without a look at what comes next: it would have to be fetched
    except tarfile.TarError as error:
        raise ShardError(f"{where}: is not readable as a tar ({error}).") from error


def decode_clip(tar: StoragePath, clip: ClipEntry) -> Iterator[tuple[str, bytes, "np.ndarray | ClipMeta"]]:
    """Yield the members of a clip in order: kind, bytes, and the metadata or the array they decode to.

    Depth is in metres (nan unknown, inf sky), differences are in steps of `meta.diff.step` grey levels.
    """
    meta: ClipMeta | None = None
    for member in read_members(tar, start=clip.offset, stop=clip.offset + clip.bytes):
        key, _, kind = member_kind(member.name)
        where = f"{tar}: {member.name}"
        if key != clip.key or (meta is None) != (kind == "json"):
            raise ShardError(f"{where}: is not where the record says; the shard is damaged.")
        if meta is None:
            meta = ClipMeta.from_bytes(member.data, where=where)
            yield kind, member.data, meta
        else:
            yield kind, member.data, _decode(kind, member.data, meta, where=where)


def _decode(kind: str, data: bytes, meta: ClipMeta, *, where: str) -> np.ndarray:
    if kind == "rgb.jpg":
        return codec.decode_rgb(data, where=where)
    if kind == "depth.zst":
        return codec.decode_depth(data, meta.depth, height=meta.height, width=meta.width, where=where)
    if meta.diff is None:
        raise ShardError(f"{where}: a difference in a clip whose metadata says there is none.")
    return codec.decode_diff(data, meta.diff, height=meta.height, width=meta.width, where=where)
