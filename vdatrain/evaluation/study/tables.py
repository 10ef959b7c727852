"""What a study found as tables: `table.md` to read, `table.csv` with a line a figure."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from vdaprep.storage.atomic import write_text
from vdaprep.units import format_bytes
from vdatrain.evaluation.compare import escaped
from vdatrain.evaluation.files import AVERAGE, METRICS
from vdatrain.evaluation.study.results import Difference, EarlierRow, Figure, Stressed, StudyResults, write_study
from vdatrain.evaluation.study.verdicts import TITLES, is_better, shown

MARKDOWN_FILE, CSV_FILE = "table.md", "table.csv"
EARLIER = tuple(
    EarlierRow(method, AVERAGE, dict(zip(METRICS, figures, strict=True)))
    for method, figures in (("basic", (0.14170, 0.77495, 0.71882)), ("conv", (0.14045, 0.77571, 0.70086)))
)
"""Averages over MVS-Synth, TartanAir and VKITTI of the comparison that this program grew from."""
Lines = list[list[str]]


def titles() -> list[str]:
    """Return the metrics' titles; an arrow says which way is better."""
    return [f"{TITLES.get(name, name)} {'↑' if sign > 0 else '↓'}" for name, sign in METRICS.items()]


def results_table(results: StudyResults) -> Lines:
    """Return data set, arm, seeds and metrics, averages last, below a line of titles."""
    found = {(figure.dataset, figure.arm, figure.metric): figure for figure in results.figures}
    lines = [["data set", "arm", "seeds", *titles()]]
    for dataset in (*results.scenes, AVERAGE):
        for arm in results.arms:
            figures = [found.get((dataset, arm.name, metric)) for metric in METRICS]
            if seeds := max((len(figure.by_seed) for figure in figures if figure), default=0):
                lines.append([dataset, arm.name, str(seeds), *map(_figure, figures)])
    return lines


def differences_table(results: StudyResults) -> Lines:
    """Return the paired differences to the baseline in percent; `*`: the interval reaches no 0."""
    found = {(item.dataset, item.arm, item.metric): item for item in results.differences}
    lines = [["data set", "arm", "scenes", *titles(), "seeds to see 2 % of TAE"]]
    for dataset in (*results.scenes, AVERAGE):
        for arm in results.arms:
            items = [found.get((dataset, arm.name, metric)) for metric in METRICS]
            known = [item for item in items if item]
            if known:
                cells = [_change(item) for item in items]
                needed = next((item.seeds_needed for item in known if item.metric == "tae"), None)
                scenes = str(max(item.scenes for item in known))
                lines.append([dataset, arm.name, scenes, *cells, "-" if needed is None else str(needed)])
    return lines


def stress_table(results: StudyResults) -> Lines:
    """Return average figures under each stress, and differences to the baseline's there."""
    lines = [["stress", "arm", *titles(), *(f"{title} to {results.baseline}" for title in titles())]]
    for item in results.stressed:
        figures = {(one.arm, one.metric): one for one in item.figures if one.dataset == AVERAGE}
        changes = {(one.arm, one.metric): one for one in item.differences if one.dataset == AVERAGE}
        for arm in results.arms:
            if any(name == arm.name for name, _ in figures):
                cells = [_figure(figures.get((arm.name, metric))) for metric in METRICS]
                cells += [_change(changes.get((arm.name, metric))) for metric in METRICS]
                lines.append([item.kinds, arm.name, *cells])
    return lines


def costs_table(results: StudyResults) -> Lines:
    """Return what each arm takes."""
    lines = [["arm", "parameters", "its own", "GFLOP/frame", "ms/frame", "s a step", "memory", "differences"]]
    for arm in results.arms:
        if cost := arm.cost:
            lines.append([
                arm.name, f"{cost.parameters:,}", f"{cost.own_parameters:,}", f"{cost.gflop_per_frame:.2f}",
                _number(cost.ms_per_frame, ".2f"), _number(cost.step_s, ".3g"),
                *("-" if size is None else format_bytes(size) for size in (cost.memory_bytes, cost.difference_bytes)),
            ])  # fmt: skip
    return lines


def earlier_table(results: StudyResults) -> Lines:
    """Return the earlier study's figures."""
    return [
        ["data set", "method", *titles()],
        *(
            [row.dataset, row.method, *(_number(row.figures.get(name), ".5f") for name in METRICS)]
            for row in results.earlier
        ),
    ]


def to_markdown(results: StudyResults) -> str:
    """Return all tables, verdicts and remarks."""
    verdicts = [f"* {escaped(item.arm)} against {escaped(results.baseline)}: {item.text}." for item in results.verdicts]
    parts = [
        "\n".join(verdicts),
        _pipes(results_table(results), texts=2),
        f"Difference to {escaped(results.baseline)} in percent of it, paired by seed and scene, with 95 % intervals; "
        "* does not reach 0:",
        _pipes(differences_table(results), texts=2),
        "Average where the images of the held-out clips are disturbed:" if results.stressed else "",
        _pipes(stress_table(results), texts=2) if results.stressed else "",
        "Cost:",
        _pipes(costs_table(results), texts=1),
        "An earlier study, on other data, single runs:" if results.earlier else "",
        _pipes(earlier_table(results), texts=2) if results.earlier else "",
        "\n".join(f"* {escaped(remark)}" for remark in results.remarks),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def to_csv(results: StudyResults) -> str:
    """Return a line for each figure: mean, and the difference to the baseline in percent."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ["stress", "dataset", "arm", "metric", "seeds", "mean", "deviation", "percent", "low", "high", "seeds_needed"]
    )
    for part in (Stressed("none", results.figures, results.differences), *results.stressed):
        differences = {(item.dataset, item.arm, item.metric): item for item in part.differences}
        for item in part.figures:
            other = differences.get((item.dataset, item.arm, item.metric))
            change = [None] * 4
            if other:
                change = [other.percent.value, other.percent.low, other.percent.high, other.seeds_needed]
            writer.writerow([
                part.kinds, item.dataset, item.arm, item.metric, len(item.by_seed),
                *("" if value is None else f"{value:.6g}" for value in (item.mean, item.deviation, *change)),
            ])  # fmt: skip
    return text.getvalue()


def write_tables(folder: Path, results: StudyResults) -> None:
    """Write study.json, table.md and table.csv; raises OutputError."""
    write_text(folder / MARKDOWN_FILE, to_markdown(results))
    write_text(folder / CSV_FILE, to_csv(results))
    write_study(folder, results)


def _figure(figure: Figure | None) -> str:
    if figure is None:
        return "-"
    return f"{figure.mean:.4f}" + ("" if figure.deviation is None else f" ± {figure.deviation:.4f}")


def _change(item: Difference | None) -> str:
    if item is None:
        return "-"
    return shown(item.percent) + ("" if is_better(item.metric, item.percent) is None else " *")


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _pipes(lines: Sequence[Sequence[str]], *, texts: int) -> str:
    rule = ["---"] * texts + ["---:"] * (len(lines[0]) - texts)
    rows = [list(map(escaped, line)) for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in [rows[0], rule, *rows[1:]])
