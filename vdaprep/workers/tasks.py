"""Executor protocol: how tasks are run, how their errors travel, how often they are retried."""

import pickle
import traceback
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar, runtime_checkable

from vdaprep.errors import WorkerError
from vdaprep.workers.progress import Amount, OnProgress

Task = TypeVar("Task")
Result = TypeVar("Result")

Tick = Callable[[Amount], None]
Work = Callable[[Task, Tick], Result]

RETRIES = 2  # for the task of a process that died


@runtime_checkable
class Executor(Protocol):
    """Something that runs tasks."""

    @property
    def workers(self) -> int:
        """Upper bound of the tasks that run at the same time."""
        ...

    def run(self, work: Work[Task, Result], tasks: Sequence[Task], on_progress: OnProgress = ...) -> Generator[Result]:
        """Yield `work(task, tick)` of every task as it ends; `str(task)` names one.

        An error of a task stops the others and is raised. The task of a process that died is repeated, RETRIES times;
        then WorkerError is raised. Closing the generator ends all processes. `on_progress` receives events of the
        kinds `work` and `notice`.
        """
        ...


@dataclass(frozen=True)
class Done(Generic[Result]):
    """The result of a task."""

    result: Result
    """What the task returned."""


@dataclass(frozen=True)
class Failed:
    """The error of a task."""

    error: BaseException
    """What it raised."""


def outcome(work: Work[Task, Result], task: Task, tick: Tick) -> Done[Result] | Failed:
    """Run a task; its error is returned, as something that can be pickled."""
    try:
        return Done(work(task, tick))
    except Exception as error:  # noqa: BLE001 - the worker boundary: the first process raises it
        error.add_note(traceback.format_exc())
        return Failed(error if _can_be_pickled(error) else WorkerError(f"{task}: {error!r}"))


def _can_be_pickled(error: BaseException) -> bool:
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # noqa: BLE001 - whatever its own code does
        return False
    return True


class Deaths:
    """Counts how often the process of each task died."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def add(self, name: str, how: str) -> str:
        """Count a death; returns a notice of the repeat, raises WorkerError after RETRIES."""
        self._counts[name] += 1
        if self._counts[name] > RETRIES:
            raise died(name, how, times=self._counts[name])
        return f"{name}: the process that made it died ({how}); another begins it again."


def died(name: str, how: str, *, times: int) -> WorkerError:
    """Return the error for a task whose process died too often."""
    return WorkerError(
        f"{name}: the process that made it died {times} times ({how}); finished shards are kept: "
        "run the same command again, with fewer --workers if memory is short."
    )
