"""What each converted trajectory looks like, and which stand out, before they are used.

Shares of pixels, depth and how well frames fit are of three places of a trajectory; what was farther than the depth
code reaches is counted in all of its frames.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate

import numpy as np
from jaxtyping import Float32

from vdaprep.analysis.geometry import TrajectoryGeometry, view_of
from vdaprep.analysis.photometric import Likeness, Sighting
from vdaprep.analysis.warping import Agreement, View, frames_away, points_of
from vdaprep.shards.metadata import ClipMeta
from vdaprep.shards.reader import Clip, StoredFrame, read_record
from vdaprep.storage.paths import StoragePath

_PLACES = 3
_APART = 8  # frames between the views of a pair
_SHIFTS = 4  # frames by which poses may be shifted
_POINTS = 5000  # pixels of a view that are warped
_COUNTED = 100_000  # pixels of a frame that shares are of, about
_MIDDLE = 0.24  # how far a principal point may be from the middle, as a share of the image
_MUCH = 0.05  # a share of pixels beyond the depth code that is worth a word
_NEARLY_ALL = 0.95
_DEEP_M = 300.0  # a median depth that no camera on the ground sees
_OTHER_UNIT = 30.0  # a ratio of medians that no two places of a data set have
_SIBLINGS = 3  # fewer trajectories are no measure for one
_WORSE = 5.0  # a ratio of warp errors
_BAD = 0.02  # a warp error that is worth a word beside better ones


@dataclass(frozen=True)
class Picture:
    """What a converted trajectory looks like as a whole."""

    trajectory: str
    """Its name."""
    frames: int
    """Frames that were converted."""
    unknown: float
    """Share of pixels without known depth, of those that were looked at."""
    sky: float
    """Share of pixels that are sky."""
    near: float
    """Share of pixels that are at the near end of the depth code, or were nearer."""
    far: float
    """Share of pixels of all frames whose depth was finite but beyond the far end: stored as sky."""
    median_m: float | None
    """Median of the known depth in metres; None if none is known."""
    principal_point: tuple[float, float]
    """Where the camera looks, as shares of the image's width and height: (0.5, 0.5) is the middle."""
    warp_error: float | None
    """Median relative error of depth warped onto the next frame; None without poses, or if nothing falls there."""
    findings: tuple[str, ...] = ()
    """What stands out, and what to do."""

    def __str__(self) -> str:
        off = [f"{100 * (place - 0.5):+.1f} %" for place in self.principal_point]
        parts = [
            f"{self.frames} frames",
            f"unknown {self.unknown:.1%}",
            f"sky {self.sky:.1%}",
            f"nearer than the code {self.near:.1%}",
            f"farther {self.far:.1%}",
            "no known depth" if self.median_m is None else f"median {self.median_m:.3g} m",
            f"principal point {off[0]} and {off[1]} off the middle",
            "no warp error" if self.warp_error is None else f"warp error {self.warp_error:.2%}",
        ]
        return f"{self.trajectory}: {', '.join(parts)}"


def look(
    dataset: str, tars: Iterable[StoragePath], *, takes_unit: bool, on_trajectory: Callable[[], None] = lambda: None
) -> list[Picture]:
    """Look at three places of each trajectory of a data set's shards, and compare them.

    Trajectories without depth in metres are left out.

    Args:
        dataset: Name of the data set.
        tars: Its shards.
        takes_unit: Whether users may say what a unit of its depth is.
        on_trajectory: Called after each trajectory.

    Returns:
        A picture of each trajectory, by name.

    Raises:
        ShardError: A shard cannot be read.
    """
    pictures: list[Picture] = []
    for (_, name), shown in _shown(tars, dataset).items():
        if shown.clips and all(clip.meta.is_metric for clip in shown.clips):
            pictures.append(_Look(name, shown, takes_unit=takes_unit).picture())
            on_trajectory()
    return [replace(one, findings=(*one.findings, *_beside(one, pictures))) for one in pictures]


def add_shifts(measured: Iterable[TrajectoryGeometry], tars: Iterable[StoragePath]) -> list[TrajectoryGeometry]:
    """Add which other frames' images or poses would fit clearly better.

    Only where nothing else was found.

    Args:
        measured: The trajectories of the shards.
        tars: The shards, of any data sets.

    Raises:
        ShardError: A shard cannot be read.
    """
    shown = _shown(tars)
    found: list[TrajectoryGeometry] = []
    for one in measured:
        clips = shown[one.dataset, one.trajectory]
        more = () if one.findings or not one.has_poses else _Look(one.trajectory, clips, takes_unit=False).misfits()
        found.append(replace(one, findings=(*one.findings, *more)))
    return found


