"""One path type for files on this machine and behind URLs, and what is read through it.

What cannot be read is an OSError, whose `strerror` says why (FileNotFoundError where there is nothing), or where a
docstring says so a ShardError, which names the path.
"""

import contextlib
import errno
import fnmatch
import io
import os
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit, urlunsplit

from vdaprep.errors import DataError, ShardError, UsageError
from vdaprep.storage import remote
from vdaprep.storage.limits import MAX_DOCUMENT_BYTES
from vdaprep.storage.range_reader import RangeStream, open_ranges
from vdaprep.storage.retry import UnreachableError
from vdaprep.storage.urls import begins_url, is_url, join_url, redact, split_urls

PIECE_BYTES = 8 << 20  # of a file that is read to its end: a request each where it lies behind a URL
_STREAM_BYTES = 1 << 20
_LEAST_BYTES = 1024


@dataclass(frozen=True, order=True, repr=False)
class RemotePath:
    """A file or folder behind a URL, used as a Path is; above the top is the top.

    Its text shows neither user, password, query nor fragment; the query (a token) travels along to other names.
    """

    url: str
    """The whole URL, secrets included: for requests alone."""

    def __str__(self) -> str:
        return redact(self.url)

    def __repr__(self) -> str:
        return f"RemotePath({str(self)!r})"

    def __truediv__(self, name: str) -> "RemotePath":
        return RemotePath(join_url(self.url, name))

    @property
    def name(self) -> str:
        """The last part; that of the top is its host or bucket."""
        parts = urlsplit(self.url)
        return PurePosixPath(parts.path).name or parts.netloc.rpartition("@")[2]

    @property
    def suffix(self) -> str:
        """The last part's ending, with its dot; the top has none."""
        return "" if self.parent == self else Path(self.name).suffix

    @property
    def parent(self) -> "RemotePath":
        """The folder that it is in."""
        parts = urlsplit(self.url)
        path = parts.path.rstrip("/")
        return RemotePath(urlunsplit(parts._replace(path=path.rpartition("/")[0]))) if path else self

    @property
    def parents(self) -> "list[RemotePath]":
        """All folders that it is in, the nearest first."""
        return [] if self.parent == self else [self.parent, *self.parent.parents]

    def with_name(self, name: str) -> "RemotePath":
        """Name another file beside it."""
        return self.parent / name

    def read_bytes(self) -> bytes:
        """Return what a small file holds; raises OSError for one of more than MAX_DOCUMENT_BYTES."""
        return _document(remote.stream(self.url, MAX_DOCUMENT_BYTES + 1))


StoragePath = Path | RemotePath


def open_path(text: str | Path) -> StoragePath:
    """Return the path or URL that a user gave; raises UsageError for no URL."""
    text = str(text).removeprefix("file://")
    if not is_url(text):
        return Path(text)
    split_urls(text)  # which looks at each
    parts = urlsplit(text)
    return RemotePath(urlunsplit(parts._replace(path=parts.path.rstrip("/"))))


def open_paths(text: str | Path) -> list[StoragePath]:
    """Return the paths and URLs, separated by commas, that a user gave; a Path is one.

    A comma before a URL always separates. One before a path belongs to the name of a file or folder where there is such
    a one, and to a URL that it is in where what follows is not there. Raises UsageError for no URL, or for nothing
    between two commas.
    """
    if isinstance(text, Path) or "," not in text:
        return [open_path(text)]
    found = _split_places(text)
    if not all(found):
        raise UsageError(f"{redact(text)}: has a comma with nothing before or behind it; expected paths or URLs there.")
    return [open_path(part) for part in found]


def _split_places(text: str) -> list[str]:
    """Split at the commas that belong to no URL and no name, the longest that there is."""
    parts = text.split(",")
    found: list[str] = []
    while parts:
        names = (",".join(parts[:count]) for count in range(len(parts), 0, -1))
        there = next((name for name in names if name and Path(name).exists()), None)
        if there is not None:
            parts = parts[there.count(",") + 1 :]
            found.append(there)
        elif found and is_url(found[-1]) and parts[0].strip() and not begins_url(parts[0]):
            found[-1] += f",{parts.pop(0)}"
        else:
            found.append(parts.pop(0).strip())
    return found


def sort_paths(paths: Iterable[StoragePath]) -> list[StoragePath]:
    """Sort, as paths are sorted."""
    return sorted(paths, key=lambda path: str(path).split("/"))


