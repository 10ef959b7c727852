"""The command `vdatrain infer`."""

from pathlib import Path
from typing import Annotated

import typer

from vdaprep.errors import UsageError
from vdatrain.cli.output import errors

EXAMPLE = "vdatrain infer holiday.mp4 --checkpoint runs/conv/best.pt --out depth.mp4 --side-by-side"


def command(
    video: Annotated[Path, typer.Argument(help="A video, a folder of images or a shard.", metavar="VIDEO")],
    checkpoint: Annotated[Path, typer.Option(help="best.pt of a run, or weights with --encoder.", metavar="FILE")],
    out: Annotated[Path, typer.Option(help=".mp4, .npz, or a folder of 16-bit PNG.", metavar="FILE")],
    size: Annotated[
        int | None, typer.Option(help="Pixels of the short side.", show_default="as trained; 518 with --encoder")
    ] = None,
    encoder: Annotated[str | None, typer.Option(help="Of weights without a configuration.")] = None,
    precision: Annotated[str | None, typer.Option(help="fp32, bf16 or fp16.", show_default="as trained")] = None,
    trajectory: Annotated[str | None, typer.Option(help="Which of a shard's.")] = None,
    stream: Annotated[bool, typer.Option("--stream", help="Frame by frame: none sees a later one.")] = False,
    side_by_side: Annotated[bool, typer.Option("--side-by-side", help="The video to the left, for .mp4.")] = False,
) -> None:
    """Predict the disparity of a video of any length, up to scale and shift."""
    import time

    from vdatrain.cli.progress import window_bar
    from vdatrain.device import Precision, default_device
    from vdatrain.inference.predictor import Inference, Predictor, infer_video, load, peak_memory_bytes
    from vdatrain.inference.video_reader import open_video

    what = Inference(out, stream=stream, side_by_side=side_by_side)
    source = open_video(video, trajectory=trajectory)
    trained = load(checkpoint, encoder=encoder)
    here = Precision(default_device(), _known_precision(precision or trained.precision))
    model = trained.model.to(here.device)
    predictor = Predictor(model, here, trained.size if size is None else size, source.diff)
    began = time.monotonic()
    with window_bar("infer", total=source.num_frames, console=errors) as advance:
        done = infer_video(source, predictor, what, on_frame=advance)
    rate = done.num_frames / (time.monotonic() - began)
    where = "of the GPU" if here.device.type == "cuda" else "of the process"
    errors.print(
        f"{out}: {done.num_frames} frames of {done.size[1]}x{done.size[0]}, {rate:.1f} frames/s, "
        f"peak memory {where} {peak_memory_bytes(here.device) / 1e9:.2f} GB",
        markup=False,
    )


def _known_precision(name: str) -> str:
    from vdatrain.config import PRECISIONS

    if name not in PRECISIONS:
        raise UsageError(f"--precision {name}: expected one of {', '.join(PRECISIONS)}.")
    return name
