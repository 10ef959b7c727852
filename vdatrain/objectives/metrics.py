"""The published benchmark's metrics: errors of depth, and temporal alignment error.

Source: benchmark/eval/{eval,eval_tae,metric}.py of DepthAnything/Video-Depth-Anything, in float64 throughout. A pixel
is evaluated where the true depth is known and between 1 mm and `max_depth_m`. The prediction, disparity up to scale
and shift, is raised to at least 0.001, fitted to the true disparity (1/m) by least squares over the clip's evaluated
pixels, raised to at least 0.001 again, and turned into depth of at most `max_depth_m`. A metric model's, which has a
scale, is not fitted.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from vdaprep.errors import DataError, DivergedError
from vdatrain.objectives.alignment import ScaleShiftFit

Alignment = Literal["scale-shift", "none"]
DELTA1_LIMIT = 1.25
MIN_DISPARITY = 1e-3
_MIN_DEPTH_M = 1e-3


@dataclass(frozen=True)
class ClipMetrics:
    """The metrics of a clip, or of a data set as the mean of its clips'.

    absrel, delta1 and rmse are taken over the evaluated pixels of each frame, then averaged over the frames that have
    any; nan if none has.
    """

    absrel: float
    """Mean of |d - truth| / truth."""
    delta1: float
    """Fraction of pixels with max(d / truth, truth / d) < 1.25."""
    rmse: float
    """Root of the mean squared error, metres."""
    tae: float | None
    """Temporal alignment error x 100; None without poses, for a single frame, or without an evaluated pixel."""
    tae_share: float
    """Fraction of the pixels of all neighbouring frames, in both directions, that the TAE compares."""


def clip_metrics(
    disparity: Float[Tensor, "t h w"],
    depth_m: Float[Tensor, "t h w"],
    intrinsics: Float[Tensor, "t 4"],
    camera_to_world: Float64[Tensor, "t 4 4"] | None,
    *,
    max_depth_m: float,
    alignment: Alignment = "scale-shift",
) -> ClipMetrics:
    """Compare a predicted disparity with the true depth.

    Args:
        disparity: The prediction. All tensors are on one device.
        depth_m: True depth along z in metres; 0, nan or inf where it is not evaluated.
        intrinsics: fx, fy, cx, cy in pixels of h x w, pixel centres at integers.
        camera_to_world: Poses, metres, OpenCV axes; None gives no TAE.
        max_depth_m: The greatest depth that is evaluated.
        alignment: Whether the prediction counts up to scale and shift, or is in 1/m.

    Returns:
        The metrics of the clip; nan where no pixel is evaluated.

    Raises:
        VdakitError: The prediction is not finite.
    """
    expect_finite(disparity)
    depth_m = depth_m.double()
    mask = evaluated(depth_m, max_depth_m)
    if not mask.any():
        return ClipMetrics(absrel=math.nan, delta1=math.nan, rmse=math.nan, tae=None, tae_share=0.0)
    disparity = disparity.double()
    scale, shift = (1.0, 0.0) if alignment == "none" else _fit(disparity, depth_m, mask)
    predicted_m = fitted_depth(disparity, scale, shift, max_depth_m=max_depth_m)
    errors, temporal = DepthErrors(), TemporalErrors()
    errors.add(predicted_m, depth_m, mask)
    for first in range(len(depth_m) - 1 if camera_to_world is not None else 0):
        assert camera_to_world is not None
        # Pair by pair: the points of a whole clip in float64 would take gigabytes.
        pair = slice(first, first + 2)
        temporal.add(predicted_m[pair], intrinsics[pair].double(), camera_to_world[pair])
    return ClipMetrics(**errors.means(), tae=temporal.tae(), tae_share=temporal.share())


def _fit(
    disparity: Float64[Tensor, "t h w"], depth_m: Float64[Tensor, "t h w"], mask: Bool[Tensor, "t h w"]
) -> tuple[Float64[Tensor, ""], Float64[Tensor, ""]]:
    fit = ScaleShiftFit()
    for frame in zip(raised(disparity), true_disparity(depth_m), mask, strict=True):
        fit.add(*frame)
    return fit.solve()


def mean_metrics(clips: Iterable[ClipMetrics]) -> ClipMetrics:
    """Return the metrics of a data set: the mean over its clips, each of equal weight.

    A clip without an evaluated pixel (nan) is left out; tae is the mean over the clips that have one.

    Raises DataError if no clip is left.
    """
    clips = [clip for clip in clips if not math.isnan(clip.absrel)]
    if not clips:
        raise DataError("no clip has a pixel of known depth in range, expected at least one to average metrics over.")
    taes = [clip.tae for clip in clips if clip.tae is not None]
    return ClipMetrics(
        absrel=_mean([clip.absrel for clip in clips]),
        delta1=_mean([clip.delta1 for clip in clips]),
        rmse=_mean([clip.rmse for clip in clips]),
        tae=_mean(taes) if taes else None,
        tae_share=_mean([clip.tae_share for clip in clips]),
    )


def _mean(values: list[float]) -> float:
    return math.fsum(values) / len(values)


def expect_finite(disparity: Float[Tensor, "*shape"]) -> None:
    """Raise DivergedError if a prediction is not finite."""
    if not disparity.isfinite().all():
        raise DivergedError(
            "the predicted disparity holds nan or infinity, expected finite numbers: the model has diverged, or "
            "numbers coarser than fp32 overflow; train with a lower --lr, or take a finer --precision if there is one."
        )


def evaluated(depth_m: Float64[Tensor, "*shape"], max_depth_m: float) -> Bool[Tensor, "*shape"]:
    """Return which pixels are evaluated, by their true depth."""
    return (depth_m > _MIN_DEPTH_M) & (depth_m < max_depth_m)


def raised(disparity: Float64[Tensor, "*shape"]) -> Float64[Tensor, "*shape"]:
    """Return the disparity that is fitted."""
    return disparity.clamp(min=MIN_DISPARITY)


def true_disparity(depth_m: Float64[Tensor, "*shape"]) -> Float64[Tensor, "*shape"]:
    """Return the disparity in 1/m that is fitted to."""
    return 1 / (depth_m + 1e-8)


def fitted_depth(
    disparity: Float64[Tensor, "*shape"],
    scale: Float64[Tensor, ""] | float,
    shift: Float64[Tensor, ""] | float,
    *,
    max_depth_m: float,
) -> Float64[Tensor, "*shape"]:
    """Return the prediction as depth in metres, given the scale and shift of its disparity."""
    return (1 / raised(scale * raised(disparity) + shift)).clamp(_MIN_DEPTH_M, max_depth_m)


class DepthErrors:
    """The errors of predicted depth, of frames that come a few at a time.

    Sums are kept as numbers: a small tensor that stays between large ones keeps the memory of these from being reused.
    """

    def __init__(self) -> None:
        self._sums: list[list[float]] = []  # of each frame: pixels, absrel, delta1, squares

    def add(
        self,
        predicted_m: Float64[Tensor, "t h w"],
        depth_m: Float64[Tensor, "t h w"],
        mask: Bool[Tensor, "t h w"],
    ) -> None:
        """Compare frames with their true depth over the mask."""
        true_m = torch.where(mask, depth_m, predicted_m)  # outside the mask: no error, no division by 0
        error_m = predicted_m - true_m
        inliers = mask & (torch.maximum(predicted_m / true_m, true_m / predicted_m) < DELTA1_LIMIT)
        values = (mask, error_m.abs() / true_m, inliers, error_m.square())
        self._sums += torch.stack([value.sum((-1, -2)).double() for value in values], dim=-1).tolist()

    def means(self) -> dict[str, float]:
        """Return absrel, delta1 and rmse: means over a frame's pixels, then over frames.

        Of the frames that have any; nan if none has.
        """
        sums = torch.tensor(self._sums, dtype=torch.float64)
        of_frames = (sums[:, 1:] / sums[:, :1])[sums[:, 0] > 0]
        rows = torch.cat([of_frames[:, :2], of_frames[:, 2:].sqrt()], dim=-1)
        return dict(zip(("absrel", "delta1", "rmse"), rows.mean(0).tolist(), strict=True))

    def pixel_means(self) -> dict[str, float]:
        """Return absrel, delta1 and rmse over all pixels of all frames; nan without any."""
        pixels, absrel, delta1, squares = (math.fsum(column) for column in zip(*self._sums, strict=True))
        if not pixels:
            return dict.fromkeys(("absrel", "delta1", "rmse"), math.nan)
        return {"absrel": absrel / pixels, "delta1": delta1 / pixels, "rmse": math.sqrt(squares / pixels)}

    def pixels(self) -> list[int]:
        """Return the evaluated pixels of each frame."""
        return [int(count) for count, *_ in self._sums]


# --------------------------------------------------------------------------------------------- temporal alignment error


class TemporalErrors:
    """The temporal alignment error, of pairs of neighbours that come one at a time.

    Each frame's predicted depth is warped into its neighbour by the poses and compared with the depth predicted there,
    whether the true depth is known or not. Frames project by their own intrinsics; the published code takes the first
    frame's of each pair for both.
    """

    def __init__(self) -> None:
        self._errors: list[float] = []  # of each pair, one way and the other
        self._seen: list[int] = []  # pixels, likewise
        self._pixels = 0

    def add(
        self,
        depth_m: Float64[Tensor, "2 h w"],
        intrinsics: Float64[Tensor, "2 4"],
        camera_to_world: Float64[Tensor, "2 4 4"],
    ) -> None:
        """Compare two neighbours, both ways."""
        forward = torch.linalg.inv(camera_to_world[1]) @ camera_to_world[0]
        warped_m = _warp_depth(depth_m, intrinsics, torch.stack([forward, torch.linalg.inv(forward)]))
        neighbour_m = depth_m.flip(0)
        seen = warped_m > 0
        relative = torch.where(seen, (warped_m - neighbour_m).abs() / neighbour_m, 0)
        pixels = seen.sum((1, 2))
        self._errors += (relative.sum((1, 2)) / pixels.clamp(min=1)).tolist()
        self._seen += pixels.tolist()
        self._pixels += depth_m.numel()

    def tae(self, *, apart_is_perfect: bool = True) -> float | None:
        """Return the mean over pairs and both ways, x 100; None if there is none.

        apart_is_perfect: a pair without a pixel in common counts as an error of 0, as published; otherwise it is left
        out.
        """
        pairs = zip(self._errors, self._seen, strict=True)
        counted = [error for error, pixels in pairs if pixels or apart_is_perfect]
        return 100 * math.fsum(counted) / len(counted) if counted else None

    def share(self) -> float:
        """Return the share of the pixels, in both directions, that were compared."""
        return sum(self._seen) / self._pixels if self._pixels else 0.0

    def apart(self) -> int:
        """Return how many times a frame warped into its neighbour had no pixel in common with it."""
        return self._seen.count(0)

    def pairs(self) -> int:
        """Return the number of pairs."""
        return len(self._errors) // 2


def _warp_depth(
    depth_m: Float64[Tensor, "2 h w"], intrinsics: Float64[Tensor, "2 4"], poses: Float64[Tensor, "2 4 4"]
) -> Float64[Tensor, "2 h w"]:
    """Warp the depth of each of two frames into the other; metres, 0 where no point falls.

    poses: from the first frame's camera to the second's, and back. A point falls on the nearest pixel. Of several at
    one pixel the last in raster order counts, not the nearest, even if it lies behind the camera and so leaves the
    pixel without: that is what the published code does, whose numbers these are to equal.
    """
    _, height, width = depth_m.shape
    points_m = _unproject(depth_m, intrinsics) @ poses[:, :3, :3].mT + poses[:, None, :3, 3]
    focal_x, focal_y, centre_x, centre_y = intrinsics.flip(0)[..., None].unbind(1)
    x_m, y_m, z_m = points_m.unbind(-1)
    column = (x_m * focal_x / z_m + centre_x).round()
    row = (y_m * focal_y / z_m + centre_y).round()
    # Compared as floats: a point in the camera's plane is at infinity or nan, which no integer holds.
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    nowhere = height * width  # one cell more, for the points that fall on no pixel
    cell = torch.where(inside, row * width + column, nowhere).long()
    # The last of several has the highest number: an indexed assignment does not define which one is kept.
    number = torch.arange(nowhere, device=cell.device).expand_as(cell)
    last = cell.new_full((2, nowhere + 1), -1).scatter_reduce(1, cell, number, "amax")[:, :nowhere]
    return torch.where(last < 0, 0, z_m.gather(1, last.clamp(min=0))).unflatten(1, (height, width))


def _unproject(depth_m: Float64[Tensor, "2 h w"], intrinsics: Float64[Tensor, "2 4"]) -> Float64[Tensor, "2 pixels 3"]:
    """Return every pixel's point in its own camera's frame, metres, in raster order."""
    _, height, width = depth_m.shape
    focal_x, focal_y, centre_x, centre_y = intrinsics[..., None, None].unbind(1)
    column = torch.arange(width, dtype=depth_m.dtype, device=depth_m.device)
    row = torch.arange(height, dtype=depth_m.dtype, device=depth_m.device)[:, None]
    x_m, y_m = (column - centre_x) / focal_x * depth_m, (row - centre_y) / focal_y * depth_m
    return torch.stack([x_m, y_m, depth_m], dim=-1).flatten(1, 2)
