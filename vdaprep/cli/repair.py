"""The command `vdaprep repair`."""

import os
from contextlib import ExitStack
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, no_type_check

import typer

from vdaprep.cli.options import ConversionOptions, Dataset, with_conversion_options
from vdaprep.cli.output import console
from vdaprep.errors import ShardError, UsageError, VdakitError

if TYPE_CHECKING:
    from vdaprep.conversion.options import Selection, Settings
    from vdaprep.conversion.plan import Plan
    from vdaprep.conversion.repair import Diagnosis
    from vdaprep.storage.output import Output


EXAMPLE = "vdaprep repair tartanair --raw raw/tartanair --out shards/"

_KEYS = {"no_diffs": "diff", "diff_scale": "diff", "depth_error": "depth"}  # where records call an option otherwise


@with_conversion_options
@no_type_check  # what typer passes as a typer.Context is none
def command(
    context: typer.Context,
    dataset: Dataset,
    out: Annotated[str, typer.Option(help="Folder or URL of the shards, as convert was given.", show_default=False)],
    conversion: ConversionOptions,
    workers: Annotated[int, typer.Option(help="Processes that encode.", show_default="one a core", min=0)] = 0,
    remove_extra: Annotated[
        bool, typer.Option("--remove-extra", help="Delete shards that do not belong there; else they are named.")
    ] = False,
    retry_rejected: Annotated[
        bool, typer.Option("--retry-rejected", help="Also make those anew that lost frames, if raw files are good now.")
    ] = False,
) -> None:
    """Make anew, from raw data, only those shards that verify --deep finds wrong or missing.

    Options are read from what is there; giving them again is not needed.
    """
    from vdaprep.analysis.verify import count_frames
    from vdaprep.cli.output import frame_bar
    from vdaprep.conversion.convert import ConversionProgress
    from vdaprep.conversion.repair import Watch, Wishes, repair
    from vdaprep.storage.output import open_output
    from vdaprep.storage.paths import open_path
    from vdaprep.workers.local import LocalExecutor

    workers = workers or os.cpu_count() or 1
    output = open_output(f"{out.rstrip('/')}/{dataset}", writers=workers)
    folder = open_path(output.place())
    if not (folder.is_dir() if isinstance(folder, Path) else output.names()):
        raise UsageError(f"{folder}: there is no such folder; vdaprep convert makes it.")
    settings, selection = _choice(conversion, output, dataset, given=_given(context))
    raw = conversion.raw_of(dataset)
    frames = count_frames([folder]) if output.names() else 0
    with ExitStack() as shown:
        bar = shown.enter_context(frame_bar("verify", total=frames))

        def tell(found: "Diagnosis") -> None:
            nonlocal bar
            shown.close()
            _print(found)
            bar = shown.enter_context(frame_bar("repair", total=sum(shard.num_frames for shard in found.broken)))

        progress = ConversionProgress(
            on_work=lambda amount: bar.advance(amount.frames), on_notice=lambda sentence: bar.notice(sentence)
        )
        found = repair(
            output,
            lambda: _plan(dataset, raw, settings, selection, output),
            executor=LocalExecutor(workers),
            watch=Watch(lambda count: bar.advance(count), tell, progress),
            wishes=Wishes(remove_extra, retry_rejected),
        )
    _conclude(found, output, remove_extra=remove_extra)


def _choice(
    conversion: ConversionOptions, output: "Output", dataset: str, *, given: list[str]
) -> "tuple[Settings, Selection]":
    """Return the options that the shards were made with; raises UsageError if others were given."""
    from vdaprep.conversion.options import options_of, settings_of
    from vdaprep.conversion.repair import stored_options
    from vdaprep.sources import _manifest

    stored = stored_options(output, dataset=dataset)
    if stored is None:
        return conversion.settings(), conversion.selection()
    said: dict[str, Any] = options_of(conversion.settings(), conversion.selection(), _manifest.load(dataset))
    for name in given:
        key = _KEYS.get(name, name)
        if said.get(key) != stored.get(key):
            raise UsageError(
                f"--{name.replace('_', '-')}: the shards in {output.place()} were made with {key} = {stored.get(key)}; "
                "leave the option out."
            )
    return settings_of(stored, dataset=dataset)


@no_type_check
def _given(context: typer.Context) -> list[str]:
    """Name the options of the conversion, but for --raw, that stand on the command line."""
    sources = {item.name: context.get_parameter_source(item.name) for item in fields(ConversionOptions)}
    return sorted(name for name, of in sources.items() if name != "raw" and of and of.name == "COMMANDLINE")


def _plan(dataset: str, raw: str, settings: "Settings", selection: "Selection", output: "Output") -> "Plan":
    from vdaprep.conversion.plan import make_plan
    from vdaprep.conversion.saved_plan import prepare

    try:
        return prepare(dataset, raw=raw, settings=settings, selection=selection, output=output).plan
    except ShardError:  # the saved plan is damaged: if all raw data is still there, it is made anew
        return make_plan(dataset, raw=raw, settings=settings, selection=selection)


def _print(found: "Diagnosis") -> None:
    for item in found.findings:
        console.print(str(item), markup=False, highlight=False, soft_wrap=True)


def _conclude(found: "Diagnosis", output: "Output", *, remove_extra: bool) -> None:
    if not found.findings:
        console.print(f"{output.place()}: all is well, nothing was written", highlight=False, soft_wrap=True)
        return
    names = ", ".join(shard.name for shard in found.broken) or "no shard"
    console.print(f"{output.place()}: made anew and read back: {names}", highlight=False, soft_wrap=True)
    if found.extra and not remove_extra:
        raise VdakitError(
            f"{', '.join(output.place(name) for name in found.extra)}: not part of this data set; "
            "--remove-extra deletes what does not belong there."
        )
