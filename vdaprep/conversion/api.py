"""Plan, convert and repair: public functions, and `convert_dataset` for the command."""

import os
import platform
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from vdaprep.analysis.picture import Picture, look
from vdaprep.analysis.verify import count_frames
from vdaprep.conversion.account import Account, take_account
from vdaprep.conversion.budget import choose
from vdaprep.conversion.consume import Consumer, Consumption, convert_and_consume, survey
from vdaprep.conversion.convert import Part, convert_part, convert_plan, finish_parts, parse_part
from vdaprep.conversion.options import ConversionOptions, RunOptions, settings_of
from vdaprep.conversion.plan import ConversionPlan, find_raw
from vdaprep.conversion.probes import Prober
from vdaprep.conversion.repair import Diagnosis, options_for_repair, plan_again, repair_shards, stored_options
from vdaprep.conversion.saved_plan import prepare
from vdaprep.errors import DataError, UsageError, VdakitError
from vdaprep.raw.archives.targz import made_seek_points
from vdaprep.raw.tree import OnListing
from vdaprep.shards.names import FINISHED_FILES
from vdaprep.shards.records import DatasetRecord, Rejection, ShardRecord, totals
from vdaprep.sources import _manifest
from vdaprep.storage.output import OutputDir, open_output
from vdaprep.storage.urls import is_url
from vdaprep.units import parse_bytes
from vdaprep.workers.local import LocalExecutor
from vdaprep.workers.progress import Amount, OnProgress, ProgressEvent, ignore
from vdaprep.workers.tasks import Executor

_MANY = 100  # trajectories that take some ten seconds to look at


def plan(dataset: str, *, raw: str | Path, on_progress: OnProgress = ignore, **options: Any) -> ConversionPlan:
    """Decide which frames of a raw data set go into which shard; no frame is read.

    Args:
        dataset: Name of a data set, as `vdaprep datasets` lists them.
        raw: Folder of the download, unpacked or not, or URLs of its archives, by commas.
        on_progress: Receives `listing` while archives are listed.
        options: Fields of ConversionOptions, for example short_side=540 (pixels), clip_frames=64.

    Returns:
        The clips of each shard, and the files and settings that they are made from, as `convert` takes it.

    Raises:
        DataError: there is nothing to convert; says what was looked for and how to get it.
        UsageError: an option is out of range.
    """
    chosen = ConversionOptions(raw=str(raw), **options).for_dataset(dataset)
    settings, selection = chosen.settings(), chosen.selection()
    found = find_raw(
        dataset, raw=str(raw), options=settings.source, selection=selection, on_listing=_listing(on_progress)
    )
    return found.plan(settings, selection)


def convert(
    plan: ConversionPlan, *, out: str | Path, workers: int | None = None, on_progress: OnProgress = ignore
) -> DatasetRecord:
    """Carry a plan out here, into OUT/DATASET; shards that are finished are kept.

    Args:
        plan: What to convert.
        out: Folder of the shards, or s3:// URL.
        workers: Processes that encode; None: one per core. More than one needs a main module that can be imported.
        on_progress: Called with every ProgressEvent.

    Returns:
        What `dataset.json` holds: totals, shards and rejected inputs.

    Raises:
        UsageError: what is there was made with other options or from other frames, or is being written by another
            process.
        DataError: no frame can be used.
        OutputError: a shard cannot be written, as when the disk is full.
        WorkerError: processes die again and again.
    """
    executor = LocalExecutor(workers or os.cpu_count() or 1)
    output = open_output(f"{str(out).rstrip('/')}/{plan.dataset}", writers=executor.workers)
    return convert_plan(plan, output=output, executor=executor, on_progress=on_progress)


