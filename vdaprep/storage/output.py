"""A folder that one program writes into, on disk or in a store, file by whole file."""

import contextlib
import re
import secrets
from collections.abc import Generator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from vdaprep.errors import UsageError
from vdaprep.storage.atomic import KEPT, TEMPORARY, GuardedWriter, Writer, as_sentence, flush_folder, make_folder
from vdaprep.storage.locks import try_lock, try_open_locked
from vdaprep.storage.paths import StoragePath, open_path

_OWN_TEMPORARY = re.compile(r".+\.[0-9a-f]{8}" + re.escape(TEMPORARY))
_LOCK = ".vdaprep-lock"


@runtime_checkable
class OutputDir(Protocol):
    """A folder that one conversion writes into; names are paths, `train/shard-0001.tar`."""

    def path(self, name: str = "") -> StoragePath:
        """Return where a file lies, or the folder itself."""
        ...

    def place(self, name: str = "") -> str:
        """Return the same for sentences, without what is secret."""
        ...

    def names(self, pattern: str, *patterns: str) -> list[str]:
        """List the files whose whole names match a pattern, `*` matching no slash, sorted."""
        ...

    def size(self, name: str) -> int | None:
        """Return a file's bytes, None if it is not there."""
        ...

    def read(self, name: str) -> bytes:
        """Return what a small file holds; raises FileNotFoundError."""
        ...

    def new_file(self, name: str) -> AbstractContextManager[Writer]:
        """Write a file that appears under its name, flushed, when the block ends well.

        Raises OutputError where it cannot be stored; nothing is left then.
        """
        ...

    def delete(self, name: str) -> None:
        """Delete a file."""
        ...

    def lock(self, *, part: str | None = None) -> AbstractContextManager[None]:
        """Hold the right to write here, alone, or, with other parts' writers, this part.

        What dead runs left unfinished is removed first. Raises UsageError if another process holds the right.
        """
        ...


def open_output(place: str, *, min_free: int = 0, writers: int = 1, break_lock: bool = False) -> OutputDir:
    """Return the output at a path or URL for `writers` processes that write at once.

    Raises UsageError for a URL that nothing can be written to.
    """
    path = open_path(place)
    if isinstance(path, Path):
        return LocalOutput(path, min_free=min_free, writers=writers)
    from vdaprep.storage.stores.remote_output import RemoteOutput  # what it needs takes long to import

    return RemoteOutput(path, min_free=min_free, writers=writers, break_lock=break_lock)


def write_file(output: OutputDir, name: str, data: bytes) -> None:
    """Write a small file so that it is either complete under its name or not there."""
    with output.new_file(name) as file:
        file.write(data)


@dataclass(frozen=True)
class LocalOutput:
    """A folder on a disk of which `min_free` bytes stay free.

    Whoever writes holds a lock, on the folder's lock file as on each temporary file: a lock ends with its process, so a
    file that is not locked was left by a dead one. Files are locked, not folders, which network file systems cannot.
    """

    folder: Path
    """The folder."""
    min_free: int = 0
    """Bytes of the disk that stay free."""
    writers: int = 1
    """Processes that write at once."""

    def path(self, name: str = "") -> Path:
        """See OutputDir."""
        return self.folder / name

    def place(self, name: str = "") -> str:
        """See OutputDir."""
        return str(self.path(name))

    def names(self, pattern: str, *patterns: str) -> list[str]:
        """See OutputDir."""
        found = {path for wanted in (pattern, *patterns) for path in self.folder.glob(wanted) if path.is_file()}
        return sorted(path.relative_to(self.folder).as_posix() for path in found)

    def size(self, name: str) -> int | None:
        """See OutputDir."""
        path = self.path(name)
        return path.stat().st_size if path.is_file() else None

    def read(self, name: str) -> bytes:
        """See OutputDir."""
        return self.path(name).read_bytes()

    def delete(self, name: str) -> None:
        """See OutputDir."""
        path = self.path(name)
        with as_sentence(path, kept=KEPT):
            path.unlink()
            flush_folder(path.parent)

    @contextlib.contextmanager
    def new_file(self, name: str) -> Generator[Writer]:
        """See OutputDir."""
        path = self.path(name)
        with as_sentence(path, kept=KEPT):
            make_folder(path.parent)
            _remove_unfinished(path.parent, f"{path.name}.*")  # of a worker that died on the same shard
        with contextlib.ExitStack() as held:
            # A name of its own: should two processes ever write the same file, each renames what it wrote itself.
            temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}{TEMPORARY}")
            held.callback(temporary.unlink, missing_ok=True)
            with as_sentence(path, kept=KEPT):
                handle = held.enter_context(_locked_while_written(temporary))
            writer = GuardedWriter(handle, path, floor=self.min_free, writers=self.writers)
            yield writer
            writer.flush()
            with as_sentence(path, kept=KEPT):
                temporary.replace(path)
                flush_folder(path.parent)

    @contextlib.contextmanager
    def lock(self, *, part: str | None = None) -> Generator[None]:
        """See OutputDir. Writers of parts share the folder's lock; each holds its part's."""
        with as_sentence(self.folder, kept=KEPT):
            make_folder(self.folder)
        with contextlib.ExitStack() as held:
            held.enter_context(_right_to_write(self.folder / _LOCK, exclusive=part is None))
            if part is not None:
                held.enter_context(_right_to_write(self.folder / f"{_LOCK}-{part}", exclusive=True))
            held.callback(self._clean)  # after workers that were killed
            self._clean()
            yield

    def _clean(self) -> None:
        with as_sentence(self.folder, kept=KEPT):
            for folder in (self.folder, *(path for path in self.folder.iterdir() if path.is_dir())):
                _remove_unfinished(folder, "*")


def _remove_unfinished(folder: Path, pattern: str) -> None:
    """Remove temporary files whose writers are dead."""
    for path in folder.glob(f"{pattern}{TEMPORARY}"):
        if _OWN_TEMPORARY.fullmatch(path.name):
            _remove_unheld(path)


def _remove_unheld(path: Path) -> None:
    """Remove a file that no process has locked; nothing happens to a link, or if there is none."""
    if path.is_symlink() or not path.is_file():
        return
    with contextlib.suppress(FileNotFoundError), path.open("r+b") as file:
        if try_lock(file, shared=False):
            path.unlink()


@contextlib.contextmanager
def _locked_while_written(path: Path) -> Generator[int]:
    """Make a file and lock it against those who remove what dead writers left."""
    while (file := try_open_locked(path)) is None:  # one of them holds it for a moment
        pass
    with file:
        yield file.fileno()


@contextlib.contextmanager
def _right_to_write(path: Path, *, exclusive: bool) -> Generator[None]:
    """Hold a lock file's lock; whoever holds it alone deletes the file in the end."""
    file = None
    try:
        with as_sentence(path, kept=KEPT):
            file = try_open_locked(path, shared=not exclusive)
        if file is None:
            raise UsageError(f"{path.parent}: another vdaprep is writing there; wait for it, or choose another --out.")
        yield
    finally:
        if exclusive and file is not None:
            path.unlink(missing_ok=True)
        elif exclusive:
            with contextlib.suppress(OSError):  # a signal may have come between making the file and returning it
                _remove_unheld(path)
        if file is not None:
            file.close()
