"""The published model, its mixing over time gated by the differences, position by position.

After CODD (arXiv:2111.09337), whose weights fuse the memory of a depth with the frame's own where they agree, and
STDNet (arXiv:2508.01259), whose differences say where neighbours help: still regions may keep what their neighbours
say, changed ones the frame's own features.
"""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from vdatrain.models.layers.branch import Branch, Branched
from vdatrain.models.layers.difference import PAIR_CHANNELS, ChannelNorm
from vdatrain.models.layers.dpt import TemporalDPTHead, temporal_widths
from vdatrain.models.layers.encoder import Encoder, EncoderSpec
from vdatrain.models.layers.temporal import Guidance
from vdatrain.models.variants.basic import VideoDepth

OWN_PREFIXES = ("branch.",)
USES_DIFFERENCES = True
_WIDTHS = (16, 32)


class GateBranch(Branch):
    """A small CNN from differences to one gate a patch for each temporal module.

    The module's change of a frame is multiplied by 0 (the frame's own features) to 2; at first by 1, as published.
    """

    def __init__(self, *, num_modules: int) -> None:
        super().__init__()
        gates = nn.Conv2d(_WIDTHS[1], num_modules, 3, padding=1)
        self.layers = nn.Sequential(
            nn.Conv2d(PAIR_CHANNELS, _WIDTHS[0], 3, stride=2, padding=1),
            ChannelNorm(_WIDTHS[0]),
            nn.GELU(),
            nn.Conv2d(_WIDTHS[0], _WIDTHS[1], 3, stride=2, padding=1),
            ChannelNorm(_WIDTHS[1]),
            nn.GELU(),
            gates,
        )
        for parameter in gates.parameters():
            nn.init.zeros_(parameter)

    def forward(
        self, features: Sequence[Float[Tensor, "n p c"]], pairs: Float[Tensor, "b t 8 dh dw"], num_frames: int
    ) -> Branched:
        """Return the features unchanged and the gates."""
        gates = self.layers(pairs.flatten(0, 1)).split(1, dim=1)
        return Branched(tuple(features), tuple(Guidance(gate=gate) for gate in gates))


def build(spec: EncoderSpec, *, max_frames: int) -> VideoDepth:
    """Build the model, the branch last: a seed gives every variant the same encoder and head."""
    return VideoDepth(
        pretrained=Encoder(spec),
        head=TemporalDPTHead(spec, max_frames=max_frames),
        branch=GateBranch(num_modules=len(temporal_widths(spec))),
    )
