"""A differentiable temporal alignment error: frames warped to neighbours by true poses.

    q = (depth of a frame's point in its neighbour's camera) / (depth predicted there)
    error = |q - 1| / max(q, 1)

Where the point is the nearer of the two this is the relative error that the TAE averages (`metrics`); elsewhere it is
divided by the farther depth, so that no error is much above 1. All is computed with disparities, which are linear on
planes: sampled between pixels, a plane's are exact, so perfect depth of what stands still costs nothing.

What is compared is decided by the true depth alone, so that a prediction cannot improve by leaving the picture: points
that are known in both frames, in front of the neighbour's camera, inside its picture, and the same there within
SAME_POINT, which leaves out what moves and what is hidden. A predicted point that falls beside the picture is compared
with its border; one that falls behind the camera has q < 0, an error above 1, and a gradient that brings it back.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from vdatrain.objectives.alignment import fit_scale_shift

SAME_POINT = 0.05
"""Relative error of the true depth from which two points are not the same."""
_MIN_DISPARITY = 1e-3  # 1/m; of a prediction, as `metrics` has it
_MIN_AHEAD = 1e-3  # of its depth that a point must at least lie before a camera to have a place in its picture
_MIN_COUNT = 1e-6


@dataclass(frozen=True)
class Cameras:
    """What turns normalised disparity into points in space."""

    intrinsics: Float[Tensor, "b t 4"]
    """fx, fy, cx, cy in pixels, pixel centres at integers."""
    camera_to_world: Float[Tensor, "b t 4 4"]
    """Poses, metres, OpenCV axes."""
    disparity_range: Float[Tensor, "b 2"]
    """The disparities, in 1/m, that are 0 and 1 where it is normalised."""


@dataclass(frozen=True)
class _Pairs:
    """Neighbours, both ways.

    A point at disparity d is at (m + t d) / d along the neighbour's axes.
    """

    first: Tensor
    """Numbers of the frames that are warped."""
    second: Tensor
    """Numbers of those that they are warped into."""
    ray: Float[Tensor, "b n h w 3"]
    """m: a pixel's ray, of 1 m depth, along the neighbour's axes."""
    step_m: Float[Tensor, "b n 1 1 3"]
    """t: where the camera is, as its neighbour sees it."""
    intrinsics: Float[Tensor, "b n 1 1 4"]
    """The neighbour's."""


def warp_loss(
    prediction: Float[Tensor, "b t h w"],
    target: Float[Tensor, "b t h w"],
    mask: Bool[Tensor, "b t h w"],
    cameras: Cameras | None,
    mean: Callable[[Tensor], Tensor] = lambda values: values,
) -> Float[Tensor, ""]:
    """Return the mean error of all neighbours' warped points, both ways.

    The prediction is aligned to the target by one least-squares fit a clip, as the temporal term is.

    Args:
        prediction: Relative disparity.
        target: True disparity, normalised over the clip; 0 for sky, which has no place to be warped to.
        mask: Where the target is known.
        cameras: None where there are no poses.
        mean: Averages a tensor over the ranks; each calls it once, with cameras or without.

    Returns:
        The error with its graph; 0 where nothing is compared: a single frame, no poses, nothing seen twice.
    """
    with torch.autocast(device_type=prediction.device.type, enabled=False):
        dtype = torch.promote_types(prediction.dtype, torch.float32)
        prediction, target = prediction.to(dtype), torch.where(mask, target.to(dtype), 0)
        if cameras is None:
            return _nothing(prediction, mean)
        low, high = cameras.disparity_range.to(dtype)[:, :, None, None, None].unbind(1)
        scale, shift = fit_scale_shift(prediction.flatten(1), target.flatten(1), mask.flatten(1))
        aligned = scale.view(-1, 1, 1, 1) * prediction + shift.view(-1, 1, 1, 1)
        return warped_error(low + aligned * (high - low), target, mask, cameras, mean)


def warped_error(
    disparity: Float[Tensor, "b t h w"],
    target: Float[Tensor, "b t h w"],
    mask: Bool[Tensor, "b t h w"],
    cameras: Cameras | None,
    mean: Callable[[Tensor], Tensor] = lambda values: values,
) -> Float[Tensor, ""]:
    """Return what `warp_loss` does, of predicted disparity in 1/m, which is not fitted."""
    if cameras is None or disparity.shape[1] < 2:
        return _nothing(disparity, mean)
    known = mask & (target > 0)
    low, high = cameras.disparity_range.to(disparity.dtype)[:, :, None, None, None].unbind(1)
    true_disparity = torch.where(known, low + target * (high - low), 1)
    pairs = _pairs(cameras, disparity)
    counted = _same_points(true_disparity, known, pairs)
    quotient = _warp(disparity.clamp(min=_MIN_DISPARITY), pairs)
    error = (quotient - 1).abs() / quotient.clamp(min=1)
    return torch.where(counted, error, 0).sum() / mean(counted.sum().to(disparity.dtype)).clamp(min=_MIN_COUNT)


