"""What a page shows: verdict, tables, curves, paired differences, scores and clips.

An arm is what is compared: a variant, or a variant with options of its own. It may have several runs, one a seed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vdatrain.evaluation.evaluate import Gallery

MAX_NAMED = 4  # arms that a title names beside the baseline


@dataclass(frozen=True)
class TableCell:
    """A cell of a table."""

    text: str
    """What it says."""
    best: bool = False
    """Whether it is printed bold."""


@dataclass(frozen=True)
class Table:
    """A table of the page."""

    title: str
    """What it is about."""
    heading: Sequence[str]
    """Titles of the columns."""
    texts: int
    """How many columns, from the left, are text; the others are figures, aligned to the right."""
    rows: Sequence[Sequence[TableCell]]
    """As many cells a row as there are titles."""


@dataclass(frozen=True)
class Line:
    """A figure of one run over its steps."""

    arm: str
    """The arm that the run is of."""
    run: str
    """What tells it from other runs of the arm: its seed or its folder."""
    points: Sequence[tuple[float, float]]
    """Step and value, steps rising."""


@dataclass(frozen=True)
class Chart:
    """A figure over the steps, of all runs that have it."""

    title: str
    """What is drawn."""
    lines: Sequence[Line]
    """Of each run; runs of an arm are drawn as their mean and a band from the least to the greatest."""


@dataclass(frozen=True)
class Difference:
    """How much an arm's metric differs from the baseline's, in percent of it."""

    dataset: str
    """The data set, or AVERAGE."""
    arm: str
    """The arm."""
    metric: str
    """The metric, a key of METRICS."""
    percent: float
    """The mean difference."""
    low: float | None = None
    """Lower end of its 95 % interval; None where there are too few runs for one."""
    high: float | None = None
    """Upper end."""


@dataclass(frozen=True)
class Score:
    """A run's absrel and TAE on a data set."""

    dataset: str
    """The data set, or AVERAGE."""
    arm: str
    """The arm that the run is of."""
    run: str
    """What tells it from other runs of the arm."""
    absrel: float
    """Mean relative error of depth."""
    tae: float
    """Temporal alignment error x 100."""


@dataclass(frozen=True)
class ShownClip:
    """A held-out window as each arm predicts it."""

    title: str
    """What it is: its data set."""
    galleries: Mapping[str, Gallery]
    """By arm, at least one; frames, truth and sizes are the same in all of them."""


@dataclass(frozen=True)
class Page:
    """All that a page shows; what is empty is left out."""

    title: str
    """Heading."""
    verdict: Sequence[str]
    """Sentences below it."""
    tables: Sequence[Table]
    """First the results, the others at the end."""
    baseline: str
    """The arm that `differences` are to."""
    arms: Sequence[str]
    """Names of all arms, the baseline first; colours follow this order."""
    charts: Sequence[Chart] = ()
    """Curves."""
    differences: Sequence[Difference] = ()
    """Of each arm but the baseline."""
    intervals: str = "over seeds, paired"
    """What the intervals of `differences` are taken over."""
    scores: Sequence[Score] = ()
    """Of each run."""
    clips: Sequence[ShownClip] = ()
    """For the player."""
    remarks: Sequence[str] = ()
    """Sentences below the results."""


def together(arms: Sequence[str]) -> str:
    """Return the arms' names, or of many their number; the table has their names anyway."""
    if len(arms) > MAX_NAMED:
        return f"{len(arms)} arms"
    return ", ".join(arms) or "nothing"
