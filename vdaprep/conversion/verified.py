"""Shards made and read back from the disk, for those who delete or replace something on the strength of it."""

import contextlib
import os
from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from vdaprep.analysis.verify_shard import check_shard
from vdaprep.conversion.clips import PlannedShard
from vdaprep.conversion.consume import Consumer
from vdaprep.conversion.convert import (
    ConversionProgress,
    ShardTask,
    encode_shard,
    expect_here,
    take_over,
    write_dataset_record,
)
from vdaprep.conversion.plan import Plan
from vdaprep.conversion.saved_plan import refuse_lost, save_plan
from vdaprep.errors import ShardError
from vdaprep.shards.records import DatasetRecord, ShardRecord
from vdaprep.storage.output import Output
from vdaprep.storage.paths import open_path
from vdaprep.workers.tasks import Executor, Listener, Tick


@dataclass(frozen=True)
class _Job:
    """A shard to make and read back; only to read back if it has a record."""

    task: ShardTask
    record: ShardRecord | None

    def __str__(self) -> str:
        return str(self.task)


def make_verified(
    plan: Plan,
    shards: Iterable[PlannedShard],
    records: Mapping[str, ShardRecord],
    *,
    output: Output,
    executor: Executor,
    progress: ConversionProgress,
) -> Generator[tuple[str, ShardRecord]]:
    """Yield name and record of each shard, made if it has none in `records`, when it was read back and found whole.

    Raises what `convert` does, ShardError for a shard that is not whole, DataError if raw data it needs is gone.
    """
    jobs = [_Job(ShardTask(replace(plan, shards=()), output, shard), records.get(shard.name)) for shard in shards]
    refuse_lost(plan, [job.task.shard for job in jobs if job.record is None])
    listener = Listener(on_tick=progress.on_work, on_notice=progress.on_notice)
    with contextlib.closing(executor.run(_make_and_reread, jobs, listener)) as results:
        for name, record in results:
            if name not in records:
                expect_here(output, name, record)
                progress.on_shard(name, record, False)
            yield name, record


def _make_and_reread(job: _Job, tick: Tick) -> tuple[str, ShardRecord]:
    name, record = (job.task.shard.name, job.record) if job.record is not None else encode_shard(job.task, tick)
    _reread(job.task.output, name, record)
    return name, record


def _reread(output: Output, name: str, record: ShardRecord) -> None:
    """Read a shard back from disk or store, every member; raises ShardError if it is not what its record says."""
    tar = open_path(output.place(name))
    if isinstance(tar, Path):
        with tar.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)  # what lies in memory proves nothing
    checked = check_shard(tar, deep=True, on_frames=lambda count: None)
    if checked.findings:
        raise ShardError(f"{checked.findings[0]} Found when it was read back; vdaprep repair makes it anew.")
    if checked.record != record:
        raise ShardError(f"{tar}: its record is not the one that was written; vdaprep repair makes it anew.")


def convert_and_consume(
    plan: Plan, consumer: Consumer, *, output: Output, executor: Executor, progress: ConversionProgress
) -> DatasetRecord:
    """Do what `convert` does, and delete raw data as its shards are found whole; the plan is saved before.

    Raises what `convert` does; ShardError if a shard is not whole, before anything that it was made of is deleted.
    """
    with output.lock():
        records = take_over(plan, plan.shards, output, progress)
        save_plan(plan, output)
        wanted = [shard for shard in plan.shards if shard.name not in records or consumer.waits_for(shard.name)]
        planned = {shard.name: shard for shard in plan.shards}
        made = make_verified(plan, consumer.order(wanted), records, output=output, executor=executor, progress=progress)
        with contextlib.closing(made):
            for name, record in made:
                records[name] = record
                consumer.on_whole(planned[name], record)
        return write_dataset_record(plan, output, records)
