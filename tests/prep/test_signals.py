"""Signals become one exception, wait where they must, and end the process on time."""

import os
import signal
import subprocess
import sys
import time

import pytest

from vdaprep.signals import Interrupted, deferred, handled


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
        "import hashlib, signal, sys, threading\n"
        "from vdaprep.signals import handled\n"
        "with handled():\n"
        "    print('up', flush=True)\n"
        "    hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)\n"  # minutes of C code
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(0.5)  # it is in C code by then
    start = time.monotonic()
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 143
    assert time.monotonic() - start < 4  # 1.7 s and the scheduling of a busy machine
    assert b"vdaprep: stopped; run the same command again" in said
