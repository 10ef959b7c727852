"""Results in order whatever the threads do, errors when their turn comes, and never a wait without an end."""

import itertools
import threading
import time
from contextlib import closing

import pytest

from vdatrain.data.prefetch import Pace, Stalled, map_ahead


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("ahead", [0, 1, 7])
def test_results_come_in_order(threads, ahead):
    def work(number):
        time.sleep(0.002 * (number % 3))
        return number * number

    assert list(map_ahead(work, iter(range(30)), pace=Pace(threads, ahead))) == [n * n for n in range(30)]


def test_nothing_is_begun_farther_ahead_than_was_said():
    begun, others = [], set(threading.enumerate())
    with closing(map_ahead(begun.append, itertools.count(), pace=Pace(2, ahead=3))) as results:
        for _ in range(3):
            next(results)
        deadline = time.monotonic() + 60
        while len(begun) < 6:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        time.sleep(0.05)  # more could have been begun
        assert sorted(begun) == list(range(6))
    assert set(threading.enumerate()) <= others


def test_one_that_is_not_to_go_ahead_waits_to_be_asked():
    begun = []
    with closing(map_ahead(begun.append, itertools.count(), pace=Pace(1, ahead=0))) as results:
        for count in range(1, 4):
            next(results)
            time.sleep(0.02)
            assert begun == list(range(count))


@pytest.mark.parametrize("error", [ValueError("seven"), SystemExit(3), KeyboardInterrupt()])
def test_whatever_is_raised_is_raised_in_its_turn(error):
    def work(number):
        if number == 7:
            raise error
        return number

    results = map_ahead(work, iter(range(9)), pace=Pace(3, ahead=5))
    assert [next(results) for _ in range(7)] == list(range(7))
    with pytest.raises(type(error)):
        next(results)


def test_an_error_of_the_items_themselves_is_raised_in_its_turn():
    def items():
        yield from range(3)
        raise ValueError("no fourth")

    results = map_ahead(lambda number: number, items(), pace=Pace(2, ahead=5))
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="no fourth"):
        next(results)


@pytest.mark.slow
def test_what_does_not_come_back_is_named_and_left_alone():
    release = threading.Event()

    def work(number):
        return number if number != 2 else release.wait()

    results = map_ahead(work, iter(range(5)), pace=Pace(2, ahead=2, patience_s=2))
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(Stalled) as caught:
        next(results)
    assert caught.value.item == 2
    assert not release.is_set()  # nobody waited for what was left alone
    release.set()
