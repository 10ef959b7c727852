"""Graceful stop on SIGTERM, Ctrl-C or at a time limit."""

import signal
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import FrameType


class StopRequest:
    """Whether a run was asked to stop: by SIGTERM, by Ctrl-C, or by the end of its time.

    A request is only noted; the run looks at it between steps. The second Ctrl-C raises KeyboardInterrupt at once.

    Args:
        time_limit_s: seconds from here until it is requested; None: no limit.
        now: the clock.
    """

    def __init__(self, time_limit_s: int | None = None, *, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._limit_s = time_limit_s
        self._began = now()
        self._signal: int | None = None

    @contextmanager
    def watching(self) -> Generator[None]:
        """Note signals while the block runs; only the main thread can."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @property
    def reason(self) -> str | None:
        """What asked the run to stop, such as `after SIGTERM`; None if nothing did."""
        if self._signal is not None:
            return f"after {signal.Signals(self._signal).name}"
        if self._limit_s is not None and self._now() - self._began >= self._limit_s:
            return f"at its time limit of {self._limit_s} s"
        return None

    @property
    def by_keyboard(self) -> bool:
        """Whether it was Ctrl-C."""
        return self._signal == signal.SIGINT

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGINT and self._signal is not None:
            raise KeyboardInterrupt
        self._signal = number
