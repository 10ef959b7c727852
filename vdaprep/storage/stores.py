"""Objects behind a URL, stored whole and compared, through fsspec."""

import contextlib
import hashlib
from collections.abc import Callable
from typing import Any, TypeVar

from vdaprep.errors import DataError, OutputError, UsageError
from vdaprep.storage.remote import connect, patiently

PART_BYTES = 16 << 20  # of a large object; what an upload keeps in memory is a few of these
_UPLOAD = {"chunksize": PART_BYTES, "max_concurrency": 3}
_TRIES = 3

Result = TypeVar("Result")


class Digest:
    """The MD5 of what is written through it, whole and as stores sum up an object that comes in parts."""

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


class Store:
    """The objects below a URL; whatever cannot be done is an OutputError that names the object's URL."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        if self._url.startswith(("http://", "https://")):
            raise UsageError(f"{url}: cannot be written to; expected a folder, or a URL like s3://bucket/folder.")
        try:
            self._files, self._root = connect(self._url)
        except DataError as error:
            raise UsageError(str(error)) from error
        self._is_s3 = self._url.startswith(("s3://", "s3a://"))

    def names(self) -> list[str]:
        """List the objects, as paths below the URL, sorted."""
        self._files.invalidate_cache()
        try:
            found = self._ask("", lambda: self._files.find(self._root))
        except FileNotFoundError:
            return []
        folder = self._root.rstrip("/") + "/"
        return sorted(path.removeprefix(folder) for path in found if path.startswith(folder))

    def info(self, name: str) -> dict[str, Any] | None:
        """Return what the store knows of an object, None if it is not there."""
        self._files.invalidate_cache()
        try:
            return dict(self._ask(name, lambda: self._files.info(self._path(name))))
        except FileNotFoundError:
            return None

    def read(self, name: str) -> bytes:
        """Return what a small object holds; raises FileNotFoundError."""
        return self._ask(name, lambda: self._files.cat_file(self._path(name)))

    def upload(self, local: str, name: str, digest: Digest) -> None:
        """Store a local file, of which `digest` is, and make sure that it arrived."""
        options = _UPLOAD if self._is_s3 else {}
        for _ in range(_TRIES):
            self._store(name, lambda: self._files.put_file(local, self._path(name), **options))
            if self._is_there(name, digest):
                return
        raise OutputError(f"{self.place(name)}: was stored {_TRIES} times, and is never what was sent; mend the store.")

    def create(self, name: str, data: bytes) -> bool:
        """Store a small object if there is none; returns whether there was none, surely only of S3 and Google's."""
        if self.info(name) is not None:
            return False
        try:
            self._store(name, lambda: self._files.pipe_file(self._path(name), data, mode="create"))
        except FileExistsError:
            return False
        except (ValueError, NotImplementedError):  # the store knows no such condition
            self._store(name, lambda: self._files.pipe_file(self._path(name), data))
        return True

    def replace(self, name: str, old: bytes, new: bytes) -> bool:
        """Store a small object in place of another; returns whether that was there, surely only of S3."""
        known = self.info(name)
        try:
            if known is None or self.read(name) != old:
                return False
            condition = {"IfMatch": known["ETag"]} if self._is_s3 and "ETag" in known else {}
            self._ask(name, lambda: self._pipe_if(self._path(name), new, condition))
        except (FileNotFoundError, _ChangedError):
            return False
        return True

    def delete(self, name: str) -> None:
        """Delete an object; it may be gone already."""
        try:
            self._ask(name, lambda: self._files.rm_file(self._path(name)))
        except FileNotFoundError:
            return

    def abort_uploads(self, wanted: Callable[[str], bool]) -> None:
        """Let S3 forget what was sent of objects that never became complete, if `wanted` takes their names."""
        if not self._is_s3:
            return
        bucket, _, prefix = self._root.partition("/")
        call: Any = getattr(self._files, "call_s3")  # noqa: B009 - of s3fs alone
        listed = self._ask("", lambda: call("list_multipart_uploads", Bucket=bucket, Prefix=f"{prefix}/".lstrip("/")))
        for item in listed.get("Uploads", ()):
            key, upload = item["Key"], item["UploadId"]
            if wanted(key.removeprefix(f"{prefix}/")):
                call("abort_multipart_upload", Bucket=bucket, Key=key, UploadId=upload)

    def _is_there(self, name: str, digest: Digest) -> bool:
        known = self.info(name)
        if known is None or known["size"] != digest.size:
            return False
        etag = str(known.get("ETag", "")).strip('"')
        if not etag or etag in digest.etags:
            return True
        return self._read_back(name, digest.size) == digest.whole  # encrypted, or sent in parts of another size

    def _read_back(self, name: str, size: int) -> str:
        found = hashlib.md5(usedforsecurity=False)
        with contextlib.closing(self._files.open(self._path(name), "rb", cache_type="none")) as file:
            for start in range(0, size, PART_BYTES):
                found.update(self._ask(name, lambda start=start: _read_at(file, start, PART_BYTES)))
        return found.hexdigest()

    def _path(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"

    def place(self, name: str) -> str:
        """Return an object's URL, for sentences."""
        return f"{self._url}/{name}" if name else self._url

    def _pipe_if(self, path: str, data: bytes, condition: dict[str, Any]) -> None:
        try:
            self._files.pipe_file(path, data, **condition)
        except OSError as error:
            answer: Any = getattr(error.__cause__, "response", {})
            if answer.get("Error", {}).get("Code") in ("PreconditionFailed", "ConditionalRequestConflict", "412"):
                raise _ChangedError from error
            raise

    def _store(self, name: str, action: Callable[[], object]) -> None:
        try:
            self._ask(name, action)
        except FileNotFoundError as error:
            raise OutputError(
                f"{self.place(name)}: {_reason(error)}; make the bucket, or choose another --out."
            ) from error

    def _ask(self, name: str, action: Callable[[], Result]) -> Result:
        """Do it; raises OutputError, or FileNotFoundError or FileExistsError, which mean something to the caller."""
        try:
            return patiently(self.place(name), action)
        except (FileNotFoundError, FileExistsError):
            raise
        except OSError as error:
            raise OutputError(
                f"{self.place(name)}: {_reason(error)}; "
                "mend that and run the same command again: finished shards are kept."
            ) from error
        except DataError as error:
            raise OutputError(str(error)) from error


class _ChangedError(Exception):
    """The object is not the one that was to be replaced."""


def _reason(error: OSError) -> str:
    return f"the store refuses ({error.strerror or str(error) or type(error).__name__})"


def _read_at(file: Any, start: int, size: int) -> bytes:
    file.seek(start)
    return file.read(size)
