"""Encode clips of raw frames as members of a shard."""

import itertools
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float32

from vdaprep.analysis.warping import Hypothesis, View, fits_of
from vdaprep.conversion.clips import PlannedClip
from vdaprep.conversion.options import Encoding
from vdaprep.errors import FrameError
from vdaprep.raw.frames import Cameras, Frame, SourceOptions, Trajectory, fit_short_side, make_frame
from vdaprep.raw.prefetch import ReadAhead
from vdaprep.raw.tree import Reader
from vdaprep.shards import codec, depth_codes
from vdaprep.shards.metadata import ClipMeta
from vdaprep.shards.names import clip_key
from vdaprep.shards.records import Rejection
from vdaprep.shards.writer import EncodedClip
from vdaprep.sources import Source

_log = logging.getLogger("vdaprep")
_FRAMES_AHEAD = 3  # a slow file now and then holds nothing up; some 20 MiB of the largest frames


@dataclass(frozen=True)
class _EncodedFrame:
    """An encoded frame; of its pixels only `shrunk` is kept, for the next frame's difference."""

    frame_id: int
    size: tuple[int, int]
    intrinsics: tuple[float, ...]
    camera_to_world: tuple[tuple[float, ...], ...] | None
    members: tuple[tuple[str, bytes], ...]
    disparity_range: tuple[float, float] | None
    clamped_near: int
    clamped_far: int
    shrunk: Float32[np.ndarray, "dh dw 3"] | None
    diff_valid: bool


