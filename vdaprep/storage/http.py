"""Web servers, by GET alone; some send no parts of files, some list no folders."""

import errno
import sys
from collections.abc import Callable, Coroutine, Generator, Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from typing import Any, TypeVar, cast
from urllib.parse import urljoin

import aiohttp
import fsspec  # pyright: ignore[reportMissingTypeStubs]
from fsspec.asyn import sync  # pyright: ignore[reportMissingTypeStubs, reportUnknownVariableType]

from vdaprep.storage.retry import RetryPolicy, TransientError
from vdaprep.storage.urls import join_url, redact_within

PIECE_BYTES = 4 << 20  # of a stream are handed on at a time
_MAX_PAGE_BYTES = 16 << 20  # of a folder's page are looked at
_SIZE_DIGITS = 20  # no file's size has as many
_HIDDEN = (401, 403, 404, 410)
_MAY_PASS = (408, 429)  # answers that ask for patience, beside all from 500 on
_REFUSED = {401: errno.EACCES, 403: errno.EACCES, 404: errno.ENOENT, 410: errno.ENOENT}

Result = TypeVar("Result")


class HttpServer:
    """See Server. The environment may name a proxy."""

    def __init__(self, policy: RetryPolicy) -> None:
        self._policy = policy
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=policy.connect_s, sock_read=policy.answer_s)
        options = {"timeout": timeout, "trust_env": True}
        # Of fsspec only the loop in a thread of its own is used, and the session there. Settings make no instance of
        # their own there, so this one is asked for again.
        self._files: Any = cast(Any, fsspec).filesystem("http", client_kwargs=options, skip_instance_cache=True)

    def read(self, url: str, start: int, stop: int | None) -> bytes:
        """See Server."""
        return self._run(self._read, url, start, stop, size=0 if stop is None else stop - start)

    def size(self, url: str) -> int | None:
        """See Server."""
        return self._run(self._size, url)

    def stream(self, url: str, start: int, stop: int) -> Iterator[bytes]:
        """See Server."""
        reply = self._run(self._get, url, start, None)
        try:
            at = start if reply.status == 206 else 0  # a server without ranges begins at the beginning
            while at < stop:
                piece = self._run(_receive, reply, min(PIECE_BYTES, stop - at), size=PIECE_BYTES)
                if not piece:
                    return
                at += len(piece)
                if at > start:
                    yield piece[-(at - start) :]
        finally:
            self._files.loop.call_soon_threadsafe(reply.release)

    def files(self, url: str) -> list[str]:
        """See Server. A server lists a folder by a page of links, a folder's ending in a slash."""
        found: list[str] = []
        waiting = [""]
        while waiting:
            folder = waiting.pop()
            names = self._run(self._links, join_url(url, folder))
            found += [folder + name for name in names if not name.endswith("/")]
            waiting += [folder + name for name in names if name.endswith("/")]
        return found

    def folders(self, url: str) -> list[str]:
        """See Server."""
        return [name.rstrip("/") for name in self._run(self._links, join_url(url, "")) if name.endswith("/")]

    def _run(self, action: Callable[..., Coroutine[Any, Any, Result]], *arguments: Any, size: int = 0) -> Result:
        with _explained():
            run = cast(Any, sync)
            return run(self._files.loop, action, *arguments, timeout=self._policy.longest_s(size))

    async def _get(self, url: str, start: int, stop: int | None) -> aiohttp.ClientResponse:
        session: aiohttp.ClientSession = await self._files.set_session()
        headers = {"Accept-Encoding": "identity"}
        if start or stop is not None:
            headers["Range"] = f"bytes={start}-{'' if stop is None else stop - 1}"
        reply = await session.get(url, headers=headers)
        if reply.status != 416:  # the file ends before `start`
            reply.raise_for_status()
        return reply

    async def _read(self, url: str, start: int, stop: int | None) -> bytes:
        reply = await self._get(url, start, stop)
        try:
            if reply.status == 416:
                return b""
            if start and reply.status != 206:  # from the beginning, all of a file serves as well as its first bytes
                raise OSError(
                    errno.ENOTSUP,
                    "the server sends no parts of files (no range requests); download it first",
                )
            return await _receive(reply, None if stop is None else stop - start)
        finally:
            reply.release()

    async def _size(self, url: str) -> int | None:
        """Ask for one byte: unlike HEAD, that is answered wherever GET is allowed."""
        reply = await self._get(url, 0, 1)
        try:
            if reply.status == 200:
                return reply.content_length
            total = reply.headers.get("Content-Range", "").rpartition("/")[2]
            return int(total) if total.isdecimal() and len(total) < _SIZE_DIGITS else None
        finally:
            reply.release()

    async def _links(self, url: str) -> list[str]:
        """Return the names in a folder's page, folders with a slash; none without a page."""
        try:
            reply = await self._get(url, 0, None)
        except aiohttp.ClientResponseError as error:
            if error.status in _HIDDEN:
                return []
            raise
        try:
            if reply.content_type != "text/html":
                return []
            page = _Links()
            page.feed((await _receive(reply, _MAX_PAGE_BYTES)).decode("utf-8", "replace"))
        finally:
            reply.release()
        base = url.partition("?")[0]
        links = [urljoin(base, link.partition("?")[0].partition("#")[0]) for link in page.found]
        names = {link[len(base) :] for link in links if link.startswith(base)}
        return sorted(name for name in names if name and "/" not in name[:-1] and _is_plain(name))


def _is_plain(name: str) -> bool:
    return name.rstrip("/") not in ("", ".", "..")


class _Links(HTMLParser):
    """Collects where a page's links lead."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note where a link leads."""
        self.found += [value for name, value in attrs if tag == "a" and name == "href" and value]


async def _receive(reply: aiohttp.ClientResponse, size: int | None) -> bytes:
    """Return the next `size` bytes, all if None; fewer where the answer ends."""
    pieces: list[bytes] = []
    missing = sys.maxsize if size is None else size
    while missing and (piece := await reply.content.read(min(missing, PIECE_BYTES))):
        pieces.append(piece)
        missing -= len(piece)
    return b"".join(pieces)


@contextmanager
def _explained() -> Generator[None]:
    """Raise TransientError, or OSError without secrets, for what a request ends with."""
    try:
        yield
    except aiohttp.ClientResponseError as error:
        if error.status >= 500 or error.status in _MAY_PASS:
            raise TransientError(f"{error.status} {error.message}") from None
        reason = f"the server says {error.status} {error.message}"
        raise OSError(_REFUSED.get(error.status, errno.EIO), reason) from None
    except aiohttp.InvalidURL:
        raise OSError(errno.EINVAL, "is no valid URL") from None
    except aiohttp.ClientSSLError as error:
        raise OSError(errno.EACCES, f"the connection is not secure: {redact_within(str(error))}") from None
    except (TimeoutError, ConnectionError, aiohttp.ClientConnectionError, aiohttp.ClientPayloadError) as error:
        raise TransientError(redact_within(str(error)) or "it took too long") from None
    except aiohttp.ClientError as error:
        raise OSError(errno.EIO, redact_within(str(error))) from None
