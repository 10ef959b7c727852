"""The published model, its attention over time reading tokens of motion energy, too.

What attends to the token is apart from the attention to frames and added to it, as IP-Adapter (arXiv:2308.06721) does
with image tokens, times the tanh of a strength that is first zero, as in Flamingo (arXiv:2204.14198).
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from vdatrain.models.layers.branch import Branch, Branched
from vdatrain.models.layers.dpt import TemporalDPTHead, temporal_widths
from vdatrain.models.layers.encoder import Encoder, EncoderSpec
from vdatrain.models.layers.statistics import MotionStatistics
from vdatrain.models.layers.temporal import Guidance, MotionTokens
from vdatrain.models.variants.basic import VideoDepth

OWN_PREFIXES = ("branch.",)
USES_DIFFERENCES = True
_WIDTH = 64
_ATTENTIONS = 2  # of a temporal module


class TokenBranch(Branch):
    """A token a frame and temporal module, from statistics of the frame's differences.

    The modules' own projections make keys and values of it.
    """

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.statistics = MotionStatistics()
        self.embed = nn.Linear(self.statistics.count, _WIDTH)
        self.norm = nn.LayerNorm(_WIDTH)
        self.projections = nn.ModuleList(nn.Linear(_WIDTH, width) for width in widths)
        self.strengths = nn.ParameterList(torch.zeros(_ATTENTIONS, width) for width in widths)

    def forward(
        self, features: Sequence[Float[Tensor, "n p c"]], pairs: Float[Tensor, "b t 8 dh dw"], num_frames: int
    ) -> Branched:
        """Return the features unchanged and the tokens."""
        energy = F.gelu(self.norm(self.embed(self.statistics(pairs))))
        tokens = [project(energy) for project in self.projections]
        modules = zip(tokens, self.strengths, strict=True)
        guidance = tuple(Guidance(motion=MotionTokens(token, strength.tanh())) for token, strength in modules)
        return Branched(tuple(features), guidance)


def build(spec: EncoderSpec, *, max_frames: int) -> VideoDepth:
    """Build the model, the branch last: a seed gives every variant the same encoder and head."""
    return VideoDepth(
        pretrained=Encoder(spec),
        head=TemporalDPTHead(spec, max_frames=max_frames),
        branch=TokenBranch(temporal_widths(spec)),
    )
