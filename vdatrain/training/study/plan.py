"""What a study has to do: its runs, those done already, and what the others take."""

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vdaprep.errors import DataError, UsageError
from vdaprep.shards.index import ClipIndex
from vdaprep.shards.pictures.stress import Kinds
from vdaprep.storage.documents import DocumentError, parse_json
from vdaprep.storage.limits import MAX_SMALL_DOCUMENT_BYTES, LimitError
from vdaprep.storage.urls import redact
from vdatrain.config import CHANGEABLE, TrainConfig, option_name
from vdatrain.data.loader import expect_differences, fingerprint_of, open_shards_of
from vdatrain.data.sampler import WindowShape
from vdatrain.device import Precision, choose_device
from vdatrain.evaluation.evaluate import EvaluationPlan
from vdatrain.evaluation.files import EVALUATION_FILE, read_evaluation
from vdatrain.evaluation.study.results import RUNS_FOLDER
from vdatrain.evaluation.windows import windows_file
from vdatrain.run_dir import CONFIG_FILE, LOG_FILE, read_facts, stored_config
from vdatrain.training.planning.memory import footprint
from vdatrain.training.planning.planner import attainable_flops, room_of
from vdatrain.training.study.arms import ArmSpec
from vdatrain.training.study.worker import OUTCOME_FILE

MATTERS = frozenset({"steps", "batch", "accumulate", "licence", "final", "skip_bad"})
"""Options that a run may be resumed with changed, but no run of a study."""
_MAX_SEEDS = 1000
_FORWARD_SHARE = 1 / 3
"""Of a training step's arithmetic, that of its forward pass."""


@dataclass(frozen=True)
class PlannedRun:
    """A run of a study."""

    arm: str
    """Name of its arm."""
    config: TrainConfig
    """Its options."""
    folder: Path
    """Its folder."""
    steps_done: int
    """Steps that its log has, 0 of one that is to begin."""
    is_over: bool
    """Whether it is finished and evaluated, or diverged: nothing is left to do."""
    diverged: str | None = None
    """Why it did not finish."""
    stress_left: tuple[Kinds, ...] = ()
    """Stress that it is still to be measured under, each of kinds that come together."""


@dataclass(frozen=True)
class Effort:
    """What the runs of an arm take."""

    memory_bytes: int
    """Of a process, at a step's fullest moment."""
    hours_left: float
    """Of the runs that are not over, one at a time."""
    is_measured: bool
    """Whether from steps that runs took here; else from arithmetic alone, which is the least that they can take."""


@dataclass(frozen=True)
class StudyPlan:
    """The runs of a study, by arm and then by seed, and what they take."""

    runs: Sequence[PlannedRun]
    """All runs."""
    efforts: Mapping[str, Effort]
    """By arm."""
    limit_bytes: int
    """Memory that a step may take on the device."""

    @property
    def left(self) -> list[PlannedRun]:
        """The runs that something is left of, seed by seed, so that what there is compares."""
        left = (run for run in self.runs if not run.is_over or run.stress_left)
        return sorted(left, key=lambda run: run.config.seed)


def parse_seeds(text: str) -> list[int]:
    """Read `0,1,2`; raises UsageError for any other text."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and len(part) < 19 for part in parts) or len(
        {*map(int, parts)}
    ) != len(parts):
        raise UsageError(f"--seeds {text[:60]}: expected different whole numbers with commas between, like 0,1,2.")
    if len(parts) > _MAX_SEEDS:
        raise UsageError(f"--seeds: has {len(parts)}, expected at most {_MAX_SEEDS}.")
    return [int(part) for part in parts]


def run_folder(study: Path, arm: ArmSpec, seed: int) -> Path:
    """Return the folder of an arm's run."""
    return study / RUNS_FOLDER / arm.folder / f"seed-{seed}"


def held_out(config: TrainConfig) -> ClipIndex:
    """Return the clips that a study measures on; raises DataError if there are none."""
    shards = open_shards_of(config)
    if config.eval_split not in shards.splits:
        raise DataError(
            f"{redact(config.shards)}: have no split {config.eval_split!r} to measure on, only "
            f"{', '.join(shards.splits)}; convert held-out trajectories too, or name another by --eval-split."
        )
    return shards.clips(split=config.eval_split)


def plan_study(
    arms: Sequence[ArmSpec], common: TrainConfig, *, seeds: Sequence[int], out: Path, stress: Sequence[Kinds] = ()
) -> StudyPlan:
    """Look at what a study has done, and count what is left.

    Args:
        arms: what is compared.
        common: the options that all arms share.
        seeds: seeds of each arm's runs.
        out: the study's folder.
        stress: what its models are measured under besides, each of kinds that come together.

    Raises:
        UsageError: a run there was trained with other options, or an arm has one that cannot be.
        DataError: the folder of a run is damaged, its shards are others, or they have no differences that an arm needs.
    """
    configs = {arm.name: [arm.config(common, seed=seed) for seed in seeds] for arm in arms}
    fingerprint = fingerprint_of(common)
    clips = open_shards_of(common).clips(split=common.train_split)
    for arm in arms:
        expect_differences(configs[arm.name][0], clips)
    runs = [
        _with_stress(_look_at(arm, config, run_folder(out, arm, config.seed), fingerprint=fingerprint), stress)
        for arm in arms
        for config in configs[arm.name]
    ]
    device = choose_device(common.device)
    return StudyPlan(runs, _efforts(runs, Precision(device, common.precision)), room_of(device).limit)


