"""Zip and tar: list the members of an archive, where their bytes lie, and read them."""

import io
import json
import stat
import struct
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar, runtime_checkable

from vdaprep.raw.deflate import RAW_BITS, InflateError, Inflater
from vdaprep.shards.canonical import crc32
from vdaprep.storage.range_reader import MAX_FILE_BYTES, Ranges

_ZIP_HEADER = struct.Struct("<4s22xHH")
_ZIP_EXTRA_BYTES = 64  # a local header may have more extra fields than the directory tells; rarely more than this
_BLOCK = 512
UNREADABLE = (
    OSError, EOFError, ValueError, RuntimeError, NotImplementedError, OverflowError, IndexError,
    zipfile.BadZipFile, zlib.error, InflateError, tarfile.TarError,
)  # fmt: skip
"""Exceptions that damaged archives raise."""


@runtime_checkable
class Span(Protocol):
    """Where a member lies in its archive: made while planning, so that workers need not list the archive."""

    def read(self, archive: Ranges) -> bytes:
        """Return the member's bytes; raises one of UNREADABLE if they are damaged or more than MAX_FILE_BYTES."""
        ...


@dataclass(frozen=True, slots=True)
class TarSpan:
    """A member of a tar: `size` bytes at `offset`."""

    offset: int
    size: int

    def read(self, archive: Ranges) -> bytes:
        """Return the member's bytes, as `Span.read` says."""
        _expect_frame_size(self.size)
        data = archive.read(self.offset, self.size)
        if len(data) < self.size:
            raise EOFError(f"has {self.size} bytes, the archive ends after {len(data)} of them")
        return data


@dataclass(frozen=True, slots=True)
class GzipSpan(TarSpan):
    """A member of a tar.gz, `offset` counts in the tar; `index` is a file of seek points, or empty."""

    index: str


@dataclass(frozen=True, slots=True)
class ZipSpan:
    """A member of a zip: `stored` bytes, which `method` turns into `size`, after the header that begins at `offset`."""

    offset: int
    name_bytes: int
    stored: int
    size: int
    method: int
    crc32: int

    def read(self, archive: Ranges) -> bytes:
        """Return the member's bytes, as `Span.read` says; usually with one read of the archive."""
        _expect_frame_size(max(self.size, self.stored))
        guess = _ZIP_HEADER.size + self.name_bytes + _ZIP_EXTRA_BYTES + self.stored
        block = archive.read(self.offset, guess)
        if len(block) < _ZIP_HEADER.size or not block.startswith(b"PK\3\4"):
            raise ValueError("is not where the zip's directory says")
        _, name_bytes, extra_bytes = _ZIP_HEADER.unpack_from(block)
        start = _ZIP_HEADER.size + name_bytes + extra_bytes
        if start + self.stored > len(block):
            block += archive.read(self.offset + len(block), start + self.stored - len(block))
        return self._unpack(block[start : start + self.stored])

    def _unpack(self, stored: bytes) -> bytes:
        if len(stored) < self.stored:
            raise EOFError("the zip ends in the middle of it")
        packed = self.method == zipfile.ZIP_DEFLATED
        data = Inflater(RAW_BITS).inflate(stored, limit=self.size + 1) if packed else stored
        if len(data) != self.size:
            found = f"more than {self.size}" if len(data) > self.size else str(len(data))
            raise ValueError(f"holds {found} bytes, the zip's directory says {self.size}")
        if crc32(data) != self.crc32:
            raise ValueError("its bytes are not those that the zip's CRC-32 is of")
        return data


AnySpan = TypeVar("AnySpan", bound=Span, covariant=True)


@dataclass(frozen=True)
class Listing(Generic[AnySpan]):
    """An archive's regular files in order, as (name, span), and its problems as (member or empty, sentence)."""

    members: Sequence[tuple[str, AnySpan]]
    problems: Sequence[tuple[str, str]]

    @property
    def is_whole(self) -> bool:
        """Tell whether the archive was read to its end."""
        return all(member for member, _ in self.problems)


def _expect_frame_size(size: int) -> None:
    if size > MAX_FILE_BYTES:
        raise ValueError(f"is larger than {MAX_FILE_BYTES >> 20} MiB")


