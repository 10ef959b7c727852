"""The metrics of one scene, whose frames are predicted and measured one after the other.

Memory stays flat: predictions are kept in a file without a name, 4 bytes a pixel, with the truth of evaluated pixels;
the fit's sums are taken on the way in, the errors on the way out.
"""

import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float32, Float64, UInt8
from torch import Tensor
from torch.nn import functional as F

from vdaprep.shards.cameras import scale_intrinsics
from vdaprep.storage.atomic import as_sentence
from vdatrain.evaluation.benchmark.protocols import Alignment, BenchmarkSet
from vdatrain.evaluation.benchmark.scenes import Scene, SceneFrame
from vdatrain.inference.predictor import Predictor
from vdatrain.inference.video_reader import DEFAULT_DIFF, VideoFrame
from vdatrain.objectives.alignment import ScaleShiftFit
from vdatrain.objectives.metrics import (
    DepthErrors,
    TemporalErrors,
    evaluated,
    expect_finite,
    fitted_depth,
    raised,
    true_disparity,
)

_SCALE_STEPS = 10  # of reweighted least squares, as MonST3R takes
_LEAST_RESIDUAL_M = 1e-8


@dataclass(frozen=True)
class SceneFigures:
    """What is measured of a scene."""

    frames: int
    """Frames that were predicted."""
    evaluated_frames: int
    """Frames that were measured and have a truth."""
    pixels: int
    """Pixels that were measured."""
    scale: float
    """Of the fit."""
    shift: float
    """Of the fit, 1/m; 0 of one by scale."""
    absrel: float | None
    """Mean over pixels, then over frames; None if no pixel has a truth, as all that follow."""
    delta1: float | None
    """Likewise."""
    rmse: float | None
    """Likewise, metres."""
    pixel_absrel: float | None
    """Mean over all pixels of all frames."""
    pixel_delta1: float | None
    """Likewise."""
    pixel_rmse: float | None
    """Likewise, metres."""
    tae: float | None
    """Temporal alignment error x 100; None without poses."""
    tae_share: float
    """Share of pixels that it compares."""
    pairs: int
    """Pairs of neighbours that it is taken of."""
    pairs_without_pose: int
    """Pairs left out because a pose is missing, or frames between them."""
    apart: int
    """How often a frame warped into its neighbour had no pixel in common with it."""


@dataclass(frozen=True)
class Kept:
    """A measured frame: its prediction, its truth, its camera; on the device."""

    number: int
    """Which of the protocol's frames it is."""
    disparity: Float64[Tensor, "h w"]
    """The prediction at the size of the truth."""
    depth_m: Float64[Tensor, "h w"]
    """Metres; 0 where it is not evaluated."""
    mask: Bool[Tensor, "h w"]
    """Where it is evaluated."""
    intrinsics: Float64[Tensor, "4"]
    """fx, fy, cx, cy of the truth as it is cropped."""
    camera_to_world: Float64[Tensor, "4 4"] | None
    """The pose; None without."""


@dataclass(frozen=True)
class _Truth:
    """What a frame's prediction is compared with."""

    number: int
    depth_m: Float32[np.ndarray, "h w"]
    intrinsics: Float64[np.ndarray, "4"]
    camera_to_world: Float64[np.ndarray, "4 4"] | None


@dataclass(frozen=True)
class _Camera:
    """What is kept of a measured frame in memory."""

    number: int
    intrinsics: Float64[np.ndarray, "4"]
    camera_to_world: Float64[np.ndarray, "4 4"] | None
    size: tuple[int, ...]
    known: int


def measure_scene(
    scene: Scene,
    predictor: Predictor,
    *,
    scratch: Path,
    stream: bool = False,
    stall_timeout_s: int | float = 300,
    on_frame: Callable[[], None] = lambda: None,
) -> SceneFigures:
    """Predict a scene's frames and measure them.

    Args:
        scene: The scene.
        predictor: The model. Metric weights are not fitted where the protocol fits scale and shift.
        scratch: A folder for predictions, up to a gigabyte for 500 frames of KITTI.
        stream: Frame by frame; none sees a later one.
        stall_timeout_s: Seconds that a read may take; 0: no limit.
        on_frame: Called after each frame is predicted.

    Returns:
        The scene's figures.

    Raises:
        ShardError: A frame cannot be read.
        OutputError: The predictions cannot be kept.
        VdakitError: The prediction is not finite.
    """
    of = scene.of
    predictor = replace(predictor, diff=scene.places[0].clip.meta.diff or DEFAULT_DIFF)
    device = predictor.precision.device
    chosen = of.evaluated_of(len(scene.places))
    truths: deque[_Truth] = deque()

    def frames() -> Iterator[VideoFrame]:
        for frame in scene.frames(stall_timeout_s=stall_timeout_s):
            truths.append(truth_of(frame, of))
            camera = camera_of_shown(frame, of)
            yield VideoFrame(frame.number, shown_to_model(frame.rgb, of), intrinsics=camera)

    with _Spool(scratch, max_depth_m=of.max_depth_m, device=device) as spool:
        for index, disparity in enumerate(predictor.predict_frames(frames(), stream=stream)):
            expect_finite(disparity)
            truth = truths.popleft()
            if index in chosen:
                spool.add(_at_truth(disparity, truth.depth_m.shape, of), truth)
            on_frame()
        return _figures(spool, of, alignment=alignment_of(of, predictor), frames=len(scene.places))


