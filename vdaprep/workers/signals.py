"""Ctrl-C and SIGTERM as one exception, which unwinds the program."""

import contextlib
import signal
import threading
import time
from collections.abc import Generator
from types import FrameType

STOPPING = (signal.SIGINT, signal.SIGTERM)
_UNWINDING_S = 2.0  # in which further signals are ignored; all is undone well before


class Interrupted(BaseException):
    """The process was asked to end; no KeyboardInterrupt, on which typer would exit itself."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number

    def __str__(self) -> str:
        return "stopped; run the same command again to go on: what is finished is kept."


@contextlib.contextmanager
def handled() -> Generator[None]:
    """Raise Interrupted at the first SIGINT or SIGTERM while the block runs.

    Signals that follow at once are ignored, so that cleaning up is not disturbed. A signal that the process was started
    to ignore (nohup, a job in the background) stays ignored. Does nothing outside of the main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    raised_s = float("-inf")

    def on_signal(number: int, frame: FrameType | None) -> None:
        nonlocal raised_s
        if time.monotonic() - raised_s > _UNWINDING_S:  # again only if the first was lost, as in a destructor
            raised_s = time.monotonic()
            raise Interrupted(number)

    before = {number: signal.getsignal(number) for number in STOPPING}
    try:
        for number in STOPPING:
            if before[number] != signal.SIG_IGN:
                signal.signal(number, on_signal)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def deferred() -> Generator[None]:
    """Let signals wait for the end of the block.

    A process that is started in it is deaf to them until it unblocks them: half started, it would print a traceback.
    """
    came: list[int] = []
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)  # of this thread, and of processes; others are not asked
    in_main = threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in STOPPING if in_main}
    for number, handler in before.items():
        if callable(handler):
            signal.signal(number, lambda number, frame: came.append(number))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number, handler in before.items():
            signal.signal(number, handler)
        for number in came[:1]:
            signal.raise_signal(number)
