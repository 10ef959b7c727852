"""The command line of vdatrain: options in, sentences out; all work is done elsewhere."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from vdaprep.schema import UsageError, VdakitError

if TYPE_CHECKING:
    from vdatrain.config import Config
    from vdatrain.evaluate import Evaluation
    from vdatrain.evaluate_long import LongEvaluation

# Modules that import torch are imported by the commands that need them: --help must be quick.

app = typer.Typer(
    help="Train Video Depth Anything variants on shards, and compare them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
console = Console()
errors = Console(stderr=True, soft_wrap=True, highlight=False)


def main() -> None:
    """Run the command line; a user's error is one sentence on stderr and exit 1 or 2."""
    try:
        app()
    except VdakitError as error:
        errors.print(f"vdatrain: {error}", markup=False)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        errors.print("vdatrain: stopped; a run goes on from its last checkpoint with --resume.")
        sys.exit(130)


@app.command(epilog="Example: vdatrain run --shards shards/ --variant conv --encoder tiny --size 112 --frames 8")
def run(
    shards: Annotated[str | None, typer.Option(help="Folder that vdaprep convert wrote.", metavar="DIR")] = None,
    variant: Annotated[str | None, typer.Option(help="See vdatrain variants.", show_default="basic")] = None,
    encoder: Annotated[
        str | None, typer.Option(help="tiny, vits, vitb or vitl.", show_default="vits; tiny on a CPU")
    ] = None,
    init: Annotated[str | None, typer.Option(help="Weights to begin with: a file, dinov2 or none.")] = None,
    preset: Annotated[
        str | None, typer.Option(help="paper, finetune, adapter or scratch.", show_default="scratch")
    ] = None,
    frames: Annotated[int | None, typer.Option(help="Frames of a window.", show_default="32; 8 on a CPU")] = None,
    stride: Annotated[int | None, typer.Option(help="Take every n-th frame.", show_default="1")] = None,
    size: Annotated[
        int | None, typer.Option(help="Pixels of a side, n x 14.", show_default="518; 112 on a CPU")
    ] = None,
    batch: Annotated[int | None, typer.Option(help="Windows at a time.", show_default="1")] = None,
    accumulate: Annotated[int | None, typer.Option(help="Batches a step.", show_default="1")] = None,
    steps: Annotated[
        int | None, typer.Option(help="Steps of the optimiser.", show_default="10000; 200 on a CPU")
    ] = None,
    lr: Annotated[float | None, typer.Option(help="Greatest learning rate.", show_default="the preset's")] = None,
    warmup: Annotated[int | None, typer.Option(help="Steps to the greatest rate.", show_default="100")] = None,
    ema: Annotated[float | None, typer.Option(help="Decay of averaged weights; 0: none.", show_default="0.999")] = None,
    seed: Annotated[int | None, typer.Option(help="Of weights, order, crops.", show_default="0")] = None,
    precision: Annotated[str | None, typer.Option(help="fp32, bf16 or fp16.", show_default="fp32")] = None,
    recompute_head: Annotated[
        bool | None, typer.Option("--recompute-head", help="Save the head's memory, at the price of time.")
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Processes that read.", show_default="2")] = None,
    log_every: Annotated[int | None, typer.Option(help="Steps.", show_default="10")] = None,
    eval_every: Annotated[int | None, typer.Option(help="Steps.", show_default="500")] = None,
    eval_windows: Annotated[int | None, typer.Option(help="Windows of those; 0: all.", show_default="32")] = None,
    config: Annotated[Path | None, typer.Option(help="TOML with any of these.", metavar="FILE")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the run.", show_default="runs/VARIANT")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
) -> None:
    """Train a variant; weights, log and the final evaluation go to the folder of the run."""
    options = dict(locals())  # the options that Config knows, None where nothing was given
    from vdatrain import run as runs
    from vdatrain import train
    from vdatrain.config import from_file, from_mapping
    from vdatrain.live import LiveView
    from vdatrain.precision import Precision, default_device

    own = ("config", "out", "resume")
    given = {name: value for name, value in options.items() if value is not None and name not in own}
    if resume:
        folder = out or Path("runs", variant or "basic")
        settings = runs.stored_config(folder)
        _refuse_changes(settings, given)
    else:
        asked = {**(from_file(config) if config else {}), **given}
        settings = from_mapping({**_defaults(asked), **asked}, where="vdatrain run")
        folder = out or Path("runs", settings.variant)
    here = Precision(default_device(), settings.precision)
    begin = runs.resume(folder, precision=here) if resume else runs.start(settings, folder, precision=here)
    if begin.loaded is not None:
        errors.print(str(begin.loaded), markup=False)
    with LiveView(settings, errors) as view:
        result = train.train(begin, view.listener())
    if result is None:
        errors.print(f"{folder}: done; the shards have no split {settings.eval_split!r}, so nothing was evaluated.")
        return
    step, evaluation = result
    console.print(_evaluation_table(evaluation))
    console.print(f"{folder / runs.BEST_FILE}: the best weights, of step {step}", highlight=False, soft_wrap=True)


@app.command(name="eval", epilog="Example: vdatrain eval --shards shards/ --checkpoint runs/conv/best.pt")
def evaluate_command(
    shards: Annotated[Path, typer.Option(help="Folder that vdaprep convert wrote.", metavar="DIR")],
    checkpoint: Annotated[Path, typer.Option(help="best.pt or last.pt of a run.", metavar="FILE")],
    split: Annotated[str, typer.Option(help="Which clips.")] = "val",
    long: Annotated[bool, typer.Option("--long", help="Whole trajectories, as infer sees them.")] = False,
    frames: Annotated[int | None, typer.Option(help="Frames of a window.", show_default="as trained")] = None,
    size: Annotated[int | None, typer.Option(help="Pixels of the short side.", show_default="as trained")] = None,
    precision: Annotated[str | None, typer.Option(help="fp32, bf16 or fp16.", show_default="as trained")] = None,
    workers: Annotated[int, typer.Option(help="Processes that read.")] = 2,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Measure absrel, delta1, rmse and TAE of a checkpoint, per data set and on average."""
    if long and frames is not None:
        raise UsageError("--long takes whole trajectories in windows of 32 frames; leave --frames out.")
    from dataclasses import replace

    from vdatrain import run as runs
    from vdatrain.evaluate import EvaluationPlan, evaluate
    from vdatrain.evaluate_long import evaluate_long
    from vdatrain.index import read_index
    from vdatrain.infer import Predictor
    from vdatrain.live import window_bar
    from vdatrain.precision import Precision, default_device
    from vdatrain.video_in import DEFAULT_DIFF
    from vdatrain.windows import WindowShape

    clips = read_index(shards, split=split)
    model, config = runs.load_model(checkpoint)
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
        console.print(_evaluation_table(evaluation))


@app.command(epilog="Example: vdatrain infer holiday.mp4 --checkpoint runs/conv/best.pt --out depth.mp4 --side-by-side")
def infer(
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

    from vdatrain.infer import Inference, Predictor, infer_video, load, peak_memory_bytes
    from vdatrain.live import window_bar
    from vdatrain.precision import Precision, default_device
    from vdatrain.video_in import open_video

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


@app.command(epilog="Example: vdatrain compare runs/basic runs/conv --report report.html")
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Folders of finished runs.", metavar="RUN...")],
    report: Annotated[Path | None, typer.Option(help="Write an HTML page.", metavar="FILE.html")] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the table as Markdown.")] = False,
) -> None:
    """Print data set x variant with absrel, delta1 and TAE, the best in bold."""
    from vdatrain import compare as comparison

    found = [comparison.read_run(folder) for folder in runs]
    rows = comparison.compare(found)
    if markdown:
        sys.stdout.write(comparison.markdown_table(rows) + "\n")
    else:
        console.print(comparison.terminal_table(rows))
    console.print(comparison.verdict(rows), highlight=False)
    if report is not None:
        from vdatrain.report import write_report

        write_report(report, found, rows)
        errors.print(f"{report}: the comparison as a page")


@app.command(epilog="Example: vdatrain export --checkpoint runs/conv/best.pt --out conv.safetensors")
def export(
    checkpoint: Annotated[Path, typer.Option(help="best.pt or last.pt of a run.", metavar="FILE")],
    out: Annotated[Path, typer.Option(help="Ends in .pth, .safetensors or .onnx.", metavar="FILE")],
    frames: Annotated[int | None, typer.Option(help="Of the .onnx window.", show_default="as trained")] = None,
    size: Annotated[int | None, typer.Option(help="Pixels of its sides, n x 14.", show_default="as trained")] = None,
) -> None:
    """Write the averaged weights under the published names, or an ONNX graph; FILE.json says what it is."""
    from vdatrain.export import export as write

    record = write(checkpoint, out, frames=frames, size=size)
    console.print(f"{out}: written; {record} says what it is", highlight=False, soft_wrap=True, markup=False)


@app.command(epilog="Example: vdatrain variants --encoder vits")
def variants(
    encoder: Annotated[str, typer.Option(help="tiny, vits, vitb or vitl.")] = "vits",
    size: Annotated[int, typer.Option(help="Pixels of a side, n x 14.")] = 518,
) -> None:
    """List the variants with their numbers of parameters and what a frame costs."""
    import torch

    from vdatrain import variants as known
    from vdatrain.flops import gflop_per_frame
    from vdatrain.layers.encoder import PATCH_SIZE

    if size < PATCH_SIZE or size % PATCH_SIZE:
        raise UsageError(f"--size {size}: expected a multiple of {PATCH_SIZE}.")
    caption = f"with encoder {encoder}, frames of {size}x{size}"
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=caption, title_justify="left")
    for title in ("variant", "parameters", "its own", "GFLOP/frame", "what it is"):
        table.add_column(title, justify="left" if title.startswith(("variant", "what")) else "right")
    for name in known.names():
        with torch.device("meta"):
            model = known.build(name, encoder=encoder)
        sizes = {key: value.numel() for key, value in model.named_parameters()}
        own = sum(count for key, count in sizes.items() if key.startswith(known.own_prefixes(name) or ("\0",)))
        cost = gflop_per_frame(model, size=size)
        table.add_row(name, f"{sum(sizes.values()):,}", f"{own:,}", f"{cost:.2f}", known.summary(name))
    console.print(table)


# ------------------------------------------------------------------------------------------------------------ details


def _defaults(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a machine without a GPU takes instead of the defaults for one, and say so."""
    from vdatrain.config import WITHOUT_GPU
    from vdatrain.precision import default_device

    smaller = {name: value for name, value in WITHOUT_GPU.items() if name not in asked}
    if default_device().type != "cpu" or not smaller:
        return {}
    chosen = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in smaller.items())
    errors.print(f"no GPU here, so a smoke run: {chosen}")
    return smaller


def _refuse_changes(config: "Config", given: Mapping[str, Any]) -> None:
    stored = config.to_json()
    changed = [f"--{name} {stored[name]} to {value}" for name, value in given.items() if stored[name] != value]
    if changed:
        raise UsageError(f"--resume goes on as the run began; leave out what would change {', '.join(changed)}.")


def _known_precision(name: str) -> str:
    from vdatrain.config import PRECISIONS

    if name not in PRECISIONS:
        raise UsageError(f"--precision {name}: expected one of {', '.join(PRECISIONS)}.")
    return name


def _evaluation_table(evaluation: "Evaluation | LongEvaluation") -> Table:
    """Lay the figures out; whole trajectories are counted as such and have no training loss."""
    figures: dict[str, Mapping[str, Any]] = evaluation.to_json()["datasets"]
    rows = {**figures, "average": evaluation.average()}
    counted = "trajectories" if all("trajectories" in row for row in figures.values()) else "windows"
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    loss = ("loss ↓",) if counted == "windows" else ()
    for title in ("data set", counted, "absrel ↓", "delta1 ↑", "rmse m ↓", "TAE ↓", "compared", *loss):
        table.add_column(title, justify="left" if title == "data set" else "right", no_wrap=True)
    for name, row in rows.items():
        table.add_row(
            name,
            str(row.get(counted, "")),
            *(f"{row[key]:.4f}" for key in ("absrel", "delta1", "rmse")),
            "no poses" if row["tae"] is None else f"{row['tae']:.4f}",
            f"{row['tae_share']:.1%}",
            *(f"{row['loss']:.4f}" for _ in loss),
        )
    return table
