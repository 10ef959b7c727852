"""The command `vdaprep plan`."""

import os
import shlex
from pathlib import Path
from typing import Annotated

import typer

from vdaprep.cli.options import Dataset, check_shards_folder, cli_options, command_words
from vdaprep.cli.views.output import errors, frame_bar, print_json, show
from vdaprep.cli.views.plan import renderables, to_json
from vdaprep.conversion.account import take_account
from vdaprep.conversion.budget import choose, predict_profiles
from vdaprep.conversion.options import ConversionOptions
from vdaprep.conversion.plan import find_raw
from vdaprep.conversion.predict import room
from vdaprep.conversion.probes import PROBES, Prober
from vdaprep.storage.paths import open_path
from vdaprep.storage.urls import redact
from vdaprep.units import parse_bytes

EXAMPLE = "vdaprep plan tartanair --raw raw/tartanair --out shards/ --budget 50GB"


@cli_options(ConversionOptions)
def command(
    dataset: Dataset,
    out: Annotated[str, typer.Option(help="Where the shards are to go, as convert takes it.", show_default=False)],
    conversion: ConversionOptions,
    budget: Annotated[
        str, typer.Option(help="Choose settings so that the shards take at most this, for example 50GB or 40GiB.")
    ] = "",
    probes: Annotated[int, typer.Option(help="Places at which two frames are encoded, at most.", min=2)] = PROBES,
    workers: Annotated[int, typer.Option(help="Processes that encode.", show_default="one a core", min=0)] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON.")] = False,
) -> None:
    """Predict shards, disk space and time; with --budget also choose settings that fit."""
    limit = parse_bytes(budget, "--budget") if budget else None
    conversion = conversion.for_dataset(dataset)
    source = conversion.settings().source
    place = conversion.raw_of(dataset)
    check_shards_folder(out, dataset, raw=place)
    output = open_path(f"{out.rstrip('/')}/{dataset}")
    raw = find_raw(dataset, raw=place, options=source, selection=conversion.selection(), output=output)
    processes = workers or os.cpu_count() or 1
    with frame_bar("probe", total=None) as bar, Prober(raw.raw, count=probes, on_frames=bar.advance) as prober:
        choice = choose(
            raw, conversion, prober=prober, budget=limit, workers=processes,
            on_progress=lambda event: bar.notice(event.text),
        )  # fmt: skip
        profiles = predict_profiles(raw, choice, prober)
    chosen = conversion.with_choice(choice.plan.settings, choice.selection)
    disk = room(choice.prediction, output) if isinstance(output, Path) else None
    account = take_account(raw, choice.plan)
    then = ["vdaprep", "convert", dataset, *map(redact, ("--out", out, *command_words(chosen)))]
    then += ["--workers", str(workers)] if workers else []
    if as_json:
        print_json(to_json(choice, profiles, disk, account, command=then))
        return
    show(renderables(choice, profiles, disk, account, out=redact(out)))
    for item in choice.prediction.rejected:
        errors.print(f"a probe was rejected: {item.file}: {item.reason}")
    show(["", shlex.join(then)])
