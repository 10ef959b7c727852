"""What every variant in the folder promises."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from tests.models import stirred
from vdaprep.errors import UsageError
from vdatrain.models import variants
from vdatrain.models.layers.difference import past_and_future, without_future
from vdatrain.models.layers.encoder import ENCODERS, PATCH_SIZE, TABLE_SIDE
from vdatrain.models.layers.temporal import set_attention

VARIANTS = variants.names()
WITH_BRANCH = [variant for variant in VARIANTS if variants.uses_differences(variant)]

every_variant = pytest.mark.parametrize("variant", VARIANTS)
every_variant_with_a_branch = pytest.mark.parametrize("variant", WITH_BRANCH)

Clip = tuple[Tensor, Tensor, Tensor]


def tiny(variant: str) -> nn.Module:
    torch.manual_seed(0)
    return variants.build(variant, encoder="tiny")


def clip(variant: str, *, batch: int = 2, num_frames: int = 3, grid: tuple[int, int] = (3, 4)) -> Clip:
    """Make frames, differences for a variant and their validity, the first frame's invalid."""
    generator = torch.Generator().manual_seed(0)
    height, width = (PATCH_SIZE * side for side in grid)
    rows, columns = (variants.cells_per_patch(variant) * side for side in grid)
    frames = torch.randn(batch, num_frames, 3, height, width, generator=generator)
    differences = 0.1 * torch.randn(batch, num_frames, 3, rows, columns, generator=generator)
    valid = torch.ones(batch, num_frames, dtype=torch.bool)
    valid[:, 0] = False
    return frames, differences, valid


def backward_after_one_step(model: nn.Module, variant: str) -> None:
    """Take one optimiser step and leave the next one's gradients in the model."""
    for name, parameter in model.named_parameters():
        if name.endswith("proj_out.weight"):
            nn.init.normal_(parameter, std=0.02)  # as published weights, which are not at the start
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(2):
        optimizer.step()
        optimizer.zero_grad()
        torch.sin(3 * model(*clip(variant))).mean().backward()


def test_the_folder_is_the_list() -> None:
    folder = Path(variants.__file__).parent
    assert set(VARIANTS) == {path.stem for path in folder.glob("*.py")} - {"__init__"}


@every_variant
def test_its_docstring_begins_with_a_sentence(variant: str) -> None:
    assert variants.summary(variant).endswith(".")
    assert 20 < len(variants.summary(variant)) < 120


def test_unknown_names_are_refused() -> None:
    with pytest.raises(UsageError, match=f"'nonsense' is not known; choose one of {', '.join(VARIANTS)}"):
        variants.build("nonsense", encoder="tiny")
    with pytest.raises(UsageError, match=f"'nonsense' is not known; choose one of {', '.join(ENCODERS)}"):
        variants.build(VARIANTS[0], encoder="nonsense")


