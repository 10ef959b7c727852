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
        errors.print("vdatrain: stopped; run with --resume to go on from the last checkpoint.")
        sys.exit(130)


@app.command(epilog="Example: vdatrain run --shards shards/ --variant conv --encoder tiny --size 112 --frames 8")
def run(
    shards: Annotated[str | None, typer.Option(help="Folder that vdaprep convert wrote.", metavar="DIR")] = None,
    variant: Annotated[str | None, typer.Option(help="See vdatrain variants.", show_default="basic")] = None,
    encoder: Annotated[
        str | None, typer.Option(help="tiny, vits, vitb or vitl.", show_default="vits; tiny on a CPU")
    ] = None,
    init: Annotated[str | None, typer.Option(help="Weights to begin with: none, or a file.", metavar="FILE")] = None,
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
    from vdatrain import train
    from vdatrain.config import from_file, from_mapping
    from vdatrain.live import LiveView
    from vdatrain.precision import Precision, default_device

    own = ("config", "out", "resume")
    given = {name: value for name, value in options.items() if value is not None and name not in own}
    if resume:
        folder = out or Path("runs", variant or "basic")
        settings = train.stored_config(folder)
        _refuse_changes(settings, given)
    else:
        asked = {**(from_file(config) if config else {}), **given}
        settings = from_mapping({**_defaults(asked), **asked}, where="vdatrain run")
        folder = out or Path("runs", settings.variant)
    here = Precision(default_device(), settings.precision)
    begin = train.resume(folder, precision=here) if resume else train.start(settings, folder, precision=here)
    with LiveView(settings, errors) as view:
        result = train.train(begin, view.listener())
    if result is None:
        errors.print(f"{folder}: done; the shards have no split {settings.eval_split!r}, so nothing was evaluated.")
        return
    step, evaluation = result
    console.print(_evaluation_table(evaluation))
    console.print(f"{folder / train.BEST_FILE}: the best weights, of step {step}", highlight=False, soft_wrap=True)


@app.command(name="eval", epilog="Example: vdatrain eval --shards shards/ --checkpoint runs/conv/best.pt")
def evaluate_command(
    shards: Annotated[Path, typer.Option(help="Folder that vdaprep convert wrote.", metavar="DIR")],
    checkpoint: Annotated[Path, typer.Option(help="best.pt or last.pt of a run.", metavar="FILE")],
    split: Annotated[str, typer.Option(help="Which clips.")] = "val",
    frames: Annotated[int | None, typer.Option(help="Frames of a window.", show_default="as trained")] = None,
    size: Annotated[int | None, typer.Option(help="Pixels of the short side.", show_default="as trained")] = None,
    precision: Annotated[str | None, typer.Option(help="fp32, bf16 or fp16.", show_default="as trained")] = None,
    workers: Annotated[int, typer.Option(help="Processes that read.")] = 2,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Measure absrel, delta1, rmse and TAE of a checkpoint, per data set and on average."""
    from dataclasses import replace

    from vdatrain import train
    from vdatrain.evaluate import EvaluationPlan, evaluate
    from vdatrain.index import read_index
    from vdatrain.live import window_bar
    from vdatrain.precision import Precision, default_device
    from vdatrain.windows import WindowShape

    clips = read_index(shards, split=split)
    model, config = train.load_model(checkpoint)
    asked = {"frames": frames, "size": size, "precision": precision}
    config = replace(config, **{name: value for name, value in asked.items() if value is not None})
    here = Precision(default_device(), config.precision)
    plan = EvaluationPlan(WindowShape(config.frames, config.stride), size=config.size, workers=workers)
    with window_bar("evaluate", total=plan.order(clips).total, console=errors) as advance:
        evaluation = evaluate(model.to(here.device), clips, plan, precision=here, on_window=advance)
    if as_json:
        sys.stdout.write(json.dumps(evaluation.to_json(), indent=2) + "\n")
    else:
        console.print(_evaluation_table(evaluation))


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


@app.command(epilog="Example: vdatrain variants --encoder vits")
def variants(encoder: Annotated[str, typer.Option(help="tiny, vits, vitb or vitl.")] = "vits") -> None:
    """List the variants with their numbers of parameters."""
    import torch

    from vdatrain import variants as known

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=f"with encoder {encoder}", title_justify="left")
    for title in ("variant", "parameters", "its own", "what it is"):
        table.add_column(title, justify="right" if title in ("parameters", "its own") else "left")
    for name in known.names():
        with torch.device("meta"):
            model = known.build(name, encoder=encoder)
        sizes = {key: value.numel() for key, value in model.named_parameters()}
        own = sum(size for key, size in sizes.items() if key.startswith(known.own_prefixes(name) or ("\0",)))
        table.add_row(name, f"{sum(sizes.values()):,}", f"{own:,}", known.summary(name))
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


def _evaluation_table(evaluation: "Evaluation") -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for title in ("data set", "windows", "absrel ↓", "delta1 ↑", "rmse m ↓", "TAE ↓", "compared", "loss ↓"):
        table.add_column(title, justify="left" if title == "data set" else "right", no_wrap=True)
    figures: dict[str, Mapping[str, Any]] = evaluation.to_json()["datasets"]
    for name, row in {**figures, "average": evaluation.average()}.items():
        table.add_row(
            name,
            str(row.get("windows", "")),
            *(f"{row[key]:.4f}" for key in ("absrel", "delta1", "rmse")),
            "no poses" if row["tae"] is None else f"{row['tae']:.4f}",
            f"{row['tae_share']:.1%}",
            f"{row['loss']:.4f}",
        )
    return table
