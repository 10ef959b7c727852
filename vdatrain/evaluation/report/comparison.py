"""What `vdatrain compare --report` puts on a page: any evaluated models, runs or not."""

import itertools
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean

import numpy as np

from vdatrain.evaluation.compare import Row, cells_of, heading, verdicts
from vdatrain.evaluation.evaluate import Gallery
from vdatrain.evaluation.files import AVERAGE, METRICS, EvaluatedModel, read_gallery
from vdatrain.evaluation.report.content import (
    MAX_NAMED,
    Chart,
    Difference,
    Line,
    Page,
    Score,
    ShownClip,
    Table,
    TableCell,
    together,
)
from vdatrain.evaluation.report.page import write_page
from vdatrain.evaluation.study.statistics import PairedScenes, percent

_CHARTS = (  # title, figure, and whether it is one of the log's lines or of the evaluations in it
    ("training loss", "total", "steps"),
    ("held-out loss", "loss", "evaluations"),
    ("held-out absrel", "absrel", "evaluations"),
    ("held-out delta1", "delta1", "evaluations"),
    ("held-out TAE", "tae", "evaluations"),
    ("share of time waiting for data", "waiting", "steps"),
)


def write_report(path: Path, models: Sequence[EvaluatedModel], rows: Sequence[Row]) -> None:
    """Write the page of a comparison; raises DataError if a gallery is none, OutputError."""
    write_page(path, comparison_page(models, rows))


def comparison_page(models: Sequence[EvaluatedModel], rows: Sequence[Row]) -> Page:
    """Return the page; the first model's variant is what the others are compared with."""
    arms = list(dict.fromkeys(row.variant for row in rows))
    return Page(
        title=" against ".join(arms if len(arms) <= MAX_NAMED + 1 else (together(arms[1:]), arms[0])),
        verdict=verdicts(rows),
        tables=[results_table(rows), models_table(models)],
        baseline=arms[0],
        arms=arms,
        charts=charts(models),
        differences=list(_differences(models, arms)),
        scores=scores(models),
        clips=clips(models),
    )


# ------------------------------------------------------------------------------------------------------------- tables


def results_table(rows: Sequence[Row]) -> Table:
    """Return data set x variant, the best in bold."""
    return Table(
        "Results",
        heading(),
        2,
        [
            [
                *map(TableCell, (row.dataset, row.variant, str(row.runs))),
                *(TableCell("-") if cell is None else TableCell(str(cell), cell.best) for cell in cells_of(row)),
            ]
            for row in rows
        ],
    )


def models_table(models: Sequence[EvaluatedModel]) -> Table:
    """Return where each model is and how it was trained."""
    facts = {"encoder": "encoder", "steps": "steps", "step": "best at", "seed": "seed"}
    return Table(
        "What was compared",
        ["folder", "model", *facts.values()],
        3,
        [
            [*map(TableCell, (str(model.folder), model.name, *(str(model.facts.get(key, "-")) for key in facts)))]
            for model in models
        ],
    )


# ------------------------------------------------------------------------------------------------------------- curves


def charts(models: Sequence[EvaluatedModel]) -> list[Chart]:
    """Return the curves of the models' logs that at least one of them has."""
    found = [
        Chart(title, [Line(model.name, _run(model), _points(model, key=key, at=at)) for model in models])
        for title, key, at in _CHARTS
    ]
    return [chart for chart in found if any(line.points for line in chart.lines)]


def scores(models: Sequence[EvaluatedModel]) -> list[Score]:
    """Return absrel and TAE of each model on each data set that has both."""
    return [
        Score(dataset, model.name, _run(model), absrel, tae)
        for model in models
        for dataset, figures in model.figures.items()
        if (absrel := figures["absrel"]) is not None and (tae := figures["tae"]) is not None
    ]


def _run(model: EvaluatedModel) -> str:
    return f"seed {model.facts['seed']}" if "seed" in model.facts else model.folder.name


def _points(model: EvaluatedModel, *, key: str, at: str) -> list[tuple[float, float]]:
    """Return a figure by step; of a step that is there twice, the last counts."""
    lines = (
        model.log
        if at == "steps"
        else [{**line["evaluation"], "step": line["step"]} for line in model.log if "evaluation" in line]
    )
    return sorted({float(line["step"]): float(line[key]) for line in lines if line.get(key) is not None}.items())


def _differences(models: Sequence[EvaluatedModel], arms: Sequence[str]) -> Iterator[Difference]:
    """Yield how variants differ from the first, paired by the seeds that both have."""
    for arm, dataset, metric in itertools.product(arms[1:], models[0].figures, METRICS):
        one, other = (_by_seed(models, name, dataset, metric) for name in (arms[0], arm))
        shared = sorted(one.keys() & other.keys())
        if shared:
            base, changed = (np.array([[found[seed]] for seed in shared]) for found in (one, other))
        elif one and other:
            base, changed = (np.array([[fmean(found.values())]]) for found in (one, other))
        else:
            continue
        if base.mean():
            found = percent(PairedScenes.of_one_dataset(changed, base))
            yield Difference(dataset, arm, metric, found.value, found.low, found.high)


def _by_seed(models: Sequence[EvaluatedModel], arm: str, dataset: str, metric: str) -> dict[str, float]:
    """Return a variant's metric by seed; weights from elsewhere, which have none, by folder."""
    return {
        str(model.facts.get("seed", model.folder)): value
        for model in models
        if model.name == arm and (value := model.figures[dataset][metric]) is not None
    }


# -------------------------------------------------------------------------------------------------------------- clips


def clips(models: Sequence[EvaluatedModel]) -> list[ShownClip]:
    """Return the clip of each data set; of several runs of an arm the first is shown."""
    found: defaultdict[str, dict[str, Gallery]] = defaultdict(dict)
    for model in models:
        for dataset in sorted({*model.figures} - {AVERAGE}):
            path = model.folder / f"gallery-{dataset}.npz"
            if path.is_file() and model.name not in found[dataset]:
                gallery = read_gallery(path)
                first = next(iter(found[dataset].values()), gallery)
                if gallery.truth.shape == first.truth.shape:
                    found[dataset][model.name] = gallery
    return [ShownClip(dataset, galleries) for dataset, galleries in sorted(found.items())]
