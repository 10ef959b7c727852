"""The command `vdatrain recipes`."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import RenderableType

from vdaprep.cli.views.output import make_table, print_json, show

if TYPE_CHECKING:
    from vdatrain.training.planning.planner import StepPlan
    from vdatrain.training.recipes import Recipe

EXAMPLE = "vdatrain recipes --json"
_PROFILES = ("standard", "small", "tiny")


def command(as_json: Annotated[bool, typer.Option("--json", help="Print them as JSON.")] = False) -> None:
    """List trainings by name: what they do, their data and licence, the numbers to expect."""
    from vdatrain.training.recipes import load, names

    if as_json:
        print_json([asdict(load(name)) for name in names()])
        return
    table = make_table("recipe", "data sets", "GB raw", "as tiny shards", "what it is")
    table.columns[-1].justify, table.columns[-1].no_wrap, table.columns[-1].overflow = "left", False, "fold"
    lines: list[RenderableType] = [table]
    for recipe in map(load, names()):
        table.add_row(
            recipe.name,
            str(len(recipe.data)),
            _sum([item.raw_gb for item in recipe.data]),
            _sum([item.disk_gb.get("tiny") for item in recipe.data]),
            recipe.summary,
        )
        lines.append(f"{recipe.name}: {'. '.join(part.rstrip('.') for part in _facts(recipe))}.")
    show(lines)


def recipe_plan(recipe: "Recipe", plan: "StepPlan") -> list[RenderableType]:
    """Lay out what a recipe takes besides a step: disk by profile, hours, the numbers to expect."""
    from vdatrain.training.recipes import GPUS, UTILISATION, hours_on

    table = make_table("data set", "frames", "GB raw", *(f"GB {profile}" for profile in _PROFILES))
    for item in recipe.data:
        sizes = [_number(item.disk_gb.get(profile)) for profile in _PROFILES]
        table.add_row(item.name, "-" if item.frames is None else f"{item.frames:,}", _number(item.raw_gb), *sizes)
    flops = plan.takes.flops
    hours = [f"{gpu.name} {hours_on(gpu, flops_per_step=flops, steps=plan.config.steps):.2g}" for gpu in GPUS]
    return [
        table,
        f"Hours for {plan.config.steps:,} steps at {UTILISATION:.0%} of the stated speed: {', '.join(hours)}.",
        *(f"{part.rstrip('.')}." for part in _facts(recipe)),
    ]


def _facts(recipe: "Recipe") -> list[str]:
    """Return where a recipe is from, its licence, and what to expect, a sentence each."""
    facts = [f"From {recipe.source}", f"Licence: {recipe.licence}"]
    facts += [recipe.remark] if recipe.remark else []
    for row in recipe.expected:
        numbers = f"{row.low:g}" if row.low == row.high else f"{row.low:g} to {row.high:g}"
        facts.append(f"Expected {row.dataset} {row.metric} {numbers}, {row.kind}: {row.source}")
    return facts


def _sum(sizes: list[float | None]) -> str:
    known = [size for size in sizes if size is not None]
    more = " and more" if 0 < len(known) < len(sizes) else ""
    return f"{sum(known):g}{more}" if known else "-"


def _number(size: float | None) -> str:
    return "-" if size is None else f"{size:g}"
