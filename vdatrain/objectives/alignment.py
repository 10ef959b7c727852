"""Least-squares scale and shift from a prediction to a target, at once or in pieces."""

import torch
from jaxtyping import Bool, Float, Float64
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
    scale = _scale(variance, covariance, prediction_mean)
    shift = target_mean - scale * prediction_mean
    return scale.squeeze(-1), shift.squeeze(-1)


class ScaleShiftFit:
    """What `fit_scale_shift` returns, of values that come in pieces; only sums are kept.

    In float64. The sums are about the means so far and are joined as Chan, Golub and LeVeque do (1979, "Updating
    formulae and a pairwise algorithm for computing sample variances").
    """

    def __init__(self) -> None:
        self._count = self._prediction_mean = self._target_mean = torch.zeros((), dtype=torch.float64)
        self._variance = self._covariance = self._count

    def add(
        self, prediction: Float64[Tensor, "*shape"], target: Float64[Tensor, "*shape"], mask: Bool[Tensor, "*shape"]
    ) -> None:
        """Take a piece in; outside the mask both may be anything. All pieces are on one device."""
        count = mask.sum().double()
        least = count.clamp(min=1)
        prediction_mean = torch.where(mask, prediction, 0).sum() / least
        target_mean = torch.where(mask, target, 0).sum() / least
        centred = torch.where(mask, prediction - prediction_mean, 0)
        variance = (centred * centred).sum()
        covariance = (centred * torch.where(mask, target - target_mean, 0)).sum()
        before = self._count
        self._count = before + count
        share = count / self._count.clamp(min=1)
        apart, target_apart = prediction_mean - self._prediction_mean, target_mean - self._target_mean
        self._variance = self._variance + variance + apart * apart * before * share
        self._covariance = self._covariance + covariance + apart * target_apart * before * share
        self._prediction_mean = self._prediction_mean + apart * share
        self._target_mean = self._target_mean + target_apart * share

    def solve(self) -> tuple[Float64[Tensor, ""], Float64[Tensor, ""]]:
        """Return scale and shift; where there is no answer as `fit_scale_shift` does."""
        count = self._count.clamp(min=1)
        scale = _scale(self._variance / count, self._covariance / count, self._prediction_mean)
        return scale, self._target_mean - scale * self._prediction_mean


def _scale(
    variance: Float[Tensor, "*batch"], covariance: Float[Tensor, "*batch"], prediction_mean: Float[Tensor, "*batch"]
) -> Float[Tensor, "*batch"]:
    """Return the scale of a least-squares fit; 0 where the prediction is as good as constant."""
    noise = _NOISE_ULPS * torch.finfo(variance.dtype).eps * prediction_mean.detach()
    solvable = variance > noise * noise
    # The inner where keeps the division, and so the gradient, finite in the branch that is not taken.
    return torch.where(solvable, covariance / torch.where(solvable, variance, 1), 0)