@pytest.mark.slow
def test_timm_is_imported_only_to_build() -> None:
    look = (
        "import sys; from vdatrain.models import variants; "
        f"variants.summary({VARIANTS[-1]!r}); print('timm' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
    tiny(VARIANTS[-1])
    assert "timm" in sys.modules  # the question above can be answered with yes


@every_variant
def test_it_starts_as_the_published_model_unless_it_says_so(variant: str) -> None:
    basic, model = stirred(tiny("basic")), tiny(variant)
    missing, unexpected = model.load_state_dict(basic.state_dict(), strict=False)
    assert not unexpected
    assert all(name.startswith(variants.own_prefixes(variant)) for name in missing)
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            assert torch.equal(model(*clip(variant)), basic(*clip(variant))) == variants.starts_as_published(variant)


@pytest.mark.slow
@pytest.mark.parametrize("encoder", ENCODERS)
def test_wide_has_as_many_parameters_as_conv(encoder: str) -> None:
    with torch.device("meta"):
        models = [variants.build(variant, encoder=encoder) for variant in ("basic", "conv", "wide")]
    basic, conv, wide = (sum(parameter.numel() for parameter in model.parameters()) for model in models)
    assert 0.99 < (wide - basic) / (conv - basic) < 1.01


def test_shift_moves_channels_from_both_neighbours() -> None:
    branch = tiny("shift").get_submodule("branch")
    level = torch.arange(3.0)[:, None, None].expand(3, 2, 16)
    for past_only, moved in ((False, [[0, 0, 1], [1, 2, 2]]), (True, [[0, 0, 1], [0, 1, 2]])):
        set_attention(branch, 1 if past_only else None)
        for found in branch([level] * 4, None, 3).features:
            assert [found[:, 0, 0].tolist(), found[:, 1, 2].tolist()] == moved
            assert torch.equal(found[..., 4:], level[..., 4:])
            assert torch.equal(found[..., 1], found[..., 0])


@every_variant
def test_a_seed_gives_all_variants_the_same_base(variant: str) -> None:
    state = tiny(variant).state_dict()
    assert all(torch.equal(state[name], value) for name, value in tiny("basic").state_dict().items())


@every_variant
def test_gradients_reach_every_trainable_parameter_after_one_step(variant: str) -> None:
    model = tiny(variant)
    backward_after_one_step(model, variant)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
            assert parameter.grad.any(), name


@every_variant
def test_only_what_nothing_uses_is_frozen(variant: str) -> None:
    model = tiny(variant)
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    model.requires_grad_(True)
    backward_after_one_step(model, variant)
    assert frozen == {name for name, parameter in model.named_parameters() if parameter.grad is None}


@every_variant
@pytest.mark.parametrize("num_frames", [1, 2, 6])
@pytest.mark.parametrize("grid", [(1, 1), (2, 5)])
def test_any_length_and_size(variant: str, num_frames: int, grid: tuple[int, int]) -> None:
    model = stirred(tiny(variant))
    frames, differences, valid = clip(variant, batch=1, num_frames=num_frames, grid=grid)
    disparity = model(frames, differences, valid)
    assert disparity.shape == (1, num_frames, *frames.shape[-2:])
    assert disparity.isfinite().all()
    assert (disparity >= 0).all()


@every_variant
def test_items_of_a_batch_are_independent(variant: str) -> None:
    model = stirred(tiny(variant))
    together = clip(variant)
    changed = tuple(torch.cat([part[:1], part[1:].roll(1, dims=1)]) for part in together)
    with torch.no_grad():
        before, after = model(*together), model(*changed)
    assert torch.equal(before[0], after[0])
    assert not torch.equal(before[1], after[1])


@every_variant
def test_frames_of_a_clip_see_each_other(variant: str) -> None:
    model = stirred(tiny(variant))
    frames, differences, valid = clip(variant, batch=1)
    changed = torch.cat([frames[:, :-1], -frames[:, -1:]], dim=1)
    with torch.no_grad():
        assert not torch.equal(model(frames, differences, valid)[:, 0], model(changed, differences, valid)[:, 0])


@every_variant
def test_state_goes_round(variant: str) -> None:
    model, copy = stirred(tiny(variant)), tiny(variant)
    copy.load_state_dict(model.state_dict(), strict=True)
    with torch.no_grad():
        assert torch.equal(model(*clip(variant)), copy(*clip(variant)))


@every_variant
def test_autocast_leaves_the_disparity_in_single_precision(variant: str) -> None:
    model = stirred(tiny(variant))
    with torch.no_grad():
        exact = model(*clip(variant))
        with torch.autocast("cpu", torch.bfloat16):
            found = model(*clip(variant))
    assert found.dtype == torch.float32
    assert len(found.unique()) > 0.9 * len(exact.unique())
    assert 0 < (found - exact).norm() < 0.02 * exact.norm()


@every_variant
def test_no_batch_norm(variant: str) -> None:
    kinds = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
    assert not any(isinstance(module, kinds) for module in tiny(variant).modules())


@every_variant
def test_a_longer_position_table_changes_nothing_below(variant: str) -> None:
    torch.manual_seed(0)
    longer = stirred(variants.build(variant, encoder="tiny", max_frames=40))
    with torch.no_grad():
        assert torch.equal(longer(*clip(variant)), stirred(tiny(variant))(*clip(variant)))
        assert longer(*clip(variant, batch=1, num_frames=40, grid=(1, 1))).isfinite().all()
        with pytest.raises(ValueError, match="41 frames.*at most 40"):
            longer(*clip(variant, batch=1, num_frames=41, grid=(1, 1)))


@every_variant
def test_frames_must_split_into_patches(variant: str) -> None:
    frames, differences, valid = clip(variant)
    with pytest.raises(ValueError, match="56x41 pixels, expected multiples of 14"):
        tiny(variant)(frames[..., :-1, :], differences, valid)


@every_variant_with_a_branch
def test_differences_are_needed_and_of_the_right_size(variant: str) -> None:
    frames, differences, valid = clip(variant)
    model = tiny(variant)
    with pytest.raises(ValueError, match="pass differences"):
        model(frames)
    with pytest.raises(ValueError, match=r"(\d+)x(\d+) cells, expected \2x\1"):
        model(frames, differences.mT, valid)


@every_variant_with_a_branch
def test_differences_count_where_they_are_valid(variant: str) -> None:
    model = stirred(tiny(variant))
    frames, differences, valid = clip(variant)
    hidden = differences.masked_fill(~valid[:, :, None, None, None], torch.nan)
    with torch.no_grad():
        disparity = model(frames, differences, valid)
        assert torch.equal(disparity, model(frames, hidden, valid))
        assert not torch.equal(disparity, model(frames, -differences, valid))
        assert not torch.equal(disparity, model(frames, differences, torch.zeros_like(valid)))


@pytest.mark.slow
@every_variant_with_a_branch
@pytest.mark.parametrize("encoder", ENCODERS)
def test_a_branch_fits_every_encoder(variant: str, encoder: str) -> None:
    frames, differences, valid = (part.to("meta") for part in clip(variant))
    with torch.device("meta"):
        model = variants.build(variant, encoder=encoder)
        assert model(frames, differences, valid).shape == (*frames.shape[:2], *frames.shape[-2:])


@every_variant_with_a_branch
@pytest.mark.parametrize("past_only", [False, True])
def test_a_flash_of_one_frame_changes_what_the_head_is_given_where_it_is(variant: str, past_only: bool) -> None:
    _, differences, valid = clip(variant, batch=1, num_frames=6)
    flash = differences.clone()
    flash[:, 2] += 0.5  # bright, then as before: the mean of both differences stays what it was
    flash[:, 3] -= 0.5
    one, other = (handed_on(variant, given, valid, past_only=past_only) for given in (flash, differences))
    changed = (one - other).abs().amax(dim=1) > 1e-5
    assert changed[1:4].tolist() == [not past_only, True, True]
    assert not (past_only and changed[0])


def handed_on(variant: str, differences: Tensor, valid: Tensor, *, past_only: bool) -> Tensor:
    """Return all that the head is given of one clip: [t, values]."""
    branch = stirred(tiny(variant)).get_submodule("branch")
    set_attention(branch, 1 if past_only else None)
    T, dim = len(valid[0]), ENCODERS["tiny"].dim
    features = [torch.randn(T, 12, dim, generator=torch.Generator().manual_seed(2))] * 4
    pairs = past_and_future(differences, valid)
    with torch.no_grad():
        found = branch(features, without_future(pairs) if past_only else pairs, T)
    gates = [guidance.gate for guidance in found.guidance if guidance.gate is not None]
    tokens = [guidance.motion.tokens[0] for guidance in found.guidance if guidance.motion is not None]
    return torch.cat([part.flatten(1) for part in (*found.features, *gates, *tokens)], dim=1)


@every_variant_with_a_branch
def test_past_and_future_are_told_apart(variant: str) -> None:
    _, differences, _ = clip(variant, batch=1)
    valid = torch.ones(1, 3, dtype=torch.bool)
    # The middle frame sees the same two differences, in the other order.
    swapped = differences[:, [0, 2, 1]]
    one, other = (handed_on(variant, given, valid, past_only=False) for given in (differences, swapped))
    assert (one[1] - other[1]).abs().max() > 1e-5


@every_variant_with_a_branch
def test_differences_that_are_hidden_do_not_count(variant: str) -> None:
    model = stirred(tiny(variant))
    frames, differences, valid = clip(variant, num_frames=4)
    with torch.no_grad():
        both = model(frames, differences, valid)
        model.differences_shown = "zeros"
        zeros = model(frames, differences, valid)
        assert torch.equal(zeros, model(frames, -differences, valid))
        model.differences_shown = "past"
        past = model(frames, differences, valid)
    assert len({part.sum().item() for part in (both, zeros, past)}) == 3


@every_variant
def test_past_only_hides_later_frames_and_nothing_else(variant: str) -> None:
    model = stirred(tiny(variant))
    set_attention(model, 1)
    frames, differences, valid = clip(variant, batch=1, num_frames=6)
    later = frames.clone(), differences.clone(), valid.clone()
    for part in later[:2]:
        part[:, 4:] *= -1
    later[2][:, 5] = False
    earlier = frames.clone()
    earlier[:, 0] *= -1
    with torch.no_grad():
        found = model(frames, differences, valid)
        assert torch.equal(found[:, :4], model(*later)[:, :4])
        assert (found - model(earlier, differences, valid)).abs().amax(dim=(0, 2, 3)).min() > 1e-6
        set_attention(model, None)
        assert not torch.equal(found[:, 0], model(frames, differences, valid)[:, 0])


@every_variant_with_a_branch
def test_the_cost_of_a_branch_does_not_grow_with_the_clip(variant: str) -> None:
    with torch.device("meta"):
        branch = variants.build(variant, encoder="vits").get_submodule("branch")
        cells = TABLE_SIDE * variants.cells_per_patch(variant)
        costs = [branch_gflop(branch, cells, num_frames) / num_frames for num_frames in (1, 32)]
    assert costs[0] <= costs[1] < min(2, 1.02 * costs[0])  # attention over frames alone grows, by less than that


def branch_gflop(branch: nn.Module, cells: int, num_frames: int) -> float:
    """Count a branch's operations for frames of 518x518 and differences of `cells` x `cells`, on the device set."""
    features = [torch.empty(num_frames, TABLE_SIDE**2, ENCODERS["vits"].dim) for _ in range(4)]
    with FlopCounterMode(display=False) as counter:
        valid = torch.ones(1, num_frames, dtype=torch.bool)
        branch(features, past_and_future(torch.empty(1, num_frames, 3, cells, cells), valid), num_frames)
    return counter.get_total_flops() / 1e9
