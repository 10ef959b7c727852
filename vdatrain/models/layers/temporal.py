"""Video Depth Anything's temporal module: each position attends to itself over time."""

import math
from collections.abc import Generator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from vdatrain.models.layers.neighbours import Neighbours

PUBLISHED_FRAMES = 32  # rows of the published position table
NUM_HEADS = 8
NUM_GROUPS = 32
MAX_SEQUENCES = 65_535  # attention kernels number the batch in 16 bits of a CUDA grid


class MotionTokens(NamedTuple):
    """A token a frame, which a temporal module's attention reads beside the frames."""

    tokens: Float[Tensor, "b t c"]
    """Of the module's width, the same for all positions of a frame."""
    strength: Float[Tensor, "attentions c"]
    """How much of what is read is added, for each of the module's attentions and channels."""


class Guidance(NamedTuple):
    """What a variant's branch tells a temporal module."""

    gate: Float[Tensor, "n 1 y x"] | None = None
    """Positions' gates, of any size: the module's change of a frame is multiplied by 1 + tanh of it, 0 to 2."""
    motion: MotionTokens | None = None
    """Tokens to attend to as well."""


NO_GUIDANCE = Guidance()


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


def chunk_mask(num_frames: int, chunk: int, *, device: torch.device) -> Bool[Tensor, "t t"]:
    """Return which frames (columns) each frame (rows) sees: up to the last of its chunk."""
    chunks = torch.arange(num_frames, device=device) // chunk
    return chunks[None, :] <= chunks[:, None]


class _Memory:
    """Keys and values of the latest frames, without positions, which change as frames leave."""

    def __init__(self, num_frames: int) -> None:
        self._num_frames = num_frames
        self._kept: tuple[Tensor, Tensor] | None = None

    def extend(
        self, key: Float[Tensor, "s n c"], value: Float[Tensor, "s n c"]
    ) -> tuple[Float[Tensor, "s t c"], Float[Tensor, "s t c"]]:
        """Add frames; returns the kept keys and values, at most `num_frames`, theirs last."""
        if self._kept is not None:
            pairs = zip(self._kept, (key, value), strict=True)
            key, value = (torch.cat(pair, dim=1)[:, -self._num_frames :] for pair in pairs)
        self._kept = key, value
        return key, value

    def places(
        self, table: Float[Tensor, "1 r c"], *, known: int, new: int
    ) -> tuple[Float[Tensor, "1 t c"], Float[Tensor, "1 n c"]]:
        """Return the position table's rows for `known` keys, and for the `new` frames of them."""
        return table[:, :known], table[:, known - new : known]

    @property
    def mask(self) -> Bool[Tensor, "1 t"] | None:
        """Which keys are of frames; None: all."""
        return None

    def sizes(self) -> tuple[int, int]:
        """Return sequences and channels of what is kept; zeros of a memory that has seen no frame."""
        return (0, 0) if self._kept is None else (self._kept[0].shape[0], self._kept[0].shape[2])


class FixedMemory(_Memory):
    """A memory of fixed size, given and taken away as tensors, for graphs without state.

    Args:
        keys, values: of the frames before, in the first places; the others hold anything.
        seen: how many frames those are.
    """

    def __init__(self, keys: Float[Tensor, "s m c"], values: Float[Tensor, "s m c"], seen: Int64[Tensor, ""]) -> None:
        super().__init__(keys.shape[1] + 1)
        self.keys, self.values = keys, values
        self._seen = seen

    def extend(
        self, key: Float[Tensor, "s 1 c"], value: Float[Tensor, "s 1 c"]
    ) -> tuple[Float[Tensor, "s t c"], Float[Tensor, "s t c"]]:
        """Add a frame, behind all places; then it takes the first free one, or the oldest's."""
        together = torch.cat([self.keys, key], dim=1), torch.cat([self.values, value], dim=1)
        self.keys, self.values = (self._with(kept, new) for kept, new in ((self.keys, key), (self.values, value)))
        return together

    def places(
        self, table: Float[Tensor, "1 r c"], *, known: int, new: int
    ) -> tuple[Float[Tensor, "1 t c"], Float[Tensor, "1 n c"]]:
        """Return the rows of all places, the new frame's behind them."""
        own = table.index_select(1, self._seen[None])
        return torch.cat([table[:, : known - new], own], dim=1), own

    @property
    def mask(self) -> Bool[Tensor, "1 t"] | None:
        """The places that hold a frame, and the new one."""
        number = torch.arange(self._num_frames, device=self._seen.device)
        return ((number < self._seen) | (number == self._num_frames - 1))[None]

    def _with(self, kept: Float[Tensor, "s m c"], new: Float[Tensor, "s 1 c"]) -> Float[Tensor, "s m c"]:
        room = self._num_frames - 1
        number = torch.arange(room, device=kept.device)[:, None]
        added = torch.where(number == self._seen, new, kept)
        moved = torch.cat([kept[:, 1:], new], dim=1)
        return torch.where(self._seen < room, added, moved)


