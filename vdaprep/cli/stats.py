"""The command `vdaprep stats`."""

from pathlib import Path
from typing import Annotated

import typer

from vdaprep.analysis.plots import write_picture
from vdaprep.analysis.stats import gather
from vdaprep.cli.views.output import errors, frame_bar, print_json, show
from vdaprep.cli.views.stats import renderables, to_json
from vdaprep.errors import UsageError
from vdaprep.shards.dataset import find_shards
from vdaprep.storage.atomic import check_output

EXAMPLE = "vdaprep stats shards/ --plot stats.png"


def command(
    paths: Annotated[list[str], typer.Argument(help="Folders of shards, or shards; or URLs.", metavar="PATH...")],
    read_all: Annotated[bool, typer.Option("--all", help="Read every frame, not 400 of each data set.")] = False,
    plot: Annotated[Path | None, typer.Option(help="Draw the statistics.", metavar="FILE.png")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the statistics as JSON.")] = False,
) -> None:
    """Show how deep, how lively and how large converted data sets are."""
    if plot is not None and plot.suffix.lower() != ".png":
        raise UsageError(f"--plot {plot}: expected a file name that ends in .png.")
    if plot is not None:
        check_output(plot)
    with frame_bar("read", total=None) as bar:
        found = gather(find_shards(paths), read_all=read_all, on_frame=bar.advance, on_total=bar.expect)
    if as_json:
        print_json([to_json(item) for item in found])
    else:
        show(renderables(found))
    if plot is not None:
        write_picture(found, plot)
        errors.print(f"{plot}: a picture of {', '.join(item.dataset for item in found)}")
