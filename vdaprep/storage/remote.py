"""Files behind URLs: one interface to servers and stores, which asks again on failure."""

import errno
import functools
import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Protocol, TypeVar, runtime_checkable
from urllib.parse import urlsplit

from vdaprep.errors import DataError, UsageError
from vdaprep.storage import retry
from vdaprep.storage.retry import RetryPolicy, TransientError, UnreachableError, attempt
from vdaprep.storage.urls import redact

if TYPE_CHECKING:
    from vdaprep.storage.http import HttpServer
    from vdaprep.storage.stores.objects import ObjectStore

OBJECTS = ("s3", "s3a", "gs", "az")

Result = TypeVar("Result")


@runtime_checkable
class Server(Protocol):
    """What is asked of a server, one request each; raises TransientError or OSError."""

    def read(self, url: str, start: int, stop: int | None) -> bytes:
        """Return bytes of a file, by one request; OSError, UnreachableError after tries."""
        ...

    def stream(self, url: str, start: int, stop: int) -> Iterator[bytes]:
        """Yield the bytes from `start` to `stop` in pieces."""
        ...

    def size(self, url: str) -> int | None:
        """Return the bytes of a file; None if the server does not tell."""
        ...

    def files(self, url: str) -> list[str]:
        """Return the paths of all files below a folder; none if the server lists none."""
        ...

    def folders(self, url: str) -> list[str]:
        """Return the names of the folders in a folder; none if the server lists none."""
        ...


def connect(url: str) -> Server:
    """Return this process's connections to a URL's server; UsageError for unknown schemes."""
    parts = urlsplit(url)
    if parts.scheme in ("http", "https"):
        return _http_server(os.getpid(), retry.POLICY)
    return connect_store(url)


def connect_store(url: str) -> "ObjectStore":
    """Return this process's connections to an object store; UsageError for other URLs."""
    parts = urlsplit(url)
    if parts.scheme not in OBJECTS:
        raise UsageError(
            f"{redact(url)}: cannot be read or written; expected a folder, or a URL like https://host/folder or "
            "s3://bucket/folder (gs:// and az:// as well)."
        )
    if "@" in parts.netloc or parts.query:
        raise UsageError(
            f"{redact(url)}: has a user or a query in its URL, which {parts.scheme}:// knows nothing of; give keys in "
            "the environment, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY for s3://."
        )
    return _object_store(parts.scheme, parts.netloc, os.getpid(), retry.POLICY)


@functools.lru_cache(maxsize=8)
def _http_server(_process: int, policy: RetryPolicy) -> "HttpServer":
    """Connect once a process: connections do not survive a fork."""
    from vdaprep.storage.http import HttpServer  # what it needs takes half a second that local files need not

    return HttpServer(policy)


@functools.lru_cache(maxsize=32)
def _object_store(scheme: str, bucket: str, process: int, policy: RetryPolicy) -> "ObjectStore":
    try:
        from vdaprep.storage.stores.objects import ObjectStore
    except ImportError as error:
        raise UsageError(
            f"{scheme}://{bucket}: needs another package ({error}); install it by: pip install 'vdakit[cloud]'."
        ) from error
    return ObjectStore(scheme, bucket, policy)


def read(url: str, start: int = 0, stop: int | None = None) -> bytes:
    """Return bytes from `start` to `stop`, None: the end; fewer only at the file's end."""
    return attempt(lambda: connect(url).read(url, start, stop))


def size(url: str) -> int | None:
    """Return the bytes of a file, None if the server does not tell; raises as `read`."""
    return attempt(lambda: connect(url).size(url))


def files(url: str) -> list[str]:
    """Return the paths of all files below a folder, sorted; raises as `read`."""
    return sorted(attempt(lambda: connect(url).files(url)))


def folders(url: str) -> list[str]:
    """Return the names of the folders in a folder, sorted; raises as `read`."""
    return sorted(set(attempt(lambda: connect(url).folders(url))))


def stream(url: str, size: int) -> Iterator[bytes]:
    """Yield a file's first `size` bytes in pieces, resuming after a failure. Raises as `read`."""
    done, failures = 0, 0
    while done < size:
        try:
            for piece in connect(url).stream(url, done, size):
                done, failures = done + len(piece), 0
                yield piece
            return
        except TransientError as error:
            retry.wait_or_raise(error, failures)
            failures += 1


class RemoteFile:
    """The Ranges of a file behind a URL; every read is one request for exactly those bytes.

    Raises OSError if there is no such file or the server refuses it, DataError if the server does not answer.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        found = self._ask(lambda: size(url))
        if found is None:
            raise OSError(errno.ENOTSUP, "the server does not tell its size; download it first")
        self._size = found

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self._size

    def read(self, offset: int, size: int) -> bytes:
        """Return `size` bytes at `offset`, fewer only where the file ends."""
        stop = min(offset + size, self._size)
        return self._ask(lambda: read(self._url, offset, stop)) if stop > offset else b""

    def close(self) -> None:
        """Nothing is kept open."""

    def _ask(self, action: Callable[[], Result]) -> Result:
        try:
            return action()
        except UnreachableError as error:
            raise DataError(f"{redact(self._url)}: {error.strerror}.") from error
