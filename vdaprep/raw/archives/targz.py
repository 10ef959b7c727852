"""Random access in a tar.gz, in parts or not: rapidgzip and seek points; zlib where damaged."""

import atexit
import contextlib
import io
import shutil
import tempfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

from vdaprep.raw.archives.parts import files_of, open_archive, open_parts
from vdaprep.raw.archives.spans import GzipSpan, Listing, SpanTable, TarSpan
from vdaprep.raw.archives.targz_index import NoSeekPointsError, make_seek_points, open_rapidgzip
from vdaprep.raw.archives.tars import list_tar
from vdaprep.storage.range_reader import Ranges, buffered

_CHUNK = 1 << 20  # inflated at once, at most
_READ_BYTES = 1 << 16
_CHECKPOINTS = 256  # of some 45 KB each
_CHECKPOINT_STEP = 4 << 20


def list_targz(path: str, on_bytes: Callable[[int], None] = lambda done: None) -> Listing:
    """List a tar.gz in one pass over it; of one that is cut short or damaged, what comes before.

    `on_bytes` is called now and then with the number of the file's bytes that were read. A file that has not changed
    since the last call, nor any of its parts, is not read again. Raises one of UNREADABLE if it is no tar.gz.
    """
    states = [(Path(file).absolute(), Path(file).stat()) for file in files_of(path)]
    identity = tuple((str(file), state.st_ino, state.st_size, state.st_mtime_ns) for file, state in states)
    known = _listed.get(identity)
    if known is None or not _has_index(known):
        known = _listed[identity] = _list_targz(path, on_bytes)
    return known


def _list_targz(path: str, on_bytes: Callable[[int], None]) -> Listing:
    index = str(_index_folder() / f"{next(_numbers)}.index")
    try:
        return make_seek_points(path, index, on_bytes)
    except NoSeekPointsError as error:
        with contextlib.closing(open_archive(path)) as file:
            return list_damaged(file, reason=str(error))


def _has_index(listing: Listing) -> bool:
    """Tell whether the seek points of a listing are still there, if it had any."""
    first = listing.spans[0] if listing.spans else None
    return not isinstance(first, GzipSpan) or not first.index or Path(first.index).is_file()


def open_gzip(path: str, *, index: str) -> Ranges:
    """Open the content of a gzip; far seeks are slow without its `index`."""
    if index in _carried:
        return IndexedGzip(path, io.BytesIO(_carried[index]))
    return IndexedGzip(path, index) if index and Path(index).is_file() else DamagedGzip(open_archive(path))


@dataclass(frozen=True)
class SeekPoints:
    """The seek points that a process has made, for other machines, which lack its files."""

    indexes: Mapping[str, bytes]
    """Content of the files of seek points, by their paths."""

    def __call__(self) -> None:
        """Let `open_gzip` find them in this process."""
        _carried.update(self.indexes)


def made_seek_points() -> SeekPoints:
    """Return the seek points that this process has made."""
    return SeekPoints({str(path): path.read_bytes() for path in sorted(_index_folder().glob("*.index"))})


_carried: dict[str, bytes] = {}
_listed: dict[tuple[tuple[str, int, int, int], ...], Listing] = {}


class IndexedGzip:
    """Content of an undamaged gzip, read by rapidgzip from seek points; 40 to 130 MB."""

    def __init__(self, path: str, index: str | io.BytesIO) -> None:
        self._parts = open_parts(path)
        self._file = open_rapidgzip(self._parts or path, threads=1)  # each thread would keep chunks of its own
        try:
            self._file.import_index(index)
        except (OSError, ValueError, RuntimeError):
            self.close()  # an open one keeps the process from ending
            raise

    @property
    def size(self) -> int:
        """Bytes of the content."""
        return self._file.size()

    def read(self, offset: int, size: int) -> bytes:
        """Return `size` bytes at `offset`, fewer only where the content ends."""
        self._file.seek(offset)
        data = bytearray(size)
        with memoryview(data) as view:
            position = 0
            while position < size and (read := self._file.readinto(view[position:])):
                position += read
        return bytes(data[:position])

    def close(self) -> None:
        """Close the file and end its threads."""
        self._file.close()
        if self._parts is not None:
            self._parts.close()


@dataclass(frozen=True)
class _Checkpoint:
    position: int  # in the content
    offset: int  # in the file
    inflate: Any  # zlib's own state


