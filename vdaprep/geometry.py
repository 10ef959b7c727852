"""Depth, poses and intrinsics of trajectories against each other: what fits, and what would fit better."""

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from vdaprep.flaws import DecodedFrame, Flaws, decoded_frames
from vdaprep.frames import scale_intrinsics
from vdaprep.inspect import decode_clip
from vdaprep.places import Place
from vdaprep.poses import invert
from vdaprep.shards import read_record
from vdaprep.warp import Fit, View, warp

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


def measure(tars: Iterable[Place], *, on_frame: Callable[[], None]) -> list[TrajectoryGeometry]:
    """Measure all trajectories that have clips in these shards, which `verify` found whole.

    Raises ShardError if one has no record, or a member that cannot be decoded.
    """
    found: dict[tuple[str, str], _Trajectory] = {}
    for tar in tars:
        record = read_record(tar)
        stride = record.options.get("frame_stride") or 1
        for entry in record.clips:
            for meta, frame in decoded_frames(decode_clip(tar, entry), stride=stride):
                name = meta.dataset, meta.trajectory
                trajectory = found.setdefault(name, _Trajectory(_hypotheses(meta.width)))
                trajectory.add(frame)
                on_frame()
    return [trajectory.result(*name) for name, trajectory in sorted(found.items())]


def _hypotheses(width: int) -> dict[str, Hypothesis]:
    """Name what poses or intrinsics may be: right, inverted, or (by the factor) meant for an image of another size."""
    scales = {1 / 4, 1 / 3, 1 / 2, 2 / 3, 3 / 4, 4 / 3, 3 / 2, 2, 3, 4, *(width / raw for raw in _RAW_WIDTHS)}
    others = {f"{scale:.4g}": _scaled(scale) for scale in sorted(scales) if abs(math.log(scale)) > 0.1}
    return {_AS_GIVEN: lambda view: view, _INVERSE: _inverted, **others}


def _inverted(view: View) -> View:
    return replace(view, camera_to_world=invert(view.camera_to_world))


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
