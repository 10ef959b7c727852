"""Whether depth, poses and intrinsics of trajectories agree, and what would agree better."""

import math
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from vdaprep.analysis.warping import Agreement, Points, View, points_of
from vdaprep.shards.metadata import ClipMeta
from vdaprep.shards.reader import Clip, StoredFrame, read_record
from vdaprep.storage.paths import StoragePath

_ALIKE = 0.1  # grey levels, on average: video does not repeat a frame to the bit
_BLACK = 12  # grey levels: JPEG does not keep zeros


@dataclass(frozen=True, eq=False)
class SeenFrame:
    """What is known of a frame without its pixels, which at 8192x8192 take half a gigabyte."""

    number: int
    """The frame's number in its trajectory."""
    stored: StoredFrame
    """The frame as it is stored."""
    pose: tuple[tuple[float, ...], ...] | None
    """Camera to world; None without poses."""
    is_black: bool
    """Whether the image is black, noise aside."""
    repeats_rgb: bool
    """Whether the image is the one of the frame before, though the camera moves; looked at if depth is, too."""
    repeats_depth: bool
    """Whether the depth is the one of the frame before, though the camera moves."""
    is_flat: bool
    """Whether all known depth is the same."""
    is_sky: bool
    """Whether all pixels are sky."""
    is_unknown: bool
    """Whether no depth is known."""
    points: Points | None
    """Pixels to warp; None without a pose."""


def _pose_of(frame: StoredFrame) -> tuple[tuple[float, ...], ...] | None:
    return None if frame.meta.camera_to_world is None else frame.meta.camera_to_world[frame.index]


def _stands_still(frame: StoredFrame, before: SeenFrame) -> bool:
    """Tell whether the poses say that the camera did not move."""
    pose = _pose_of(frame)
    return pose is not None and pose == before.pose


def _look_at_rgb(frame: StoredFrame, before: SeenFrame | None) -> tuple[bool, bool, bool]:
    """Return whether a frame is black, and whether image and depth repeat the one before.

    That one is decoded again only where its depth is the same.
    """
    rgb = frame.rgb()
    is_black = bool(rgb.max() <= _BLACK)
    if before is None or _stands_still(frame, before):
        return is_black, False, False
    depth, depth_before = (one.members.get("depth.zst") for one in (frame, before.stored))
    same_depth = depth is not None and depth == depth_before
    return is_black, same_depth and _shows_the_same(frame, rgb, before.stored), same_depth


def _look(frame: StoredFrame, before: SeenFrame | None) -> tuple[SeenFrame, View | None]:
    """Decode a frame, image before depth, and compare it with the one that it follows."""
    is_black, repeats_rgb, repeats_depth = _look_at_rgb(frame, before)
    depth_m = frame.depth_m()
    known = np.isfinite(depth_m)
    least = depth_m.min(where=known, initial=np.inf)
    is_flat = bool(least == depth_m.max(where=known, initial=-np.inf))
    view = view_of(frame.meta, frame.index, depth_m)
    seen = SeenFrame(
        number=frame.meta.frame_ids[frame.index],
        stored=frame,
        pose=_pose_of(frame),
        is_black=is_black,
        repeats_rgb=repeats_rgb,
        repeats_depth=repeats_depth,
        is_flat=is_flat,
        is_sky=bool(depth_m.min() == np.inf),  # as no depth is -inf, and nan is least of all
        is_unknown=frame.meta.depth is not None and not known.any() and bool(np.isnan(depth_m).all()),
        points=None if view is None else points_of(view),
    )
    return seen, view


def view_of(meta: ClipMeta, index: int, depth_m: Float32[np.ndarray, "h w"]) -> View | None:
    """Return how a frame of a clip was seen; None without poses, or without metres."""
    if meta.camera_to_world is None or not meta.is_metric:
        return None
    return View(depth_m, meta.intrinsics_of([index])[0], np.array(meta.camera_to_world[index]))


class Flaws:
    """Counts a trajectory's frames that cannot be right, and keeps the first of each sort."""

    def __init__(self) -> None:
        self._numbers: defaultdict[str, list[int]] = defaultdict(list)
        self._flat = 0
        self._stuck = 0

    def look(self, frame: SeenFrame) -> None:
        """Note a frame."""
        self._flat += frame.is_flat
        self._stuck += frame.repeats_depth and not frame.repeats_rgb
        flaws = {
            "are black": frame.is_black,
            "are nothing but sky": frame.is_sky,
            "have no known depth": frame.is_unknown,
            "repeat the frame before, though the camera moves": frame.repeats_rgb,
        }
        for text, holds in flaws.items():
            if holds:
                self._numbers[text].append(frame.number)

    def sentences(self, frames: int) -> Iterator[str]:
        """Say what is wrong with a trajectory of that many frames."""
        for text, numbers in self._numbers.items():
            yield f"{len(numbers)} of {frames} frames {text} (the first: {numbers[0]})"
        if self._flat == frames:
            yield "depth never varies within a frame"
        if frames > 1 and self._stuck == frames - 1:
            yield "depth never varies from frame to frame, though the images do"


def _follows(frame: StoredFrame, before: SeenFrame, *, stride: int) -> bool:
    """Tell whether a frame comes right after another one, and has its size."""
    meta, other = frame.meta, before.stored.meta
    apart = meta.frame_ids[frame.index] - before.number
    return apart == stride and (meta.height, meta.width) == (other.height, other.width)


