"""Least-squares scale and shift between a prediction and a target."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

# A prediction whose deviation is fewer units of rounding than this, relative to its mean, counts as constant.
_NOISE_ULPS = 16


def fit_scale_shift(
    prediction: Float[Tensor, "*batch n"], target: Float[Tensor, "*batch n"], mask: Bool[Tensor, "*batch n"]
) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
    """Return the least-squares scale and shift from prediction to target over the mask.

    One fit for each entry of `batch` over its n values, differentiable, in the prediction's dtype, to which the target
    is cast: float32 to train, float64 to evaluate. Outside the mask both may be anything, nan included. It is
    `compute_scale_and_shift` of Video Depth Anything's loss/loss.py, but centred on the means: the determinant of the
    raw sums cancels in float32.

    Where there is no answer the result, and its gradient, is finite all the same: scale 0 and the mean of the target
    for a constant prediction (a single valid value is one), scale 0 and shift 0 without a valid value.
    """
    prediction = torch.where(mask, prediction, 0)
    target = torch.where(mask, target.to(prediction.dtype), 0)
    weight = mask.to(prediction.dtype)
    count = weight.sum(-1, keepdim=True).clamp(min=1)
    prediction_mean = prediction.sum(-1, keepdim=True) / count
    target_mean = target.sum(-1, keepdim=True) / count
    # Deviations sum to 0, so to first order moving the centre changes neither sum: no gradient passes through it.
    centred = (prediction - prediction_mean.detach()) * weight
    variance = (centred * centred).sum(-1, keepdim=True) / count
    covariance = (centred * (target - target_mean.detach())).sum(-1, keepdim=True) / count

    noise = _NOISE_ULPS * torch.finfo(prediction.dtype).eps * prediction_mean.detach()
    solvable = variance > noise * noise
    # The inner where keeps the division, and so the gradient, finite in the branch that is not taken.
    scale = torch.where(solvable, covariance / torch.where(solvable, variance, 1), 0)
    shift = target_mean - scale * prediction_mean
    return scale.squeeze(-1), shift.squeeze(-1)
