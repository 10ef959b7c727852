"""The head of Video Depth Anything: from four levels of patch tokens to disparity."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from vdatrain.models.layers.encoder import PATCH_SIZE, EncoderSpec, full_precision
from vdatrain.models.layers.temporal import NO_GUIDANCE, PUBLISHED_FRAMES, Guidance, TemporalModule

FRAMES_PER_CHUNK = 4  # frames that the fine half takes at once without gradients: its memory does not grow with T
OUTPUT_CHANNELS = 32
LAST_LAYER = "head.scratch.output_conv2.2"
"""Name in a model of the layer that makes depth of features: 33 numbers."""


class _ResidualConvUnit(nn.Module):
    """Two convolutions, each after a ReLU, added to their input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, maps: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        return maps + self.conv2(F.relu(self.conv1(F.relu(maps))))


class _FusionBlock(nn.Module):
    """Add a level to the coarser path and resize the sum to the next finer size."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.resConfUnit1 = _ResidualConvUnit(channels)
        self.resConfUnit2 = _ResidualConvUnit(channels)
        self.out_conv = nn.Conv2d(channels, channels, 1)

    def forward(
        self, path: Float[Tensor, "n c h w"], level: Float[Tensor, "n c h w"] | None, size: tuple[int, int]
    ) -> Float[Tensor, "n c y x"]:
        if level is not None:
            path = path + self.resConfUnit1(level)
        return self.out_conv(_resize(self.resConfUnit2(path), size))


class _Decoder(nn.Sequential):
    """Two convolutions from features at full size to disparity."""

    def __init__(self, channels: int) -> None:
        last = nn.Conv2d(OUTPUT_CHANNELS, 1, 1)
        # The result passes a ReLU: started from around zero, whole clips would be dead.
        assert last.bias is not None
        nn.init.ones_(last.bias)
        super().__init__(nn.Conv2d(channels, OUTPUT_CHANNELS, 3, padding=1), nn.ReLU(), last)

    def forward(self, input: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 1 h w"]:
        hidden = self[1](self[0](input))
        # bfloat16 would leave 256 steps of disparity between two powers of two.
        with full_precision(hidden.device):
            return F.relu(self[2](hidden.float()))


def _resize(maps: Float[Tensor, "n c h w"], size: tuple[int, int]) -> Float[Tensor, "n c y x"]:
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=True)


class TemporalDPTHead(nn.Module):
    """DPT (arXiv:2103.13413) with four temporal modules (arXiv:2501.12375, section 3.1).

    The coarse half (levels 3 and 4, all attention over time) runs on whole clips, the fine half (levels 1 and 2, up
    to the full size) frame by frame.
    """

    recompute_fine = False
    """Activation checkpointing: keep only the fine half's inputs and recompute it in the backward pass, a few frames at
    a time; slower, in memory that hardly grows with T."""

    def __init__(self, spec: EncoderSpec, *, max_frames: int = PUBLISHED_FRAMES) -> None:
        super().__init__()
        widths, features = spec.out_channels, spec.features
        self.projects = nn.ModuleList(nn.Conv2d(spec.dim, width, 1) for width in widths)
        self.resize_layers = nn.ModuleList(
            [
                nn.ConvTranspose2d(widths[0], widths[0], 4, stride=4),
                nn.ConvTranspose2d(widths[1], widths[1], 2, stride=2),
                nn.Identity(),
                nn.Conv2d(widths[3], widths[3], 3, stride=2, padding=1),
            ]
        )
        self.scratch = _scratch(features, widths)
        self.motion_modules = nn.ModuleList(
            TemporalModule(width, max_frames=max_frames) for width in temporal_widths(spec)
        )
        # Tokens laid out as maps are channels-last already; so are, with these, all maps up to the end.
        self.to(memory_format=torch.channels_last)

    def forward(
        self,
        features: Sequence[Float[Tensor, "n p c"]],
        grid: tuple[int, int],
        num_frames: int,
        guidance: Sequence[Guidance] = (),
        *,
        shown: int | None = None,
    ) -> Float[Tensor, "m 1 h w"]:
        """Return disparity >= 0, float32.

        n = clips x num_frames, p = rows x columns of `grid`, h and w its pixels. guidance: of each temporal module, or
        none. `shown`: of so many leading frames of each clip, m = clips x shown; None: of all.
        """
        path = self._coarse(features, grid, num_frames, guidance or [NO_GUIDANCE] * len(self.motion_modules))
        inputs = [_leading(maps, num_frames, shown) for maps in (path, features[0], features[1])]
        recompute = torch.is_grad_enabled() and self.recompute_fine
        chunk = FRAMES_PER_CHUNK if recompute or not torch.is_grad_enabled() else len(inputs[0])
        parts = zip(*(maps.split(chunk) for maps in inputs), strict=True)
        if recompute:
            return torch.cat([checkpoint(self._fine, path, pair, grid, use_reentrant=False) for path, *pair in parts])
        return torch.cat([self._fine(path, pair, grid) for path, *pair in parts])

    def _coarse(
        self,
        features: Sequence[Float[Tensor, "n p c"]],
        grid: tuple[int, int],
        num_frames: int,
        guidance: Sequence[Guidance],
    ) -> Float[Tensor, "n d y x"]:
        """Fuse levels 4 and 3, over time; the result has the size of level 2."""
        motion = self.motion_modules
        third = motion[0](self._level(2, features[2], grid), num_frames, guidance[0])
        fourth = motion[1](self._level(3, features[3], grid), num_frames, guidance[1])
        third, fourth = self.scratch["layer3_rn"](third), self.scratch["layer4_rn"](fourth)
        path = self.scratch["refinenet4"](fourth, None, _size(third))
        path = motion[2](path, num_frames, guidance[2])
        path = self.scratch["refinenet3"](path, third, (2 * grid[0], 2 * grid[1]))
        return motion[3](path, num_frames, guidance[3])

    def _fine(
        self,
        path: Float[Tensor, "n d y x"],
        features: Sequence[Float[Tensor, "n p c"]],
        grid: tuple[int, int],
    ) -> Float[Tensor, "n 1 h w"]:
        """Fuse levels 2 and 1 and decode, each frame independently."""
        first, second = (self._level(index, tokens, grid) for index, tokens in enumerate(features))
        first, second = self.scratch["layer1_rn"](first), self.scratch["layer2_rn"](second)
        path = self.scratch["refinenet2"](path, second, _size(first))
        path = self.scratch["refinenet1"](path, first, (8 * grid[0], 8 * grid[1]))
        path = _resize(self.scratch["output_conv1"](path), (PATCH_SIZE * grid[0], PATCH_SIZE * grid[1]))
        return self.scratch["output_conv2"](path)

    def _level(self, index: int, tokens: Float[Tensor, "n p c"], grid: tuple[int, int]) -> Float[Tensor, "n d y x"]:
        """Lay tokens out as a map at the level's width and size: 4, 2, 1 and 1/2 cells a patch."""
        maps = tokens.transpose(1, 2).unflatten(2, grid)
        return self.resize_layers[index](self.projects[index](maps))


