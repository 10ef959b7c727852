"""The command `vdatrain run`."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vdaprep.schema import UsageError
from vdatrain.console import console, errors
from vdatrain.tables import evaluation_table

if TYPE_CHECKING:
    from vdatrain.config import Config

EXAMPLE = "vdatrain run --shards shards/ --variant conv --encoder tiny --size 112 --frames 8"


def command(
    shards: Annotated[str | None, typer.Option(help="Folder that vdaprep convert wrote.", metavar="DIR")] = None,
    variant: Annotated[str | None, typer.Option(help="See vdatrain variants.", show_default="basic")] = None,
    encoder: Annotated[
        str | None, typer.Option(help="tiny, vits, vitb or vitl.", show_default="vits; tiny on a CPU")
    ] = None,
    init: Annotated[str | None, typer.Option(help="Weights to begin with: a file, dinov2 or none.")] = None,
    preset: Annotated[
        str | None, typer.Option(help="paper, finetune, adapter or scratch.", show_default="scratch")
    ] = None,
    frames: Annotated[int | None, typer.Option(help="Frames of a window.", show_default="32; 8 on a CPU")] = None,
    stride: Annotated[int | None, typer.Option(help="Take every n-th frame.", show_default="1")] = None,
    size: Annotated[
        int | None, typer.Option(help="Pixels of a side, n x 14.", show_default="518; 112 on a CPU")
    ] = None,
    batch: Annotated[int | None, typer.Option(help="Windows at a time.", show_default="1")] = None,
    accumulate: Annotated[int | None, typer.Option(help="Batches a step.", show_default="1")] = None,
    steps: Annotated[
        int | None, typer.Option(help="Steps of the optimiser.", show_default="10000; 200 on a CPU")
    ] = None,
    lr: Annotated[float | None, typer.Option(help="Greatest learning rate.", show_default="the preset's")] = None,
    warmup: Annotated[int | None, typer.Option(help="Steps to the greatest rate.", show_default="100")] = None,
    ema: Annotated[float | None, typer.Option(help="Decay of averaged weights; 0: none.", show_default="0.999")] = None,
    seed: Annotated[int | None, typer.Option(help="Of weights, order, crops.", show_default="0")] = None,
    precision: Annotated[str | None, typer.Option(help="fp32, bf16 or fp16.", show_default="fp32")] = None,
    recompute_head: Annotated[
        bool | None, typer.Option("--recompute-head", help="Save the head's memory, at the price of time.")
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Processes that read.", show_default="2")] = None,
    log_every: Annotated[int | None, typer.Option(help="Steps.", show_default="10")] = None,
    eval_every: Annotated[int | None, typer.Option(help="Steps.", show_default="500")] = None,
    eval_windows: Annotated[int | None, typer.Option(help="Windows of those; 0: all.", show_default="32")] = None,
    config: Annotated[Path | None, typer.Option(help="TOML with any of these.", metavar="FILE")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the run.", show_default="runs/VARIANT")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
) -> None:
    """Train a variant; weights, log and the final evaluation go to the folder of the run."""
    options = dict(locals())  # the options that Config knows, None where nothing was given
    from vdatrain import run as runs
    from vdatrain import train
    from vdatrain.config import from_file, from_mapping
    from vdatrain.live import LiveView
    from vdatrain.precision import Precision, default_device

    own = ("config", "out", "resume")
    given = {name: value for name, value in options.items() if value is not None and name not in own}
    if resume:
        folder = out or Path("runs", variant or "basic")
        settings = runs.stored_config(folder)
        _refuse_changes(settings, given)
    else:
        asked = {**(from_file(config) if config else {}), **given}
        settings = from_mapping({**_defaults(asked), **asked}, where="vdatrain run")
        folder = out or Path("runs", settings.variant)
    here = Precision(default_device(), settings.precision)
    begin = runs.resume(folder, precision=here) if resume else runs.start(settings, folder, precision=here)
    if begin.loaded is not None:
        errors.print(str(begin.loaded), markup=False)
    with LiveView(settings, errors) as view:
        result = train.train(begin, view.listener())
    if result is None:
        errors.print(f"{folder}: done; the shards have no split {settings.eval_split!r}, so nothing was evaluated.")
        return
    step, evaluation = result
    console.print(evaluation_table(evaluation))
    console.print(f"{folder / runs.BEST_FILE}: the best weights, of step {step}", highlight=False, soft_wrap=True)


def _defaults(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a machine without a GPU takes instead of the defaults for one, and say so."""
    from vdatrain.config import WITHOUT_GPU
    from vdatrain.precision import default_device

    smaller = {name: value for name, value in WITHOUT_GPU.items() if name not in asked}
    if default_device().type != "cpu" or not smaller:
        return {}
    chosen = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in smaller.items())
    errors.print(f"no GPU here, so a smoke run: {chosen}")
    return smaller


def _refuse_changes(config: "Config", given: Mapping[str, Any]) -> None:
    stored = config.to_json()
    changed = [f"--{name} {stored[name]} to {value}" for name, value in given.items() if stored[name] != value]
    if changed:
        raise UsageError(f"--resume goes on as the run began; leave out what would change {', '.join(changed)}.")
