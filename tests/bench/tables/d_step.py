"""A training step by part, `basic` and `conv` in turns."""

from collections.abc import Iterator
from pathlib import Path

import torch
from rich.table import Table

from tests.bench.rendered import Rendered
from tests.bench.timing import Timing, milliseconds, new_table, ratio
from tests.bench.training import PARTS, WAIT, Laps, Training, build, one_thread, streaming, watch
from vdatrain.device import Precision, default_device

VARIANTS = ("basic", "conv")
BATCH = 2
STEP, WORK = "step", "step without wait"
WARM_UP = 3  # steps of each that do not count: allocations, the lazy halves of libraries, what was read ahead


def tables(rendered: Rendered, scratch: Path) -> Iterator[Table]:
    scale, device = rendered.scale, default_device()
    parts: dict[str, list[dict[str, float]]] = {variant: [] for variant in VARIANTS}
    trainings = {variant: _start(variant, rendered, device) for variant in VARIANTS}
    with one_thread(), streaming(rendered, frames=scale.step_frames, batch=BATCH, workers=1) as batches:
        for _ in range(WARM_UP + scale.steps):
            for variant, (training, laps) in trainings.items():
                laps.start()
                training.step(batches, laps.end)
                parts[variant].append(dict(laps.seconds))
    taken = {variant: _timings(steps[WARM_UP:]) for variant, steps in parts.items()}
    yield _table(taken, rendered, device)


def _start(variant: str, rendered: Rendered, device: torch.device) -> tuple[Training, Laps]:
    model = build(variant, encoder="tiny", frames=rendered.scale.step_frames)
    laps = Laps(device)
    watch(model, laps)
    return Training(model, rendered.scale.step_size, Precision(device)), laps


def _timings(steps: list[dict[str, float]]) -> dict[str, Timing]:
    found = {part: Timing(tuple(step[part] for step in steps)) for part in PARTS if part in steps[0]}
    found[STEP] = Timing(tuple(sum(step.values()) for step in steps))
    found[WORK] = Timing(tuple(sum(step.values()) - step[WAIT] for step in steps))
    return found


def _table(taken: dict[str, dict[str, Timing]], rendered: Rendered, device: torch.device) -> Table:
    scale = rendered.scale
    basic, conv = (taken[variant] for variant in VARIANTS)
    caption = (
        f"{rendered.note}; tiny encoder on {device.type}, {BATCH} windows of {scale.step_frames} frames, views of "
        f"{scale.step_size}x{scale.step_size}, fp32, 1 worker, 1 thread (threads that wait for "
        f"each other would time the machine's other work); {scale.steps} steps of each in turns. The ratio is the "
        "median of the pairs' own."
    )
    columns = ("basic ms, min", "median", "conv ms, min", "median", "conv / basic")
    table = new_table("(d) a training step by part", "part", columns, caption=caption)
    for part in (*PARTS, STEP, WORK):
        both = part in basic and part != WAIT
        share = f"{ratio(conv[part], basic[part]):.3f}" if both else "-"
        if part == STEP:
            table.add_section()
        table.add_row(part, *milliseconds(basic.get(part)), *milliseconds(conv.get(part)), share)
    return table
