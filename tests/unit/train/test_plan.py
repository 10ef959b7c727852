"""What a step takes, found on tensors without numbers, against steps that were really made."""

import gc
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional as F

from tests.distributed.ranks import on_two_ranks
from vdatrain.config import TrainConfig
from vdatrain.device import Precision
from vdatrain.distributed.fsdp import gathered_bytes
from vdatrain.models.flops import gflop_per_frame
from vdatrain.models.loading import build_from_config
from vdatrain.objectives.losses import video_loss
from vdatrain.training.planning import memory, planner
from vdatrain.training.planning.memory import Footprint, Inputs, Ledger, footprint, forward_backward
from vdatrain.training.planning.planner import Room, attainable_flops, change_to_fit, largest_batch, utilisation

CPU = torch.device("cpu")
SMALL = TrainConfig(shards="none", variant="conv", encoder="tiny", frames=4, size=56, batch=1)
MADE = (memory.ENCODER, memory.BRANCH, memory.HEAD, memory.LOSS, memory.BACKWARD, memory.GRADIENTS)


def made(takes: Footprint) -> dict[str, int]:
    return {part: size for part, size in takes.parts.items() if part in MADE and size}


def real_step(config: TrainConfig) -> Ledger:
    """Make a step on tensors that have numbers, under the same ledger."""
    model, batch, ledger = build_from_config(config).train(), Inputs.of(config), Ledger()
    autocast = Precision(CPU, config.precision).autocast
    with ledger, ledger.watching(model):
        forward_backward(model, batch, autocast=autocast, begin=ledger.begin)
    return ledger


def test_images_beside_windows_take_a_pass_of_their_own() -> None:
    """Whose graph is built when that of the windows is gone, but not the gradients."""
    windows = footprint(SMALL, on_gpu=False)
    few, many = (footprint(replace(SMALL, images_per_clip=count), on_gpu=False) for count in (1, 16))
    images = footprint(replace(SMALL, frames=1, batch=16), on_gpu=False)
    gradients = windows.parts[memory.WEIGHTS]
    assert many.flops == windows.flops + images.flops
    assert many.parts[memory.BATCH] == windows.parts[memory.BATCH] + images.parts[memory.BATCH]
    assert windows.total < few.total < many.total < images.total + windows.parts[memory.BATCH] + gradients


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"precision": "bf16"},
        {"variant": "crossatt", "batch": 2},
        {"frames": 10, "size": 28, "stride_weight": 1.0, "stability": 0.1, "warp_weight": 1.0},
    ],
    ids=str,
)
def test_what_is_predicted_is_what_a_real_step_holds(changes: dict[str, object]) -> None:
    config = replace(SMALL, **changes)
    gc.collect()
    real = real_step(config)
    found = {part: size for part, size in real.fullest.items() if size}
    # Exactly, but that norms on a CPU keep the statistics of bfloat16 input in another type.
    assert made(footprint(config, on_gpu=False)) == pytest.approx(found, rel=0.005 if config.precision == "bf16" else 0)
    assert real.alive[memory.GRADIENTS] == real.alive.total()  # once the step is over only those are left


@pytest.mark.slow
@pytest.mark.parametrize("parts", ["head", "encoder", "all"])
def test_recomputing_takes_no_more_than_predicted_and_not_much_less(parts: str) -> None:
    config = replace(SMALL, recompute=parts, frames=8)
    real, predicted = real_step(config).fullest.total(), sum(made(footprint(config, on_gpu=False)).values())
    assert real <= predicted < 1.2 * real


def test_what_is_kept_for_the_backward_pass_is_what_autograd_says_it_saves() -> None:
    model, batch, ledger = build_from_config(SMALL), Inputs.of(SMALL), Ledger()
    given = {
        tensor.untyped_storage()._cdata
        for tensor in (*model.parameters(), *model.buffers(), *vars(batch).values())
        if isinstance(tensor, Tensor)
    }
    saved: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        saved[tensor.untyped_storage()._cdata] = tensor
        return tensor

    with ledger, ledger.watching(model), saved_tensors_hooks(keep, lambda tensor: tensor):
        prediction = model(batch.frames, batch.differences, batch.diff_valid)
        loss = video_loss(prediction, batch.disparity, batch.mask)
        total = loss.total
        del loss
    gc.collect()
    kept = {key: tensor for key, tensor in saved.items() if key not in given}
    bytes_kept = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    results = [tensor for tensor in (prediction, total) if tensor.untyped_storage()._cdata not in kept]
    assert ledger.alive.total() == bytes_kept + sum(tensor.untyped_storage().nbytes() for tensor in results)


