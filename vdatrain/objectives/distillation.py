"""The loss of single images beside videos, most of which a teacher has labelled.

Video Depth Anything, arXiv 2501.12375, is trained on videos with truth and on images with labels of Depth Anything V2
at once. The images are single frames, so they have no temporal term, and their loss counts half (`distill` of a run).
Depth Anything V2, arXiv 2406.09414, section 5.2, ignores "top-n-largest-loss regions" of each image that a teacher
labelled, "where n is set as 10%", as perhaps wrong.

Not stated there: what a region is, and whether left-out pixels take part in the gradient term. Whether Video Depth
Anything leaves any out is not known to us. Here a region is a pixel, and a pixel that is left out takes part in
nothing. The terms are weighted as in Video Depth Anything, 1 to 0.5; Depth Anything V2 has 1 to 2, and a term for
features of DINOv2 that is not here.
"""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vdatrain.objectives.losses import alone, normalised_residual, spatial_gradient

ONE_LEFT_OUT_OF = 10
"""Of so many known pixels of a teacher's image the one with the largest residual is left out."""


def image_loss(
    prediction: Float[Tensor, "b t h w"],
    target: Float[Tensor, "b t h w"],
    mask: Bool[Tensor, "b t h w"],
    taught: Bool[Tensor, " b"],
    *,
    distill: float,
    mean: Callable[[Tensor], Tensor] = alone,
) -> Float[Tensor, ""]:
    """Return the spatial loss of single images, of a teacher's trimmed and weighted.

    Each pixel that counts has the same weight before `distill`; that of an image with truth is 1. In float32 at least,
    autocast off, without waiting for the device.

    Args:
        prediction: Relative disparity.
        target: Disparity, a teacher's or true.
        mask: Where the target is known.
        taught: Whether a teacher labelled the image.
        distill: Weight of these.
        mean: Averages a tensor over the ranks.

    Returns:
        The loss, with its graph; 0 without a known pixel.
    """
    with torch.autocast(device_type=prediction.device.type, enabled=False):
        residual = normalised_residual(prediction, target, mask)
        kept = mask & (_smaller_residuals(residual.detach(), mask) | ~taught.view(-1, 1, 1, 1))
        gradient = spatial_gradient(residual.detach() * kept, kept.to(residual.dtype), mean)
        weight = torch.where(taught, distill, 1.0).to(residual.dtype).view(-1, 1, 1, 1)
        return (residual * kept * gradient * weight).sum()  # as in `spatial_loss`, by Euler's theorem


def _smaller_residuals(residual: Float[Tensor, "b t h w"], mask: Bool[Tensor, "b t h w"]) -> Bool[Tensor, "b t h w"]:
    """Return where a residual is not among each frame's largest.

    All that are as large as the last one that is kept are kept.
    """
    size = torch.where(mask, residual.abs(), torch.inf).flatten(2)
    known = mask.flatten(2).sum(-1, keepdim=True)
    last = (known - known // ONE_LEFT_OUT_OF - 1).clamp(min=0)
    limit = size.sort(-1).values.gather(-1, last)
    return (size <= limit).view(residual.shape)
