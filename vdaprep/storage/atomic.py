"""Files that are complete under their name or not there, on disks that may be full."""

import contextlib
import errno
import os
import re
import shutil
import tempfile
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import BinaryIO, Protocol, runtime_checkable

from vdaprep.errors import OutputError, PlaceError

TEMPORARY = ".vdaprep-tmp"  # in the name of what is not complete
KEPT = "finished shards are kept"
_CHUNK = 1 << 20  # bytes between two looks at the free space
_BLOCK = 4096  # bytes that are written to see whether a disk takes any


@runtime_checkable
class Writer(Protocol):
    """What a new file is written through."""

    def write(self, data: bytes, /) -> object:
        """Add bytes; raises OutputError if they cannot be stored."""
        ...


class GuardedWriter:
    """Writes large pieces to a handle, watching the free space; failures are sentences.

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
        with as_sentence(self._path, kept=KEPT):
            os.fsync(self._handle)

    def _write_waiting(self) -> None:
        data = memoryview(b"".join(self._waiting))
        self._waiting, self._size = [], 0
        while data:
            self._keep_floor()
            with as_sentence(self._path, kept=KEPT):
                data = data[os.write(self._handle, data[:_CHUNK]) :]

    def _keep_floor(self) -> None:
        """Refuse to write if every process doing so now could bring the disk below the floor."""
        if not self._floor:
            return
        disk = os.statvfs(self._path.parent)
        free = disk.f_bavail * disk.f_frsize
        if free - self._writers * (_CHUNK + disk.f_frsize) < self._floor:
            raise OutputError(
                f"{self._path}: {free} bytes are free there and --min-free keeps {self._floor}; {_SPACE}; {KEPT}."
            )


@contextlib.contextmanager
def as_sentence(path: Path, *, kept: str = "") -> Generator[None]:
    """Raise OutputError, naming the path, for the block's OSError; `kept`: what is there."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"{write_error(error, path)}{kept and f'; {kept}'}.") from error


def write_error(error: OSError, path: Path | str) -> str:
    """Say what keeps a path from being written and what to do, without the full stop."""
    number = error.errno or 0
    return f"{path}: cannot be written ({error.strerror or error}); {_REMEDIES.get(number, _OTHER_REMEDY)}"


def system_sentence(error: OSError) -> str:
    """Say which file the system refuses, and why, where nothing else knows its purpose."""
    place = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
    remedy = _SPACE if error.errno in (errno.ENOSPC, errno.EDQUOT) else _OTHER_REMEDY
    return f"{place}the system refuses it ({error.strerror or error}); {remedy}."


_SPACE = "free some space and run the same command again"
_WAY = "choose another place: a part of that path is a file"
_RIGHT = "choose another place, or get the right to write there"
_REMEDIES = {
    errno.ENOSPC: _SPACE,
    errno.EDQUOT: _SPACE,
    errno.EFBIG: "allow larger files there (ulimit -f), or choose another place",
    errno.EACCES: _RIGHT,
    errno.EPERM: _RIGHT,
    errno.EROFS: "choose another place: that one is read-only",
    errno.ENOENT: "see that its folder is there, or choose another place",
    errno.ENOTDIR: _WAY,
    errno.EEXIST: _WAY,
    errno.EISDIR: "choose another name: there is a folder of that one",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ELOOP: "choose another place: links on the way lead in a circle",
}
_OTHER_REMEDY = "mend that and run the same command again"


def check_output(path: Path, *, inputs: Iterable[object] = ()) -> None:
    """Raise OutputError unless a file can be written at a path; leaves nothing there.

    Args:
        path: Where the file is to be; what is there will be replaced.
        inputs: Paths of files and folders that it must not be, under whatever name; what does not exist or is
            a URL is passed by.

    Raises:
        PlaceError: A folder or a device is there, it is an input, or a URL.
        OutputError: The folder that it is in cannot be made or written to.
    """
    _check_name(path)
    with as_sentence(path):
        if path.exists() and not path.is_file():
            found = "a folder" if path.is_dir() else "a device"
            raise PlaceError(f"{path}: is {found}; expected the name of a file to write.")
        _check_apart(path, inputs)
        _try_to_write(path.parent, name=_temporary_of(path).name)


