"""The command `vdatrain export`."""

from pathlib import Path
from typing import Annotated

import typer

from vdaprep.cli.views.output import console

EXAMPLE = "vdatrain export --checkpoint runs/conv/best.pt --out conv.safetensors"


def command(
    checkpoint: Annotated[Path, typer.Option(help="best.pt or last.pt of a run.", metavar="FILE")],
    out: Annotated[Path, typer.Option(help="Ends in .pth, .safetensors or .onnx.", metavar="FILE")],
    frames: Annotated[int | None, typer.Option(help="Of the .onnx window.", show_default="as trained")] = None,
    size: Annotated[int | None, typer.Option(help="Pixels of its sides, n x 14.", show_default="as trained")] = None,
    stream: Annotated[bool, typer.Option("--stream", help=".onnx of one frame; its caches go in and out.")] = False,
) -> None:
    """Write averaged weights under the published names, or ONNX; FILE.json describes them."""
    from vdatrain.inference.export import export

    record = export(checkpoint, out, frames=frames, size=size, stream=stream)
    console.print(f"{out}: written; {record} says what it is")
