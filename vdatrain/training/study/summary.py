"""A study's results from what its folder holds, finished or not."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from vdaprep.errors import DataError
from vdaprep.shards.pictures.stress import Kinds, describe
from vdaprep.storage.documents import DocumentError
from vdaprep.storage.limits import LimitError
from vdatrain.evaluation.files import AVERAGE
from vdatrain.evaluation.study.collect import Findings, FinishedRun, find, read_runs, under_stress
from vdatrain.evaluation.study.results import Arm, Cost, Stressed, StudyResults, StudyRun
from vdatrain.evaluation.study.tables import EARLIER
from vdatrain.evaluation.study.verdicts import verdicts_of
from vdatrain.training.study.arms import ArmSpec
from vdatrain.training.study.cost import costs_of
from vdatrain.training.study.plan import PlannedRun, held_out

_FEW_SEEDS = 3


def summarise(
    runs: Sequence[PlannedRun],
    arms: Sequence[ArmSpec],
    *,
    baseline: str,
    out: Path,
    stress: Sequence[Kinds] = (),
) -> StudyResults:
    """Read all runs that are over, compare them and measure what the arms take.

    Args:
        runs: all runs, as `plan_study` finds them now.
        arms: what is compared.
        baseline: the arm that others are compared with.
        out: the study's folder.
        stress: what the models were measured under besides, each of kinds that come together.

    Raises:
        DataError: the folder of a run is damaged, or no run is finished.
        VdakitError: as `read_runs` and `costs_of`.
    """
    done = [run for run in runs if run.is_over and run.diverged is None]
    if not done:
        diverged = next((run.diverged for run in runs if run.diverged), None)
        why = f"all that are over diverged: {diverged.rstrip('.')}" if diverged else "so there is nothing to compare"
        raise DataError(f"{out}: no run is finished, {why}.")
    config = runs[0].config
    finished = _of(lambda: read_runs((run.arm, run.config.seed, run.folder) for run in done))
    scenes = {clip.key: scene_of(clip.meta.trajectory) for clip in held_out(config)}
    found = find(finished, scenes, baseline=baseline)
    configs = {arm.name: next(run.config for run in runs if run.arm == arm.name) for arm in arms}
    models = {arm.name: [run.model for run in finished if run.arm == arm.name] for arm in arms}
    costs = costs_of(configs, models, out=out)
    options = {key: value for key, value in config.to_json().items() if key not in ("variant", "seed")}
    return StudyResults(
        baseline=baseline,
        seeds=list(dict.fromkeys(run.config.seed for run in runs)),
        options=options,
        scenes=found.scenes,
        arms=[_arm(arm, runs, costs, out=out) for arm in arms],
        figures=found.figures,
        differences=found.differences,
        verdicts=verdicts_of(found.differences, [arm.name for arm in arms]),
        earlier=EARLIER,
        remarks=_remarks(runs, finished, found, baseline=baseline),
        stressed=[
            Stressed(describe(kinds), measured.figures, measured.differences)
            for kinds in stress
            if (those := _of(lambda kinds=kinds: under_stress(finished, kinds)))
            for measured in [find(those, scenes, baseline=baseline)]
        ],
    )


def scene_of(trajectory: str) -> str:
    """Return the place that a trajectory is of: its name's first part.

    Scene01/clone and Scene01/fog show one place, as easy and hard ways through a TartanAir environment do, and models
    do alike on both.
    """
    return trajectory.partition("/")[0]


def _of(read: Callable[[], list[FinishedRun]]) -> list[FinishedRun]:
    """Read runs; what is wrong with a folder is said with what to do."""
    try:
        return read()
    except (DataError, DocumentError, LimitError) as error:
        text = str(error).partition("; ")[0].rstrip(".")
        raise DataError(
            f"{text}; delete the folder of that run and run the same command again, which trains it anew."
        ) from error


def _arm(arm: ArmSpec, runs: Sequence[PlannedRun], costs: Mapping[str, Cost], *, out: Path) -> Arm:
    return Arm(
        name=arm.name,
        variant=arm.variant,
        options=dict(arm.options),
        runs=[_run(run, out=out) for run in runs if run.arm == arm.name],
        cost=costs.get(arm.name),
    )


def _run(run: PlannedRun, *, out: Path) -> StudyRun:
    folder = run.folder.relative_to(out).as_posix()
    if run.diverged is not None:
        return StudyRun(run.config.seed, folder, "diverged", run.diverged)
    return StudyRun(run.config.seed, folder, "finished" if run.is_over else "missing")


def _remarks(
    runs: Sequence[PlannedRun], finished: Sequence[FinishedRun], found: Findings, *, baseline: str
) -> list[str]:
    remarks = [
        f"{run.arm}, seed {run.config.seed}, diverged and is left out: {run.diverged}" for run in runs if run.diverged
    ]
    remarks += [
        f"{run.arm}, seed {run.config.seed}, is not finished and is left out." for run in runs if not run.is_over
    ]
    if not any(run.arm == baseline for run in finished):
        remarks.append(f"{baseline} has no finished run, so there is nothing to compare with.")
    seeds = min(
        (len(item.by_seed_percent) for item in found.differences if item.dataset == AVERAGE), default=_FEW_SEEDS
    )
    if seeds == 1:
        remarks.append("One seed: intervals tell how scenes differ, not how trainings do.")
    elif seeds < _FEW_SEEDS:
        remarks.append("Two seeds: a 95 % interval may hold the truth in fewer than 90 of 100 studies.")
    single = [name for name, count in found.scenes.items() if count == 1]
    if single:
        remarks.append(f"One held-out scene of {', '.join(single)}: intervals do not tell how other scenes would do.")
    remarks.append("Each interval is for its own difference: of twenty without any, one shows some by chance.")
    return remarks
