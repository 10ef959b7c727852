"""Predict the size of a plan's shards, and the time to make them, from probe frames."""

import heapq
import math
import os
import shutil
import tarfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vdaprep.conversion.clips import PlannedShard
from vdaprep.conversion.plan import ConversionPlan
from vdaprep.conversion.probes import DIFF, Cost, Prober, Probes, cost_of
from vdaprep.shards.canonical import canonical_json
from vdaprep.shards.names import FRAME_KINDS, clip_key
from vdaprep.shards.records import ClipEntry, Rejection

TAR, RECORDS = "tar", "records"  # beside the kinds of members: headers and padding; the JSON files beside the tars
_KINDS = ("json", *FRAME_KINDS, TAR, RECORDS)
_DEVIATIONS = 3.0  # standard errors between a prediction and its upper bound, at least
# With few probes the standard error itself is uncertain: so many of it hold with 99 % of normal samples. Student's
# factors for what successive differences are worth; by simulation, as these overlap.
_DEVIATIONS_OF_FEW = {2: 31.9, 3: 7.5, 4: 5.1, 5: 4.2, 6: 3.8, 7: 3.5, 8: 3.3, 9: 3.2}
_SLACK = 0.005  # what the standard error does not cover: digits of numbers in JSON, for one
_SUMMARY_BYTES = 300  # a shard in `dataset.json`, about


@dataclass(frozen=True)
class SplitForecast:
    """Predicted counts of a split."""

    trajectories: int
    """Trajectories."""
    frames: int
    """Frames."""
    clips: int
    """Clips."""
    shards: int
    """Shards."""
    bytes: int
    """Of its tars and records."""


@dataclass(frozen=True)
class Prediction:
    """What a conversion will make, if the same fraction of frames is rejected as of the probes."""

    splits: dict[str, SplitForecast]
    """By name."""
    bytes_by_kind: dict[str, int]
    """Of the kinds of members, of `tar` and of `records`."""
    standard_error: float
    """Of `bytes`."""
    probes: int
    """Places at which frames were encoded."""
    probe_frames: int
    """Frames that were encoded."""
    rejected: tuple[Rejection, ...]
    """Frames of probes that cannot be used."""
    sizes: dict[tuple[int, int], int]
    """Number of probes by (width, height) in pixels."""
    workers: int
    """Processes that encode."""
    peak_bytes: int
    """Disk space: `bytes`, and the `workers` largest shards, which may have to be made beside a damaged one."""
    seconds_per_frame: float
    """Of one core."""
    seconds: float
    """Of the conversion."""

    @property
    def bytes(self) -> int:
        """Bytes of the data set's folder."""
        return sum(self.bytes_by_kind.values())

    @property
    def upper_bytes(self) -> int:
        """Upper bound of `bytes`: half a percent and some standard errors above it.

        These are three, more if probes are few.
        """
        sure = self.bytes * (1 + _SLACK) + tarfile.RECORDSIZE  # a tar is whole records
        return math.ceil(sure + _deviations(self.probes) * self.standard_error)

    @property
    def frames(self) -> int:
        """Frames of all splits."""
        return sum(split.frames for split in self.splits.values())

    def to_json(self) -> dict[str, Any]:
        """Return the forecast as JSON has it."""
        sizes = {f"{width}x{height}": count for (width, height), count in self.sizes.items()}
        totals = {"frames": self.frames, "bytes": self.bytes, "upper_bytes": self.upper_bytes}
        return {**totals, **asdict(self), "sizes": sizes}


@dataclass(frozen=True)
class Room:
    """Disk space of an output, in bytes."""

    free: int
    """Free on the disk."""
    there: int
    """Of the data set's folder as it is."""
    needed: int
    """What the conversion may still need."""

    @property
    def suffices(self) -> bool:
        """Whether the conversion will fit."""
        return self.needed <= self.free


def room(prediction: Prediction, folder: Path) -> Room:
    """Return the space on the disk of a data set's folder; what it holds counts as made."""
    base = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    there = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return Room(shutil.disk_usage(base).free, there, max(0, prediction.peak_bytes - there))


def predict(plan: ConversionPlan, prober: Prober, *, workers: int) -> Prediction:
    """Predict what a plan makes with `workers` processes; DataError without a usable probe."""
    probes = prober.probe(plan)
    by_shard = _by_shard(plan, _Model(probes))
    kinds = {kind: sum(found.get(kind, 0.0) for found in by_shard) for kind in _KINDS}
    kinds[RECORDS] += _dataset_bytes(plan)
    weights = [sum(found.values()) for found in by_shard]
    seconds = float(np.median([probe.seconds_per_frame for probe in probes.found]))
    crowd = max(1.0, workers / (os.cpu_count() or 1))  # processes beyond the cores only wait for each other
    return Prediction(
        splits={split: _split(plan, split, weights) for split in plan.splits},
        bytes_by_kind={kind: round(size) for kind, size in kinds.items() if size},
        standard_error=_standard_error(plan, probes),
        probes=len(probes.found),
        probe_frames=sum(probe.asked for probe in probes.found),
        rejected=probes.rejected,
        sizes=dict(Counter(probe.size for probe in probes.found if probe.size is not None)),
        workers=workers,
        peak_bytes=round(sum(kinds.values()) + sum(heapq.nlargest(workers, weights))),
        seconds_per_frame=seconds,
        seconds=_makespan([shard.num_frames * seconds * crowd for shard in plan.shards], workers=workers),
    )


