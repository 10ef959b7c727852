"""Settings that keep a conversion within a number of bytes: chosen once, taken up again by runs that go on with it."""

import os
import platform
import shlex
import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vdaprep.cli.options import ConversionOptions, Dataset, with_conversion_options
from vdaprep.cli.output import errors
from vdaprep.conversion.budget import Budget, fit
from vdaprep.conversion.consume import Consumption
from vdaprep.conversion.options import settings_of
from vdaprep.conversion.plan import find_raw
from vdaprep.conversion.probes import Prober
from vdaprep.conversion.repair import stored_options
from vdaprep.errors import DataError, UsageError, VdakitError
from vdaprep.raw.tree import OnListing
from vdaprep.storage.output import Output
from vdaprep.units import format_bytes

if TYPE_CHECKING:
    from vdaprep.cli.progress import Live, Summary
    from vdaprep.conversion.consume import Consumer
    from vdaprep.conversion.convert import Part
    from vdaprep.conversion.plan import Plan
    from vdaprep.conversion.saved_plan import Prepared
    from vdaprep.workers.tasks import Executor


def within_budget(
    conversion: ConversionOptions,
    dataset: str,
    *,
    budget: Budget,
    output: Output,
    on_listing: OnListing,
    on_notice: Callable[[str], None],
) -> ConversionOptions:
    """Return the options with size, quality, differences, stride and trajectories as the budget has them.

    Those of shards that are there already are kept. Raises UsageError, saying what the least would be, if nothing fits.
    """
    stored = stored_options(output, dataset=dataset)
    if stored is not None:
        on_notice(f"{output.place()}: goes on with the settings that were chosen when it was begun")
        return conversion.with_choice(*settings_of(stored, dataset=dataset))
    settings, selection = conversion.settings(), conversion.selection()
    raw = find_raw(dataset, raw=conversion.raw_of(dataset), options=settings.source, on_listing=on_listing)
    with Prober(raw.raw) as prober:
        choice = fit(raw, settings=settings, selection=selection, budget=budget, prober=prober)
    chosen = conversion.with_choice(choice.plan.settings, choice.selection)
    on_notice(f"--budget chose: {shlex.join(chosen.arguments()) or 'nothing but the defaults'}")
    return chosen


_SHOWN = 40  # of what goes and of what stays; whatever was not converted is shown all


def confirm_deletion(consumption: Consumption, *, yes: bool) -> None:
    """Show what may be deleted and what stays, and ask, unless `yes` was said.

    Raises UsageError where nobody can be asked, VdakitError if the answer is no.
    """
    _show(list(consumption.going()), "go", limit=_SHOWN)
    _show(list(consumption.going_unused()), "go")
    _show(list(consumption.staying()), "stay", limit=_SHOWN)
    if yes or not consumption.items:
        return
    what = f"{format_bytes(sum(item.bytes for item in consumption.items))} of raw data"
    if any(item.unused for item in consumption.items):
        what = f"{what} (some of it not converted)"
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UsageError(f"--consume: would delete {what} below {consumption.root}; say --yes to allow it.")
    if not typer.confirm(f"Delete {what}, each part when its shards were read back?", err=True):
        raise VdakitError("nothing was done; without --consume raw data stays.")


def _show(lines: Sequence[str], verb: str, *, limit: int | None = None) -> None:
    for line in lines[:limit]:
        errors.print(line, markup=False)
    if more := len(lines) - len(lines[:limit]):
        errors.print(f"and {more} more {verb}")


EXAMPLE = "vdaprep convert tartanair --raw raw/tartanair --out shards/ --workers 2"


class Executors(StrEnum):
    """Where processes run."""

    local = "local"
    ray = "ray"


