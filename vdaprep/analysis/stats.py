"""Depth, motion and size of converted data sets, from records and evenly spread frames."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

from vdaprep.errors import ShardError
from vdaprep.shards.metadata import ClipMeta
from vdaprep.shards.reader import Clip, StoredFrame, read_record
from vdaprep.shards.records import ShardRecord
from vdaprep.storage.paths import StoragePath
from vdaprep.units import spread_evenly

CAP = 400  # frames of a data set that are read unless all are asked for
PERCENTILES = (1, 5, 25, 50, 75, 95, 99)
DEPTH_EDGES_M = np.geomspace(1e-3, 1e5, 4097)  # half a percent apart


@dataclass(frozen=True)
class Spread:
    """How a number is spread over frames or clips; None where there is nothing to measure."""

    p5: float
    """5th percentile."""
    median: float
    """Median."""
    p95: float
    """95th percentile."""
    maximum: float
    """Maximum."""
    mean: float
    """Mean."""

    @staticmethod
    def of(values: Sequence[float]) -> "Spread | None":
        """Sum values up."""
        if not values:
            return None
        p5, median, p95 = np.percentile(values, [5, 50, 95]).tolist()
        return Spread(p5, median, p95, float(np.max(values)), float(np.mean(values)))


@dataclass
class DatasetStats:
    """What was found of a data set; without "all of them": of the frames that were read."""

    dataset: str
    """The data set's name."""
    shards: int = 0
    """Shards, all of them."""
    frames: int = 0
    """Frames, all of them."""
    bytes: int = 0
    """Bytes of the tars, all of them."""
    bytes_by_kind: Counter[str] = field(default_factory=Counter[str])
    """Bytes of each kind of member."""
    options: list[Mapping[str, Any]] = field(default_factory=list[Mapping[str, Any]])
    """Options of the conversions that made the shards, each once."""
    clip_lengths: list[int] = field(default_factory=list[int])
    """Frames of each clip."""
    sizes: Counter[str] = field(default_factory=Counter[str])
    """Clips by the width and height of their frames."""
    frames_read: int = 0
    """Frames whose pixels were looked at."""
    depth_counts: Int64[np.ndarray, "4096"] = field(default_factory=lambda: np.zeros(4096, np.int64))
    """Known pixels by DEPTH_EDGES_M."""
    unknown: int = 0
    """Pixels whose depth is not known."""
    sky: int = 0
    """Pixels that are sky."""
    pixels: int = 0
    """All pixels looked at."""
    differences: list[float] = field(default_factory=list[float])
    """Mean absolute differences of frames, in grey levels."""
    translations_m: list[float] = field(default_factory=list[float])
    """How far the camera moved from each frame to the next."""
    rotations_deg: list[float] = field(default_factory=list[float])
    """How far it turned."""
    near_m: list[float] = field(default_factory=list[float])
    """Near ends of the clips' disparity ranges, as depth."""
    far_m: list[float] = field(default_factory=list[float])
    """Far ends of them."""
    without_depth: Counter[str] = field(default_factory=Counter[str])
    """Clips without any known depth, by trajectory; of those that have labels."""
    relative: int = 0
    """Clips whose labels are a teacher's relative disparity, which counts for no figure in metres."""
    unlabelled: int = 0
    """Clips without labels."""
    clamped_far: int = 0
    """Pixels beyond the depth code's far end, as far as records count them."""

    def percentiles_m(self) -> dict[int, float]:
        """Return percentiles of known depth; none if there is none."""
        total = int(self.depth_counts.sum())
        if not total:
            return {}
        share = np.concatenate([[0], np.cumsum(self.depth_counts)]) / total
        return {p: float(np.exp(np.interp(p / 100, share, np.log(DEPTH_EDGES_M)))) for p in PERCENTILES}

    def spreads(self) -> dict[str, Spread | None]:
        """Return the spread of what varies by frame or clip."""
        names = ("differences", "translations_m", "rotations_deg", "near_m", "far_m")
        return {name: Spread.of(getattr(self, name)) for name in names}

    def to_json(self) -> dict[str, Any]:
        """Return the statistics as JSON has them."""
        lengths = self.clip_lengths
        spreads = {name: None if found is None else asdict(found) for name, found in self.spreads().items()}
        return {
            **{name: getattr(self, name) for name in ("dataset", "shards", "frames", "bytes", "frames_read")},
            "clips": len(lengths),
            "bytes_by_kind": dict(self.bytes_by_kind),
            "frames_per_clip": {"minimum": min(lengths), "median": float(np.median(lengths)), "maximum": max(lengths)},
            "sizes": dict(self.sizes),
            "depth_percentiles_m": {str(p): metres for p, metres in self.percentiles_m().items()},
            "unknown": self.unknown / self.pixels,
            "sky": self.sky / self.pixels,
            "without_depth": dict(self.without_depth),
            "clamped_far": self.clamped_far,
            "relative": self.relative,
            "unlabelled": self.unlabelled,
            **spreads,
        }


