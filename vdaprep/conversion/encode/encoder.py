"""Clips of raw frames to members of a shard."""

import itertools
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float32, UInt8

from vdaprep.analysis.warping import Hypothesis, View, fits_of
from vdaprep.conversion.clips import PlannedClip
from vdaprep.conversion.encode.cuts import Thumbnail, is_cut, shrink_frame
from vdaprep.conversion.encode.members import ClipMembers, encode_jpeg
from vdaprep.conversion.encode.profiles import Encoding
from vdaprep.errors import FrameError
from vdaprep.raw.frames import Cameras, Frame, FrameFiles, SourceOptions, Trajectory, fit_short_side, make_frame, spread
from vdaprep.raw.prefetch import ReadAhead
from vdaprep.raw.tree import Reader
from vdaprep.shards import codec
from vdaprep.shards.codec import PackedDepth
from vdaprep.shards.metadata import ClipMeta, DepthSpec
from vdaprep.shards.names import clip_key
from vdaprep.shards.records import Rejection
from vdaprep.shards.writer import EncodedClip
from vdaprep.sources import Source, _manifest

_log = logging.getLogger("vdaprep")
_FRAMES_AHEAD = 3  # a slow file now and then holds nothing up; some 20 MiB of the largest frames


@dataclass(frozen=True)
class _EncodedFrame:
    """An encoded frame; `image`, a JPEG or a group's pixels, is None once its clip has it."""

    frame_id: int
    size: tuple[int, int]
    intrinsics: tuple[float, ...] | None
    camera_to_world: tuple[tuple[float, ...], ...] | None
    image: bytes | UInt8[np.ndarray, "h w 3"] | None
    depth: PackedDepth | None
    diff: bytes | None
    shrunk: Float32[np.ndarray, "dh dw 3"] | None
    diff_valid: bool
    thumbnail: Thumbnail | None
    after_cut: bool

    def follows(self, other: "_EncodedFrame") -> bool:
        """Tell whether a clip can hold both: no cut, one size, the same things known of both."""
        alike = self.size == other.size and (self.camera_to_world is None) == (other.camera_to_world is None)
        alike = alike and (self.intrinsics is None) == (other.intrinsics is None)
        return alike and (self.depth is None) == (other.depth is None) and not self.after_cut


_last_cameras: dict[object, Cameras] = {}  # of the trajectory that this process saw last: shards may share it


