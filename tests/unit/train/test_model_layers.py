"""The layers, one by one: what the whole model's tests would not show."""

import dataclasses

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode

from vdatrain.models.layers import temporal
from vdatrain.models.layers.difference import (
    CELLS_PER_PATCH,
    EMBED_DIM,
    GREY_LEVELS_PER_UNIT,
    DifferenceBranch,
    DifferenceCNN,
    past_and_future,
    without_future,
)
from vdatrain.models.layers.dpt import FRAMES_PER_CHUNK, TemporalDPTHead
from vdatrain.models.layers.encoder import ENCODERS, TABLE_SIDE, Encoder, EncoderSpec, encoder_spec

TINY = encoder_spec("tiny")


def differences_of(num_frames: int, *, grid: tuple[int, int] = (2, 3)) -> tuple[Tensor, Tensor]:
    rows, columns = (CELLS_PER_PATCH * side for side in grid)
    generator = torch.Generator().manual_seed(0)
    differences = 0.1 * torch.randn(1, num_frames, 3, rows, columns, generator=generator)
    return differences, torch.ones(1, num_frames, dtype=torch.bool)


@pytest.mark.parametrize(
    "change",
    [
        {"taps": (0, 1, 2)},
        {"taps": (0, 2, 1, 3)},
        {"taps": (0, 1, 2, 2)},
        {"depth": 6},
        {"num_heads": 5},
        {"out_channels": (8, 8)},
    ],
)
def test_impossible_encoders_do_not_exist(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"found|split"):
        EncoderSpec(**{**dataclasses.asdict(TINY), **change})  # pyright: ignore[reportArgumentType]


def test_tiny_is_tiny() -> None:
    with torch.device("meta"):
        encoder, head = Encoder(TINY), TemporalDPTHead(TINY)
    assert 2e6 < sum(p.numel() for part in (encoder, head) for p in part.parameters()) < 4e6


def test_positions_at_the_trained_size_are_the_table() -> None:
    encoder = Encoder(TINY)
    assert encoder._positions((TABLE_SIDE, TABLE_SIDE)) is encoder.pos_embed


@pytest.mark.parametrize("grid", [(1, 1), (5, 7), (36, 37), (37, 50), (74, 20)])
def test_positions_are_resampled_as_dinov2_does(grid: tuple[int, int]) -> None:
    encoder = Encoder(TINY)
    table = encoder.pos_embed[:, 1:].transpose(1, 2).unflatten(2, (TABLE_SIDE, TABLE_SIDE))
    scale = tuple((side + 0.1) / TABLE_SIDE for side in grid)
    expected = F.interpolate(table, scale_factor=scale, mode="bicubic", antialias=False)
    found = encoder._positions(grid)
    assert expected.shape[2:] == grid
    assert torch.equal(found[:, 0], encoder.pos_embed[:, 0])
    assert_close(found[:, 1:], expected.flatten(2).transpose(1, 2), rtol=1e-5, atol=1e-6)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(encoder._positions(grid), found)


def test_the_position_table_of_time() -> None:
    table = temporal.sinusoids(32, 8)
    frames = torch.arange(32, dtype=torch.float32)
    assert_close(table[0, :, 0], frames.sin())
    assert_close(table[0, :, 3], (frames / 10).cos())
    assert_close(temporal.sinusoids(50, 8)[:, :32], table)


@pytest.mark.parametrize("channels", [16, 32, 48, 64])
def test_a_temporal_module_starts_as_nothing(channels: int) -> None:
    module = temporal.TemporalModule(channels)
    maps = torch.randn(6, channels, 2, 3)
    assert torch.equal(module(maps, 3), maps)


def test_attention_in_chunks_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    attention = temporal.TemporalAttention(32, max_frames=8)
    tokens = torch.randn(50, 5, 32)
    whole = attention(tokens)
    sizes: list[int] = []
    kernel = F.scaled_dot_product_attention

    def watched(query: Tensor, key: Tensor, value: Tensor, *, attn_mask: Tensor | None) -> Tensor:
        sizes.append(len(query))
        return kernel(query, key, value, attn_mask=attn_mask)

    monkeypatch.setattr(temporal, "MAX_SEQUENCES", 16)
    monkeypatch.setattr(F, "scaled_dot_product_attention", watched)
    assert_close(attention(tokens), whole)
    assert sizes == [16, 16, 16, 2]


