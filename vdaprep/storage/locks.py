"""Locks between processes: flocks on files, which end with whoever has them, and lock objects in a store.

A store has no locks, so a small object that is only written where there is none stands in for one. It is there until
its holder deletes it: one that was killed leaves it, and a user who knows that breaks it (`--break-lock`).
"""

import contextlib
import errno
import fcntl
import getpass
import json
import os
import socket
import time
import uuid
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from vdaprep.errors import OutputError, UsageError
from vdaprep.storage import remote

if TYPE_CHECKING:
    from vdaprep.storage.stores.objects import ObjectStore

_POLL_S = 0.05


def try_lock(file: BinaryIO | int, *, shared: bool) -> bool:
    """Lock an open file until it is closed, alone or with all others that ask for `shared`; False if it is taken."""
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def try_open_locked(path: Path, *, shared: bool = False) -> BinaryIO | None:
    """Open a file for writing, made if need be, and lock it until it is closed; None if it is taken.

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
    """Tell whether an open file still has its name: if it was deleted before it was locked, others lock another one."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat(follow_symlinks=False))
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def locked(path: Path, *, wait_s: int | float, progress: Path | None = None) -> Generator[BinaryIO]:
    """Open a file, made if need be, and have its lock alone while the context lasts.

    Raises TimeoutError where another has it for `wait_s` seconds; they count anew whenever the size of the file
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


class ObjectLock:
    """A lock object in a store: who has it, where and since when. Used from `acquire` to `release`.

    `place` names what it protects in sentences.
    """

    def __init__(self, store: "ObjectStore", url: str, *, place: str) -> None:
        self._store = store
        self._url = url
        self._place = place
        self._content = json.dumps(
            {
                "owner": _user(),
                "host": socket.gethostname(),
                "pid": os.getpid(),
                "time": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
                "token": uuid.uuid4().hex,
            }
        ).encode()

    def acquire(self, *, break_lock: bool) -> None:
        """Get the lock, which another's is deleted for if `break_lock`; raises UsageError, saying who has it."""
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
    """Say who holds a lock, and what to do."""
    try:
        value = json.loads(content)
        by = f"process {value['pid']} of {value['owner']} on {value['host']}, since {value['time']}"
    except (ValueError, TypeError, KeyError):
        by = "its lock does not say by whom"
    return (
        f"{place}: {what} is writing there ({by}); wait for it, or if that process is dead, run the same command "
        "with --break-lock."
    )


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return f"user {os.getuid()}"