def _nothing(prediction: Float[Tensor, "b t h w"], mean: Callable[[Tensor], Tensor]) -> Float[Tensor, ""]:
    """Return 0 with a graph, taking part in the average over the ranks."""
    mean(prediction.new_zeros(()))
    return prediction[:0].sum()


def _pairs(cameras: Cameras, like: Float[Tensor, "b t h w"]) -> _Pairs:
    _, length, height, width = like.shape
    frames = torch.arange(length, device=like.device)
    first, second = torch.cat([frames[:-1], frames[1:]]), torch.cat([frames[1:], frames[:-1]])
    poses = cameras.camera_to_world.to(like.dtype)
    turn = poses[:, second, :3, :3].mT @ poses[:, first, :3, :3]
    # Places are subtracted before they are turned: they may be far from the origin, and each other's neighbours.
    step_m = poses[:, second, :3, :3].mT @ (poses[:, first, :3, 3:] - poses[:, second, :3, 3:])
    own = cameras.intrinsics.to(like.dtype)
    focal_x, focal_y, centre_x, centre_y = own[:, first, :, None, None].unbind(2)
    column = torch.arange(width, dtype=like.dtype, device=like.device)
    row = torch.arange(height, dtype=like.dtype, device=like.device)[:, None]
    x, y = torch.broadcast_tensors((column - centre_x) / focal_x, (row - centre_y) / focal_y)
    ray = torch.stack([x, y, torch.ones_like(x)], dim=-1) @ turn.mT[:, :, None]
    return _Pairs(first, second, ray, step_m.mT[:, :, None], own[:, second, None, None])


@torch.no_grad()
def _same_points(
    true_disparity: Float[Tensor, "b t h w"], known: Bool[Tensor, "b t h w"], pairs: _Pairs
) -> Bool[Tensor, "b n h w"]:
    """Return which pixels of the first frames show a point that the second frames show, too."""
    height, width = known.shape[-2:]
    disparity = true_disparity[:, pairs.first]
    point = pairs.ray + pairs.step_m * disparity[..., None]
    column, row = _project(point, pairs)
    ahead = point[..., 2] > _MIN_AHEAD
    inside = (column >= 0) & (column <= width - 1) & (row >= 0) & (row <= height - 1)
    known_there = _sample(known[:, pairs.second].to(disparity.dtype), column, row) > 1 - 1e-4
    quotient = point[..., 2] * _sample(true_disparity[:, pairs.second], column, row) / disparity
    return known[:, pairs.first] & ahead & inside & known_there & ((quotient - 1).abs() < SAME_POINT)


def _warp(disparity: Float[Tensor, "b t h w"], pairs: _Pairs) -> Float[Tensor, "b n h w"]:
    """Return each point's depth in the second camera over the depth that is predicted there."""
    first = disparity[:, pairs.first]
    point = pairs.ray + pairs.step_m * first[..., None]
    there = _sample(disparity[:, pairs.second], *_project(point, pairs))
    return point[..., 2] * there / first


def _project(point: Float[Tensor, "b n h w 3"], pairs: _Pairs) -> tuple[Tensor, Tensor]:
    """Return the column and row of each point, of one behind the camera as if just before it."""
    x, y, z = point.unbind(-1)
    focal_x, focal_y, centre_x, centre_y = pairs.intrinsics.unbind(-1)
    ahead = z.clamp(min=_MIN_AHEAD)
    return x / ahead * focal_x + centre_x, y / ahead * focal_y + centre_y


def _sample(
    values: Float[Tensor, "b n h w"], column: Float[Tensor, "b n h w"], row: Float[Tensor, "b n h w"]
) -> Float[Tensor, "b n h w"]:
    """Return values between pixels, bilinear; beyond the border those of the border."""
    height, width = values.shape[-2:]
    # `grid_sample` takes -1 for the first pixel's centre and 1 for the last one's.
    grid = torch.stack([2 * column / max(width - 1, 1) - 1, 2 * row / max(height - 1, 1) - 1], dim=-1)
    found = F.grid_sample(
        values.flatten(0, 1)[:, None], grid.flatten(0, 1), mode="bilinear", padding_mode="border", align_corners=True
    )
    return found[:, 0].unflatten(0, values.shape[:2])