@pytest.mark.slow
def test_memory_grows_by_the_same_for_every_window() -> None:
    one, two, three = (footprint(replace(SMALL, batch=batch), on_gpu=True) for batch in (1, 2, 3))
    for part in (memory.ENCODER, memory.BRANCH, memory.HEAD, memory.BATCH):
        steps = two.parts[part] - one.parts[part], three.parts[part] - two.parts[part]
        assert steps[0] == pytest.approx(steps[1], rel=0.02), part
        assert steps[0] > 0, part
    assert one.parts[memory.WEIGHTS] == three.parts[memory.WEIGHTS]
    assert three.flops == pytest.approx(3 * one.flops, rel=0.01)


def test_what_there_is_all_the_time_follows_from_the_parameters() -> None:
    parameters = sum(parameter.numel() for parameter in build_from_config(SMALL).parameters())
    buffers = sum(buffer.numel() for buffer in build_from_config(SMALL).buffers())
    takes = footprint(SMALL, on_gpu=False).parts
    assert takes[memory.WEIGHTS] == 4 * (parameters + buffers)
    learnt = sum(parameter.numel() for parameter in build_from_config(SMALL).parameters() if parameter.requires_grad)
    assert (takes[memory.OPTIMISER], takes[memory.AVERAGE]) == (8 * learnt, 4 * learnt)
    frozen = footprint(replace(SMALL, preset="adapter", ema=0.0), on_gpu=False).parts
    assert frozen[memory.OPTIMISER] < 0.1 * takes[memory.OPTIMISER]
    assert frozen[memory.AVERAGE] == 0
    assert frozen[memory.ENCODER] < 0.5 * takes[memory.ENCODER]


@pytest.mark.slow
def test_accumulating_keeps_the_gradients_and_recomputing_saves_memory_for_work() -> None:
    plain = footprint(SMALL, on_gpu=False)
    twice = footprint(replace(SMALL, accumulate=3), on_gpu=False)
    assert twice.flops == 3 * plain.flops
    assert twice.parts[memory.GRADIENTS] >= 4 * 2_000_000
    again = footprint(replace(SMALL, recompute="all"), on_gpu=False)
    assert again.total < plain.total
    assert again.flops > 1.1 * plain.flops


# -------------------------------------------------------------------------------------------------- spread over ranks


@pytest.mark.slow
def test_a_rank_of_a_sharded_model_holds_what_is_predicted(toy_shards: Path, tmp_path: Path) -> None:
    """The first rank to the byte; the second has no row left of what is one row alone, such as the class token."""
    options = {"shards": str(toy_shards / "alpha"), "size": 28, "frames": 2, "workers": 0, "eval_split": "none"}
    config = replace(SMALL, shard_model=True, **options)
    first, second = on_two_ranks("weigh", folder=str(tmp_path), options=config.to_json())
    assert (first.code, second.code) == (0, 0), first.err + second.err
    # With two batches, so that there are all gradients at the fullest moment, which is in the second.
    predicted = footprint(replace(config, accumulate=2), on_gpu=False, ranks=2).parts
    mine, others = json.loads(first.out), json.loads(second.out)
    assert mine == {part: predicted[part] for part in mine}
    for part, size in others.items():
        assert 0.8 * mine[part] < size <= mine[part], part


