"""The loss of depth in metres: logarithmic error, and changes of log depth over time.

    total = spatial + 10 * temporal
    spatial = sqrt(mean(d^2) - 0.5 * mean(d)^2)    d = log predicted - log true depth, over the pixels of a frame
    temporal = mean |change of d|                  from frame to frame, where the true log depth changes by under 5 %

The spatial term is Eigen's (NeurIPS 2014, arXiv:1406.2283) as Depth Anything V2 trains its metric models with
(`SiLogLoss` of metric_depth/util/loss.py, over a batch there, a frame here). It is named for the half of a common error
of scale that it forgives: an error of scale alone still costs 0.7 of its logarithm, so scale is learned.
Nothing is fitted to the truth. That of the temporal term takes neither scale nor shift: a change of log depth is
relative, as the temporal alignment error that it is measured by. Sky and unknown pixels take no part; sky has no
logarithm. Logarithms weigh far and near alike, so no far limit is needed.

`mean` and the further terms are those of `losses`.
"""

import functools
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vdatrain.objectives.losses import (
    STATIC_CHANGE,
    TEMPORAL_WEIGHT,
    Changes,
    ExtraTerms,
    VideoLoss,
    alone,
    change_loss,
    stability_weight,
    strides_of,
)
from vdatrain.objectives.warping import warped_error

FORGIVEN = 0.5
"""Share of the squared mean error that the spatial term leaves out."""
_MIN_DISPARITY = 1e-6  # 1/m; no logarithm of 0
_MIN_VARIANCE = 1e-12  # the root's gradient stays finite
_MIN_COUNT = 1e-6


def metric_loss(  # noqa: PLR0913 - those of `video_loss` and the range
    disparity: Float[Tensor, "b t h w"],
    target: Float[Tensor, "b t h w"],
    mask: Bool[Tensor, "b t h w"],
    disparity_range: Float[Tensor, "b 2"],
    mean: Callable[[Tensor], Tensor] = alone,
    extra: ExtraTerms | None = None,
) -> VideoLoss:
    """Compute the training loss of predicted disparity in 1/m.

    Args:
        disparity: The prediction, above 0.
        target: True disparity, normalised over the clip; 0 for sky.
        mask: Where the target is known.
        disparity_range: The disparities, in 1/m, that are 0 and 1 in the target.
        mean: Averages a tensor over the ranks.
        extra: Further terms; all ranks have the same weights.

    Returns:
        The loss and its terms, with their graphs.
    """
    with torch.autocast(device_type=disparity.device.type, enabled=False):
        disparity = disparity.to(torch.promote_types(disparity.dtype, torch.float32))
        target = torch.where(mask, target.to(disparity.dtype), 0)
        known = mask & (target > 0)
        low, high = disparity_range.to(disparity.dtype)[:, :, None, None, None].unbind(1)
        log_true = torch.where(known, low + target * (high - low), 1).clamp(min=_MIN_DISPARITY).log()
        log_predicted = disparity.clamp(min=_MIN_DISPARITY).log()
        spatial = silog(log_predicted - log_true, known, mean)

        def changes(strides: tuple[int, ...]) -> Float[Tensor, ""]:
            stable = None if extra is None or extra.frames is None else functools.partial(stability_weight, extra)
            limit = log_true.new_full((1, log_true.shape[1], 1, 1), STATIC_CHANGE)
            return change_loss(log_predicted, log_true, known, mean, Changes(strides, 1.0, limit, stable))

        temporal = changes((1,))
        loss = VideoLoss(spatial=spatial, temporal=temporal, total=spatial + TEMPORAL_WEIGHT * temporal)
        if extra is not None and extra.stride_weight:
            loss = loss.plus("stride", changes(strides_of(disparity)), weight=extra.stride_weight)
        if extra is not None and extra.warp_weight:
            warped = warped_error(disparity, target, mask, extra.cameras, mean)
            loss = loss.plus("warp", warped, weight=extra.warp_weight)
        return loss


def silog(
    log_error: Float[Tensor, "b t h w"],
    mask: Bool[Tensor, "b t h w"],
    mean: Callable[[Tensor], Tensor] = alone,
) -> Float[Tensor, ""]:
    """Return sqrt(mean(d^2) - FORGIVEN mean(d)^2), averaged over frames with a valid pixel."""
    log_error = torch.where(mask, log_error, 0)
    pixels = mask.sum((-1, -2)).clamp(min=1)
    squared, common = (log_error * log_error).sum((-1, -2)) / pixels, log_error.sum((-1, -2)) / pixels
    of_frame = (squared - FORGIVEN * common * common).clamp(min=_MIN_VARIANCE).sqrt()
    has_any = mask.any(-1).any(-1).to(of_frame.dtype)
    return (of_frame * has_any).sum() / mean(has_any.sum()).clamp(min=_MIN_COUNT)