def temporal_widths(spec: EncoderSpec) -> tuple[int, ...]:
    """Return the channels of the four temporal modules' maps, in the order in which they run."""
    return (*spec.out_channels[2:], spec.features, spec.features)


def _scratch(features: int, widths: Sequence[int]) -> nn.ModuleDict:
    """Build the layers that have this name in the published weights."""
    layers: dict[str, nn.Module] = {}
    for number, width in enumerate(widths, start=1):
        layers[f"layer{number}_rn"] = nn.Conv2d(width, features, 3, padding=1, bias=False)
        layers[f"refinenet{number}"] = _FusionBlock(features)
    # The coarsest block has no second input: these weights exist in published files, but nothing uses them.
    layers["refinenet4"].get_submodule("resConfUnit1").requires_grad_(False)
    layers["output_conv1"] = nn.Conv2d(features, features // 2, 3, padding=1)
    layers["output_conv2"] = _Decoder(features // 2)
    return nn.ModuleDict(layers)


def _leading(maps: Float[Tensor, "..."], num_frames: int, shown: int | None) -> Float[Tensor, "..."]:
    """Return the leading frames of each clip."""
    return maps if shown is None else maps.unflatten(0, (-1, num_frames))[:, :shown].flatten(0, 1)


def _size(maps: Float[Tensor, "n c h w"]) -> tuple[int, int]:
    return maps.shape[2], maps.shape[3]
