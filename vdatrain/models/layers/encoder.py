"""DINOv2's encoder, built of timm's blocks: from frames to four levels of patch tokens."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from types import MappingProxyType

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from vdaprep.errors import UsageError

PATCH_SIZE = 14  # pixels
TABLE_SIDE = 37  # rows and columns of the stored position table: 518 pixels, DINOv2's training size
TABLE_OFFSET = 0.1  # DINOv2 adds it to the wanted size before it divides, against rounding down


@dataclass(frozen=True)
class EncoderSpec:
    """The sizes of an encoder and of the head that fits it."""

    dim: int
    """Channels of a token."""
    depth: int
    """Transformer blocks."""
    num_heads: int
    """Attention heads of a block."""
    taps: tuple[int, ...]
    """The four blocks whose outputs are the head's inputs, ascending; the last is the last block."""
    features: int
    """Channels inside the head."""
    out_channels: tuple[int, ...]
    """Channels of the head's four levels."""
    timm_name: str | None = None
    """timm's model whose DINOv2 weights fit, None if there are none."""

    def __post_init__(self) -> None:
        if len(self.taps) != 4 or len(self.out_channels) != 4:
            raise ValueError(f"the head takes four levels, found {self.taps} and {self.out_channels}.")
        if sorted(set(self.taps)) != list(self.taps) or self.taps[-1] != self.depth - 1:
            raise ValueError(f"taps must ascend to the last of {self.depth} blocks, found {self.taps}.")
        if self.dim % self.num_heads:
            raise ValueError(f"{self.dim} channels do not split into {self.num_heads} heads.")


ENCODERS: Mapping[str, EncoderSpec] = MappingProxyType(
    {
        "tiny": EncoderSpec(
            dim=192, depth=4, num_heads=3, taps=(0, 1, 2, 3), features=32, out_channels=(32, 32, 64, 64)
        ),
        "vits": EncoderSpec(
            dim=384,
            depth=12,
            num_heads=6,
            taps=(2, 5, 8, 11),
            features=64,
            out_channels=(48, 96, 192, 384),
            timm_name="vit_small_patch14_dinov2",
        ),
        "vitb": EncoderSpec(
            dim=768,
            depth=12,
            num_heads=12,
            taps=(2, 5, 8, 11),
            features=128,
            out_channels=(96, 192, 384, 768),
            timm_name="vit_base_patch14_dinov2",
        ),
        "vitl": EncoderSpec(
            dim=1024,
            depth=24,
            num_heads=16,
            taps=(4, 11, 17, 23),
            features=256,
            out_channels=(256, 512, 1024, 1024),
            timm_name="vit_large_patch14_dinov2",
        ),
    }
)


def encoder_spec(name: str) -> EncoderSpec:
    """Look an encoder up; raises UsageError for an unknown name."""
    if name not in ENCODERS:
        raise UsageError(f"encoder {name!r} is not known; choose one of {', '.join(ENCODERS)}.")
    return ENCODERS[name]


def patch_grid(height: int, width: int) -> tuple[int, int]:
    """Return the rows and columns of patches; raises ValueError if they are not whole."""
    if height < PATCH_SIZE or width < PATCH_SIZE or height % PATCH_SIZE or width % PATCH_SIZE:
        raise ValueError(f"frames are {width}x{height} pixels, expected multiples of {PATCH_SIZE}.")
    return height // PATCH_SIZE, width // PATCH_SIZE


def full_precision(device: torch.device) -> AbstractContextManager[object]:
    """Suspend autocast on `device`, where it has any (`meta` has none)."""
    if not torch.amp.is_autocast_available(device.type):
        return nullcontext()
    return torch.autocast(device_type=device.type, enabled=False)


class Encoder(nn.Module):
    """DINOv2 (arXiv:2304.07193) with the published names of its weights."""

    recompute = False
    """Activation checkpointing: keep only the inputs of each block and recompute the rest in the backward pass."""
    frozen = False
    """Always in eval mode, and without a graph."""

    def __init__(self, spec: EncoderSpec) -> None:
        super().__init__()
        with torch.device("cpu"):  # torch 2.6 cannot be imported in full where tensors are made on the meta device
            from timm.models.vision_transformer import VisionTransformer  # takes seconds: never at the top

        vit = VisionTransformer(
            img_size=TABLE_SIDE * PATCH_SIZE,
            patch_size=PATCH_SIZE,
            embed_dim=spec.dim,
            depth=spec.depth,
            num_heads=spec.num_heads,
            num_classes=0,
            init_values=1.0,  # of LayerScale, as VDA builds DINOv2
        )
        assert vit.cls_token is not None
        assert vit.pos_embed is not None
        self.taps = spec.taps
        self.cls_token = vit.cls_token
        self.pos_embed = vit.pos_embed
        # Only DINOv2's own training masks patches; the published weights hold the token all the same.
        self.mask_token = nn.Parameter(torch.zeros(1, spec.dim), requires_grad=False)
        self.patch_embed = vit.patch_embed
        assert isinstance(vit.blocks, nn.Sequential)
        self.blocks = vit.blocks
        self.norm = vit.norm

    def train(self, mode: bool = True) -> "Encoder":
        """Change to training or to eval mode; frozen it is always in the latter."""
        return super().train(mode and not self.frozen)

    def forward(self, frames: Float[Tensor, "n 3 h w"]) -> tuple[Float[Tensor, "n p c"], ...]:
        """Return the tapped blocks' patch tokens after the final norm, p = rows x columns."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            return self._levels(frames)

    def _levels(self, frames: Float[Tensor, "n 3 h w"]) -> tuple[Float[Tensor, "n p c"], ...]:
        recompute = torch.is_grad_enabled() and self.recompute
        grid = patch_grid(*frames.shape[-2:])
        patches = self.patch_embed.proj(frames).flatten(2).transpose(1, 2)
        cls_token = self.cls_token.expand(len(frames), -1, -1)
        tokens = torch.cat([cls_token, patches], dim=1) + self._positions(grid)
        levels: list[Tensor] = []
        for index, block in enumerate(self.blocks):
            tokens = checkpoint(block, tokens, use_reentrant=False) if recompute else block(tokens)
            if index in self.taps:
                levels.append(self.norm(tokens)[:, 1:])
        return tuple(levels)

    def _positions(self, grid: tuple[int, int]) -> Float[Tensor, "1 tokens c"]:
        """Resample the position table as dinov2's `interpolate_pos_encoding` does.

        Bicubic resampling is separable; two small matrix products have a deterministic gradient on every device,
        `interpolate` itself has none on a GPU.
        """
        if grid == (TABLE_SIDE, TABLE_SIDE):
            return self.pos_embed
        with full_precision(self.pos_embed.device):
            table = self.pos_embed[:, 1:].float().unflatten(1, (TABLE_SIDE, TABLE_SIDE))
            rows, columns = (_resampling(side, device=table.device) for side in grid)
            resampled = torch.einsum("yr, xs, nrsc -> nyxc", rows, columns, table).flatten(1, 2)
        return torch.cat([self.pos_embed[:, :1], resampled.to(self.pos_embed.dtype)], dim=1)


def _resampling(side: int, *, device: torch.device) -> Float[Tensor, "side table"]:
    """Return the matrix that resamples one axis of the position table to `side` entries."""
    identity = torch.eye(TABLE_SIDE, device=device)[None, None]
    scale = (side + TABLE_OFFSET) / TABLE_SIDE
    return F.interpolate(identity, scale_factor=(scale, 1.0), mode="bicubic")[0, 0]
