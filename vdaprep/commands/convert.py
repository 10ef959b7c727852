"""The command `vdaprep convert`."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vdaprep.console import console, errors
from vdaprep.errors import VdakitError
from vdaprep.options import ConversionOptions, Dataset, with_conversion_options

if TYPE_CHECKING:
    from vdaprep.schema import DatasetRecord

EXAMPLE = "vdaprep convert tartanair --raw raw/tartanair --out shards/ --workers 2"


@with_conversion_options
def command(
    dataset: Dataset,
    out: Annotated[Path, typer.Option(help="Folder of the shards; they go into OUT/DATASET.", show_default=False)],
    conversion: ConversionOptions,
    workers: Annotated[int, typer.Option(help="Processes.", show_default="one a core", min=0)] = 0,
    strict: Annotated[bool, typer.Option("--strict", help="Exit 1 if any frame was rejected.")] = False,
) -> None:
    """Convert a raw data set, straight from its archives, into shards."""
    from vdaprep.convert import Progress, convert
    from vdaprep.executors import LocalExecutor
    from vdaprep.outputs import LocalOutput
    from vdaprep.plan import make_plan
    from vdaprep.progress import frame_bar

    workers = workers or os.cpu_count() or 1
    plan = make_plan(
        dataset, raw=conversion.raw_of(dataset), settings=conversion.settings(), selection=conversion.selection()
    )
    with frame_bar("convert", total=plan.num_frames) as bar:
        record = convert(
            plan,
            output=LocalOutput(out / dataset, writers=workers),
            executor=LocalExecutor(workers),
            progress=Progress(on_frames=bar.advance, on_shard=bar.on_shard, on_notice=bar.notice),
        )
    _summarise(record, out / dataset)
    if strict and record.rejected:
        raise VdakitError(f"{len(record.rejected)} inputs were rejected, and --strict takes none.")


def _summarise(record: "DatasetRecord", folder: Path) -> None:
    from vdaprep.progress import human_bytes

    totals = record.totals
    console.print(
        f"{folder}: {totals['frames']} frames in {totals['clips']} clips, {len(record.shards)} shards, "
        f"{human_bytes(totals['bytes'])} ({human_bytes(totals['bytes'] / totals['frames'])} a frame)",
        highlight=False,
        soft_wrap=True,
    )
    if totals["clamped_near"]:
        console.print(
            f"{totals['clamped_near']} depth pixels were nearer than the depth code goes; stored at its near end."
        )
    for item in record.rejected:
        errors.print(f"rejected: {item.file}: {item.reason}", markup=False)