@pytest.mark.slow
def test_more_ranks_hold_less_of_the_model_and_as_much_of_the_batch() -> None:
    plain = footprint(SMALL, on_gpu=True, ranks=4)  # without --shard-model each has all of it
    spread = footprint(replace(SMALL, shard_model=True), on_gpu=True, ranks=4)
    for part in (memory.WEIGHTS, memory.OPTIMISER, memory.AVERAGE):
        assert plain.parts[part] / 4 <= spread.parts[part] < 0.35 * plain.parts[part], part
    for part in (memory.BATCH, memory.ENCODER, memory.BRANCH, memory.HEAD):
        assert spread.parts[part] == plain.parts[part], part
    assert spread.parts[memory.GATHERED] > plain.parts[memory.GATHERED] == 0
    assert spread.flops == plain.flops


def test_what_is_gathered_together_is_a_block_and_what_surrounds_it() -> None:
    model = build_from_config(SMALL)

    def size(module: nn.Module) -> int:
        return sum(parameter.nbytes for parameter in module.parameters())

    head, blocks = model.head, model.pretrained.blocks
    own = size(model) - size(head) - size(blocks)
    of_the_head = size(head) - size(head.motion_modules) + max(map(size, head.motion_modules))
    assert gathered_bytes(model) == own + max(of_the_head, max(map(size, blocks)))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--ranks", 2), "--ranks 2: each holds all of the model without --shard-model; give that too"),
        (
            ("--shard-model", "--ranks", 1),
            "--shard-model: spreads the model over 2 ranks or more, found 1; say how many",
        ),
    ],
)
def test_ranks_that_cannot_be(options: tuple[object, ...], sentence: str, vdatrain) -> None:
    result = vdatrain("plan", *options, "--encoder", "tiny", "--size", 28, "--frames", 1, "--device-memory", "1GB")
    assert result.code == 2
    assert sentence in result.err


