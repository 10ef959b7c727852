"""Locks between processes: flocks on files, and lock objects in a store.

A store has no locks, so a small object that is only written where there is none stands in for one. It is there until
its holder deletes it: one that was killed leaves it, and a user who knows that breaks it (`--break-lock`).
"""

import contextlib
import errno
import fcntl
import getpass
import json
import logging
import os
import socket
import time
import uuid
from collections.abc import Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from vdaprep.errors import OutputError, UsageError
from vdaprep.storage import remote
from vdaprep.storage.atomic import as_sentence
from vdaprep.storage.documents import DocumentError, parse_json
from vdaprep.storage.limits import LimitError

if TYPE_CHECKING:
    from vdaprep.storage.stores.objects import ObjectStore

_log = logging.getLogger(__name__)

_POLL_S = 0.05
_MAX_LOCK_BYTES = 1 << 14
_WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP)  # how file systems say that they have none


def try_lock(file: BinaryIO | int, *, shared: bool) -> bool:
    """Lock an open file until closed, alone or `shared`; False if it is taken."""
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def try_open_locked(path: Path, *, shared: bool = False) -> BinaryIO | None:
    """Open a file for writing and lock it until closed; None if it is taken.

    Raises OSError for a symbolic link, and where it cannot be made.
    """
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)  # writable: NFS locks nothing else
        file = os.fdopen(handle, "r+b", buffering=0)
        try:
            if not try_lock(file, shared=shared):
                file.close()
                return None
            if has_name(file, path):
                return file
        except BaseException:
            file.close()
            raise
        file.close()


def has_name(file: BinaryIO, path: Path) -> bool:
    """Tell whether an open file still has its name: a deleted one's lock is no lock."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat(follow_symlinks=False))
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def locked(path: Path, *, wait_s: int | float, progress: Path | None = None) -> Generator[BinaryIO]:
    """Open a file, made if need be, and have its lock alone while the context lasts.

    Raises TimeoutError where another has it for `wait_s` seconds; they count again whenever the size of the file
    `progress` has changed, since then the other is at work.
    """
    seen, since = -1, time.monotonic()
    while (file := try_open_locked(path)) is None:
        now = _size(progress)
        if now != seen:
            seen, since = now, time.monotonic()
        if time.monotonic() - since >= wait_s:
            raise TimeoutError(errno.ETIMEDOUT, f"another process has locked {path} for {wait_s} s; end that one")
        time.sleep(_POLL_S)
    with file:
        yield file


def _size(path: Path | None) -> int:
    try:
        return -1 if path is None else path.stat().st_size
    except FileNotFoundError:
        return -1


@contextlib.contextmanager
def owned(folder: Path, *, name: str, sentence: Callable[[str], str]) -> Generator[None]:
    """Hold the only right to write into a folder, made if need be, while the block runs.

    The lock file says who holds it and since when. It is deleted in the end, and so is a folder that was made for it
    and stayed empty. On a file system without locks there is none, and a warning.

    Args:
        folder: Where.
        name: Of the lock file.
        sentence: Returns what to say where another process holds it, given which one.

    Raises:
        UsageError: Another process holds it.
        OutputError: The folder or the file cannot be made.
    """
    path, is_new = folder / name, not folder.exists()
    with as_sentence(folder):
        file = _open_alone(path)
    try:
        if file is None:
            raise UsageError(sentence(holder(_read(path))))
        yield
    finally:
        if file is not None:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
            file.close()
        if is_new:
            with contextlib.suppress(OSError):  # it is not empty
                folder.rmdir()


def _open_alone(path: Path) -> BinaryIO | None:
    """Open and lock a file, made if need be, and write whose it is; None if taken."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            file = try_open_locked(path)
        except FileNotFoundError:  # another process removed the empty folder in between
            continue
        except OSError as error:
            if error.errno not in _WITHOUT_LOCKS:
                raise
            _log.warning(f"{path.parent}: this file system has no locks; see to it that one run alone writes there.")
            return path.open("ab", buffering=0)
        if file is not None:
            file.truncate(0)
            file.write(_this_process())
        return file


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


class ObjectLock:
    """A lock object in a store: who has it, where and since when.

    `place` names what it protects in sentences.
    """

    def __init__(self, store: "ObjectStore", url: str, *, place: str) -> None:
        self._store = store
        self._url = url
        self._place = place
        self._content = _this_process(token=uuid.uuid4().hex)

    def acquire(self, *, break_lock: bool) -> None:
        """Get the lock, with `break_lock` another's; raises UsageError, saying who has it."""
        if break_lock:
            self._store.delete(self._url)
        if not self._store.create(self._url, self._content):
            raise UsageError(held_sentence(self._place, remote.read(self._url)))

    def release(self) -> None:
        """Give the lock back; raises OutputError if it is another's by now."""
        try:
            found = remote.read(self._url)
        except FileNotFoundError:
            found = b""
        if found != self._content:
            raise OutputError(
                f"{self._place}: another vdaprep broke this one's lock and may have written there; run the same "
                "command again: it compares what is there."
            )
        self._store.delete(self._url)


def held_sentence(place: str, content: bytes, *, what: str = "another vdaprep") -> str:
    """Say who holds a lock object, and what to do."""
    return (
        f"{place}: {what} is writing there ({holder(content)}); wait for it, or if that process is dead, run the same "
        "command with --break-lock."
    )


def holder(content: bytes) -> str:
    """Say who wrote the content of a lock, and when."""
    try:
        facts = parse_json(content, where="the lock", limit=_MAX_LOCK_BYTES)
        owner, host, since = (facts.text(name) for name in ("owner", "host", "time"))
        return f"process {facts.integer('pid', 0, 2**63)} of {owner} on {host}, since {since}"
    except (DocumentError, LimitError):
        return "its lock does not say by whom"


def _this_process(**more: str) -> bytes:
    """Return what a lock held by this process contains."""
    time_ = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
    value = {"owner": _user(), "host": socket.gethostname(), "pid": os.getpid(), "time": time_}
    return json.dumps({**value, **more}).encode()


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return f"user {os.getuid()}"
