"""Run tasks on a Ray cluster, which repeats those of processes and machines that die."""

import contextlib
import importlib
import logging
import os
import signal
import socket
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from typing import Any

import cv2

from vdaprep.errors import UsageError, VdakitError, WorkerError
from vdaprep.workers.progress import Amount, OnProgress, ProgressEvent, ignore
from vdaprep.workers.tasks import RETRIES, Done, Failed, Result, Task, Work, died, outcome

_ANSWER_S = 10.0  # for a machine to take a connection
_GRACE_S = 0.7  # for workers that are cancelled


@contextlib.contextmanager
def connect(address: str, *, workers: int, prepare: Callable[[], None]) -> Generator["RayExecutor"]:
    """Connect to a Ray cluster while the block runs.

    Args:
        address: HOST:PORT; if empty, RAY_ADDRESS, or the cluster that this machine is part of.
        workers: upper bound of the tasks at the same time; 0: one per CPU of the cluster.
        prepare: called in every process before its first task; an error that it raises ends the run.

    Raises:
        UsageError: no cluster answers, or Ray is not installed.
    """
    try:
        ray = importlib.import_module("ray")
    except ImportError as error:
        raise UsageError("--executor ray: Ray is not installed; pip install 'vdakit[ray]'.") from error
    with contextlib.redirect_stdout(sys.stderr):  # Ray prints what dead workers said
        try:
            _init(ray, address)
            yield RayExecutor(ray, workers or _cpus(ray), grows=not workers, prepare=prepare)
        finally:
            ray.shutdown()


def _init(ray: Any, address: str) -> None:
    where = address or os.environ.get("RAY_ADDRESS", "auto")
    handler = signal.getsignal(signal.SIGTERM)
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
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)  # that of Ray ends with another exit code, saying nothing


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
    """The module."""
    workers: int
    """Upper bound of the tasks that run at the same time; of a cluster that grows, those of now."""
    grows: bool
    """Whether the cluster may grow: then more tasks are submitted than it can run, so that it does."""
    prepare: Callable[[], None]
    """Called in every process before its first task."""

    def run(
        self, work: Work[Task, Result], tasks: Sequence[Task], on_progress: OnProgress = ignore
    ) -> Generator[Result]:
        """See Executor. Progress is told as tasks end; Ray says nothing of those it repeats."""
        options = {"num_cpus": 1, "max_retries": RETRIES, "scheduling_strategy": "SPREAD"}
        perform = self.ray.remote(_perform).options(**options)
        shared = self.ray.put((work, self.prepare))
        waiting, running = deque(tasks), dict[Future[Any], Task]()
        try:
            while waiting or running:
                while waiting and len(running) < (2 * _cpus(self.ray) if self.grows else self.workers):
                    task = waiting.popleft()
                    running[perform.remote(shared, task).future()] = task
                # Not ray.wait: what a signal raises inside Ray's own code is lost.
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    yield self._result(future, running.pop(future), on_progress)
        finally:
            for future in running:
                self.ray.cancel(vars(future)["object_ref"], force=True)
            wait(running, timeout=_GRACE_S)

    def _result(self, future: Future[Any], task: object, on_progress: OnProgress) -> Any:
        errors: Any = importlib.import_module("ray.exceptions")
        try:
            ended, amount = future.result()
        except errors.RayTaskError as error:
            raise WorkerError(
                f"{task}: cannot be made on a machine of the cluster ({_first_line(error)}); "
                "every machine needs the same version of vdakit, and of what it imports."
            ) from error
        except errors.RayError as error:
            raise died(str(task), _first_line(error), times=1 + RETRIES) from error
        on_progress(ProgressEvent("work", amount=amount))
        if isinstance(ended, Failed):
            raise ended.error
        return ended.result


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).split("\n") if line.strip()]
    return f"{type(error).__name__}: {lines[0].rstrip('.') if lines else 'no reason is known'}"


# ------------------------------------------------------------------------------------------- on machines of the cluster


_prepared: list[bool] = []  # not empty in a process that is


def _perform(shared: tuple[Work[Any, Any], Callable[[], None]], task: Any) -> tuple[Done[Any] | Failed, Amount]:
    """Run a task; returns its outcome and the work done."""
    work, prepare = shared
    if not _prepared:
        try:
            prepare()
        except VdakitError as error:
            return Failed(error), Amount()
        cv2.setNumThreads(1)  # a task has one CPU
        _prepared.append(True)
    done: list[Amount] = []
    ended = outcome(work, task, done.append)
    return ended, sum(done, Amount())
