"""The command `vdaprep export`."""

from pathlib import Path
from typing import Annotated

import typer

from vdaprep.analysis.export import export
from vdaprep.analysis.verify import count_frames
from vdaprep.cli.views.output import console, frame_bar
from vdaprep.storage.atomic import check_output_folder

EXAMPLE = "vdaprep export shards/tartanair --out frames/"


def command(
    path: Annotated[str, typer.Argument(help="A data set's folder of shards, or a shard; or its URL.")],
    out: Annotated[Path, typer.Option(help="Folder of the trajectories' folders.", show_default=False)],
) -> None:
    """Turn shards back into PNG, npy and text files, one folder a trajectory."""
    check_output_folder(out, inputs=[path])
    frames = count_frames(path)
    with frame_bar("export", total=frames) as bar:
        names = export(path, out, on_frame=bar.advance)
    console.print(f"{out}: {frames} frames of {len(names)} trajectories")
