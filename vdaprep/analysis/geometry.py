"""Whether depth, poses and intrinsics of trajectories agree, and what would agree better."""

import math
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float32, Float64

from vdaprep.shards.cameras import invert_pose, scale_intrinsics
from vdaprep.shards.metadata import ClipMeta
from vdaprep.shards.reader import Clip, StoredFrame, read_record
from vdaprep.storage.paths import StoragePath

_POINTS = 20_000  # pixels of a view that are warped, about


@dataclass(frozen=True, eq=False)
class View:
    """What a camera saw: metres along z (nan unknown, inf sky), fx, fy, cx, cy in pixels, and its pose."""

    depth_m: Float32[np.ndarray, "h w"]
    intrinsics: Float64[np.ndarray, "4"]
    camera_to_world: Float64[np.ndarray, "4 4"]


@dataclass(frozen=True)
class Fit:
    """How well a view falls onto another: median relative error of depth (inf: nothing met), share of known pixels."""

    error: float
    share: float


def warp(view: View, onto: View) -> Fit:
    """Warp a view's known pixels onto another view and compare their depth with what is there."""
    height, width = view.depth_m.shape
    step = max(1, math.isqrt(height * width // _POINTS))
    rows, columns = np.mgrid[step // 2 : height : step, step // 2 : width : step].reshape(2, -1)
    depth_m = view.depth_m[rows, columns].astype(np.float64)
    known = np.isfinite(depth_m)
    fx, fy, cx, cy = view.intrinsics
    rays = np.stack([(columns[known] - cx) / fx, (rows[known] - cy) / fy, np.ones(int(known.sum()))])
    motion = invert_pose(onto.camera_to_world) @ view.camera_to_world
    points = motion[:3, :3] @ (rays * depth_m[known]) + motion[:3, 3:]
    x, y, z = points[:, points[2] > 1e-6]
    fx, fy, cx, cy = onto.intrinsics
    there_m = _sample(onto.depth_m, x / z * fx + cx, y / z * fy + cy)
    met = np.isfinite(there_m)
    if not met.any():
        return Fit(math.inf, 0.0)
    return Fit(float(np.median(np.abs(z[met] / there_m[met] - 1))), float(met.sum() / known.sum()))


def _sample(
    depth_m: Float32[np.ndarray, "h w"], x: Float64[np.ndarray, " p"], y: Float64[np.ndarray, " p"]
) -> Float64[np.ndarray, " p"]:
    """Interpolate disparity between pixels, return metres: nan outside and where one of the four is not known."""
    height, width = depth_m.shape
    inside = (x >= 0) & (y >= 0) & (x <= width - 1) & (y <= height - 1)
    column = np.where(inside, x, 0).astype(np.intp).clip(0, width - 2)
    row = np.where(inside, y, 0).astype(np.intp).clip(0, height - 2)
    right, down = np.where(inside, x, 0) - column, np.where(inside, y, 0) - row
    disparity = np.where(inside, 0, np.nan)
    for r, by_row in ((row, 1 - down), (row + 1, down)):
        for c, by_column in ((column, 1 - right), (column + 1, right)):
            metres = depth_m[r, c].astype(np.float64)
            disparity += by_row * by_column / np.where(np.isfinite(metres), metres, np.nan)
    return 1 / disparity


_BLACK = 12  # grey levels: JPEG does not keep zeros


@dataclass(frozen=True, eq=False)
class DecodedFrame:
    """A frame of a clip: its number, its stored bytes, whether it is black, its depth, and how it was seen.

    `stride` is what the numbers of the trajectory's frames go up by.
    """

    number: int
    stride: int
    rgb: bytes
    depth: bytes
    is_black: bool
    depth_m: Float32[np.ndarray, "h w"]
    view: View | None

    def follows(self, other: "DecodedFrame") -> bool:
        """Tell whether it comes right after another frame, and has its size."""
        return self.number == other.number + self.stride and self.depth_m.shape == other.depth_m.shape

    def stands_still_after(self, other: "DecodedFrame") -> bool:
        """Tell whether the poses say that the camera did not move."""
        if self.view is None or other.view is None:
            return False
        return np.array_equal(self.view.camera_to_world, other.view.camera_to_world)


def _decode(frame: StoredFrame, *, stride: int) -> DecodedFrame:
    depth_m = frame.depth_m()
    return DecodedFrame(
        number=frame.meta.frame_ids[frame.index],
        stride=stride,
        rgb=bytes(frame.members["rgb.jpg"]),
        depth=bytes(frame.members["depth.zst"]),
        is_black=bool(frame.rgb().max() <= _BLACK),
        depth_m=depth_m,
        view=_view(frame.meta, frame.index, depth_m),
    )


def _view(meta: ClipMeta, index: int, depth_m: Float32[np.ndarray, "h w"]) -> View | None:
    if meta.camera_to_world is None:
        return None
    return View(depth_m, np.array(meta.intrinsics[index]), np.array(meta.camera_to_world[index]))


class Flaws:
    """Counts the frames of a trajectory that cannot be as they should, and keeps the first of each sort."""

    def __init__(self) -> None:
        self._numbers: defaultdict[str, list[int]] = defaultdict(list)
        self._flat = 0
        self._stuck = 0

    def look(self, frame: DecodedFrame, before: DecodedFrame | None) -> None:
        """Look at a frame, and at the one that it follows."""
        known = frame.depth_m[np.isfinite(frame.depth_m)]
        self._flat += bool(known.size and known.min() == known.max())
        flaws = {
            "are black": frame.is_black,
            "are nothing but sky": bool(np.isposinf(frame.depth_m).all()),
            "have no known depth": bool(np.isnan(frame.depth_m).all()),
        }
        if before is not None and not frame.stands_still_after(before):
            same_rgb, same_depth = frame.rgb == before.rgb, frame.depth == before.depth
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


_FAR = 8  # frames between those that tell hypotheses apart: motion of one frame may be too small
_FAR_EVERY = 4
_DISAGREE = 0.05  # a median error between neighbours that no good data has
_UNDECIDED = 0.005  # a median error, _FAR frames apart, that leaves nothing to explain
_BETTER = 0.5  # another hypothesis fits clearly better with at most this share of the error
_RAW_WIDTHS = (640, 1024, 1242, 1280, 1920)
_AS_GIVEN, _INVERSE = "as given", "inverse"

Hypothesis = Callable[[View], View]


@dataclass(frozen=True)
class TrajectoryGeometry:
    """What was measured of a trajectory; `error` and `share` are medians over neighbouring frames, None without any.

    `error` is also None, and `share` 0, if no pixel falls onto the next frame.
    """

    dataset: str
    trajectory: str
    frames: int
    has_poses: bool
    error: float | None
    share: float | None
    findings: tuple[str, ...]

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
            trajectory = found.setdefault(name, _Trajectory(_hypotheses(clip.meta.width)))
            for frame in clip.frames():
                trajectory.add(_decode(frame, stride=stride))
                on_frame()
    return [trajectory.result(*name) for name, trajectory in sorted(found.items())]


def _hypotheses(width: int) -> dict[str, Hypothesis]:
    """Name what poses or intrinsics may be: right, inverted, or (by the factor) meant for an image of another size."""
    scales = {1 / 4, 1 / 3, 1 / 2, 2 / 3, 3 / 4, 4 / 3, 3 / 2, 2, 3, 4, *(width / raw for raw in _RAW_WIDTHS)}
    others = {f"{scale:.4g}": _scaled(scale) for scale in sorted(scales) if abs(math.log(scale)) > 0.1}
    return {_AS_GIVEN: lambda view: view, _INVERSE: _inverted, **others}


def _inverted(view: View) -> View:
    return replace(view, camera_to_world=invert_pose(view.camera_to_world))


def _scaled(scale: int | float) -> Hypothesis:
    return lambda view: replace(view, intrinsics=scale_intrinsics(view.intrinsics, x=float(scale), y=float(scale)))


class _Trajectory:
    """Gathers what is measured of a trajectory, frame by frame; keeps the last few frames."""

    def __init__(self, hypotheses: Mapping[str, Hypothesis]) -> None:
        self._hypotheses = hypotheses
        self._window: deque[DecodedFrame] = deque(maxlen=_FAR + 1)
        self._frames = 0
        self._has_poses = False
        self._near: list[Fit] = []
        self._far: list[dict[str, Fit]] = []
        self._flaws = Flaws()

    def add(self, frame: DecodedFrame) -> None:
        """Measure the next frame."""
        if self._window and not frame.follows(self._window[-1]):
            self._window.clear()
        before = self._window[-1] if self._window else None
        self._window.append(frame)
        self._frames += 1
        self._flaws.look(frame, before)
        if frame.view is None:
            return
        self._has_poses = True
        if before is not None and before.view is not None:
            self._near.append(warp(before.view, frame.view))
        if len(self._window) > _FAR and frame.number // frame.stride % _FAR_EVERY == 0:
            self._try_hypotheses()

    def result(self, dataset: str, trajectory: str) -> TrajectoryGeometry:
        """Sum up, after the last frame."""
        if not self._far and len(self._window) > 1:
            self._try_hypotheses()
        error, share = _median(self._near) if self._near else (None, None)
        findings = [*self._flaws.sentences(self._frames), *self._misfits(error)]
        error = None if error == math.inf else error
        return TrajectoryGeometry(
            dataset, trajectory, self._frames, self._has_poses, error, share, findings=tuple(findings)
        )

    def _try_hypotheses(self) -> None:
        first, last = self._window[0].view, self._window[-1].view
        if first is not None and last is not None:
            self._far.append({name: warp(change(first), change(last)) for name, change in self._hypotheses.items()})

    def _misfits(self, error: float | None) -> Iterator[str]:
        if error is None:
            return
        fits = {name: _median([far[name] for far in self._far]) for name in self._hypotheses} if self._far else {}
        given, share = fits.get(_AS_GIVEN, (0.0, 0.0))
        errors = {name: other for name, (other, its_share) in fits.items() if its_share >= share / 2}
        best = min(errors, key=lambda name: errors[name], default=_AS_GIVEN)
        if given > _UNDECIDED and errors[best] < _BETTER * given:
            kind, change = (
                ("poses look like world-to-camera", "inverted")
                if best == _INVERSE
                else ("intrinsics look unscaled", f"times {best}")
            )
            yield f"the {kind}: {change}, they fit clearly better ({_off(errors[best])} instead of {_off(given)})"
        elif error > _DISAGREE:
            yield f"depth, poses and intrinsics do not agree: {_off(error)}, expected under {_DISAGREE:.0%}"


def _off(error: float) -> str:
    return "nowhere near" if error == math.inf else f"{error:.2%} off"


def _median(fits: Sequence[Fit]) -> tuple[float, float]:
    return float(np.median([fit.error for fit in fits])), float(np.median([fit.share for fit in fits]))
