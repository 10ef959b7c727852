"""The published model plus frame differences at low levels, feature differences as gates.

After TDN (arXiv:2012.10071): its short-term module adds an embedding of frame differences to early features, its
long-term one gates channels by differences of later features in both directions; ACTION-Net (arXiv:2103.07372) excites
channels likewise. Here the features' differences are over 1, 2 and 4 frames.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from vdatrain.models.layers.branch import Branch, Branched
from vdatrain.models.layers.difference import EMBED_DIM, DifferenceCNN
from vdatrain.models.layers.dpt import TemporalDPTHead
from vdatrain.models.layers.encoder import Encoder, EncoderSpec
from vdatrain.models.layers.neighbours import Neighbours
from vdatrain.models.variants.basic import VideoDepth

OWN_PREFIXES = ("branch.",)
USES_DIFFERENCES = True
_LOW_LEVELS = 2  # tapped levels that the embedding of differences is added to
_DISTANCES = (1, 2, 4)  # frames
_REDUCTION = 16  # channels of a level for one that is compared


class ChannelGates(nn.Module):
    """Scales a level's channels, patch by patch, by how its features differ from neighbours'."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        reduced = dim // _REDUCTION
        self.reduce = nn.Linear(dim, reduced, bias=False)
        self.neighbours = Neighbours(*_DISTANCES)
        self.mix = nn.Linear(2 * len(_DISTANCES) * reduced, reduced)
        self.expand = nn.Linear(reduced, dim, bias=False)
        nn.init.zeros_(self.expand.weight)

    def forward(self, level: Float[Tensor, "n p c"], diff_valid: Bool[Tensor, "b t"]) -> Float[Tensor, "n p c"]:
        """Return the level, channels times 0 to 2."""
        own = self.reduce(level).unflatten(0, diff_valid.shape)
        earlier, later = self.neighbours(own, diff_valid)
        changes = torch.cat([own - frame for frame in earlier] + [frame - own for frame in later], dim=-1)
        gates = self.expand(F.gelu(self.mix(changes))).tanh()
        return level + level * gates.flatten(0, 1)


class TemporalDifferenceBranch(Branch):
    """Frame differences added to the first levels, feature differences as gates of all."""

    def __init__(self, *, dim: int, num_levels: int = 4) -> None:
        super().__init__()
        self.embed = DifferenceCNN()
        self.projections = nn.ModuleList(nn.Linear(EMBED_DIM, dim, bias=False) for _ in range(_LOW_LEVELS))
        self.gates = nn.ModuleList(ChannelGates(dim) for _ in range(num_levels))
        for parameter in self.projections.parameters():
            nn.init.zeros_(parameter)

    def forward(
        self, features: Sequence[Float[Tensor, "n p c"]], pairs: Float[Tensor, "b t 8 dh dw"], num_frames: int
    ) -> Branched:
        """Return the features gated, the first ones with the embedding added."""
        follows = pairs[:, :, 3, 0, 0] > 0
        embedding = self.embed(pairs)
        changed = [gate(level, follows) for level, gate in zip(features, self.gates, strict=True)]
        for index, project in enumerate(self.projections):
            changed[index] = changed[index] + project(embedding)
        return Branched(tuple(changed))


def build(spec: EncoderSpec, *, max_frames: int) -> VideoDepth:
    """Build the model, the branch last: a seed gives every variant the same encoder and head."""
    return VideoDepth(
        pretrained=Encoder(spec),
        head=TemporalDPTHead(spec, max_frames=max_frames),
        branch=TemporalDifferenceBranch(dim=spec.dim),
    )
