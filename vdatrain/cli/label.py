"""The command `vdatrain label`."""

from pathlib import Path
from typing import Annotated

import typer

from vdaprep.cli.views.output import errors, frame_bar, show

EXAMPLE = "vdatrain label photos/ holiday.mp4 --teacher vda-small --out labelled/"


def command(  # noqa: PLR0913 - options
    inputs: Annotated[list[str], typer.Argument(help="Shards without labels, folders of images, videos.")],
    teacher: Annotated[
        str, typer.Option(help="best.pt of a run; published weights by name, or a file with --encoder.", metavar="FILE")
    ],
    out: Annotated[Path, typer.Option(help="Folder of data sets, each a folder there.", metavar="DIR")],
    encoder: Annotated[str | None, typer.Option(help="Encoder of weights without a configuration.")] = None,
    size: Annotated[
        int | None,
        typer.Option(help="Pixels of the short side that it sees. [default: as trained]", show_default=False),
    ] = None,
    precision: Annotated[
        str | None, typer.Option(help="fp32, bf16 or fp16. [default: as trained]", show_default=False)
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda or cuda:N. [default: the GPU if there is one]", show_default=False)
    ] = None,
    name: Annotated[str, typer.Option(help="Data set that images and videos become.")] = "labelled",
    split: Annotated[str, typer.Option(help="Their split.")] = "train",
    short_side: Annotated[int, typer.Option(min=14, help="Pixels that their larger frames are scaled to.")] = 540,
) -> None:
    """Label images and videos with a teacher's relative disparity, as shards to train on.

    Run again after an interruption, it goes on with the first shard that is not whole. Images of a folder are each
    alone; give a video as a file. Train with vdatrain run --images DIR --images-per-clip 8.
    """
    from vdaprep.storage.atomic import check_output_folder
    from vdaprep.storage.output import LocalOutput
    from vdatrain.inference.labelling.inputs import items_of
    from vdatrain.inference.labelling.shards import label_items
    from vdatrain.inference.labelling.teacher import as_teacher
    from vdatrain.inference.loading import load_predictor

    check_output_folder(out, inputs=[*inputs, teacher])
    items = [item for place in inputs for item in items_of(place, name=name, split=split, short_side=short_side)]
    predictor = load_predictor(teacher, encoder=encoder, device=device, size=size, precision=precision)
    known = as_teacher(teacher, predictor)
    total = sum(item.num_frames for item in items)
    with frame_bar("label", total=total if all(item.num_frames for item in items) else None) as bar:
        done = label_items(items, known, LocalOutput(out), on_frames=bar.advance)
    show([f"{folder}: labelled by {known.facts['teacher']}" for folder in done.folders])
    licence = known.facts["teacher_licence"]
    errors.print(
        f"{done.clips} clips of {done.frames} frames; {len(done.rejected)} left out; licence of the teacher: {licence}"
    )