class TemporalAttention(nn.Module):
    """Self-attention along the frames of each sequence."""

    chunk: int | None = None
    """Frames of a chunk, which see each other and those before; None: all see all. `set_attention` sets it."""

    def __init__(self, channels: int, max_frames: int) -> None:
        super().__init__()
        self.num_heads = math.gcd(NUM_HEADS, channels)
        self.to_q = nn.Linear(channels, channels, bias=False)
        self.to_k = nn.Linear(channels, channels, bias=False)
        self.to_v = nn.Linear(channels, channels, bias=False)
        self.to_out = nn.Sequential(nn.Linear(channels, channels))
        self.pos_encoder = _PositionEncoder(channels, max_frames)
        self.memory: _Memory | None = None
        self.motion_memory: _Memory | None = None

    def remember(self, num_frames: int | None) -> None:
        """Begin a stream, in which each call shows the next frames, or end it with None."""
        self.memory, self.motion_memory = (None if num_frames is None else _Memory(num_frames) for _ in range(2))

    def forward(
        self,
        tokens: Float[Tensor, "s t c"],
        motion: tuple[Float[Tensor, "b t c"], Float[Tensor, " c"]] | None = None,
    ) -> Float[Tensor, "s t c"]:
        """Return what each frame reads in its sequence and, times a strength, in its clip's tokens.

        The s sequences are those of b clips, position after position.
        """
        if self.memory is None:
            placed = self.pos_encoder(tokens)
            query, key, value = self.to_q(placed), self.to_k(placed), self.to_v(placed)
        else:
            key, value, own = self._recall(tokens, self.memory)
            query = self.to_q(tokens + own)
        mask = self._mask(tokens) if self.memory is None else self.memory.mask
        read = self._merged(_attend(self._split(query), self._split(key), self._split(value), mask))
        if motion is not None:
            beside, strength = motion
            read = read + strength * self._read_motion(query, beside)
        return self.to_out(read)

    def _mask(self, tokens: Float[Tensor, "s t c"]) -> Bool[Tensor, "t t"] | None:
        """Return which frames of a window each frame sees; None: all."""
        num_frames = tokens.shape[1]
        if self.chunk is None or self.chunk >= num_frames:
            return None
        return chunk_mask(num_frames, self.chunk, device=tokens.device)

    def _read_motion(self, query: Float[Tensor, "s t c"], motion: Float[Tensor, "b t c"]) -> Float[Tensor, "s t c"]:
        """Return what queries read in their clip's tokens: all positions of a clip share them."""
        if self.motion_memory is None:
            placed = self.pos_encoder(motion)
            key, value = self.to_k(placed), self.to_v(placed)
        else:
            key, value, _ = self._recall(motion, self.motion_memory)
        B, T = motion.shape[:2]
        mask = self._mask(motion) if self.motion_memory is None else None
        mask = None if mask is None else mask.repeat(len(query) // B, 1)
        together = query.unflatten(0, (B, -1)).flatten(1, 2)  # [B*P, T, C] -> [B, P*T, C]
        read = F.scaled_dot_product_attention(*map(self._split, (together, key, value)), attn_mask=mask)
        return self._merged(read).unflatten(1, (-1, T)).flatten(0, 1)

    def _recall(
        self, tokens: Float[Tensor, "s n c"], memory: _Memory
    ) -> tuple[Float[Tensor, "s t c"], Float[Tensor, "s t c"], Float[Tensor, "1 n c"]]:
        """Return keys and values of the frames before and the frames' own, and the places of these."""
        keys, values = memory.extend(self.to_k(tokens), self.to_v(tokens))
        places, own = memory.places(self.pos_encoder.pe, known=keys.shape[1], new=tokens.shape[1])
        # The projections have no bias: that of a sum is the sum of both.
        return keys + self.to_k(places), values + self.to_v(places), own

    def _split(self, part: Float[Tensor, "s t c"]) -> Float[Tensor, "s heads t d"]:
        return part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def _merged(self, part: Float[Tensor, "s heads t d"]) -> Float[Tensor, "s t c"]:
        return part.transpose(1, 2).flatten(2)


def _attend(
    query: Float[Tensor, "s heads t c"],
    key: Float[Tensor, "s heads k c"],
    value: Float[Tensor, "s heads k c"],
    mask: Bool[Tensor, "t k"] | None = None,
) -> Float[Tensor, "s heads t c"]:
    if len(query) <= MAX_SEQUENCES:
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    parts = zip(query.split(MAX_SEQUENCES), key.split(MAX_SEQUENCES), value.split(MAX_SEQUENCES), strict=True)
    return torch.cat([F.scaled_dot_product_attention(*part, attn_mask=mask) for part in parts])


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
        self.attention_blocks = nn.ModuleList(TemporalAttention(channels, max_frames) for _ in range(2))
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(2))
        self.ff = _FeedForward(channels)
        self.ff_norm = nn.LayerNorm(channels)

    def forward(self, tokens: Float[Tensor, "s t c"], motion: MotionTokens | None = None) -> Float[Tensor, "s t c"]:
        for index, (attention, norm) in enumerate(zip(self.attention_blocks, self.norms, strict=True)):
            beside = None if motion is None else (motion.tokens, motion.strength[index])
            tokens = tokens + attention(norm(tokens), beside)
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

    def forward(self, maps: Float[Tensor, "n c h w"], num_frames: int, guidance: Guidance) -> Float[Tensor, "n c h w"]:
        N, _, H, W = maps.shape
        B, T = N // num_frames, num_frames
        # One sequence a position: [B*T, C, H, W] -> [B*H*W, T, C].
        tokens = self.norm(maps).unflatten(0, (B, T)).permute(0, 3, 4, 1, 2).flatten(0, 2)
        tokens = self.proj_in(tokens)
        for block in self.transformer_blocks:
            tokens = block(tokens, guidance.motion)
        change = self.proj_out(tokens).unflatten(0, (B, H, W)).permute(0, 3, 4, 1, 2).flatten(0, 1)
        if guidance.gate is not None:
            gate = F.interpolate(guidance.gate, size=(H, W), mode="bilinear", align_corners=True)
            change = change * (1 + gate.tanh())
        return maps + change


