"""Run tasks in processes of this machine, replacing processes that die."""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe, wait
from multiprocessing.context import SpawnContext, SpawnProcess
from typing import Any, Generic

import cv2

from vdaprep.errors import WorkerError
from vdaprep.workers import signals
from vdaprep.workers.progress import Amount, OnProgress, ProgressEvent, ignore
from vdaprep.workers.tasks import Deaths, Done, Failed, Result, Task, Tick, Work, outcome

_RUN_AGAIN = 79  # exit code of a process that came to make processes itself


@dataclass(frozen=True)
class LocalExecutor:
    """Runs tasks in processes of this machine; see Executor."""

    workers: int
    """Number of processes; with one, tasks run in this process."""

    def __post_init__(self) -> None:
        if getattr(multiprocessing.current_process(), "_inheriting", False):  # it is still importing the main script
            os._exit(_RUN_AGAIN)

    def run(
        self, work: Work[Task, Result], tasks: Sequence[Task], on_progress: OnProgress = ignore
    ) -> Generator[Result]:
        """See Executor."""
        if self.workers <= 1 or len(tasks) <= 1:
            with _one_thread():
                for task in tasks:
                    yield work(task, _reporting(on_progress))
            return
        waiting, deaths = deque(tasks), Deaths()
        with contextlib.ExitStack() as stack:
            idle = [
                stack.enter_context(_Worker[Task, Result](work, on_progress))
                for _ in range(min(self.workers, len(tasks)))
            ]
            busy: dict[object, _Worker[Task, Result]] = {}
            done: list[Result] = []
            while waiting or busy or done:
                while waiting and idle:
                    worker = idle.pop()
                    worker.submit(waiting.popleft())
                    busy[worker.pipe] = worker
                yield from done  # now that all processes are busy again
                done = []
                for pipe in wait([worker.pipe for worker in busy.values()]) if busy else ():
                    worker = busy[pipe]
                    if worker.is_working():
                        continue
                    idle.append(busy.pop(pipe))
                    try:
                        done.append(worker.result())
                    except BrokenProcessPool:
                        on_progress(ProgressEvent("notice", deaths.add(str(worker.task), worker.cause_of_death())))
                        waiting.appendleft(worker.task)


class _Worker(Generic[Task, Result]):
    """A pool of one process: if it breaks, it is known which task was lost, and no other is."""

    task: Task
    pipe: Connection

    def __init__(self, work: Work[Task, Result], on_progress: OnProgress) -> None:
        self._work = work
        self._tick = _reporting(on_progress)
        self._ticked = Amount()
        self._context = _Context()
        self._pool: ProcessPoolExecutor | None = None
        self._future: Future[Done[Result] | Failed]

    def __enter__(self) -> "_Worker[Task, Result]":
        return self

    def __exit__(self, *error: object) -> None:
        """End the process at once: its output is of no use."""
        if self._pool is not None:
            for process in self._context.started:
                if process.pid is not None:
                    process.kill()
            self._pool.shutdown(cancel_futures=True)
            self.pipe.close()
            self._pool = None

    def submit(self, task: Task) -> None:
        """Begin a task; raises WorkerError if no process can be started for it."""
        self.task, self._ticked = task, Amount()
        with contextlib.ExitStack() as started:
            if self._pool is None:
                self.pipe, theirs = Pipe(duplex=False)
                started.callback(theirs.close)  # the process's own end is the only one left, so its death closes it
                self._context = _Context()
                # Not in the block below: it starts Python's resource tracker, which unblocks signals.
                self._pool = ProcessPoolExecutor(1, self._context, initializer=_begin, initargs=(theirs,))
            try:
                with signals.deferred():
                    self._future = self._pool.submit(_perform, self._work, task)
            except OSError as error:
                raise WorkerError(
                    f"{task}: no process could be started for it ({error.strerror}); finished shards are kept: "
                    "run the same command again, with fewer --workers."
                ) from error

    def is_working(self) -> bool:
        """Handle a message of the process; returns whether the task is still under way."""
        try:
            amount: Amount | None = self.pipe.recv()
        except (EOFError, OSError):
            return False
        if amount is not None:
            self._ticked += amount
            self._tick(amount)
        return amount is not None

    def result(self) -> Result:
        """Return the task's result; raises its error, or BrokenProcessPool if the process died."""
        try:
            ended = self._future.result()
        except BrokenProcessPool:
            self.__exit__()
            self._tick(-self._ticked)
            raise
        if isinstance(ended, Failed):
            raise ended.error
        return ended.result

    def cause_of_death(self) -> str:
        """Name what ended the process; raises WorkerError if it ran the main script again."""
        code = next((process.exitcode for process in self._context.started), None)
        if code == _RUN_AGAIN:
            raise WorkerError(
                "every process that encodes imports the script that is run, and there comes to this very call again: "
                'put what the script does below `if __name__ == "__main__":`, or use workers=1.'
            ) from None
        if code is None or code >= 0:
            return f"exit code {code}"
        name = signal.Signals(-code).name
        return f"{name}, as when memory runs out" if name == "SIGKILL" else name


class _Context(SpawnContext):
    """Remembers the processes that a pool starts, which keeps them to itself."""

    def __init__(self) -> None:
        super().__init__()
        self.started: list[SpawnProcess] = []

    def Process(self, *args: Any, **options: Any) -> SpawnProcess:  # type: ignore[override]  # noqa: N802
        process = SpawnProcess(*args, **options)
        self.started.append(process)
        return process


def _reporting(on_progress: OnProgress) -> Tick:
    return lambda amount: on_progress(ProgressEvent("work", amount=amount))


# -------------------------------------------------------------------------------------------------- the other processes

_pipes: list[Connection] = []  # to the first process; one, in a worker


def _begin(pipe: Connection) -> None:
    """Prepare a worker."""
    for number in signals.STOPPING:  # they reach every process of a terminal or a job; the first one decides
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signals.STOPPING)
    threading.Thread(target=_die_with_parent, daemon=True).start()
    cv2.setNumThreads(1)  # one worker, one core: the workers share the machine
    _pipes.append(pipe)


def _perform(work: Work[Any, Any], task: Any) -> Done[Any] | Failed:
    [pipe] = _pipes
    try:
        return outcome(work, task, pipe.send)
    finally:
        pipe.send(None)


def _die_with_parent() -> None:
    """End this process when the first is gone, so that a killed run writes no more."""
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
