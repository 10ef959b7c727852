"""Depth in a canonical camera: what a metric model's head says without knowing the camera.

    depth in metres = canonical depth * focal length of the view in pixels / canonical focal length

Of an image alone only that product can be told: a thing of S metres that is p pixels wide is at S * focal / p metres.
So the head's output is the depth that the same pixels would have in one camera for all, as in Metric3D (Yin et al.,
ICCV 2023, arXiv:2307.10984, section 3.1, its transformation of labels), and the view's own focal length turns it into
metres. Crops leave that as it is, resizing scales it; of fx and fy the geometric mean is taken.

The canonical focal length of a run is the side of the views it is trained on: a camera 53 degrees wide, in which
canonical depths are about metres (Metric3D takes 1000 pixels for views of some 1000). Published metric weights of Video
Depth Anything were trained on metres with no regard to the camera; they have no canonical focal length.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

TYPICAL_DEPTH_M = 6.0
"""Canonical depth that a head begins with in place of one for disparity: 5 m of TartanAir are 7.5, 3 m of IRS 3.4."""


def focal_of(intrinsics: Float[Tensor, "*batch 4"]) -> Float[Tensor, "*batch"]:
    """Return the geometric mean of fx and fy, of fx, fy, cx, cy in pixels."""
    return (intrinsics[..., 0] * intrinsics[..., 1]).sqrt()


def is_metric(model: nn.Module) -> bool:
    """Say whether a model predicts depth that has a scale."""
    return bool(getattr(model, "metric", False))


def canonical_focal_of(model: nn.Module) -> float | None:
    """Return the focal length in pixels that a model's depth is of; None if of any."""
    return getattr(model, "canonical_focal_px", None) if is_metric(model) else None


def in_metres(
    model: nn.Module, disparity: Float[Tensor, "*batch h w"], intrinsics: Float[Tensor, "*batch 4"]
) -> Float[Tensor, "*batch h w"]:
    """Turn a model's disparity into 1/m; that of one that minds no camera is left as it is.

    Args:
        model: What predicted it.
        disparity: Its output.
        intrinsics: fx, fy, cx, cy in pixels of the views that it saw.
    """
    canonical_px = canonical_focal_of(model)
    if canonical_px is None:
        return disparity
    factor = canonical_px / focal_of(intrinsics.double())
    return disparity * factor.to(torch.promote_types(disparity.dtype, torch.float32))[..., None, None]