def _shown(tars: Iterable[StoragePath], dataset: str = "") -> "dict[tuple[str, str], _Shown]":
    """Return what shards hold by data set and trajectory, sorted; `dataset` where it is known."""
    found: defaultdict[tuple[str, str], _Shown] = defaultdict(_Shown)
    for tar in tars:
        record = read_record(tar)
        of = dataset
        for entry in record.clips:
            clip = Clip(dataset, tar, entry)
            of = clip.meta.dataset
            found[of, clip.meta.trajectory].clips.append(clip)
        for name, pixels in record.clamped_far.items():
            found[of, name].beyond += pixels
    return dict(sorted(found.items()))


@dataclass
class _Shown:
    """A trajectory's clips, and how many of its pixels were beyond the depth code."""

    clips: list[Clip] = field(default_factory=list[Clip])
    beyond: int = 0


class _Look:
    """Looks at the places of one trajectory."""

    def __init__(self, name: str, shown: _Shown, *, takes_unit: bool) -> None:
        self._name = name
        self._takes_unit = takes_unit
        self._shown = shown
        self._metas = [clip.meta for clip in shown.clips]
        self._depths: list[Float32[np.ndarray, "h w"]] = []
        self._agreement = Agreement(self._metas[0].width, points=_POINTS)
        self._likeness = Likeness()

    def picture(self) -> Picture:
        """Return what was seen."""
        self._compare_places()
        meta = self._metas[0]
        pixels = sum(meta.num_frames * meta.height * meta.width for meta in self._metas)
        depth_m = np.concatenate([depth_m.ravel() for depth_m in self._depths])
        known = depth_m[np.isfinite(depth_m)]
        near_m = None if meta.depth is None else meta.depth.near_m
        centres = [one.intrinsics_of(range(one.num_frames))[:, 2:] for one in self._metas]
        cx, cy = np.median(np.concatenate(centres), axis=0)
        fit = self._agreement.neighbours
        seen = Picture(
            trajectory=self._name,
            frames=sum(meta.num_frames for meta in self._metas),
            unknown=float(np.isnan(depth_m).mean()),
            sky=float(np.isposinf(depth_m).mean()),
            near=0.0 if near_m is None else float((known <= np.float32(near_m)).sum() / depth_m.size),
            far=self._shown.beyond / pixels,
            median_m=float(np.median(known)) if known.size else None,
            principal_point=((float(cx) + 0.5) / meta.width, (float(cy) + 0.5) / meta.height),
            warp_error=None if fit is None or fit.error == math.inf else fit.error,
        )
        return replace(seen, findings=tuple(self._findings(seen)))

    def misfits(self) -> tuple[str, ...]:
        """Return what depth, poses and images do not fit, and what would fit clearly better."""
        self._compare_places()
        return tuple(self._misfits())

    def _misfits(self) -> Iterator[str]:
        misfits = list(self._agreement.misfits())
        yield from misfits or self._likeness.misfits()

    def _compare_places(self) -> None:
        for clip, meta, first, last in self._places():
            self._compare(clip, meta, first, last)

    def _places(self) -> Iterator[tuple[Clip, ClipMeta, int, int]]:
        """Yield clips, and in each both frames of a pair, at three places of the trajectory."""
        ends = list(accumulate(meta.num_frames for meta in self._metas))
        for place in range(_PLACES):
            middle = ends[-1] * (2 * place + 1) // (2 * _PLACES)
            number = next(number for number, end in enumerate(ends) if middle < end)
            count = self._metas[number].num_frames
            apart = min(_APART, count - 1)
            room = 1 if count >= apart + 3 else 0  # for the frames before and after
            first = min(max(middle - (ends[number] - count) - apart // 2, room), count - 1 - apart - room)
            yield self._shown.clips[number], self._metas[number], first, first + apart

    def _compare(self, clip: Clip, meta: ClipMeta, first: int, last: int) -> None:
        halfway = (first + last) // 2  # images that are farther apart differ by more than what they show
        wanted = sorted({first, min(first + 1, last), halfway, last})
        depths = {index: _frame(clip, index).depth_m() for index in wanted}
        self._depths += (_thinned(depth_m) for depth_m in depths.values())
        views = {index: view_of(meta, index, depth_m) for index, depth_m in depths.items()}
        begin, after, middle, end = (views[index] for index in (first, min(first + 1, last), halfway, last))
        if begin is None or after is None or middle is None or end is None or first == last:
            return
        self._agreement.add_neighbours(points_of(begin, points=_POINTS), after)
        shifted = _shifted(meta, (begin, first), (end, last))
        self._agreement.add_distant(begin, end, others=shifted)
        self._likeness.add(_sighting(clip, (begin, first), (middle, halfway)))

    def _findings(self, seen: Picture) -> Iterator[str]:
        if all(meta.disparity_max == 0 for meta in self._metas):
            yield f"has no known depth: {_how_unknown(seen)}; {_unit(seen, takes_unit=self._takes_unit)}"
        elif seen.far > _MUCH or _is_deep(seen):
            beyond = f"{seen.far:.0%} of its pixels are farther than the depth code reaches"
            deep = beyond if seen.far > _MUCH else f"its known depth is {seen.median_m or 0:.3g} m in the median"
            yield f"{deep}; {_unit(seen, takes_unit=self._takes_unit)}"
        elif seen.near > _MUCH:
            yield (
                f"{seen.near:.0%} of its pixels are nearer than the depth code reaches: if its depth is disparity, or "
                "relative, or in another unit, make it metres first"
            )
        elif seen.unknown + seen.sky > _NEARLY_ALL:
            yield f"has little known depth: {_how_unknown(seen)}"
        if max(abs(place - 0.5) for place in seen.principal_point) > _MIDDLE:
            meta = self._metas[0]
            place = " and ".join(f"{place:.0%}" for place in seen.principal_point)
            yield (
                f"its principal point is at {place} of the image's width and height: the intrinsics may belong to "
                f"images of another size than {meta.width}x{meta.height}, or to a crop; see --intrinsics"
            )
        if seen.median_m is not None:
            yield from self._misfits()


def _thinned(depth_m: Float32[np.ndarray, "h w"]) -> Float32[np.ndarray, "_h _w"]:
    """Return every so many-th pixel, so that shares of large frames take little memory."""
    step = max(1, math.isqrt(depth_m.size // _COUNTED))
    return depth_m[step // 2 :: step, step // 2 :: step].copy()


def _frame(clip: Clip, index: int) -> StoredFrame:
    return next(iter(clip.frames(index, 1)))


def _shifted(meta: ClipMeta, first: tuple[View, int], last: tuple[View, int]) -> dict[str, tuple[View, View]]:
    """Return the views with the poses of frames shortly before or after."""
    poses = np.array(meta.camera_to_world)
    found: dict[str, tuple[View, View]] = {}
    for offset in (*range(-_SHIFTS, 0), *range(1, _SHIFTS + 1)):
        if first[1] + offset >= 0 and last[1] + offset < meta.num_frames:
            found[f"poses look shifted: with those {frames_away(offset)}, depth maps fit"] = (
                replace(first[0], camera_to_world=poses[first[1] + offset]),
                replace(last[0], camera_to_world=poses[last[1] + offset]),
            )
    return found


def _sighting(clip: Clip, first: tuple[View, int], last: tuple[View, int]) -> Sighting:
    def image(of_last: bool, offset: int) -> np.ndarray | None:
        index = (last[1] if of_last else first[1]) + offset
        return _frame(clip, index).rgb() if 0 <= index < clip.num_frames else None

    return Sighting(first[0], last[0], image)


def _how_unknown(seen: Picture) -> str:
    return f"{seen.unknown:.0%} of its pixels are unknown, {seen.sky:.0%} are sky or were too far"


def _is_deep(seen: Picture) -> bool:
    return seen.median_m is not None and seen.median_m > _DEEP_M


def _unit(seen: Picture, *, takes_unit: bool) -> str:
    """Say what depth may be instead of metres, and what to do then."""
    if seen.far == 0 and seen.median_m is None:
        return "look whether these are depth maps, and what they say is unknown"
    millimetres = seen.median_m is None or seen.far > 0 or seen.median_m > 1000
    name, unit = ("millimetres", 0.001) if millimetres else ("centimetres or millimetres", 0.01)
    if takes_unit:
        return f"depth looks like {name}: say --depth-unit {unit:g} for PNGs, or multiply the npy files by {unit:g}"
    return f"depth looks like {name}: is it as the data set's authors publish it? Multiply it by {unit:g} first"


def _beside(one: Picture, all_of_them: Sequence[Picture]) -> Iterator[str]:
    """Say in what a trajectory differs from all the others, if nothing else is known of it."""
    others = [other for other in all_of_them if other is not one]
    if len(others) < _SIBLINGS or one.findings:
        return
    medians_m = [other.median_m for other in others if other.median_m is not None]
    if one.median_m is not None and medians_m:
        ratio = one.median_m / float(np.median(medians_m))
        if not 1 / _OTHER_UNIT < ratio < _OTHER_UNIT:
            yield f"its depth is {ratio:.3g} times that of the others: is it in another unit?"
    errors = [other.warp_error for other in others if other.warp_error is not None]
    if one.warp_error is not None and errors:
        usual = float(np.median(errors))
        if one.warp_error > max(_BAD, _WORSE * usual):
            yield f"its warp error is {one.warp_error:.2%}, that of the others {usual:.2%}; see verify --geometry"
    if one.unknown > _NEARLY_ALL > float(np.median([other.unknown for other in others])) + 0.5:
        yield f"{one.unknown:.0%} of its pixels are unknown, unlike the others'"