class ClipEncoder:
    """Encodes clips of one data set; keeps the cameras of the trajectory it saw last."""

    def __init__(
        self, *, dataset: str, source: Source, reader: Reader, options: SourceOptions, encoding: Encoding
    ) -> None:
        self._dataset = dataset
        self._source = source
        self._reader = ReadAhead(reader)
        self._options = options
        self._encoding = encoding
        self._cameras: tuple[Trajectory, Cameras] | None = None

    def encode(
        self, clip: PlannedClip, *, split: str, rejected: list[Rejection], on_frame: Callable[[], None]
    ) -> Iterator[EncodedClip]:
        """Encode a planned clip; a rejected frame is added to `rejected` and cuts the clip in two.

        So does a change of size within a trajectory. `on_frame` is called after every frame, used or not.
        """
        take: list[_EncodedFrame] = []
        order = self._announced(clip)
        try:
            previous = None
            if clip.before is not None:
                previous = self._frame_or_none(clip.trajectory, next(order), None, rejected=[])
            for index in order:
                current = self._frame_or_none(clip.trajectory, index, previous, rejected=rejected)
                if take and (current is None or current.size != take[-1].size):
                    yield self._clip(clip, split, take)
                    take = []
                if current is not None:
                    take.append(current)
                previous = current
                on_frame()
        finally:
            self._reader.rest()
        if take:
            yield self._clip(clip, split, take)

    def _announced(self, clip: PlannedClip) -> Iterator[int]:
        """Yield a clip's frames' indices, the one before it first, reading the next ones' files."""
        order = [*clip.indices] if clip.before is None else [clip.before, *clip.indices]
        for place, index in enumerate(order):
            coming = [clip.trajectory.frames[near] for near in order[place : place + 1 + _FRAMES_AHEAD]]
            self._reader.expect(file for files in coming for file in (files.rgb, files.depth) if file is not None)
            yield index

    def _frame_or_none(
        self, trajectory: Trajectory, index: int, previous: _EncodedFrame | None, *, rejected: list[Rejection]
    ) -> _EncodedFrame | None:
        try:
            return self._frame(trajectory, index, previous)
        except FrameError as error:
            rejected.append(Rejection(error.file, error.reason))
            return None

    def _frame(self, trajectory: Trajectory, index: int, previous: _EncodedFrame | None) -> _EncodedFrame:
        files = trajectory.frames[index]
        rgb = self._source.read_rgb(files, self._reader)
        depth_m = self._source.read_depth(files, self._reader)
        raw = make_frame(files, rgb, depth_m, self._cameras_of(trajectory), index)
        frame = fit_short_side(raw, self._encoding.short_side)
        try:
            codes, clamped_near = depth_codes.code_depth(frame.depth_m, self._encoding.depth)
        except ValueError as error:
            raise FrameError(str(files.depth), str(error)) from error
        jpeg = frame.rgb.jpeg or codec.encode_rgb(frame.rgb.pixels, quality=self._encoding.jpeg_quality)
        diff, shrunk, diff_valid = self._difference(frame, previous)
        members = (("rgb.jpg", jpeg), ("depth.zst", codec.pack_codes(codes)), *diff)
        pose = frame.camera_to_world
        return _EncodedFrame(
            frame_id=frame.frame_id,
            size=_size(frame),
            intrinsics=tuple(frame.intrinsics.tolist()),
            camera_to_world=None if pose is None else tuple(map(tuple, pose.tolist())),
            members=members,
            disparity_range=depth_codes.disparity_range(codes, self._encoding.depth),
            clamped_near=clamped_near,
            clamped_far=depth_codes.count_beyond(frame.depth_m, codes),
            shrunk=shrunk,
            diff_valid=diff_valid,
        )

    def _difference(
        self, frame: Frame, previous: _EncodedFrame | None
    ) -> tuple[list[tuple[str, bytes]], Float32[np.ndarray, "dh dw 3"] | None, bool]:
        spec = self._encoding.diff
        if spec is None:
            return [], None, False
        shrunk = codec.shrink(frame.rgb.pixels, spec)
        before = previous.shrunk if previous is not None and previous.size == _size(frame) else None
        return [("diff.zst", codec.encode_diff(shrunk, before, spec))], shrunk, before is not None

    def _clip(self, clip: PlannedClip, split: str, take: Sequence[_EncodedFrame]) -> EncodedClip:
        trajectory = clip.trajectory
        ranges = [item.disparity_range for item in take if item.disparity_range is not None]
        poses = [item.camera_to_world for item in take if item.camera_to_world is not None]
        meta = ClipMeta(
            dataset=self._dataset,
            split=split,
            trajectory=trajectory.name,
            frame_ids=tuple(item.frame_id for item in take),
            height=take[0].size[0],
            width=take[0].size[1],
            intrinsics=tuple(item.intrinsics for item in take),
            camera_to_world=tuple(poses) if len(poses) == len(take) else None,
            depth=self._encoding.depth,
            disparity_min=min((low for low, _ in ranges), default=0.0),
            disparity_max=max((high for _, high in ranges), default=0.0),
            diff=self._encoding.diff,
            diff_valid=tuple(item.diff_valid for item in take),
            source={"layout": trajectory.layout},
        )
        key = clip_key(self._dataset, trajectory.name, take[0].frame_id, alike=clip.alike)
        return EncodedClip(
            key,
            meta,
            tuple(item.members for item in take),
            clamped_near=sum(item.clamped_near for item in take),
            clamped_far=sum(item.clamped_far for item in take),
        )

    def _cameras_of(self, trajectory: Trajectory) -> Cameras:
        if self._cameras is None or self._cameras[0] is not trajectory:
            cameras = self._source.read_cameras(trajectory, self._reader, self._options)
            if cameras.candidates:
                cameras = self._with_best_intrinsics(cameras, trajectory)
            self._cameras = trajectory, cameras
        return self._cameras[1]

    def _with_best_intrinsics(self, cameras: Cameras, trajectory: Trajectory) -> Cameras:
        """Take those of the candidates for intrinsics that depth and poses fit best, and say so."""
        views = [self._view_or_none(trajectory, index, cameras) for index in _spread(len(trajectory.frames))]
        pairs = [(one, other) for one, other in itertools.pairwise(views) if one is not None and other is not None]
        if not pairs:
            return cameras
        fits = fits_of(pairs, {name: _with_f_x(factor) for name, factor in cameras.candidates.items()})
        best = min(fits, key=lambda name: fits[name].error)
        errors = ", ".join(f"{name}: {fit.error:.2%}" for name, fit in fits.items())
        _log.warning("%s: intrinsics of an old copy; %s fits best (warp errors: %s).", trajectory.name, best, errors)
        factors = (cameras.candidates[best], 1.0, 1.0, 1.0)
        return replace(cameras, intrinsics=cameras.intrinsics * factors, candidates={})

    def _view_or_none(self, trajectory: Trajectory, index: int, cameras: Cameras) -> View | None:
        files = trajectory.frames[index]
        try:
            depth_m = self._source.read_depth(files, self._reader)
            frame = make_frame(files, self._source.read_rgb(files, self._reader), depth_m, cameras, index)
        except FrameError:
            return None
        return None if frame.camera_to_world is None else View(frame.depth_m, frame.intrinsics, frame.camera_to_world)


def _spread(count: int) -> list[int]:
    """Return four frames of `count`, a twentieth of them apart, from the middle on."""
    step = max(1, min(count // 20, 5))
    return [index for index in range(count // 2, count // 2 + 4 * step, step) if index < count] or [0]


def _with_f_x(factor: float) -> Hypothesis:
    return lambda view: replace(view, intrinsics=view.intrinsics * (factor, 1.0, 1.0, 1.0))


def _size(frame: Frame) -> tuple[int, int]:
    height, width = frame.depth_m.shape
    return height, width
