"""The training loop from the inside: steps that wait for nothing, that are skipped, that run out of memory."""

import ast
import contextlib
import dataclasses
import json
import math
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest
import torch
from functorch.compile import make_boxed_func
from torch import Tensor, nn
from torch._dynamo.backends.common import aot_autograd
from torch.utils._python_dispatch import TorchDispatchMode

import vdatrain
from tests.models import stirred
from tests.unit.train.conftest import Toy
from vdaprep.errors import VdakitError
from vdatrain import run_dir
from vdatrain.config import TrainConfig
from vdatrain.data import batch, decode, loader
from vdatrain.data.batch import Batch
from vdatrain.data.loader import TrainLoader
from vdatrain.data.prefetch import DevicePrefetcher
from vdatrain.data.samples import Sample
from vdatrain.device import Precision
from vdatrain.distributed.compile import CompiledForward
from vdatrain.distributed.ranks import Ranks
from vdatrain.evaluation.evaluate import Evaluation
from vdatrain.models import loading
from vdatrain.models.layers.temporal import set_attention
from vdatrain.objectives.losses import VideoLoss
from vdatrain.run_dir import git_state, versions
from vdatrain.training import state, step, trainer
from vdatrain.training.callbacks import Callback
from vdatrain.training.monitor import FIGURES, MAX_SKIPPED, StepMonitor
from vdatrain.training.state import TrainState

CPU = Precision(torch.device("cpu"))


@pytest.fixture
def begin(toy_shards: Path, tmp_path: Path) -> Callable[..., TrainState]:
    """Begin a small run; options as Config has them."""
    numbers = iter(range(100))

    def make(**options: object) -> TrainState:
        small = {"encoder": "tiny", "frames": 2, "size": 28, "batch": 2, "steps": 4, "warmup": 1, "ema": 0.5}
        rest = {"workers": 0, "log_every": 2, "eval_every": 100, "track": "none"}
        config = TrainConfig(shards=str(toy_shards), **{**small, **rest, **options})
        folder = tmp_path / f"run{next(numbers)}"
        folder.mkdir()
        return state.new_state(config, folder, precision=CPU)

    return make


def figures_of(run: TrainState) -> list[dict[str, int | float]]:
    """Train to the end; returns what was told every `log_every` steps."""
    noted = Noted()
    trainer.train_state(run, callbacks=[noted])
    return noted.figures


class Noted(Callback):
    """Keeps what a run passes to its callbacks; raises VdakitError at the step `fails_at`."""

    def __init__(self, *, fails_at: int | None = None) -> None:
        self.figures: list[dict[str, int | float]] = []
        self.calls: list[tuple[str, int]] = []
        self.advances: list[int] = []
        self.windows: list[tuple[int, int, int]] = []
        self._fails_at = fails_at

    def on_start(self, config: TrainConfig, step: int, loaded: object) -> None:
        self.calls.append(("start", step))

    def on_step(self, step: int, figures: Mapping[str, int | float]) -> None:
        self.calls.append(("step", step))
        self.figures.append(dict(figures))
        if step == self._fails_at:
            raise VdakitError("no")

    def on_advance(self, step: int) -> None:
        self.advances.append(step)

    def on_window(self, step: int, done: int, total: int) -> None:
        self.windows.append((step, done, total))

    def on_evaluation(self, step: int, evaluation: Evaluation) -> None:
        self.calls.append(("evaluation", step))

    def on_checkpoint(self, step: int, path: Path) -> None:
        assert path.name == "last.pt"
        self.calls.append(("checkpoint", step))


# ------------------------------------------------------------------------------------------------------ nothing waits


