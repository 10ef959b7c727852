"""The difference branch: embeds differences of frames, adds them to the encoder's features."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from vdatrain.models.layers.branch import Branch, Branched

CELLS_PER_PATCH = 4  # rows and columns of the difference frame a patch: 148x148 for a frame of 518x518
_STRIDES = {2: (2, 1, 1), 4: (2, 2, 1), 8: (2, 2, 2)}  # of the CNN's convolutions, by cells a patch
GREY_LEVELS_PER_UNIT = 32  # typical motion changes a cell by some ten grey levels; the CNN sees it near 1
PAIR_CHANNELS = 8  # three colours and a flag, past and future
WIDTHS = (32, 64)
EMBED_DIM = 128


def past_and_future(
    differences: Float[Tensor, "b t 3 dh dw"], diff_valid: Bool[Tensor, "b t"]
) -> Float[Tensor, "b t 8 dh dw"]:
    """Concatenate each frame's difference to the frame before it and to the frame after it.

    Channels: past difference (3), 1 where it is valid, future difference (3), 1 where it is valid. What is invalid,
    the future of the last frame included, is zero. They are not summed: a flash of one frame would cancel.

    differences: signed, in grey levels / 255; those returned are in units of GREY_LEVELS_PER_UNIT.
    """
    differences = differences * (255 / GREY_LEVELS_PER_UNIT)
    flag = diff_valid[:, :, None, None, None].expand_as(differences[:, :, :1])
    past = torch.cat([torch.where(flag, differences, 0), flag.to(differences.dtype)], dim=2)
    future = torch.cat([past[:, 1:], torch.zeros_like(past[:, :1])], dim=1)
    return torch.cat([past, future], dim=2)


def without_future(pairs: Float[Tensor, "b t 8 dh dw"]) -> Float[Tensor, "b t 8 dh dw"]:
    """Return pairs as `past_and_future` gives them, every future difference invalid."""
    past = pairs[:, :, : PAIR_CHANNELS // 2]
    return torch.cat([past, torch.zeros_like(past)], dim=2)


def check_cells(differences: Float[Tensor, "b t 3 dh dw"], grid: tuple[int, int], cells: int) -> None:
    """Raise ValueError unless each patch of `grid` has so many cells each way."""
    rows, columns = (cells * side for side in grid)
    if differences.shape[-2:] != (rows, columns):
        found = "x".join(str(side) for side in reversed(differences.shape[-2:]))
        raise ValueError(f"differences of {found} cells, expected {columns}x{rows}: {cells} a patch.")


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of each cell.

    Unlike a norm over the whole map it leaves still regions as they are, whatever moves elsewhere.
    """

    def forward(self, input: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """Return the cells normalised, scaled and shifted."""
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class DifferenceCNN(nn.Module):
    """Three convolutions from difference frames to an embedding a patch.

    0.28 GFLOP a frame of 518x518. cells: rows and columns of differences a patch: 2, 4 or 8, by as many parameters.
    """

    def __init__(self, cells: int = CELLS_PER_PATCH) -> None:
        super().__init__()
        first, second, third = _STRIDES[cells]
        self.layers = nn.Sequential(
            nn.Conv2d(PAIR_CHANNELS, WIDTHS[0], 3, stride=first, padding=1),
            ChannelNorm(WIDTHS[0]),
            nn.GELU(),
            nn.Conv2d(WIDTHS[0], WIDTHS[1], 3, stride=second, padding=1),
            ChannelNorm(WIDTHS[1]),
            nn.GELU(),
            nn.Conv2d(WIDTHS[1], EMBED_DIM, 3, stride=third, padding=1),
            ChannelNorm(EMBED_DIM),
        )

    def forward(self, pairs: Float[Tensor, "b t 8 dh dw"]) -> Float[Tensor, "n p e"]:
        """Return the embedding of each patch; n = b x t, p = dh x dw / cells^2."""
        return self.layers(pairs.flatten(0, 1)).flatten(2).transpose(1, 2)


class DifferenceBranch(Branch):
    """Adds an embedding of differences to each tapped feature, by a projection first zero.

    With DifferenceCNN it costs 0.82 GFLOP a frame of 518x518 at 384 channels (vits), 1.71 at 1024 (vitl).
    """

    def __init__(self, embed: nn.Module, *, embed_dim: int, dim: int, num_levels: int = 4) -> None:
        super().__init__()
        self.embed = embed
        self.projections = nn.ModuleList(nn.Linear(embed_dim, dim, bias=False) for _ in range(num_levels))
        for parameter in self.projections.parameters():
            nn.init.zeros_(parameter)

    def forward(
        self, features: Sequence[Float[Tensor, "n p c"]], pairs: Float[Tensor, "b t 8 dh dw"], num_frames: int
    ) -> Branched:
        """Return the features with the projected embedding added."""
        embedding = self.embed(pairs)
        levels = zip(features, self.projections, strict=True)
        return Branched(tuple(level + project(embedding) for level, project in levels))
