"""Files below a folder deleted so that nothing outside of it can be: no link is followed."""

import contextlib
import os
import stat
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath


@dataclass(frozen=True)
class FileState:
    """What a file was when it was looked at; another file under its name is not deleted."""

    path: str
    size: int
    mtime_ns: int
    inode: int


def state_of(root: Path, path: str) -> FileState | None:
    """Look at a file below `root`; None if it is no regular file, or a link leads to it."""
    try:
        with _parent(root, path) as folder:
            found = os.stat(PurePosixPath(path).name, dir_fd=folder, follow_symlinks=False)
    except OSError:
        return None
    return FileState(path, found.st_size, found.st_mtime_ns, found.st_ino) if stat.S_ISREG(found.st_mode) else None


def has_changed(root: Path, file: FileState) -> bool:
    """Tell whether there is another file now; one that is gone has not changed."""
    return os.path.lexists(root / file.path) and state_of(root, file.path) != file


def delete(root: Path, file: FileState) -> bool:
    """Delete a file below `root` unless it has changed; tells whether it is gone. Raises OSError if it cannot be."""
    if has_changed(root, file):
        return False
    with contextlib.suppress(FileNotFoundError), _parent(root, file.path) as folder:
        os.unlink(PurePosixPath(file.path).name, dir_fd=folder)
    return True


def delete_empty_folders(root: Path, paths: Iterable[str]) -> None:
    """Delete the folders of these files, and those above up to `root`, as far as they are empty."""
    folders = {folder for path in paths for folder in PurePosixPath(path).parents if folder.name}
    for folder in sorted(folders, key=lambda item: len(item.parts), reverse=True):
        with contextlib.suppress(OSError), _parent(root, str(folder)) as parent:
            os.rmdir(folder.name, dir_fd=parent)


@contextlib.contextmanager
def _parent(root: Path, path: str) -> Generator[int]:
    """Open the folder of a path below `root`, through real folders only; raises OSError."""
    parts = PurePosixPath(path).parts
    if not parts or parts[0] == "/" or ".." in parts:
        raise OSError(f"{path} leads out of {root}")
    with contextlib.ExitStack() as opened:
        folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
        opened.callback(os.close, folder)
        for part in parts[:-1]:
            folder = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
            opened.callback(os.close, folder)
        yield folder
