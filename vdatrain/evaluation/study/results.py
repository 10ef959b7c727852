"""What a study found, as values and as `study.json`, which has the same names.

A study's folder:

    study.json, table.md, table.csv   what was found
    runs/ARM/seed-N/                  a run's folder of each arm and seed: `log.jsonl` for curves, `gallery-DATASET.npz`
                                      for clips, `evaluation.json` and `windows.jsonl` for figures, and
                                      `windows-KINDS.jsonl` for those under stress

Metrics are those of `METRICS`; data sets those that were evaluated, sorted, then AVERAGE, the mean of the data sets,
each of equal weight. Arms are in the order in which they were given; the first that is compared with is `baseline`.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from vdaprep.storage.atomic import write_text

STUDY_FILE = "study.json"
RUNS_FOLDER = "runs"
VERSION = 1

RunState = Literal["finished", "diverged", "failed", "missing"]


@dataclass(frozen=True)
class Estimate:
    """A quantity with the interval that holds the true one in 95 of 100 studies like this."""

    value: float
    """The estimate."""
    low: float | None
    """Lower end; None where nothing tells how far the estimate scatters."""
    high: float | None
    """Upper end, likewise."""


@dataclass(frozen=True)
class StudyRun:
    """One training of an arm."""

    seed: int
    """Its seed; the runs of a seed in all arms saw the same windows in the same order."""
    folder: str
    """Its folder, relative to the study's."""
    state: RunState
    """How it ended; only finished runs count."""
    remark: str | None = None
    """Why it does not count, a sentence."""


@dataclass(frozen=True)
class Cost:
    """What an arm takes beside accuracy; None where it was not measured."""

    parameters: int
    """Of the model."""
    own_parameters: int
    """Of these, what the published model does not have."""
    gflop_per_frame: float
    """Of a forward pass, 10^9 operations."""
    ms_per_frame: float | None
    """Of a forward pass on the study's device at its size, the least of several in turn with the other arms."""
    step_s: float | None
    """Of a training step, the median over the log's lines of all runs."""
    memory_bytes: int | None
    """Most memory of a training process."""
    difference_bytes: int
    """Bytes of frame differences in the shards of the training split that it reads; 0 for an arm that reads none."""


@dataclass(frozen=True)
class Arm:
    """A variant with its options, trained once a seed."""

    name: str
    """What tables call it."""
    variant: str
    """The variant."""
    options: Mapping[str, Any]
    """The options of `vdatrain run` in which it differs from the study's, `variant` aside."""
    runs: Sequence[StudyRun]
    """Its runs, in the order of seeds."""
    cost: Cost | None
    """What it takes; None if no run was finished."""


@dataclass(frozen=True)
class Figure:
    """A metric of an arm on a data set."""

    dataset: str
    """The data set, or AVERAGE."""
    arm: str
    """The arm's name."""
    metric: str
    """The metric."""
    mean: float
    """Over the finished runs."""
    deviation: float | None
    """Standard deviation over the runs; None for a single one."""
    by_seed: Mapping[int, float]
    """The metric of each finished run."""


@dataclass(frozen=True)
class Difference:
    """A metric of an arm less that of the baseline, paired by seed and scene."""

    dataset: str
    """The data set, or AVERAGE."""
    arm: str
    """The arm's name."""
    metric: str
    """The metric."""
    absolute: Estimate
    """In the metric's own unit."""
    percent: Estimate
    """Of the baseline's."""
    bootstrap_percent: Estimate
    """The same with the percentile interval of a bootstrap over seeds and scenes, too narrow with few seeds."""
    by_seed_percent: Mapping[int, float]
    """Of the runs of each seed that both arms finished."""
    scenes: int
    """Scenes that were compared."""
    seeds_needed: int | None
    """Seeds with which a change of 2 % would be seen in four studies of five, on as many scenes; None: no number of
    seeds is enough without more scenes, or nothing tells."""


@dataclass(frozen=True)
class Stressed:
    """What was found where the images of the held-out windows were disturbed."""

    kinds: str
    """The kinds of stress that came together, with + between."""
    figures: Sequence[Figure]
    """By data set, arm and metric."""
    differences: Sequence[Difference]
    """Likewise, of all arms but the baseline, under the same stress."""


@dataclass(frozen=True)
class Verdict:
    """What the intervals of an arm's averages say."""

    arm: str
    """The arm's name."""
    text: str
    """A sentence, without the name."""


@dataclass(frozen=True)
class EarlierRow:
    """A line of an earlier study's table: other data, single runs, no intervals."""

    method: str
    """The model."""
    dataset: str
    """The data set, or AVERAGE."""
    figures: Mapping[str, float]
    """By metric."""


@dataclass(frozen=True)
class StudyResults:
    """All that a study found."""

    baseline: str
    """The arm that the others are compared with."""
    seeds: Sequence[int]
    """The seeds that were asked for."""
    options: Mapping[str, Any]
    """The options of `vdatrain run` that all arms share."""
    scenes: Mapping[str, int]
    """Held-out scenes by data set."""
    arms: Sequence[Arm]
    """What was compared, the diverged ones too."""
    figures: Sequence[Figure]
    """By data set, arm and metric, those that there are."""
    differences: Sequence[Difference]
    """Likewise, of all arms but the baseline."""
    verdicts: Sequence[Verdict]
    """One an arm that has a difference."""
    earlier: Sequence[EarlierRow]
    """Figures of an earlier study."""
    remarks: Sequence[str]
    """What a reader has to know besides: arms left out, single seeds, how to read the intervals."""
    stressed: Sequence[Stressed] = ()
    """The same under stress."""
    version: int = VERSION
    """Of this layout."""

    def to_json(self) -> dict[str, Any]:
        """Return the content of `study.json`."""
        return asdict(self)


def write_study(folder: Path, results: StudyResults) -> None:
    """Write `study.json`; raises OutputError."""
    write_text(folder / STUDY_FILE, json.dumps(results.to_json(), indent=2, allow_nan=False) + "\n")
