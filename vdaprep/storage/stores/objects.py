"""S3, Google's and Azure's stores through obstore: ranges, listings, verified uploads.

Keys and servers come from the environment, as the stores' own programs read them: AWS_ACCESS_KEY_ID,
AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT_URL, AWS_SKIP_SIGNATURE=true for public buckets, or
~/.aws/credentials; GOOGLE_APPLICATION_CREDENTIALS; AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY.
"""

import configparser
import contextlib
import errno
import hashlib
import os
import re
from collections.abc import Callable, Coroutine, Generator, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast
from urllib.parse import urlsplit

import fsspec.asyn  # pyright: ignore[reportMissingTypeStubs]
import obstore as _obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import AzureStore, GCSStore, S3Store

from vdaprep.errors import OutputError, UsageError
from vdaprep.storage.retry import RetryPolicy, TransientError, attempt
from vdaprep.storage.urls import redact_within

PART_BYTES = 16 << 20  # of a large object; what an upload keeps in memory is a few of these
_PIECE_BYTES = 8 << 20  # of a stream: a request each
_PARTS_AT_ONCE = 3
_TRIES = 3
_STATUS = re.compile(r"status code: (\d{3})|status client error \((\d{3})|status server error \((\d{3})")
_MESSAGE = re.compile(r"<Message>([^<]*)</Message>")
_MAY_PASS = (408, 429)
_REFUSED = {401: errno.EACCES, 403: errno.EACCES, 404: errno.ENOENT, 416: errno.ERANGE}
_process: list[int] = []  # that first used obstore, whose threads no fork has

obstore: Any = _obstore  # whose overloads no one call fits

Result = TypeVar("Result")


class ObjectStore:
    """See Server; beside that, objects are stored here. Names of objects come as whole URLs."""

    def __init__(self, scheme: str, bucket: str, policy: RetryPolicy) -> None:
        self._policy = policy
        self._top = f"{scheme}://{bucket}"
        _expect_unforked(self._top)
        client = {
            "connect_timeout": timedelta(seconds=policy.connect_s),
            "read_timeout": timedelta(seconds=policy.answer_s),
            "timeout": timedelta(days=1),  # each request has its own, in `_run`
        }
        options: dict[str, Any] = {"client_options": client, "retry_config": {"max_retries": 0}}
        try:
            self._store: Any = self._open(scheme, bucket, options)
        except BaseError as error:
            raise UsageError(
                f"{self._top}: cannot be used ({_reason(error)}); see vdaprep.storage.stores.objects."
            ) from error

    @staticmethod
    def _open(scheme: str, bucket: str, options: dict[str, Any]) -> Any:
        if scheme == "gs":
            return GCSStore(bucket, **options)
        if scheme == "az":
            return AzureStore(bucket, **options)
        config = _aws_profile()
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or config.get("endpoint")
        if endpoint:
            config["endpoint"] = endpoint
            options["client_options"]["allow_http"] = endpoint.startswith("http://")
        return S3Store(bucket, config=cast(Any, config), **options)

    # -------------------------------------------------------------------------------------------------------- reading

    def read(self, url: str, start: int, stop: int | None) -> bytes:
        """See Server."""
        if stop is None:
            return bytes(self._run(self._get, url))
        if stop <= start:
            return b""
        try:
            part = self._run(obstore.get_range_async, self._store, _key(url), start=start, end=stop, size=stop - start)
        except OSError as error:
            if error.errno == errno.ERANGE:
                return b""
            raise
        return bytes(part)

    def stream(self, url: str, start: int, stop: int) -> Iterator[bytes]:
        """See Server."""
        for at in range(start, stop, _PIECE_BYTES):
            piece = self.read(url, at, min(at + _PIECE_BYTES, stop))
            if piece:
                yield piece
            if len(piece) < min(_PIECE_BYTES, stop - at):
                return

    def size(self, url: str) -> int | None:
        """See Server."""
        if not _key(url):  # of which obstore would tell as if it were an object
            raise FileNotFoundError(errno.ENOENT, "a bucket is no file")
        return self._run(obstore.head_async, self._store, _key(url))["size"]

    def files(self, url: str) -> list[str]:
        """See Server."""
        folder = f"{_key(url)}/".lstrip("/")
        return [path.removeprefix(folder) for path in self._run(self._list, folder) if path.startswith(folder)]

    def folders(self, url: str) -> list[str]:
        """See Server."""
        found = self._run(obstore.list_with_delimiter_async, self._store, _key(url) or None)
        return [path.rstrip("/").rpartition("/")[2] for path in found["common_prefixes"]]

    # -------------------------------------------------------------------------------------------------------- storing

    def create(self, url: str, data: bytes) -> bool:
        """Store a small object if there is none; returns whether it is this one that is there now."""
        try:
            attempt(lambda: self._run(obstore.put_async, self._store, _key(url), data, mode="create"))
        except FileExistsError:
            # A request that was sent again may have been done the first time.
            return attempt(lambda: self.read(url, 0, None)) == data
        return True

    def upload(self, url: str, file: BinaryIO, digest: "Digest") -> None:
        """Store a local file of that `digest`, and check that it arrived; else OutputError.

        Raises OSError as reading does.
        """
        for _ in range(_TRIES):
            attempt(lambda: self._put(url, file, digest.size))
            if attempt(lambda: self._is_there(url, digest)):
                return
        raise OutputError(f"{url}: was stored {_TRIES} times, and is never what was sent; mend the store.")

    def delete(self, url: str) -> None:
        """Delete an object; it may be gone already."""
        with contextlib.suppress(FileNotFoundError):
            attempt(lambda: self._run(obstore.delete_async, self._store, _key(url)))

    def _put(self, url: str, file: BinaryIO, size: int) -> None:
        file.seek(0)
        self._run(
            obstore.put_async,
            self._store,
            _key(url),
            file,
            size=size,
            use_multipart=size > PART_BYTES,
            chunk_size=PART_BYTES,
            max_concurrency=_PARTS_AT_ONCE,
        )

    def _is_there(self, url: str, digest: "Digest") -> bool:
        try:
            known = self._run(obstore.head_async, self._store, _key(url))
        except FileNotFoundError:
            return False
        if known["size"] != digest.size:
            return False
        if str(known.get("e_tag") or "").strip('"') in digest.etags:
            return True
        found = hashlib.md5(usedforsecurity=False)  # encrypted, or sent in parts of another size: read it back
        for piece in self.stream(url, 0, digest.size):
            found.update(piece)
        return found.hexdigest() == digest.whole

    # ------------------------------------------------------------------------------------------------------- requests

    async def _get(self, url: str) -> Any:
        reply = await obstore.get_async(self._store, _key(url))
        return await reply.bytes_async()

    async def _list(self, folder: str) -> list[str]:
        found: list[str] = []
        async for chunk in obstore.list(self._store, folder or None, chunk_size=1000):
            found += [item["path"] for item in chunk]
        return found

    def _run(
        self, action: Callable[..., Coroutine[Any, Any, Result]], *arguments: Any, size: int = 0, **options: Any
    ) -> Result:
        """Run it in fsspec's thread, so that signals are heard, for as long as the policy allows."""
        run = cast(Any, fsspec.asyn)

        async def call() -> Result:
            return await action(*arguments, **options)

        with _explained():
            return run.sync(run.get_loop(), call, timeout=self._policy.longest_s(size))