class _Model:
    """What a frame, a frame that follows none, and a clip's metadata cost on average."""

    def __init__(self, probes: Probes) -> None:
        found, nothing = probes.found, np.zeros(2)
        kinds = {kind for probe in found for kind in probe.sizes} - {DIFF}
        self.frame = {kind: _mean([probe.sizes.get(kind, nothing) for probe in found]) for kind in kinds}
        self.diff = _mean([probe.sizes[DIFF] for probe in found if DIFF in probe.sizes])
        self.first_diff = _mean([probe.first_diff for probe in found if probe.first_diff is not None])
        self.meta = _mean([np.array(probe.meta) for probe in found if probe.meta is not None])

    def costs(self, shard: PlannedShard) -> dict[str, Cost]:
        """Return the bytes of content and of tar that a shard's members have, by kind."""
        frames = shard.num_frames
        firsts = sum(clip.after_gap for clip in shard.clips)
        fixed, each = self.meta
        metas = [cost_of(round(fixed + each * clip.num_frames)) for clip in shard.clips]
        return {
            "json": np.sum(metas, axis=0),
            **{kind: frames * cost for kind, cost in self.frame.items()},
            DIFF: (frames - firsts) * self.diff + firsts * self.first_diff,
        }


def _mean(costs: Sequence[Cost]) -> Cost:
    return np.mean(costs, axis=0) if costs else np.zeros(2)


def _by_shard(plan: ConversionPlan, model: _Model) -> list[dict[str, float]]:
    """Predict the bytes of every shard by kind."""
    result: list[dict[str, float]] = []
    for shard in plan.shards:
        costs = model.costs(shard)
        content = {kind: float(cost[0]) for kind, cost in costs.items()}
        length = float(sum(cost.sum() for cost in costs.values())) + 2 * tarfile.BLOCKSIZE
        whole = math.ceil(length / tarfile.RECORDSIZE) * tarfile.RECORDSIZE
        record = _record_bytes(plan, shard, whole)
        result.append({**content, TAR: whole - sum(content.values()), RECORDS: record})
    return result


def _record_bytes(plan: ConversionPlan, shard: PlannedShard, tar_bytes: int) -> float:
    """Predict a tar's record from its first clip's entry, as if in the tar's middle."""
    clip = shard.clips[0]
    middle, frames = tar_bytes // 2, clip.num_frames
    entry = ClipEntry(
        key=clip_key(plan.dataset, clip.trajectory.name, 0, alike=clip.alike),
        offset=middle,
        bytes=frames + 1,
        frames=frames,
        frame_offsets=tuple(range(middle + 1, middle + 1 + frames)),
        crc32=(2**31,) * (frames + 1),
    )
    of_clip = len(canonical_json(asdict(entry)))
    return of_clip / frames * shard.num_frames + len(canonical_json(plan.options)) + _SUMMARY_BYTES


def _dataset_bytes(plan: ConversionPlan) -> int:
    """Predict the bytes of `dataset.json`."""
    rejected = [asdict(item) for item in plan.rejected]
    return len(canonical_json([plan.options, plan.splits, rejected])) + _SUMMARY_BYTES * (len(plan.shards) + 2)


def _split(plan: ConversionPlan, split: str, weights: Sequence[float]) -> SplitForecast:
    own = [(shard, weight) for shard, weight in zip(plan.shards, weights, strict=True) if shard.split == split]
    return SplitForecast(
        trajectories=len(plan.splits[split]),
        frames=sum(shard.num_frames for shard, _ in own),
        clips=sum(len(shard.clips) for shard, _ in own),
        shards=len(own),
        bytes=round(sum(weight for _, weight in own)),
    )


def _standard_error(plan: ConversionPlan, probes: Probes) -> float:
    """Estimate the standard error of the total from how much neighbouring probes differ.

    In a systematic sample what changes slowly along the data is no error (Wolter, Introduction to Variance Estimation,
    chapter 8: the estimator of successive differences).
    """
    weights = np.array([probe.frame_bytes for probe in probes.found])
    unseen = 1 - min(1.0, sum(probe.asked for probe in probes.found) / plan.num_frames)
    if len(weights) < 2:
        return 0.0
    variance = float(np.square(np.diff(weights)).mean()) / 2
    return plan.num_frames * math.sqrt(variance / len(weights) * unseen)


def _deviations(probes: int) -> float:
    """Return how many standard errors from so many probes the upper bound is away."""
    return _DEVIATIONS_OF_FEW.get(probes, _DEVIATIONS)


def _makespan(tasks: Sequence[float], *, workers: int) -> float:
    """Return the end of the last task if each is given to the first free worker."""
    ends = [0.0] * max(1, workers)
    for seconds in tasks:
        heapq.heapreplace(ends, ends[0] + seconds)
    return max(ends)
