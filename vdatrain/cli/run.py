"""`vdatrain run`: train a variant."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vdaprep.cli.options import given_options
from vdaprep.cli.views.output import errors, is_quiet, show
from vdatrain.cli.views.output import evaluation_table, warn
from vdatrain.config import (
    CHANGEABLE,
    CPU_DEFAULTS,
    GPU_WEIGHTS,
    NO_SPLIT,
    TrainConfig,
    from_file,
    from_mapping,
    option_name,
)

if TYPE_CHECKING:
    from vdatrain.training.recipes import Recipe
    from vdatrain.training.trainer import TrainResult

EXAMPLE = "vdatrain run --shards shards/ --variant conv --encoder tiny --size 112 --frames 8"
_DEFAULTS = TrainConfig(shards="-").options()
DEFAULTS_HERE = {name: f"{_DEFAULTS[name]}; {value} without a GPU" for name, value in CPU_DEFAULTS.items()}
"""What --help says of defaults that depend on the machine."""
_MAY_CHANGE = f"What may change then: {', '.join(sorted(map(option_name, CHANGEABLE)))} (steps: more only)."


@given_options(TrainConfig, defaults=DEFAULTS_HERE)
def command(
    given: dict[str, Any],
    config: Annotated[Path | None, typer.Option(help="TOML or config.json with any of these.", metavar="FILE")] = None,
    recipe: Annotated[
        str | None, typer.Option(help="Options of a training by name, see vdatrain recipes.", metavar="NAME")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the run. [default: runs/VARIANT]", show_default=False)
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help=f"Go on with the run in --out. {_MAY_CHANGE}")] = False,
    time_limit: Annotated[
        str | None, typer.Option(help="Save and stop after 11h30m, 90m or 3600 (seconds).", metavar="TIME")
    ] = None,
) -> None:
    """Train a variant; weights, log and final evaluation are written to the run's folder.

    On all GPUs of a machine: torchrun --nproc-per-node 8 -m vdatrain run ...; --batch is then of each GPU.

    On two machines, on each: torchrun --nnodes 2 --node-rank 0 --nproc-per-node 8 --master-addr HOST --master-port
    29500 -m vdatrain run ..., with --node-rank 1 on the other. Only the first rank writes, so let --out be on a disk
    that all share; the shards have to be the same on each, --cache is each machine's own.
    """
    from vdaprep.units import parse_duration
    from vdatrain.cli.views.progress import LiveView
    from vdatrain.distributed.preemption import StopRequest
    from vdatrain.distributed.ranks import process_group
    from vdatrain.training.recipes import load
    from vdatrain.training.trainer import train

    stop = StopRequest(parse_duration(time_limit, "--time-limit") if time_limit else None)
    with process_group() as ranks:
        # The first rank alone reads the file and the folder: on other machines they need not be.
        plan = load(recipe) if recipe else None
        known = _options(given, config, plan, out, resume=resume) if ranks.is_first else None
        options, folder = ranks.broadcast_from_rank0(known)
        settings = TrainConfig(**options)
        with LiveView(errors) as view:
            shown = () if is_quiet() else (view,)
            result = train(settings, out=folder, resume=resume, callbacks=shown, stop=stop, ranks=ranks)
        if ranks.is_first:
            _print_result(result, settings, plan)


def _options(
    given: dict[str, Any], file: Path | None, recipe: "Recipe | None", out: Path | None, *, resume: bool
) -> tuple[dict[str, Any], str]:
    """Return the options of a run and its folder; raises UsageError for what cannot be."""
    from vdaprep.shards.dataset import open_shards
    from vdatrain.run_dir import stored_config

    own = {**(from_file(file) if file else {}), **given}
    asked = {**(recipe.options if recipe else {}), **own}
    if resume:
        folder = out or Path("runs", str(asked.get("variant", _DEFAULTS["variant"])))
        config = stored_config(folder).changed(asked)
    else:
        config = from_mapping(asked, where="vdatrain run")
        if recipe:
            recipe.check_data(open_shards(config.shards).datasets, mix=own.get("mix"))
        config = replace(config, **defaults_here(config, asked))
        folder = out or Path("runs", config.variant)
    return config.options(), str(folder)


def defaults_here(config: TrainConfig, asked: dict[str, Any]) -> dict[str, Any]:
    """Return what is taken instead of the defaults on this machine, and print it.

    Without a GPU a smoke run; on one a fine-tuning of published weights; with published weights, or those of a file,
    their encoder and the rates of a fine-tuning.
    """
    import torch

    from vdatrain.device import choose_device
    from vdatrain.models import published
    from vdatrain.models.weights import PUBLISHED_ENCODER

    device = choose_device(config.device).type
    taken = dict(CPU_DEFAULTS) if device == "cpu" else {}
    if device == "cuda":
        taken = {"precision": "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"}
        if config.encoder in GPU_WEIGHTS[config.task]:
            taken["init"] = GPU_WEIGHTS[config.task][config.encoder]
    init = config.init if "init" in asked else taken.get("init", config.init)
    if (known := published.named(init)) is not None:
        taken["encoder"] = known.encoder
    if init not in ("none", PUBLISHED_ENCODER):
        taken["preset"] = "finetune"
    chosen = {name: value for name, value in taken.items() if name not in asked and value != getattr(config, name)}
    if chosen and not is_quiet():
        shown = " ".join(f"{option_name(name)} {value}" for name, value in chosen.items())
        errors.print(f"{_reason(config, device, init)}: {shown}")
    return chosen


def _reason(config: TrainConfig, device: str, init: str) -> str:
    """Return why defaults are other ones, to begin a line."""
    if device == "cpu":
        return "no GPU here, so a smoke run" if config.device is None else "no GPU used, so a smoke run"
    return "a fine-tuning on a GPU (--init none: from random weights)" if init != "none" else "on a GPU"


def _print_result(result: "TrainResult", config: TrainConfig, recipe: "Recipe | None") -> None:
    from vdatrain.data.terms import sentence

    if not is_quiet():
        errors.print(f"trained on {sentence(result.data)}")
    if result.stopped is not None:
        warn(
            f"{result.folder}: saved and left {result.stopped}, {result.step} of {config.steps} steps done; "
            f"vdatrain run --resume --out {result.folder} goes on."
        )
    elif result.evaluation is None:
        split = config.eval_split
        why = "--eval-split none" if split == NO_SPLIT else f"the shards have no split {split!r}"
        errors.print(f"{result.folder}: done; nothing was evaluated ({why}).")
    else:
        path = result.folder / f"{config.final}.pt"
        which = "the best weights" if config.final == "best" else "the last weights"
        told = [] if recipe is None else recipe.compare(result.evaluation)
        show([evaluation_table(result.evaluation), f"{path}: {which}, of step {result.evaluated_step}", *told])
