"""The command `vdatrain plan`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.table import Table

from vdatrain.console import console

if TYPE_CHECKING:
    from vdatrain.config import Config
    from vdatrain.memory import Footprint
    from vdatrain.planning import Room
    from vdatrain.precision import Precision

EXAMPLE = "vdatrain plan --variant conv --encoder vitb --batch 2 --precision bf16 --device-memory 24GB"
_GIB = 1 << 30
_NEGLIGIBLE = 0.0005  # share of the whole below which a part is not listed


def command(
    variant: Annotated[str | None, typer.Option(help="See vdatrain variants.", show_default="basic")] = None,
    encoder: Annotated[str | None, typer.Option(help="tiny, vits, vitb or vitl.", show_default="vits")] = None,
    preset: Annotated[
        str | None, typer.Option(help="paper, finetune, adapter or scratch.", show_default="scratch")
    ] = None,
    frames: Annotated[int | None, typer.Option(help="Frames of a window.", show_default="32")] = None,
    size: Annotated[int | None, typer.Option(help="Pixels of a side, n x 14.", show_default="518")] = None,
    batch: Annotated[int | None, typer.Option(help="Windows at a time.", show_default="1")] = None,
    accumulate: Annotated[int | None, typer.Option(help="Batches a step.", show_default="1")] = None,
    ema: Annotated[float | None, typer.Option(help="Decay of averaged weights; 0: none.", show_default="0.999")] = None,
    precision: Annotated[str | None, typer.Option(help="fp32, bf16 or fp16.", show_default="fp32")] = None,
    recompute: Annotated[
        str | None, typer.Option(help="none, head, encoder or all: parts computed twice.", show_default="none")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="TOML of vdatrain run.", metavar="FILE")] = None,
    device_memory: Annotated[
        str | None, typer.Option(help="Of another GPU than this machine's, like 24GB.", metavar="SIZE")
    ] = None,
) -> None:
    """Say what a training step takes in memory, part by part, what fits at most, and how long a step takes."""
    options = dict(locals())
    from vdatrain.cache import parse_size
    from vdatrain.config import from_file, from_mapping
    from vdatrain.memory import footprint
    from vdatrain.planning import Room, room_of
    from vdatrain.precision import Precision, default_device

    own = ("config", "device_memory")
    given = {name: value for name, value in options.items() if value is not None and name not in own}
    settings = from_mapping(
        {"shards": "shards", **(from_file(config) if config else {}), **given}, where="vdatrain plan"
    )
    here = Precision(default_device(), settings.precision)
    elsewhere = device_memory is not None
    room = Room(parse_size(device_memory, option="device-memory"), on_gpu=True) if elsewhere else room_of(here.device)
    takes = footprint(settings, on_gpu=room.on_gpu)
    console.print(
        f"{settings.variant}, {settings.encoder}: batch {settings.batch} x {settings.frames} frames of "
        f"{settings.size}x{settings.size}, {settings.precision}, recompute {settings.recompute}",
        highlight=False,
        soft_wrap=True,
    )
    console.print(_table(takes))
    for sentence in (_verdict(settings, takes, room, elsewhere=elsewhere), _time(takes, here, elsewhere=elsewhere)):
        console.print(sentence, highlight=False, soft_wrap=True)
    if here.device.type == "cuda" and not elsewhere and takes.total <= room.limit:
        console.print(_measured(settings, takes, here), highlight=False, soft_wrap=True)


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


def _verdict(config: "Config", takes: "Footprint", room: "Room", *, elsewhere: bool) -> str:
    from vdatrain.planning import change_to_fit, largest_batch

    device = "such a GPU" if elsewhere else "this GPU" if room.on_gpu else "this machine without a GPU"
    limit = f"{room.limit / _GIB:.1f} of the {room.total / _GIB:.1f} GiB of {device}"
    if takes.total <= room.limit:
        return f"It fits: a step may take {limit}; the largest batch that does is {largest_batch(config, room)}."
    change = change_to_fit(config, room)
    if change is None:
        return f"It does not fit: a step may take {limit}; choose a smaller --encoder or --preset paper."
    return (
        f"It does not fit: a step may take {limit}. It does with {change.options}: {change.takes.total / _GIB:.2f} GiB."
    )


def _time(takes: "Footprint", here: "Precision", *, elsewhere: bool) -> str:
    from vdatrain.planning import attainable_flops

    work = f"{takes.flops / 1e12:.3g} TFLOP a step"
    if elsewhere:
        return f"{work}."
    speed = attainable_flops(here)
    return (
        f"{work}: estimated to take at least {takes.flops / speed:.2g} s, at the {speed / 1e12:.3g} TFLOP/s that "
        f"matrix products in {here.name} reached just now."
    )


def _measured(config: "Config", takes: "Footprint", here: "Precision") -> str:
    import torch

    from vdatrain.planning import measure_steps

    try:
        found = measure_steps(config, here)
    except torch.OutOfMemoryError as error:
        reason = str(error).partition(". ")[0]
        return f"Tried on this GPU, it does not fit after all ({reason}); take a smaller batch."
    return (
        f"Tried on this GPU: {found.peak_bytes / _GIB:.2f} GiB at the peak "
        f"({found.peak_bytes / takes.total - 1:+.1%} of the plan), {found.step_s:.2f} s a step."
    )