def _shows_the_same(frame: StoredFrame, rgb: UInt8[np.ndarray, "h w 3"], before: StoredFrame) -> bool:
    """Tell whether two frames have the same image but for what video makes of it."""
    jpeg = frame.members.get("rgb.jpg")
    if jpeg is not None and jpeg == before.members.get("rgb.jpg"):
        return True
    return cv2.norm(rgb, before.rgb(), cv2.NORM_L1) / rgb.size <= _ALIKE


_FAR = 8  # frames between those that tell hypotheses apart: motion of one frame may be too small
_FAR_EVERY = 4
_KEPT_PIXELS = 1 << 22  # of a view that waits for those that are some frames away: 16 MiB


@dataclass(frozen=True)
class TrajectoryGeometry:
    """What was measured of a trajectory; no `error` or `share` without neighbouring frames."""

    dataset: str
    """The data set's name."""
    trajectory: str
    """The trajectory's name."""
    frames: int
    """Frames in the shards."""
    has_poses: bool
    """Whether they have poses."""
    error: float | None
    """Median relative error of depth between neighbours; None if no pixel falls onto the next frame."""
    share: float | None
    """Share of the known pixels that were compared; None without neighbours."""
    findings: tuple[str, ...]
    """What cannot be as it should, as sentences."""
    is_metric: bool = True
    """Whether all frames have depth in metres, and not a teacher's relative disparity or no labels."""

    def __str__(self) -> str:
        if not self.is_metric:
            measured = "no depth in metres: nothing to warp with"
        elif not self.has_poses:
            measured = "no poses: nothing to warp with"
        elif self.share is None:
            measured = "a single frame: nothing to warp onto"
        elif self.error is None:
            measured = "no pixel falls onto the next frame"
        else:
            measured = f"median warp error {self.error:.3%} over {self.share:.0%} of the known pixels"
        return "; ".join([f"{self.trajectory}: {self.frames} frames, {measured}", *self.findings])


def measure(tars: Iterable[StoragePath], *, on_frame: Callable[[], None]) -> list[TrajectoryGeometry]:
    """Measure all trajectories that have clips in these shards, which `verify` found whole.

    Raises ShardError if one has no record, or a member that cannot be decoded.
    """
    found: dict[tuple[str, str], _Trajectory] = {}
    for tar in tars:
        record = read_record(tar)
        stride = record.options.get("frame_stride") or 1
        for entry in record.clips:
            clip = Clip("", tar, entry)
            name = clip.meta.dataset, clip.meta.trajectory
            trajectory = found.setdefault(name, _Trajectory(clip.meta.width))
            for frame in clip.frames():
                trajectory.add(frame, stride=stride)
                on_frame()
    return [trajectory.result(*name) for name, trajectory in sorted(found.items())]


def _thinned(view: View) -> View:
    """Return a view with every few-th pixel, so that a few views of any size need little memory."""
    height, width = view.depth_m.shape
    step = math.isqrt(max(0, height * width - 1) // _KEPT_PIXELS) + 1
    if step == 1:
        return view
    fx, fy, cx, cy = view.intrinsics
    intrinsics = np.array([fx, fy, cx - step // 2, cy - step // 2]) / step
    return replace(view, depth_m=view.depth_m[step // 2 :: step, step // 2 :: step].copy(), intrinsics=intrinsics)


class _Trajectory:
    """Gathers what is measured of a trajectory, frame by frame; keeps the last few views."""

    def __init__(self, width: int) -> None:
        self._agreement = Agreement(width)
        self._window: deque[View | None] = deque(maxlen=_FAR + 1)
        self._before: SeenFrame | None = None
        self._frames = 0
        self._has_poses = False
        self._is_metric = True
        self._flaws = Flaws()

    def add(self, stored: StoredFrame, *, stride: int) -> None:
        """Measure the next frame, of numbers that go up by `stride`."""
        before = self._before
        if before is not None and not _follows(stored, before, stride=stride):
            self._window.clear()
            before = None
        frame, view = _look(stored, before)
        self._before = frame
        self._window.append(None if view is None else _thinned(view))
        self._frames += 1
        self._is_metric = self._is_metric and stored.meta.is_metric
        self._flaws.look(frame)
        if view is None:
            return
        self._has_poses = True
        if before is not None and before.points is not None:
            self._agreement.add_neighbours(before.points, view)
        if len(self._window) > _FAR and frame.number // stride % _FAR_EVERY == 0:
            self._measure_distant()

    def result(self, dataset: str, trajectory: str) -> TrajectoryGeometry:
        """Sum up, after the last frame."""
        if not self._agreement.has_distant and len(self._window) > 1:
            self._measure_distant()
        fit = self._agreement.neighbours
        findings = [*self._flaws.sentences(self._frames), *self._agreement.misfits()]
        error = None if fit is None or fit.error == math.inf else fit.error
        share = None if fit is None else fit.share
        return TrajectoryGeometry(
            dataset, trajectory, self._frames, self._has_poses, error, share, tuple(findings), self._is_metric
        )

    def _measure_distant(self) -> None:
        first, last = self._window[0], self._window[-1]
        if first is not None and last is not None:
            self._agreement.add_distant(first, last)
