"""Run independent tasks on a Ray cluster, giving those of processes that die to others."""

import contextlib
import importlib
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic

import cv2

from vdaprep.errors import UsageError, VdakitError, WorkerError
from vdaprep.workers import signals
from vdaprep.workers.tasks import Amount, Deaths, Done, Failed, Listener, Result, Task, Tick, Work, outcome

_LOOK_S = 0.3  # between two looks at what workers have done
_ANSWER_S = 10.0  # for a machine to take a connection
_GRACE_S = 0.7  # for workers that are told to end; `signals` leaves that much and what Ray takes to disconnect


@contextlib.contextmanager
def connect(address: str, *, workers: int, prepare: Callable[[], None]) -> Generator["RayExecutor"]:
    """Use the cluster at an address; if that is empty, at RAY_ADDRESS, or the one that this machine is part of.

    `workers` bounds the tasks at once, 0 is one a CPU of the cluster. `prepare` is called in every process before its
    first task; what it raises ends the run. Raises UsageError if there is no cluster, or no Ray.
    """
    ray = _import_ray()
    with contextlib.redirect_stdout(sys.stderr), signals.unwinding() as begun:  # Ray prints what dead workers said
        with signals.deferred(), _keeping_sigterm():
            begun.callback(ray.shutdown)
            _init(ray, address)
            workers, grows = workers or _cpus(ray), not workers
        yield RayExecutor(ray, workers, grows=grows, prepare=prepare)


def _import_ray() -> Any:
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise UsageError("--executor ray: Ray is not installed; pip install 'vdakit[ray]'.") from error


@contextlib.contextmanager
def _keeping_sigterm() -> Generator[None]:
    """Keep the handler of SIGTERM: that of Ray leaves with another exit code, saying nothing."""
    real, before = signal.signal, signal.getsignal(signal.SIGTERM)

    def without_it(number: int, handler: Any) -> Any:
        return before if number == signal.SIGTERM else real(number, handler)

    signal.signal = without_it
    try:
        yield
    finally:
        signal.signal = real
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)  # once more: Ray's C++ has put one of its own below Python's


def _init(ray: Any, address: str) -> None:
    where = address or os.environ.get("RAY_ADDRESS", "auto")
    try:
        _expect_listener(where)
        ray.init(address=where, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        found = f"no Ray cluster answers at {where}" if where != "auto" else "this machine is part of no Ray cluster"
        reason = str(error).strip().split("\n")[0]
        raise UsageError(
            f"--executor ray: {found} ({reason}); begin one with ray start, or name one with --ray-address; "
            "on one machine alone --executor local does the same."
        ) from error


def _expect_listener(where: str) -> None:
    """Raise OSError if nothing listens at HOST:PORT, where Ray would knock for many minutes."""
    host, _, port = where.rpartition(":")
    if port.isdecimal() and "://" not in host:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_S).close()


def _cpus(ray: Any) -> int:
    return max(1, int(ray.cluster_resources().get("CPU", 1)))


@dataclass(frozen=True)
class RayExecutor:
    """Runs tasks on a cluster that this process is connected to, each on one CPU; see `connect`."""

    ray: Any
    workers: int
    grows: bool
    prepare: Callable[[], None]

    def run(self, work: Work[Task, Result], tasks: Sequence[Task], listener: Listener) -> Generator[Result]:
        """See Executor."""
        with signals.unwinding() as begun:
            with signals.deferred():
                run = _Run(self, work, tasks, listener)
                begun.callback(run.stop)
            yield from run.results()

    def limit(self) -> int:
        """Return how many tasks to hand out: of a cluster that may grow more than it can run, so that it does."""
        return 2 * _cpus(self.ray) if self.grows else self.workers


@dataclass
class _Attempt(Generic[Task]):
    """A task that was handed out, and what was heard of it."""

    number: int
    task: Task
    heard: Amount = Amount()


