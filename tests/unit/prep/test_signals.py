"""Signals become one exception."""

import contextlib
import os
import signal
import time

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
            send()
            signal.raise_signal(signal.SIGTERM)  # as another thread, which does not block it, would receive it
            steps.append(1)
        steps.append(2)
    assert steps == [1]


def test_an_ignored_signal_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with handled():
            send(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_signal_that_was_lost_can_be_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is raised in a destructor is lost; after the time that unwinding takes, another signal counts."""
    monkeypatch.setattr(signals, "_UNWINDING_S", 0.0)
    with pytest.raises(Interrupted), handled():
        with contextlib.suppress(Interrupted):
            send()
        send()
