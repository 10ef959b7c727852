"""Compare evaluated models: data set x model, and the spread over runs of a variant."""

import html
import itertools
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from vdaprep.errors import UsageError
from vdatrain.evaluation.files import AVERAGE, METRICS, EvaluatedModel, read_evaluation

_TITLES = {"tae": "TAE"}


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


def read_evaluations(folders: Sequence[Path]) -> list[EvaluatedModel]:
    """Read what is to be compared, named so that models that differ have different names.

    Raises DataError as `read_evaluation`, UsageError if one is named twice, also through links, or is a copy.
    """
    if not folders:
        raise UsageError("compare: name at least one run's folder.")
    models = [read_evaluation(folder) for folder in folders]
    for one, other in itertools.combinations(models, 2):
        if one.folder.samefile(other.folder):
            raise UsageError(f"compare: {one.folder} and {other.folder} are the same folder; name each once.")
        if one.identity == other.identity:
            raise UsageError(
                f"compare: {one.folder} and {other.folder} hold the same evaluation of the same weights, which would "
                "count twice; leave one out."
            )
    encoders: defaultdict[str, set[str | int]] = defaultdict(set)
    for model in models:
        encoders[model.name].add(model.facts["encoder"])
    return [
        replace(model, name=f"{model.name} {model.facts['encoder']}") if len(encoders[model.name]) > 1 else model
        for model in models
    ]


def compare(models: Sequence[EvaluatedModel]) -> list[Row]:
    """Return the comparison's rows, averages last; raises UsageError if models do not compare.

    They can if they were evaluated on the same clips, windows and sizes.
    """
    expect_comparable(models)
    by_name: defaultdict[str, list[EvaluatedModel]] = defaultdict(list)
    for model in models:
        by_name[model.name].append(model)
    datasets = [*sorted(name for name in models[0].figures if name != AVERAGE), AVERAGE]
    return [row for dataset in datasets for row in _rows(dataset, by_name)]


def verdict(rows: Sequence[Row]) -> str:
    """Say in some sentences what the averages show, and how far that can be trusted."""
    return " ".join(verdicts(rows))


def verdicts(rows: Sequence[Row]) -> list[str]:
    """Return the sentences of `verdict`."""
    averages = [row for row in rows if row.dataset == AVERAGE]
    if len(averages) < 2:
        return ["One variant alone: nothing to compare."]
    parts = [_difference(averages[0], other) for other in averages[1:]]
    if min(row.runs for row in averages) < 2:
        parts.append(
            "With a single run of a variant the spread between runs is unknown, so a small difference may be chance: "
            "repeat with other --seed values."
        )
    return parts


def expect_comparable(models: Sequence[EvaluatedModel]) -> None:
    """Raise UsageError unless all were evaluated on the same clips, windows and sizes."""
    _expect_same_protocol(models)
    _expect_same_data(models)


def _expect_same_protocol(models: Sequence[EvaluatedModel]) -> None:
    first = models[0].protocol.options()
    for model in models[1:]:
        if model.protocol.alignment != models[0].protocol.alignment:
            metric, relative = sorted((model, models[0]), key=lambda one: one.protocol.alignment)
            raise UsageError(
                f"compare: {metric.folder} was measured in metres as predicted, {relative.folder} after a fit of scale "
                "and shift to the truth, so their figures do not compare; compare metric models with metric ones."
            )
        options = model.protocol.options()
        differ = [name for name in {**first, **options} if first.get(name) != options.get(name)]
        if differ:
            found = "; ".join(
                f"{one.folder} {', '.join(f'{name} {given[name]}' for name in differ if name in given)}"
                for one, given in ((models[0], first), (model, options))
            )
            raise UsageError(
                f"compare: the models were evaluated with different {' and '.join(differ)} ({found}); evaluate one "
                "as the other: vdatrain eval with these options and --out FOLDER."
            )


def _expect_same_data(models: Sequence[EvaluatedModel]) -> None:
    """Compare the clips, or, of runs that did not keep what tells them, all shards."""
    has_clips = all(model.data for model in models)
    found = [model.data if has_clips else {"all shards": model.shards or "unknown"} for model in models]
    for model, data in zip(models[1:], found[1:], strict=True):
        if data == found[0] and "unknown" not in data.values() and model.figures.keys() == models[0].figures.keys():
            continue
        differ = sorted(name for name in {*found[0], *data} if found[0].get(name) != data.get(name))
        raise UsageError(
            f"compare: {models[0].folder} and {model.folder} were evaluated on different data "
            f"({', '.join(differ) or 'of which one does not say what it was'}); evaluate one on the shards of the "
            "other: vdatrain eval --shards DIR --out FOLDER."
        )


def _rows(dataset: str, by_variant: Mapping[str, Sequence[EvaluatedModel]]) -> Iterator[Row]:
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


def _values(runs: Sequence[EvaluatedModel], dataset: str, metric: str) -> list[float]:
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
        if a is not None and b is not None and (a.mean or not b.mean):
            changes.append(f"{title_of(metric)} {_change(a.mean, b.mean, sign=sign)}")
    return f"{other.variant} against {first.variant}: {', '.join(changes) or 'nothing in common'}."


def _change(before: float, after: float, *, sign: int) -> str:
    """Say what a figure is beside one before, where `sign` times it should be high."""
    if before == after:
        return "equal"
    change = after / before - 1
    word = "better" if change * sign > 0 else "worse"
    return f"{abs(change):.1%} {word}" if abs(change) >= 0.0005 else f"less than 0.1% {word}"


# ------------------------------------------------------------------------------------------------------------- tables


def title_of(metric: str) -> str:
    """Return what tables call a metric."""
    return _TITLES.get(metric, metric)


def heading() -> list[str]:
    """Return the titles of the columns; an arrow says which way is better."""
    metrics = [f"{title_of(name)} {'↑' if sign > 0 else '↓'}" for name, sign in METRICS.items()]
    return ["data set", "variant", "runs", *metrics]


def cells_of(row: Row) -> list[Cell | None]:
    """Return the cells of a row in the order of METRICS."""
    return [row.cells[metric] for metric in METRICS]


def markdown_table(rows: Sequence[Row]) -> str:
    """Return the comparison as Markdown, the best of each data set in bold."""
    lines = [heading(), ["---", "---", *["---:"] * (len(heading()) - 2)]]
    for row in rows:
        cells = ["-" if cell is None else f"**{cell}**" if cell.best else str(cell) for cell in cells_of(row)]
        lines.append([escaped(row.dataset), escaped(row.variant), str(row.runs), *cells])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def escaped(text: str) -> str:
    """Return a name that cannot end a cell of Markdown or begin an element of HTML."""
    return " ".join(html.escape(text).replace("|", "&#124;").split())