def alignment_of(of: BenchmarkSet, predictor: Predictor) -> Alignment:
    """Return how a prediction is fitted: that of metric weights not to scale and shift."""
    return "none" if predictor.metric and of.alignment == "scale-shift" else of.alignment


# ------------------------------------------------------------------------------------------------- frames and the truth


def shown_to_model(rgb: UInt8[np.ndarray, "h w 3"], of: BenchmarkSet) -> UInt8[np.ndarray, "h2 w2 3"]:
    """Return the part of a frame that is predicted, its colours as the protocol has them."""
    other = of.faults.unregistered_crop
    if other is not None and other.size is not None:
        rgb = cv2.resize(rgb, other.size[::-1], interpolation=cv2.INTER_LINEAR)  # pyright: ignore[reportAssignmentType]
    if other is None or not other.after:
        rgb = (of.crop if other is None else other.crop).of(rgb)
    return np.ascontiguousarray(rgb[..., ::-1] if of.faults.swapped_colours else rgb)


def camera_of_shown(frame: SceneFrame, of: BenchmarkSet) -> Float64[np.ndarray, "4"]:
    """Return fx, fy, cx, cy of what the model is shown; a crop moves the principal point alone."""
    other = of.faults.unregistered_crop
    height, width = frame.rgb.shape[:2]
    across, down = 1.0, 1.0
    if other is not None and other.size is not None:
        across, down = other.size[1] / width, other.size[0] / height
    camera = scale_intrinsics(frame.intrinsics, x=across, y=down)
    if other is not None and other.after:
        return camera
    crop = of.crop if other is None else other.crop
    return camera - [0, 0, crop.columns[0], crop.rows[0]]


def truth_of(frame: SceneFrame, of: BenchmarkSet) -> _Truth:
    """Return the truth of a frame as the protocol has it, with its camera."""
    depth_m = of.crop.of(frame.depth_m)
    if of.faults.whole_metres:
        depth_m = np.floor(depth_m)
    left, top = (0, 0) if of.faults.uncropped_camera else (of.crop.columns[0], of.crop.rows[0])
    return _Truth(frame.number, depth_m, frame.intrinsics - [0, 0, left, top], frame.camera_to_world)


def _at_truth(disparity: Float32[Tensor, "h w"], size: tuple[int, ...], of: BenchmarkSet) -> Float32[Tensor, "h2 w2"]:
    """Bring a prediction to the size of the truth, as cv2.resize does."""
    other = of.faults.unregistered_crop
    if other is not None and other.after:
        disparity = disparity[slice(*other.crop.rows), slice(*other.crop.columns)]
    if disparity.shape == size:
        return disparity
    return F.interpolate(disparity[None, None], size, mode="bilinear", align_corners=False)[0, 0]


# ----------------------------------------------------------------------------------------------------------- measuring


def _figures(spool: "_Spool", of: BenchmarkSet, *, alignment: Alignment, frames: int) -> SceneFigures:
    scale, shift = _fit(spool, alignment)
    errors, temporal = DepthErrors(), TemporalErrors()
    before: tuple[Kept, Tensor] | None = None
    without = 0
    for kept in spool.frames():
        if alignment == "scale":
            predicted_m = (scale / raised(kept.disparity)).clamp(max=of.max_depth_m)
        else:
            predicted_m = fitted_depth(kept.disparity, scale, shift, max_depth_m=of.max_depth_m)
        errors.add(predicted_m[None], kept.depth_m[None], kept.mask[None])
        if before is not None:
            pair = _pair(before[0], kept, gaps_are_silent=of.faults.gaps_are_silent)
            if pair is None:
                without += 1
            else:
                temporal.add(torch.stack([before[1], predicted_m]), *pair)
        before = kept, predicted_m
    return SceneFigures(
        frames=frames,
        evaluated_frames=sum(count > 0 for count in errors.pixels()),
        pixels=sum(errors.pixels()),
        scale=float(scale),
        shift=float(shift),
        **_or_none(errors.means()),
        **{f"pixel_{name}": value for name, value in _or_none(errors.pixel_means()).items()},
        tae=temporal.tae(apart_is_perfect=of.faults.gaps_are_silent) if any(errors.pixels()) else None,
        tae_share=temporal.share(),
        pairs=temporal.pairs(),
        pairs_without_pose=without,
        apart=temporal.apart(),
    )


