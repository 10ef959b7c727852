"""The command `vdaprep sample`."""

from pathlib import Path
from typing import Annotated

import typer

from vdaprep.cli.options import Dataset
from vdaprep.cli.views.output import console
from vdaprep.errors import UsageError
from vdaprep.storage.atomic import as_sentence, check_output_folder

EXAMPLE = "vdaprep sample tartanair --out raw/tartanair --trajectories 6 --size 160x120"


def command(
    dataset: Dataset,
    out: Annotated[Path, typer.Option(help="Folder of the raw sample.", show_default="raw/DATASET")] = Path(),
    trajectories: Annotated[int, typer.Option(help="Scenes to render, each another world.", min=1)] = 8,
    frames: Annotated[int, typer.Option(help="Frames of each.", min=1)] = 32,
    size: Annotated[str, typer.Option(help="Pixels, WxH.")] = "320x240",
    seed: Annotated[int, typer.Option(help="Other seeds are other worlds.", min=0)] = 0,
    archives: Annotated[bool, typer.Option("--archives", help="Pack it as the download is packed.")] = False,
) -> None:
    """Render a small synthetic data set in the exact raw layout of a real one."""
    from vdaprep.cli.views.output import frame_bar
    from vdaprep.synthetic.sample import SampleSpec, write_sample

    width, height = _size(size)
    spec = SampleSpec(trajectories=trajectories, frames=frames, width=width, height=height, seed=seed)
    out = Path("raw", dataset) if out == Path() else out
    check_output_folder(out)
    with as_sentence(out), frame_bar("render", total=trajectories * frames) as bar:
        names = write_sample(dataset, out=out, spec=spec, archives=archives, on_frame=bar.advance)
    console.print(f"{len(names)} trajectories of {frames} frames in {out}")


def _size(text: str) -> tuple[int, int]:
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(part.isdigit() for part in parts):
        raise UsageError(f"--size {text}: expected WxH, for example 320x240.")
    return int(parts[0]), int(parts[1])
