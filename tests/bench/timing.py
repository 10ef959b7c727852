"""Seconds of several rounds, and ratios between works that took turns in them."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from rich.table import Table

Name = TypeVar("Name")
Work = Callable[[], object]


@dataclass(frozen=True)
class Timing:
    """What each round took, in seconds a unit of work (a frame, a step)."""

    seconds: tuple[float, ...]

    @property
    def minimum(self) -> float:
        return min(self.seconds)

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def per(self, count: int) -> "Timing":
        """Share each round among `count` units."""
        return Timing(tuple(one / count for one in self.seconds))


def take_turns(
    works: Mapping[Name, Work], *, rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[Name, Timing]:
    """Time every work once a round, after one round that does not count.

    They take turns, so that a slow moment of the machine meets all of them.
    """
    taken: dict[Name, list[float]] = {name: [] for name in works}
    for _ in range(rounds + 1):
        for name, work in works.items():
            before = clock()
            work()
            taken[name].append(clock() - before)
    return {name: Timing(tuple(seconds[1:])) for name, seconds in taken.items()}


def ratio(above: Timing, below: Timing) -> float:
    """Return the median of the rounds' own ratios, which the machine's moods reach less than the times."""
    return statistics.median(a / b for a, b in zip(above.seconds, below.seconds, strict=True))


def milliseconds(timing: Timing | None) -> tuple[str, str]:
    """Write the minimum and the median, or that there is neither."""
    if timing is None:
        return "-", "-"
    return f"{1000 * timing.minimum:.2f}", f"{1000 * timing.median:.2f}"


def new_table(title: str, first: str, columns: Sequence[str], *, caption: str) -> Table:
    """Begin a table: a column of names and then columns of numbers."""
    table = Table(title=title, caption=caption, caption_justify="left", title_justify="left")
    table.add_column(first)
    for name in columns:
        table.add_column(name, justify="right")
    return table
