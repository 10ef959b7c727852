"""The command `vdaprep convert`."""

from functools import partial
from typing import Annotated

import typer

from vdaprep.cli.options import Dataset, check_shards_folder, cli_options
from vdaprep.cli.views.progress import reporter
from vdaprep.conversion.api import convert_dataset
from vdaprep.conversion.options import ConversionOptions, RunOptions

EXAMPLE = "vdaprep convert tartanair --raw raw/tartanair --out shards/ --workers 2"


@cli_options(ConversionOptions, RunOptions)
def command(
    dataset: Dataset,
    out: Annotated[
        str, typer.Option(help="Folder of the shards, or s3:// URL; they go into OUT/DATASET.", show_default=False)
    ],
    conversion: ConversionOptions,
    run: RunOptions,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before --consume deletes anything.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print events as they happen, a line of JSON each.")] = False,
) -> None:
    """Convert a raw data set, straight from its archives, into shards.

    Of images a teacher's maps are disparity, greater where it is nearer, in any scale and with any shift, called
    NAME.disparity.png (16 bits), .npy or .exr beside NAME.jpg. Depth in their place cannot be told from it, and is then
    learned inverted.
    """
    with reporter(as_json=as_json) as report:
        check_shards_folder(out, dataset, raw=conversion.raw_of(dataset))
        convert_dataset(
            dataset,
            out=out,
            options=conversion,
            run=run,
            confirm_deletion=partial(report.confirm_deletion, yes=yes),
            on_progress=report,
        )
