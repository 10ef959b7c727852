"""Control: the published model with an eighth of the features' channels of each neighbour.

The temporal shift of TSM (arXiv:1811.08383): it mixes frames before the head at no cost, without parameters and
without differences. Unlike every other variant it does not begin as the published model: features are moved from the
first step on.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from vdatrain.models.layers.branch import Branch, Branched
from vdatrain.models.layers.dpt import TemporalDPTHead
from vdatrain.models.layers.encoder import Encoder, EncoderSpec
from vdatrain.models.layers.neighbours import Neighbours
from vdatrain.models.variants.basic import VideoDepth

OWN_PREFIXES: tuple[str, ...] = ()
USES_DIFFERENCES = False
STARTS_AS_PUBLISHED = False
_SHARE = 8  # of the channels, one part from the frame before, one from the frame after


class ShiftBranch(Branch):
    """Takes some channels of each tapped feature from the frame before, some from the one after.

    TSM puts zeros where there is no such frame; here the frame keeps its own, which published weights expect.
    """

    uses_differences = False

    def __init__(self, *, num_levels: int = 4) -> None:
        super().__init__()
        self.neighbours = torch.nn.ModuleList(Neighbours(1) for _ in range(num_levels))

    def forward(self, features: Sequence[Float[Tensor, "n p c"]], pairs: None, num_frames: int) -> Branched:
        """Return the features with the channels moved."""
        levels = zip(features, self.neighbours, strict=True)
        return Branched(tuple(_shifted(level, neighbours, num_frames) for level, neighbours in levels))


def _shifted(level: Float[Tensor, "n p c"], neighbours: torch.nn.Module, num_frames: int) -> Float[Tensor, "n p c"]:
    share = level.shape[-1] // _SHARE
    moved = level[..., : 2 * share].unflatten(0, (-1, num_frames))
    follows = torch.ones(moved.shape[:2], dtype=torch.bool, device=level.device)
    [earlier], [later] = neighbours(moved, follows)
    parts = [earlier[..., :share].flatten(0, 1), later[..., share:].flatten(0, 1), level[..., 2 * share :]]
    return torch.cat(parts, dim=-1)


def build(spec: EncoderSpec, *, max_frames: int) -> VideoDepth:
    """Build the model; nothing in its branch learns."""
    return VideoDepth(
        pretrained=Encoder(spec),
        head=TemporalDPTHead(spec, max_frames=max_frames),
        branch=ShiftBranch(),
    )