def test_the_fine_half_takes_few_frames_at_once_without_gradients() -> None:
    torch.manual_seed(0)
    head = TemporalDPTHead(TINY)
    features = [torch.randn(10, 6, TINY.dim) for _ in range(4)]
    sizes: list[int] = []

    def note(_module: nn.Module, _args: object, output: Tensor) -> None:
        sizes.append(len(output))

    head.scratch["output_conv1"].register_forward_hook(note)
    whole = head(features, (2, 3), 5)
    with torch.no_grad():
        chunks = head(features, (2, 3), 5)
    assert sizes == [10, FRAMES_PER_CHUNK, FRAMES_PER_CHUNK, 2]
    assert_close(chunks, whole)


@pytest.mark.parametrize("seed", range(5))
def test_a_fresh_head_is_alive_everywhere(seed: int) -> None:
    torch.manual_seed(seed)
    features = [torch.randn(2, 6, TINY.dim) for _ in range(4)]
    assert (TemporalDPTHead(TINY)(features, (2, 3), 2) > 0).all()


def test_past_and_future_stand_side_by_side() -> None:
    differences, valid = differences_of(4)
    valid[0, 0] = valid[0, 2] = False
    pairs = past_and_future(differences, valid)
    past, past_flag, future, future_flag = pairs.split([3, 1, 3, 1], dim=2)
    assert past_flag[0, :, 0, 0, 0].tolist() == [0, 1, 0, 1]
    assert future_flag[0, :, 0, 0, 0].tolist() == [1, 0, 1, 0]
    assert torch.equal(past[0, 1::2], differences[0, 1::2] * (255 / GREY_LEVELS_PER_UNIT))
    assert torch.equal(future[0, ::2], past[0, 1::2])
    assert not past[0, ::2].any()
    assert not future[0, 1::2].any()
    assert torch.equal(without_future(pairs)[:, :, :4], pairs[:, :, :4])
    assert not without_future(pairs)[:, :, 4:].any()


def test_a_flash_of_one_frame_shows_where_it_is() -> None:
    torch.manual_seed(0)
    cnn = DifferenceCNN()
    differences, valid = differences_of(6)
    flash = differences.clone()
    flash[:, 2] += 0.5
    flash[:, 3] -= 0.5
    changed = (cnn(past_and_future(flash, valid)) - cnn(past_and_future(differences, valid))).abs().amax(dim=(1, 2))
    assert (changed > 1e-2).tolist() == [False, True, True, True, False, False]


def test_motion_elsewhere_leaves_still_patches_alone() -> None:
    torch.manual_seed(0)
    cnn = DifferenceCNN()
    differences, valid = differences_of(2, grid=(4, 16))
    moved = differences.clone()
    moved[..., : CELLS_PER_PATCH * 4] += 0.5
    embeddings = cnn(past_and_future(moved, valid)) - cnn(past_and_future(differences, valid))
    changed = embeddings.unflatten(1, (4, 16)).abs().amax(dim=(0, 1, 3))
    assert changed[:4].all()
    assert not changed[8:].any()


@pytest.mark.parametrize("encoder", ENCODERS)
def test_the_branch_costs_at_most_two_gigaflops_a_frame(encoder: str) -> None:
    dim = ENCODERS[encoder].dim
    with torch.device("meta"):
        branch = DifferenceBranch(DifferenceCNN(), embed_dim=EMBED_DIM, dim=dim)
        features = [torch.empty(1, TABLE_SIDE**2, dim) for _ in range(4)]
        pairs = torch.empty(1, 1, 8, CELLS_PER_PATCH * TABLE_SIDE, CELLS_PER_PATCH * TABLE_SIDE)
        with FlopCounterMode(display=False) as counter:
            branch(features, pairs, 1)
    assert 0.2e9 < counter.get_total_flops() < 2e9


def test_recomputing_the_fine_half_changes_no_gradient() -> None:
    torch.manual_seed(0)
    spec = encoder_spec("tiny")
    head = TemporalDPTHead(spec)
    tokens = [torch.randn(10, 6, spec.dim) for _ in range(4)]
    found = []
    for recompute in (False, True):
        head.recompute_fine = recompute
        head.zero_grad()
        disparity = head(tokens, (2, 3), 5)
        disparity.square().sum().backward()
        gradients = [parameter.grad.clone() for parameter in head.parameters() if parameter.grad is not None]
        found.append((disparity.detach(), gradients))
    (kept, kept_gradients), (again, again_gradients) = found
    assert torch.allclose(kept, again, rtol=1e-5)
    assert len(kept_gradients) == len(again_gradients) > 50
    assert all(torch.allclose(a, b, rtol=1e-3, atol=1e-5) for a, b in zip(kept_gradients, again_gradients, strict=True))


def test_the_head_keeps_its_convolutions_channels_last() -> None:
    weights = [value for value in TemporalDPTHead(encoder_spec("tiny")).state_dict().values() if value.ndim == 4]
    assert weights
    assert all(value.is_contiguous(memory_format=torch.channels_last) for value in weights)
