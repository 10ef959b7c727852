"""What the commands of vdatrain print beside what vdaprep.cli.views.output offers."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from rich.console import RenderableType
from rich.table import Table

from vdaprep.cli.views.output import console, errors, make_table
from vdatrain.distributed.launch import rank_prefix

if TYPE_CHECKING:
    from vdatrain.evaluation.evaluate import Evaluation
    from vdatrain.evaluation.long import LongEvaluation
    from vdatrain.training.planning.memory import Footprint
    from vdatrain.training.planning.planner import StepPlan

__all__ = ["console", "errors", "evaluation_table", "step_plan", "warn"]

_GIB = 1 << 30
_NEGLIGIBLE = 0.0005  # of the whole; smaller parts are not listed


def warn(sentence: str) -> None:
    """Say on stderr what went wrong although the command continues."""
    errors.print(f"vdatrain{rank_prefix()}: {sentence}")


def evaluation_table(
    evaluation: "Evaluation | LongEvaluation", stressed: "Mapping[str, Evaluation | LongEvaluation] | None" = None
) -> Table:
    """Lay the figures out, those under stress below those without.

    Whole trajectories are counted as such and have no training loss.
    """
    found = {"": evaluation, **(stressed or {})}
    figures: dict[str, dict[str, Mapping[str, Any]]] = {name: one.to_json()["datasets"] for name, one in found.items()}
    rows = {name: {**figures[name], "average": one.average()} for name, one in found.items()}
    counted = "trajectories" if all("trajectories" in row for row in figures[""].values()) else "windows"
    loss = ("loss ↓",) if counted == "windows" else ()
    under = ("stress",) if stressed else ()
    table = make_table("data set", *under, counted, "absrel ↓", "delta1 ↑", "rmse m ↓", "TAE ↓", "compared", *loss)
    for dataset in rows[""]:
        for stress, row in ((name, of_all[dataset]) for name, of_all in rows.items()):
            table.add_row(
                dataset if not stress else "",
                *(stress or "none" for _ in under),
                str(row.get(counted, "")),
                *(f"{row[key]:.4f}" for key in ("absrel", "delta1", "rmse")),
                "no poses" if row["tae"] is None else f"{row['tae']:.4f}",
                f"{row['tae_share']:.1%}",
                *(f"{row['loss']:.4f}" for _ in loss),
            )
    return table


def step_plan(plan: "StepPlan") -> Iterator[RenderableType]:
    """Lay out what a training step takes, whether that fits, and how long it takes."""
    yield _heading(plan)
    yield _takes(plan.takes)
    yield _verdict(plan)
    yield _time(plan)


def _heading(plan: "StepPlan") -> str:
    config, ranks = plan.config, plan.room.ranks
    spread = f", on each of {ranks} ranks that share the model" if ranks > 1 else ""
    return (
        f"{config.variant}, {config.encoder}: batch {config.batch} x {config.frames} frames of "
        f"{config.size}x{config.size}, {config.precision}, recompute {config.recompute}{spread}"
    )


def _takes(takes: "Footprint") -> Table:
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