@dataclass
class _Run(Generic[Task, Result]):
    """Tasks that wait and tasks that were handed out.

    No signal is raised while Ray's own code runs, which would make an error of another kind of it; none of the calls
    waits for long, so that one that came is raised soon.
    """

    executor: RayExecutor
    work: Work[Task, Result]
    tasks: Sequence[Task]
    listener: Listener
    attempts: "dict[Any, _Attempt[Task]]" = field(default_factory=dict[Any, _Attempt[Any]])

    def __post_init__(self) -> None:
        ray = self.ray = self.executor.ray
        self.waiting = deque(self.tasks)
        self.deaths = Deaths()
        self.begun = 0
        self.errors: Any = importlib.import_module("ray.exceptions")
        here = ray.get_runtime_context().get_node_id()
        affinity = importlib.import_module("ray.util.scheduling_strategies").NodeAffinitySchedulingStrategy
        # It lives where the driver does: were its machine lost, so would the driver be.
        self.board = ray.remote(_Board).options(num_cpus=0, scheduling_strategy=affinity(here, soft=False)).remote()
        self.asked = self.board.take.remote()
        self.perform = ray.remote(_perform).options(num_cpus=1, max_retries=0, scheduling_strategy="SPREAD")
        # In a list it is fetched by those processes only that ask for it.
        self.prepare = [ray.put(self.executor.prepare)]
        self.shared_work = ray.put(self.work)

    def results(self) -> Iterator[Result]:
        """Yield results until no task is left."""
        while self.waiting or self.attempts:
            with signals.deferred():
                came = self._look()
            yield from came

    def _look(self) -> list[Result]:
        """Hand tasks out as far as there is room, wait a moment, and return what came."""
        while self.waiting and len(self.attempts) < self.executor.limit():
            self._hand_out(self.waiting.popleft())
        ended, _ = self.ray.wait(list(self.attempts), num_returns=1, timeout=_LOOK_S)
        self._hear()
        return [result for reference in ended for result in self._end(reference)]

    def stop(self) -> None:
        """End what is still running."""
        left = list(self.attempts)
        for reference in left:
            self.ray.cancel(reference, force=True)
        if left:
            self.ray.wait(left, num_returns=len(left), timeout=_GRACE_S)
        self.ray.kill(self.board)

    def _hand_out(self, task: Task) -> None:
        attempt = _Attempt(self.begun, task)
        self.begun += 1
        told = attempt.number, self.board
        self.attempts[self.perform.remote(self.shared_work, task, self.prepare, told)] = attempt

    def _hear(self) -> None:
        """Pass on what workers have told; the board's process may not be up yet, or never be."""
        if not self.ray.wait([self.asked], timeout=0)[0]:
            return
        asked, self.asked = self.asked, self.board.take.remote()
        try:
            news: dict[int, Amount] = self.ray.get(asked)
        except self.errors.RayActorError:  # nothing but the progress is lost
            return
        for attempt in self.attempts.values():
            self._pass_on(attempt, attempt.heard + news.get(attempt.number, Amount()))

    def _pass_on(self, attempt: _Attempt[Task], total: Amount) -> None:
        if total != attempt.heard:
            self.listener.on_tick(total - attempt.heard)
            attempt.heard = total

    def _end(self, reference: Any) -> Iterator[Result]:
        attempt = self.attempts.pop(reference)
        try:
            came: Done[Result] | Failed
            came, total = self.ray.get(reference)
        except self.errors.RayTaskError as error:
            raise WorkerError(
                f"{attempt.task}: cannot be made on a machine of the cluster ({_first_line(error)}); "
                "every machine needs the same version of vdakit, and of what it imports."
            ) from error
        except self.errors.RayError as error:
            self._pass_on(attempt, Amount())
            self.listener.on_notice(self.deaths.add(str(attempt.task), _first_line(error)))
            self.waiting.appendleft(attempt.task)
            return
        self._pass_on(attempt, total)
        if isinstance(came, Failed):
            raise came.error
        yield came.result


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).split("\n") if line.strip()]
    return f"{type(error).__name__}: {lines[0].rstrip('.') if lines else 'no reason is known'}"


# ------------------------------------------------------------------------------------------- on machines of the cluster


class _Board:
    """What workers tell, until the driver takes it."""

    def __init__(self) -> None:
        self._news: dict[int, Amount] = {}

    def add(self, number: int, amount: Amount) -> None:
        """Add what an attempt did."""
        self._news[number] = self._news.get(number, Amount()) + amount

    def take(self) -> dict[int, Amount]:
        """Return what was told since the last time."""
        news, self._news = self._news, {}
        return news


_prepared: list[bool] = []  # not empty in a process that is


def _perform(
    work: Work[Any, Any], task: Any, prepare: list[Any], told: tuple[int, Any]
) -> tuple[Done[Any] | Failed, Amount]:
    """Do a task, telling a board under a number; returns what came of it, and all that it ticked."""
    number, board = told
    if not _prepared:
        try:
            importlib.import_module("ray").get(prepare[0])()
        except VdakitError as error:
            return Failed(error), Amount()
        cv2.setNumThreads(1)  # a task has one CPU
        _prepared.append(True)
    ticks = _Ticks(lambda amount: board.add.remote(number, amount))
    return outcome(work, task, ticks.add), ticks.total


class _Ticks:
    """Gathers ticks, to send a few messages a second."""

    def __init__(self, send: Tick) -> None:
        self.total = Amount()
        self._sent = Amount()
        self._sent_s = time.monotonic()
        self._send = send

    def add(self, amount: Amount) -> None:
        """Add what was done, and tell of it if the last time is a while ago."""
        self.total += amount
        if time.monotonic() - self._sent_s >= _LOOK_S:
            self._send(self.total - self._sent)
            self._sent, self._sent_s = self.total, time.monotonic()
