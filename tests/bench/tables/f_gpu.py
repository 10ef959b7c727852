"""Training on a GPU: frames a second, memory, FLOPs utilisation, waiting; with and without torch.compile."""

import os
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

from tests.bench.rendered import Rendered
from tests.bench.timing import Timing, new_table, ratio, take_turns
from tests.bench.training import WAIT, Training, build, streaming, wait_for
from vdatrain.precision import Precision, default_device
from vdatrain.stream import Sample

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
    attainable = _attainable_flops(scale.matrix_side, device)
    columns = ("frames/s, best", "median", "peak GiB", "TFLOP a step", "MFU", "waiting", "x eager")
    caption = (
        f"{rendered.note}; {scale.gpu_encoder}, one window of {scale.window} frames, views of {scale.gpu_size}x"
        f"{scale.gpu_size}, bf16, workers: {workers}, steps: {scale.gpu_steps}. MFU: counted FLOPs of forward and "
        f"backward, over what a bf16 product of {scale.matrix_side}x{scale.matrix_side} matrices reached in this run, "
        f"{attainable / 1e12:.0f} TFLOP/s. Waiting: share of the time spent waiting for data."
    )
    table = new_table("(f) training on the GPU", "variant", columns, caption=caption)
    with streaming(rendered, frames=scale.window, batch=1, workers=workers) as batches:
        for variant in VARIANTS:
            flops = _count_flops(_training(variant, rendered, device), next(batches))
            eager = _measure(_training(variant, rendered, device), batches, steps=scale.gpu_steps)
            compiled = _measure(_compiled_training(variant, rendered, device), batches, steps=scale.gpu_steps)
            for name, found in ((variant, eager), (f"{variant}, compiled", compiled)):
                table.add_row(name, *_row(found, eager, frames=scale.window, flops=flops, attainable=attainable))
    yield table


def _row(found: _Figures, eager: _Figures, *, frames: int, flops: int, attainable: float) -> list[str]:
    return [
        f"{frames / found.step.minimum:.1f}",
        f"{frames / found.step.median:.1f}",
        f"{found.peak_bytes / GIB:.1f}",
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
    torch.cuda.reset_peak_memory_stats(device)
    seconds: list[float] = []
    waited: Counter[str] = Counter()
    wait_for(device)
    for _ in range(steps):
        began = time.perf_counter()
        training.step(batches, lambda part, began=began: _note(waited, part, began))
        wait_for(device)
        seconds.append(time.perf_counter() - began)
    return _Figures(Timing(tuple(seconds)), waited[WAIT], torch.cuda.max_memory_allocated(device))


def _note(waited: Counter[str], part: str, began: float) -> None:
    if part == WAIT:
        waited[WAIT] += time.perf_counter() - began


def _attainable_flops(side: int, device: torch.device) -> float:
    """Return the FLOPs a second that a large bf16 matrix product reaches."""
    left, right = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))

    def multiply() -> None:
        for _ in range(10):
            left @ right
        wait_for(device)

    return 2 * side**3 / take_turns({"product": multiply}, rounds=5)["product"].per(10).minimum
