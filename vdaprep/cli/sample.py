"""The command `vdaprep sample`."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from vdaprep.cli.options import Dataset
from vdaprep.cli.views.output import console
from vdaprep.errors import UsageError
from vdaprep.storage.atomic import as_sentence, check_output_folder

EXAMPLE = "vdaprep sample tartanair --out raw/tartanair --preset study --stress none,flicker1,flash+noise"


def command(
    dataset: Dataset,
    out: Annotated[Path, typer.Option(help="Folder of the raw sample.", show_default="raw/DATASET")] = Path(),
    preset: Annotated[
        str | None,
        typer.Option(
            help="study: 60 trajectories (50 of vkitti) of 32 frames of 160x120, to compare models on; other options "
            "change a part of it.",
            metavar="NAME",
        ),
    ] = None,
    trajectories: Annotated[
        int | None, typer.Option(help="Scenes to render, each another world.", min=1, show_default="8")
    ] = None,
    frames: Annotated[int | None, typer.Option(help="Frames of each.", min=1, show_default="32")] = None,
    size: Annotated[str | None, typer.Option(help="Pixels, WxH.", show_default="320x240")] = None,
    seed: Annotated[int, typer.Option(help="Other seeds are other worlds, and another stress.", min=0)] = 0,
    stress: Annotated[
        str,
        typer.Option(
            help="Disturb images (flicker1, flicker2, flash, noise, rain), camera (shake) or scene (objects): "
            "alternatives with commas, which trajectories take in turn; + joins kinds; all: each kind alone.",
            metavar="KINDS",
        ),
    ] = "none",
    archives: Annotated[bool, typer.Option("--archives", help="Pack it as the download is packed.")] = False,
) -> None:
    """Render a small synthetic data set in the exact raw layout of a real one.

    Depth, poses and cameras stay exact under stress: a shaken camera's poses are the shaken ones, objects that cross
    the picture are in the depth, and rain is in the images alone.
    """
    from vdaprep.cli.views.output import frame_bar
    from vdaprep.shards.pictures.stress import describe, parse_stress
    from vdaprep.synthetic import sample

    spec = sample.SampleSpec() if preset is None else sample.preset(preset, dataset)
    width, height = (spec.width, spec.height) if size is None else _size(size)
    given = {"trajectories": trajectories, "frames": frames}
    spec = replace(
        spec,
        **{name: value for name, value in given.items() if value is not None},
        width=width,
        height=height,
        seed=seed,
        stress=parse_stress(stress, known=sample.STRESS_KINDS),
    )
    out = Path("raw", dataset) if out == Path() else out
    check_output_folder(out)
    with as_sentence(out), frame_bar("render", total=spec.trajectories * spec.frames) as bar:
        kinds = sample.write_sample(dataset, out=out, spec=spec, archives=archives, on_frame=bar.advance)
    console.print(f"{len(kinds)} trajectories of {spec.frames} frames in {out}")
    if any(kinds.values()):
        counts = Counter(kinds.values())
        console.print(f"under stress: {', '.join(f'{describe(one)} {counts[one]}' for one in spec.stress)}")
    if spec.splits != "default":
        console.print(f"its held-out scenes are those of vdaprep convert {dataset} --splits {spec.splits}")


def _size(text: str) -> tuple[int, int]:
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(part.isdigit() for part in parts):
        raise UsageError(f"--size {text}: expected WxH, for example 320x240.")
    return int(parts[0]), int(parts[1])