def repair(  # noqa: PLR0913 - the options of the command
    dataset: str,
    *,
    out: str | Path,
    workers: int | None = None,
    remove_extra: bool = False,
    retry_rejected: bool = False,
    break_lock: bool = False,
    on_progress: OnProgress = ignore,
    **options: Any,
) -> Diagnosis:
    """Make again, from raw data, only those shards of OUT/DATASET that are broken or missing.

    Args:
        dataset: Name of a data set.
        out: Folder of the shards, or s3:// URL, as `convert` was given.
        workers: Processes that encode; None: one per core.
        remove_extra: Delete shards that do not belong there; otherwise they are only reported.
        retry_rejected: Make those shards again, too, that lost frames.
        break_lock: Take the lock of an object store from a process that is known to be dead.
        on_progress: Called with every ProgressEvent.
        options: Fields of ConversionOptions: `raw`, and others only if no intact shard holds them.

    Returns:
        What was found; nothing was written if it has no findings.

    Raises:
        UsageError: the shards were made with other options, or from other raw data.
        DataError: the raw data of broken shards is not there.
        ShardError: what was made is not what `dataset.json` lists.
    """
    executor = LocalExecutor(workers or os.cpu_count() or 1)
    output = open_output(f"{str(out).rstrip('/')}/{dataset}", writers=executor.workers, break_lock=break_lock)
    folder = output.path()
    names = output.names(*FINISHED_FILES)
    if not (folder.is_dir() if isinstance(folder, Path) else names):
        raise UsageError(f"{folder}: there is no such folder; vdaprep convert makes it.")
    chosen = ConversionOptions(**options)
    settings, selection = options_for_repair(chosen, output, dataset, given=options)
    total = Amount(frames=count_frames([folder]) if names else 0)
    on_progress(ProgressEvent("checking", amount=total))
    return repair_shards(
        output,
        lambda: plan_again(dataset, raw=chosen.raw_of(dataset), settings=settings, selection=selection, output=output),
        executor=executor,
        remove_extra=remove_extra,
        retry_rejected=retry_rejected,
        on_progress=on_progress,
    )


@dataclass(frozen=True)
class ConversionResult:
    """What a conversion, or a part of it, has made."""

    out: str
    """Folder or URL of the data set's shards."""
    part: Part | None
    """The part that was made; None: all."""
    shards: int
    """Number of shards."""
    totals: Mapping[str, Any]
    """Counts of frames, clips and bytes, as in `dataset.json`."""
    rejected: tuple[Rejection, ...]
    """Inputs that could not be used."""
    account: Account | None = None
    """What became of every file of the raw data; None if that is gone."""
    pictures: tuple[Picture, ...] = ()
    """What each trajectory looks like as a whole; none of a part, or where that was left out."""


def convert_dataset(
    dataset: str,
    *,
    out: str,
    options: ConversionOptions,
    run: RunOptions | None = None,
    confirm_deletion: Callable[[Consumption], None] = lambda consumption: None,
    on_progress: OnProgress = ignore,
) -> ConversionResult:
    """Convert a raw data set into OUT/DATASET: all that `vdaprep convert` does.

    Args:
        dataset: Name of a data set.
        out: Folder of the shards, or s3:// URL.
        options: What to convert, and how.
        run: Where and how far; None: all of it, on this machine.
        confirm_deletion: Called with what `run.consume` would delete; raises to refuse.
        on_progress: Called with every ProgressEvent; the last is `done`, whose facts hold the result.

    Raises:
        VdakitError: as `convert`; also if `run.strict` and an input was rejected or is nothing that is known.
    """
    run = run or RunOptions()
    part = parse_part(run.part) if run.part else None
    floor = parse_bytes(run.min_free, "--min-free")
    limit = parse_bytes(run.budget, "--budget") if run.budget else None
    everywhere = _absolute if run.executor == "ray" else str  # other machines have other working folders
    options = replace(options.for_dataset(dataset), raw=everywhere(options.raw_of(dataset)))
    place = f"{everywhere(out).rstrip('/')}/{dataset}"
    if limit is not None:
        options = _within_budget(limit, options, dataset, output=open_output(place), on_progress=on_progress)
    ready = prepare(
        dataset,
        raw=options.raw_of(dataset),
        settings=options.settings(),
        selection=options.selection(),
        output=open_output(place),
        on_listing=_listing(on_progress),
    )
    consumer = None
    if run.consume:
        consumption = survey(ready, take_unused=run.consume_unused)
        confirm_deletion(consumption)
        consumer = Consumer(consumption, lambda sentence: on_progress(ProgressEvent("notice", sentence)))
    with _executor(run, raw=ready.plan.raw) as executor:
        output = open_output(place, min_free=floor, writers=executor.workers, break_lock=run.break_lock)
        if part is not None:
            records = convert_part(ready.plan, part, output=output, executor=executor, on_progress=on_progress)
            result = _result_of_part(part, records, output)
        else:
            if run.finish:
                record = finish_parts(ready.plan, output=output, on_progress=on_progress)
            else:
                record = _convert_all(ready.plan, consumer, output=output, executor=executor, on_progress=on_progress)
            pictures = _pictures(record, output, on_progress) if run.check else ()
            result = ConversionResult(
                output.place(), None, len(record.shards), record.totals, record.rejected, pictures=pictures
            )
    if ready.found is not None:
        result = replace(result, account=take_account(ready.found, ready.plan))
    on_progress(ProgressEvent("done", facts={"result": result}))
    if run.strict:
        _refuse_losses(result)
    return result