class TemporalModule(nn.Module):
    """AnimateDiff's motion module (arXiv:2307.04725) as VDA (arXiv:2501.12375) uses it."""

    def __init__(self, channels: int, *, max_frames: int = PUBLISHED_FRAMES) -> None:
        super().__init__()
        self.temporal_transformer = _TemporalTransformer(channels, max_frames)

    def forward(
        self, maps: Float[Tensor, "n c h w"], num_frames: int, guidance: Guidance = NO_GUIDANCE
    ) -> Float[Tensor, "n c h w"]:
        """Mix each clip's maps over time; n = clips x num_frames.

        Raises ValueError beyond max_frames.
        """
        return self.temporal_transformer(maps, num_frames, guidance)


def set_attention(model: nn.Module, chunk: int | None) -> None:
    """Let each frame of a window see the frames up to the last of its own chunk of so many.

    chunk: 1: itself and those before it; None: all frames of the window, as published. It holds until the next call,
    for backward passes that compute forward ones again, too. Whatever else of a variant looks at neighbours then sees
    none that is later. Frames that are shown one after the other (`remember_frames`) see no later ones anyway.
    """
    for module in model.modules():
        if isinstance(module, TemporalAttention):
            module.chunk = chunk
        elif hasattr(module, "past_only"):
            setattr(module, "past_only", chunk is not None)  # noqa: B010 - of several classes


@contextmanager
def remember_frames(model: nn.Module, *, num_frames: int = PUBLISHED_FRAMES) -> Generator[None]:
    """While it lasts, each call of `model` shows the next frame of one clip, or the next few.

    B is as in the call before; T is 1 for a stream, or the frames of a chunk, `num_frames` at most.

    Temporal attention sees those frames and the ones before them, `num_frames` in all, which take the first rows of the
    position table. Unlike in a window no frame sees one after its own call, so for the first `num_frames` frames it is
    the window under the mask of `set_attention`. Raises ValueError if the position table has fewer rows.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, TemporalAttention | Neighbours)]
    for layer in layers:
        known = layer.pos_encoder.pe.shape[1] if isinstance(layer, TemporalAttention) else num_frames
        if not 1 <= num_frames <= known:
            raise ValueError(f"{num_frames} frames to remember, the temporal modules were built for 1 to {known}.")
    try:
        for layer in layers:
            layer.remember(num_frames)
        yield
    finally:
        for layer in layers:
            layer.remember(None)
