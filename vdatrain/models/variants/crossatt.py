"""The published model, its features attending to difference tokens by a gated residual."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from vdatrain.models.layers.branch import Branch, Branched
from vdatrain.models.layers.difference import CELLS_PER_PATCH, ChannelNorm
from vdatrain.models.layers.dpt import TemporalDPTHead
from vdatrain.models.layers.encoder import Encoder, EncoderSpec
from vdatrain.models.variants.basic import VideoDepth

OWN_PREFIXES = ("branch.",)
USES_DIFFERENCES = True
_CHANNELS = 64  # of difference tokens, queries, keys and values
_HEADS = 2
_PATCH_CHANNELS = 32  # of the first of the two steps from cells to tokens
_PATCHES_PER_TOKEN = 2  # rows and columns: 2 x 19 x 19 tokens for a frame of 518x518
_LONGEST_WAVE = 100.0  # of positions, against the shortest of 2 pi patches


class DifferenceTokens(nn.Module):
    """One token for each 2x2 patches of the past difference, and of the future one."""

    def __init__(self) -> None:
        super().__init__()
        colours_and_flag = 4
        self.layers = nn.Sequential(
            nn.Conv2d(colours_and_flag, _PATCH_CHANNELS, CELLS_PER_PATCH, stride=CELLS_PER_PATCH),
            ChannelNorm(_PATCH_CHANNELS),
            nn.GELU(),
            nn.Conv2d(_PATCH_CHANNELS, _CHANNELS, _PATCHES_PER_TOKEN, stride=_PATCHES_PER_TOKEN),
            ChannelNorm(_CHANNELS),
        )
        self.direction = nn.Parameter(torch.randn(2, _CHANNELS))

    def forward(self, pairs: Float[Tensor, "b t 8 dh dw"]) -> Float[Tensor, "n k e"]:
        """Return each frame's tokens, past ones first; n = b x t, cells beyond the edge are still."""
        pairs = pairs.flatten(0, 1)
        cells = CELLS_PER_PATCH * _PATCHES_PER_TOKEN
        bottom, right = (-side % cells for side in pairs.shape[-2:])
        both = F.pad(pairs, (0, right, 0, bottom)).unflatten(1, (2, -1)).flatten(0, 1)
        tokens = self.layers(both).flatten(2).transpose(1, 2).unflatten(0, (-1, 2))
        return (tokens + self.direction[:, None]).flatten(1, 2)


class GatedCrossAttention(nn.Module):
    """Adds to each feature what it reads in difference tokens, times a gate first zero."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.to_q = nn.Linear(dim, _CHANNELS, bias=False)
        self.to_k = nn.Linear(_CHANNELS, _CHANNELS, bias=False)
        self.to_v = nn.Linear(_CHANNELS, _CHANNELS, bias=False)
        self.to_out = nn.Linear(_CHANNELS, dim, bias=False)
        self.gate = nn.Parameter(torch.zeros(dim))

    def forward(
        self,
        features: Float[Tensor, "n p c"],
        tokens: Float[Tensor, "n k e"],
        places: tuple[Float[Tensor, "p e"], Float[Tensor, "k e"]],
    ) -> Float[Tensor, "n p c"]:
        """Return the changed features.

        places: the positions of features and tokens, which draw near to near.
        """
        query, key, value = self.to_q(features), self.to_k(tokens), self.to_v(tokens)
        placed = (query + places[0].to(query.dtype), key + places[1].to(key.dtype), value)
        split = [part.unflatten(-1, (_HEADS, -1)).transpose(1, 2) for part in placed]
        read = F.scaled_dot_product_attention(*split).transpose(1, 2).flatten(2)
        return features + self.gate * self.to_out(read)


class CrossAttentionBranch(Branch):
    """Cross-attention from each tapped level to the frame's difference tokens.

    1.6 GFLOP at 518x518 (vits).

    All tokens of a frame are in reach, so that a patch can tell its own motion from the camera's; other frames are
    not, so that the cost of a frame does not grow with the clip. Tokens of invalid differences say so and stay: where
    there is but one frame there are no others.
    """

    def __init__(self, *, dim: int, num_levels: int = 4) -> None:
        super().__init__()
        self.embed = DifferenceTokens()
        self.levels = nn.ModuleList(GatedCrossAttention(dim) for _ in range(num_levels))

    def forward(
        self, features: Sequence[Float[Tensor, "n p c"]], pairs: Float[Tensor, "b t 8 dh dw"], num_frames: int
    ) -> Branched:
        """Return the features with what they read added."""
        rows, columns = (side // CELLS_PER_PATCH for side in pairs.shape[-2:])
        tokens = self.embed(pairs)
        patches = _places(rows, columns, step=1, device=tokens.device)
        coarse = _places(rows, columns, step=_PATCHES_PER_TOKEN, device=tokens.device)
        places = (patches, coarse.repeat(2, 1))
        levels = zip(features, self.levels, strict=True)
        return Branched(tuple(attend(level, tokens, places) for level, attend in levels))


def _places(rows: int, columns: int, *, step: int, device: torch.device) -> Float[Tensor, "places e"]:
    """Return sines and cosines of the centres, in patches, of squares of step x step patches.

    Every head gets both axes. The product of two places depends on their distance alone and is greatest at none.
    """
    waves = torch.arange(_CHANNELS // _HEADS // 4, device=device)
    frequencies = _LONGEST_WAVE ** (-waves / len(waves))
    axes = (torch.arange(0, side, step, device=device) + step / 2 for side in (rows, columns))
    centres = torch.cartesian_prod(*axes).reshape(-1, 2)
    angles = (centres[:, :, None] * frequencies).flatten(1)
    return torch.cat([angles.sin(), angles.cos()], dim=1).repeat(1, _HEADS)


def build(spec: EncoderSpec, *, max_frames: int) -> VideoDepth:
    """Build the model, the branch last: a seed gives every variant the same encoder and head."""
    return VideoDepth(
        pretrained=Encoder(spec),
        head=TemporalDPTHead(spec, max_frames=max_frames),
        branch=CrossAttentionBranch(dim=spec.dim),
    )
