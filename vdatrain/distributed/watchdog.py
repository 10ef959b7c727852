"""Watchdog: ends a process once another one of those that train with it is lost."""

import os
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from torch.distributed import Store  # pyright: ignore[reportPrivateImportUsage]

_ENDED = "ended"  # why all have to end: the first to write it decides
_HEARD = "heard"  # how many have read that


@dataclass(frozen=True)
class Heartbeat:
    """How often ranks write their heartbeat, and when one without counts as lost."""

    beat_s: float = 1.0
    """Seconds between two heartbeats."""
    silence_s: float = 20.0
    """Seconds without a heartbeat after which a rank is lost."""
    suspected_s: float = 5.0
    """The same where a connection to some rank has broken already."""
    farewell_s: float = 3.0
    """Seconds for which the process that hosts the store waits before it ends, so that the others can read why."""


class Watchdog:
    """Writes this rank's heartbeat to the store and reads the next one's, in threads.

    Every rank watches one other, so the work does not grow with their number. A rank that finds another one lost writes
    that to the store, which all read.

    Args:
        store: The store of the process group, over a connection of its own.
        ranks: Number of this rank and of all.
        hosts_store: Whether the store is in this process.
        end: Called in a thread with the sentence why all ranks end; does not return.
        pulse: Intervals.
    """

    def __init__(
        self,
        store: Store,
        *,
        ranks: tuple[int, int],
        hosts_store: bool,
        end: Callable[[str], object],
        pulse: Heartbeat = Heartbeat(),  # noqa: B008 - it is frozen
    ) -> None:
        self._store = store
        self._rank, self._world = ranks
        self._hosts_store = hosts_store
        self._end = end
        self._pulse = pulse
        self._next = (self._rank + 1) % self._world
        self._heard = ""  # the next rank's latest beat
        self._heard_at = self._round_at = time.monotonic()
        self._suspecting = False
        self._leaving = False
        self._has_read = False  # why all end
        self._over = threading.Event()
        self._threads = [
            threading.Thread(target=work, name=f"watch-{work.__name__.strip('_')}", daemon=True)
            for work in (self._beat, self._guard)
        ]

    def start(self) -> None:
        """Start both threads."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End both threads; to be called once no rank waits for another any more."""
        self._over.set()
        for thread in self._threads:
            if thread.ident is not None and thread is not threading.current_thread():
                thread.join()

    def announce(self, sentence: str) -> None:
        """Write why this rank ends, so that others end too; waits until they could read it."""
        self._leaving = True
        try:
            self._store.compare_set(_ENDED, "", f"rank {self._rank} on {socket.gethostname()} ended: {sentence}")
        except RuntimeError:  # the store is gone: whoever is left notices that by itself
            return
        self._say_farewell()

    def suspect(self) -> None:
        """Wait, after a connection broke, until a lost rank would be noticed; returns if none is."""
        self._suspecting = True
        time.sleep(self._pulse.suspected_s + 3 * self._pulse.beat_s)

    def _beat(self) -> None:
        number = 0
        while not self._over.wait(self._pulse.beat_s if number else 0):
            number += 1
            try:
                ended = self._round(number)
            except RuntimeError:
                ended = "the store through which the ranks keep in touch broke off: rank 0, or its machine, is gone"
                if self._over.is_set() or self._leaving:
                    return
            self._round_at = time.monotonic()
            if ended and not self._leaving:
                self._say_farewell()
                self._end(ended)
                return

    def _round(self, number: int) -> str:
        """Write one heartbeat and read one; returns why all ranks end, or an empty text."""
        name = f"process {os.getpid()} on {socket.gethostname()}"
        self._store.set(f"beat/{self._rank}", f"{number} {name}")
        if self._store.check([_ENDED]):
            self._store.add(_HEARD, 0 if self._has_read else 1)
            self._has_read = True
            return self._store.get(_ENDED).decode()
        key = f"beat/{self._next}"
        beat = self._store.get(key).decode() if self._store.check([key]) else ""
        now = time.monotonic()
        if beat != self._heard:
            self._heard, self._heard_at = beat, now
        silent_s = now - self._heard_at
        if silent_s < (self._pulse.suspected_s if self._suspecting else self._pulse.silence_s):
            return ""
        who = f"rank {self._next}" + (f" ({self._heard.partition(' ')[2]})" if self._heard else "")
        lost = f"{who} has not been heard of for {silent_s:.0f} s: it was killed, or its machine or network is gone"
        return self._store.compare_set(_ENDED, "", lost).decode()

    def _guard(self) -> None:
        """End this rank where the store does not answer at all, as when its machine is off."""
        while not self._over.wait(self._pulse.beat_s):
            silent_s = time.monotonic() - self._round_at
            if silent_s > self._pulse.silence_s and not self._leaving:
                self._end(f"rank 0, which keeps the ranks in touch, has not answered for {silent_s:.0f} s")
                return

    def _say_farewell(self) -> None:
        """If the store ends with this process, wait until the others that are left have read it."""
        if not self._hosts_store:
            return
        deadline = time.monotonic() + self._pulse.farewell_s
        while time.monotonic() < deadline and self._store.add(_HEARD, 0) < self._world:
            time.sleep(self._pulse.beat_s / 10)
