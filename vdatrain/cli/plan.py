"""`vdatrain plan`: what a training step takes."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from vdaprep.cli.options import given_options
from vdaprep.cli.output import LINE_S, Every, errors, is_quiet, make_table, show
from vdaprep.units import parse_bytes
from vdatrain.config import TrainConfig, from_file, from_mapping

if TYPE_CHECKING:
    from vdatrain.training.memory import Footprint
    from vdatrain.training.planner import StepPlan

EXAMPLE = "vdatrain plan --variant conv --encoder vitb --batch 2 --precision bf16 --device-memory 24GB"
_GIB = 1 << 30
_NEGLIGIBLE = 0.0005  # of the whole; smaller parts are not listed
_OF_A_STEP = (
    *("variant", "encoder", "preset", "frames", "size", "batch", "accumulate", "ema", "precision", "recompute"),
    *("shard_model", "device"),
)


@given_options(TrainConfig, only=_OF_A_STEP)
def command(
    given: dict[str, Any],
    config: Annotated[Path | None, typer.Option(help="TOML or config.json of a run.", metavar="FILE")] = None,
    device_memory: Annotated[
        str | None, typer.Option(help="Of another GPU than this machine's, like 24GB.", metavar="SIZE")
    ] = None,
    ranks: Annotated[
        int | None,
        typer.Option(help="Processes that --shard-model spreads over. [default: the GPUs here]", show_default=False),
    ] = None,
) -> None:
    """Print what a training step takes in memory, part by part, what fits at most, and how long a step takes.

    With --shard-model, the parts of the model that a rank keeps, and the blocks that are gathered while in use.
    """
    from vdatrain.training.planner import changed_options, plan_step

    asked = {**(from_file(config) if config else {}), **given}
    settings = from_mapping({"shards": "shards", **asked}, where="vdatrain plan")
    memory_bytes = None if device_memory is None else parse_bytes(device_memory, option="--device-memory")
    with _trying() as say:

        def on_try(tried: TrainConfig) -> None:
            say(f"counting a step with {changed_options(settings, tried) or 'these options'}")

        plan = plan_step(settings, memory_bytes=memory_bytes, ranks=ranks, on_try=on_try)
    show([_heading(plan), _table(plan.takes), _verdict(plan), _time(plan), *_measured(plan)])


@contextmanager
def _trying() -> Generator[Callable[[str], None]]:
    """Yield what shows a sentence on stderr: on a terminal until the next one, elsewhere now and then."""
    if is_quiet():
        yield lambda sentence: None
    elif errors.is_terminal:
        with errors.status("") as status:
            yield status.update
    else:
        due = Every(LINE_S)
        yield lambda sentence: errors.print(sentence) if due.is_due() else None


def _heading(plan: "StepPlan") -> str:
    config, ranks = plan.config, plan.room.ranks
    spread = f", on each of {ranks} ranks that share the model" if ranks > 1 else ""
    return (
        f"{config.variant}, {config.encoder}: batch {config.batch} x {config.frames} frames of "
        f"{config.size}x{config.size}, {config.precision}, recompute {config.recompute}{spread}"
    )


def _table(takes: "Footprint") -> Table:
    unit, name = (_GIB, "GiB") if takes.total > _GIB else (1 << 20, "MiB")
    table = make_table("at a step's fullest moment", name, "share")
    for part, size in takes.parts.items():
        if size > _NEGLIGIBLE * takes.total:
            table.add_row(part, f"{size / unit:.2f}", f"{size / takes.total:.1%}")
    table.add_section()
    table.add_row("all", f"{takes.total / unit:.2f}", "")
    return table


def _verdict(plan: "StepPlan") -> str:
    room, change = plan.room, plan.change
    here = "this GPU" if room.on_gpu else "this machine without a GPU"
    device = here if plan.flops_per_s is not None else "such a GPU"
    limit = f"a step may take {room.limit / _GIB:.1f} of the {room.total / _GIB:.1f} GiB of {device}"
    if plan.fits:
        return f"It fits: {limit}; the largest batch that does is {plan.largest_batch}."
    if change is None:
        others = "more --ranks" if plan.config.shard_model else "--shard-model on several GPUs"
        return f"It does not fit: {limit}; choose a smaller --encoder, --preset paper or {others}."
    return f"It does not fit: {limit}. It does with {change.options}: {change.takes.total / _GIB:.2f} GiB."


def _time(plan: "StepPlan") -> str:
    work = f"{plan.takes.flops / 1e12:.3g} TFLOP a step"
    if plan.flops_per_s is None:
        return f"{work}."
    return (
        f"{work}: estimated to take at least {plan.takes.flops / plan.flops_per_s:.2g} s, at the "
        f"{plan.flops_per_s / 1e12:.3g} TFLOP/s that matrix products in {plan.config.precision} reached just now."
    )


def _measured(plan: "StepPlan") -> list[str]:
    """Take steps on this GPU, where that is what was planned for and they should fit."""
    import torch

    from vdatrain.device import Precision, choose_device
    from vdatrain.training.planner import measure_steps

    if plan.flops_per_s is None or not plan.room.on_gpu or plan.room.ranks > 1 or not plan.fits:
        return []
    try:
        found = measure_steps(plan.config, Precision(choose_device(plan.config.device), plan.config.precision))
    except torch.OutOfMemoryError as error:
        reason = str(error).partition(". ")[0]
        return [f"Tried on this GPU, it does not fit after all ({reason}); take a smaller batch."]
    return [
        f"Tried on this GPU: {found.peak_bytes / _GIB:.2f} GiB at the peak "
        f"({found.peak_bytes / plan.takes.total - 1:+.1%} of the plan), {found.step_s:.2f} s a step."
    ]