def _refuse_losses(result: ConversionResult) -> None:
    """Raise VdakitError if an input was rejected or is nothing that is known."""
    losses = [f"{len(result.rejected)} inputs were rejected"] if result.rejected else []
    losses += result.account.complaints() if result.account is not None else []
    if losses:
        raise VdakitError(f"{'; '.join(losses)}, and --strict takes none.")


def _convert_all(
    plan: ConversionPlan, consumer: Consumer | None, *, output: OutputDir, executor: Executor, on_progress: OnProgress
) -> DatasetRecord:
    if consumer is None:
        return convert_plan(plan, output=output, executor=executor, on_progress=on_progress)
    record = convert_and_consume(plan, consumer, output=output, executor=executor, on_progress=on_progress)
    on_progress(ProgressEvent("notice", consumer.summary()))
    return record


def _pictures(record: DatasetRecord, output: OutputDir, on_progress: OnProgress) -> tuple[Picture, ...]:
    tars = [output.path(f"{shard.split}/{shard.name}") for shard in record.shards if shard.frames]
    count = sum(map(len, record.splits.values()))
    if count >= _MANY:
        on_progress(ProgressEvent("notice", f"looking at {count} trajectories as a whole; --no-check leaves that out"))
    return tuple(look(record.dataset, tars, takes_unit=_manifest.load(record.dataset).takes_depth_unit))


def _result_of_part(part: Part, records: list[ShardRecord], output: OutputDir) -> ConversionResult:
    rejected = tuple(item for record in records for item in record.rejected)
    return ConversionResult(output.place(), part, len(records), totals(records), rejected)


def _listing(on_progress: OnProgress) -> OnListing:
    return lambda archive, done, size: on_progress(
        ProgressEvent("listing", archive, facts={"bytes": done, "total_bytes": size})
    )


def _within_budget(
    limit: int, options: ConversionOptions, dataset: str, *, output: OutputDir, on_progress: OnProgress
) -> ConversionOptions:
    """Return the options with what the budget chose: size, quality, stride and the like.

    Those of shards that are there already are kept. Raises UsageError, saying what the least would be, if nothing fits.
    """
    stored = stored_options(output, dataset=dataset)
    if stored is not None:
        notice = f"{output.place()}: goes on with the settings that were chosen when it was begun"
        on_progress(ProgressEvent("notice", notice))
        return options.with_choice(*settings_of(stored, dataset=dataset))
    source = options.settings().source
    place = options.raw_of(dataset)
    raw = find_raw(
        dataset,
        raw=place,
        options=source,
        selection=options.selection(),
        on_listing=_listing(on_progress),
        output=output.path(),
    )

    def probed(frames: int) -> None:
        on_progress(ProgressEvent("probe", amount=Amount(frames=frames)))

    with Prober(raw.raw, on_frames=probed) as prober:
        choice = choose(raw, options, prober=prober, budget=limit, on_progress=on_progress)
    chosen = options.with_choice(choice.plan.settings, choice.selection)
    on_progress(ProgressEvent("chosen", facts={"options": chosen}))
    return chosen


def _absolute(place: str) -> str:
    return place if is_url(place) else str(Path(place).absolute())


@contextmanager
def _executor(run: RunOptions, *, raw: str) -> Generator[Executor]:
    """Provide what runs tasks."""
    if run.executor == "local":
        yield LocalExecutor(run.workers or os.cpu_count() or 1)
        return
    from vdaprep.workers.ray_cluster import connect

    prepare = partial(_prepare_node, raw, made_seek_points())
    with connect(run.ray_address, workers=run.workers, prepare=prepare) as executor:
        yield executor


def _prepare_node(raw: str, seek_points: Callable[[], None]) -> None:
    """Prepare a Ray worker: check that raw data is visible, install gzip seek points."""
    if not is_url(raw) and not Path(raw).exists():
        raise DataError(
            f"{raw}: is not there, seen from {platform.node()}; processes on several machines need a --raw that all "
            "of them share: a network file system or a URL."
        )
    seek_points()
