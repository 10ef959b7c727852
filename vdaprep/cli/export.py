"""The command `vdaprep export`."""

from pathlib import Path
from typing import Annotated

import typer

from vdaprep.cli.output import console

EXAMPLE = "vdaprep export shards/tartanair --out frames/"


def command(
    path: Annotated[str, typer.Argument(help="A data set's folder of shards, or a shard; or its URL.")],
    out: Annotated[Path, typer.Option(help="Folder of the trajectories' folders.", show_default=False)],
) -> None:
    """Turn shards back into PNG, npy and text files, one folder a trajectory."""
    from vdaprep.analysis.export import export as run
    from vdaprep.analysis.verify import count_frames, find_shards
    from vdaprep.cli.output import frame_bar
    from vdaprep.storage.paths import open_path

    place = open_path(path)
    frames = count_frames([place])
    with frame_bar("export", total=frames) as bar:
        names = run(find_shards(place), out=out, on_frame=bar.advance)
    console.print(f"{out}: {frames} frames of {len(names)} trajectories", highlight=False, soft_wrap=True)
