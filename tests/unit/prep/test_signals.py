"""Signals become one exception, wait where they must, and end the process on time."""

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vdaprep.workers import signals
from vdaprep.workers.signals import Interrupted, deferred, handled


def send(number: int = signal.SIGTERM) -> None:
    os.kill(os.getpid(), number)
    time.sleep(0.001)  # handlers run between two steps of the interpreter


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_first_signal_is_raised_and_handlers_come_back(number: int, code: int) -> None:
    before = signal.getsignal(number)
    with pytest.raises(Interrupted, match="run the same command again to go on") as caught, handled():
        try:
            send(number)
        finally:
            send(number)  # does not disturb what ends
    assert caught.value.exit_code == code
    assert signal.getsignal(number) == before
    with handled():
        pass
    assert signal.getsignal(number) == before


def test_a_signal_waits_for_the_end_of_a_deferred_block() -> None:
    steps: list[int] = []
    with pytest.raises(Interrupted), handled():
        with deferred():
            with deferred():
                send()
                steps.append(1)
            steps.append(2)
        steps.append(3)
    assert steps == [1, 2]


def test_an_ignored_signal_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with handled():
            send(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_outside_of_a_block_nothing_is_deferred() -> None:
    with deferred():
        pass
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_a_process_that_cannot_unwind_ends_all_the_same() -> None:
    program = (
        "import hashlib, signal, sys, threading, time\n"
        "from vdaprep.workers.signals import handled\n"
        "with handled():\n"
        "    print(time.process_time(), flush=True)\n"
        "    hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)\n"  # minutes of C code
    )
    before_s = _ended_cpu_s()
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    up_s = float(process.stdout.readline())
    deadline = time.monotonic() + 120
    while (spent_s := _cpu_s(process.pid)) < up_s + 0.2:  # by then it is in C code
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 143
    assert b"vdaprep: stopped; run the same command again" in said
    # It works until the end, so that what it took of a processor is all the time that passed, but on a busy machine.
    assert _ended_cpu_s() - before_s - spent_s < 2
    assert signals._LIMIT_S < 2


def _cpu_s(pid: int) -> float:
    """Return the processor's seconds that a process has taken."""
    status = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, status[11:13])) / os.sysconf("SC_CLK_TCK")


def _ended_cpu_s() -> float:
    """Return the same of all processes that this one started and that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
