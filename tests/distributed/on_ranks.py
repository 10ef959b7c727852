"""What `test_distributed.py` does as each rank: several trainings in one meeting of all ranks."""

import json
import math
import sys
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from functorch.compile import make_boxed_func
from torch import Tensor, nn
from torch._dynamo.backends.common import aot_autograd

from tests.unit.train.conftest import Toy
from vdaprep.cli.views.output import print_log
from vdatrain.config import TrainConfig
from vdatrain.data import loader
from vdatrain.device import Precision
from vdatrain.distributed.launch import rank_prefix
from vdatrain.distributed.preemption import StopRequest
from vdatrain.distributed.ranks import GroupRanks, Ranks, process_group
from vdatrain.models import loading
from vdatrain.training import state, trainer


class StopAt(StopRequest):
    """Asks to leave once a step is done, on one rank alone."""

    def __init__(self, run: state.TrainState, last: float) -> None:
        super().__init__()
        self._run, self._last = run, last

    @property
    def reason(self) -> str | None:
        return "as the test wants" if self._run.step >= self._last else None


@contextmanager
def in_float64() -> Generator[None]:
    """Compute in float64 from the model's input on: weights, loss, gradients, moments and averages.

    The published loss has corners. On which side of one a residual lies is rounding's to decide, and may be 1e-2 of the
    gradient; every step then makes more of what the one before left. In float32 that hides an error in the arithmetic:
    pixels counted by each rank for itself, instead of over all of them, change the loss by 6e-5 within six steps. What
    is the same arithmetic differs by 1e-12 here.
    """
    build, make_batch, to_float = loading.build_from_config, loader.make_batch, Tensor.float

    def build_exact(config: TrainConfig) -> nn.Module:
        model = build(config).to(torch.float64)
        model.register_forward_pre_hook(lambda _, inputs: tuple(_exact(value) for value in inputs))
        return model

    loading.build_from_config = state.build_from_config = build_exact
    loader.make_batch = in_float32(make_batch)  # which is the same on all ranks
    Tensor.float = lambda tensor: tensor if tensor.dtype == torch.float64 else to_float(tensor)
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)
        Tensor.float = to_float
        loading.build_from_config = state.build_from_config = build
        loader.make_batch = make_batch


def in_float32(work: Callable[..., Any]) -> Callable[..., Any]:
    def do(*arguments: object, **options: object) -> object:
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float32)
        try:
            return work(*arguments, **options)
        finally:
            torch.set_default_dtype(before)

    return do


def _exact(value: Tensor | None) -> Tensor | None:
    return value.to(torch.float64) if value is not None and value.is_floating_point() else value


@contextmanager
def toys(fails: str | None) -> Generator[None]:
    """Let the model be a toy, and its compiler one that works, or fails on the way `there` or `back`."""

    def build(config: TrainConfig) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(config.seed)
            return Toy()

    def compiler(way: str) -> Callable[..., object]:
        def compile_(graph: torch.fx.GraphModule, inputs: object) -> Callable[..., object]:
            if fails == way:
                raise RuntimeError("no compiler here")
            return make_boxed_func(graph.forward)

        return compile_

    before, really = loading.build_from_config, torch.compile
    backend = aot_autograd(fw_compiler=compiler("there"), bw_compiler=compiler("back"))
    loading.build_from_config = state.build_from_config = build
    torch.compile = partial(torch.compile, backend=backend)
    torch.compiler.reset()
    try:
        yield
    finally:
        loading.build_from_config = state.build_from_config = before
        torch.compile = really


def work(ranks: Ranks, entry: dict) -> dict[str, object]:
    """Do a training; returns what this rank showed and where it ended.

    Those of `toys` fail to compile on the last rank alone, the way that `fails` says.
    """
    is_last = ranks.rank == ranks.world - 1
    with ExitStack() as stack:
        if entry.get("exact"):
            stack.enter_context(in_float64())
        if entry.get("toy"):
            stack.enter_context(toys(entry.get("fails") if is_last else None))
        return _work(ranks, entry)


def _work(ranks: Ranks, entry: dict) -> dict[str, object]:
    real, shown = loader.sample_augmentations, []  # of windows to train on, unlike make_batch

    def sample_augmentations(samples, *arguments: object, **options: object) -> object:
        shown.extend((sample.window.position, sample.key) for sample in samples)
        return real(samples, *arguments, **options)

    folder = Path(entry["folder"])
    if ranks.is_first:
        folder.mkdir(exist_ok=True)
    begin = state.load_state if (folder / "config.json").exists() and entry.get("resume") else state.new_state
    run = begin(TrainConfig(**entry["options"]), folder, precision=Precision(torch.device("cpu")), ranks=ranks)
    last = entry.get("stop_at", math.inf) if ranks.rank == ranks.world - 1 else math.inf
    loader.sample_augmentations = sample_augmentations
    try:
        result = trainer.train_state(run, stop=StopAt(run, last))
    finally:
        loader.sample_augmentations = real
    return {"shown": shown, "step": run.step, "stopped": result.stopped}


def main(entries: list[dict]) -> None:
    print_log("vdatrain", prefix=rank_prefix)
    with process_group() as ranks:
        assert isinstance(ranks, GroupRanks)
        for entry in entries:
            found = work(ranks, entry)
            ranks.barrier()  # no question of one training is answered in the next
            sys.stdout.write(json.dumps({"name": Path(entry["folder"]).name, **found}) + "\n")
