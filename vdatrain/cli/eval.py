"""The command `vdatrain eval`."""

from pathlib import Path
from typing import Annotated

import typer

from vdaprep.cli.options import cli_options
from vdaprep.cli.views.output import errors, frame_bar, print_json, show
from vdaprep.errors import UsageError
from vdatrain.cli.model import ModelOptions
from vdatrain.cli.output import evaluation_table

EXAMPLE = "vdatrain eval --shards shards/ --checkpoint runs/conv/best.pt"


@cli_options(ModelOptions)
def command(
    shards: Annotated[str, typer.Option(help="What vdaprep convert wrote, or its URL.", metavar="DIR")],
    model: ModelOptions,
    split: Annotated[str, typer.Option(help="Which clips.")] = "val",
    long: Annotated[bool, typer.Option("--long", help="Whole trajectories, as infer sees them.")] = False,
    frames: Annotated[int | None, typer.Option(help="Frames of a window.", show_default="as trained")] = None,
    stride: Annotated[int | None, typer.Option(help="Take every n-th frame.", show_default="as trained")] = None,
    workers: Annotated[int, typer.Option(help="Threads that read.")] = 2,
    cache: Annotated[str | None, typer.Option(help="Keep whole shards here.", metavar="DIR")] = None,
    cache_size: Annotated[str, typer.Option(help="Most that it holds.")] = "20GB",
    cache_free: Annotated[str, typer.Option(help="Room it leaves on its disk.")] = "1GB",
    stall_timeout: Annotated[float, typer.Option(help="Seconds until a read counts as stalled; 0: never.")] = 300.0,
    out: Annotated[Path | None, typer.Option(help="Write the evaluation here, for compare.", metavar="FOLDER")] = None,
    name: Annotated[str | None, typer.Option(help="The model's in tables.", show_default="the file's")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Measure absrel, delta1, rmse and TAE of a model, per data set and on average."""
    if long and not (frames is stride is None):
        raise UsageError("--long takes whole trajectories in windows of 32 frames; leave --frames and --stride out.")
    from vdaprep.shards.dataset import open_shards
    from vdaprep.storage.cache import open_cache
    from vdatrain.evaluation.evaluate import evaluate_clips, plan_evaluation
    from vdatrain.evaluation.files import Protocol, check_evaluation_folder, write_evaluation
    from vdatrain.evaluation.long import evaluate_long

    if out is not None:
        check_evaluation_folder(out, inputs=[shards, model.checkpoint], name=name)
    clips = open_shards(shards, cache=open_cache(cache, size=cache_size, free=cache_free)).clips(split=split)
    predictor = model.load()
    if long:
        protocol = Protocol(split, predictor.size, frames=None)
        with frame_bar("evaluate", total=sum(clip.num_frames for clip in clips)) as bar:
            evaluation = evaluate_long(clips, predictor, stall_timeout_s=stall_timeout, on_frame=bar.advance)
    else:
        plan = plan_evaluation(predictor, frames=frames, stride=stride, workers=workers, stall_timeout_s=stall_timeout)
        protocol = Protocol(split, predictor.size, plan.shape.num_frames, plan.shape.stride)
        with frame_bar("evaluate", total=len(plan.order(clips)), unit="windows") as bar:
            evaluation = evaluate_clips(
                predictor.model, clips, plan, precision=predictor.precision, on_window=bar.advance
            )
    if out is not None:
        origin = {**predictor.origin, **({"name": name} if name else {})}
        write_evaluation(out, evaluation, protocol=protocol, clips=clips, origin=origin)
    if as_json:
        print_json(evaluation.to_json())
    else:
        show([evaluation_table(evaluation)])
    if out is not None:
        errors.print(f"{out}: the evaluation, which vdatrain compare takes beside runs")
