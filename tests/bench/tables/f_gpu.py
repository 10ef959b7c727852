"""Training on a GPU: frames a second, memory against the plan, FLOPs utilisation, waiting; with and without compile."""

import os
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

from tests.bench.rendered import Rendered, Scale
from tests.bench.timing import Timing, new_table, ratio
from tests.bench.training import WAIT, Training, build, streaming, wait_for
from vdatrain.config import TrainConfig
from vdatrain.data.samples import Sample
from vdatrain.device import Precision, default_device, peak_memory_bytes
from vdatrain.training.planning.memory import footprint
from vdatrain.training.planning.planner import attainable_flops

VARIANTS = ("basic", "conv")
MAX_WORKERS = 8
WARM_UP = 3
GIB = 1 << 30


@dataclass(frozen=True)
class _Figures:
    """What the steps of one training took: each step's seconds, all seconds, those spent waiting, bytes at the peak."""

    step: Timing
    waited: float
    peak_bytes: int


def tables(rendered: Rendered, scratch: Path) -> Iterator[Table]:
    scale, device = rendered.scale, default_device()
    workers = min(MAX_WORKERS, max(1, (os.cpu_count() or 2) - 1))
    attainable = attainable_flops(Precision(device, "bf16"), side=scale.matrix_side)
    columns = ("frames/s, best", "median", "peak GiB", "planned", "TFLOP a step", "MFU", "waiting", "x eager")
    caption = (
        f"{rendered.note}; {scale.gpu_encoder}, one window of {scale.window} frames, views of {scale.gpu_size}x"
        f"{scale.gpu_size}, bf16, workers: {workers}, steps: {scale.gpu_steps}. MFU: counted FLOPs of forward and "
        f"backward, over what a bf16 product of {scale.matrix_side}x{scale.matrix_side} matrices reached in this run, "
        f"{attainable / 1e12:.0f} TFLOP/s. Planned: what `vdatrain plan` says of the "
        "eager step, in GiB. Waiting: share of the time spent waiting for data."
    )
    table = new_table("(f) training on the GPU", "variant", columns, caption=caption)
    with streaming(rendered, frames=scale.window, batch=1, workers=workers) as batches:
        for variant in VARIANTS:
            planned = footprint(_config(variant, scale), on_gpu=True).total
            flops = _count_flops(_training(variant, rendered, device), next(batches))
            eager = _measure(_training(variant, rendered, device), batches, steps=scale.gpu_steps)
            compiled = _measure(_compiled_training(variant, rendered, device), batches, steps=scale.gpu_steps)
            for name, found in ((variant, eager), (f"{variant}, compiled", compiled)):
                row = _row(found, eager, frames=scale.window, flops=flops, attainable=attainable)
                table.add_row(name, *row[:3], f"{planned / GIB:.2f}", *row[3:])
    yield table


def _config(variant: str, scale: Scale) -> TrainConfig:
    """Return the training of this table as `vdatrain run` would name it."""
    return TrainConfig(
        shards="",
        variant=variant,
        encoder=scale.gpu_encoder,
        frames=scale.window,
        size=scale.gpu_size,
        precision="bf16",
    )


def _row(found: _Figures, eager: _Figures, *, frames: int, flops: int, attainable: float) -> list[str]:
    return [
        f"{frames / found.step.minimum:.1f}",
        f"{frames / found.step.median:.1f}",
        f"{found.peak_bytes / GIB:.2f}",
        f"{flops / 1e12:.2f}",
        f"{flops / found.step.median / attainable:.1%}",
        f"{found.waited / sum(found.step.seconds):.1%}",
        f"{ratio(eager.step, found.step):.2f}",
    ]


def _training(variant: str, rendered: Rendered, device: torch.device) -> Training:
    scale = rendered.scale
    model = build(variant, encoder=scale.gpu_encoder, frames=scale.window)
    return Training(model, scale.gpu_size, Precision(device, "bf16"))


def _compiled_training(variant: str, rendered: Rendered, device: torch.device) -> Training:
    training = _training(variant, rendered, device)
    training.model.compile()
    return training


def _count_flops(training: Training, samples: list[Sample]) -> int:
    batch = training.show(samples)
    with FlopCounterMode(display=False) as counter:
        training.compute_gradient(batch, lambda part: None)
    return counter.get_total_flops()


def _measure(training: Training, batches: Iterator[list[Sample]], *, steps: int) -> _Figures:
    device = training.precision.device
    for _ in range(WARM_UP):
        training.step(batches, lambda part: None)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    seconds: list[float] = []
    waited: Counter[str] = Counter()
    wait_for(device)
    for _ in range(steps):
        began = time.perf_counter()
        training.step(batches, lambda part, began=began: _note(waited, part, began))
        wait_for(device)
        seconds.append(time.perf_counter() - began)
    return _Figures(Timing(tuple(seconds)), waited[WAIT], peak_memory_bytes(device))


def _note(waited: Counter[str], part: str, began: float) -> None:
    if part == WAIT:
        waited[WAIT] += time.perf_counter() - began