class DamagedGzip:
    """Content of a gzip up to where it is cut short or damaged, read by zlib.

    rapidgzip aborts the process at some damaged files, and takes some that are cut short for complete ones. Closing it
    closes the file.
    """

    def __init__(self, file: Ranges) -> None:
        self.damage = ""  # zlib's message, once it was met
        self._file = file
        self._checkpoints = [_Checkpoint(0, 0, zlib.decompressobj(16 + zlib.MAX_WBITS))]
        self._step = _CHECKPOINT_STEP
        self._load(self._checkpoints[0])

    @property
    def size(self) -> int:
        """Bytes of the content; decompresses all of it."""
        while self._ready or self._advance():
            self._skip(len(self._ready))
        return self._position

    def read(self, offset: int, size: int) -> bytes:
        """Return `size` bytes at `offset`, fewer only where the content ends or is damaged."""
        nearest = [item for item in self._checkpoints if item.position <= offset][-1]
        if offset < self._position or nearest.position > self._position:
            self._load(nearest)
        parts: list[bytes] = []
        while size > 0 and (self._ready or self._advance()):
            skipped = self._skip(min(offset - self._position, len(self._ready)))
            if skipped or not self._ready:
                continue
            parts.append(self._ready[:size])
            size -= len(parts[-1])
            offset += self._skip(len(parts[-1]))
        return b"".join(parts)

    @property
    def stop(self) -> int:
        """Where in the file decompressing stands."""
        return self._offset

    @property
    def rest(self) -> int:
        """Bytes of the file after the end of its last gzip; of use after `size`."""
        return self._file.size - self._offset if self._inflate.eof else 0

    @property
    def rest_is_zeros(self) -> bool:
        """Whether these are zeros, as far as the first of them tell."""
        return not self._file.read(self._offset, _CHUNK).strip(b"\0")

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _load(self, checkpoint: _Checkpoint) -> None:
        self._position, self._offset = checkpoint.position, checkpoint.offset
        self._ready = b""  # inflated, not yet asked for
        self._inflate = checkpoint.inflate.copy()

    def _skip(self, count: int) -> int:
        self._ready = self._ready[count:]
        self._position += count
        return count

    def _advance(self) -> bool:
        """Decompress a little more; False at the end, or where damage stops it."""
        self._keep_checkpoint()
        while not self._ready:
            stored = self._file.read(self._offset, _READ_BYTES)
            if self._inflate.eof and stored.startswith(b"\x1f\x8b"):
                self._inflate = zlib.decompressobj(16 + zlib.MAX_WBITS)
            if not stored or self._inflate.eof or not (taken := self._inflate_some(stored)):
                return False
            left = self._inflate.unused_data if self._inflate.eof else self._inflate.unconsumed_tail
            self._offset += taken - len(left)
        return True

    def _inflate_some(self, stored: bytes) -> int:
        """Decompress the next bytes and return how many: fewer at damage, 0 right before it."""
        taken = len(stored)
        while taken:
            before = self._inflate.copy()
            try:
                self._ready = self._inflate.decompress(stored[:taken], _CHUNK)
                return taken
            except zlib.error as error:
                self.damage = str(error)
                self._inflate, taken = before, taken // 2
        return 0

    def _keep_checkpoint(self) -> None:
        if self._position < self._checkpoints[-1].position + self._step:
            return
        self._checkpoints.append(_Checkpoint(self._position, self._offset, self._inflate.copy()))
        if len(self._checkpoints) > _CHECKPOINTS:
            self._checkpoints = self._checkpoints[::2]
            self._step *= 2


# ------------------------------------------------------------------------------------------------- making seek points


_numbers = count()


@cache
def _index_folder() -> Path:
    """Make the folder of this process's seek points; it is deleted when the process ends."""
    folder = Path(tempfile.mkdtemp(prefix="vdaprep-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def list_damaged(file: Ranges, *, reason: str) -> Listing:
    """List a tar.gz that rapidgzip fails at, for a `reason`, as far as zlib reads it.

    The file stays open. Raises one of UNREADABLE if it is no tar.gz.
    """
    content = DamagedGzip(file)
    found = list_tar(buffered(content))
    spans = [span for span in found.spans if isinstance(span, TarSpan)]
    table = SpanTable(GzipSpan, ([span.offset for span in spans], [span.size for span in spans]), "")
    if not found.is_whole:
        stop = content.stop if content.damage else None
        return Listing(found.names, table, found.problems, has_end=found.has_end, stop=stop)
    problem = f"makes rapidgzip fail ({reason}); it is read all the same, but slowly"
    stop: int | None = None
    if content.size and content.damage:  # inflated to its end, it shows whether there is any
        problem = f"is damaged ({content.damage}), maybe inside one of its members; get it again"
    elif rest := content.rest:
        stop = content.stop
        kind = "of zeros after its end" if content.rest_is_zeros else "after its end, which are no gzip"
        problem = f"goes on for {rest} bytes {kind}; get it again, or cut them off, as this makes reading slow"
    return Listing(found.names, table, [*found.problems, ("", problem)], stop=stop)
