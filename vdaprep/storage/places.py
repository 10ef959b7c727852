"""Where shards lie, in folders of this machine or behind URLs: what is there, how long it is, what it holds."""

import contextlib
import fnmatch
import io
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from pathlib import Path

from vdaprep.errors import ShardError
from vdaprep.storage.range_reader import RangeStream, is_url, open_ranges

PIECE_BYTES = 8 << 20  # of a file that is read to its end: a request each where it lies behind a URL
_LEAST_BYTES = 1024


@dataclass(frozen=True, order=True)
class RemotePath:
    """The name of a file or folder behind a URL, taken apart as pathlib does it; what is above the top is the top."""

    url: str

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, name: str) -> "RemotePath":
        return RemotePath(f"{self.url}/{name}")

    @property
    def name(self) -> str:
        """The last part."""
        return self.url.rpartition("/")[2]

    @property
    def suffix(self) -> str:
        """The last part's ending, with its dot; the top has none."""
        return "" if self.parent == self else Path(self.name).suffix

    @property
    def parent(self) -> "RemotePath":
        """The folder that it is in."""
        above = self.url.rpartition("/")[0]
        return self if above.endswith("/") else RemotePath(above)

    @property
    def parents(self) -> "list[RemotePath]":
        """All folders that it is in, the nearest first."""
        return [] if self.parent == self else [self.parent, *self.parent.parents]

    def with_name(self, name: str) -> "RemotePath":
        """Name another file beside it."""
        return self.parent / name


StoragePath = Path | RemotePath


def open_path(text: str) -> StoragePath:
    """Return the path or URL that a user gave; nothing is looked up."""
    text = text.removeprefix("file://")
    return RemotePath(text.rstrip("/")) if is_url(text) else Path(text)


def sort_paths(places: Iterable[StoragePath]) -> list[StoragePath]:
    """Sort, as paths are sorted."""
    return sorted(places, key=lambda place: str(place).split("/"))


def list_files(folder: StoragePath, *patterns: str) -> list[StoragePath]:
    """List the files below a folder whose names match one of the patterns, sorted; none if there is no such folder.

    Raises ShardError if a server refuses that, DataError if it does not answer.
    """
    if isinstance(folder, Path):
        return sort_paths({path for pattern in patterns for path in folder.rglob(pattern)})
    from vdaprep.storage import remote  # what it needs takes long to import

    try:
        remote.connect(folder.url)[0].invalidate_cache()
        found = remote.list_url(folder.url)
    except FileNotFoundError as error:
        raise ShardError(f"{folder}: there is nothing there ({_reason(error)}).") from error
    except OSError as error:
        raise ShardError(f"{folder}: cannot be listed ({_reason(error)}).") from error
    files = (folder / name for name, _ in found)
    return sort_paths(file for file in files if any(fnmatch.fnmatchcase(file.name, pattern) for pattern in patterns))


def size_of(place: StoragePath) -> int | None:
    """Return a file's bytes, None if there is none; raises as `read_bytes` does."""
    if isinstance(place, Path):
        return place.stat().st_size if place.is_file() else None
    from vdaprep.storage import remote

    with contextlib.suppress(FileNotFoundError), _as_sentence(place):
        files, path = remote.connect(place.url)
        files.invalidate_cache()
        known = remote.patiently(place.url, lambda: files.info(path))
        if known["type"] == "file" and known["size"] is None:
            raise OSError("the server does not tell its size; download it first")
        return known["size"] if known["type"] == "file" else None
    return None


def read_bytes(place: StoragePath) -> bytes:
    """Return what a small file holds.

    Raises FileNotFoundError; ShardError, naming it, if it cannot be read; DataError if a server does not answer.
    """
    with _as_sentence(place):
        if isinstance(place, Path):
            return place.read_bytes()
        from vdaprep.storage import remote

        files, path = remote.connect(place.url)
        return remote.patiently(place.url, lambda: files.cat_file(path))


@contextlib.contextmanager
def opened(place: StoragePath, *, start: int = 0, stop: int | None = None) -> Generator[io.BufferedReader]:
    """Open a file at an offset; as much is fetched at once as there is up to `stop`, or PIECE_BYTES.

    Raises ShardError, naming it, if it is missing or cannot be read, even later; DataError as `read_bytes` does.
    """
    wanted = PIECE_BYTES if stop is None else min(PIECE_BYTES, max(_LEAST_BYTES, stop - start))
    try:
        with _as_sentence(place), contextlib.closing(open_ranges(str(place))) as ranges:
            file: io.BufferedReader = io.BufferedReader(RangeStream(ranges), buffer_size=wanted)
            file.seek(start)
            yield file
    except FileNotFoundError as error:
        raise ShardError(f"{place}: is missing.") from error


@contextlib.contextmanager
def _as_sentence(place: StoragePath) -> Generator[None]:
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ShardError(f"{place}: cannot be read ({_reason(error)}).") from error


def _reason(error: OSError) -> str:
    return error.strerror or str(error) or type(error).__name__
