"""The right to write to a store, which has no locks: a small object that its holder keeps renewing.

Two runs cannot both get it where the store writes on condition (S3, Google's): an abandoned lease is taken over by one.
Elsewhere each looks again a second after it wrote, which two writers that are slower than that may both pass; the one
whose lease is then gone ends at its next beat. A run that stands still longer than STALE_S, say in a suspended laptop,
may lose its lease to another; it ends as soon as it sees that. What both write until then are the same bytes, or else
the options differ and the later one refuses what it finds.
"""

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from pathlib import Path
from typing import Any

from vdaprep.errors import OutputError, UsageError
from vdaprep.storage.stores import Store

BEAT_S = 10.0  # between two renewals
STALE_S = 60.0  # without any: abandoned, as far as clocks agree
WATCH_S = 25.0  # and without any while one looks: abandoned, whatever clocks say
SETTLE_S = 1.0
_TRIES = 3


class Lease:
    """A lease called `name` in a store, held from `acquire` to `release`."""

    def __init__(self, store: Store, name: str, *, place: str) -> None:
        self._store = store
        self._name = name
        self._place = place
        self._token = uuid.uuid4().hex
        self._current = b""
        self._lost = ""
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._keep, daemon=True)

    def acquire(self) -> None:
        """Get the right; raises UsageError, saying who has it, if a living process does."""
        mine = self._content()
        if not self._take(mine):
            raise UsageError(_taken(self._place, self._store.read(self._name)))
        time.sleep(SETTLE_S)
        if self._store.read(self._name) != mine:
            raise UsageError(f"{self._place}: another vdaprep began to write there; wait for it.")
        self._current = mine
        self._thread.start()

    def expect_held(self) -> None:
        """Raise OutputError if the right was lost."""
        if self._lost:
            raise OutputError(f"{self._place}: {self._lost}; run the same command again: finished shards are kept.")

    def release(self) -> None:
        """Give the right back; nothing happens if it was lost."""
        self._done.set()
        if self._thread.is_alive():
            self._thread.join()
        with contextlib.suppress(OutputError, FileNotFoundError):  # it will be stale, then
            if self._current and self._store.read(self._name) == self._current:
                self._store.delete(self._name)

    def _take(self, mine: bytes) -> bool:
        for _ in range(_TRIES):
            if self._store.create(self._name, mine):
                return True
            with contextlib.suppress(FileNotFoundError):  # it was given back meanwhile
                theirs = self._store.read(self._name)
                if not abandoned(self._store, self._name, theirs):
                    return False
                if self._store.replace(self._name, theirs, mine):
                    return True
        return False

    def _keep(self) -> None:
        """Renew the lease until it is given back, or lost."""
        renewed_s = time.monotonic()
        while not self._done.wait(BEAT_S):
            new = self._content()
            try:
                if not self._store.replace(self._name, self._current, new):
                    self._lost = "another vdaprep has taken over the right to write there"
                    return
                self._current, renewed_s = new, time.monotonic()
            except OutputError as error:
                if time.monotonic() - renewed_s > STALE_S - BEAT_S:
                    self._lost = f"the right to write there could not be renewed ({error})"
                    return

    def _content(self) -> bytes:
        value = {"vdaprep": 1, "token": self._token, "time": time.time(), "host": socket.gethostname()}
        return json.dumps({**value, "pid": os.getpid(), "process": _process(os.getpid())}).encode()


def abandoned(store: Store, name: str, content: bytes) -> bool:
    """Tell whether the holder of a lease is dead: it is known to be, or nothing was heard of it, nor is while we look.

    Raises UsageError if the object is no lease.
    """
    value = _parse(store, name, content)
    if value["process"] and value["process"]["machine"] == _machine():
        return _process(value["pid"]) != value["process"]
    if time.time() - value["time"] < STALE_S:
        return False
    time.sleep(WATCH_S)
    return store.read(name) == content


def _parse(store: Store, name: str, content: bytes) -> dict[str, Any]:
    try:
        value: dict[str, Any] = json.loads(content)
        if (
            value["vdaprep"] == 1
            and value["host"]
            and float(value["time"])
            and int(value["pid"])
            and "process" in value
        ):
            return value
    except (ValueError, TypeError, KeyError):
        pass
    raise UsageError(f"{store.place(name)}: is not a lease of vdaprep, where one should be; delete it.")


def _taken(place: str, content: bytes) -> str:
    value = json.loads(content)
    ago = max(0, round(time.time() - value["time"]))
    return (
        f"{place}: another vdaprep is writing there, process {value['pid']} on {value['host']}, heard of {ago} s ago; "
        f"wait for it; if it is dead, try again when nothing was heard of it for {STALE_S:.0f} s."
    )


def _machine() -> str:
    """Name the running kernel and the space that process ids count in; empty where that is not known."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _process(pid: int) -> dict[str, Any] | None:
    """Return what tells a living process of this machine from all others, None if it is dead or nothing is known."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return None
    state, *fields = stat.rpartition(")")[2].split()
    return None if state == "Z" or not _machine() else {"machine": _machine(), "start": fields[18]}
