"""Video Depth Anything's temporal module: each position attends to itself over time."""

import math
from collections.abc import Generator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

PUBLISHED_FRAMES = 32  # rows of the published position table
NUM_HEADS = 8
NUM_GROUPS = 32
MAX_SEQUENCES = 65_535  # attention kernels number the batch in 16 bits of a CUDA grid


def sinusoids(num_frames: int, channels: int) -> Float[Tensor, "1 t c"]:
    """Return the position table of arXiv:1706.03762, section 3.5: sines and cosines by turns."""
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


class _Memory:
    """Keys and values of the latest frames, without positions, which change as frames leave."""

    def __init__(self, num_frames: int) -> None:
        self._num_frames = num_frames
        self._kept: tuple[Tensor, Tensor] | None = None

    def extend(
        self, key: Float[Tensor, "s 1 c"], value: Float[Tensor, "s 1 c"]
    ) -> tuple[Float[Tensor, "s t c"], Float[Tensor, "s t c"]]:
        """Add a frame; returns the kept keys and values, at most `num_frames`, its own last."""
        if self._kept is not None:
            pairs = zip(self._kept, (key, value), strict=True)
            key, value = (torch.cat(pair, dim=1)[:, -self._num_frames :] for pair in pairs)
        self._kept = key, value
        return key, value


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
        self.memory: _Memory | None = None

    def forward(self, tokens: Float[Tensor, "s t c"]) -> Float[Tensor, "s t c"]:
        if self.memory is None:
            placed = self.pos_encoder(tokens)
            projected = (self.to_q(placed), self.to_k(placed), self.to_v(placed))
        else:
            projected = self._recall(tokens, self.memory)
        query, key, value = (part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in projected)
        return self.to_out(_attend(query, key, value).transpose(1, 2).flatten(2))

    def _recall(
        self, tokens: Float[Tensor, "s 1 c"], memory: _Memory
    ) -> tuple[Float[Tensor, "s 1 c"], Float[Tensor, "s t c"], Float[Tensor, "s t c"]]:
        """Return the query of a frame, and keys and values of those before it and its own."""
        keys, values = memory.extend(self.to_k(tokens), self.to_v(tokens))
        places = self.pos_encoder.pe[:, : keys.shape[1]]
        # The projections have no bias: that of a sum is the sum of both.
        return self.to_q(tokens + places[:, -1:]), keys + self.to_k(places), values + self.to_v(places)


def _attend(
    query: Float[Tensor, "s heads t c"], key: Float[Tensor, "s heads k c"], value: Float[Tensor, "s heads k c"]
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
    """AnimateDiff's motion module (arXiv:2307.04725) as VDA (arXiv:2501.12375) uses it."""

    def __init__(self, channels: int, *, max_frames: int = PUBLISHED_FRAMES) -> None:
        super().__init__()
        self.temporal_transformer = _TemporalTransformer(channels, max_frames)

    def forward(self, maps: Float[Tensor, "n c h w"], num_frames: int) -> Float[Tensor, "n c h w"]:
        """Mix each clip's maps over time; n = clips x num_frames.

        Raises ValueError beyond max_frames.
        """
        return self.temporal_transformer(maps, num_frames)


@contextmanager
def remember_frames(model: nn.Module, *, num_frames: int = PUBLISHED_FRAMES) -> Generator[None]:
    """While it lasts, each call of `model` shows the next frame of one clip, alone.

    T = 1, and B as in the call before.

    Temporal attention sees that frame and up to `num_frames - 1` before it, which take the first rows of the position
    table. Unlike in a window no frame sees one after it, so for the first `num_frames` frames it is the window's
    attention under a causal mask. Raises ValueError if the position table has fewer rows.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, _TemporalAttention)]
    for layer in layers:
        known = layer.pos_encoder.pe.shape[1]
        if not 1 <= num_frames <= known:
            raise ValueError(f"{num_frames} frames to remember, the temporal modules were built for 1 to {known}.")
    try:
        for layer in layers:
            layer.memory = _Memory(num_frames)
        yield
    finally:
        for layer in layers:
            layer.memory = None
