"""The published benchmark's metrics: errors of depth, and temporal alignment error.

Source: benchmark/eval/{eval,eval_tae,metric}.py of DepthAnything/Video-Depth-Anything, in float64 throughout. A pixel
is evaluated where the true depth is known and between 1 mm and `max_depth_m`. The prediction, disparity up to scale
and shift, is raised to at least 0.001, fitted to the true disparity (1/m) by least squares over the clip's evaluated
pixels, raised to at least 0.001 again, and turned into depth of at most `max_depth_m`.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from vdaprep.errors import DataError, VdakitError
from vdatrain.objectives.alignment import fit_scale_shift

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
) -> ClipMetrics:
    """Compare a predicted disparity, which counts up to scale and shift, with the true depth.

    Args:
        disparity: The prediction. All tensors are on one device.
        depth_m: True depth along z in metres; 0, nan or inf where it is not evaluated.
        intrinsics: fx, fy, cx, cy in pixels of h x w, pixel centres at integers.
        camera_to_world: Poses, metres, OpenCV axes; None gives no TAE.
        max_depth_m: The greatest depth that is evaluated.

    Returns:
        The metrics of the clip; nan where no pixel is evaluated.

    Raises:
        VdakitError: The prediction is not finite.
    """
    if not disparity.isfinite().all():
        raise VdakitError(
            "the predicted disparity holds nan or infinity, expected finite numbers: the model has diverged, or "
            "numbers coarser than fp32 overflow; train with a lower --lr, or take a finer --precision if there is one."
        )
    depth_m = depth_m.double()
    mask = (depth_m > _MIN_DEPTH_M) & (depth_m < max_depth_m)
    if not mask.any():
        return ClipMetrics(absrel=math.nan, delta1=math.nan, rmse=math.nan, tae=None, tae_share=0.0)
    predicted_m = _aligned_depth(disparity.double(), depth_m, mask, max_depth_m)
    tae, tae_share = None, 0.0
    if camera_to_world is not None:
        tae, tae_share = _temporal_alignment_error(predicted_m, intrinsics.double(), camera_to_world)
    return ClipMetrics(**_depth_errors(predicted_m, depth_m, mask), tae=tae, tae_share=tae_share)


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


def _aligned_depth(
    disparity: Float64[Tensor, "t h w"],
    depth_m: Float64[Tensor, "t h w"],
    mask: Bool[Tensor, "t h w"],
    max_depth_m: float,
) -> Float64[Tensor, "t h w"]:
    """Return the prediction as depth in metres, after one fit in disparity over the clip."""
    disparity = disparity.clamp(min=MIN_DISPARITY)
    true_disparity = 1 / (depth_m + 1e-8)
    scale, shift = fit_scale_shift(disparity.flatten(), true_disparity.flatten(), mask.flatten())
    aligned = (scale * disparity + shift).clamp(min=MIN_DISPARITY)
    return (1 / aligned).clamp(_MIN_DEPTH_M, max_depth_m)


def _depth_errors(
    predicted_m: Float64[Tensor, "t h w"], depth_m: Float64[Tensor, "t h w"], mask: Bool[Tensor, "t h w"]
) -> dict[str, float]:
    true_m = torch.where(mask, depth_m, predicted_m)  # outside the mask: no error, no division by 0
    error_m = predicted_m - true_m
    inliers = mask & (torch.maximum(predicted_m / true_m, true_m / predicted_m) < DELTA1_LIMIT)
    return {
        "absrel": _mean_over_frames(error_m.abs() / true_m, mask).mean().item(),
        "delta1": _mean_over_frames(inliers.double(), mask).mean().item(),
        "rmse": _mean_over_frames(error_m.square(), mask).sqrt().mean().item(),
    }


def _mean_over_frames(values: Float64[Tensor, "t h w"], mask: Bool[Tensor, "t h w"]) -> Float64[Tensor, " frames"]:
    """Return the mean over the mask of each frame that has any; `values` are 0 outside it."""
    count = mask.sum((-1, -2))
    return (values.sum((-1, -2)) / count)[count > 0]


# --------------------------------------------------------------------------------------------- temporal alignment error


def _temporal_alignment_error(
    depth_m: Float64[Tensor, "t h w"], intrinsics: Float64[Tensor, "t 4"], camera_to_world: Float64[Tensor, "t 4 4"]
) -> tuple[float | None, float]:
    """Return TAE x 100 over all neighbours, both ways, and the share of pixels compared.

    Each frame's predicted depth is warped into its neighbour by the poses and compared with the depth predicted there,
    whether the true depth is known or not. A pair without a pixel in common adds an error of 0, as published. Frames
    project by their own intrinsics; the published code takes the first frame's of each pair for both.
    """
    num_frames, height, width = depth_m.shape
    if num_frames < 2:
        return None, 0.0
    forward = torch.linalg.inv(camera_to_world[1:]) @ camera_to_world[:-1]
    poses = torch.stack([forward, torch.linalg.inv(forward)], dim=1)
    error, compared = depth_m.new_zeros(()), depth_m.new_zeros(())
    # Pair by pair: the points of a whole clip in float64 would take gigabytes.
    for first in range(num_frames - 1):
        pair = slice(first, first + 2)
        warped_m = _warp_depth(depth_m[pair], intrinsics[pair], poses[first])
        predicted_m = depth_m[pair].flip(0)
        seen = warped_m > 0
        relative = torch.where(seen, (warped_m - predicted_m).abs() / predicted_m, 0)
        error += (relative.sum((1, 2)) / seen.sum((1, 2)).clamp(min=1)).sum()
        compared += seen.sum()
    directions = 2 * (num_frames - 1)
    return 100 * error.item() / directions, compared.item() / (directions * height * width)


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