def test_the_command_plans_for_a_rank(vdatrain, monkeypatch: pytest.MonkeyPatch) -> None:
    def spread(config: TrainConfig, *, on_gpu: bool, ranks: int = 1) -> Footprint:
        assert config.shard_model
        return Footprint({memory.WEIGHTS: 60_000_000 // ranks, memory.BATCH: 10_000_000 * config.batch}, 10**9)

    for module in (memory, planner):
        monkeypatch.setattr(module, "footprint", spread)
    options = ("plan", "--shard-model", "--device-memory", "46MB", "--ranks")
    two, four = (vdatrain(*options, ranks) for ranks in (2, 4))
    assert (two.code, two.err) == (0, "")
    assert "recompute none, on each of 2 ranks that share the model" in two.out
    assert "the largest batch that does is 1." in two.out  # of 42 MB
    assert "the largest batch that does is 2." in four.out
    none = vdatrain("plan", "--shard-model", "--device-memory", "5MB", "--ranks", 8, "--size", 14, "--frames", 1)
    assert "choose a smaller --encoder, --preset paper or more --ranks." in none.out


# ------------------------------------------------------------------------------------------------------------- the work


def test_a_step_is_three_times_the_forward_pass() -> None:
    with torch.device("meta"):
        model = build_from_config(SMALL)
    forward = 1e9 * gflop_per_frame(model, size=SMALL.size, num_frames=SMALL.frames) * SMALL.frames
    assert 2.9 * forward < footprint(SMALL, on_gpu=False).flops < 3.2 * forward


CALLS: dict[str, Callable[[Tensor], Tensor]] = {
    "layer_norm": lambda x: F.layer_norm(x, (6,)),
    "group_norm": lambda x: F.group_norm(x, 2),
    "interpolate": lambda x: F.interpolate(x, size=(9, 9), mode="bilinear", align_corners=True),
    "sum": lambda x: x.sum(),
    "linear": lambda x: F.linear(x, x.new_zeros(5, 6)),
    "conv2d": lambda x: F.conv2d(x, x.new_zeros(4, 8, 3, 3)),
    "conv_transpose2d": lambda x: F.conv_transpose2d(x, x.new_zeros(8, 4, 2, 2)),
    "gelu": F.gelu,
    "relu": F.relu,
    "avg_pool2d": lambda x: F.avg_pool2d(x, 2),
    "cat": lambda x: torch.cat([x, x.float()]),
    "mul": lambda x: x * torch.ones(6, device=x.device),
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_types_are_those_that_autocast_chooses_on_a_gpu(name: str, dtype: torch.dtype) -> None:
    shape = (2, 8, 6, 6)
    with FakeTensorMode():
        with memory._autocast("bf16", on_gpu=True):
            ours = CALLS[name](torch.zeros(shape, dtype=dtype)).dtype
        try:  # torch.autocast itself would decline: there need not be a GPU
            torch.set_autocast_enabled("cuda", True)
            torch.set_autocast_dtype("cuda", torch.bfloat16)
            theirs = CALLS[name](torch.zeros(shape, dtype=dtype, device="cuda")).dtype
        finally:
            torch.set_autocast_enabled("cuda", False)
            torch.set_autocast_dtype("cuda", torch.float16)
            torch.clear_autocast_cache()
    assert ours == theirs


def straight(config: TrainConfig) -> Footprint:
    """Take 10 bytes whatever the batch and 3 a window, fewer where less is kept."""
    share = {"none": 1.0, "head": 0.75, "encoder": 0.75, "all": 0.5}[config.recompute]
    share *= 1.0 if config.precision == "fp32" else 0.5
    return Footprint({"all": 1000 + round(300 * share * config.batch * config.size / 518 * config.frames / 32)}, 1)


def test_the_largest_batch_fits_and_the_next_does_not() -> None:
    config = TrainConfig(shards="none")
    for total in (1000, 1400, 1500, 5000):
        room = Room(total, on_gpu=True)
        batch = largest_batch(config, room, measure=straight)
        assert batch == max(0, (room.limit - 1000) // 300)


def test_what_does_not_fit_is_changed_no_more_than_it_must() -> None:
    config = TrainConfig(shards="none", batch=4, accumulate=2)

    def options(total: float) -> str | None:
        change = change_to_fit(config, Room(round(total / 0.92), on_gpu=True), measure=straight)
        return None if change is None else change.options

    assert options(1305) == "--batch 1 --accumulate 8"
    assert options(1152) == "--batch 1 --accumulate 8 --precision bf16"
    assert options(1080) == "--batch 1 --accumulate 8 --precision bf16 --recompute all"
    assert "--size 378" in (options(1056) or "")
    assert options(1001) is None


def test_a_matrix_product_has_a_speed() -> None:
    assert attainable_flops(Precision(CPU), side=64, rounds=1) > 1e6


@pytest.mark.slow
def test_the_command_says_what_fits(vdatrain) -> None:
    small = ("--encoder", "tiny", "--size", 56, "--frames", 4)
    result = vdatrain("plan", *small, "--device-memory", "200MB")
    assert result.code == 0
    for text in ("basic, tiny: batch 1 x 4 frames of 56x56, fp32", "encoder", "optimiser", "TFLOP a step"):
        assert text in result.out
    [batch] = re.findall(r"It fits: .* of such a GPU; the largest batch that does is (\d+)\.", result.out)
    assert int(batch) > 1


@pytest.mark.slow
def test_what_is_tried_is_said(vdatrain, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where none fits at once, for minutes nothing else would be."""
    monkeypatch.setattr("vdaprep.cli.views.output.LINE_S", 0.0)
    small = ("--encoder", "tiny", "--size", 28, "--frames", 2, "--device-memory", "1MB")
    said = vdatrain("plan", *small)
    first, *others = [line for line in said.err.splitlines() if line.startswith("counting a step with ")]
    assert first == "counting a step with these options"
    assert any("--precision bf16" in line for line in others)
    assert vdatrain("plan", *small, "--quiet").err == ""


def test_the_command_refuses_what_is_no_size(vdatrain) -> None:
    result = vdatrain("plan", "--device-memory", "much")
    assert result.code == 2
    assert "--device-memory much: expected a size, for example 5GB" in result.err


@pytest.mark.slow
def test_utilisation_is_the_share_of_what_the_device_can_do() -> None:
    found = utilisation(replace(SMALL, accumulate=3, images_per_clip=2), Precision(torch.device("cpu")))
    images = footprint(replace(SMALL, frames=1, batch=2 * SMALL.batch), on_gpu=False)
    assert found.step_flops == 3 * (footprint(SMALL, on_gpu=False).flops + images.flops)
    assert found.of(2 * found.step_flops / found.attainable) == pytest.approx(0.5)
