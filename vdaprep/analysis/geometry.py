"""Whether depth, poses and intrinsics of trajectories agree, and what would agree better."""

import math
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from vdaprep.analysis.warping import Agreement, View
from vdaprep.shards.metadata import ClipMeta
from vdaprep.shards.reader import Clip, StoredFrame, read_record
from vdaprep.storage.paths import StoragePath

_ALIKE = 0.1  # grey levels, on average: video does not repeat a frame to the bit
_BLACK = 12  # grey levels: JPEG does not keep zeros


@dataclass(frozen=True, eq=False)
class DecodedFrame:
    """A frame of a clip, and its depth decoded."""

    number: int
    """The frame's number in its trajectory."""
    stride: int
    """What the numbers of the trajectory's frames go up by."""
    rgb: UInt8[np.ndarray, "h w 3"]
    """The decoded frame."""
    depth: bytes
    """The stored depth code."""
    is_black: bool
    """Whether the image is black, noise aside."""
    depth_m: Float32[np.ndarray, "h w"]
    """Metres along z; nan unknown, inf sky."""
    view: View | None
    """How it was seen; None without a pose."""

    def follows(self, other: "DecodedFrame") -> bool:
        """Tell whether it comes right after another frame, and has its size."""
        return self.number == other.number + self.stride and self.depth_m.shape == other.depth_m.shape

    def stands_still_after(self, other: "DecodedFrame") -> bool:
        """Tell whether the poses say that the camera did not move."""
        if self.view is None or other.view is None:
            return False
        return np.array_equal(self.view.camera_to_world, other.view.camera_to_world)


def _decode(frame: StoredFrame, *, stride: int) -> DecodedFrame:
    depth_m, rgb = frame.depth_m(), frame.rgb()
    return DecodedFrame(
        number=frame.meta.frame_ids[frame.index],
        stride=stride,
        rgb=rgb,
        depth=bytes(frame.members["depth.zst"]),
        is_black=bool(rgb.max() <= _BLACK),
        depth_m=depth_m,
        view=view_of(frame.meta, frame.index, depth_m),
    )


def view_of(meta: ClipMeta, index: int, depth_m: Float32[np.ndarray, "h w"]) -> View | None:
    """Return how a frame of a clip was seen; None without poses."""
    if meta.camera_to_world is None:
        return None
    return View(depth_m, np.array(meta.intrinsics[index]), np.array(meta.camera_to_world[index]))


class Flaws:
    """Counts a trajectory's frames that cannot be right, and keeps the first of each sort."""

    def __init__(self) -> None:
        self._numbers: defaultdict[str, list[int]] = defaultdict(list)
        self._flat = 0
        self._stuck = 0

    def look(self, frame: DecodedFrame, before: DecodedFrame | None) -> None:
        """Look at a frame, and at the one that it follows."""
        known = np.isfinite(frame.depth_m)
        least = frame.depth_m.min(where=known, initial=np.inf)
        self._flat += bool(least == frame.depth_m.max(where=known, initial=-np.inf))
        flaws = {
            "are black": frame.is_black,
            "are nothing but sky": bool(np.isposinf(frame.depth_m).all()),
            "have no known depth": bool(np.isnan(frame.depth_m).all()),
        }
        if before is not None and not frame.stands_still_after(before):
            same_rgb, same_depth = _look_alike(frame.rgb, before.rgb), frame.depth == before.depth
            flaws["repeat the frame before, though the camera moves"] = same_rgb and same_depth
            self._stuck += same_depth and not same_rgb
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


def _look_alike(one: UInt8[np.ndarray, "h w 3"], other: UInt8[np.ndarray, "h w 3"]) -> bool:
    """Tell whether two frames are the same but for what video makes of them."""
    return one.shape == other.shape and float(cv2.absdiff(one, other).mean()) <= _ALIKE


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

    def __str__(self) -> str:
        if not self.has_poses:
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
                trajectory.add(_decode(frame, stride=stride))
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
        self._before: DecodedFrame | None = None
        self._frames = 0
        self._has_poses = False
        self._flaws = Flaws()

    def add(self, frame: DecodedFrame) -> None:
        """Measure the next frame."""
        before = self._before
        if before is not None and not frame.follows(before):
            self._window.clear()
            before = None
        self._before = frame
        self._window.append(None if frame.view is None else _thinned(frame.view))
        self._frames += 1
        self._flaws.look(frame, before)
        if frame.view is None:
            return
        self._has_poses = True
        if before is not None and before.view is not None:
            self._agreement.add_neighbours(before.view, frame.view)
        if len(self._window) > _FAR and frame.number // frame.stride % _FAR_EVERY == 0:
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
            dataset, trajectory, self._frames, self._has_poses, error, share, findings=tuple(findings)
        )

    def _measure_distant(self) -> None:
        first, last = self._window[0], self._window[-1]
        if first is not None and last is not None:
            self._agreement.add_distant(first, last)