# ---------------------------------------------------------------------------------------------------------------- zip


def list_zip(stream: io.BufferedReader) -> Listing[ZipSpan]:
    """List a zip from its central directory; raises one of UNREADABLE if that is damaged."""
    members: list[tuple[str, ZipSpan]] = []
    problems: list[tuple[str, str]] = []
    with zipfile.ZipFile(stream) as file:
        for info in file.infolist():
            if info.is_dir():
                continue
            if problem := _zip_problem(info):
                problems.append((info.filename, problem))
            else:
                members.append((info.filename, _zip_span(info)))
    return Listing(members, problems)


def _zip_span(info: zipfile.ZipInfo) -> ZipSpan:
    return ZipSpan(
        offset=info.header_offset,
        name_bytes=len(info.orig_filename.encode("utf-8", "replace")),
        stored=info.compress_size,
        size=info.file_size,
        method=info.compress_type,
        crc32=info.CRC,
    )


def _zip_problem(info: zipfile.ZipInfo) -> str | None:
    if stat.S_ISLNK(info.external_attr >> 16):
        return "is a symbolic link; left out"
    if info.flag_bits & 1:
        return "is encrypted; left out"
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return f"is packed by method {info.compress_type}, only 0 (stored) and 8 (deflated) are read; left out"
    return None


# ---------------------------------------------------------------------------------------------------------------- tar


def list_tar(stream: io.BufferedReader) -> Listing[TarSpan]:
    """List a tar by seeking from header to header; of one that is cut short or damaged, what comes before.

    Raises one of UNREADABLE if it does not begin as a tar does.
    """
    members: list[tuple[str, TarSpan]] = []
    problems: list[tuple[str, str]] = []
    # Names that are no UTF-8 are spelt out: they go into messages and JSON.
    with tarfile.open(fileobj=stream, mode="r:", encoding="utf-8", errors="backslashreplace") as file:
        for info in _headers(file):
            if problem := _tar_problem(info):
                problems.append((info.name, problem))
            elif _is_whole(stream, info):
                members.append((info.name, TarSpan(info.offset_data, info.size)))
            else:
                problems.append(("", _cut_short(len(members), inside=info)))
                return Listing(members, problems)
        stream.seek(file.offset)
        block = stream.read(_BLOCK)
    if len(block) < _BLOCK:
        problems.append(("", _cut_short(len(members), inside=None)))
    elif block.strip(b"\0"):
        problems.append(("", f"is damaged after {len(members)} members; get it again to have the rest"))
    return Listing(members, problems)


def _headers(file: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Yield the headers that can be read, all but folders; the file's offset is then where reading stopped."""
    try:
        for info in file:
            if info.size < 0:  # the next header would be looked for before this one
                return
            if not info.isdir():
                yield info
    except UNREADABLE:
        return


def _tar_problem(info: tarfile.TarInfo) -> str | None:
    kinds = {
        tarfile.SYMTYPE: "a symbolic link",
        tarfile.LNKTYPE: "a hard link",
        tarfile.CHRTYPE: "a device",
        tarfile.BLKTYPE: "a device",
        tarfile.FIFOTYPE: "a pipe",
    }
    if info.isreg() and not info.issparse():
        return None
    return f"is {kinds.get(info.type, 'not a plain file')}; left out"


def _is_whole(stream: io.BufferedReader, info: tarfile.TarInfo) -> bool:
    if info.size == 0:
        return True
    last = info.offset_data + info.size - 1
    if last > sys.maxsize:
        return False
    stream.seek(last)
    return bool(stream.read(1))


def _cut_short(members: int, *, inside: tarfile.TarInfo | None) -> str:
    where = "" if inside is None else f", inside {inside.name}, which should have {inside.size} bytes"
    return f"is cut short after {members} members{where}; get it again to have the rest"


def listing_to_json(listing: Listing[TarSpan]) -> str:
    """Write a tar's listing for another process."""
    members = [(name, span.offset, span.size) for name, span in listing.members]
    return json.dumps({"members": members, "problems": listing.problems})
