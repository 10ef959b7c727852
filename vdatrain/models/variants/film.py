"""The published model, its features scaled and shifted frame by frame, by a clip's changes.

After DyFN (arXiv:2605.25308): scale and shift of the depth drift with the mean and deviation of features, which a
small recurrent module there replaces. Here scales and shifts of all channels (FiLM, arXiv:1709.07871) come of each
frame's differences and of how the features' statistics change, through attention over the clip: it sees the frames
that a drift is relative to, and in a stream the last 32.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from vdatrain.models.layers.branch import Branch, Branched
from vdatrain.models.layers.dpt import TemporalDPTHead
from vdatrain.models.layers.encoder import Encoder, EncoderSpec
from vdatrain.models.layers.neighbours import Neighbours
from vdatrain.models.layers.statistics import MotionStatistics
from vdatrain.models.layers.temporal import TemporalAttention
from vdatrain.models.variants.basic import VideoDepth

OWN_PREFIXES = ("branch.",)
USES_DIFFERENCES = True
_WIDTH = 64  # channels of what describes a frame
_LEVELS = 4
_LEAST_VARIANCE = 1e-6


class FeatureChanges(nn.Module):
    """How mean and deviation of each level's tokens change, from frame to frame."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.project = nn.Linear(2 * dim * _LEVELS, _WIDTH, bias=False)
        self.neighbours = Neighbours(1)

    def forward(
        self, features: Sequence[Float[Tensor, "n p c"]], diff_valid: Bool[Tensor, "b t"]
    ) -> Float[Tensor, "b t e"]:
        """Return both changes, projected; zeros where frames do not follow one another."""
        numbers: list[Tensor] = []
        for level in features:
            variance, mean = torch.var_mean(level.float(), dim=1, correction=0)
            numbers += [mean, (variance + _LEAST_VARIANCE).log() / 2]
        # A projection without a bias: the change of it is that of the numbers.
        projected = self.project(torch.cat(numbers, dim=1)).unflatten(0, diff_valid.shape)
        [earlier], [later] = self.neighbours(projected, diff_valid)
        return torch.cat([projected - earlier, later - projected], dim=2)


class ModulationBranch(Branch):
    """Scales and shifts the channels of each tapped level, frame by frame."""

    def __init__(self, *, dim: int, max_frames: int) -> None:
        super().__init__()
        self.statistics = MotionStatistics()
        self.changes = FeatureChanges(dim)
        self.embed = nn.Linear(self.statistics.count + 2 * _WIDTH, _WIDTH)
        self.norms = nn.ModuleList(nn.LayerNorm(_WIDTH) for _ in range(2))
        self.attention = TemporalAttention(_WIDTH, max_frames)
        self.modulate = nn.ModuleList(nn.Linear(_WIDTH, 2 * dim) for _ in range(_LEVELS))
        for parameter in self.modulate.parameters():
            nn.init.zeros_(parameter)

    def forward(
        self, features: Sequence[Float[Tensor, "n p c"]], pairs: Float[Tensor, "b t 8 dh dw"], num_frames: int
    ) -> Branched:
        """Return the features modulated."""
        follows = pairs[:, :, 3, 0, 0] > 0
        described = torch.cat([self.statistics(pairs), self.changes(features, follows)], dim=2)
        frames = F.gelu(self.norms[0](self.embed(described)))
        frames = (frames + self.attention(self.norms[1](frames))).flatten(0, 1)[:, None]
        changed: list[Tensor] = []
        for level, modulate in zip(features, self.modulate, strict=True):
            scale, shift = modulate(frames).chunk(2, dim=2)
            changed.append(level + (level * scale + shift))
        return Branched(tuple(changed))


def build(spec: EncoderSpec, *, max_frames: int) -> VideoDepth:
    """Build the model, the branch last: a seed gives every variant the same encoder and head."""
    return VideoDepth(
        pretrained=Encoder(spec),
        head=TemporalDPTHead(spec, max_frames=max_frames),
        branch=ModulationBranch(dim=spec.dim, max_frames=max_frames),
    )
