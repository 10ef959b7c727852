"""What `vdatrain study` puts on a page: its results, and its runs' curves and clips."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from vdatrain.evaluation.files import EvaluatedModel, read_evaluation
from vdatrain.evaluation.report.comparison import charts, clips, scores
from vdatrain.evaluation.report.content import Difference, Page, Table, TableCell, together
from vdatrain.evaluation.report.page import write_page
from vdatrain.evaluation.study.results import Arm, StudyResults
from vdatrain.evaluation.study.tables import costs_table, differences_table, earlier_table, results_table, stress_table

REPORT_FILE = "report.html"


def write_study_report(path: Path, results: StudyResults, *, folder: Path) -> None:
    """Write the page of the study in `folder`; raises DataError as `study_page`, OutputError."""
    write_page(path, study_page(results, folder=folder))


def study_page(results: StudyResults, *, folder: Path) -> Page:
    """Return the page; raises DataError if a run's evaluation, log or gallery is no good."""
    names = [arm.name for arm in results.arms]
    arms = [results.baseline, *(name for name in names if name != results.baseline)]
    models = [
        replace(read_evaluation(folder / run.folder), name=arm.name)
        for arm in sorted(results.arms, key=lambda arm: arms.index(arm.name))
        for run in arm.runs
        if run.state == "finished"
    ]
    return Page(
        title=f"{together(arms[1:])} against {results.baseline}",
        verdict=[f"{verdict.arm}: {verdict.text}" for verdict in results.verdicts],
        tables=_tables(results),
        baseline=results.baseline,
        arms=arms,
        charts=charts(models),
        differences=[
            Difference(item.dataset, item.arm, item.metric, item.percent.value, item.percent.low, item.percent.high)
            for item in results.differences
        ],
        scores=scores(models),
        clips=clips(_firsts(models)),
        intervals="over seeds and scenes, paired",
        remarks=results.remarks,
    )


def _firsts(models: Sequence[EvaluatedModel]) -> list[EvaluatedModel]:
    """Return the first run of each arm: the pictures are of one seed."""
    return list({model.name: model for model in reversed(models)}.values())[::-1]


# ------------------------------------------------------------------------------------------------------------- tables


def _tables(results: StudyResults) -> list[Table]:
    """Return the results, and for the end of the page all that they rest on."""
    found = [
        _table("Results", results_table(results), texts=2),
        _table(f"Differences to {results.baseline} with 95 % intervals", differences_table(results), texts=2),
        _table("Under stress, on average", stress_table(results), texts=2),
        _table("What they take", costs_table(results), texts=1),
        _table("Runs", _runs(results.arms), texts=4),
        _table("An earlier study, on other data, single runs", earlier_table(results), texts=2),
    ]
    return [table for table in found if table.rows]


def _table(title: str, lines: Sequence[Sequence[str]], *, texts: int) -> Table:
    return Table(title, lines[0], texts, [[TableCell(text) for text in line] for line in lines[1:]])


def _runs(arms: Sequence[Arm]) -> list[list[str]]:
    lines = [["arm", "options", "folder", "how it ended", "seed"]]
    for arm in arms:
        options = ", ".join(f"{name} {value}" for name, value in arm.options.items()) or "-"
        for run in arm.runs:
            ended = run.state if run.remark is None else f"{run.state}: {run.remark}"
            lines.append([arm.name, options, run.folder, ended, str(run.seed)])
    return lines
