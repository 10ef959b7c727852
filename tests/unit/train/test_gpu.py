"""What a GPU does otherwise than the CPU: copies, streams, types, fused and compiled kernels, NCCL, memory.

Each test runs on the CPU, too, where its subject is there, so that one that nobody has run on a GPU is no broken code.
`pytest -m gpu` runs those for the GPU.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

import vdatrain
from tests.models import lively
from tests.unit.train.test_decode import SPECS
from vdaprep.errors import VdakitError
from vdaprep.shards import codec
from vdaprep.shards.dataset import open_shards
from vdatrain.config import PRESETS, TrainConfig
from vdatrain.data import batch as batches
from vdatrain.data import decode
from vdatrain.data.batch import Batch
from vdatrain.data.loader import TrainLoader
from vdatrain.device import Precision, choose_device, is_out_of_memory, peak_memory_bytes, reset_peak_memory
from vdatrain.distributed.compile import CompiledForward
from vdatrain.distributed.fsdp import shard, whole
from vdatrain.distributed.ranks import GroupRanks
from vdatrain.evaluation.evaluate import evaluate
from vdatrain.inference.predictor import Predictor
from vdatrain.models import variants
from vdatrain.models.canonical import in_metres
from vdatrain.models.layers.temporal import MAX_SEQUENCES, _attend, set_attention
from vdatrain.models.loading import build_from_config
from vdatrain.objectives.losses import ExtraTerms, video_loss
from vdatrain.objectives.metric import metric_loss
from vdatrain.objectives.warping import Cameras
from vdatrain.training import step, trainer
from vdatrain.training.callbacks import Callback
from vdatrain.training.optim import AveragedWeights, make_optimiser, parameter_groups, step_where
from vdatrain.training.planning.memory import Inputs, footprint, forward_backward
from vdatrain.training.planning.planner import measure_steps, utilisation

CPU = torch.device("cpu")
GPU = pytest.param("cuda", marks=pytest.mark.gpu)
SMALL = {"variant": "conv", "encoder": "tiny", "frames": 4, "size": 56, "batch": 2, "steps": 4, "warmup": 1}
RARELY = {"log_every": 1, "eval_every": 100, "eval_split": "none", "track": "none", "workers": 2}
FIELDS = ("frames", "differences", "disparity", "mask", "intrinsics", "diff_valid", "disparity_range")


@pytest.fixture(params=["cpu", GPU])
def device(request: pytest.FixtureRequest) -> torch.device:
    return choose_device(request.param)


class Figures(Callback):
    """Keeps what is logged of each step."""

    def __init__(self) -> None:
        self.steps: list[dict[str, int | float]] = []

    def on_step(self, step: int, figures) -> None:
        self.steps.append(dict(figures))


def trained(shards: Path, out: Path, device: torch.device, **options: object) -> list[dict[str, int | float]]:
    """Train a little; return the figures of each step."""
    noted = Figures()
    config = TrainConfig(shards=str(shards), device=str(device), **{**SMALL, **RARELY, **options})
    vdatrain.train(config, out=out, callbacks=[noted])
    return noted.steps


def busy(device: torch.device) -> None:
    """Give a GPU's stream something to do, so that what does not wait for it is noticed."""
    if device.type == "cuda":
        torch.cuda._sleep(50_000_000)


# ---------------------------------------------------------------------------------------------------- batches, copies


