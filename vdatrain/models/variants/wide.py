"""Control: the published model with as many parameters as `conv`, without differences."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from vdatrain.models.layers.branch import Branch, Branched
from vdatrain.models.layers.dpt import TemporalDPTHead
from vdatrain.models.layers.encoder import Encoder, EncoderSpec
from vdatrain.models.variants import conv
from vdatrain.models.variants.basic import VideoDepth

OWN_PREFIXES = ("branch.",)
USES_DIFFERENCES = False


class Adapter(nn.Module):
    """Two layers with a bottleneck (arXiv:1902.00751), added to their input; at first zero."""

    def __init__(self, dim: int, *, hidden: int) -> None:
        super().__init__()
        self.down = nn.Linear(dim, hidden)
        self.up = nn.Linear(hidden, dim, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, tokens: Float[Tensor, "n p c"]) -> Float[Tensor, "n p c"]:
        """Return the changed tokens."""
        return tokens + self.up(F.gelu(self.down(tokens)))


class AdapterBranch(Branch):
    """An adapter a tapped level; together they have, within a per cent, so many parameters."""

    uses_differences = False

    def __init__(self, *, dim: int, parameters: int, num_levels: int = 4) -> None:
        super().__init__()
        hidden = max(1, round(parameters / num_levels / (2 * dim + 1)))
        self.levels = nn.ModuleList(Adapter(dim, hidden=hidden) for _ in range(num_levels))

    def forward(self, features: Sequence[Float[Tensor, "n p c"]], pairs: None, num_frames: int) -> Branched:
        """Return the features as the adapters change them."""
        return Branched(tuple(adapt(level) for level, adapt in zip(features, self.levels, strict=True)))


def build(spec: EncoderSpec, *, max_frames: int) -> VideoDepth:
    """Build the model, the branch last: a seed gives every variant the same encoder and head."""
    with torch.device("meta"):
        counted = sum(parameter.numel() for parameter in conv.make_branch(spec).parameters())
    return VideoDepth(
        pretrained=Encoder(spec),
        head=TemporalDPTHead(spec, max_frames=max_frames),
        branch=AdapterBranch(dim=spec.dim, parameters=counted),
    )