class Digest:
    """The MD5 of what is written, whole, and as stores sum up an object in parts."""

    def __init__(self) -> None:
        self.size = 0
        self._whole = hashlib.md5(usedforsecurity=False)
        self._part = hashlib.md5(usedforsecurity=False)
        self._parts: list[bytes] = []

    def update(self, data: bytes) -> None:
        """Add bytes."""
        self._whole.update(data)
        while data:
            piece = data[: PART_BYTES - self.size % PART_BYTES]
            self._part.update(piece)
            self.size += len(piece)
            if self.size % PART_BYTES == 0:
                self._parts.append(self._part.digest())
                self._part = hashlib.md5(usedforsecurity=False)
            data = data[len(piece) :]

    @property
    def whole(self) -> str:
        """The MD5 of all, in hexadecimal."""
        return self._whole.hexdigest()

    @property
    def etags(self) -> tuple[str, str]:
        """What S3 may name an object of these bytes, unless it encrypts with a key of its own."""
        parts = [*self._parts, *([self._part.digest()] if self.size % PART_BYTES else [])]
        joined = hashlib.md5(b"".join(parts), usedforsecurity=False).hexdigest()
        return self.whole, f"{joined}-{len(parts)}"


def _expect_unforked(top: str) -> None:
    _process[:] = _process or [os.getpid()]
    if _process != [os.getpid()]:
        raise UsageError(
            f"{top}: cannot be used in a process forked from one that has used object stores; start processes by "
            "spawn or forkserver, as DataLoader(multiprocessing_context='forkserver') does."
        )


def _key(url: str) -> str:
    return urlsplit(url, allow_fragments=False).path.strip("/")


def _aws_profile() -> dict[str, str]:
    """Return what ~/.aws says, which obstore does not read, where the environment has no key."""
    if "AWS_ACCESS_KEY_ID" in os.environ:
        return {}
    files = [os.environ.get("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials")]
    files += [os.environ.get("AWS_CONFIG_FILE", "~/.aws/config")]
    found = configparser.ConfigParser(interpolation=None)
    found.read([Path(file).expanduser() for file in files])
    profile = os.environ.get("AWS_PROFILE", "default")
    sections = [found[name] for name in (f"profile {profile}", profile) if found.has_section(name)]
    given = {key: value for section in sections for key, value in section.items()}
    wanted = {
        "aws_access_key_id": "access_key_id",
        "aws_secret_access_key": "secret_access_key",
        "aws_session_token": "session_token",
        "region": "region",
        "endpoint_url": "endpoint",
    }
    return {name: given[key] for key, name in wanted.items() if key in given}


@contextlib.contextmanager
def _explained() -> Generator[None]:
    """Raise TransientError, or OSError without secrets, for what a request ends with."""
    try:
        yield
    except FileNotFoundError as error:
        raise FileNotFoundError(errno.ENOENT, _reason(error)) from None
    except AlreadyExistsError as error:
        raise FileExistsError(errno.EEXIST, _reason(error)) from None
    except (PermissionDeniedError, UnauthenticatedError) as error:
        raise PermissionError(errno.EACCES, _reason(error)) from None
    except TimeoutError:
        raise TransientError("it took too long") from None
    except BaseError as error:
        status = _status(error)
        if status is None or status >= 500 or status in _MAY_PASS:
            raise TransientError(_reason(error)) from None
        raise OSError(_REFUSED.get(status, errno.EIO), _reason(error)) from None


def _status(error: Exception) -> int | None:
    found = _STATUS.search(str(error))
    return int(next(filter(None, found.groups()))) if found else None


def _reason(error: Exception) -> str:
    """Say what went wrong in a few words: obstore's own text has pages, and URLs."""
    text = str(error)
    if found := _MESSAGE.search(text):
        return found[1].rstrip(".")
    first = redact_within(text.partition("\n")[0].partition(" - Server returned")[0])
    status = _status(error)
    return f"status {status}" if status else first
