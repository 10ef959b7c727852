"""Run independent tasks in processes of this machine, replacing processes that die."""

import contextlib
import multiprocessing
import os
import pickle
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe, wait
from multiprocessing.context import SpawnContext, SpawnProcess
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import cv2

from vdaprep.errors import WorkerError

Task = TypeVar("Task")
Result = TypeVar("Result")
Tick = Callable[[int], None]
Work = Callable[[Task, Tick], Result]

RETRIES = 2  # how often the task of a dead process is given to another
_GRACE_S = 1.0  # between asking a process to end and ending it


@dataclass(frozen=True)
class Listener:
    """Who is told how tasks go: what they tick (taken back, as a negative number, of a process that died), notices."""

    on_tick: Tick = lambda count: None
    on_notice: Callable[[str], None] = lambda sentence: None


@runtime_checkable
class Executor(Protocol):
    """Something that runs tasks."""

    def run(self, work: Work[Task, Result], tasks: Sequence[Task], listener: Listener) -> Generator[Result]:
        """Yield `work(task, tick)` of every task as it ends; `str(task)` names one.

        An error of a task stops the others and is raised. The task of a process that dies is given to another, RETRIES
        times; then WorkerError is raised. Closing the generator ends all processes.
        """
        ...


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
        try:
            pool.start(min(self.workers, len(tasks)))
            yield from pool.results()
        finally:
            pool.stop()


# --------------------------------------------------------------------------------------- what processes tell each other


@dataclass(frozen=True)
class _Ticked:
    count: int


@dataclass(frozen=True)
class _Done(Generic[Result]):
    result: Result


@dataclass(frozen=True)
class _Failed:
    error: BaseException


# ---------------------------------------------------------------------------------------------------- the first process


@dataclass
class _Worker(Generic[Task]):
    """A process, our end of the pipe to it, and what it is doing."""

    process: SpawnProcess
    pipe: Connection
    task: Task
    ticks: int = 0


class _Pool(Generic[Task, Result]):
    """Processes at work on a queue of tasks."""

    def __init__(self, work: Work[Task, Result], tasks: Sequence[Task], listener: Listener) -> None:
        self._work = work
        self._waiting = deque(tasks)
        self._deaths: dict[str, int] = {}
        self._listener = listener
        self._workers: dict[Connection, _Worker[Task]] = {}
        self._context: SpawnContext = multiprocessing.get_context("spawn")

    def start(self, count: int) -> None:
        """Start processes, each on a task of its own."""
        for _ in range(count):
            self._start_one(self._waiting.popleft())

    def results(self) -> Iterator[Result]:
        """Yield results until no task is left."""
        while self._workers:
            for pipe in wait(list(self._workers)):
                assert isinstance(pipe, Connection)  # nothing else was waited for
                yield from self._hear(self._workers[pipe])

    def stop(self) -> None:
        """End all processes, by force if asking does not help."""
        workers = list(self._workers.values())
        self._workers.clear()
        for worker in workers:
            worker.process.terminate()
        for worker in workers:
            worker.process.join(_GRACE_S)
            worker.process.kill()
            worker.process.join()
            worker.pipe.close()

    def _start_one(self, task: Task) -> None:
        ours, theirs = Pipe()
        process = self._context.Process(target=_serve, args=(theirs, self._work), daemon=True)
        process.start()
        theirs.close()  # the process's own end is the only one left, so its death closes the pipe
        worker = _Worker(process, ours, task)
        self._workers[ours] = worker
        self._send(worker, task)

    def _hear(self, worker: _Worker[Task]) -> Iterator[Result]:
        try:
            message: _Ticked | _Done[Result] | _Failed = worker.pipe.recv()
        except (EOFError, OSError):
            self._replace(worker)
            return
        match message:
            case _Ticked(count):
                worker.ticks += count
                self._listener.on_tick(count)
            case _Done():
                self._next(worker)
                yield message.result
            case _Failed(error):
                raise error

    def _next(self, worker: _Worker[Task]) -> None:
        if self._waiting:
            worker.task, worker.ticks = self._waiting.popleft(), 0
            self._send(worker, worker.task)
            return
        del self._workers[worker.pipe]
        self._send(worker, None)
        worker.process.join()
        worker.pipe.close()

    def _replace(self, worker: _Worker[Task]) -> None:
        """Give the task of a process that died to a new one, or give up."""
        del self._workers[worker.pipe]
        worker.pipe.close()
        worker.process.join()
        name = str(worker.task)
        deaths = self._deaths[name] = self._deaths.get(name, 0) + 1
        self._listener.on_tick(-worker.ticks)
        how = _cause_of_death(worker.process.exitcode)
        if deaths > RETRIES:
            raise WorkerError(
                f"{name}: the process that made it died {deaths} times ({how}); finished shards are kept: "
                "run the same command again, with fewer --workers if memory is short."
            )
        self._listener.on_notice(f"{name}: the process that made it died ({how}); another begins it anew.")
        self._start_one(worker.task)

    @staticmethod
    def _send(worker: _Worker[Task], task: Task | None) -> None:
        with contextlib.suppress(BrokenPipeError):  # it is dead; reading from it will say so
            worker.pipe.send(task)


def _cause_of_death(code: int | None) -> str:
    if code is None or code >= 0:
        return f"exit code {code}"
    name = signal.Signals(-code).name
    return f"{name}, as when memory runs out" if name == "SIGKILL" else name


# -------------------------------------------------------------------------------------------------- the other processes


def _serve(pipe: Connection, work: Work[Any, Any]) -> None:
    """Work on tasks until there are no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process of the terminal; the first decides
    threading.Thread(target=_die_with_parent, daemon=True).start()
    cv2.setNumThreads(1)  # one worker, one core: the workers share the machine
    while (task := pipe.recv()) is not None:
        pipe.send(_outcome(work, task, lambda count: pipe.send(_Ticked(count))))


def _outcome(work: Work[Task, Result], task: Task, tick: Tick) -> _Done[Result] | _Failed:
    try:
        return _Done(work(task, tick))
    except Exception as error:  # noqa: BLE001 - the worker boundary: the first process raises it
        error.add_note(traceback.format_exc())
        return _Failed(error if _can_travel(error) else WorkerError(f"{task}: {error!r}"))


def _can_travel(error: BaseException) -> bool:
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # noqa: BLE001 - whatever its own code does
        return False
    return True


def _die_with_parent() -> None:
    """End this process when the first one is gone, so that a run that was killed does not go on writing."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


@contextlib.contextmanager
def _one_thread() -> Generator[None]:
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(threads)
