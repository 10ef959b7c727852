"""Files behind URLs, read by range requests through fsspec."""

import errno
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar, cast, runtime_checkable

import aiohttp
import fsspec  # pyright: ignore[reportMissingTypeStubs]

from vdaprep.errors import DataError

CONNECT_S, ANSWER_S = 10, 60  # longest waits for a connection, and for the next byte of an answer
WAITS_S = (1.0, 5.0)  # pauses before a request that failed on its way is sent again

Result = TypeVar("Result")


@runtime_checkable
class _File(Protocol):
    size: int | None

    def seekable(self) -> bool: ...
    def seek(self, offset: int) -> int: ...
    def read(self, size: int) -> bytes: ...
    def close(self) -> None: ...


@runtime_checkable
class Files(Protocol):
    """What is used of a file system of fsspec's."""

    def open(self, path: str, mode: str, *, cache_type: str) -> _File:
        """Open a file."""
        ...

    def find(self, path: str) -> list[str]:
        """List the files below a folder."""
        ...

    def unstrip_protocol(self, path: str) -> str:
        """Return the URL of a path."""
        ...

    def invalidate_cache(self, path: str | None = None) -> None:
        """Forget listings."""
        ...

    def info(self, path: str) -> Mapping[str, Any]:
        """Return what is known of a file."""
        ...

    def cat_file(self, path: str) -> bytes:
        """Return what a file holds."""
        ...

    def put_file(self, lpath: str, rpath: str, **options: Any) -> None:
        """Store a local file."""
        ...

    def pipe_file(self, path: str, value: bytes, **options: Any) -> object:
        """Store bytes."""
        ...

    def rm_file(self, path: str) -> None:
        """Delete a file."""
        ...


class RemoteFile:
    """The Ranges of a file behind a URL; every read is one request for exactly those bytes.

    Raises OSError if there is no such file or the server refuses it, DataError if the server does not answer.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        files, path = connect(url)
        # Members are as long as frames and wanted once: any cache of fsspec's would fetch what nobody asked for.
        self._file = patiently(url, lambda: files.open(path, "rb", cache_type="none"))
        if self._file.size is None or not self._file.seekable():
            self.close()
            raise OSError("the server does not serve parts of it, or its size; download it first")

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self._file.size or 0

    def read(self, offset: int, size: int) -> bytes:
        """Return `size` bytes at `offset`, fewer only where the file ends."""
        wanted = min(size, self.size - offset)
        return patiently(self._url, lambda: self._read(offset, wanted)) if wanted > 0 else b""

    def _read(self, offset: int, size: int) -> bytes:
        self._file.seek(offset)
        return self._file.read(size)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def list_url(url: str) -> list[tuple[str, str]]:
    """List all files below a folder's URL as (path below it, URL), sorted; none if the server does not list folders.

    Raises OSError if it refuses, DataError if the server does not answer.
    """
    files, path = connect(url)
    folder = path.rstrip("/") + "/"
    names = sorted(patiently(url, lambda: files.find(path)))
    # Of a page without links fsspec finds the page itself.
    return [(name[len(folder) :], files.unstrip_protocol(name)) for name in names if len(name) > len(folder)]


def connect(url: str) -> tuple[Files, str]:
    """Return the file system of a URL and the path there; raises DataError if nothing installed knows such URLs."""
    options: dict[str, Any] = {}
    if url.startswith(("http://", "https://")):
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=ANSWER_S)
        options["client_kwargs"] = {"timeout": timeout}
    try:
        files, path = cast(Any, fsspec).url_to_fs(url, **options)
    except ImportError as error:
        raise DataError(f"{url}: needs another package to be installed ({error}).") from error
    except ValueError as error:
        known = ", ".join(("https", "s3", "gs", "az"))
        raise DataError(f"{url}: cannot be read ({error}); expected a URL that fsspec knows, like {known}.") from error
    return cast(Files, files), path


def patiently(url: str, action: Callable[[], Result]) -> Result:
    """Do it again if it failed on its way: a frame that a busy server did not send is not a bad frame.

    Raises OSError if the server refuses, DataError if it does not answer.
    """
    for wait_s in (*WAITS_S, None):
        try:
            return action()
        except (OSError, aiohttp.ClientError, *_others("BotoCoreError")) as error:
            failure = _cause(error)
            if not _may_pass(failure):
                if failure is error and isinstance(error, OSError):
                    raise
                raise _as_os_error(failure) from error
            if wait_s is None:
                reason = str(failure) or "it took too long"
                raise DataError(
                    f"{url}: the server does not answer ({reason}); finished shards are kept: run it again."
                ) from error
            time.sleep(wait_s)
    raise AssertionError  # the last turn returns or raises


def _cause(error: Exception) -> Exception:
    """Look behind fsspec's FileNotFoundError, which it also raises where nothing could be asked."""
    cause = error.__cause__
    told = isinstance(cause, (OSError, aiohttp.ClientError, *_others("BotoCoreError")))
    return cause if isinstance(error, FileNotFoundError) and told else error


def _may_pass(error: Exception) -> bool:
    if isinstance(error, aiohttp.ClientResponseError):
        return error.status >= 500 or error.status == 429
    kinds = (TimeoutError, ConnectionError, aiohttp.ClientConnectionError, aiohttp.ClientPayloadError)
    if isinstance(error, (*kinds, *_others("HTTPClientError"), *_others("ConnectionError"))):
        return True
    return isinstance(error, OSError) and error.errno in (errno.EBUSY, errno.EREMOTEIO)  # as s3fs tells of 5xx


def _others(name: str) -> tuple[type[Exception], ...]:
    """Return an error of the library behind s3fs, if that was needed: the file system does not translate all."""
    found = sys.modules.get("botocore.exceptions")
    return () if found is None else (getattr(found, name),)


def _as_os_error(error: Exception) -> OSError:
    if isinstance(error, OSError):
        return error
    if isinstance(error, aiohttp.ClientResponseError):
        kind = FileNotFoundError if error.status == 404 else OSError
        return kind(f"the server says {error.status} {error.message}")
    return OSError(str(error))
