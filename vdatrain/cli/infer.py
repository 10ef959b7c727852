"""The command `vdatrain infer`."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from vdaprep.cli.options import cli_options
from vdaprep.cli.views.output import errors, frame_bar
from vdaprep.errors import DataError
from vdatrain.cli.model import ModelOptions

EXAMPLE = "vdatrain infer holiday.mp4 --checkpoint runs/conv/best.pt --out depth.mp4 --side-by-side"


@cli_options(ModelOptions)
def command(
    video: Annotated[str, typer.Argument(help="A video, a folder of images, a shard or its URL.", metavar="VIDEO")],
    out: Annotated[Path, typer.Option(help=".mp4, .npz, or a folder of 16-bit PNG.", metavar="FILE")],
    model: ModelOptions,
    trajectory: Annotated[str | None, typer.Option(help="Which one, of a shard that has several.")] = None,
    stream: Annotated[bool, typer.Option("--stream", help="Frame by frame: none sees a later one.")] = False,
    side_by_side: Annotated[bool, typer.Option("--side-by-side", help="The video to the left, for .mp4.")] = False,
    intrinsics: Annotated[
        str | None,
        typer.Option(
            help="Camera in pixels of the video, for metres; of a shard and of photographs with EXIF it is known.",
            metavar="FX,FY,CX,CY",
        ),
    ] = None,
    stall_timeout: Annotated[
        float, typer.Option(help="Seconds until reading a frame of a shard counts as stalled; 0: never.")
    ] = 300.0,
    strict: Annotated[bool, typer.Option("--strict", help="Exit 1 if frames could not be read.")] = False,
) -> None:
    """Predict a video's disparity up to scale and shift; with a metric model, metres along z.

    A run with --task metric takes the camera's focal length, of a shard, of EXIF or from --intrinsics; published metric
    weights mind no camera.
    """
    from vdaprep.shards.cameras import parse_intrinsics
    from vdatrain.device import peak_memory_bytes
    from vdatrain.inference.predictor import predict_to_file
    from vdatrain.inference.video_reader import open_video
    from vdatrain.inference.video_writer import check_output

    check_output(out, side_by_side=side_by_side, inputs=(video, model.checkpoint))
    source = open_video(video, trajectory=trajectory, stall_timeout_s=stall_timeout)
    camera = None if intrinsics is None else parse_intrinsics(intrinsics)
    predictor = replace(model.load(), intrinsics=camera)
    began = time.monotonic()
    with frame_bar("infer", total=source.num_frames) as bar:
        done = predict_to_file(source, predictor, out, stream=stream, side_by_side=side_by_side, on_frame=bar.advance)
    device, rate = predictor.precision.device, done.num_frames / (time.monotonic() - began)
    metres = ", depth in metres" if predictor.metric else ""
    metres += "" if done.focal_px is None else f" by a focal length of {done.focal_px:.0f} px"
    errors.print(
        f"{out}: {done.num_frames} frames of {done.size[1]}x{done.size[0]}{metres}, {rate:.1f} frames/s, peak memory "
        f"of the {'GPU' if device.type == 'cuda' else 'process'} {peak_memory_bytes(device) / 1e9:.2f} GB"
    )
    if strict and not done.is_complete:
        raise DataError(f"{video}: has frames that could not be read; {out} holds the others.")
