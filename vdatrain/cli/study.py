"""The command `vdatrain study`."""

from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from vdaprep.cli.options import given_options
from vdaprep.cli.views.output import errors, frame_bar, is_quiet, make_table, show
from vdaprep.errors import MissingExtraError
from vdaprep.units import format_bytes, parse_duration
from vdatrain.cli.run import DEFAULTS_HERE, defaults_here
from vdatrain.cli.views.output import warn
from vdatrain.config import TrainConfig, from_file, from_mapping

if TYPE_CHECKING:
    from vdatrain.evaluation.study.results import StudyResults
    from vdatrain.training.study.plan import StudyPlan
    from vdatrain.training.study.runner import RunEvent

EXAMPLE = (
    "vdatrain study --shards shards/ --variants basic,conv,conv:zeros --seeds 0,1,2 --steps 2000 --out studies/conv"
)
_OF_STUDY = {"final": "last", "track": "none"}
"""Other defaults than of a run: weights chosen on held-out clips would be judged by what chose them."""
_OWN = frozenset({"variant", "seed", "shard_model"})


@given_options(
    TrainConfig,
    only=[item.name for item in fields(TrainConfig) if item.name not in _OWN],
    defaults={**DEFAULTS_HERE, **_OF_STUDY},
)
def command(
    given: dict[str, Any],
    out: Annotated[Path, typer.Option(help="Folder of the study; run again, it goes on.", metavar="FOLDER")],
    variants: Annotated[
        str, typer.Option(help="Arms: basic,conv,conv:zeros,basic+lr=1e-4 (NAME:DIFFERENCES+OPTION=VALUE).")
    ] = "",
    arms: Annotated[
        Path | None, typer.Option(help="TOML with a table [arms.NAME] of options for each.", metavar="FILE")
    ] = None,
    seeds: Annotated[str, typer.Option(help="Seeds of each arm's runs.")] = "0,1,2",
    config: Annotated[
        Path | None, typer.Option(help="TOML or config.json with options of all arms.", metavar="FILE")
    ] = None,
    stress: Annotated[
        str,
        typer.Option(
            help="Measure the models also on disturbed images: flicker1, flicker2, flash, noise, rain; alternatives "
            "with commas, + joins kinds; all: each alone.",
            metavar="KINDS",
        ),
    ] = "none",
    jobs: Annotated[
        int | None, typer.Option(help="Runs at a time. [default: one a GPU, or 1]", show_default=False, min=1)
    ] = None,
    time_limit: Annotated[
        str | None, typer.Option(help="Let runs save and stop after 11h30m, 90m or 3600 (seconds).", metavar="TIME")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan, train nothing.")] = False,
) -> None:
    """Train variants, a run a seed, and compare them: figures, differences, intervals, costs.

    All arms see the same windows in the same order, begin with the same weights and learn the same parts; the first,
    or basic, is what the others are compared with. Runs that are finished are passed over, others go on. study.json,
    table.md and table.csv in the study's folder have the results, report.html (extra report) shows them.
    """
    from vdaprep.shards.dataset import as_paths
    from vdaprep.shards.pictures.stress import IMAGE_KINDS, parse_stress
    from vdaprep.storage.atomic import check_output_folder
    from vdatrain.distributed.preemption import StopRequest
    from vdatrain.evaluation.files import EVALUATION_FILE
    from vdatrain.training.study.arms import check_arms, parse_arms, read_arms
    from vdatrain.training.study.plan import held_out, parse_seeds, plan_study
    from vdatrain.training.study.runner import default_jobs, study_lock
    from vdatrain.training.study.summary import summarise

    stop = StopRequest(parse_duration(time_limit, "--time-limit") if time_limit else None)
    specs = [*parse_arms(variants), *(read_arms(arms) if arms else ())]
    baseline = check_arms(specs)
    common = _common({**_OF_STUDY, **(from_file(config) if config else {}), **given})
    numbers = parse_seeds(seeds)
    under = [kinds for kinds in parse_stress(stress, known=IMAGE_KINDS) if kinds]
    held_out(common)
    check_output_folder(out, inputs=as_paths(common.shards))
    jobs = jobs or default_jobs(common)
    plan = plan_study(specs, common, seeds=numbers, out=out, stress=under)
    if not is_quiet():
        show(_plan(plan, jobs=jobs), to=errors)
    if dry_run:
        return
    with study_lock(out):
        stopped = _train(plan, jobs=jobs, stop=stop) if plan.left else None
        if stopped is not None and not list(out.rglob(EVALUATION_FILE)):
            warn(f"{out}: runs saved and left {stopped}, and none is finished; the same command goes on.")
            return
        results = summarise(
            plan_study(specs, common, seeds=numbers, out=out).runs, specs, baseline=baseline, out=out, stress=under
        )
        _write(out, results)
    show(_shown(results))
    errors.print(f"{out}: study.json, table.md, table.csv")
    if stopped is not None:
        warn(f"{out}: runs saved and left {stopped}; the same command goes on.")


def _common(asked: dict[str, Any]) -> TrainConfig:
    """Return the options that all arms share."""
    asked = {name: value for name, value in asked.items() if name not in _OWN}  # a run's config.json has them
    config = from_mapping(asked, where="vdatrain study")
    return replace(config, **defaults_here(config, asked))


def _plan(plan: "StudyPlan", *, jobs: int) -> list[str | Table]:
    """Lay out what there is to do."""
    table = make_table("arm", "runs", "over", "memory", "hours left")
    for name, effort in plan.efforts.items():
        runs = [run for run in plan.runs if run.arm == name]
        over = sum(run.is_over for run in runs)
        table.add_row(name, str(len(runs)), str(over), format_bytes(effort.memory_bytes), f"{effort.hours_left:.2f}")
    hours = sum(effort.hours_left for effort in plan.efforts.values()) / jobs
    measured = all(effort.is_measured for effort in plan.efforts.values())
    how = "by the steps that runs here took" if measured else "at least, by arithmetic alone: no run here has told yet"
    most = max(effort.memory_bytes for effort in plan.efforts.values())
    lines: list[str | Table] = [table, f"{_left(plan)}, {jobs} at a time: {hours:.2f} hours {how}"]
    if most > plan.limit_bytes:
        lines.append(
            f"A step takes {format_bytes(most)}, more than the {format_bytes(plan.limit_bytes)} that it may here; "
            "vdatrain plan says what to change."
        )
    return lines


def _left(plan: "StudyPlan") -> str:
    """Say how many runs are left to train, and how many to measure under stress."""
    trained = sum(not run.is_over for run in plan.left)
    measured = len(plan.left) - trained
    return f"{trained} runs to train" + (f", {measured} to measure under stress" if measured else "")


def _train(plan: "StudyPlan", *, jobs: int, stop: Any) -> str | None:
    from vdatrain.training.study.runner import train_runs

    steps = sum(run.config.steps - run.steps_done for run in plan.left)
    done: dict[Path, int] = {run.folder: run.steps_done for run in plan.left}
    with frame_bar("study", total=steps or len(plan.left), unit="steps" if steps else "runs") as bar:

        def on_event(event: "RunEvent") -> None:
            bar.advance(max(0, event.step - done[event.run.folder]) if steps else int(event.is_last))
            done[event.run.folder] = max(event.step, done[event.run.folder])
            if event.kind != "going" and not is_quiet():
                why = f": {event.sentence}" if event.sentence else ""
                bar.notice(f"{event.run.arm}, seed {event.run.config.seed}: {event.kind}{why}")

        return train_runs(plan.left, jobs=jobs, stop=stop, on_event=on_event)


def _write(out: Path, results: "StudyResults") -> None:
    """Write tables and report.html, or say what the page needs.

    Hours of training are not to end in an error.
    """
    from vdatrain.evaluation.study.tables import write_tables

    write_tables(out, results)
    try:
        from vdatrain.evaluation.report.study import REPORT_FILE, write_study_report
    except ModuleNotFoundError as error:
        missing = MissingExtraError.of(f"{out}: its report.html needs", error)
        if missing is None:
            raise
        warn(str(missing))
    else:
        write_study_report(out / REPORT_FILE, results, folder=out)
        errors.print(f"{out / REPORT_FILE}: the study as a page")


def _shown(results: "StudyResults") -> list[str | Table]:
    from vdatrain.evaluation.study import tables

    parts: list[str | Table] = [_laid_out(tables.results_table(results), texts=2)]
    if results.differences:
        title = f"difference to {results.baseline} in percent, with 95 % intervals; * does not reach 0"
        parts.append(_laid_out(tables.differences_table(results), texts=2, title=title))
    if results.stressed:
        parts.append(_laid_out(tables.stress_table(results), texts=2, title="on average, on disturbed images"))
    parts.append(_laid_out(tables.costs_table(results), texts=1, title="cost"))
    parts += [f"{verdict.arm}: {verdict.text}" for verdict in results.verdicts]
    return [*parts, *results.remarks]


def _laid_out(lines: Sequence[Sequence[str]], *, texts: int, title: str = "") -> Table:
    table = make_table(*lines[0], title=title, texts=texts)
    for line in lines[1:]:
        table.add_row(*line)
    return table