def gather(
    tars: Iterable[StoragePath],
    *,
    read_all: bool,
    on_frame: Callable[[], None],
    on_total: Callable[[int], None] = lambda frames: None,
) -> list[DatasetStats]:
    """Look at shards by data set; raises ShardError if one is unreadable or none has frames.

    Unless `read_all`, CAP frames of a data set are read at most, at equal distances. `on_total` is called with the
    number of frames before the first is read, `on_frame` after each.
    """
    records = [(tar, read_record(tar)) for tar in tars]
    found: defaultdict[str, list[tuple[StoragePath, ShardRecord]]] = defaultdict(list)
    for tar, record in records:
        if record.clips:
            found[Clip("", tar, record.clips[0]).meta.dataset].append((tar, record))
    if not found:
        raise ShardError(f"{records[0][0]}: holds no clip; convert says why.")
    cap = None if read_all else CAP
    counts = (sum(record.num_frames for _, record in found[name]) for name in found)
    on_total(sum(count if cap is None else min(count, cap) for count in counts))
    return [_of_dataset(name, found[name], cap, on_frame) for name in sorted(found)]


def _of_dataset(
    name: str, records: Sequence[tuple[StoragePath, ShardRecord]], cap: int | None, on_frame: Callable[[], None]
) -> DatasetStats:
    stats = DatasetStats(name, shards=len(records))
    for _, record in records:
        stats.frames += record.num_frames
        stats.bytes += record.tar_bytes
        if record.options not in stats.options:
            stats.options.append(record.options)
        stats.clamped_far += sum(record.clamped_far.values())
        stats.bytes_by_kind.update({kind: size for kind, (_, size) in record.kinds.items()})
        stats.clip_lengths += [clip.frames for clip in record.clips]
    stats.bytes_by_kind["tar"] = stats.bytes - sum(stats.bytes_by_kind.values())
    clips = [Clip(name, tar, entry) for tar, record in records for entry in record.clips]
    for clip, indices in _sample(clips, total=stats.frames, cap=cap):
        _add_clip(stats, clip.meta)
        for frame in (frame for index in indices for frame in clip.frames(index, 1)):
            _add_frame(stats, frame)
            on_frame()
    return stats


def _sample(clips: Sequence[Clip], *, total: int, cap: int | None) -> Iterator[tuple[Clip, list[int]]]:
    """Yield the clips that frames are to be read of, and which."""
    wanted = iter(spread_evenly(total, total if cap is None else cap))
    passed, next_one = 0, next(wanted, None)
    for clip in clips:
        frames: list[int] = []
        while next_one is not None and next_one < passed + clip.num_frames:
            frames.append(next_one - passed)
            next_one = next(wanted, None)
        passed += clip.num_frames
        if frames:
            yield clip, frames


def _add_clip(stats: DatasetStats, meta: ClipMeta) -> None:
    stats.sizes[f"{meta.width}x{meta.height}"] += 1
    if meta.depth is None:
        stats.unlabelled += 1
    elif not meta.is_metric:
        stats.relative += 1
    elif meta.disparity_max > 0:
        stats.near_m.append(1 / meta.disparity_max)
        stats.far_m.append(1 / meta.disparity_min)
    else:
        stats.without_depth[meta.trajectory] += 1
    if meta.camera_to_world is not None:
        translations_m, rotations_deg = motion(np.array(meta.camera_to_world))
        stats.translations_m += translations_m.tolist()
        stats.rotations_deg += rotations_deg.tolist()


def motion(
    camera_to_world: Float64[np.ndarray, "t 4 4"],
) -> tuple[Float64[np.ndarray, " s"], Float64[np.ndarray, " s"]]:
    """Return how far a camera moved (metres) and turned (degrees) from frame to frame."""
    translations_m = np.linalg.norm(np.diff(camera_to_world[:, :3, 3], axis=0), axis=1)
    chords = np.linalg.norm(np.diff(camera_to_world[:, :3, :3], axis=0), axis=(1, 2))  # precise for small angles too
    rotations_deg = np.degrees(2 * np.arcsin(np.minimum(chords / np.sqrt(8), 1)))
    return translations_m, rotations_deg


def _add_frame(stats: DatasetStats, frame: StoredFrame) -> None:
    stats.frames_read += 1
    _add_depth(stats, frame.depth_m(), is_metric=frame.meta.is_metric)
    diff = frame.meta.stored_diff
    if diff is not None and frame.meta.diff_valid[frame.index]:
        stats.differences.append(float(np.abs(frame.diff_steps().astype(np.float32)).mean()) * diff.step)


def _add_depth(stats: DatasetStats, depth_m: np.ndarray, *, is_metric: bool) -> None:
    stats.pixels += depth_m.size
    stats.unknown += int(np.isnan(depth_m).sum())
    if not is_metric:
        return
    stats.sky += int(np.isposinf(depth_m).sum())
    known = depth_m[np.isfinite(depth_m)]
    stats.depth_counts += np.histogram(known, DEPTH_EDGES_M)[0]
