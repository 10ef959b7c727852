"""Parts of a file by offset, whether it lies on this machine or behind a URL."""

import errno
import functools
import io
import os
import stat
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, Protocol, runtime_checkable

from vdaprep.storage.remote import RemoteFile
from vdaprep.storage.urls import is_url

MAX_FILE_BYTES = 1 << 28  # a single frame's file is never larger; a size that lies must not fill the memory


@runtime_checkable
class Ranges(Protocol):
    """A file that is read in parts, in any order."""

    @property
    def size(self) -> int:
        """Bytes of the file."""
        ...

    def read(self, offset: int, size: int) -> bytes:
        """Return `size` bytes at `offset`, fewer only where the file ends."""
        ...

    def close(self) -> None:
        """Let the file go; more than once does no harm."""
        ...


class LocalFile:
    """The Ranges of a file on this machine; raises OSError if it is none."""

    def __init__(self, path: str) -> None:
        self._handle: int | None = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe without a writer must not block
        status = os.fstat(self._handle)
        self._size = status.st_size
        if not stat.S_ISREG(status.st_mode):
            self.close()
            raise OSError(errno.EINVAL, "is not a regular file")

    @property
    def size(self) -> int:
        """Bytes of the file when it was opened."""
        return self._size

    def read(self, offset: int, size: int) -> bytes:
        """Return `size` bytes at `offset`, fewer only where the file ends."""
        assert self._handle is not None  # nobody reads what they closed
        wanted = max(0, min(size, self._size - offset))  # sizes that lie ask for more than there is
        parts: list[bytes] = []
        while wanted > 0 and (part := os.pread(self._handle, wanted, offset)):
            parts.append(part)
            wanted, offset = wanted - len(part), offset + len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def close(self) -> None:
        """Close the file."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


class Part:
    """The Ranges of a part of another file, which closing it leaves open."""

    def __init__(self, whole: Ranges, offset: int, size: int) -> None:
        self._whole, self._offset, self._size = whole, offset, size

    @property
    def size(self) -> int:
        """Bytes of the part."""
        return self._size

    def read(self, offset: int, size: int) -> bytes:
        """Return `size` bytes at `offset`, fewer only where the part ends."""
        return self._whole.read(self._offset + offset, max(0, min(size, self._size - offset)))

    def close(self) -> None:
        """Do nothing."""


class Joined:
    """The Ranges of files, paths or URLs, one after another; the one read last stays open."""

    def __init__(self, names: Sequence[str]) -> None:
        self._open = functools.cache(RemoteFile) if is_url(names[0]) else LocalFile  # that one holds nothing open
        self._names = names
        self._last: tuple[int, Ranges] | None = None
        self.sizes: list[int] = []
        """Bytes of each file."""
        for name in names:
            file = self._open(name)
            self.sizes.append(file.size)
            file.close()
        self._begins = list(accumulate(self.sizes, initial=0))

    @property
    def size(self) -> int:
        """Bytes of all."""
        return self._begins[-1]

    def read(self, offset: int, size: int) -> bytes:
        """Return `size` bytes at `offset`, fewer only at the end, or where one has shrunk."""
        stop = min(offset + size, self.size)
        parts: list[bytes] = []
        while offset < stop:
            index = bisect_right(self._begins, offset) - 1
            begin, end = self._begins[index : index + 2]
            wanted = min(stop, end) - offset
            parts.append(self._file(index).read(offset - begin, wanted))
            if len(parts[-1]) < wanted:
                break
            offset += wanted
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _file(self, index: int) -> Ranges:
        if self._last is None or self._last[0] != index:
            self.close()
            self._last = index, self._open(self._names[index])
        return self._last[1]

    def close(self) -> None:
        """Close the file that is open."""
        if self._last is not None:
            self._last[1].close()
            self._last = None


class Blocks:
    """The Ranges of another file, read a block at a time, which closing them leaves open.

    For a few bytes now and then, as of headers, where asking takes longer than to send what lies between.
    """

    def __init__(self, whole: Ranges, *, block_bytes: int) -> None:
        self._whole, self._block_bytes = whole, block_bytes
        self._begin, self._block = 0, b""

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self._whole.size

    def read(self, offset: int, size: int) -> bytes:
        """Return `size` bytes at `offset`, fewer only where the file ends."""
        stop = min(offset + size, self.size)
        if stop > offset and not self._begin <= offset < stop <= self._begin + len(self._block):
            self._begin, self._block = offset, self._whole.read(offset, max(size, self._block_bytes))
        start = max(0, offset - self._begin)
        return self._block[start : start + max(0, stop - offset)]

    def close(self) -> None:
        """Forget the block."""
        self._block = b""


class InMemory:
    """The Ranges of bytes."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    @property
    def size(self) -> int:
        """Their number."""
        return len(self._data)

    def read(self, offset: int, size: int) -> bytes:
        """Return `size` bytes at `offset`, fewer only at the end."""
        return self._data[offset : offset + size]

    def close(self) -> None:
        """Do nothing."""


class RangeStream(io.RawIOBase):
    """Ranges as the file object that `zipfile` and `tarfile` want; closes no Ranges."""

    def __init__(self, ranges: Ranges) -> None:
        super().__init__()
        self._ranges = ranges
        self._position = 0

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to an offset, as io.IOBase says."""
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position}.get(whence)
        target = offset + (self._ranges.size if start is None else start)
        if target < 0:
            raise ValueError(f"there is nothing at offset {target}")
        self._position = target
        return target

    def tell(self) -> int:
        """Return the offset of the next byte."""
        return self._position

    def readinto(self, buffer: Any, /) -> int:
        """Fill a buffer, as io.RawIOBase says."""
        with memoryview(buffer) as view:
            part = self._ranges.read(self._position, view.nbytes)
            view[: len(part)] = part
        self._position += len(part)
        return len(part)


def buffered(ranges: Ranges) -> io.BufferedReader:
    """Return Ranges as a file object with a small buffer, enough for a tar's headers."""
    return io.BufferedReader(RangeStream(ranges), buffer_size=1024)


def open_ranges(name: str) -> Ranges:
    """Open a path or URL; raises OSError without a file, DataError without an answer."""
    if is_url(name):
        return RemoteFile(name)
    return LocalFile(name)


def read_file(name: str) -> bytes:
    """Return a whole file, path or URL; ValueError beyond MAX_FILE_BYTES, and as above."""
    ranges = open_ranges(name)
    try:
        if ranges.size > MAX_FILE_BYTES:
            raise ValueError(f"is larger than {MAX_FILE_BYTES >> 20} MiB")
        return ranges.read(0, ranges.size)
    finally:
        ranges.close()
