"""Where shards lie: in folders on this machine or behind URLs."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

_PIECE_BYTES = 1 << 20
_SEPARATOR = re.compile(r",\s*(?=[a-z0-9]+://)")  # only before a URL: a folder's name may have commas
_URL = re.compile(r"^(?P<scheme>[^/?#]*://)(?:[^/?#]*@)?(?P<place>[^?#]*)", re.DOTALL)


@runtime_checkable
class Remote(Protocol):
    """What is asked of a file or folder that is not on this machine; `remote.RemotePath` keeps it."""

    @property
    def name(self) -> str:
        """The last part of the path."""
        ...

    def __truediv__(self, name: str) -> "Remote": ...

    def read_bytes(self) -> bytes:
        """Return the whole file."""
        ...

    def read_range(self, start: int, stop: int) -> bytes:
        """Return the bytes from `start` to `stop`."""
        ...

    def stream(self, size: int) -> Iterator[bytes]:
        """Yield the first `size` bytes in pieces."""
        ...

    def size(self) -> int | None:
        """Return the bytes of the file; None if they cannot be known."""
        ...

    def folders(self) -> Sequence["Remote"]:
        """Return the folders in this folder, sorted by name."""
        ...


StoragePath = Path | Remote


def open_paths(text: str | Path) -> list[StoragePath]:
    """Return the folder, or the URLs separated by commas, that `--shards` names; nothing is looked up."""
    if isinstance(text, Path) or "://" not in text:
        return [Path(text)]
    from vdatrain.storage.remote import RemotePath  # here, since it takes half a second that local shards need not

    return [RemotePath(url.strip()) for url in _SEPARATOR.split(text)]


def redact(text: str) -> str:
    """Return what `--shards` names as it may be shown and kept: of URLs neither user, password, query nor fragment."""
    if "://" not in text:
        return text
    matches = [(_URL.match(url.strip()), url) for url in _SEPARATOR.split(text)]
    return ",".join(match["scheme"] + match["place"] if match else url for match, url in matches)


def list_folders(place: StoragePath) -> list[StoragePath]:
    """Return the folders in a folder, sorted by name; raises OSError as `read_range` does."""
    if isinstance(place, Path):
        return [*sorted(path for path in place.iterdir() if path.is_dir())]
    return [*place.folders()]


def size_of(place: StoragePath) -> int | None:
    """Return a file's bytes, None where a server does not tell; raises OSError as `read_range` does."""
    return place.stat().st_size if isinstance(place, Path) else place.size()


def read_range(place: StoragePath, start: int, stop: int) -> bytes:
    """Return the bytes of a file from `start` to `stop`, fewer only where it ends.

    Raises OSError, whose `strerror` says why, where it cannot be read: of a server, after several tries.
    """
    if not isinstance(place, Path):
        return place.read_range(start, stop)
    with place.open("rb") as file:
        file.seek(start)
        return file.read(stop - start)


def stream(place: StoragePath, size: int) -> Iterator[bytes]:
    """Yield the first `size` bytes of a file in pieces, fewer where it ends; raises OSError as `read_range` does."""
    if not isinstance(place, Path):
        yield from place.stream(size)
        return
    with place.open("rb") as file:
        while size and (piece := file.read(min(size, _PIECE_BYTES))):
            size -= len(piece)
            yield piece
