"""The command `vdaprep stats`."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from vdaprep.console import console, errors
from vdaprep.errors import UsageError

EXAMPLE = "vdaprep stats shards/ --plot stats.png"


def command(
    paths: Annotated[list[str], typer.Argument(help="Folders of shards, or shards; or URLs.", metavar="PATH...")],
    read_all: Annotated[bool, typer.Option("--all", help="Read every frame, not 400 of each data set.")] = False,
    plot: Annotated[Path | None, typer.Option(help="Draw the statistics.", metavar="FILE.png")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the statistics as JSON.")] = False,
) -> None:
    """Show how deep, how lively and how large converted data sets are."""
    from vdaprep import stats, stats_report
    from vdaprep.places import place_of
    from vdaprep.progress import frame_bar
    from vdaprep.verify import find_shards

    if plot is not None and plot.suffix.lower() != ".png":
        raise UsageError(f"--plot {plot}: expected a file name that ends in .png.")
    tars = list(dict.fromkeys(tar for path in paths for tar in find_shards(place_of(path))))
    with frame_bar("read", total=None) as bar:
        found = stats.gather(tars, read_all=read_all, on_frame=bar.advance)
    if as_json:
        sys.stdout.write(json.dumps([item.to_json() for item in found], indent=2) + "\n")
    else:
        for part in stats_report.renderables(found):
            console.print(part, highlight=False)
    if plot is not None:
        stats_report.write_picture(found, plot)
        errors.print(f"{plot}: a picture of {', '.join(item.dataset for item in found)}", markup=False)
