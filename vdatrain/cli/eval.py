"""The command `vdatrain eval`."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from vdaprep.cli.options import cli_options
from vdaprep.cli.views.output import errors, frame_bar, print_json, show
from vdaprep.errors import UsageError
from vdatrain.cli.model import ModelOptions
from vdatrain.cli.views.output import evaluation_table

EXAMPLE = "vdatrain eval --shards shards/ --checkpoint runs/conv/best.pt --stress flicker1,noise"


@cli_options(ModelOptions)
def command(
    shards: Annotated[
        str, typer.Option(help="What vdaprep convert wrote, or its URL; several with commas.", metavar="DIR")
    ],
    model: ModelOptions,
    split: Annotated[str, typer.Option(help="Which clips.")] = "val",
    long: Annotated[bool, typer.Option("--long", help="Whole trajectories, as infer sees them.")] = False,
    frames: Annotated[int | None, typer.Option(help="Frames of a window.", show_default="as trained")] = None,
    stride: Annotated[int | None, typer.Option(help="Take every n-th frame.", show_default="as trained")] = None,
    stress: Annotated[
        str | None,
        typer.Option(
            help="Evaluate again with images disturbed, for each of these: flicker1, flicker2, flash, noise, rain, or "
            "all; + joins kinds. Differences are then taken of the disturbed images.",
            metavar="KINDS",
        ),
    ] = None,
    stress_seed: Annotated[int, typer.Option(help="What stress is drawn from, with each clip's name.", min=0)] = 0,
    workers: Annotated[int, typer.Option(help="Threads that read.")] = 2,
    cache: Annotated[str | None, typer.Option(help="Keep whole shards here.", metavar="DIR")] = None,
    cache_size: Annotated[str, typer.Option(help="Most that it holds.")] = "20GB",
    cache_free: Annotated[str, typer.Option(help="Room it leaves on its disk.")] = "1GB",
    stall_timeout: Annotated[float, typer.Option(help="Seconds until a read counts as stalled; 0: never.")] = 300.0,
    out: Annotated[Path | None, typer.Option(help="Write the evaluation here, for compare.", metavar="FOLDER")] = None,
    name: Annotated[str | None, typer.Option(help="The model's in tables.", show_default="the file's")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Measure absrel, delta1, rmse and TAE of a model, per data set and on average.

    A relative model's disparity is fitted to the truth by one scale and shift a window; a metric model's depth is not.
    """
    if long and not (frames is stride is None):
        raise UsageError("--long takes whole trajectories in windows of 32 frames; leave --frames and --stride out.")
    from vdaprep.shards.dataset import open_shards
    from vdaprep.shards.pictures.stress import IMAGE_KINDS, describe, parse_stress
    from vdaprep.storage.cache import open_cache
    from vdatrain.data.altered.stress import StressPlan
    from vdatrain.evaluation.evaluate import alignment_of, evaluate_clips, plan_evaluation
    from vdatrain.evaluation.files import Protocol, check_evaluation_folder, write_evaluation
    from vdatrain.evaluation.long import evaluate_long

    asked = parse_stress(stress, known=IMAGE_KINDS) if stress is not None else ()
    plans = [StressPlan(kinds, stress_seed) for kinds in ((), *filter(None, asked))]
    if out is not None:
        check_evaluation_folder(out, inputs=[shards, model.checkpoint], name=name)
    clips = open_shards(shards, cache=open_cache(cache, size=cache_size, free=cache_free)).clips(split=split)
    predictor = model.load()
    if long:
        protocol = Protocol(split, predictor.size, frames=None, alignment=alignment_of(predictor.model))
        with frame_bar("evaluate", total=len(plans) * sum(clip.num_frames for clip in clips)) as bar:
            options = {"stall_timeout_s": stall_timeout, "on_frame": bar.advance}
            found = [evaluate_long(clips, predictor, stress=under, **options) for under in plans]
    else:
        plan = plan_evaluation(predictor, frames=frames, stride=stride, workers=workers, stall_timeout_s=stall_timeout)
        shape, alignment = plan.shape, alignment_of(predictor.model)
        protocol = Protocol(split, predictor.size, shape.num_frames, shape.stride, alignment)
        with frame_bar("evaluate", total=len(plans) * len(plan.order(clips)), unit="windows") as bar:
            options = {"precision": predictor.precision, "on_window": bar.advance}
            under_each = (replace(plan, stress=under) for under in plans)
            found = [evaluate_clips(predictor.model, clips, one, **options) for one in under_each]
    evaluation, *others = found
    stressed = {describe(under.kinds): other for under, other in zip(plans[1:], others, strict=True)}
    figures = {kinds: other.to_json() for kinds, other in stressed.items()}
    facts = {"stressed": figures, "stress_seed": stress_seed} if stressed else {}
    if out is not None:
        origin = {**predictor.origin, **({"name": name} if name else {}), **facts}
        write_evaluation(out, evaluation, protocol=protocol, clips=clips, origin=origin)
    if as_json:
        print_json({**evaluation.to_json(), **facts})
    else:
        show([evaluation_table(evaluation, stressed)])
    if out is not None:
        errors.print(f"{out}: the evaluation, which vdatrain compare takes beside runs")
