"""Run independent tasks in processes of this machine, replacing processes that die."""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe, wait
from multiprocessing.context import SpawnContext, SpawnProcess
from typing import Any, Generic

import cv2

from vdaprep.errors import WorkerError
from vdaprep.workers import signals
from vdaprep.workers.tasks import Amount, Deaths, Done, Failed, Listener, Result, Task, Work, outcome

_GRACE_S = 1.0  # for a process that has nothing left to do


@dataclass(frozen=True)
class LocalExecutor:
    """Runs tasks in `workers` processes; with one, in this process, whose death nobody here can notice."""

    workers: int

    def run(self, work: Work[Task, Result], tasks: Sequence[Task], listener: Listener) -> Generator[Result]:
        """See Executor."""
        if self.workers <= 1 or len(tasks) <= 1:
            with _one_thread():
                for task in tasks:
                    yield work(task, listener.on_tick)
            return
        pool = _Pool(work, tasks, listener)
        with signals.unwinding() as begun:
            begun.callback(pool.stop)
            pool.start(min(self.workers, len(tasks)))
            yield from pool.results()


# --------------------------------------------------------------------------------------- what processes tell each other


@dataclass(frozen=True)
class _Ticked:
    amount: Amount


# ---------------------------------------------------------------------------------------------------- the first process


@dataclass
class _Worker(Generic[Task]):
    """A process, our end of the pipe to it, and what it is doing."""

    process: SpawnProcess
    pipe: Connection
    task: Task
    ticked: Amount = Amount()


class _Pool(Generic[Task, Result]):
    """Processes at work on a queue of tasks."""

    def __init__(self, work: Work[Task, Result], tasks: Sequence[Task], listener: Listener) -> None:
        self._work = work
        self._waiting = deque(tasks)
        self._deaths = Deaths()
        self._listener = listener
        self._workers: dict[Connection, _Worker[Task]] = {}  # those that have a task
        self._idle: list[_Worker[Task]] = []
        self._context: SpawnContext = multiprocessing.get_context("spawn")

    def start(self, count: int) -> None:
        """Start processes, each on a task of its own."""
        # A task may be more than a pipe holds; it is read only when its process is up, by then the others are, too.
        for worker in [self._start_one(self._waiting.popleft()) for _ in range(count)]:
            self._send(worker, worker.task)

    def results(self) -> Iterator[Result]:
        """Yield results until no task is left."""
        while self._workers:
            for pipe in wait(list(self._workers)):
                assert isinstance(pipe, Connection)  # nothing else was waited for
                yield from self._hear(self._workers[pipe])

    def stop(self) -> None:
        """End all processes: those at work at once, as their output is of no use."""
        for worker in self._workers.values():
            worker.process.kill()
        for worker in self._idle:
            worker.pipe.close()  # which ends it
        for worker in [*self._workers.values(), *self._idle]:
            worker.process.join(_GRACE_S)
            worker.process.kill()
            worker.process.join()
            worker.pipe.close()
        self._workers.clear()
        self._idle.clear()

    def _start_one(self, task: Task) -> _Worker[Task]:
        with signals.deferred(), _blocked_signals():  # a process that is not in the list would not be ended
            ours, theirs = Pipe()
            process = self._context.Process(target=_serve, args=(theirs, self._work), daemon=True)
            try:
                process.start()
            except OSError as error:
                ours.close()
                raise WorkerError(
                    f"{task}: no process could be started for it ({error.strerror}); finished shards are kept: "
                    "run the same command again, with fewer --workers."
                ) from error
            finally:
                theirs.close()  # the process's own end is the only one left, so its death closes the pipe
            worker = self._workers[ours] = _Worker(process, ours, task)
        return worker

    def _hear(self, worker: _Worker[Task]) -> Iterator[Result]:
        try:
            message: _Ticked | Done[Result] | Failed = worker.pipe.recv()
        except (EOFError, OSError):
            self._replace(worker)
            return
        match message:
            case _Ticked(amount):
                worker.ticked += amount
                self._listener.on_tick(amount)
            case Done():
                self._next(worker)
                yield message.result
            case Failed(error):
                raise error

    def _next(self, worker: _Worker[Task]) -> None:
        if self._waiting:
            worker.task, worker.ticked = self._waiting.popleft(), Amount()
            self._send(worker, worker.task)
            return
        self._idle.append(self._workers.pop(worker.pipe))

    def _replace(self, worker: _Worker[Task]) -> None:
        """Give the task of a process that died to a new one, or give up."""
        worker.process.kill()  # should it live: it is not heard any more
        worker.process.join()
        del self._workers[worker.pipe]
        worker.pipe.close()
        name = str(worker.task)
        self._listener.on_tick(-worker.ticked)
        self._listener.on_notice(self._deaths.add(name, _cause_of_death(worker.process.exitcode)))
        self._send(self._start_one(worker.task), worker.task)

    @staticmethod
    def _send(worker: _Worker[Task], task: Task) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it is dead; reading from it will say so
            worker.pipe.send(task)


def _cause_of_death(code: int | None) -> str:
    if code is None or code >= 0:
        return f"exit code {code}"
    name = signal.Signals(-code).name
    return f"{name}, as when memory runs out" if name == "SIGKILL" else name


# -------------------------------------------------------------------------------------------------- the other processes


def _serve(pipe: Connection, work: Work[Any, Any]) -> None:
    """Work on tasks until there are no more."""
    for number in signals.STOPPING:  # they reach every process of a terminal or a job; the first one decides
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signals.STOPPING)
    threading.Thread(target=_die_with_parent, daemon=True).start()
    cv2.setNumThreads(1)  # one worker, one core: the workers share the machine
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):  # nobody is there any more
        while True:
            task = pipe.recv()
            pipe.send(outcome(work, task, lambda amount: pipe.send(_Ticked(amount))))


def _die_with_parent() -> None:
    """End this process when the first one is gone, so that a run that was killed does not go on writing."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


@contextlib.contextmanager
def _blocked_signals() -> Generator[None]:
    """Let a process that starts in this block be deaf to signals until it says what to do with them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals.STOPPING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _one_thread() -> Generator[None]:
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(threads)
