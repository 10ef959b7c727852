# pyright: basic
"""Requests to the servers of URLs: one each, neither repeated nor explained."""

import errno
import functools
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import aiohttp
import fsspec
from fsspec.asyn import sync

from vdaprep.errors import DataError, UsageError

PIECE_BYTES = 4 << 20  # as much of a stream is handed on, and asked of an object store, at a time
_HIDDEN = (401, 403, 404, 410)


@functools.lru_cache(maxsize=32)
def connect(
    scheme: str, host: str, *, connect_s: int | float, answer_s: int | float, process: int
) -> "HttpServer | ObjectStore":
    """Return a process's own connections to a server: a file system of fsspec does not survive a fork.

    `connect_s` and `answer_s` bound the waits for a connection and for the next byte. Raises DataError where a package
    is not installed, UsageError where fsspec does not know the scheme.
    """
    shown = f"{scheme}://{host.rpartition('@')[2]}"
    try:
        if scheme in ("http", "https"):
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=connect_s, sock_read=answer_s)
            # The environment may name a proxy.
            return HttpServer(fsspec.filesystem(scheme, client_kwargs={"timeout": timeout, "trust_env": True}))
        return ObjectStore(fsspec.url_to_fs(f"{scheme}://{host}")[0])
    except ImportError as error:
        raise DataError(f"{shown}: needs another package ({error}); for s3:// install `vdakit[s3]`.") from error
    except ValueError as error:
        raise UsageError(
            f"{shown}: cannot be read ({error}); expected a folder, or a URL that fsspec knows, like https:// or s3://."
        ) from error


@dataclass(frozen=True, eq=False)
class HttpServer:
    """Web servers, of which only GET is expected; some of them send no parts of files, some list no folders."""

    files: Any

    def read(self, url: str, start: int, stop: int | None, longest_s: int | float) -> bytes:
        """Return the bytes from `start` to `stop`, to the end if None; fewer only where the file ends."""
        return self._run(self._read, url, start, stop, longest_s=longest_s)

    def size(self, url: str, longest_s: int | float) -> int | None:
        """Return the bytes of a file; None if the server does not tell."""
        return self._run(self._size, url, longest_s=longest_s)

    def folders(self, url: str, longest_s: int | float) -> list[str]:
        """Return the names of the folders in a folder; none if the server does not list them."""
        return self._run(self._folders, url, longest_s=longest_s)

    def stream(self, url: str, start: int, stop: int, longest_s: int | float) -> Iterator[bytes]:
        """Yield the bytes from `start` to `stop` in pieces, each of which may take `longest_s`."""
        reply = self._run(self._get, url, start, None, longest_s=longest_s)
        try:
            at = start if reply.status == 206 else 0  # a server without ranges begins anew
            while at < stop:
                piece = self._run(_receive, reply, min(PIECE_BYTES, stop - at), longest_s=longest_s)
                if not piece:
                    return
                at += len(piece)
                if at > start:
                    yield piece[-(at - start) :]
        finally:
            self.files.loop.call_soon_threadsafe(reply.release)

    def _run(self, action: Callable[..., Any], *arguments: Any, longest_s: int | float) -> Any:
        return sync(self.files.loop, action, *arguments, timeout=longest_s)

    async def _get(self, url: str, start: int, stop: int | None) -> aiohttp.ClientResponse:
        session = await self.files.set_session()
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
            if stop is not None and reply.status != 206:
                raise OSError(errno.ENOTSUP, "the server sends no parts of files; give --cache a folder with room")
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
            return int(total) if total.isdecimal() else None
        finally:
            reply.release()

    async def _folders(self, url: str) -> list[str]:
        base = f"{url.partition('?')[0].rstrip('/')}/"
        try:
            reply = await self._get(base, 0, None)
        except aiohttp.ClientResponseError as error:
            if error.status in _HIDDEN:
                return []
            raise
        reply.release()
        if reply.content_type != "text/html":
            return []
        links = [item["name"] for item in await self.files._ls(base, detail=True)]
        below = [link[len(base) :] for link in links if link.startswith(base)]
        return [name.rstrip("/") for name in below if name.count("/") == 1 and name.endswith("/")]


async def _receive(reply: aiohttp.ClientResponse, size: int | None) -> bytes:
    """Return the next `size` bytes, all if None; fewer where the answer ends."""
    pieces: list[bytes] = []
    missing = sys.maxsize if size is None else size
    while missing and (piece := await reply.content.read(min(missing, PIECE_BYTES))):
        pieces.append(piece)
        missing -= len(piece)
    return b"".join(pieces)


@dataclass(frozen=True, eq=False)
class ObjectStore:
    """Everything else that fsspec knows: object stores, which serve ranges and list what there is."""

    files: Any

    def read(self, url: str, start: int, stop: int | None, longest_s: int | float) -> bytes:
        """Return the bytes from `start` to `stop`, to the end if None; fewer only where the file ends."""
        return self._call("cat_file", url, longest_s, start=start, end=stop)

    def size(self, url: str, longest_s: int | float) -> int | None:
        """Return the bytes of a file; None if the server does not tell."""
        return self._call("info", url, longest_s)["size"]

    def folders(self, url: str, longest_s: int | float) -> list[str]:
        """Return the names of the folders in a folder; none if the server does not list them."""
        try:
            items = self._call("ls", url, longest_s, detail=True)
        except (FileNotFoundError, PermissionError):
            return []
        return [PurePosixPath(item["name"]).name for item in items if item["type"] == "directory"]

    def stream(self, url: str, start: int, stop: int, longest_s: int | float) -> Iterator[bytes]:
        """Yield the bytes from `start` to `stop` in pieces, each of which may take `longest_s`."""
        for at in range(start, stop, PIECE_BYTES):
            yield self.read(url, at, min(at + PIECE_BYTES, stop), longest_s)

    def _call(self, name: str, url: str, longest_s: int | float, **options: Any) -> Any:
        path = self.files._strip_protocol(url)
        if self.files.async_impl:
            return sync(self.files.loop, getattr(self.files, f"_{name}"), path, timeout=longest_s, **options)
        return getattr(self.files, name)(path, **options)