class HostWaits(TorchDispatchMode):
    """While it lasts, whatever would make the host wait for a GPU raises, save inside `allowed`."""

    METHODS = ("item", "tolist", "cpu", "numpy", "nonzero", "__bool__", "__float__", "__int__", "__index__")
    OPERATIONS = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "_unique2")

    def __init__(self) -> None:
        super().__init__()
        self._allowed = False
        self._patch = pytest.MonkeyPatch()
        self._thread = threading.current_thread()  # others may read samples meanwhile

    def __enter__(self) -> "HostWaits":
        for name in self.METHODS:
            self._patch.setattr(Tensor, name, self._watched(name, getattr(Tensor, name)))
        return super().__enter__()

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        self._patch.undo()

    @contextlib.contextmanager
    def allowed(self) -> Iterator[None]:
        self._allowed = True
        yield
        self._allowed = False

    def _watched(self, name: str, method: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **options: object) -> object:
            watched = threading.current_thread() is self._thread
            assert self._allowed or not watched, f"Tensor.{name} waits for the device"
            return method(*arguments, **options)

        return call

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        by_mask = name == "index" and any(part is not None and part.dtype == torch.bool for part in args[1])
        assert self._allowed or (name not in self.OPERATIONS and not by_mask), f"{name} waits for the device"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "waits",
    [
        lambda values: values.sum().item(),
        lambda values: values.cpu(),
        lambda values: 1.0 if values.sum() > 0 else 0.0,
        lambda values: range(int(values.sum())),
        lambda values: values[values > 0],
        lambda values: torch.where(values > 0),
    ],
)
def test_what_would_wait_is_noticed(waits: Callable[[Tensor], object]) -> None:
    watch = HostWaits()
    with watch, pytest.raises(AssertionError, match="waits for the device"):
        waits(torch.ones(3))
    with watch, watch.allowed():
        waits(torch.ones(3))
    waits(torch.ones(3))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variant", "options"),
    [
        ("conv", {}),
        ("crossatt", {"precision": "bf16", "recompute": "all", "preset": "finetune"}),
        ("basic", {"task": "metric"}),
        ("basic", {"images_per_clip": 2, "images": "beta", "attention": "chunk", "frames": 4}),
    ],
)
def test_no_step_waits_for_the_device(
    variant: str, options, begin, toy_shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {name: str(toy_shards / value) if name == "images" else value for name, value in options.items()}
    monkeypatch.setattr(batch, "decode_codes", decode.codes_of_bytes)  # as on a GPU, whose bytes are not the host's
    taken, drawn = 0, loader.sample_augmentations

    def watched(run: TrainState, feed: TrainLoader) -> None:
        nonlocal taken
        with HostWaits() as watch:

            def draw(*arguments: object, **named: object) -> object:
                with watch.allowed():  # on the host, of the host's own numbers
                    return drawn(*arguments, **named)

            with monkeypatch.context() as patch:
                patch.setattr(loader, "sample_augmentations", draw)
                step.train_step(run, feed)
        taken += 1

    monkeypatch.setattr(trainer, "train_step", watched)
    [first, second] = figures_of(begin(variant=variant, accumulate=2, log_every=2, **options))
    assert taken == 4
    assert math.isfinite(first["total"])
    assert second["total"] != first["total"]


# ---------------------------------------------------------------------------------------------------------- the batches


def small_batch(key: str) -> Batch:
    disparity = torch.ones(1, 1, 14, 14)
    known, valid = torch.ones(1, 1, 14, 14, dtype=torch.bool), torch.ones(1, 1, dtype=torch.bool)
    frames, differences, intrinsics = torch.ones(1, 1, 3, 14, 14), torch.ones(1, 1, 3, 4, 4), torch.ones(1, 1, 4)
    return Batch(
        frames,
        differences,
        valid,
        disparity,
        known,
        intrinsics,
        None,
        torch.tensor([[0.0, 1.0]]),
        ("d",),
        (key,),
        torch.tensor([False]),
    )


def test_a_feed_prepares_one_batch_and_keeps_the_order() -> None:
    read: list[str] = []

    def samples() -> Iterator[list[Sample]]:
        for key in "abcd":
            read.append(key)
            yield [key]  # type: ignore[list-item]

    feed = DevicePrefetcher(samples(), lambda samples: small_batch(samples[0]), device=torch.device("cpu"))  # type: ignore[arg-type]
    assert read == []
    assert [feed.peek().keys, feed.peek().keys, feed.take().keys] == 3 * [("a",)]
    feed.prepare()
    feed.prepare()
    assert read == ["a", "b"]
    assert [feed.take().keys for _ in range(3)] == [("b",), ("c",), ("d",)]
    assert feed.waited >= 0
    with pytest.raises(StopIteration):
        feed.prepare()


def test_closing_a_feed_ends_who_reads() -> None:
    ended: list[bool] = []

    def samples() -> Iterator[list[Sample]]:
        try:
            while True:
                yield []
        finally:
            ended.append(True)

    with contextlib.closing(
        DevicePrefetcher(samples(), lambda samples: small_batch("a"), device=torch.device("cpu"))
    ) as feed:
        feed.prepare()
    assert ended == [True]


def test_ranks_share_the_windows_of_one_with_the_larger_batch(begin, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a step shows is a matter of the position alone, whoever shows it and with whatever batch it began."""
    shown: list[int] = []
    make = loader.make_batch

    def noted(samples: list[Sample], *arguments: object, **options: object) -> Batch:
        shown.extend(sample.window.position for sample in samples)
        return make(samples, *arguments, **options)

    monkeypatch.setattr(loader, "make_batch", noted)
    for rank in range(2):
        run = begin(batch=2, accumulate=2, steps=2)
        run.ranks = Ranks(rank=rank, world=2)
        figures_of(run)
        assert run.position == 16
    first, second = shown[:8], shown[8:]
    assert sorted(first + second) == list(range(16))
    assert first == list(range(0, 16, 2))


@pytest.mark.parametrize("images_per_clip", [0, 3])
def test_every_frame_that_goes_through_the_model_counts(images_per_clip: int, begin) -> None:
    run, seen = begin(accumulate=2, steps=2, images_per_clip=images_per_clip), []
    run.model.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].shape[:2].numel()))
    [told] = figures_of(run)
    assert sum(seen[: len(seen) // 2]) == 2 * 2 * (2 + images_per_clip)  # of a step: accumulate, batch, frames
    assert told["frames_per_s"] * told["step_s"] == pytest.approx(sum(seen) / 2)


@pytest.mark.slow
def test_extra_terms_of_the_loss_are_trained_on_and_told(begin) -> None:
    plain, extra = (
        begin(frames=4),
        begin(frames=4, stride_weight=0.5, stability=0.2, warp_weight=2.0, images_per_clip=1),
    )
    assert "warp" not in figures_of(plain)[0]
    [first, _] = figures_of(extra)
    assert first["stride"] > 0
    assert first["warp"] >= 0
    assert math.isfinite(first["gradient_norm"])
    weights = [dict(run.model.named_parameters())["head.scratch.output_conv1.weight"] for run in (plain, extra)]
    assert not torch.equal(*weights)


# ------------------------------------------------------------------------------------------- gradients without a value


def test_a_step_without_a_finite_gradient_changes_nothing(begin, monkeypatch: pytest.MonkeyPatch) -> None:
    run, whole = begin(variant="conv", steps=3, log_every=1), step.video_loss
    states: list[dict[str, object]] = []

    def spoilt(*arguments: Tensor) -> VideoLoss:
        loss = whole(*arguments)
        bad = math.nan if run.step == 1 else 1.0
        return dataclasses.replace(loss, total=loss.total * bad)

    def watched(run: TrainState, feed: TrainLoader) -> None:
        step.train_step(run, feed)
        states.append(state.snapshot(run))

    monkeypatch.setattr(step, "video_loss", spoilt)
    monkeypatch.setattr(trainer, "train_step", watched)
    told = figures_of(run)
    assert [line["skipped"] for line in told] == [0, 1, 1]
    assert math.isnan(told[1]["gradient_norm"])
    assert math.isnan(told[1]["total"])
    assert math.isfinite(told[1]["spatial"])
    before, skipped, after = states
    for part in ("model", "average"):
        assert all(torch.equal(skipped[part][name], value) for name, value in before[part].items())
        assert any(not torch.equal(after[part][name], value) for name, value in before[part].items())
    for number, moments in before["optimiser"]["state"].items():
        assert all(torch.equal(skipped["optimiser"]["state"][number][name], value) for name, value in moments.items())
    assert {float(moments["step"]) for moments in after["optimiser"]["state"].values()} == {2.0}
    text = (run.folder / "log.jsonl").read_text()
    assert "NaN" not in text
    assert '"total": null' in text


def test_too_many_such_steps_end_the_run_and_name_the_clips(begin, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = step.video_loss
    monkeypatch.setattr(step, "video_loss", lambda *a: dataclasses.replace(whole(*a), total=whole(*a).total * math.inf))
    run = begin(steps=100, log_every=5, batch=1)
    with pytest.raises(VdakitError, match=r"not finite for 20 steps in a row, with (alpha|beta)-walk-\d\d-0.*--lr"):
        figures_of(run)
    assert run.step == MAX_SKIPPED


def row(**figures: float) -> Tensor:
    return torch.tensor([figures.get(name, 1.0) for name in FIGURES])


def test_a_monitor_goes_on_where_it_was_stored() -> None:
    monitor, again = StepMonitor(), StepMonitor()
    for number in range(MAX_SKIPPED - 1):
        monitor.add(row(gradient_norm=math.nan), [f"clip{number}"])
    monitor.settle()
    again.load_state_dict(monitor.state_dict())
    again.add(row(total=3.0), ["good"])
    again.settle()
    assert again.take() == {"total": (MAX_SKIPPED - 1 + 3) / MAX_SKIPPED, "spatial": 1.0, "temporal": 1.0,
                            "gradient_norm": 1.0, "skipped": MAX_SKIPPED - 1}  # fmt: skip
    monitor.add(row(gradient_norm=math.inf), ["last"])
    with pytest.raises(VdakitError, match=r"with last, clip18, clip17, clip16, .* and 12 more clips; try"):
        monitor.settle()


class Doubled(Ranks):
    """Two ranks of which the other always has as much, and clips of its own."""

    def mean(self, values: Tensor) -> Tensor:
        return values * 2

    def gather(self, texts: Sequence[str]) -> list[list[str]]:
        return [list(texts), [*(f"other {text}" for text in texts), "last"]]


def test_a_monitor_gives_what_all_ranks_measured() -> None:
    monitor = StepMonitor()
    monitor.add(row(total=1.0), ["a"])
    monitor.settle(Doubled())
    assert monitor.take()["total"] == 2.0
    monitor.settle()
    assert monitor.take() == {"skipped": 0}


def test_a_monitor_names_the_clips_of_all_ranks() -> None:
    monitor = StepMonitor()
    for number in range(MAX_SKIPPED):
        monitor.add(row(gradient_norm=math.nan), ["first", f"clip{number % 3}"])
    clips = "clip1, last, first, other clip1, clip0, other first, other clip0, clip2 and 1 more clips"
    with pytest.raises(VdakitError, match=f"not finite for 20 steps in a row, with {clips}; try"):
        monitor.settle(Doubled())


# -------------------------------------------------------------------------------------------------------------- memory


def test_running_out_of_memory_says_what_to_change(begin, monkeypatch: pytest.MonkeyPatch) -> None:
    def too_much(run: TrainState, feed: TrainLoader) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(trainer, "train_step", too_much)
    with pytest.raises(VdakitError) as caught:
        figures_of(begin(batch=4, accumulate=3))
    sentence = str(caught.value)
    assert sentence.startswith("out of memory in step 0 with --batch 4 --frames 2 --size 28: try --precision bf16, ")
    for part in ("--batch 2 --accumulate 6", "--recompute all", "smaller --size", "fewer --frames", "vdatrain plan"):
        assert part in sentence
    with pytest.raises(VdakitError) as caught:
        figures_of(begin(batch=1, precision="bf16", recompute="all"))
    assert ": try a smaller --size, fewer --frames; " in str(caught.value)


def test_other_errors_of_torch_stay_what_they_are(begin, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(run: TrainState, feed: TrainLoader) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(trainer, "train_step", broken)
    with pytest.raises(RuntimeError, match="mat1"):
        figures_of(begin())


def gradients(run: TrainState) -> list[Tensor]:
    with contextlib.closing(trainer.open_loader(run)) as feed:
        step.accumulate_gradient(run, next(feed))
    return [parameter.grad for parameter in run.trained]


@pytest.mark.parametrize("recompute", ["head", "encoder", "all"])
def test_recomputing_changes_no_gradient(recompute: str, begin) -> None:
    plain, again = gradients(begin(variant="conv")), gradients(begin(variant="conv", recompute=recompute))
    assert len(plain) == len(again) > 50
    for kept, computed in zip(plain, again, strict=True):
        torch.testing.assert_close(computed, kept, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("recompute", "blocks"), [("none", 0), ("head", 0), ("encoder", 4), ("all", 4)])
def test_recomputing_calls_the_blocks_twice(recompute: str, blocks: int, begin) -> None:
    run, calls = begin(recompute=recompute), []
    for block in run.model.pretrained.blocks:
        block.register_forward_pre_hook(lambda *_: calls.append(1))  # the second time it stops where it knows enough
    gradients(run)
    assert len(calls) == 4 + blocks


# --------------------------------------------------------------------------------------------------- frozen, compiled


def test_a_frozen_encoder_stays_in_eval_mode_and_leaves_no_graph(begin) -> None:
    run, modes = begin(preset="paper", variant="conv"), []
    assert run.model.pretrained.frozen
    weights = {name: value.clone() for name, value in run.model.state_dict().items()}
    run.model.pretrained.register_forward_hook(
        lambda module, inputs, levels: modes.append((module.training, run.model.head.training, levels[0].requires_grad))
    )
    figures_of(run)
    assert modes[-1] == (False, True, False)
    changed = {name for name, value in run.model.state_dict().items() if not torch.equal(value, weights[name])}
    assert changed
    assert all(name.startswith(("head.", "branch.")) for name in changed)
    assert not begin(preset="finetune").model.pretrained.frozen


def works(graph: torch.fx.GraphModule, inputs: object) -> Callable[..., object]:
    return make_boxed_func(graph.forward)


def fails(graph: torch.fx.GraphModule, inputs: object) -> Callable[..., object]:
    raise RuntimeError("no compiler here")


@pytest.mark.parametrize(
    ("there", "back", "calls"),
    [(works, works, 3), (fails, works, 1), (works, fails, 1)],
    ids=["works", "there", "back"],
)
def test_where_compiling_fails_the_run_goes_on_without(there, back, calls: int, begin, monkeypatch, caplog) -> None:
    called: list[int] = []

    def compile_(model: nn.Module) -> Callable[..., Tensor]:
        compiled = really(model, backend=aot_autograd(fw_compiler=there, bw_compiler=back))
        return lambda *inputs: called.append(1) or compiled(*inputs)

    really = torch.compile
    monkeypatch.setattr(state, "build_from_config", lambda config: seeded(Toy))
    monkeypatch.setattr(torch, "compile", compile_)
    plain = figures_of(begin(steps=2, log_every=1))
    assert not called
    caplog.clear()
    run = begin(compile=True, steps=2, log_every=1)
    told = figures_of(run)
    assert [line["total"] for line in told] == pytest.approx([line["total"] for line in plain], rel=1e-5)
    assert len(called) == calls  # one to try, two steps
    assert list(run.model.state_dict()) == ["branch.weight", "branch.bias"]
    ours = [record for record in caplog.records if record.name.startswith("vdatrain")]  # torch may log of it, too
    sentences = [record.getMessage() for record in ours if "compile" in record.getMessage()]
    assert len(sentences) == (calls == 1)
    for sentence in sentences:
        assert sentence.startswith("--compile: torch.compile failed (")
        assert "no compiler here" in sentence
        assert sentence.endswith("; the run goes on without it.")


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return make()


class Patterned(Toy):
    """A model with a number that changes from step to step, as the chunks of attention do."""

    chunk = 0

    def forward(self, frames: Tensor, differences: Tensor | None, diff_valid: Tensor) -> Tensor:
        return super().forward(frames, differences, diff_valid) + self.chunk


def test_every_pattern_has_its_compiled_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    """More than torch would compile: with its limit it goes on without, and says nothing."""
    made: list[object] = []
    really = torch.compile

    def count(graph: torch.fx.GraphModule, _: object) -> Callable[..., object]:
        made.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", lambda model: really(model, backend=count))
    model = Patterned()
    forward = CompiledForward(model, compiled=True, warn=pytest.fail)
    for chunk in (*range(12), 3, 0):
        model.chunk = chunk
        torch.testing.assert_close(
            forward(small_batch("k")), model(torch.ones(1, 1, 3, 14, 14), None, torch.ones(1, 1))
        )
    assert len(made) == 12


def test_what_has_no_memory_for_compiling_has_none(begin, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(model: nn.Module) -> Callable[..., Tensor]:
        def call(*inputs: object) -> Tensor:
            raise torch.OutOfMemoryError("CUDA out of memory.")

        return call

    monkeypatch.setattr(torch, "compile", no_memory)
    with pytest.raises(VdakitError, match="out of memory in step 0"):
        figures_of(begin(compile=True))


# ------------------------------------------------------------------------------------------------------------- the rest


def test_what_a_model_draws_is_a_function_of_seed_step_and_rank(begin) -> None:
    run, found = begin(), []
    for number, rank in ((0, 0), (1, 0), (0, 0), (0, 1)):
        run.step, run.ranks = number, Ranks(rank, 2)
        step._seed(run)
        found.append(torch.rand(1).item())
    assert found[0] == found[2]
    assert len(set(found)) == 3


def test_training_leaves_the_callers_random_numbers_alone(begin) -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    figures_of(begin(steps=1))
    assert torch.equal(torch.rand(1), expected)


def test_the_facts_of_a_run(tmp_path: Path) -> None:
    found = versions()
    assert torch.__version__.startswith(found["torch"])
    assert {"python", "numpy", "vdakit", "timm"} <= set(found)
    assert git_state(tmp_path) is None
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for arguments in (["init", "-q"], ["add", "-A"], [*who, "commit", "-q", "--allow-empty", "-m", "first"]):
        (tmp_path / "file").write_text("1")
        subprocess.run(["git", "-C", tmp_path, *arguments], check=True)
    state = git_state(tmp_path)
    assert state is not None
    assert len(str(state["commit"])) == 40
    assert state["dirty"] is False
    (tmp_path / "new").write_text("untracked files are outputs as often as not")
    assert git_state(tmp_path) == state
    (tmp_path / "file").write_text("2")
    assert git_state(tmp_path) == {**state, "dirty": True}


def test_a_log_forgets_what_is_done_again(tmp_path: Path) -> None:
    """A run saved step 4 before its evaluation as it was asked to, was killed after that, and goes on once more."""
    for number in (2, 4, 6):
        run_dir.log(tmp_path, number, {"total": math.nan})
        run_dir.log(tmp_path, number, {"evaluation": {}})
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 4, "tot')
    run_dir.forget_log_after(tmp_path, 4, evaluated=2)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert lines == [{"step": 2, "total": None}, {"step": 2, "evaluation": {}}, {"step": 4, "total": None}]
    run_dir.forget_log_after(tmp_path, -1, evaluated=-1)
    assert (tmp_path / "log.jsonl").read_text() == ""


def test_nothing_unpickles() -> None:
    """torch.load takes weights alone, numpy no objects; of pickle nothing is imported but an exception."""
    loads = 0
    for path in sorted(Path(vdatrain.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                assert not {"pickle", "dill", "cloudpickle", "joblib"} & {name.name for name in node.names}, path
            if isinstance(node, ast.ImportFrom) and node.module == "pickle":
                assert [name.name for name in node.names] == ["UnpicklingError"], path
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                loads += 1
                assert {"weights_only": "True"}.items() <= options_of(node).items(), path
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "np.load":
                assert options_of(node)["allow_pickle"] == "False", path
    assert loads


def options_of(call: ast.Call) -> dict[str | None, str]:
    return {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}


@pytest.mark.slow
def test_callbacks_are_called_in_order_and_may_end_the_run(begin) -> None:
    whole, failing = Noted(), Noted(fails_at=3)
    trainer.train_state(
        begin(steps=2, save_every=1, log_every=2, eval_split="train", eval_windows=0), callbacks=[whole]
    )
    # Each evaluation saves a checkpoint; step 0 is evaluated, too.
    assert whole.calls == [("start", 0), ("evaluation", 0), ("checkpoint", 0), ("checkpoint", 1), ("step", 2),
                           ("evaluation", 2), ("checkpoint", 2)]  # fmt: skip
    assert whole.advances == [1, 2]
    of_each = [[done for step, done, _ in whole.windows if step == evaluated] for evaluated in (0, 2)]
    [total] = {total for _, _, total in whole.windows}
    assert of_each == [[*range(1, total + 1)], 2 * [*range(1, total + 1)]]  # those of the best weights come last
    run = begin(save_every=2, log_every=1)
    with pytest.raises(VdakitError, match="no"):
        trainer.train_state(run, callbacks=[failing])
    assert torch.load(run.folder / "last.pt", weights_only=True)["step"] == 2


# ------------------------------------------------------------------------------------------------- what is evaluated


@pytest.mark.slow
@pytest.mark.parametrize(("final", "step"), [("best", 0), ("last", 4)])
def test_the_final_evaluation_is_of_the_weights_asked_for(
    begin: Callable[..., TrainState], final: str, step: int
) -> None:
    """A rate at which the model gets worse: step 0 is the best, and the last step is what was trained."""
    run = begin(final=final, eval_split="train", eval_windows=2, lr=3e-2, ema=0.0)
    result = trainer.train_state(run)
    written = json.loads((run.folder / "evaluation.json").read_text())
    log = [json.loads(line) for line in (run.folder / "log.jsonl").read_text().splitlines()]
    absrel = {line["step"]: line["evaluation"]["average"]["absrel"] for line in log if "evaluation" in line}
    assert absrel[0] < absrel[4]
    assert (result.evaluated_step, written["step"]) == (step, step)
    assert len((run.folder / "windows.jsonl").read_text().splitlines()) > 2


# ------------------------------------------------------------------------------------------------- chunks of attention


@pytest.mark.slow
def test_each_step_draws_its_chunk_and_evaluations_see_whole_windows(
    begin: Callable[..., TrainState], monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[int | None] = []
    set_attention = step.set_attention

    def noted(model: nn.Module, chunk: int | None) -> None:
        drawn.append(chunk)
        set_attention(model, chunk)

    for module in (step, trainer):
        monkeypatch.setattr(module, "set_attention", noted)
    trainer.train_state(begin(attention="chunk", frames=4, steps=6, eval_every=6, eval_split="train"))
    expected = [step.draw_chunk(4, seed=0, step=number) for number in range(6)]
    assert drawn == [None, *expected, None]
    assert len(set(expected)) > 1
    assert {step.draw_chunk(4, seed=1, step=number) for number in range(60)} == {1, 2, None}
    assert {step.draw_chunk(5, seed=1, step=number) for number in range(60)} == {1, 2, 4, None}


@pytest.mark.slow
def test_a_causal_model_learns_and_is_loaded_as_such(begin: Callable[..., TrainState]) -> None:
    run = begin(attention="causal", frames=3, steps=1, eval_split="train")
    trainer.train_state(run)
    model = loading.load_model(run.folder / "best.pt").model
    frames = torch.randn(1, 3, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    changed = torch.cat([frames[:, :2], -frames[:, 2:]], dim=1)
    stirred(model)
    with torch.no_grad():
        assert torch.equal(model(frames)[:, :2], model(changed)[:, :2])
        set_attention(model, None)
        assert not torch.equal(model(frames)[:, :2], model(changed)[:, :2])
