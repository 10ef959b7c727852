"""The command `vdaprep plan`."""

import json
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vdaprep.console import console, errors
from vdaprep.options import ConversionOptions, Dataset, with_conversion_options

if TYPE_CHECKING:
    from vdaprep.budget import Choice
    from vdaprep.plan import RawData
    from vdaprep.probes import Prober
    from vdaprep.progress import FrameBar

EXAMPLE = "vdaprep plan tartanair --raw raw/tartanair --out shards/ --budget 50GB"


@with_conversion_options
def command(
    dataset: Dataset,
    out: Annotated[str, typer.Option(help="Where the shards are to go, as convert takes it.", show_default=False)],
    conversion: ConversionOptions,
    budget: Annotated[
        str, typer.Option(help="Choose settings so that the shards take at most this, for example 50GB or 40GiB.")
    ] = "",
    probes: Annotated[int, typer.Option(help="Places at which two frames are encoded, at most.", min=2)] = 64,
    workers: Annotated[int, typer.Option(help="Processes that encode.", show_default="one a core", min=0)] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON.")] = False,
) -> None:
    """Predict shards, disk space and time before anything is converted; with --budget also choose what fits."""
    from vdaprep import plan_report
    from vdaprep.plan import find_raw
    from vdaprep.predict import room
    from vdaprep.probes import Prober
    from vdaprep.progress import frame_bar
    from vdaprep.ranges import is_url
    from vdaprep.sizes import parse_bytes

    limit = parse_bytes(budget, "--budget") if budget else None
    processes = workers or os.cpu_count() or 1
    raw = find_raw(dataset, raw=conversion.raw_of(dataset), options=conversion.settings().source)
    with frame_bar("probe", total=None) as bar, Prober(raw.raw, count=probes, on_frames=bar.advance) as prober:
        choice = _choose(raw, conversion, limit, prober=prober, workers=processes, bar=bar)
    chosen = conversion.with_choice(choice.plan.settings, choice.selection)
    place = None if is_url(out) else room(choice.prediction, Path(out, dataset))
    then = ["vdaprep", "convert", dataset, "--out", out, *chosen.arguments()]
    then += ["--workers", str(workers)] if workers else []
    if as_json:
        sys.stdout.write(json.dumps(plan_report.to_json(choice, place, command=then), indent=2) + "\n")
        return
    for part in plan_report.renderables(choice, place, out=out):
        console.print(part, highlight=False, soft_wrap=isinstance(part, str))
    for item in choice.prediction.rejected:
        errors.print(f"a probe was rejected: {item.file}: {item.reason}", markup=False)
    console.print(f"\n{shlex.join(then)}", markup=False, highlight=False, soft_wrap=True)


def _choose(
    raw: "RawData",
    conversion: ConversionOptions,
    budget: int | None,
    *,
    prober: "Prober",
    workers: int,
    bar: "FrameBar",
) -> "Choice":
    """Return what is asked for, or with a budget what fits it; its steps go to stderr as they are taken."""
    from vdaprep.budget import Budget, Choice, fit
    from vdaprep.predict import predict

    settings, selection = conversion.settings(), conversion.selection()
    if budget is None:
        plan = raw.plan(settings, selection)
        return Choice(plan, selection, predict(plan, prober, workers=workers))
    limit = Budget(budget, workers=workers, on_step=lambda step: bar.notice(str(step)))
    return fit(raw, settings=settings, selection=selection, budget=limit, prober=prober)
