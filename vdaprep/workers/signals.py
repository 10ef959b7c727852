"""Ctrl-C and SIGTERM as an exception that unwinds the program, within a time that is kept whatever happens."""

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Generator
from dataclasses import dataclass
from types import FrameType

STOPPING = (signal.SIGINT, signal.SIGTERM)
_LIMIT_S = 1.7  # for unwinding; together with the end of the interpreter that is under two seconds


class Interrupted(BaseException):
    """The process was asked to end; no KeyboardInterrupt, which typer would turn into an exit of its own."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number

    def __str__(self) -> str:
        return "stopped; run the same command again to go on: what is finished is kept."


@dataclass
class _State:
    """What has come in so far; `depth` counts the `deferred` blocks that the program is in."""

    is_active: bool = False
    depth: int = 0
    seen: int | None = None
    is_raised: bool = False

    def begin(self) -> None:
        """Forget what came before."""
        self.is_active, self.depth, self.seen, self.is_raised = True, 0, None, False


_state = _State()


@contextlib.contextmanager
def handled() -> Generator[None]:
    """Raise Interrupted at the first SIGINT or SIGTERM while the block runs; those that follow are ignored.

    If the block has not ended soon after, the process is ended by force. Handlers are restored at the end. A signal
    that the process was started to ignore (nohup, a job in the background) stays ignored. Elsewhere than in the first
    thread the block just runs.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _state.begin()
    with _guard():
        before = {number: signal.getsignal(number) for number in STOPPING}
        try:
            for number in STOPPING:
                if before[number] != signal.SIG_IGN:
                    signal.signal(number, _on_signal)
            yield
        finally:
            _state.is_active = False
            for number, handler in before.items():
                signal.signal(number, handler)


@contextlib.contextmanager
def deferred() -> Generator[None]:
    """Let a signal that comes while the block runs wait for its end."""
    _state.depth += 1
    try:
        yield
    finally:
        _state.depth -= 1
        _raise_if_due()


@contextlib.contextmanager
def unwinding() -> Generator[contextlib.ExitStack]:
    """Provide a stack that is unwound whole at the end of the block, even if a signal comes meanwhile."""
    stack = contextlib.ExitStack()
    try:
        yield stack
    finally:
        with deferred():
            stack.close()


def _on_signal(number: int, frame: FrameType | None) -> None:
    if _state.seen is None:
        _state.seen = number
        _raise_if_due()


def _raise_if_due() -> None:
    if _state.seen is not None and _state.is_active and not _state.is_raised and not _state.depth:
        _state.is_raised = True
        raise Interrupted(_state.seen)


@contextlib.contextmanager
def _guard() -> Generator[None]:
    """End the process some time after a signal unless the block has ended; the first thread may be unable to."""
    ended = threading.Event()
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    before = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    watcher = threading.Thread(target=_watch, args=(ours, ended), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        signal.set_wakeup_fd(before)
        theirs.close()
        watcher.join()
        ours.close()


def _watch(ours: socket.socket, ended: threading.Event) -> None:
    """Wait for the byte that Python's own handler writes at once, even while the first thread is inside C code."""
    while came := ours.recv(1):
        if came[0] in STOPPING and signal.getsignal(came[0]) is _on_signal and not ended.wait(_LIMIT_S):
            os.write(2, f"\nvdaprep: {Interrupted(came[0])}\n".encode())
            os._exit(Interrupted(came[0]).exit_code)
