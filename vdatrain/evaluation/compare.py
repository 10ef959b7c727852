"""Compare finished runs: data set x variant, with the spread over runs of the same variant."""

import html
import json
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vdaprep.errors import DataError, UsageError
from vdatrain.run_dir import LOG_FILE

METRICS = {"absrel": -1, "delta1": 1, "tae": -1}  # -1: lower is better
_TITLES = {"tae": "TAE"}
AVERAGE = "average"


@dataclass(frozen=True)
class FinishedRun:
    """A run that wrote its evaluation."""

    folder: Path
    """The run's folder."""
    config: Mapping[str, Any]
    """Its options by name."""
    step: int
    """The step whose weights were evaluated."""
    figures: Mapping[str, Mapping[str, float | None]]
    """By data set and for AVERAGE: the metrics by name."""
    log: tuple[Mapping[str, Any], ...]
    """The lines of its log."""

    @property
    def variant(self) -> str:
        """The variant that was trained."""
        return self.config["variant"]


@dataclass(frozen=True)
class Cell:
    """A metric of a variant on a data set."""

    mean: float
    """Over the variant's runs."""
    deviation: float | None
    """Standard deviation over the runs, None for a single one."""
    best: bool
    """Whether no other variant's mean is better."""

    def __str__(self) -> str:
        spread = "" if self.deviation is None else f" ± {self.deviation:.4f}"
        return f"{self.mean:.4f}{spread}"


@dataclass(frozen=True)
class Row:
    """A line of the comparison."""

    dataset: str
    """The data set, or AVERAGE."""
    variant: str
    """The variant."""
    runs: int
    """How many runs it has."""
    cells: Mapping[str, Cell | None]
    """By name of the metric; None for one that no run has, such as TAE without poses."""


def read_run(folder: Path) -> FinishedRun:
    """Read a run's folder; raises DataError if its evaluation is missing or damaged."""
    path = folder / "evaluation.json"
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        log = [json.loads(line) for line in (folder / LOG_FILE).read_text(encoding="utf-8").splitlines()]
        figures = {**value["datasets"], AVERAGE: value["average"]}
        return FinishedRun(folder, value["config"], value["step"], figures, tuple(log))
    except FileNotFoundError as error:
        raise DataError(
            f"{error.filename}: is missing; a run writes it when it ends, if the shards have a held-out split."
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: is no evaluation that `vdatrain run` wrote ({error}).") from error


def compare(runs: Sequence[FinishedRun]) -> list[Row]:
    """Return the rows of the comparison, the averages last; raises UsageError if the runs cannot be compared.

    They can if they were evaluated on the same data sets, windows and sizes.
    """
    _expect_comparable(runs)
    by_variant: defaultdict[str, list[FinishedRun]] = defaultdict(list)
    for run in runs:
        by_variant[run.variant].append(run)
    datasets = [*sorted(name for name in runs[0].figures if name != AVERAGE), AVERAGE]
    return [row for dataset in datasets for row in _rows(dataset, by_variant)]


def verdict(rows: Sequence[Row]) -> str:
    """Say in a sentence or two what the averages show, and how far that can be trusted."""
    averages = [row for row in rows if row.dataset == AVERAGE]
    if len(averages) < 2:
        return "One variant alone: nothing to compare."
    parts = [_difference(averages[0], other) for other in averages[1:]]
    if min(row.runs for row in averages) < 2:
        parts.append(
            "With a single run of a variant the spread between runs is unknown, so a small difference may be chance: "
            "repeat with other --seed values."
        )
    return " ".join(parts)


def _expect_comparable(runs: Sequence[FinishedRun]) -> None:
    if not runs:
        raise UsageError("compare: name at least one run's folder.")
    for name in ("shards", "frames", "stride", "size", "eval_split"):
        values = {str(run.config[name]): run.folder for run in runs}
        if len(values) > 1:
            found = ", ".join(f"{folder} {value}" for value, folder in values.items())
            raise UsageError(f"compare: the runs were evaluated with different --{name}: {found}; nothing to compare.")


def _rows(dataset: str, by_variant: Mapping[str, Sequence[FinishedRun]]) -> Iterator[Row]:
    values = {
        variant: {metric: _values(runs, dataset, metric) for metric in METRICS} for variant, runs in by_variant.items()
    }
    means = {
        metric: {variant: _mean(found[metric]) for variant, found in values.items() if found[metric]}
        for metric in METRICS
    }
    for variant, found in sorted(values.items()):
        cells = {
            metric: Cell(
                mean=means[metric][variant],
                deviation=_deviation(found[metric]),
                best=means[metric][variant] * sign == max(mean * sign for mean in means[metric].values()),
            )
            if found[metric]
            else None
            for metric, sign in METRICS.items()
        }
        yield Row(dataset, variant, len(by_variant[variant]), cells)


def _values(runs: Sequence[FinishedRun], dataset: str, metric: str) -> list[float]:
    return [value for run in runs if (value := run.figures[dataset][metric]) is not None]


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _deviation(values: Sequence[float]) -> float | None:
    if len(values) < 2:
        return None
    mean = _mean(values)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))


def _difference(first: Row, other: Row) -> str:
    changes: list[str] = []
    for metric, sign in METRICS.items():
        a, b = first.cells[metric], other.cells[metric]
        if a is None or b is None or not a.mean:
            continue
        change = b.mean / a.mean - 1
        word = "better" if change * sign > 0 else "worse"
        changes.append(f"{_TITLES.get(metric, metric)} {abs(change):.1%} {word}")
    return f"{other.variant} against {first.variant}: {', '.join(changes) or 'nothing in common'}."


# ------------------------------------------------------------------------------------------------------------- tables


def heading() -> list[str]:
    """Return the titles of the columns; an arrow says which way is better."""
    metrics = [f"{_TITLES.get(name, name)} {'↑' if sign > 0 else '↓'}" for name, sign in METRICS.items()]
    return ["data set", "variant", "runs", *metrics]


def cells_of(row: Row) -> list[Cell | None]:
    """Return the cells of a row in the order of METRICS."""
    return [row.cells[metric] for metric in METRICS]


def markdown_table(rows: Sequence[Row]) -> str:
    """Return the comparison as Markdown, the best of each data set in bold."""
    lines = [heading(), ["---", "---", *["---:"] * (len(heading()) - 2)]]
    for row in rows:
        cells = ["-" if cell is None else f"**{cell}**" if cell.best else str(cell) for cell in cells_of(row)]
        lines.append([_escaped(row.dataset), _escaped(row.variant), str(row.runs), *cells])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _escaped(text: str) -> str:
    """Return a name that cannot end a cell of Markdown or begin an element of HTML."""
    return " ".join(html.escape(text).replace("|", "&#124;").split())
