"""Video Depth Anything's loss: a spatial term a frame, a temporal term a clip.

    total = spatial + 10 * temporal                    arXiv 2501.12375; loss/loss.py of its repository
    spatial = L1 + 0.5 * gradients over four scales    of the frames, each normalised by median and mean deviation
    temporal = L1 of the change from frame to frame    of the clips, each aligned by least squares

All is computed in float32 (float64 stays float64) with autocast off. `mask` marks the valid pixels; elsewhere the
target may be anything, nan included. Sums over the batch are divided by its number of valid pixels, so each valid pixel
has the same weight. `mean` averages a tensor over the ranks: sums are then divided by the pixels of all their batches,
so that the mean of the ranks' losses is the loss of all windows as one batch. Nothing here synchronises with the
device. One departure from the published code: it counts masked pixels as zeros in its medians, so that a perfect
prediction has a loss; here they are left out.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vdatrain.objectives.alignment import fit_scale_shift

GRADIENT_SCALES = 4
GRADIENT_WEIGHT = 0.5
TEMPORAL_WEIGHT = 10.0
STATIC_CHANGE = 0.05  # of a frame's range of disparity; a pixel that changes by more shows another surface
_MIN_DEVIATION = 1e-6
_MIN_COUNT = 1e-6  # less than one valid pixel among any number of ranks; what it divides is then zero


def _alone(values: Tensor) -> Tensor:
    return values


@dataclass(frozen=True)
class VideoLoss:
    """The loss of a batch and its two terms."""

    spatial: Float[Tensor, ""]
    """Before its weight of 1."""
    temporal: Float[Tensor, ""]
    """Before its weight of TEMPORAL_WEIGHT."""
    total: Float[Tensor, ""]
    """The weighted sum."""


def video_loss(
    prediction: Float[Tensor, "b t h w"],
    target: Float[Tensor, "b t h w"],
    mask: Bool[Tensor, "b t h w"],
    mean: Callable[[Tensor], Tensor] = _alone,
) -> VideoLoss:
    """Compute the training loss of predicted disparity, which counts up to scale and shift.

    Args:
        prediction: Relative disparity.
        target: True disparity, normalised over the clip.
        mask: Where the target is known.
        mean: Averages a tensor over the ranks.

    Returns:
        The loss and its terms, with their graphs.
    """
    spatial = spatial_loss(prediction, target, mask, mean)
    temporal = temporal_loss(prediction, target, mask, mean)
    return VideoLoss(spatial=spatial, temporal=temporal, total=spatial + TEMPORAL_WEIGHT * temporal)


def spatial_loss(
    prediction: Float[Tensor, "b t h w"],
    target: Float[Tensor, "b t h w"],
    mask: Bool[Tensor, "b t h w"],
    mean: Callable[[Tensor], Tensor] = _alone,
) -> Float[Tensor, ""]:
    """Return scale- and shift-invariant L1 plus 0.5 x gradients over four scales, a frame.

    Source: `TrimmedProcrustesLoss` of loss/loss.py without trimming, after MiDaS, arXiv 1907.01341, section 5. A frame
    without a valid pixel takes no part; without any in the batch the loss is 0.
    """
    with torch.autocast(device_type=prediction.device.type, enabled=False):
        prediction, target = _prepare(prediction, target, mask)
        weight = mask.to(prediction.dtype)
        residual = _normalise(prediction, mask, weight) - _normalise(target, mask, weight)
        # The loss is homogeneous in the residual, f(a r) = a f(r), so f(r) is r times f's gradient (Euler). One closed
        # form thus gives value and gradient, and spares autograd its copies of the clip at every scale.
        return (residual * _spatial_gradient(residual.detach(), weight, mean)).sum()


def temporal_loss(
    prediction: Float[Tensor, "b t h w"],
    target: Float[Tensor, "b t h w"],
    mask: Bool[Tensor, "b t h w"],
    mean: Callable[[Tensor], Tensor] = _alone,
) -> Float[Tensor, ""]:
    """Return the mean absolute difference of the changes from frame to frame, before its weight.

    Source: `TemporalGradientMatchingLoss` of loss/loss.py with one scale and no trimming. The prediction is aligned to
    the target by one least-squares fit a clip. A pixel counts where both frames are valid and the target changes by
    less than 5 % of the later frame's range. As in that code, and unlike the paper's formula, changes keep their sign.
    0, with a graph, where nothing counts: a single frame, no valid pixel, constant frames.
    """
    with torch.autocast(device_type=prediction.device.type, enabled=False):
        prediction, target = _prepare(prediction, target, mask)
        scale, _ = fit_scale_shift(prediction.flatten(1), target.flatten(1), mask.flatten(1))
        change = target.diff(dim=1)
        counts = mask[:, 1:] & mask[:, :-1] & (change.abs() < _static_limit(target, mask)[:, 1:])
        weight = counts.to(change.dtype)
        # The shift is gone in the difference of two frames.
        residual = (scale.view(-1, 1, 1, 1) * prediction.diff(dim=1) - change) * weight
        return residual.abs().sum() / mean(weight.sum()).clamp(min=_MIN_COUNT)


def _prepare(
    prediction: Float[Tensor, "b t h w"], target: Float[Tensor, "b t h w"], mask: Bool[Tensor, "b t h w"]
) -> tuple[Float[Tensor, "b t h w"], Float[Tensor, "b t h w"]]:
    """Return both in float32 at least, the target free of what stands for unknown."""
    dtype = torch.promote_types(prediction.dtype, torch.float32)
    return prediction.to(dtype), torch.where(mask, target.to(dtype), 0)


def _normalise(
    disparity: Float[Tensor, "b t h w"], mask: Bool[Tensor, "b t h w"], weight: Float[Tensor, "b t h w"]
) -> Float[Tensor, "b t h w"]:
    """Return every frame minus its median, over its mean absolute deviation; 0 outside the mask."""
    centred = (disparity - _median(disparity, mask)) * weight
    count = weight.sum((-1, -2), keepdim=True).clamp(min=1)
    deviation = centred.abs().sum((-1, -2), keepdim=True) / count
    return centred / deviation.clamp(min=_MIN_DEVIATION)


def _median(disparity: Float[Tensor, "b t h w"], mask: Bool[Tensor, "b t h w"]) -> Float[Tensor, "b t 1 1"]:
    """Return the median of every frame's valid pixels, the lower of two, 0 without any.

    The gradient is shared by all pixels that equal the median: a single one would be picked by chance on a GPU, and
    bfloat16 outputs have many.
    """
    known = torch.where(mask, disparity.detach(), torch.nan).flatten(2)
    is_median = (known == known.nanmedian(-1, keepdim=True).values).to(disparity.dtype).view(disparity.shape)
    return (disparity * is_median).sum((-1, -2), keepdim=True) / is_median.sum((-1, -2), keepdim=True).clamp(min=1)


@torch.no_grad()
def _spatial_gradient(
    residual: Float[Tensor, "b t h w"], weight: Float[Tensor, "b t h w"], mean: Callable[[Tensor], Tensor]
) -> Float[Tensor, "b t h w"]:
    """Return the gradient of the spatial loss with respect to the masked residual."""
    steps = [(..., slice(None, None, 2**scale), slice(None, None, 2**scale)) for scale in range(GRADIENT_SCALES)]
    counts = mean(torch.stack([weight[step].sum() for step in steps])).clamp(min=_MIN_COUNT)
    gradient = residual.sgn() / counts[0]
    for step, count in zip(steps, counts, strict=True):
        pair_weight = GRADIENT_WEIGHT / count
        for dim in (-1, -2):
            _add_gradient_of_changes(gradient[step], residual[step], weight[step], pair_weight, dim)
    return gradient


def _add_gradient_of_changes(
    gradient: Float[Tensor, "b t h w"],
    residual: Float[Tensor, "b t h w"],
    weight: Float[Tensor, "b t h w"],
    pair_weight: Float[Tensor, ""],
    dim: int,
) -> None:
    """Add, in place, the gradient of pair_weight x the sum of |r[i + 1] - r[i]| along `dim`.

    Over valid pairs.
    """
    pairs = residual.shape[dim] - 1
    sign = residual.diff(dim=dim)
    sign *= weight.narrow(dim, 1, pairs)
    sign *= weight.narrow(dim, 0, pairs)
    sign.sgn_().mul_(pair_weight)
    gradient.narrow(dim, 1, pairs).add_(sign)
    gradient.narrow(dim, 0, pairs).sub_(sign)


def _static_limit(target: Float[Tensor, "b t h w"], mask: Bool[Tensor, "b t h w"]) -> Float[Tensor, "b t 1 1"]:
    """Return 5 % of the range of every frame's valid pixels; -inf without any."""
    highest = torch.where(mask, target, -torch.inf).amax((-1, -2), keepdim=True)
    lowest = torch.where(mask, target, torch.inf).amin((-1, -2), keepdim=True)
    return STATIC_CHANGE * (highest - lowest)
