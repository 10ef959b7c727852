"""A raw tree as one list of files, wherever each lies: in folders, in zip archives, or in both.

Nothing is unpacked to disk. A Tree is made once, by the planning process; workers get Locations and read them through a
Reader of their own.
"""

import os
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Protocol, runtime_checkable

from vdaprep.errors import DataError, FrameError
from vdaprep.schema import Rejection

MAX_FILE_BYTES = 1 << 28  # a single frame's file is never larger; a size that lies must not fill the memory
_OPEN_ARCHIVES = 8


@dataclass(frozen=True)
class Location:
    """Where a file lies: `container` is an archive's path below the root, or empty for the folder tree itself."""

    container: str
    member: str

    def __str__(self) -> str:
        return f"{self.container}: {self.member}" if self.container else self.member


@dataclass(frozen=True)
class Tree:
    """All files below a root: their path inside the data set and where they lie; what was passed over, and why."""

    root: Path
    files: Mapping[str, Location]
    problems: tuple[Rejection, ...]


@runtime_checkable
class _Container(Protocol):
    def names(self) -> Iterable[str]: ...
    def read(self, name: str) -> bytes: ...
    def close(self) -> None: ...


class _Folder:
    def __init__(self, path: Path) -> None:
        self._path = path

    def names(self) -> Iterable[str]:
        for folder, folders, files in os.walk(self._path):
            folders.sort()
            yield from (Path(folder, file).relative_to(self._path).as_posix() for file in sorted(files))

    def read(self, name: str) -> bytes:
        path = self._path / name
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ValueError(f"is larger than {MAX_FILE_BYTES >> 20} MiB")
        return path.read_bytes()

    def close(self) -> None:
        pass


class _Zip:
    def __init__(self, path: Path) -> None:
        self._zip = zipfile.ZipFile(path)

    def names(self) -> Iterable[str]:
        return [info.filename for info in self._zip.infolist() if not info.is_dir()]

    def read(self, name: str) -> bytes:
        info = self._zip.getinfo(name)
        if info.file_size > MAX_FILE_BYTES:
            raise ValueError(f"is larger than {MAX_FILE_BYTES >> 20} MiB")
        return self._zip.read(info)  # checks the CRC

    def close(self) -> None:
        self._zip.close()


_ARCHIVES = {".zip": _Zip}
_UNREADABLE = (OSError, EOFError, ValueError, RuntimeError, NotImplementedError, zipfile.BadZipFile, zlib.error)


def open_tree(root: Path) -> Tree:
    """List every file below `root`, a folder or one archive; of two with the same path the unpacked one counts.

    Archives that cannot be opened and members whose names would leave the tree are left out and listed in `problems`.
    Raises DataError if `root` does not exist.
    """
    if not root.exists():
        raise DataError(f"{root}: there is no such file or folder.")
    base, loose = (root.parent, [root.name]) if root.is_file() else (root, list(_Folder(root).names()))
    files: dict[str, Location] = {}
    problems: list[Rejection] = []
    archives = [name for name in loose if _is_archive(name)]
    files.update((name, Location("", name)) for name in loose if not _is_archive(name))
    for archive in archives:
        try:
            container = _open(base / archive)
        except _UNREADABLE as error:
            problems.append(Rejection(archive, f"cannot be opened as an archive ({error})"))
            continue
        for member in container.names():
            if _leaves_tree(member):
                problems.append(Rejection(f"{archive}: {member}", "the name leads out of the archive; left out"))
            else:
                files.setdefault(PurePosixPath(member).as_posix(), Location(archive, member))
        container.close()
    return Tree(root=base, files=files, problems=tuple(problems))


class Reader:
    """Reads Locations below a root, keeping a few archives open; a context manager, one per process."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._open: dict[str, _Container] = {}  # the least recently used first

    def read(self, location: Location) -> bytes:
        """Return the file's bytes; raises FrameError if it is missing, damaged or larger than MAX_FILE_BYTES."""
        try:
            return self._container(location.container).read(location.member)
        except FileNotFoundError as error:
            raise FrameError(str(location), "is missing") from error
        except KeyError as error:
            raise FrameError(str(location), "is not in the archive any more") from error
        except _UNREADABLE as error:
            raise FrameError(str(location), f"cannot be read ({error})") from error

    def close(self) -> None:
        """Close all archives."""
        while self._open:
            self._open.popitem()[1].close()

    def _container(self, name: str) -> _Container:
        container = self._open.pop(name, None) or _open(self._root / name)
        self._open[name] = container
        if len(self._open) > _OPEN_ARCHIVES:
            self._open.pop(next(iter(self._open))).close()
        return container

    def __enter__(self) -> "Reader":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _open(path: Path) -> _Container:
    return _ARCHIVES[path.suffix.lower()](path) if path.is_file() else _Folder(path)


def _is_archive(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in _ARCHIVES


def _leaves_tree(member: str) -> bool:
    parts = member.replace("\\", "/").split("/")
    return member.startswith(("/", "\\")) or ".." in parts or ":" in parts[0]
