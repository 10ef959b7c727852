"""Run independent tasks in worker processes, reporting progress while they run."""

import contextlib
import multiprocessing
import queue
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.queues import Queue
from typing import TypeVar

import cv2

from vdaprep.errors import VdakitError

Task = TypeVar("Task")
Result = TypeVar("Result")
Tick = Callable[[int], None]

_ticks: "Queue[int] | None" = None  # a worker's end of the queue that its progress goes through
_POLL_S = 0.2


def run_local(
    work: Callable[[Task, Tick], Result], tasks: Sequence[Task], *, workers: int, on_tick: Tick
) -> Generator[Result]:
    """Yield `work(task, tick)` of every task as it ends, from `workers` processes (1: from this one).

    `tick(n)` in a worker becomes `on_tick(n)` here. An error of a task stops the others and is raised; so is the death
    of a worker process, as VdakitError.
    """
    if workers <= 1 or len(tasks) <= 1:
        with _one_thread():
            for task in tasks:
                yield work(task, on_tick)
        return
    context = multiprocessing.get_context("spawn")
    ticks: Queue[int] = context.Queue()
    pool = ProcessPoolExecutor(min(workers, len(tasks)), context, initializer=_start_worker, initargs=(ticks,))
    try:
        futures = [pool.submit(_work_and_tick, work, task) for task in tasks]
        yield from _results(futures, ticks, on_tick)
    except BrokenProcessPool as error:
        raise VdakitError(
            "A worker process died, killed or out of memory; finished shards are kept: "
            "run the same command again, with fewer --workers if memory is short."
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _results(futures: Iterable[Future[Result]], ticks: "Queue[int]", on_tick: Tick) -> Iterator[Result]:
    waiting = set(futures)
    while waiting:
        done, waiting = wait(waiting, timeout=_POLL_S, return_when=FIRST_COMPLETED)
        _drain(ticks, on_tick)
        for future in done:
            yield future.result()
    _drain(ticks, on_tick)


def _drain(ticks: "Queue[int]", on_tick: Tick) -> None:
    with contextlib.suppress(queue.Empty):
        while True:
            on_tick(ticks.get_nowait())


def _start_worker(ticks: "Queue[int]") -> None:
    global _ticks  # noqa: PLW0603 - set once, when the worker process starts
    _ticks = ticks
    cv2.setNumThreads(1)  # one worker, one core: the workers share the machine


def _work_and_tick(work: Callable[[Task, Tick], Result], task: Task) -> Result:
    assert _ticks is not None  # the initializer ran
    return work(task, _ticks.put)


@contextlib.contextmanager
def _one_thread() -> Generator[None]:
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(threads)
