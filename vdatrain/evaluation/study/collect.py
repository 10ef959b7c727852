"""From the folders of runs to what a study found."""

import statistics as mean_of
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from vdaprep.errors import DataError
from vdaprep.shards.pictures.stress import Kinds
from vdatrain.evaluation.compare import expect_comparable
from vdatrain.evaluation.files import AVERAGE, METRICS, EvaluatedModel, read_evaluation
from vdatrain.evaluation.study import statistics
from vdatrain.evaluation.study.results import Difference, Figure
from vdatrain.evaluation.study.statistics import PairedScenes
from vdatrain.evaluation.windows import WindowFigures, read_windows, windows_file


@dataclass(frozen=True)
class FinishedRun:
    """A run that was trained and evaluated."""

    arm: str
    """Name of its arm."""
    seed: int
    """Its seed."""
    model: EvaluatedModel
    """Its evaluation and its log."""
    windows: Sequence[WindowFigures]
    """Figures of each held-out window, the same windows in the same order for all runs."""


@dataclass(frozen=True)
class Findings:
    """What the figures of finished runs say."""

    scenes: Mapping[str, int]
    """Held-out scenes by data set."""
    figures: Sequence[Figure]
    """By data set, arm and metric."""
    differences: Sequence[Difference]
    """Likewise, of all arms but the baseline."""


def read_runs(folders: Iterable[tuple[str, int, Path]]) -> list[FinishedRun]:
    """Read finished runs, each given as arm, seed and folder.

    Raises DataError, DocumentError or LimitError for a damaged folder, UsageError if they were evaluated differently.
    """
    runs = [FinishedRun(arm, seed, read_evaluation(path), read_windows(path)) for arm, seed, path in folders]
    expect_comparable([run.model for run in runs])
    for run in runs:
        if _places(run) != _places(runs[0]):
            raise DataError(
                f"{run.model.folder}: its figures are of other windows than those of {runs[0].model.folder}; delete "
                "the one that is wrong and run the same command again."
            )
    return runs


def under_stress(runs: Iterable[FinishedRun], kinds: Kinds) -> list[FinishedRun]:
    """Return the runs that were measured under `kinds` of stress, with those figures.

    Raises DataError, DocumentError or LimitError for a damaged file, and if it is of other windows.
    """
    found: list[FinishedRun] = []
    for run in runs:
        if (run.model.folder / windows_file(kinds)).exists():
            found.append(replace(run, windows=read_windows(run.model.folder, kinds=kinds)))
            if _places(found[-1]) != _places(run):
                raise DataError(
                    f"{run.model.folder / windows_file(kinds)}: is of other windows than {windows_file()}; delete it "
                    "and run the same command again."
                )
    return found


def find(runs: Sequence[FinishedRun], scenes: Mapping[str, str], *, baseline: str) -> Findings:
    """Average and compare.

    Args:
        runs: as `read_runs` returns them, one at least.
        scenes: the scene of each held-out clip by its key; clips of a scene are not independent.
        baseline: the arm that others are compared with.
    """
    arms = list(dict.fromkeys(run.arm for run in runs))
    datasets = sorted({window.dataset for window in runs[0].windows})
    tables = {metric: _Table.of(runs, scenes, metric) for metric in METRICS}
    return Findings(
        scenes={
            name: len({scenes[window.clip] for window in runs[0].windows if window.dataset == name})
            for name in datasets
        },
        figures=[
            figure
            for dataset in (*datasets, AVERAGE)
            for arm in arms
            for metric, table in tables.items()
            if (figure := table.figure(dataset, arm, metric)) is not None
        ],
        differences=[
            difference
            for dataset in (*datasets, AVERAGE)
            for arm in arms
            if arm != baseline
            for metric, table in tables.items()
            if (difference := table.difference(dataset, arm, baseline, metric)) is not None
        ],
    )


def _places(run: FinishedRun) -> list[tuple[str, str, int]]:
    return [(window.dataset, window.clip, window.first) for window in run.windows]


@dataclass(frozen=True)
class _Table:
    """A metric of all runs on the scenes that have it in every run."""

    values: Mapping[tuple[str, int], Float64[np.ndarray, " scenes"]]
    """By arm and seed; of a scene the mean over its windows."""
    weights: Float64[np.ndarray, " scenes"]
    """Windows of each scene."""
    datasets: Sequence[str]
    """The data set of each scene."""

    @classmethod
    def of(cls, runs: Sequence[FinishedRun], scenes: Mapping[str, str], metric: str) -> "_Table":
        values = np.array(
            [
                [np.nan if (value := getattr(window, metric)) is None else value for window in run.windows]
                for run in runs
            ]
        )
        known = np.all(np.isfinite(values), axis=0)
        names = [(window.dataset, scenes[window.clip]) for window in runs[0].windows]
        kept = list(dict.fromkeys(name for name, has in zip(names, known, strict=True) if has))
        member = np.array([[name == scene for name in names] for scene in kept], bool).reshape(len(kept), -1) & known
        weights = member.sum(1).astype(np.float64)
        means = np.where(known, values, 0.0) @ member.T / weights
        by_run = {(run.arm, run.seed): row for run, row in zip(runs, means, strict=True)}
        return cls(by_run, weights, [dataset for dataset, _ in kept])

    def figure(self, dataset: str, arm: str, metric: str) -> Figure | None:
        seeds = [seed for name, seed in self.values if name == arm]
        pairs = self._pairs(dataset, arm, arm, seeds)
        if pairs is None:
            return None
        means = statistics.weighted_mean(pairs.model, pairs).tolist()
        deviation = mean_of.stdev(means) if len(means) > 1 else None
        by_seed = dict(zip(seeds, means, strict=True))
        return Figure(dataset, arm, metric, mean_of.fmean(means), deviation, by_seed)

    def difference(self, dataset: str, arm: str, baseline: str, metric: str) -> Difference | None:
        seeds = [seed for name, seed in self.values if name == arm and (baseline, seed) in self.values]
        pairs = self._pairs(dataset, arm, baseline, seeds)
        if pairs is None or not pairs.baseline.any():
            return None
        return Difference(
            dataset=dataset,
            arm=arm,
            metric=metric,
            absolute=statistics.difference(pairs),
            percent=statistics.percent(pairs),
            bootstrap_percent=statistics.bootstrap_percent(pairs),
            by_seed_percent=dict(zip(seeds, statistics.percent_by_seed(pairs).tolist(), strict=True)),
            scenes=len(pairs.weights),
            seeds_needed=statistics.seeds_needed(pairs),
        )

    def _pairs(self, dataset: str, arm: str, baseline: str, seeds: Sequence[int]) -> PairedScenes | None:
        """Return the figures of two arms; None where they share no seed, or no scene has the metric."""
        chosen = [at for at, name in enumerate(self.datasets) if dataset in (name, AVERAGE)]
        if not chosen or not seeds:
            return None
        numbers = {name: number for number, name in enumerate(dict.fromkeys(self.datasets[at] for at in chosen))}
        return PairedScenes(
            np.array([self.values[arm, seed][chosen] for seed in seeds]),
            np.array([self.values[baseline, seed][chosen] for seed in seeds]),
            self.weights[chosen],
            np.array([numbers[self.datasets[at]] for at in chosen], np.int64),
        )