def check_output_folder(path: Path, *, inputs: Iterable[object] = (), may_be_inside: bool = False) -> None:
    """Raise OutputError unless files can be written into a folder; leaves nothing there.

    Args:
        path: The folder.
        inputs: Paths of files and folders that it must neither be nor be in, under whatever name; what does not exist
            or is a URL is passed by.
        may_be_inside: Whether it may lie in an input: for who knows not to read it as such.

    Raises:
        PlaceError: A file is there, it is or is in an input, or it is a URL.
        OutputError: It cannot be made or written to.
    """
    inputs = [*inputs]
    _check_name(path)
    with as_sentence(path):
        if path.exists() and not path.is_dir():
            raise PlaceError(f"{path}: is a file; expected a folder to write into.")
        _check_apart(path, inputs)
        real = Path(os.path.realpath(path))  # Path.resolve raises RuntimeError for a circle
        for folder in [] if may_be_inside else _existing(real):
            for one in inputs:
                if _is_same(folder, one):
                    raise PlaceError(f"{path}: lies in the input {one}; choose a folder outside it.")
        _try_to_write(path)


def _check_name(path: Path) -> None:
    """Raise PlaceError for a URL, and for what no file can be called."""
    scheme = re.match(r"[a-z][a-z0-9+.-]+:/", str(path))
    if scheme and not Path(path.parts[0]).exists():
        raise PlaceError(f"{path}: is a URL; expected a path on this machine.")
    try:
        is_name = b"\0" not in os.fsencode(path)
    except UnicodeEncodeError:
        is_name = False
    if not is_name:
        raise PlaceError(f"{path}: has characters that no path can have; choose another name.")


def _check_apart(path: Path, inputs: Iterable[object]) -> None:
    for one in inputs:
        if _is_same(path, one):
            raise PlaceError(f"{path}: is also the input {one}, which would be lost; choose another name.")


def _is_same(path: Path, other: object) -> bool:
    """Tell whether two paths are one file or folder, through links and whatever the spelling."""
    try:
        state = os.stat(str(other))  # noqa: PTH116 - of a Path, an empty one would be the current folder
    except (OSError, ValueError):  # whoever reads it says why it cannot be
        return False
    return path.exists() and os.path.samestat(path.stat(), state)


def _existing(path: Path) -> list[Path]:
    """Return a path and the folders that it is in, those that exist, the nearest first."""
    return [one for one in (path, *path.parents) if one.exists()]


def _try_to_write(folder: Path, *, name: str = "") -> None:
    """Write a block into a file without a name, in the folder or in the nearest one that exists.

    Raises OSError, also for a link that leads nowhere, and if what is to be made, a file `name` included, cannot be
    called so.
    """
    nearest = _existing(folder.absolute())[0]
    missing = [*folder.absolute().parts[len(nearest.parts) :], name]
    if len(missing) > 1 and (nearest / missing[0]).is_symlink():
        raise FileNotFoundError(errno.ENOENT, f"{nearest / missing[0]} is a link that leads nowhere")
    if not nearest.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    if max(len(os.fsencode(part)) for part in missing) > os.pathconf(nearest, "PC_NAME_MAX"):
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
    with tempfile.TemporaryFile(dir=nearest, buffering=0) as file:
        file.write(bytes(_BLOCK))
        os.fsync(file.fileno())


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


def _temporary_of(path: Path) -> Path:
    return path.with_name(f"{path.name}{TEMPORARY}{path.suffix}")


@contextlib.contextmanager
def new_path(path: Path) -> Generator[Path]:
    """Yield a temporary name beside `path`, which it takes when the block ends well.

    An error leaves nothing of it, and what was at `path`. The ending is kept: some writers choose the format by it.
    Raises OutputError, naming the path, for an OSError, also of the block.
    """
    temporary = _temporary_of(path)
    with as_sentence(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove(temporary)  # of a process that was killed
        try:
            yield temporary
            temporary.replace(path)
        finally:
            _remove(temporary)


@contextlib.contextmanager
def new_file(path: Path) -> Generator[BinaryIO]:
    """Open a temporary file that takes the name `path` once its bytes are on the disk.

    Raises OutputError, naming the path, for an OSError, also of the block.
    """
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
