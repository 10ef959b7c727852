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

Terms that are not published, each of weight 0 unless asked for (`ExtraTerms`):

    stride     the temporal term over 1, 2, 4 and 8 frames, where a clip has as many
    stability  no term but a weight on both: exp(-|dI| / s), less where the image changes, dI its change of brightness
    warp       frames warped into their neighbours by the true poses (`warping`)
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vdatrain.config import TrainConfig
from vdatrain.objectives.alignment import fit_scale_shift
from vdatrain.objectives.warping import Cameras, warp_loss

GRADIENT_SCALES = 4
GRADIENT_WEIGHT = 0.5
TEMPORAL_WEIGHT = 10.0
STRIDES = (1, 2, 4, 8)
"""Frames between those that the stride term compares."""
STATIC_CHANGE = 0.05  # of a frame's range of disparity; a pixel that changes by more shows another surface
_MIN_DEVIATION = 1e-6
_MIN_COUNT = 1e-6  # less than one valid pixel among any number of ranks; what it divides is then zero


StableWeight = Callable[[int], Tensor]


def alone(values: Tensor) -> Tensor:
    """Return what one rank alone has, as the mean over the ranks."""
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
    extra: Mapping[str, Float[Tensor, ""]] = field(default_factory=dict[str, Tensor])
    """The terms that were asked for besides, `stride` and `warp`, before their weights."""

    def plus(self, name: str, term: Float[Tensor, ""], *, weight: float) -> "VideoLoss":
        """Return the loss with another term."""
        return replace(self, total=self.total + weight * term, extra={**self.extra, name: term})


@dataclass(frozen=True)
class ExtraTerms:
    """What is added to the published loss, and what it looks at."""

    stride_weight: float = 0.0
    """Weight of the stride term."""
    stability: float = 0.0
    """Brightness s of the weight exp(-|dI| / s); 0: none."""
    warp_weight: float = 0.0
    """Weight of the warp term."""
    frames: Float[Tensor, "b t 3 h w"] | None = None
    """Images whose black and white are 1 apart, for the stability weight."""
    cameras: Cameras | None = None
    """For the warp term, which is 0 without."""

    @classmethod
    def of(
        cls, config: TrainConfig, frames: Float[Tensor, "b t 3 h w"] | None, cameras: Cameras | None
    ) -> "ExtraTerms | None":
        """Return what a run's configuration adds; None if that is nothing."""
        if not (config.stride_weight or config.stability or config.warp_weight):
            return None
        seen = frames if config.stability else None
        return cls(config.stride_weight, config.stability, config.warp_weight, frames=seen, cameras=cameras)

    @staticmethod
    def names(config: TrainConfig) -> tuple[str, ...]:
        """Return the names of the terms in `VideoLoss.extra`, in its order."""
        weights = {"stride": config.stride_weight, "warp": config.warp_weight}
        return tuple(name for name, weight in weights.items() if weight)


def video_loss(
    prediction: Float[Tensor, "b t h w"],
    target: Float[Tensor, "b t h w"],
    mask: Bool[Tensor, "b t h w"],
    mean: Callable[[Tensor], Tensor] = alone,
    extra: ExtraTerms | None = None,
) -> VideoLoss:
    """Compute the training loss of predicted disparity, which counts up to scale and shift.

    Args:
        prediction: Relative disparity.
        target: True disparity, normalised over the clip.
        mask: Where the target is known.
        mean: Averages a tensor over the ranks.
        extra: What is added to the published loss; all ranks have the same weights.

    Returns:
        The loss and its terms, with their graphs.
    """
    spatial = spatial_loss(prediction, target, mask, mean)
    stable = None if extra is None or extra.frames is None else functools.partial(stability_weight, extra)
    temporal = temporal_loss(prediction, target, mask, mean, stable)
    loss = VideoLoss(spatial=spatial, temporal=temporal, total=spatial + TEMPORAL_WEIGHT * temporal)
    if extra is not None and extra.stride_weight:
        loss = loss.plus("stride", stride_loss(prediction, target, mask, mean, stable), weight=extra.stride_weight)
    if extra is not None and extra.warp_weight:
        loss = loss.plus("warp", warp_loss(prediction, target, mask, extra.cameras, mean), weight=extra.warp_weight)
    return loss


def spatial_loss(
    prediction: Float[Tensor, "b t h w"],
    target: Float[Tensor, "b t h w"],
    mask: Bool[Tensor, "b t h w"],
    mean: Callable[[Tensor], Tensor] = alone,
) -> Float[Tensor, ""]:
    """Return scale- and shift-invariant L1 plus 0.5 x gradients over four scales, a frame.

    Source: `TrimmedProcrustesLoss` of loss/loss.py without trimming, after MiDaS, arXiv 1907.01341, section 5. A frame
    without a valid pixel takes no part; without any in the batch the loss is 0.
    """
    with torch.autocast(device_type=prediction.device.type, enabled=False):
        residual = normalised_residual(prediction, target, mask)
        # The loss is homogeneous in the residual, f(a r) = a f(r), so f(r) is r times f's gradient (Euler). One closed
        # form thus gives value and gradient, and spares autograd its copies of the clip at every scale.
        return (residual * spatial_gradient(residual.detach(), mask.to(residual.dtype), mean)).sum()


