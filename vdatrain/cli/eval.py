"""The command `vdatrain eval`."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from vdaprep.errors import UsageError
from vdatrain.cli.output import console, errors, evaluation_table

EXAMPLE = "vdatrain eval --shards shards/ --checkpoint runs/conv/best.pt"


def command(
    shards: Annotated[str, typer.Option(help="What vdaprep convert wrote, or its URL.", metavar="DIR")],
    checkpoint: Annotated[Path, typer.Option(help="best.pt or last.pt of a run.", metavar="FILE")],
    split: Annotated[str, typer.Option(help="Which clips.")] = "val",
    long: Annotated[bool, typer.Option("--long", help="Whole trajectories, as infer sees them.")] = False,
    frames: Annotated[int | None, typer.Option(help="Frames of a window.", show_default="as trained")] = None,
    size: Annotated[int | None, typer.Option(help="Pixels of the short side.", show_default="as trained")] = None,
    precision: Annotated[str | None, typer.Option(help="fp32, bf16 or fp16.", show_default="as trained")] = None,
    workers: Annotated[int, typer.Option(help="Threads that read.")] = 2,
    cache: Annotated[str | None, typer.Option(help="Keep whole shards here.", metavar="DIR")] = None,
    cache_size: Annotated[str, typer.Option(help="Most that it holds.")] = "20GB",
    cache_free: Annotated[str, typer.Option(help="Room it leaves on its disk.")] = "1GB",
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Measure absrel, delta1, rmse and TAE of a checkpoint, per data set and on average."""
    if long and frames is not None:
        raise UsageError("--long takes whole trajectories in windows of 32 frames; leave --frames out.")
    from dataclasses import replace

    from vdaprep.storage.cache import open_cache
    from vdatrain.cli.progress import window_bar
    from vdatrain.data.index import read_index
    from vdatrain.data.sampler import WindowShape
    from vdatrain.device import Precision, default_device
    from vdatrain.evaluation.evaluate import EvaluationPlan, evaluate
    from vdatrain.evaluation.long import evaluate_long
    from vdatrain.inference.predictor import Predictor
    from vdatrain.inference.video_reader import DEFAULT_DIFF
    from vdatrain.models.loading import load_model

    clips = read_index(shards, split=split, cache=open_cache(cache, size=cache_size, free=cache_free))
    model, config = load_model(checkpoint)
    asked = {"frames": frames, "size": size, "precision": precision}
    config = replace(config, **{name: value for name, value in asked.items() if value is not None})
    here = Precision(default_device(), config.precision)
    model = model.to(here.device).eval()
    if long:
        predictor = Predictor(model, here, config.size, DEFAULT_DIFF)
        with window_bar("evaluate", total=sum(clip.num_frames for clip in clips), console=errors) as advance:
            evaluation = evaluate_long(clips, predictor, on_frame=advance)
    else:
        plan = EvaluationPlan(WindowShape(config.frames, config.stride), size=config.size, workers=workers)
        with window_bar("evaluate", total=plan.order(clips).total, console=errors) as advance:
            evaluation = evaluate(model, clips, plan, precision=here, on_window=advance)
    if as_json:
        sys.stdout.write(json.dumps(evaluation.to_json(), indent=2) + "\n")
    else:
        console.print(evaluation_table(evaluation))