def list_files(folder: StoragePath, *patterns: str) -> list[StoragePath]:
    """List a folder's files whose names match a pattern, sorted; none without a folder.

    Raises ShardError if a server refuses that, DataError if it does not answer.
    """
    if isinstance(folder, Path):
        return sort_paths({path for pattern in patterns for path in folder.rglob(pattern)})
    try:
        names = remote.files(folder.url)
    except FileNotFoundError as error:
        raise ShardError(f"{folder}: there is nothing there ({_reason(error)}).") from error
    except UnreachableError as error:
        raise DataError(f"{folder}: {_reason(error)}.") from error
    except OSError as error:
        raise ShardError(f"{folder}: cannot be listed ({_reason(error)}).") from error
    files = (folder / name for name in names)
    return sort_paths(file for file in files if any(fnmatch.fnmatchcase(file.name, pattern) for pattern in patterns))


def list_folders(folder: StoragePath) -> list[StoragePath]:
    """List the folders in a folder, sorted by name; none of a server that does not list them."""
    if isinstance(folder, Path):
        return [*sorted(path for path in folder.iterdir() if path.is_dir())]
    return [folder / name for name in remote.folders(folder.url)]


def is_file(path: StoragePath) -> bool:
    """Tell whether there is such a file; raises ShardError if a server does not tell."""
    if isinstance(path, Path):
        return path.is_file()
    try:
        with reading(path):
            size_of(path)
    except FileNotFoundError:
        return False
    return True


def size_of(path: StoragePath) -> int | None:
    """Return a file's bytes, None where a server does not tell."""
    return path.stat().st_size if isinstance(path, Path) else remote.size(path.url)


def read_bytes(path: StoragePath) -> bytes:
    """Return a small file's bytes; raises FileNotFoundError, or ShardError if unreadable."""
    with reading(path):
        return document_bytes(path)


def document_bytes(path: StoragePath) -> bytes:
    """Return a small file's bytes; raises OSError, also beyond MAX_DOCUMENT_BYTES."""
    if isinstance(path, RemotePath):
        return path.read_bytes()
    with contextlib.closing(open_ranges(str(path))) as file:  # which refuses what is no file, and does not wait
        return _document([file.read(0, MAX_DOCUMENT_BYTES + 1)])


def _document(pieces: Iterable[bytes]) -> bytes:
    data = b"".join(pieces)
    if len(data) > MAX_DOCUMENT_BYTES:
        raise OSError(errno.EFBIG, f"it has more than {MAX_DOCUMENT_BYTES} bytes, and is no document of a data set")
    return data


def read_range(path: StoragePath, start: int, stop: int) -> bytes:
    """Return a file's bytes from `start` to `stop`, fewer at its end; by one request."""
    if not isinstance(path, Path):
        return remote.read(path.url, start, stop)
    with contextlib.closing(open_ranges(str(path))) as file:  # which refuses what is no file, and does not wait
        return file.read(start, stop - start)


def stream(path: StoragePath, size: int) -> Iterator[bytes]:
    """Yield the first `size` bytes of a file in pieces, fewer where it ends."""
    if not isinstance(path, Path):
        yield from remote.stream(path.url, size)
        return
    with contextlib.closing(open_ranges(str(path))) as file:
        at = 0
        while piece := file.read(at, min(size - at, _STREAM_BYTES)):
            at += len(piece)
            yield piece


@contextlib.contextmanager
def opened(path: StoragePath, *, start: int = 0, stop: int | None = None) -> Generator[io.BufferedReader]:
    """Open a file at an offset, fetching up to `stop`, or PIECE_BYTES, at once.

    Raises ShardError, naming it, if it is missing or cannot be read, even later.
    """
    wanted = PIECE_BYTES if stop is None else min(PIECE_BYTES, max(_LEAST_BYTES, stop - start))
    name = os.fspath(path) if isinstance(path, Path) else path.url
    try:
        with reading(path), contextlib.closing(open_ranges(name)) as ranges:
            file: io.BufferedReader = io.BufferedReader(RangeStream(ranges), buffer_size=wanted)
            file.seek(start)
            yield file
    except FileNotFoundError as error:
        raise ShardError(f"{path}: is missing.") from error


@contextlib.contextmanager
def reading(path: StoragePath) -> Generator[None]:
    """Raise ShardError, naming the path, for the block's OSError but FileNotFoundError.

    Raises DataError where a server did not answer: that is no fault of the file's.
    """
    try:
        yield
    except FileNotFoundError:
        raise
    except UnreachableError as error:
        raise DataError(f"{path}: {_reason(error)}.") from error
    except OSError as error:
        raise ShardError(f"{path}: cannot be read ({_reason(error)}).") from error


def _reason(error: OSError) -> str:
    return error.strerror or str(error) or type(error).__name__