def temporal_loss(
    prediction: Float[Tensor, "b t h w"],
    target: Float[Tensor, "b t h w"],
    mask: Bool[Tensor, "b t h w"],
    mean: Callable[[Tensor], Tensor] = alone,
    stable: StableWeight | None = None,
) -> Float[Tensor, ""]:
    """Return the mean absolute difference of the changes from frame to frame, before its weight.

    Source: `TemporalGradientMatchingLoss` of loss/loss.py with one scale and no trimming. The prediction is aligned to
    the target by one least-squares fit a clip. A pixel counts where both frames are valid and the target changes by
    less than 5 % of the later frame's range. As in that code, and unlike the paper's formula, changes keep their sign.
    0, with a graph, where nothing counts: a single frame, no valid pixel, constant frames.

    stable: returns, given a number of frames, what the change over as many counts at each pixel of the later frames.
    """
    return _fitted_change_loss(prediction, target, mask, mean, stable, strides=(1,))


def stride_loss(
    prediction: Float[Tensor, "b t h w"],
    target: Float[Tensor, "b t h w"],
    mask: Bool[Tensor, "b t h w"],
    mean: Callable[[Tensor], Tensor] = alone,
    stable: StableWeight | None = None,
) -> Float[Tensor, ""]:
    """Return the mean of the temporal term over the STRIDES that are shorter than the clip.

    The published code has such scales, too (and does not use them): it compares every second, fourth and eighth frame,
    this all pairs so far apart. What counts is judged as in `temporal_loss`, over each stride.
    """
    return _fitted_change_loss(prediction, target, mask, mean, stable, strides=strides_of(prediction))


def strides_of(prediction: Float[Tensor, "b t h w"]) -> tuple[int, ...]:
    """Return the STRIDES that are shorter than the clip, at least the first."""
    return tuple(stride for stride in STRIDES if stride < prediction.shape[1]) or STRIDES[:1]


def stability_weight(extra: ExtraTerms, stride: int) -> Float[Tensor, "b t h w"]:
    """Return exp(-|dI| / s) of the change of brightness over a stride, the mean of the colours'."""
    assert extra.frames is not None
    change = (extra.frames[:, stride:] - extra.frames[:, :-stride]).abs().mean(2)
    return torch.exp(-change / extra.stability)


@dataclass(frozen=True)
class Changes:
    """Which changes over time are compared, and how."""

    strides: tuple[int, ...]
    """Frames between those that are compared."""
    scale: Float[Tensor, "b 1 1 1"] | float
    """What predicted changes are multiplied with."""
    limit: Float[Tensor, "b t 1 1"]
    """True change, by the later frame, from which a pixel shows another surface and is left out."""
    stable: StableWeight | None = None
    """Returns, given a number of frames, what the change over as many counts at each pixel of the later frames."""


def change_loss(
    prediction: Float[Tensor, "b t h w"],
    target: Float[Tensor, "b t h w"],
    mask: Bool[Tensor, "b t h w"],
    mean: Callable[[Tensor], Tensor],
    changes: Changes,
) -> Float[Tensor, ""]:
    """Return the mean absolute difference of predicted and true changes, then over the strides."""
    sums: list[Tensor] = []
    counts: list[Tensor] = []
    for stride in changes.strides:
        change = target[:, stride:] - target[:, :-stride]
        counted = mask[:, stride:] & mask[:, :-stride] & (change.abs() < changes.limit[:, stride:])
        weight = counted.to(change.dtype)
        if changes.stable is not None:
            weight = weight * changes.stable(stride)
        # A shift is gone in the difference of two frames.
        moved = prediction[:, stride:] - prediction[:, :-stride]
        residual = (changes.scale * moved - change) * weight
        sums.append(residual.abs().sum())
        counts.append(weight.sum())
    return (torch.stack(sums) / mean(torch.stack(counts)).clamp(min=_MIN_COUNT)).mean()


def _fitted_change_loss(  # noqa: PLR0913 - those of its two callers
    prediction: Float[Tensor, "b t h w"],
    target: Float[Tensor, "b t h w"],
    mask: Bool[Tensor, "b t h w"],
    mean: Callable[[Tensor], Tensor],
    stable: StableWeight | None,
    *,
    strides: tuple[int, ...],
) -> Float[Tensor, ""]:
    with torch.autocast(device_type=prediction.device.type, enabled=False):
        prediction, target = _prepare(prediction, target, mask)
        scale, _ = fit_scale_shift(prediction.flatten(1), target.flatten(1), mask.flatten(1))
        changes = Changes(strides, scale.view(-1, 1, 1, 1), _static_limit(target, mask), stable)
        return change_loss(prediction, target, mask, mean, changes)


def _prepare(
    prediction: Float[Tensor, "b t h w"], target: Float[Tensor, "b t h w"], mask: Bool[Tensor, "b t h w"]
) -> tuple[Float[Tensor, "b t h w"], Float[Tensor, "b t h w"]]:
    """Return both in float32 at least, the target free of what stands for unknown."""
    dtype = torch.promote_types(prediction.dtype, torch.float32)
    return prediction.to(dtype), torch.where(mask, target.to(dtype), 0)


def normalised_residual(
    prediction: Float[Tensor, "b t h w"], target: Float[Tensor, "b t h w"], mask: Bool[Tensor, "b t h w"]
) -> Float[Tensor, "b t h w"]:
    """Return prediction minus target, each normalised by frame; 0 outside the mask."""
    prediction, target = _prepare(prediction, target, mask)
    weight = mask.to(prediction.dtype)
    return _normalise(prediction, mask, weight) - _normalise(target, mask, weight)


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
def spatial_gradient(
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
