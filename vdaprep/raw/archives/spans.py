"""Where members lie in their archives: a span each, and a compact table of them."""

import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, overload, runtime_checkable

import numpy as np

from vdaprep.raw.deflate import RAW_BITS, InflateError, Inflater
from vdaprep.shards.canonical import crc32
from vdaprep.storage.range_reader import MAX_FILE_BYTES, Ranges

MAX_PROBLEMS = 1000
"""Members of an archive that are named one by one; of more, their number is."""
UNREADABLE = (
    OSError, EOFError, ValueError, RuntimeError, NotImplementedError, OverflowError, IndexError,
    zipfile.BadZipFile, zlib.error, InflateError, tarfile.TarError,
)  # fmt: skip
"""Exceptions that damaged archives raise."""
_EXTRA_BYTES = 64  # a local header may have more extra fields than the directory tells; rarely more than this


@runtime_checkable
class Span(Protocol):
    """Where a member lies in its archive, found while planning, once for all workers."""

    @property
    def size(self) -> int:
        """Bytes of the member."""
        ...

    def read(self, archive: Ranges) -> bytes:
        """Return the member's bytes; raises one of UNREADABLE if damaged or too large."""
        ...


@dataclass(frozen=True, slots=True)
class TarSpan:
    """A member of a tar: `size` bytes at `offset`."""

    offset: int
    """Where its bytes begin."""
    size: int
    """Bytes."""

    def read(self, archive: Ranges) -> bytes:
        """Return the member's bytes, as `Span.read` says."""
        _expect_frame_size(self.size)
        data = archive.read(self.offset, self.size)
        if len(data) < self.size:
            raise EOFError(f"has {self.size} bytes, the archive ends after {len(data)} of them")
        return data


@dataclass(frozen=True, slots=True)
class GzipSpan(TarSpan):
    """A member of a tar.gz; its offset counts in the tar."""

    index: str
    """File of seek points; empty without one."""


@dataclass(frozen=True, slots=True)
class ZipSpan:
    """A member of a zip."""

    offset: int
    """Where its local header begins."""
    name_bytes: int
    """Of its name, in the directory."""
    stored: int
    """Bytes in the archive."""
    size: int
    """Bytes that these decompress to."""
    method: int
    """Number of the compression."""
    crc32: int
    """Of the decompressed bytes."""

    def read(self, archive: Ranges) -> bytes:
        """Return the member's bytes, as `Span.read` says; usually with one read of the archive."""
        _expect_frame_size(max(self.size, self.stored))
        guess = HEADER_BYTES + self.name_bytes + _EXTRA_BYTES + self.stored
        block = archive.read(self.offset, guess)
        if len(block) < HEADER_BYTES or not block.startswith(b"PK\3\4"):
            raise ValueError("is not where the zip's directory says")
        start = header_bytes(block)
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


HEADER_BYTES = 30  # of a zip's local header, before the name


def name_end(header: bytes) -> int:
    """Return where the name in a zip's local header ends."""
    return HEADER_BYTES + int.from_bytes(header[26:28], "little")


def header_bytes(header: bytes) -> int:
    """Return the bytes of a zip's local header, the name and extra fields after it included."""
    return name_end(header) + int.from_bytes(header[28:30], "little")


def _expect_frame_size(size: int) -> None:
    if size > MAX_FILE_BYTES:
        raise ValueError(f"is larger than {MAX_FILE_BYTES >> 20} MiB")


class SpanTable(Sequence[Span]):
    """The spans of an archive as columns of numbers: 20 bytes a member; objects take 300."""

    def __init__(self, kind: Any, columns: Sequence[Any], *more: str) -> None:
        """Hold a column for each field of `kind`, a span's class; `more`: fields alike for all."""
        self._kind, self._more = kind, more
        self._columns = [_narrow(column) for column in columns]

    def moved(self, offset: int) -> "SpanTable":
        """Return the spans of an archive that begins at an offset of another, in that one."""
        return SpanTable(self._kind, [self._columns[0].astype(np.uint64) + np.uint64(offset), *self._columns[1:]])

    def __len__(self) -> int:
        return len(self._columns[0])

    @overload
    def __getitem__(self, index: int) -> Span: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Span]: ...
    def __getitem__(self, index: int | slice) -> Span | Sequence[Span]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return self._kind(*(int(column[index]) for column in self._columns), *self._more)

    def __iter__(self) -> Iterator[Span]:
        return (self._kind(*values, *self._more) for values in zip(*(c.tolist() for c in self._columns), strict=True))


def _narrow(column: Any) -> np.ndarray:
    """Return a column in the smallest type of whole numbers that holds it."""
    values = np.asarray(column, np.uint64)
    return values.astype(np.min_scalar_type(int(values.max()))) if len(values) else values.astype(np.uint8)


@dataclass(frozen=True)
class Listing:
    """An archive's regular files in order, and its problems as (member or empty, sentence)."""

    names: Sequence[str] = ()
    """Names as the archive has them; bytes that are no text are surrogates."""
    spans: Sequence[Span] = ()
    """Where each lies."""
    problems: Sequence[tuple[str, str]] = ()
    """What was left out, or is wrong with the archive as a whole."""
    has_end: bool = True
    """Whether it was read up to its end mark."""
    stop: int | None = None
    """Where in the file its bytes are damaged, if that is known."""
    inner: "Sequence[Listing]" = ()
    """Of archives among its members whose bytes it has as they are; their spans count in this one's file."""

    @property
    def is_whole(self) -> bool:
        """Tell whether every byte of the archive is accounted for."""
        return all(member for member, _ in self.problems)


def note_problem(problems: list[tuple[str, str]], member: str, reason: str) -> None:
    """Add a member's problem; from MAX_PROBLEMS on they are only counted."""
    if len(problems) < MAX_PROBLEMS:
        problems.append((member, reason))
        return
    last, text = problems[-1]
    count = int(text.split()[1]) if not last and text.startswith("has ") else 0
    if count:
        problems.pop()
    problems.append(("", f"has {count + 1} more members that are left out"))
