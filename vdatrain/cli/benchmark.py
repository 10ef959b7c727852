"""The command `vdatrain benchmark`."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.table import Table as Printed

from vdaprep.cli.options import cli_options
from vdaprep.cli.views.output import console, errors, frame_bar, is_quiet, make_table, print_json, show
from vdaprep.errors import UsageError
from vdatrain.cli.model import ModelOptions

if TYPE_CHECKING:
    from vdatrain.evaluation.benchmark.table import Table

EXAMPLE = "vdatrain benchmark --checkpoint runs/conv/best.pt --shards benchmark/ --out results/conv"
_SENTENCES_SHOWN = 20
_MAX_NAME = 200
_MODEL_WIDTH, _SET_WIDTH = 16, 18  # of columns on a terminal, the least


@cli_options(ModelOptions)
def command(
    shards: Annotated[
        str, typer.Option(help="What vdaprep convert wrote, or its URL; several with commas.", metavar="DIR")
    ],
    out: Annotated[Path, typer.Option(help="Results and tables; run again, it goes on.", metavar="FOLDER")],
    model: ModelOptions,
    protocol: Annotated[
        Literal["vda", "vda-short", "vda-legacy", "monst3r"],
        typer.Option(help="What is measured; vda-legacy has the faults of the published scripts."),
    ] = "vda",
    sets: Annotated[list[str] | None, typer.Option(help="Only these; repeatable.", metavar="SET")] = None,
    stream: Annotated[bool, typer.Option("--stream", help="Frame by frame: none sees a later one.")] = False,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Measure what there is of the protocol's data, and mark it.")
    ] = False,
    name: Annotated[str | None, typer.Option(help="The model's in tables.", show_default="the file's")] = None,
    stall_timeout: Annotated[float, typer.Option(help="Seconds until a read counts as stalled; 0: never.")] = 300.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the tables as JSON.")] = False,
) -> None:
    """Measure a model as published benchmarks do, beside published figures.

    Sets are sintel, kitti, bonn, scannet and nyuv2; convert each with --for benchmark. On all GPUs of a machine:
    torchrun --nproc-per-node 8 -m vdatrain benchmark ...; each measures scenes of its own.
    """
    from vdaprep.shards.dataset import as_paths, open_shards
    from vdaprep.storage.atomic import check_output_folder
    from vdatrain.distributed.ranks import process_group
    from vdatrain.evaluation.benchmark.results import write_ledger
    from vdatrain.evaluation.benchmark.run import choose_protocol, find_benchmark, ledger_of, run_benchmark
    from vdatrain.evaluation.benchmark.scenes import sentences
    from vdatrain.evaluation.benchmark.table import make_table, to_json, write_tables

    if name is not None and not 0 < len(name) <= _MAX_NAME:
        raise UsageError(f"--name: has {len(name)} characters, expected 1 to {_MAX_NAME}.")
    chosen = choose_protocol(protocol, sets or ())
    check_output_folder(out, inputs=[*as_paths(shards), model.checkpoint])
    with process_group() as ranks:
        found = find_benchmark(chosen, open_shards(shards), allow_missing=allow_missing, stall_timeout_s=stall_timeout)
        predictor = model.load()
        with frame_bar("benchmark", total=found.num_frames if ranks.world == 1 else None) as bar:
            results = run_benchmark(
                found, predictor, out=out, stream=stream, ranks=ranks, on_frame=bar.advance
            )  # fmt: skip
        if not ranks.is_first:
            return
        remarks = ledger_of(found, results, predictor)
        called = name or _name_of(predictor.origin, model.checkpoint, stream=stream)
        table = make_table(chosen, results, remarks, model=called, metric=predictor.metric)
        write_tables(out, table, results)
        write_ledger(out, remarks)
    if as_json:
        print_json(to_json(table, results))
    else:
        show([*_printed(table), *table.foot(), _detail(table)])
    if not is_quiet():
        for sentence in sentences(remarks)[:_SENTENCES_SHOWN]:
            errors.print(sentence)
        errors.print(f"{out}: table.md, table.csv, table.json; ledger.json has all {len(remarks)} remarks")


def _name_of(origin: Mapping[str, Any], checkpoint: Path, *, stream: bool) -> str:
    """Return what a table calls the model: variant and encoder of a run, or the weights' file."""
    config = origin.get("config")
    name = f"{config['variant']} {config['encoder']}" if config else checkpoint.stem
    return f"{name}, streaming" if stream else name


def _printed(table: "Table") -> list[Printed]:
    """Lay the table out for a terminal: a column a set, in several tables if they do not fit.

    Sources are in the files.
    """
    keys = list(dict.fromkeys(key for key, _ in table.columns))
    fitting = max(1, (console.width - _MODEL_WIDTH) // _SET_WIDTH) if console.is_terminal else len(keys)
    most = math.ceil(len(keys) / math.ceil(len(keys) / fitting))
    return [_part(table, keys[first : first + most]) for first in range(0, len(keys), most)]


def _part(table: "Table", keys: list[str]) -> Printed:
    """Lay out some sets of the table."""
    columns = {key: [column for column in table.columns if column[0] == key] for key in keys}
    titles = {item.key: item.title for item in table.protocol.sets}
    printed = make_table("model", *(titles[key] for key in keys), title="absrel ↓ and delta1 ↑, or TAE ↓")
    for row in table.rows:
        if row is table.rows[-1]:
            printed.add_section()
        printed.add_row(row.model, *(_joined([table.text_of(row, column) for column in columns[key]]) for key in keys))
    return printed


def _joined(texts: list[str]) -> str:
    """Write a set's figures side by side, its mark once."""
    if set(texts) == {"-"}:
        return "-"
    figures = [text.partition(" ")[0] for text in texts]
    marks = {text.partition(" ")[2] for text in texts} - {""}
    return " ".join(["  ".join(figures), *marks])


def _detail(table: "Table") -> Printed:
    printed = make_table("set", "scenes", "frames", "rmse m ↓", "TAE ↓", "of pixels", "s / 500 frames")
    for item in table.summaries:
        rmse, tae = ("-" if value is None else f"{value:.4f}" for value in (item.rmse, item.tae))
        printed.add_row(
            item.title, f"{item.scenes} of {item.scenes_expected}", str(item.frames), rmse, tae,
            "-" if item.tae is None else f"{item.tae_share:.1%}", f"{item.seconds_per_500_frames:.1f}",
        )  # fmt: skip
    return printed
