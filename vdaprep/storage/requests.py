"""Files behind URLs, read whole, by range or as a stream, through fsspec."""

import asyncio
import errno
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar
from urllib.parse import urlsplit

import aiohttp

from vdaprep.storage.transports import PIECE_BYTES, HttpServer, ObjectStore, connect
from vdaprep.storage.urls import redact

_MAY_PASS = (408, 429)  # answers that ask for patience, beside all from 500 on
_REFUSED = {401: errno.EACCES, 403: errno.EACCES, 404: errno.ENOENT, 410: errno.ENOENT}

Result = TypeVar("Result")


@dataclass(frozen=True)
class Patience:
    """How long a server may take before a request counts as failed, and the pauses before it is sent again.

    `connect_s` for a connection, `answer_s` for the next byte; for all bytes of an answer both, and what they take at
    `least_bytes_per_s`, so that a trickle is no answer either.
    """

    connect_s: int | float = 10
    answer_s: int | float = 30
    waits_s: tuple[int | float, ...] = (1, 4, 16)
    least_bytes_per_s: int = 50_000

    def longest_s(self, size: int) -> int | float:
        """Return the seconds that an answer of `size` bytes may take."""
        return self.connect_s + self.answer_s + size / self.least_bytes_per_s


PATIENCE = Patience()


@dataclass(frozen=True)
class Requests:
    """What is asked of a file or folder behind a URL.

    Every reading method sends failed requests again, as `patience` says, and then raises an OSError whose `strerror`
    says what the server did: FileNotFoundError and PermissionError at once, where the server says so.
    """

    url: str
    patience: Patience = field(default_factory=lambda: PATIENCE)

    def read_bytes(self) -> bytes:
        """Return the whole file."""
        return self._patiently(lambda: self._transport.read(self.url, 0, None, self.patience.longest_s(0)))

    def read_range(self, start: int, stop: int) -> bytes:
        """Return the bytes from `start` to `stop` by one request; fewer only where the file ends."""
        longest_s = self.patience.longest_s(stop - start)
        return self._patiently(lambda: self._transport.read(self.url, start, stop, longest_s))

    def size(self) -> int | None:
        """Return the bytes of the file; None if the server does not tell."""
        return self._patiently(lambda: self._transport.size(self.url, self.patience.longest_s(0)))

    def stream(self, size: int) -> Iterator[bytes]:
        """Yield the first `size` bytes in pieces, fewer where the file ends; after a failure it goes on from there."""
        done, failures = 0, 0
        while done < size:
            try:
                for piece in self._transport.stream(self.url, done, size, self.patience.longest_s(PIECE_BYTES)):
                    done, failures = done + len(piece), 0
                    yield piece
                return
            except _failures() as error:
                self._wait_or_raise(error, failures)
                failures += 1

    def folders(self) -> list[str]:
        """Return the names of the folders in this folder, sorted; none if the server does not list them."""
        names = self._patiently(lambda: self._transport.folders(self.url, self.patience.longest_s(0)))
        return sorted(set(names))

    @property
    def _transport(self) -> HttpServer | ObjectStore:
        parts = urlsplit(self.url)
        connect_s, answer_s = self.patience.connect_s, self.patience.answer_s
        return connect(parts.scheme, parts.netloc, connect_s=connect_s, answer_s=answer_s, process=os.getpid())

    def _patiently(self, action: Callable[[], Result]) -> Result:
        for failures in range(len(self.patience.waits_s) + 1):
            try:
                return action()
            except _failures() as error:
                self._wait_or_raise(error, failures)
        raise AssertionError  # the last failure is raised

    def _wait_or_raise(self, error: BaseException, failures: int) -> None:
        final = _final(error)
        if final is None and failures == len(self.patience.waits_s):
            reason = f"the server does not answer: {_reason(error)}; it was asked {failures + 1} times"
            final = OSError(errno.EIO, reason)
        if final is not None:  # some repeat the URL as it is
            raise OSError(final.errno, str(final.strerror).replace(self.url, redact(self.url))) from error
        time.sleep(self.patience.waits_s[failures])


# -------------------------------------------------------------------------------------------------------------- errors


def _failures() -> tuple[type[BaseException], ...]:
    """Return what a request may end with; botocore's errors, where s3fs has loaded it, are no OSErrors."""
    botocore = sys.modules.get("botocore.exceptions")
    return (OSError, aiohttp.ClientError, asyncio.TimeoutError, *((botocore.BotoCoreError,) if botocore else ()))


def _final(error: BaseException) -> OSError | None:
    """Return what to raise for a failed request, None if it may succeed another time."""
    if isinstance(error, aiohttp.ClientResponseError):
        if error.status >= 500 or error.status in _MAY_PASS:
            return None
        return OSError(_REFUSED.get(error.status, errno.EIO), f"the server says {_reason(error)}")
    if isinstance(error, aiohttp.ClientSSLError):
        return OSError(errno.EACCES, f"the connection is not secure: {error}")
    if isinstance(error, TimeoutError | ConnectionError | aiohttp.ClientConnectionError | aiohttp.ClientPayloadError):
        return None
    botocore = sys.modules.get("botocore.exceptions")
    if botocore and isinstance(error, botocore.HTTPClientError):
        return None
    number = getattr(error, "errno", None) or (errno.ENOENT if isinstance(error, FileNotFoundError) else errno.EIO)
    return OSError(number, getattr(error, "strerror", None) or str(error))


def _reason(error: BaseException) -> str:
    """Say what went wrong in words that do not repeat the URL, which may have a password in it."""
    if isinstance(error, aiohttp.ClientResponseError):
        return f"{error.status} {error.message}"
    return str(error) or "it took too long"
