"""The command `vdaprep recode`."""

from typing import Annotated

import typer

from vdaprep.cli.options import cli_options
from vdaprep.cli.views.output import console
from vdaprep.cli.views.progress import reporter
from vdaprep.conversion.encode.recode import RecodeOptions, recode
from vdaprep.units import format_bytes

EXAMPLE = "vdaprep recode shards/ --profile tiny --out tiny/"


@cli_options(RecodeOptions)
def command(
    shards: Annotated[
        str, typer.Argument(help="Folder or URL of converted data sets; several with commas.", show_default=False)
    ],
    out: Annotated[
        str, typer.Option(help="Folder of the new shards, or s3:// URL; they go into OUT/DATASET.", show_default=False)
    ],
    recoding: RecodeOptions,
    workers: Annotated[int, typer.Option(min=0, show_default="one a core", help="Processes that encode.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print events as they happen, a line of JSON each.")] = False,
) -> None:
    """Turn shards into smaller shards, without the raw data."""
    with reporter(as_json=as_json) as report:
        records = recode(shards, out=out, options=recoding, workers=workers or None, on_progress=report)
    for record in () if as_json else records:
        size, frames = record.totals["bytes"], record.totals["frames"]
        each = f", {size / 1024 / frames:.1f} KiB a frame" if frames else ""
        console.print(f"{out.rstrip('/')}/{record.dataset}: {frames} frames, {format_bytes(size)}{each}")
