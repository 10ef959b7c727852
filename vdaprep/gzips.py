"""Random access inside a tar.gz: rapidgzip with seek points made once; zlib where a file is damaged.

As a program (`python -m vdaprep.gzips ARCHIVE INDEX`) it makes the seek points and lists the members.
"""

import atexit
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zlib
from dataclasses import dataclass
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any, cast

import rapidgzip  # pyright: ignore[reportMissingModuleSource]

from vdaprep.containers import GzipSpan, Listing, TarSpan, list_tar, listing_to_json
from vdaprep.ranges import LocalFile, Ranges, buffered

_CHUNK = 1 << 20  # inflated at once, at most
_BITE = 1 << 16
_BUFFER = 1024
_CHECKPOINTS = 256  # of some 45 KB each
_CHECKPOINT_STEP = 4 << 20
_INDEXING_THREADS = 4  # each more takes up to 30 MB


def list_targz(path: str) -> Listing[GzipSpan]:
    """List a tar.gz in one pass over it; of one that is cut short or damaged, what comes before.

    Raises one of UNREADABLE if it is no tar.gz.
    """
    index = str(_index_folder() / f"{next(_numbers)}.index")
    try:
        found = _list_in_child(path, index)
    except _NoSeekPointsError as error:
        index, found = "", _list_damaged(path, reason=str(error))
    members = [(name, GzipSpan(span.offset, span.size, index)) for name, span in found.members]
    return Listing(members, found.problems)


def open_gzip(path: str, *, index: str) -> Ranges:
    """Open what a gzip holds; without its `index` every look backward or far ahead may take long."""
    return IndexedGzip(path, index) if index and Path(index).is_file() else DamagedGzip(path)


class IndexedGzip:
    """What a healthy gzip holds, read by rapidgzip from the nearest seek point; some 40 to 130 MB of memory."""

    def __init__(self, path: str, index: str) -> None:
        self._file = _open_rapidgzip(path, threads=1)  # each thread would keep chunks of its own
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


@dataclass(frozen=True)
class _Checkpoint:
    position: int  # in the content
    offset: int  # in the file
    inflate: Any  # zlib's own state


class DamagedGzip:
    """What a gzip holds up to where it is cut short or damaged, read by zlib.

    rapidgzip ends the whole process at some damaged files, and takes some that are cut for whole ones.
    """

    def __init__(self, path: str) -> None:
        self.damage = ""  # what zlib says of it, once met
        self._file = LocalFile(path)
        self._checkpoints = [_Checkpoint(0, 0, zlib.decompressobj(16 + zlib.MAX_WBITS))]
        self._step = _CHECKPOINT_STEP
        self._load(self._checkpoints[0])

    @property
    def size(self) -> int:
        """Bytes of the content; takes as long as inflating it all."""
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
        """Inflate a little more; False at the end, or where nothing more can be made of the file."""
        self._keep_checkpoint()
        while not self._ready:
            stored = self._file.read(self._offset, _BITE)
            if self._inflate.eof and stored.startswith(b"\x1f\x8b"):
                self._inflate = zlib.decompressobj(16 + zlib.MAX_WBITS)
            if not stored or self._inflate.eof or not (bite := self._inflate_some(stored)):
                return False
            left = self._inflate.unused_data if self._inflate.eof else self._inflate.unconsumed_tail
            self._offset += bite - len(left)
        return True

    def _inflate_some(self, stored: bytes) -> int:
        """Inflate what comes next and return how much was taken, less where that has damage; 0 right before it."""
        bite = len(stored)
        while bite:
            before = self._inflate.copy()
            try:
                self._ready = self._inflate.decompress(stored[:bite], _CHUNK)
                return bite
            except zlib.error as error:
                self.damage = str(error)
                self._inflate, bite = before, bite // 2
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
    """Make the folder that holds the seek points of this process; it goes when the process ends."""
    folder = Path(tempfile.mkdtemp(prefix="vdaprep-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


class _NoSeekPointsError(Exception):
    """The file is not a whole, healthy tar.gz; or, rarely, something else went wrong. The text is rapidgzip's."""


def _list_in_child(path: str, index: str) -> Listing[TarSpan]:
    """Make the seek points in a process that rapidgzip may end."""
    command = [sys.executable, "-m", "vdaprep.gzips", path, index]
    result = subprocess.run(command, capture_output=True, check=False)
    if result.returncode != 0:
        said = result.stderr.decode("utf-8", "replace").split("\n")
        raise _NoSeekPointsError(next((line.strip() for line in reversed(said) if line.strip()), "no reason is known"))
    value = json.loads(result.stdout)
    members = [(name, TarSpan(offset, size)) for name, offset, size in value["members"]]
    return Listing(members, [(member, reason) for member, reason in value["problems"]])


def _list_damaged(path: str, *, reason: str) -> Listing[TarSpan]:
    content = DamagedGzip(path)
    try:
        found = list_tar(buffered(content))
        if not found.is_whole:
            return found
        problem = f"makes rapidgzip fail ({reason}); it is read all the same, but slowly"
        if content.size and content.damage:  # inflated to its end, it shows whether there is any
            problem = f"is damaged ({content.damage}), maybe inside one of its members; get it again"
        return Listing(found.members, [*found.problems, ("", problem)])
    finally:
        content.close()


def _open_rapidgzip(path: str, *, threads: int) -> Any:
    return cast(Any, rapidgzip).RapidgzipFile(path, parallelization=threads)


def main(path: str, index: str) -> int:
    """Write seek points and print the listing; 1 if the archive is not whole."""
    file = _open_rapidgzip(path, threads=min(_INDEXING_THREADS, os.cpu_count() or 1))
    with io.BufferedReader(file, _BUFFER) as stream:
        listing = list_tar(stream)
        if not listing.is_whole:
            return 1
        stream.seek(0, io.SEEK_END)  # what comes after the tar's end mark is checked too
        file.export_index(index, cast(Any, rapidgzip).IndexFormat.GZTOOL)  # the one that keeps windows compressed
    sys.stdout.write(listing_to_json(listing))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
