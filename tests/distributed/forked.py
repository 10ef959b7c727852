"""Processes that are copies of this one, which has imported everything already."""

import contextlib
import os
import random
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

PATIENCE_S = 600  # for what takes seconds where nothing else goes on
PORTS = range(20_000, 30_000)  # below those that the system deals out, so that nobody gets one before it is used


@dataclass
class Child:
    """A process that does one thing, and where it writes."""

    number: int
    out: Path
    err: Path
    code: int | None = None  # of its end, negative for a signal

    def poll(self) -> int | None:
        if self.code is None:
            number, status = os.waitpid(self.number, os.WNOHANG)
            self.code = os.waitstatus_to_exitcode(status) if number else None
        return self.code

    def wait(self) -> int:
        wait_until(lambda: self.poll() is not None)
        assert self.code is not None
        return self.code

    def send(self, signal_number: int) -> None:
        if self.poll() is None:
            os.kill(self.number, signal_number)

    def kill(self) -> None:
        """End it now, whatever it does."""
        self.send(signal.SIGKILL)
        self.wait()


def fork(work: Callable[[], object], folder: Path, name: object, variables: Mapping[str, object]) -> Child:
    """Do `work` with these environment variables in a child that writes into files of the folder."""
    out, err = (folder / f"{stream}{name}" for stream in ("out", "err"))
    number = os.fork()
    if number:
        return Child(number, out, err)
    code = 70
    try:
        sys.stdout, sys.stderr = out.open("w"), err.open("w")
        os.dup2(sys.stdout.fileno(), 1)
        os.dup2(sys.stderr.fileno(), 2)
        os.environ.update({name: str(value) for name, value in variables.items()})
        work()
        code = 0
    except SystemExit as exit_:
        code = exit_code(exit_)
    except BaseException:  # noqa: BLE001 - the end of a process, which says what it died of
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def exit_code(exit_: SystemExit) -> int:
    """Return the code that a process ends with after this."""
    return exit_.code if isinstance(exit_.code, int) else 0 if exit_.code is None else 1


def free_port() -> int:
    for port in random.sample(PORTS, 100):
        with contextlib.suppress(OSError), socket.socket() as found:
            found.bind(("", port))
            return port
    raise AssertionError("no port is free")


def wait_until(true: Callable[[], bool]) -> None:
    began = time.monotonic()
    while not true():
        assert time.monotonic() - began < PATIENCE_S
        time.sleep(0.02)