def _look_at(arm: ArmSpec, config: TrainConfig, folder: Path, *, fingerprint: str) -> PlannedRun:
    if not (folder / CONFIG_FILE).exists():
        return PlannedRun(arm.name, config, folder, 0, is_over=False)
    advice = f"delete {folder} and run the same command again, which trains that run anew."
    try:
        facts, stored = read_facts(folder), stored_config(folder)
        steps, diverged = _steps_done(folder), _diverged(folder)
        is_over = diverged is not None or _is_evaluated(folder, stored)
    except (DataError, DocumentError, LimitError) as error:
        raise DataError(f"{str(error).partition('; ')[0].rstrip('.')}; {advice}") from error
    theirs, ours = stored.to_json(), config.to_json()
    differ = [
        f"{option_name(name)} {theirs[name]}, not {value}"
        for name, value in ours.items()
        if theirs[name] != value and (name not in CHANGEABLE or name in MATTERS)
    ]
    if differ:
        raise UsageError(
            f"{folder}: was trained with {'; '.join(differ)}; choose another --out, or the options that the study "
            "began with."
        )
    if facts["data"] != fingerprint:
        raise DataError(
            f"{folder}: was trained on other shards than {redact(config.shards)} holds now; choose another --out."
        )
    return PlannedRun(arm.name, config, folder, steps, is_over=is_over, diverged=diverged)


def _with_stress(run: PlannedRun, stress: Sequence[Kinds]) -> PlannedRun:
    if run.diverged is not None:
        return run
    left = (kinds for kinds in stress if not run.is_over or not (run.folder / windows_file(kinds)).exists())
    return replace(run, stress_left=tuple(left))


def _is_evaluated(folder: Path, config: TrainConfig) -> bool:
    if not (folder / EVALUATION_FILE).exists():
        return False
    found = read_evaluation(folder)
    return config.final == "best" or found.facts["step"] == config.steps


def _diverged(folder: Path) -> str | None:
    try:
        data = (folder / OUTCOME_FILE).read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DataError(f"{folder / OUTCOME_FILE}: cannot be read ({error.strerror}).") from error
    found = parse_json(data, where=str(folder / OUTCOME_FILE), limit=MAX_SMALL_DOCUMENT_BYTES)
    return found.text("sentence", at_most=10_000)


def _log_lines(folder: Path) -> list[Mapping[str, Any]]:
    """Return the whole lines of a run's log; the last may be cut short."""
    try:
        lines = (folder / LOG_FILE).read_bytes().split(b"\n")[:-1]
        return [json.loads(line) for line in lines]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise DataError(f"{folder / LOG_FILE}: cannot be read ({error.strerror}).") from error
    except ValueError as error:
        raise DataError(f"{folder / LOG_FILE}: holds a line that is no JSON.") from error


def _steps_done(folder: Path) -> int:
    return max((int(line.get("step", 0)) for line in _log_lines(folder)), default=0)


def steps_logged(folder: Path) -> int:
    """Return how far a run under way is, by its log; 0 where that cannot be read just now."""
    try:
        return _steps_done(folder)
    except DataError:
        return 0


def _efforts(runs: Sequence[PlannedRun], precision: Precision) -> dict[str, Effort]:
    """Take a step's seconds from logs, or from its arithmetic and how other arms' compare."""
    speed = attainable_flops(precision)
    on_gpu = precision.device.type == "cuda"
    by_arm = {name: [run for run in runs if run.arm == name] for name in dict.fromkeys(run.arm for run in runs)}
    takes = {name: footprint(found[0].config, on_gpu=on_gpu) for name, found in by_arm.items()}
    counted = {name: found.flops / speed for name, found in takes.items()}
    measured = {name: _step_s(found) for name, found in by_arm.items()}
    ratios = [seconds / counted[name] for name, seconds in measured.items() if seconds is not None]
    slower = statistics.median(ratios) if ratios else 1.0
    windows = len(EvaluationPlan(_shape(runs[0].config), size=runs[0].config.size).order(held_out(runs[0].config)))
    efforts: dict[str, Effort] = {}
    for name, found in by_arm.items():
        step_s = measured[name] if measured[name] is not None else counted[name] * slower
        assert step_s is not None
        hours = math.fsum(_hours(run, step_s, windows=windows) for run in found)
        efforts[name] = Effort(takes[name].total, hours, is_measured=bool(ratios))
    return efforts


def _shape(config: TrainConfig) -> WindowShape:
    return WindowShape(config.frames, config.stride)


def _hours(run: PlannedRun, step_s: float, *, windows: int) -> float:
    config = run.config
    steps = 0 if run.is_over else config.steps - run.steps_done
    shown = windows * len(run.stress_left)
    if not run.is_over:
        shown += (steps // config.eval_every + 1) * min(windows, config.eval_windows or windows) + windows
    window_s = step_s * _FORWARD_SHARE / (config.batch * config.accumulate)
    return (steps * step_s + shown * window_s) / 3600


def _step_s(runs: Sequence[PlannedRun]) -> float | None:
    """Return the median seconds of a step in the runs' logs; None without any."""
    found = [float(line["step_s"]) for run in runs for line in _log_lines(run.folder) if "step_s" in line]
    return statistics.median(found) if found else None