def test_batches_are_those_of_the_host(device: torch.device, toy_shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the device is busy, and the next batch is prepared in its own stream."""
    monkeypatch.setattr(batches, "decode_codes", decode.codes_of_bytes)
    config = TrainConfig(shards=str(toy_shards), frames=4, size=56, batch=2, images_per_clip=1, workers=2)
    with TrainLoader(config, device=CPU) as host, TrainLoader(config, device=device) as loader:
        for _ in range(4):
            found, expected = next(loader), next(host)
            loader.prepare()  # whose memory must not be that of the batch in use
            busy(device)
            seen = {name: getattr(found, name).clone() for name in FIELDS}
            assert found.images is not None
            assert expected.images is not None
            stills = found.images.frames.clone()
            assert found.keys == expected.keys
            for name in FIELDS:
                torch.testing.assert_close(seen[name].cpu(), getattr(expected, name), atol=2e-5, rtol=1e-5)
            torch.testing.assert_close(stills.cpu(), expected.images.frames, atol=2e-5, rtol=1e-5)
            del found


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_depth_is_that_of_the_codec(device: torch.device, spec) -> None:
    rng = np.random.default_rng(0)
    codes = rng.integers(20_000, 20_012, (37, 45), np.uint16)
    codes[rng.random(codes.shape) < 0.3] = 0
    data = codec.pack_codes(codes, spec)
    packed = torch.from_numpy(np.array(codec.decompress_depth(data, spec, height=37, width=45)))[None]
    found = decode.codes_of_bytes(packed.to(device), spec, size=(37, 45))
    np.testing.assert_array_equal(found[0].cpu().numpy(), codec.unpack_codes(data, spec, height=37, width=45))


def test_video_is_that_of_the_codec(device: torch.device) -> None:
    planes = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 36, 32), np.uint8))
    expected = decode.decode_images(planes, (22, 31))
    found = decode.rgb_of_planes(planes.to(device), (22, 31))
    assert torch.equal(found.cpu(), expected)


@contextlib.contextmanager
def waits_refused(device: torch.device) -> Iterator[None]:
    """On a GPU refuse what lets the host wait, and copies from memory that is not page-locked."""
    if device.type != "cuda":
        yield
        return
    move = Tensor.to

    def watched(values: Tensor, *arguments: object, **options: object) -> Tensor:
        moved = move(values, *arguments, **options)
        assert moved.device == values.device or values.is_pinned(), f"{list(values.shape)} of pageable memory is copied"
        return moved

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Tensor, "to", watched)
        torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.slow
def test_no_step_waits_for_the_device(
    device: torch.device, toy_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for the first, which allocates and fills tables."""
    taken, take = 0, trainer.train_step

    def watched(state, loader: TrainLoader) -> None:
        nonlocal taken
        with waits_refused(device) if taken else contextlib.nullcontext():
            take(state, loader)
            loader.prepare()
        taken += 1

    monkeypatch.setattr(trainer, "train_step", watched)
    options = {"precision": "bf16", "images_per_clip": 1, "warp_weight": 0.1, "stability": 0.1, "log_every": 4}
    [figures] = trained(toy_shards / "alpha", tmp_path / "run", device, **options)
    assert taken == 4
    assert np.isfinite(figures["total"])
    assert figures["skipped"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("variant", variants.names())
@pytest.mark.parametrize("task", ["relative", "metric"])
def test_a_step_makes_its_tensors_where_it_computes(
    variant: str, task: str, toy_shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a device without numbers: what adds the host's tensors to its own, or reads one, raises."""
    place, autocast = torch.device("meta"), torch.autocast
    monkeypatch.setattr(
        torch,
        "autocast",
        lambda device_type, **given: autocast("cpu" if device_type == "meta" else device_type, **given),
    )
    config = TrainConfig(
        shards=str(toy_shards / "alpha"), variant=variant, task=task, encoder="tiny", frames=4, size=56, batch=2,
        attention="chunk", stride_weight=1.0, stability=0.1, warp_weight=1.0, differences="decoded",
    )  # fmt: skip
    with TrainLoader(config, device=place) as loader:
        shown = next(loader)
    assert {name for name in FIELDS if getattr(shown, name).device != place} == set()
    with place:
        model = build_from_config(config)
    set_attention(model, 2)
    prediction = model(shown.frames, shown.differences, shown.diff_valid)
    assert shown.camera_to_world is not None
    cameras = Cameras(shown.intrinsics, shown.camera_to_world, shown.disparity_range)
    extra = ExtraTerms.of(config, batches.denormalise(shown.frames), cameras)
    if task == "metric":
        disparity = in_metres(model, prediction, shown.intrinsics)
        loss = metric_loss(disparity, shown.disparity, shown.mask, shown.disparity_range, extra=extra)
    else:
        loss = video_loss(prediction, shown.disparity, shown.mask, extra=extra)
    loss.total.backward()
    assert loss.total.device == place
    assert any(parameter.grad is not None for parameter in model.parameters())


# ------------------------------------------------------------------------------------------------------ model and loss


@pytest.mark.parametrize(("variant", "chunk"), [("conv", None), ("crossatt", 2), ("token", 1)])
def test_float32_is_that_of_the_host(device: torch.device, variant: str, chunk: int | None) -> None:
    """Prediction, loss and gradient, convolutions included, which torch would compute in TF32."""
    config = TrainConfig(shards="none", encoder="tiny", frames=4, size=56, batch=1)
    generator = torch.Generator().manual_seed(0)
    model = lively(variant).train()
    set_attention(model, chunk)
    frames, differences = torch.randn(1, 4, 3, 56, 56, generator=generator), torch.randn(1, 4, 3, 16, 16)
    truth = torch.rand(1, 4, 56, 56, generator=generator)
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    for place in (CPU, device):
        model.to(place).zero_grad(set_to_none=True)
        valid = torch.ones(1, config.frames, dtype=torch.bool, device=place)
        prediction = model(frames.to(place), differences.to(place), valid)
        loss = video_loss(prediction, truth.to(place), truth.to(place) > 0.1).total
        loss.backward()
        gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        found.append((prediction.detach().cpu(), loss.detach().cpu(), gradient.cpu()))
    (prediction, loss, gradient), (*_,) = found[0], found[1]
    torch.testing.assert_close(found[1][0], prediction, atol=1e-4 * float(prediction.abs().max()), rtol=1e-4)
    torch.testing.assert_close(found[1][1], loss, atol=0, rtol=1e-3)
    assert F.cosine_similarity(found[1][2], gradient, dim=0) > 0.999  # the loss has corners


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_coarser_numbers_train_alike(device: torch.device, precision: str, toy_shards: Path, tmp_path: Path) -> None:
    """The first step's losses are those of float32 within 5 %; in fp16 the scale of the loss is found by some steps."""
    exact = trained(toy_shards, tmp_path / "fp32", device, steps=1)
    found = trained(toy_shards, tmp_path / precision, device, steps=8, precision=precision)
    for name in ("total", "spatial"):
        assert found[0][name] == pytest.approx(exact[0][name], rel=0.05)
    skipped = [figures["skipped"] for figures in found]
    assert skipped[-1] == skipped[-2] <= (5 if precision == "fp16" else 0)
    assert np.isfinite(found[-1]["gradient_norm"])


def test_more_sequences_than_a_grid_has_blocks(device: torch.device) -> None:
    parts = torch.randn(3, MAX_SEQUENCES + 5, 1, 2, 8, generator=torch.Generator().manual_seed(0))
    expected = F.scaled_dot_product_attention(*parts[:, -9:])
    found = _attend(*parts.to(device))
    assert len(found) == MAX_SEQUENCES + 5
    torch.testing.assert_close(found[-9:].cpu(), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.slow
def test_an_evaluation_is_that_of_the_host(device: torch.device, toy_shards: Path) -> None:
    model = lively("conv")
    expected = evaluate(model, toy_shards, split="train", frames=4, size=56).average()
    found = evaluate(model.to(device), toy_shards, split="train", frames=4, size=56).average()
    assert found == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("stream", [False, True])
def test_a_prediction_is_that_of_the_host(device: torch.device, toy_shards: Path, stream: bool) -> None:
    rgb = open_shards(toy_shards / "alpha").clips()[0].read().rgb[:5]
    found = []
    for place in (CPU, device):
        predictor = Predictor(lively("conv").eval().to(place), Precision(place), size=56)
        found.append(np.stack(list(predictor.stream(rgb))) if stream else predictor.predict(rgb))
    np.testing.assert_allclose(found[1], found[0], atol=1e-4 * float(found[0].max()), rtol=1e-3)


# -------------------------------------------------------------------------------------------------------- the optimiser


def test_a_step_is_taken_or_left_out(device: torch.device) -> None:
    """By the fused kernel, which reads the flag on the device; taken it is that of the plain one."""
    fused, plain = (nn.Linear(5, 3, device=device) for _ in range(2))
    plain.load_state_dict(fused.state_dict())
    groups = parameter_groups(fused, PRESETS["scratch"], lr=1e-2, weight_decay=0.1)
    optimiser = make_optimiser(groups, device=device)
    settings = [
        {**group, "params": [dict(plain.named_parameters())[name]]}
        for group, name in zip(groups, ("weight", "bias"), strict=True)
    ]
    reference = torch.optim.AdamW(settings, betas=(0.9, 0.999), fused=False, foreach=False)
    average = AveragedWeights(fused, decay=0.5)
    for number, value in enumerate((1.0, float("nan"), -2.0)):
        for one, other in zip(fused.parameters(), plain.parameters(), strict=True):
            one.grad, other.grad = torch.full_like(one, value), torch.full_like(other, value)
        wanted = one.grad.isfinite().all()
        step_where(optimiser, wanted)
        average.update(fused, step=number, taken=wanted)
        if number != 1:
            reference.step()
        for one, other in zip(fused.parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)
        assert all(values.isfinite().all() for values in average.state_dict().values())
    assert {float(values["step"]) for values in optimiser.state.values()} == {2.0}


def test_a_scaled_loss_that_overflows_costs_a_step_and_half_the_scale(device: torch.device) -> None:
    model = nn.Linear(2, 1, device=device)
    optimiser = make_optimiser(parameter_groups(model, PRESETS["scratch"], lr=None, weight_decay=0.0), device=device)
    scaler, before = Precision(device, "fp16").scaler(), model.weight.detach().clone()
    scaler.scale(model(torch.full((1, 2), 3e38, device=device)).sum()).backward()
    scaler.unscale_(optimiser)
    step_where(optimiser, model.weight.grad.isfinite().all())
    scaler.update()
    assert torch.equal(model.weight, before)
    assert scaler.get_scale() == 2.0**15


def test_training_leaves_the_random_numbers_of_the_process(
    device: torch.device, toy_shards: Path, tmp_path: Path
) -> None:
    states = [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]
    trained(toy_shards, tmp_path / "run", device, steps=2)
    after = [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]
    assert all(map(torch.equal, states, after))


# ---------------------------------------------------------------------------------------------------------- many ranks


@pytest.fixture
def alone(device: torch.device) -> Iterator[GroupRanks]:
    """A process group of one rank, over NCCL on a GPU."""
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    yield GroupRanks(0, 1)
    dist.destroy_process_group()


def test_one_rank_of_a_group_is_like_one_alone(device: torch.device, alone: GroupRanks) -> None:
    values = torch.arange(3.0, device=device)
    assert torch.equal(alone.mean(values), values)
    assert alone.mean(values).device == values.device
    assert alone.gather(["a"]) == [["a"]]
    assert torch.equal(alone.broadcast_from_rank0({"x": values.cpu()})["x"], values.cpu())
    config = TrainConfig(shards="none", encoder="tiny", frames=2, size=28)
    shown, model = Inputs.of(config, device=str(device)), lively("basic").to(device)
    forward_backward(model, shown)
    expected = [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
    model.zero_grad(set_to_none=True)
    forward_backward(alone.wrap_ddp(model), shown)
    found = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-3)


@pytest.mark.slow
@pytest.mark.usefixtures("alone")
def test_a_sharded_step_is_that_of_the_whole_model(device: torch.device) -> None:
    """FSDP2 with one rank: gathered blocks, norm, fused step on shards."""
    config = TrainConfig(shards="none", encoder="tiny", frames=2, size=28)
    shown = Inputs.of(config, device=str(device))
    norms: list[float] = []
    weights: list[Tensor] = []
    for spread in (False, True):
        model = lively("basic").to(device)
        if spread:
            shard(model, world=1, device=device)
        groups = parameter_groups(model, PRESETS["scratch"], lr=None, weight_decay=0.01)
        optimiser = make_optimiser(groups, device=device)
        forward_backward(model, shown)
        norm = step.gradient_norm([p for group in optimiser.param_groups for p in group["params"]], clip=1.0)
        step_where(optimiser, norm.isfinite())
        norms.append(float(norm))
        weights.append(torch.cat([whole(p).detach().flatten() for p in model.parameters()]))
    assert norms[1] == pytest.approx(norms[0], rel=1e-3)
    torch.testing.assert_close(weights[1], weights[0], atol=3e-4, rtol=1e-3)  # a step is of 3e-4


# ------------------------------------------------------------------------------------------------------ memory and time


@pytest.mark.parametrize(
    ("said", "is_lack"),
    [
        ("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried", True),
        ("CUDA error: out of memory\nCUDA kernel errors might be", True),
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", True),
        ("cuDNN error: CUDNN_STATUS_ALLOC_FAILED", True),
        ("CUDA error: device-side assert triggered", False),
        ("expected all tensors to be on the same device", False),
    ],
)
def test_lack_of_memory_is_told_from_other_errors(said: str, is_lack: bool) -> None:
    assert is_out_of_memory(RuntimeError(said)) == is_lack
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"))
    assert not is_out_of_memory(ValueError(said))


def test_a_gpu_computes_convolutions_of_float32_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    choose_device("cpu")
    assert torch.backends.cudnn.allow_tf32
    choose_device("cuda")
    assert not torch.backends.cudnn.allow_tf32


def test_a_run_tells_its_own_peak(device: torch.device) -> None:
    before = torch.zeros(1 << 26, device=device)
    before.add_(1)
    assert peak_memory_bytes(device) >= before.nbytes
    size = before.nbytes
    del before
    reset_peak_memory(device)
    assert (peak_memory_bytes(device) < size) == (device.type == "cuda")  # a process's own cannot begin anew


@pytest.mark.slow
def test_a_step_uses_some_of_what_the_device_can(device: torch.device) -> None:
    config = TrainConfig(shards="none", encoder="tiny", frames=4, size=56, batch=1)
    precision = Precision(device, "bf16" if device.type == "cuda" else "fp32")
    model, shown = build_from_config(config).to(device).train(), Inputs.of(config, device=str(device))
    found = utilisation(config, precision)
    assert found.attainable > 1e9
    forward_backward(model, shown, autocast=precision.autocast)
    assert 0 < found.of(0.1) < 1.05


@pytest.mark.gpu
def test_the_plan_is_what_a_step_takes() -> None:
    config = TrainConfig(shards="none", variant="conv", encoder="vits", frames=8, size=252, precision="bf16")
    found = measure_steps(config, Precision(choose_device("cuda"), "bf16"))
    assert found.peak_bytes == pytest.approx(footprint(config, on_gpu=True).total, rel=0.15)


@pytest.mark.gpu
def test_compiled_is_like_eager() -> None:
    device = choose_device("cuda")
    warned: list[str] = []
    model = lively("conv").to(device).train()
    generator = torch.Generator().manual_seed(0)
    shown = Inputs.of(TrainConfig(shards="none", encoder="tiny", frames=4, size=56), device="cuda")
    frames = torch.randn(shown.frames.shape, generator=generator).to(device)
    seen = Batch(
        frames, shown.differences, shown.diff_valid, shown.disparity, shown.mask,
        torch.ones(1, 4, 4, device=device), None, torch.ones(1, 2, device=device), ("d",), ("k",),
    )  # fmt: skip
    eager, compiled = (CompiledForward(model, compiled=kind, warn=warned.append)(seen) for kind in (False, True))
    torch.testing.assert_close(compiled, eager, atol=1e-3 * float(eager.abs().max()), rtol=1e-3)
    compiled.sum().backward()
    assert warned == []


@pytest.mark.gpu
def test_lack_of_memory_on_a_gpu_is_one_sentence(toy_shards: Path, tmp_path: Path) -> None:
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(256e6 / torch.cuda.get_device_properties(0).total_memory)
    try:
        with pytest.raises(VdakitError, match=r"out of the \d+ GiB of .*try .*`vdatrain plan` says what fits"):
            trained(toy_shards, tmp_path / "run", choose_device("cuda"), batch=64, size=252)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
