"""The temporal module of Video Depth Anything: every position of a feature map attends to itself over time."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

PUBLISHED_FRAMES = 32  # rows of the published position table
NUM_HEADS = 8
NUM_GROUPS = 32
MAX_SEQUENCES = 65_535  # attention kernels number the batch in 16 bits of a CUDA grid


def sinusoids(num_frames: int, channels: int) -> Float[Tensor, "1 t c"]:
    """Return the position table of arXiv:1706.03762, section 3.5: sines on even channels, cosines on odd ones."""
    frequencies = torch.exp(torch.arange(0, channels, 2) * (-math.log(10_000.0) / channels))
    angles = torch.arange(num_frames)[:, None] * frequencies
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)[None]


class _PositionEncoder(nn.Module):
    """Adds its row of the table to each frame."""

    def __init__(self, channels: int, max_frames: int) -> None:
        super().__init__()
        self.pe: Tensor
        self.register_buffer("pe", sinusoids(max_frames, channels))

    def forward(self, tokens: Float[Tensor, "s t c"]) -> Float[Tensor, "s t c"]:
        T, known = tokens.shape[1], self.pe.shape[1]
        if known < T:
            raise ValueError(f"a clip of {T} frames, the temporal modules were built for at most {known}.")
        return tokens + self.pe[:, :T]


class _TemporalAttention(nn.Module):
    """Self-attention along the frames of each sequence."""

    def __init__(self, channels: int, max_frames: int) -> None:
        super().__init__()
        self.num_heads = math.gcd(NUM_HEADS, channels)
        self.to_q = nn.Linear(channels, channels, bias=False)
        self.to_k = nn.Linear(channels, channels, bias=False)
        self.to_v = nn.Linear(channels, channels, bias=False)
        self.to_out = nn.Sequential(nn.Linear(channels, channels))
        self.pos_encoder = _PositionEncoder(channels, max_frames)

    def forward(self, tokens: Float[Tensor, "s t c"]) -> Float[Tensor, "s t c"]:
        placed = self.pos_encoder(tokens)
        query, key, value = (
            project(placed).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for project in (self.to_q, self.to_k, self.to_v)
        )
        return self.to_out(_attend(query, key, value).transpose(1, 2).flatten(2))


def _attend(
    query: Float[Tensor, "s heads t c"], key: Float[Tensor, "s heads t c"], value: Float[Tensor, "s heads t c"]
) -> Float[Tensor, "s heads t c"]:
    if len(query) <= MAX_SEQUENCES:
        return F.scaled_dot_product_attention(query, key, value)
    parts = zip(query.split(MAX_SEQUENCES), key.split(MAX_SEQUENCES), value.split(MAX_SEQUENCES), strict=True)
    return torch.cat([F.scaled_dot_product_attention(*part) for part in parts])


class _GatedProjection(nn.Module):
    """GEGLU (arXiv:2002.05202): one half of the projection gates the other."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.proj = nn.Linear(channels, 2 * hidden)

    def forward(self, tokens: Float[Tensor, "s t c"]) -> Float[Tensor, "s t d"]:
        value, gate = self.proj(tokens).chunk(2, dim=-1)
        return value * F.gelu(gate)


class _FeedForward(nn.Module):
    """Two layers with four times the width between them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = 4 * channels
        # The identity keeps the place of the published dropout, whose rate is 0.
        self.net = nn.Sequential(_GatedProjection(channels, hidden), nn.Identity(), nn.Linear(hidden, channels))

    def forward(self, tokens: Float[Tensor, "s t c"]) -> Float[Tensor, "s t c"]:
        return self.net(tokens)


class _TemporalBlock(nn.Module):
    """Two attentions and a feed-forward part, each on the normalised tokens and added to them."""

    def __init__(self, channels: int, max_frames: int) -> None:
        super().__init__()
        self.attention_blocks = nn.ModuleList(_TemporalAttention(channels, max_frames) for _ in range(2))
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(2))
        self.ff = _FeedForward(channels)
        self.ff_norm = nn.LayerNorm(channels)

    def forward(self, tokens: Float[Tensor, "s t c"]) -> Float[Tensor, "s t c"]:
        for attention, norm in zip(self.attention_blocks, self.norms, strict=True):
            tokens = tokens + attention(norm(tokens))
        return tokens + self.ff(self.ff_norm(tokens))


class _TemporalTransformer(nn.Module):
    """One temporal block between two projections, the second of which starts at zero."""

    def __init__(self, channels: int, max_frames: int) -> None:
        super().__init__()
        # Published widths give 32 groups; a narrow map gets fewer, since a group of one channel loses its mean.
        self.norm = nn.GroupNorm(math.gcd(NUM_GROUPS, channels // 2), channels, eps=1e-6)
        self.proj_in = nn.Linear(channels, channels)
        self.transformer_blocks = nn.ModuleList([_TemporalBlock(channels, max_frames)])
        self.proj_out = nn.Linear(channels, channels)
        nn.init.zeros_(self.proj_out.weight)
        nn.init.zeros_(self.proj_out.bias)

    def forward(self, maps: Float[Tensor, "n c h w"], num_frames: int) -> Float[Tensor, "n c h w"]:
        N, _, H, W = maps.shape
        B, T = N // num_frames, num_frames
        # One sequence a position: [B*T, C, H, W] -> [B*H*W, T, C].
        tokens = self.norm(maps).unflatten(0, (B, T)).permute(0, 3, 4, 1, 2).flatten(0, 2)
        tokens = self.proj_in(tokens)
        for block in self.transformer_blocks:
            tokens = block(tokens)
        change = self.proj_out(tokens).unflatten(0, (B, H, W)).permute(0, 3, 4, 1, 2)
        return maps + change.flatten(0, 1)


class TemporalModule(nn.Module):
    """The motion module of AnimateDiff (arXiv:2307.04725) as Video Depth Anything (arXiv:2501.12375) uses it."""

    def __init__(self, channels: int, *, max_frames: int = PUBLISHED_FRAMES) -> None:
        super().__init__()
        self.temporal_transformer = _TemporalTransformer(channels, max_frames)

    def forward(self, maps: Float[Tensor, "n c h w"], num_frames: int) -> Float[Tensor, "n c h w"]:
        """Mix the maps of each clip over time; n = clips x num_frames. Raises ValueError beyond max_frames."""
        return self.temporal_transformer(maps, num_frames)
