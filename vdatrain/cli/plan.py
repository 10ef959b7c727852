"""The command `vdatrain plan`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.table import Table

from vdaprep.errors import UsageError
from vdatrain.cli.options import StepOptions, with_step_options
from vdatrain.cli.output import console

if TYPE_CHECKING:
    from vdatrain.config import TrainConfig
    from vdatrain.device import Precision
    from vdatrain.training.memory import Footprint
    from vdatrain.training.planner import Room


EXAMPLE = "vdatrain plan --variant conv --encoder vitb --batch 2 --precision bf16 --device-memory 24GB"
_GIB = 1 << 30
_NEGLIGIBLE = 0.0005  # share of the whole below which a part is not listed


@with_step_options(on_cpu={})
def command(
    step: StepOptions = StepOptions(),  # noqa: B008 - it is frozen
    config: Annotated[Path | None, typer.Option(help="TOML of vdatrain run.", metavar="FILE")] = None,
    device_memory: Annotated[
        str | None, typer.Option(help="Of another GPU than this machine's, like 24GB.", metavar="SIZE")
    ] = None,
    ranks: Annotated[
        int | None, typer.Option(help="Processes that --shard-model spreads over.", show_default="the GPUs here")
    ] = None,
) -> None:
    """Say what a training step takes in memory, part by part, what fits at most, and how long a step takes.

    With --shard-model, what a rank keeps of the model, and the blocks of it that are gathered while they are at work.
    """
    from vdaprep.units import parse_bytes
    from vdatrain.config import from_file, from_mapping
    from vdatrain.device import Precision, default_device
    from vdatrain.training.memory import footprint
    from vdatrain.training.planner import Room, room_of

    asked = {**(from_file(config) if config else {}), **step.given()}
    settings = from_mapping({"shards": "shards", **asked}, where="vdatrain plan")
    here = Precision(default_device(), settings.precision)
    elsewhere = device_memory is not None
    world = _ranks(settings, ranks)
    if elsewhere:
        room = Room(parse_bytes(device_memory, "--device-memory"), on_gpu=True, ranks=world)
    else:
        room = room_of(here.device, ranks=world)
    takes = footprint(settings, on_gpu=room.on_gpu, ranks=world)
    console.print(_heading(settings, world), highlight=False, soft_wrap=True)
    console.print(_table(takes))
    for sentence in (_verdict(settings, takes, room, elsewhere=elsewhere), _time(takes, here, elsewhere=elsewhere)):
        console.print(sentence, highlight=False, soft_wrap=True)
    alone = world == 1 and not elsewhere
    if here.device.type == "cuda" and alone and takes.total <= room.limit:
        console.print(_measured(settings, takes, here), highlight=False, soft_wrap=True)


def _ranks(config: "TrainConfig", ranks: int | None) -> int:
    """Return how many ranks share the model; raises UsageError where that makes no sense."""
    import torch

    if not config.shard_model:
        if ranks is not None:
            raise UsageError(
                f"--ranks {ranks}: each holds all of the model without --shard-model; give that too, or no --ranks."
            )
        return 1
    found = torch.cuda.device_count() if ranks is None else ranks
    if found < 2:
        raise UsageError(
            f"--shard-model: spreads the model over 2 ranks or more, found {found}; say how many with --ranks."
        )
    return found


def _heading(config: "TrainConfig", ranks: int) -> str:
    spread = f", on each of {ranks} ranks that share the model" if ranks > 1 else ""
    return (
        f"{config.variant}, {config.encoder}: batch {config.batch} x {config.frames} frames of "
        f"{config.size}x{config.size}, {config.precision}, recompute {config.recompute}{spread}"
    )


def _table(takes: "Footprint") -> Table:
    unit, name = (_GIB, "GiB") if takes.total > _GIB else (1 << 20, "MiB")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_footer=True)
    table.add_column("at a step's fullest moment", footer="all")
    table.add_column(name, justify="right", footer=f"{takes.total / unit:.2f}")
    table.add_column("share", justify="right")
    for part, size in takes.parts.items():
        if size > _NEGLIGIBLE * takes.total:
            table.add_row(part, f"{size / unit:.2f}", f"{size / takes.total:.1%}")
    return table


def _verdict(config: "TrainConfig", takes: "Footprint", room: "Room", *, elsewhere: bool) -> str:
    from vdatrain.training.planner import change_to_fit, largest_batch

    device = "such a GPU" if elsewhere else "this GPU" if room.on_gpu else "this machine without a GPU"
    limit = f"{room.limit / _GIB:.1f} of the {room.total / _GIB:.1f} GiB of {device}"
    if takes.total <= room.limit:
        return f"It fits: a step may take {limit}; the largest batch that does is {largest_batch(config, room)}."
    change = change_to_fit(config, room)
    if change is None:
        others = "more --ranks" if config.shard_model else "--shard-model on several GPUs"
        return f"It does not fit: a step may take {limit}; choose a smaller --encoder, --preset paper or {others}."
    return (
        f"It does not fit: a step may take {limit}. It does with {change.options}: {change.takes.total / _GIB:.2f} GiB."
    )


def _time(takes: "Footprint", here: "Precision", *, elsewhere: bool) -> str:
    from vdatrain.training.planner import attainable_flops

    work = f"{takes.flops / 1e12:.3g} TFLOP a step"
    if elsewhere:
        return f"{work}."
    speed = attainable_flops(here)
    return (
        f"{work}: estimated to take at least {takes.flops / speed:.2g} s, at the {speed / 1e12:.3g} TFLOP/s that "
        f"matrix products in {here.name} reached just now."
    )


def _measured(config: "TrainConfig", takes: "Footprint", here: "Precision") -> str:
    import torch

    from vdatrain.training.planner import measure_steps

    try:
        found = measure_steps(config, here)
    except torch.OutOfMemoryError as error:
        reason = str(error).partition(". ")[0]
        return f"Tried on this GPU, it does not fit after all ({reason}); take a smaller batch."
    return (
        f"Tried on this GPU: {found.peak_bytes / _GIB:.2f} GiB at the peak "
        f"({found.peak_bytes / takes.total - 1:+.1%} of the plan), {found.step_s:.2f} s a step."
    )
