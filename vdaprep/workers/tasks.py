"""Independent tasks: what runs them, what they tell while they run, what comes of them."""

import pickle
import traceback
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar, runtime_checkable

from vdaprep.errors import WorkerError

Task = TypeVar("Task")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Amount:
    """How much was done: frames gone through, bytes of raw files read, bytes of shards made."""

    frames: int = 0
    bytes_in: int = 0
    bytes_out: int = 0

    def __add__(self, other: "Amount") -> "Amount":
        return Amount(self.frames + other.frames, self.bytes_in + other.bytes_in, self.bytes_out + other.bytes_out)

    def __neg__(self) -> "Amount":
        return Amount(-self.frames, -self.bytes_in, -self.bytes_out)

    def __sub__(self, other: "Amount") -> "Amount":
        return self + -other


Tick = Callable[[Amount], None]
Work = Callable[[Task, Tick], Result]

RETRIES = 2  # how often the task of a dead process is given to another


@dataclass(frozen=True)
class Listener:
    """Who is told how tasks go: what they tick (taken back, as negative amounts, of a process that died), notices."""

    on_tick: Tick = lambda amount: None
    on_notice: Callable[[str], None] = lambda sentence: None


@runtime_checkable
class Executor(Protocol):
    """Something that runs tasks."""

    @property
    def workers(self) -> int:
        """How many tasks run at once, at most."""
        ...

    def run(self, work: Work[Task, Result], tasks: Sequence[Task], listener: Listener) -> Generator[Result]:
        """Yield `work(task, tick)` of every task as it ends; `str(task)` names one.

        An error of a task stops the others and is raised. The task of a process that dies is given to another, RETRIES
        times; then WorkerError is raised. Closing the generator ends all processes.
        """
        ...


# --------------------------------------------------------------------------------------------------- what comes of them


@dataclass(frozen=True)
class Done(Generic[Result]):
    """A task's result."""

    result: Result


@dataclass(frozen=True)
class Failed:
    """A task's error."""

    error: BaseException


def outcome(work: Work[Task, Result], task: Task, tick: Tick) -> Done[Result] | Failed:
    """Do a task; whatever it raises comes back, as something that can be sent to another process."""
    try:
        return Done(work(task, tick))
    except Exception as error:  # noqa: BLE001 - the worker boundary: the first process raises it
        error.add_note(traceback.format_exc())
        return Failed(error if _can_travel(error) else WorkerError(f"{task}: {error!r}"))


def _can_travel(error: BaseException) -> bool:
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
        """Count a death; returns a notice that another process does the task, raises WorkerError if none shall."""
        self._counts[name] += 1
        if self._counts[name] > RETRIES:
            raise WorkerError(
                f"{name}: the process that made it died {self._counts[name]} times ({how}); finished shards are kept: "
                "run the same command again, with fewer --workers if memory is short."
            )
        return f"{name}: the process that made it died ({how}); another begins it anew."
