"""Files as locks between processes and threads: flocks, which end with whoever has them."""

import errno
import fcntl
import os
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

_POLL_S = 0.05


def try_lock(file: BinaryIO, *, shared: bool) -> bool:
    """Lock an open file until it is closed, alone or with all others that ask for `shared`; False if it is taken."""
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def locked(path: Path, *, wait_s: int | float, progress: Path | None = None) -> Generator[BinaryIO]:
    """Open a file, made if need be, and have its lock alone while the context lasts.

    Raises TimeoutError where another has it for `wait_s` seconds; they count anew whenever the size of the file
    `progress` has changed, since then the other is at work.
    """
    seen, since = -1, time.monotonic()
    while True:
        with path.open("a+b") as file:
            if try_lock(file, shared=False) and _is_still(file, path):
                yield file
                return
        now = _size(progress)
        if now != seen:
            seen, since = now, time.monotonic()
        if time.monotonic() - since >= wait_s:
            raise TimeoutError(errno.ETIMEDOUT, f"another process has locked {path} for {wait_s} s; end that one")
        time.sleep(_POLL_S)


def _is_still(file: BinaryIO, path: Path) -> bool:
    """Tell whether the file has its name yet: if it was deleted before we locked it, others lock another one."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _size(path: Path | None) -> int:
    try:
        return -1 if path is None else path.stat().st_size
    except FileNotFoundError:
        return -1
