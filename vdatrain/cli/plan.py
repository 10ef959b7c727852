"""`vdatrain plan`: what a training step takes."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vdaprep.cli.options import given_options
from vdaprep.cli.views.output import current_work, show
from vdaprep.units import parse_bytes
from vdatrain.cli.views.output import step_plan
from vdatrain.config import TrainConfig, from_file, from_mapping

if TYPE_CHECKING:
    from vdatrain.training.planning.planner import StepPlan

EXAMPLE = "vdatrain plan --variant conv --encoder vitb --batch 2 --precision bf16 --device-memory 24GB"
_GIB = 1 << 30
_OF_A_STEP = (
    *(
        "variant",
        "encoder",
        "preset",
        "frames",
        "size",
        "aspect",
        "batch",
        "accumulate",
        "ema",
        "precision",
        "recompute",
    ),
    *("shard_model", "device"),
)


@given_options(TrainConfig, only=_OF_A_STEP)
def command(
    given: dict[str, Any],
    config: Annotated[Path | None, typer.Option(help="TOML or config.json of a run.", metavar="FILE")] = None,
    recipe: Annotated[
        str | None, typer.Option(help="Options of a training by name, see vdatrain recipes.", metavar="NAME")
    ] = None,
    device_memory: Annotated[
        str | None, typer.Option(help="Of another GPU than this machine's, like 24GB.", metavar="SIZE")
    ] = None,
    ranks: Annotated[
        int | None,
        typer.Option(help="Processes that --shard-model spreads over. [default: the GPUs here]", show_default=False),
    ] = None,
) -> None:
    """Print what a training step takes in memory and time, and what fits at most.

    With --shard-model, the parts of the model that a rank keeps, and the blocks that are gathered while in use.
    """
    from vdatrain.cli.recipes import recipe_plan
    from vdatrain.training.planning.planner import changed_options, plan_step
    from vdatrain.training.recipes import load

    known = None if recipe is None else load(recipe)
    asked = {**(known.options if known else {}), **(from_file(config) if config else {}), **given}
    settings = from_mapping({"shards": "shards", **asked}, where="vdatrain plan")
    memory_bytes = None if device_memory is None else parse_bytes(device_memory, option="--device-memory")
    with current_work() as say:

        def on_try(tried: TrainConfig) -> None:
            say(f"counting a step with {changed_options(settings, tried) or 'these options'}")

        plan = plan_step(settings, memory_bytes=memory_bytes, ranks=ranks, on_try=on_try)
    show([*step_plan(plan), *_measured(plan), *([] if known is None else recipe_plan(known, plan))])


def _measured(plan: "StepPlan") -> list[str]:
    """Take steps on this GPU, where that is what was planned for and they should fit."""
    import torch

    from vdatrain.device import Precision, choose_device
    from vdatrain.training.planning.planner import measure_steps

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
