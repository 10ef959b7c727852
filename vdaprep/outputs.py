"""A data set's folder of shards, where a file is complete under its name or not there."""

import contextlib
import errno
import fcntl
import os
import re
import secrets
from collections.abc import Generator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol, runtime_checkable

from vdaprep.errors import OutputError, UsageError
from vdaprep.schema import DATASET_FILE

_CHUNK = 1 << 20  # bytes between two looks at the free space
_TEMPORARY = ".vdaprep-tmp"
_OWN_TEMPORARY = re.compile(r"(shard-\d+\.(tar|json)|dataset\.json)\.[0-9a-f]{8}\.vdaprep-tmp")


@runtime_checkable
class Writer(Protocol):
    """What a new file is written through."""

    def write(self, data: bytes, /) -> object:
        """Add bytes; raises OutputError if they cannot be stored."""
        ...


@runtime_checkable
class Output(Protocol):
    """A folder that one conversion writes into; names are paths below it, `train/shard-0001.tar`."""

    def place(self, name: str = "") -> str:
        """Return a file's whole path or URL, for sentences."""
        ...

    def names(self) -> list[str]:
        """List the tars, records and `dataset.json` that are there, sorted."""
        ...

    def size(self, name: str) -> int | None:
        """Return a file's bytes, None if it is not there."""
        ...

    def read(self, name: str) -> bytes:
        """Return what a small file holds; raises FileNotFoundError."""
        ...

    def new_file(self, name: str) -> AbstractContextManager[Writer]:
        """Write a file that appears under its name, flushed to the disk, when the block ends without an error.

        Raises OutputError where it cannot be stored; nothing is left then.
        """
        ...

    def delete(self, name: str) -> None:
        """Delete a file."""
        ...

    def lock(self, *, part: str | None = None) -> AbstractContextManager[None]:
        """Hold the only right to write here, or, sharing it with other parts, to write this part.

        What a dead run left unfinished is removed first, unless parts may be writing it. Raises UsageError if another
        process holds the right; it ends with its process, however that ends.
        """
        ...


def write_file(output: Output, name: str, data: bytes) -> None:
    """Write a small file so that it is either complete under its name or not there."""
    with output.new_file(name) as file:
        file.write(data)


@dataclass(frozen=True)
class LocalOutput:
    """A folder on a disk that is never filled beyond `min_free` bytes, even by `writers` processes at once."""

    folder: Path
    min_free: int = 0
    writers: int = 1

    def place(self, name: str = "") -> str:
        """See Output."""
        return str(self.folder / name)

    def names(self) -> list[str]:
        """See Output."""
        found = [*self.folder.glob("*/shard-*.tar"), *self.folder.glob("*/shard-*.json")]
        found += [path for path in (self.folder / DATASET_FILE,) if path.is_file()]
        return sorted(path.relative_to(self.folder).as_posix() for path in found)

    def size(self, name: str) -> int | None:
        """See Output."""
        path = self.folder / name
        return path.stat().st_size if path.is_file() else None

    def read(self, name: str) -> bytes:
        """See Output."""
        return (self.folder / name).read_bytes()

    def delete(self, name: str) -> None:
        """See Output."""
        (self.folder / name).unlink()

    @contextlib.contextmanager
    def new_file(self, name: str) -> Generator[Writer]:
        """See Output."""
        path = self.folder / name
        # A name of its own: should two processes ever write the same file, each renames what it wrote itself.
        temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}{_TEMPORARY}")
        try:
            with _as_sentence(path):
                _make_folder(path.parent)
                file = temporary.open("xb", buffering=0)
            with file:
                writer = _GuardedWriter(file, path, floor=self.min_free, writers=self.writers)
                yield writer
                writer.flush()
            with _as_sentence(path):
                temporary.replace(path)
                _flush_folder(path.parent)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise

    @contextlib.contextmanager
    def lock(self, *, part: str | None = None) -> Generator[None]:
        """See Output. The lock is the folder's own; of a part also that of a file, which `convert --finish` removes."""
        with _as_sentence(self.folder):
            _make_folder(self.folder)
        with contextlib.ExitStack() as held:
            held.enter_context(_flock(self.folder, exclusive=part is None))
            if part is None:
                self._remove_unfinished()
                for path in self.folder.glob("part-*.lock"):
                    path.unlink()
            else:
                path = self.folder / f"part-{part}.lock"
                path.touch()
                held.enter_context(_flock(path, exclusive=True))
            try:
                yield
            finally:
                if part is None:
                    self._remove_unfinished()  # of workers that were killed

    def _remove_unfinished(self) -> None:
        for path in [*self.folder.glob(f"*{_TEMPORARY}"), *self.folder.glob(f"*/*{_TEMPORARY}")]:
            if _OWN_TEMPORARY.fullmatch(path.name) and path.is_file() and not path.is_symlink():
                path.unlink()


class _GuardedWriter:
    """Writes large pieces, looking at the free space before each; what goes wrong becomes a sentence."""

    def __init__(self, file: BinaryIO, path: Path, *, floor: int, writers: int) -> None:
        self._file = file
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
        with _as_sentence(self._path):
            os.fsync(self._file.fileno())

    def _write_waiting(self) -> None:
        data = memoryview(b"".join(self._waiting))
        self._waiting, self._size = [], 0
        self._keep_floor(len(data))
        with _as_sentence(self._path):
            while data:
                data = data[os.write(self._file.fileno(), data) :]

    def _keep_floor(self, count: int) -> None:
        """Refuse to write if every process doing so now could bring the disk below the floor."""
        if not self._floor:
            return
        disk = os.statvfs(self._path.parent)
        free = disk.f_bavail * disk.f_frsize
        if free - count - (self._writers - 1) * _CHUNK < self._floor:
            raise OutputError(
                f"{self._path}: {free} bytes are free there and --min-free keeps {self._floor}; "
                "free some space and run the same command again: finished shards are kept."
            )


@contextlib.contextmanager
def _as_sentence(path: Path) -> Generator[None]:
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        advice = "free some space" if full else "mend that"
        raise OutputError(
            f"{path}: cannot be written ({error.strerror}); "
            f"{advice} and run the same command again: finished shards are kept."
        ) from error


@contextlib.contextmanager
def _flock(path: Path, *, exclusive: bool) -> Generator[None]:
    handle = os.open(path, os.O_RDONLY)
    try:
        with _as_sentence(path):
            _take_lock(handle, path, fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH)
        yield
    finally:
        os.close(handle)


def _take_lock(handle: int, path: Path, kind: int) -> None:
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise UsageError(f"{path}: another vdaprep is writing there; wait for it, or choose another --out.") from error


def _make_folder(path: Path) -> None:
    """Make a folder so that it is still there after the power fails."""
    if path.is_dir():
        return
    _make_folder(path.parent)
    path.mkdir(exist_ok=True)
    _flush_folder(path.parent)


def _flush_folder(path: Path) -> None:
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
