"""Files that are complete under their name or not there, on disks that may be full."""

import contextlib
import errno
import os
import shutil
from collections.abc import Generator
from pathlib import Path
from typing import BinaryIO, Protocol, runtime_checkable

from vdaprep.errors import OutputError

TEMPORARY = ".vdaprep-tmp"  # in the name of what is not complete
_CHUNK = 1 << 20  # bytes between two looks at the free space


@runtime_checkable
class Writer(Protocol):
    """What a new file is written through."""

    def write(self, data: bytes, /) -> object:
        """Add bytes; raises OutputError if they cannot be stored."""
        ...


class GuardedWriter:
    """Writes large pieces to a handle, looking at the free space before each; what goes wrong becomes a sentence.

    `path` names the file in sentences; the disk of its folder is never filled beyond `floor` bytes, even by `writers`
    processes at once. Raises OutputError.
    """

    def __init__(self, handle: int, path: Path, *, floor: int, writers: int) -> None:
        self._handle = handle
        self._path = path
        self._floor = floor
        self._writers = writers
        self._waiting: list[bytes] = []
        self._size = 0

    def write(self, data: bytes, /) -> None:
        """Add bytes."""
        self._waiting.append(data)
        self._size += len(data)
        if self._size >= _CHUNK:
            self._write_waiting()

    def flush(self) -> None:
        """Bring everything to the disk."""
        self._write_waiting()
        with as_sentence(self._path):
            os.fsync(self._handle)

    def _write_waiting(self) -> None:
        data = memoryview(b"".join(self._waiting))
        self._waiting, self._size = [], 0
        while data:
            self._keep_floor()
            with as_sentence(self._path):
                data = data[os.write(self._handle, data[:_CHUNK]) :]

    def _keep_floor(self) -> None:
        """Refuse to write if every process doing so now could bring the disk below the floor."""
        if not self._floor:
            return
        disk = os.statvfs(self._path.parent)
        free = disk.f_bavail * disk.f_frsize
        if free - self._writers * (_CHUNK + disk.f_frsize) < self._floor:
            raise OutputError(
                f"{self._path}: {free} bytes are free there and --min-free keeps {self._floor}; "
                "free some space and run the same command again: finished shards are kept."
            )


@contextlib.contextmanager
def as_sentence(path: Path) -> Generator[None]:
    """Raise OutputError, naming the path, for an OSError of the block."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        advice = "free some space" if full else "mend that"
        raise OutputError(
            f"{path}: cannot be written ({error.strerror}); "
            f"{advice} and run the same command again: finished shards are kept."
        ) from error


def make_folder(path: Path) -> None:
    """Make a folder so that it is still there after the power fails."""
    if path.is_dir():
        return
    make_folder(path.parent)
    path.mkdir(exist_ok=True)
    flush_folder(path.parent)


def flush_folder(path: Path) -> None:
    """Bring to the disk which files a folder has."""
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextlib.contextmanager
def new_path(path: Path) -> Generator[Path]:
    """Yield a temporary name beside `path`, for a file or a folder that takes its place when the block ends well.

    An error leaves nothing of it, and what was at `path`. The ending is kept: some writers choose the format by it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}{TEMPORARY}{path.suffix}")
    _remove(temporary)  # of a process that was killed
    try:
        yield temporary
        temporary.replace(path)
    finally:
        _remove(temporary)


@contextlib.contextmanager
def new_file(path: Path) -> Generator[BinaryIO]:
    """Open a temporary file that takes the name `path` once its bytes are on the disk; an error leaves nothing."""
    with new_path(path) as temporary, temporary.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8 that is complete under its name or not there."""
    with new_file(path) as file:
        file.write(text.encode("utf-8"))


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
