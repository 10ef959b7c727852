"""A data set's folder of shards, where a file is complete under its name or not there."""

import contextlib
import fcntl
import os
import re
import secrets
from collections.abc import Generator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from vdaprep.errors import OutputError, UsageError
from vdaprep.shards.names import DATASET_FILE
from vdaprep.storage.atomic import TEMPORARY, GuardedWriter, as_sentence, flush_folder, make_folder
from vdaprep.storage.urls import is_url
from vdaprep.workers import signals

PLAN_FILE = "plan.json"
_OWN_TEMPORARY = re.compile(r"(shard-\d+\.(tar|json)|dataset\.json|plan\.json)\.[0-9a-f]{8}\.vdaprep-tmp")
_LOCK = ".vdaprep-lock"


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

        What dead runs left unfinished is removed first. Raises UsageError if another process holds the right; it ends
        with its process, however that ends.
        """
        ...


def open_output(place: str, *, min_free: int = 0, writers: int = 1) -> Output:
    """Return the output at a path or URL that `writers` processes write into at once; see LocalOutput.

    Raises UsageError for a URL that nothing can be written to.
    """
    place = place.removeprefix("file://")
    if is_url(place):
        from vdaprep.storage.remote_output import RemoteOutput  # what it needs takes long to import

        return RemoteOutput(place, min_free=min_free, writers=writers)
    return LocalOutput(Path(place), min_free=min_free, writers=writers)


def write_file(output: Output, name: str, data: bytes) -> None:
    """Write a small file so that it is either complete under its name or not there."""
    with output.new_file(name) as file:
        file.write(data)


@dataclass(frozen=True)
class LocalOutput:
    """A folder on a disk that is never filled beyond `min_free` bytes, even by `writers` processes at once.

    Whoever writes holds a lock, on the folder's lock file as on each temporary file: a lock ends with its process, so
    what nobody holds is of dead ones. Files are locked, not folders, which network file systems cannot lock.
    """

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
        path = self.folder / name
        with as_sentence(path):
            path.unlink()
            flush_folder(path.parent)

    @contextlib.contextmanager
    def new_file(self, name: str) -> Generator[Writer]:
        """See Output."""
        path = self.folder / name
        with as_sentence(path):
            make_folder(path.parent)
            _remove_unfinished(path.parent, f"{path.name}.*")  # of a worker that died on the same shard
        with signals.unwinding() as held:
            # A name of its own: should two processes ever write the same file, each renames what it wrote itself.
            temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}{TEMPORARY}")
            held.callback(temporary.unlink, missing_ok=True)
            with as_sentence(path):
                handle = held.enter_context(_locked(temporary, fcntl.LOCK_EX))  # none but removers contend
            writer = GuardedWriter(handle, path, floor=self.min_free, writers=self.writers)
            yield writer
            writer.flush()
            with as_sentence(path):
                temporary.replace(path)
                flush_folder(path.parent)

    @contextlib.contextmanager
    def lock(self, *, part: str | None = None) -> Generator[None]:
        """See Output. Those who write parts share the folder's lock, and each holds the one of its part."""
        with as_sentence(self.folder):
            make_folder(self.folder)
        with signals.unwinding() as held:
            with signals.deferred():
                held.enter_context(_right_to_write(self.folder / _LOCK, exclusive=part is None))
                if part is not None:
                    held.enter_context(_right_to_write(self.folder / f"{_LOCK}-{part}", exclusive=True))
            held.callback(self._clean)  # after workers that were killed
            self._clean()
            yield

    def _clean(self) -> None:
        with as_sentence(self.folder):
            for folder in (self.folder, *(path for path in self.folder.iterdir() if path.is_dir())):
                _remove_unfinished(folder, "*")


def _remove_unfinished(folder: Path, pattern: str) -> None:
    """Remove temporary files whose writers are dead."""
    for path in folder.glob(f"{pattern}{TEMPORARY}"):
        if not _OWN_TEMPORARY.fullmatch(path.name) or path.is_symlink() or not path.is_file():
            continue
        with contextlib.suppress(FileNotFoundError, BlockingIOError), _opened(path) as handle:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()


@contextlib.contextmanager
def _locked(path: Path, kind: int) -> Generator[int]:
    """Make a file if it is not there, and hold its lock; `kind` is what flock takes, raises what it raises."""
    with contextlib.ExitStack() as held:
        while True:
            handle = held.enter_context(_opened(path, os.O_CREAT))
            fcntl.flock(handle, kind)
            if os.fstat(handle).st_nlink:  # else it was taken away meanwhile, and the lock is of nothing
                break
            held.close()
        yield handle


@contextlib.contextmanager
def _right_to_write(path: Path, *, exclusive: bool) -> Generator[None]:
    """Hold a lock file's lock; whoever holds it alone takes the file away in the end."""
    kind = (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB
    with contextlib.ExitStack() as held:
        try:
            with as_sentence(path):
                held.enter_context(_locked(path, kind))
        except OutputError as error:
            if not isinstance(error.__cause__, BlockingIOError):
                raise
            place = path.parent
            raise UsageError(
                f"{place}: another vdaprep is writing there; wait for it, or choose another --out."
            ) from error
        if exclusive:
            held.callback(path.unlink, missing_ok=True)
        yield


@contextlib.contextmanager
def _opened(path: Path, flags: int = 0) -> Generator[int]:
    handle = os.open(path, os.O_RDWR | os.O_NOFOLLOW | flags, 0o666)  # writable: NFS locks nothing else
    try:
        yield handle
    finally:
        os.close(handle)