@with_conversion_options
def command(
    dataset: Dataset,
    out: Annotated[
        str, typer.Option(help="Folder of the shards, or s3:// URL; they go into OUT/DATASET.", show_default=False)
    ],
    conversion: ConversionOptions,
    workers: Annotated[int, typer.Option(help="Processes that encode.", show_default="one a core", min=0)] = 0,
    executor: Annotated[Executors, typer.Option(help="Run on this machine, or on a Ray cluster.")] = Executors.local,
    ray_address: Annotated[
        str, typer.Option(help="The Ray cluster, as HOST:PORT.", show_default="the one that runs here")
    ] = "",
    part: Annotated[
        str, typer.Option(help="Make only part i of n, beside other jobs; --finish comes last.", metavar="i/n")
    ] = "",
    finish: Annotated[bool, typer.Option("--finish", help="Complete what --part jobs have made.")] = False,
    min_free: Annotated[
        str, typer.Option(help="Leave this much of the disk free, for example 5GB.", metavar="SIZE")
    ] = "0",
    budget: Annotated[
        str,
        typer.Option(
            help="Choose settings, as plan --budget does, so that the shards take at most this.", metavar="SIZE"
        ),
    ] = "",
    consume: Annotated[
        bool,
        typer.Option(
            "--consume", help="Delete raw data as soon as all shards made of it were read back and found whole."
        ),
    ] = False,
    consume_unused: Annotated[
        bool,
        typer.Option(
            "--consume-unused", help="With --consume: delete also archives that hold more than what is converted."
        ),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before --consume deletes anything.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit 1 if any frame was rejected.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print events as they happen, a line of JSON each.")] = False,
) -> None:
    """Convert a raw data set, straight from its archives, into shards."""
    from vdaprep.cli.progress import live
    from vdaprep.storage.output import open_output
    from vdaprep.units import parse_bytes

    chosen = _part(part, finish=finish)
    if consume and (part or finish):
        raise UsageError("--consume: goes with a whole conversion only, not with --part or --finish.")
    if consume_unused and not consume:
        raise UsageError("--consume-unused: goes with --consume, of which it says more.")
    floor = parse_bytes(min_free, "--min-free")
    limit = parse_bytes(budget, "--budget") if budget else None
    if ray_address and executor is not Executors.ray:
        raise UsageError(f"--ray-address {ray_address}: goes with --executor ray.")
    everywhere = _absolute if executor is Executors.ray else str  # other machines have other working folders
    conversion = replace(conversion, raw=everywhere(conversion.raw_of(dataset)))
    place = f"{everywhere(out).rstrip('/')}/{dataset}"
    with live(as_json=as_json) as teller:
        if limit is not None:
            conversion = _within(limit, conversion, dataset, output=open_output(place), teller=teller)
        ready = _prepare(dataset, conversion, open_output(place), teller)
        consumer = _consumer(ready, teller, unused=consume_unused, yes=yes) if consume else None
        with _executor(executor, workers=workers, ray_address=ray_address, raw=ready.plan.raw) as running:
            output = open_output(place, min_free=floor, writers=running.workers)
            if consumer is None:
                summary = _carry_out(ready.plan, chosen, finish=finish, output=output, executor=running, teller=teller)
            else:
                summary = _consume(ready.plan, consumer, output=output, executor=running, teller=teller)
        teller.on_done(summary)
        if strict and summary.rejected:
            raise VdakitError(f"{len(summary.rejected)} inputs were rejected, and --strict takes none.")


def _part(text: str, *, finish: bool) -> "Part | None":
    from vdaprep.conversion.convert import parse_part

    if not text:
        return None
    if finish:
        raise UsageError(f"--finish: completes what all parts have made; leave --part {text} out.")
    return parse_part(text)


def _absolute(place: str) -> str:
    from vdaprep.storage.urls import is_url

    return place if is_url(place) else str(Path(place).absolute())


def _within(
    limit: int, conversion: ConversionOptions, dataset: str, *, output: "Output", teller: "Live"
) -> ConversionOptions:
    from vdaprep.cli.convert import within_budget
    from vdaprep.conversion.budget import Budget

    budget = Budget(limit, on_step=lambda step: teller.on_notice(str(step)))
    return within_budget(
        conversion,
        dataset,
        budget=budget,
        output=output,
        on_listing=teller.on_listing,
        on_notice=teller.on_notice,
    )


def _prepare(dataset: str, conversion: ConversionOptions, output: "Output", teller: "Live") -> "Prepared":
    from vdaprep.conversion.saved_plan import prepare

    return prepare(
        dataset,
        raw=conversion.raw_of(dataset),
        settings=conversion.settings(),
        selection=conversion.selection(),
        output=output,
        on_listing=teller.on_listing,
    )


def _consumer(ready: "Prepared", teller: "Live", *, unused: bool, yes: bool) -> "Consumer":
    """Ask whether raw data may go; raises VdakitError if not."""
    from vdaprep.cli.convert import confirm_deletion
    from vdaprep.conversion.consume import Consumer, survey

    consumption = survey(ready, take_unused=unused)
    with teller.paused():
        confirm_deletion(consumption, yes=yes)
    return Consumer(consumption, teller.on_notice)


@contextmanager
def _executor(kind: Executors, *, workers: int, ray_address: str, raw: str) -> "Generator[Executor]":
    """Provide what runs tasks; it knows of all seek points made so far."""
    if kind is Executors.local:
        from vdaprep.workers.local import LocalExecutor

        yield LocalExecutor(workers or os.cpu_count() or 1)
        return
    from vdaprep.raw.targz import made_seek_points
    from vdaprep.workers.ray_cluster import connect

    with connect(ray_address, workers=workers, prepare=partial(_begin_elsewhere, raw, made_seek_points())) as executor:
        yield executor


def _begin_elsewhere(raw: str, seek_points: "Callable[[], None]") -> None:
    """Get ready on another machine; raises DataError if it has no raw data, whose frames would all be rejected."""
    from vdaprep.storage.urls import is_url

    if not is_url(raw) and not Path(raw).exists():
        raise DataError(
            f"{raw}: is not there, seen from {platform.node()}; processes on several machines need a --raw that all "
            "of them share: a network file system or a URL."
        )
    seek_points()


def _carry_out(
    plan: "Plan", part: "Part | None", *, finish: bool, output: "Output", executor: "Executor", teller: "Live"
) -> "Summary":
    from vdaprep.cli.progress import Summary
    from vdaprep.conversion import convert

    shards = plan.shards if part is None else part.of(plan.shards)
    teller.on_plan(plan, shards, out=output.place())
    progress = teller.heard()
    if part is not None:
        records = convert.convert_part(plan, part, output=output, executor=executor, progress=progress)
        return Summary.of_part(part, records, out=output.place(), meter=teller.meter)
    if finish:
        record = convert.finish(plan, output=output, progress=progress)
    else:
        record = convert.convert(plan, output=output, executor=executor, progress=progress)
    return Summary.of_dataset(record, out=output.place(), meter=teller.meter)


def _consume(
    plan: "Plan", consumer: "Consumer", *, output: "Output", executor: "Executor", teller: "Live"
) -> "Summary":
    from vdaprep.cli.progress import Summary
    from vdaprep.conversion.verified import convert_and_consume

    teller.on_plan(plan, plan.shards, out=output.place())
    record = convert_and_consume(plan, consumer, output=output, executor=executor, progress=teller.heard())
    teller.on_notice(consumer.summary())
    return Summary.of_dataset(record, out=output.place(), meter=teller.meter)