class ClipEncoder:
    """Encodes clips of one data set."""

    def __init__(
        self, *, dataset: str, source: Source, reader: Reader, options: SourceOptions, encoding: Encoding
    ) -> None:
        self._dataset = dataset
        self._source = source
        self._reader = ReadAhead(reader)
        self._options = options
        self._encoding = encoding
        self._has_cuts = _manifest.load(dataset).has_cuts
        self._depth: DepthSpec | None = None  # of the planned clip, once a frame is known
        self._packing = "nibbles"  # that the clip's depth is likely to get; it decides no bytes, only how fast

    def encode(
        self, clip: PlannedClip, *, split: str, rejected: list[Rejection], on_frame: Callable[[], None]
    ) -> Iterator[EncodedClip]:
        """Encode a planned clip; a rejected frame is added to `rejected` and cuts the clip in two.

        So do a change of size within a trajectory, poses that begin or end, and a cut, in data sets that have such.
        `on_frame` is called after every frame, used or not.
        """
        take: list[_EncodedFrame] = []
        members, self._depth = self._members(), None
        order = self._announced(clip)
        try:
            previous = None
            if clip.before is not None:
                previous = self._frame_or_none(clip.trajectory, next(order), None, rejected=[])
            for index in order:
                current = self._frame_or_none(clip.trajectory, index, previous, rejected=rejected)
                if take and (current is None or not current.follows(take[-1])):
                    yield self._clip(clip, split, take, members)
                    take, members = [], self._members()
                if current is not None:
                    if not take and current.depth is not None and self._encoding.depth.packing == "nibbles":
                        self._packing = codec.likely_packing(current.depth)
                    members.add(current.image, current.depth, current.diff)
                    current = replace(current, image=None)  # a group of video lets go of its pixels
                    take.append(current)
                previous = current
                on_frame()
        finally:
            self._reader.rest()
        if take:
            yield self._clip(clip, split, take, members)

    def _members(self) -> ClipMembers:
        return ClipMembers(self._encoding.rgb, self._encoding.depth)

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
        depth = None if depth_m is None else self._packed(frame.depth_m, files)
        thumbnail = shrink_frame(rgb.pixels, depth_m) if self._has_cuts and depth_m is not None else None
        after_cut = _is_after_cut(thumbnail, previous)
        if after_cut:
            _log.info("%s: frame %d shows another place than the one before.", trajectory.name, frame.frame_id)
        diff, shrunk, diff_valid = self._difference(frame, None if after_cut else previous)
        pose = frame.camera_to_world
        return _EncodedFrame(
            frame_id=frame.frame_id,
            size=_size(frame),
            intrinsics=None if np.isnan(frame.intrinsics).any() else tuple(frame.intrinsics.tolist()),
            camera_to_world=None if pose is None else tuple(map(tuple, pose.tolist())),
            image=self._jpeg(frame) if self._encoding.rgb.codec == "jpeg" else frame.rgb.pixels,
            depth=depth,
            diff=diff,
            shrunk=shrunk,
            diff_valid=diff_valid,
            thumbnail=thumbnail,
            after_cut=after_cut,
        )

    def _packed(self, depth_m: Float32[np.ndarray, "h w"], files: FrameFiles) -> PackedDepth:
        """Encode depth, or 1 / disparity; raises FrameError for what the clip's kind cannot hold."""
        self._depth = self._depth or codec.suited(depth_m, self._encoding.depth)
        try:
            if self._depth.is_metric:
                return codec.pack_depth(depth_m, self._depth, likely=self._packing)
            with np.errstate(divide="ignore"):
                [packed] = codec.pack_disparity([1 / depth_m], self._depth)
            return packed
        except ValueError as error:
            raise FrameError(str(files.depth), str(error)) from error

    def _jpeg(self, frame: Frame) -> bytes:
        """Return the frame's own JPEG, unless it is to be smaller than that, or a new one."""
        if frame.rgb.jpeg and self._encoding.schema == 1:
            return frame.rgb.jpeg
        optimised = self._encoding.schema > 1
        return encode_jpeg(frame.rgb.pixels, self._encoding.rgb, own=frame.rgb.jpeg, optimised=optimised)

    def _difference(
        self, frame: Frame, previous: _EncodedFrame | None
    ) -> tuple[bytes | None, Float32[np.ndarray, "dh dw 3"] | None, bool]:
        spec = self._encoding.diff
        if spec is None:
            return None, None, False
        if spec.origin == "decoded":
            return None, None, previous is not None and previous.size == _size(frame)
        shrunk = codec.shrink(frame.rgb.pixels, spec)
        before = previous.shrunk if previous is not None and previous.size == _size(frame) else None
        return codec.encode_diff(shrunk, before, spec), shrunk, before is not None

    def _clip(
        self, clip: PlannedClip, split: str, frames: Sequence[_EncodedFrame], members: ClipMembers
    ) -> EncodedClip:
        trajectory = clip.trajectory
        depth, content = members.finish()
        poses = [item.camera_to_world for item in frames if item.camera_to_world is not None]
        cameras = [item.intrinsics for item in frames if item.intrinsics is not None]
        meta = ClipMeta(
            dataset=self._dataset,
            split=split,
            trajectory=trajectory.name,
            frame_ids=tuple(item.frame_id for item in frames),
            height=frames[0].size[0],
            width=frames[0].size[1],
            intrinsics=tuple(cameras) if len(cameras) == len(frames) else None,
            camera_to_world=tuple(poses) if len(poses) == len(frames) else None,
            depth=depth.spec,
            disparity_min=depth.disparity_min,
            disparity_max=depth.disparity_max,
            diff=self._encoding.diff,
            diff_valid=tuple(item.diff_valid for item in frames),
            rgb=self._encoding.rgb.spec,
            source={"layout": trajectory.layout},
            teacher_disparity=depth.teacher_disparity,
            schema_version=self._encoding.schema,
        )
        return EncodedClip(
            clip_key(self._dataset, trajectory.name, frames[0].frame_id, alike=clip.alike),
            meta,
            content,
            clamped_near=depth.clamped_near,
            clamped_far=depth.clamped_far,
        )

    def _cameras_of(self, trajectory: Trajectory) -> Cameras:
        key = trajectory.listing or (self, trajectory.name)
        if key not in _last_cameras:
            cameras = self._read_cameras(trajectory)
            _last_cameras.clear()
            _last_cameras[key] = cameras
        return _last_cameras[key]

    def _read_cameras(self, trajectory: Trajectory) -> Cameras:
        cameras = self._source.read_cameras(trajectory, self._reader, self._options)
        return self._with_best_intrinsics(cameras, trajectory) if cameras.candidates else cameras

    def _with_best_intrinsics(self, cameras: Cameras, trajectory: Trajectory) -> Cameras:
        """Take those of the candidates for intrinsics that depth and poses fit best, and say so."""
        views = [self._view_or_none(trajectory, index, cameras) for index in spread(len(trajectory.frames))]
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


def _is_after_cut(thumbnail: Thumbnail | None, previous: _EncodedFrame | None) -> bool:
    before = None if previous is None else previous.thumbnail
    return thumbnail is not None and before is not None and is_cut(before, thumbnail)


def _with_f_x(factor: float) -> Hypothesis:
    return lambda view: replace(view, intrinsics=view.intrinsics * (factor, 1.0, 1.0, 1.0))


def _size(frame: Frame) -> tuple[int, int]:
    height, width = frame.rgb.pixels.shape[:2]
    return height, width