def _or_none(figures: dict[str, float]) -> dict[str, float | None]:
    return {name: None if np.isnan(value) else value for name, value in figures.items()}


def _pair(
    before: Kept, after: Kept, *, gaps_are_silent: bool
) -> tuple[Float64[Tensor, "2 4"], Float64[Tensor, "2 4 4"]] | None:
    """Return the cameras of two neighbours; None if a pose is missing or they are none."""
    poses = [pose for pose in (before.camera_to_world, after.camera_to_world) if pose is not None]
    if len(poses) < 2 or (before.number + 1 != after.number and not gaps_are_silent):
        return None
    return torch.stack([before.intrinsics, after.intrinsics]), torch.stack(poses)


def _fit(spool: "_Spool", alignment: Alignment) -> tuple[Tensor | float, Tensor | float]:
    """Return scale and shift of the disparity; or the scale of depth alone."""
    if alignment == "none":
        return 1.0, 0.0
    return spool.fit.solve() if alignment == "scale-shift" else (_scale_of_depth(spool), 0.0)


def _scale_of_depth(spool: "_Spool") -> Tensor | float:
    """Return the scale that depth is multiplied with for the least sum of absolute errors.

    As depth_evaluation in dust3r/depth_eval.py of Junyi42/monst3r: reweighted least squares from the ratio of means on.
    """
    sums = torch.zeros(2, dtype=torch.float64)
    for kept in spool.frames():
        sums = sums + torch.stack([kept.depth_m.sum(), (kept.mask / raised(kept.disparity)).sum()])
    if not sums[1] > 0:
        return 1.0
    scale = sums[0] / sums[1]
    for _ in range(_SCALE_STEPS):
        sums = torch.zeros(2, dtype=torch.float64)
        for kept in spool.frames():
            predicted_m = 1 / raised(kept.disparity)
            weight = kept.mask / ((scale * predicted_m - kept.depth_m).abs() + _LEAST_RESIDUAL_M)
            weighted = weight * predicted_m
            sums = sums + torch.stack([(weighted * kept.depth_m).sum(), (weighted * predicted_m).sum()])
        scale = sums[0] / sums[1]
    return scale.clamp(min=1e-3)


class _Spool:
    """Measured frames in a file that is gone when it is closed, and the sums of their fit."""

    def __init__(self, folder: Path, *, max_depth_m: float, device: torch.device) -> None:
        self.fit = ScaleShiftFit()
        self._folder, self._max_depth_m, self._device = folder, max_depth_m, device
        self._cameras: list[_Camera] = []

    def __enter__(self) -> "_Spool":
        with as_sentence(self._folder):
            self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 - closed by __exit__
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, disparity: Float32[Tensor, "h w"], truth: _Truth) -> None:
        """Keep a frame."""
        depth_m = torch.from_numpy(truth.depth_m).to(self._device)
        mask = evaluated(depth_m.double(), self._max_depth_m)
        self.fit.add(raised(disparity.double()), true_disparity(depth_m.double()), mask)
        known = depth_m[mask].cpu().numpy()
        with as_sentence(self._folder):
            for part in (disparity.cpu().numpy(), np.packbits(mask.cpu().numpy()), known):
                self._file.write(np.ascontiguousarray(part).data)
        self._cameras.append(_Camera(truth.number, truth.intrinsics, truth.camera_to_world, mask.shape, len(known)))

    def frames(self) -> Iterator[Kept]:
        """Yield the frames as they were added."""
        with as_sentence(self._folder):
            self._file.seek(0)
        for camera in self._cameras:
            height, width = camera.size
            disparity = self._read(np.float32, height * width)
            mask = np.unpackbits(self._read(np.uint8, -(-height * width // 8)), count=height * width).astype(np.bool_)
            depth_m = np.zeros(height * width)
            depth_m[mask] = self._read(np.float32, camera.known)
            pose = camera.camera_to_world
            yield Kept(
                number=camera.number,
                disparity=self._on_device(disparity).view(height, width).double(),
                depth_m=self._on_device(depth_m).view(height, width),
                mask=self._on_device(mask).view(height, width),
                intrinsics=self._on_device(camera.intrinsics),
                camera_to_world=None if pose is None else self._on_device(pose),
            )

    def _read(self, kind: type[np.generic], count: int) -> np.ndarray:
        with as_sentence(self._folder):
            return np.frombuffer(self._file.read(count * np.dtype(kind).itemsize), kind).copy()

    def _on_device(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(values).to(self._device)
