"""The published model plus pooled frame differences, added to features without a CNN."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from vdatrain.models.layers.difference import CELLS_PER_PATCH, DifferenceBranch
from vdatrain.models.layers.dpt import TemporalDPTHead
from vdatrain.models.layers.encoder import Encoder, EncoderSpec
from vdatrain.models.variants.basic import VideoDepth

OWN_PREFIXES = ("branch.",)
USES_DIFFERENCES = True
_POOLED_CHANNELS = 14  # of past and future: three colours and a flag, and the colours without their signs


class PooledDifferences(nn.Module):
    """Each patch's mean difference and mean absolute difference; nothing in it learns.

    A texture that moves within a patch has a signed mean near zero, only the absolute one shows it.
    """

    def forward(self, pairs: Float[Tensor, "b t 8 dh dw"]) -> Float[Tensor, "n p e"]:
        """Return both means of each patch; n = b x t, p = dh x dw / CELLS_PER_PATCH^2."""
        pairs = pairs.flatten(0, 1)
        sizes = pairs.unflatten(1, (2, 4))[:, :, :3].abs().flatten(1, 2)
        means = F.avg_pool2d(torch.cat([pairs, sizes], dim=1), CELLS_PER_PATCH)
        return means.flatten(2).transpose(1, 2)


def build(spec: EncoderSpec, *, max_frames: int) -> VideoDepth:
    """Build the model, the branch last: a seed gives every variant the same encoder and head."""
    return VideoDepth(
        pretrained=Encoder(spec),
        head=TemporalDPTHead(spec, max_frames=max_frames),
        branch=DifferenceBranch(PooledDifferences(), embed_dim=_POOLED_CHANNELS, dim=spec.dim),
    )
