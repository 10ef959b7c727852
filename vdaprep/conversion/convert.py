"""Carry out a plan: encode the shards that are missing, then write `dataset.json`."""

import contextlib
import os
import time
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from vdaprep import sources
from vdaprep.analysis.verify_shard import check_shard, made_again
from vdaprep.conversion.clips import PlannedShard
from vdaprep.conversion.encode.encoder import ClipEncoder
from vdaprep.conversion.plan import ConversionPlan
from vdaprep.conversion.saved_plan import compare_options, refuse_another_plan, refuse_lost
from vdaprep.errors import DataError, OutputError, ShardError, UsageError
from vdaprep.raw.tree import Reader
from vdaprep.shards import writer
from vdaprep.shards.names import DATASET_FILE, FINISHED_FILES, PLAN_FILE, record_name
from vdaprep.shards.records import DatasetRecord, Rejection, ShardRecord, summary_of, totals
from vdaprep.shards.writer import EncodedClip
from vdaprep.sources import _manifest
from vdaprep.storage.output import OutputDir, write_file
from vdaprep.storage.urls import redact
from vdaprep.workers.progress import Amount, OnProgress, ProgressEvent, ignore
from vdaprep.workers.tasks import Executor, Tick


def write_dataset_record(plan: ConversionPlan, output: OutputDir, records: dict[str, ShardRecord]) -> DatasetRecord:
    """Write `dataset.json`; raises DataError if the shards hold no frame."""
    _expect_frames(plan, output, records)
    result = summarise(plan, [records[shard.name] for shard in plan.shards])
    data = result.to_bytes()
    if output.size(DATASET_FILE) is None or output.read(DATASET_FILE) != data:
        write_file(output, DATASET_FILE, data)
    return result


def summarise(plan: ConversionPlan, records: list[ShardRecord]) -> DatasetRecord:
    """Return what `dataset.json` holds of a plan whose shards have these records."""
    summaries = [summary_of(shard.split, record) for shard, record in zip(plan.shards, records, strict=True)]
    rejected = [*plan.rejected, *(item for record in records for item in record.rejected)]
    return DatasetRecord(
        dataset=plan.dataset,
        source=_source(plan),
        options=plan.options,
        splits=plan.splits,
        totals=totals(records),
        shards=tuple(summaries),
        rejected=tuple(rejected),
        schema_version=plan.settings.schema,
    )


def _source(plan: ConversionPlan) -> dict[str, Any]:
    facts = _manifest.load(plan.dataset)
    terms = facts.terms({clip.trajectory.layout for shard in plan.shards for clip in shard.clips})
    source = {
        "title": facts.title,
        "home": facts.home,
        "licence": terms.licence,
        "evaluation_max_m": facts.evaluation_max_m,
    }
    if plan.settings.schema == 1:  # whose documents stay as they were
        return {**source, "licence": facts.licence}
    return {**source, "citation": terms.citation, "commercial": terms.commercial}


def _expect_frames(plan: ConversionPlan, output: OutputDir, records: dict[str, ShardRecord]) -> None:
    """Raise DataError if no frame can be used, and delete the empty shards."""
    if any(record.clips for record in records.values()):
        return
    for name in records:
        output.delete(record_name(name))
        output.delete(name)
    if output.size(PLAN_FILE) is not None:
        output.delete(PLAN_FILE)
    rejected = [item for record in records.values() for item in record.rejected]
    first = f"{rejected[0].file} {rejected[0].reason}" if rejected else "no reason is known"
    raise DataError(f"{redact(plan.raw)}: none of {plan.num_frames} frames can be used; the first: {first}.")


def _refuse_other_plans(plan: ConversionPlan, output: OutputDir) -> None:
    """Raise UsageError if what is there has other options, or shards outside the plan."""
    names = output.names(*FINISHED_FILES)
    if DATASET_FILE in names:
        where = output.place(DATASET_FILE)
        with _repair_helps(plan):
            record = DatasetRecord.from_bytes(output.read(DATASET_FILE), where=where)
        compare_options(where, record.options, plan)
    planned = {shard.name for shard in plan.shards}
    for name in (name for name in names if name.endswith(".tar") and name not in planned):
        raise UsageError(
            f"{output.place(name)}: is there but not in this run's plan; choose another --out, "
            f"or delete {output.place()}."
        )


def _finished_record(plan: ConversionPlan, shard: PlannedShard, output: OutputDir) -> ShardRecord | None:
    name = record_name(shard.name)
    if output.size(name) is None:
        return None
    where = output.place(name)
    with _repair_helps(plan):
        record = ShardRecord.from_bytes(output.read(name), where=where)
    compare_options(where, record.options, plan)
    if record.plan != shard.fingerprint():
        raise UsageError(
            f"{where}: was made from other frames than {redact(plan.raw)} holds now; choose another --out."
        )
    size = output.size(shard.name)
    if size != record.tar_bytes:
        found = "is missing" if size is None else f"has {size} bytes"
        raise ShardError(
            f"{output.place(shard.name)}: {found}, its record says {record.tar_bytes}; "
            f"vdaprep repair {plan.dataset} makes it again."
        )
    return record


@contextlib.contextmanager
def _repair_helps(plan: ConversionPlan) -> Generator[None]:
    try:
        yield
    except ShardError as error:
        raise ShardError(f"{error} vdaprep repair {plan.dataset} makes it again.") from error


@dataclass(frozen=True)
class ShardTask:
    """A shard to make."""

    plan: ConversionPlan
    """The plan, without its shards."""
    output: OutputDir
    """Where it is written."""
    shard: PlannedShard
    """The clips that it is to hold."""

    def __str__(self) -> str:
        return self.output.place(self.shard.name)


def encode_shard(task: ShardTask, tick: Tick) -> tuple[str, ShardRecord]:
    """Encode and write a shard, ticking frames and bytes. Returns its name and its record."""
    plan, shard = task.plan, task.shard
    rejected: list[Rejection] = []
    with Reader(plan.raw) as reader:
        encoder = ClipEncoder(
            dataset=plan.dataset,
            source=sources.load(plan.dataset),
            reader=reader,
            options=plan.settings.source,
            encoding=plan.settings.encoding(_manifest.load(plan.dataset)),
        )
        ticks = _Ticks(reader, tick)
        clips = (
            ticks.counted(encoded)
            for clip in shard.clips
            for encoded in encoder.encode(clip, split=shard.split, rejected=rejected, on_frame=ticks.frame)
        )
        record = writer.write_shard(
            task.output,
            shard.name,
            clips,
            options=plan.options,
            plan=shard.fingerprint(),
            rejected=rejected,
        )
        ticks.written(record.tar_bytes)
    return shard.name, record


class _Ticks:
    """Reports the work of a shard: frames, the bytes read for them, the bytes of clips."""

    def __init__(self, reader: Reader, tick: Tick) -> None:
        self._reader = reader
        self._tick = tick
        self._in = 0
        self._out = 0

    def frame(self) -> None:
        """Report a frame."""
        before, self._in = self._in, self._reader.bytes_read
        self._tick(Amount(frames=1, bytes_in=self._in - before))

    def counted(self, clip: EncodedClip) -> EncodedClip:
        """Report a clip's bytes; what the tar adds is reported in the end."""
        self.written(self._out + sum(len(data) for frame in clip.frames for _, data in frame))
        return clip

    def written(self, total: int) -> None:
        """Report the bytes beyond those reported before."""
        self._tick(Amount(bytes_out=total - self._out))
        self._out = total


_LOOKS_S = (0.0, 0.5, 2.0, 5.0)  # pauses before another look for a shard that another machine made


@dataclass(frozen=True)
class Part:
    """A part of a plan: every `count`-th shard."""

    number: int
    """Which part, from 1."""
    count: int
    """Number of parts."""

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count:
            raise UsageError(f"--part {self.number}/{self.count}: expected i/n with i from 1 to n, for example 1/4.")

    def __str__(self) -> str:
        return f"{self.number}-of-{self.count}"

    def of(self, planned: tuple[PlannedShard, ...]) -> tuple[PlannedShard, ...]:
        """Return the shards of this part."""
        return planned[self.number - 1 :: self.count]


def parse_part(text: str) -> Part:
    """Return what `--part i/n` says; raises UsageError."""
    number, slash, count = text.partition("/")
    if not (slash and number.isdecimal() and count.isdecimal()):
        raise UsageError(f"--part {text}: expected i/n with i from 1 to n, for example 1/4.")
    return Part(int(number), int(count))


def convert_plan(
    plan: ConversionPlan, *, output: OutputDir, executor: Executor, on_progress: OnProgress = ignore
) -> DatasetRecord:
    """Carry a plan out; finished shards are kept, `dataset.json` comes last.

    Raises UsageError if what is there was made with other options or from other frames, or if another process is
    writing there; DataError if no frame can be used; OutputError if the disk is full; WorkerError if processes die.
    """
    announce(plan, plan.shards, output, on_progress)
    with output.lock():
        records = _encode_missing(plan, plan.shards, output=output, executor=executor, on_progress=on_progress)
        return write_dataset_record(plan, output, records)


def convert_part(
    plan: ConversionPlan, part: Part, *, output: OutputDir, executor: Executor, on_progress: OnProgress = ignore
) -> list[ShardRecord]:
    """Carry a part of a plan out, beside other parts; `finish_parts` then writes `dataset.json`.

    Raises what `convert_plan` does.
    """
    mine = part.of(plan.shards)
    announce(plan, mine, output, on_progress)
    with output.lock(part=str(part)):
        records = _encode_missing(plan, mine, output=output, executor=executor, on_progress=on_progress)
    return [records[shard.name] for shard in mine]


def finish_parts(plan: ConversionPlan, *, output: OutputDir, on_progress: OnProgress = ignore) -> DatasetRecord:
    """Write `dataset.json` over what parts made; raises UsageError if shards are missing."""
    announce(plan, plan.shards, output, on_progress)
    with output.lock():
        records = take_over(plan, plan.shards, output, on_progress)
        missing = [shard.name for shard in plan.shards if shard.name not in records]
        if missing:
            raise UsageError(
                f"{output.place()}: {len(missing)} of {len(plan.shards)} shards are not there, the first {missing[0]}; "
                "run the parts that should have made them again, then --finish."
            )
        return write_dataset_record(plan, output, records)


def _encode_missing(
    plan: ConversionPlan,
    wanted: tuple[PlannedShard, ...],
    *,
    output: OutputDir,
    executor: Executor,
    on_progress: OnProgress,
) -> dict[str, ShardRecord]:
    """Encode those of the wanted shards that are not finished; returns all records."""
    records = take_over(plan, wanted, output, on_progress)
    missing = [shard for shard in wanted if shard.name not in records]
    refuse_lost(plan, missing)
    tasks = [ShardTask(replace(plan, shards=()), output, shard) for shard in missing]
    with contextlib.closing(executor.run(encode_shard, tasks, on_progress)) as results:  # no process outlives the lock
        for name, record in results:
            _expect_visible(output, name, record)
            records[name] = record
            report_shard(name, record, on_progress)
    return records


def take_over(
    plan: ConversionPlan, wanted: tuple[PlannedShard, ...], output: OutputDir, on_progress: OnProgress
) -> dict[str, ShardRecord]:
    """Return the records of finished shards among the wanted; raises as `convert_plan`."""
    refuse_another_plan(plan, output)
    _refuse_other_plans(plan, output)
    found = {shard.name: _finished_record(plan, shard, output) for shard in wanted}
    records = {name: record for name, record in found.items() if record is not None}
    for name, record in records.items():
        report_shard(name, record, on_progress, earlier=True)
    return records


def _expect_visible(output: OutputDir, name: str, record: ShardRecord) -> None:
    """Raise OutputError if a worker wrote a shard that cannot be seen from here."""
    size: int | None = None
    for pause_s in _LOOKS_S:  # network file systems may take a while to show it
        time.sleep(pause_s)
        size = output.size(name)
        if size == record.tar_bytes:
            return
    found = "is not there" if size is None else f"has {size} bytes there"
    raise OutputError(
        f"{output.place(name)}: was written with {record.tar_bytes} bytes but {found}, seen from here; processes on "
        "several machines need an --out that all of them share: a network file system or a URL."
    )


# ------------------------------------------------------------------------------------------------------------- progress


def announce(plan: ConversionPlan, shards: Sequence[PlannedShard], output: OutputDir, on_progress: OnProgress) -> None:
    """Report which shards are to be made, and what of the raw data the plan cannot use."""
    facts = {
        "dataset": plan.dataset,
        "raw": redact(plan.raw),
        "out": output.place(),
        "frames": sum(shard.num_frames for shard in shards),
        "clips": sum(len(shard.clips) for shard in shards),
        "shards": len(shards),
    }
    on_progress(ProgressEvent("plan", facts=facts))
    _report_rejected(plan.rejected, on_progress)


def report_shard(name: str, record: ShardRecord, on_progress: OnProgress, *, earlier: bool = False) -> None:
    """Report a finished shard: its clips and frames, and whether an earlier run made it."""
    facts = {
        "frames": record.num_frames,
        "clips": len(record.clips),
        "bytes": record.tar_bytes,
        "sha256": record.tar_sha256,
        "earlier": earlier,
    }
    amount = Amount(frames=record.num_frames + len(record.rejected), bytes_out=record.tar_bytes)
    on_progress(ProgressEvent("shard", name, amount, facts))
    _report_rejected(record.rejected, on_progress)


def _report_rejected(rejected: Iterable[Rejection], on_progress: OnProgress) -> None:
    for item in rejected:
        on_progress(ProgressEvent("rejected", item.file, facts={"reason": item.reason}))


# ------------------------------------------------------------------------------------------------- shards and read back


@dataclass(frozen=True)
class _VerifiedTask:
    """A shard to make and read back; only to read back if it has a record."""

    task: ShardTask
    record: ShardRecord | None

    def __str__(self) -> str:
        return str(self.task)


def make_verified(
    plan: ConversionPlan,
    shards: Iterable[PlannedShard],
    records: Mapping[str, ShardRecord],
    *,
    output: OutputDir,
    executor: Executor,
    on_progress: OnProgress,
) -> Generator[tuple[str, ShardRecord]]:
    """Write the shards without a record, read all back, yield name and record of each.

    For --consume and repair, which delete or replace something on the strength of it. Raises what `convert_plan` does,
    ShardError for a shard that is not whole, DataError if raw data it needs is gone.
    """
    task = partial(ShardTask, replace(plan, shards=()), output)
    tasks = [_VerifiedTask(task(shard), records.get(shard.name)) for shard in shards]
    refuse_lost(plan, [item.task.shard for item in tasks if item.record is None])
    with contextlib.closing(executor.run(_make_and_reread, tasks, on_progress)) as results:
        for name, record in results:
            if name not in records:
                _expect_visible(output, name, record)
                report_shard(name, record, on_progress)
            yield name, record


def _make_and_reread(item: _VerifiedTask, tick: Tick) -> tuple[str, ShardRecord]:
    name, record = (item.task.shard.name, item.record) if item.record is not None else encode_shard(item.task, tick)
    reread(item.task.output, name, record)
    return name, record


def reread(output: OutputDir, name: str, record: ShardRecord) -> None:
    """Read back a shard's every member; raises ShardError if it is not as its record says."""
    tar = output.path(name)
    if isinstance(tar, Path):
        with tar.open("rb") as file:
            if hasattr(os, "posix_fadvise"):  # macOS has none
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)  # what lies in memory proves nothing
    checked = check_shard(tar, deep=True, on_frames=lambda count: None)
    what = f"{tar}: its record is not the one that was written;" if checked.record != record else ""
    if checked.findings:
        what = f"{checked.findings[0]} Found when it was read back;"
    if what:
        raise ShardError(made_again(f"{what} vdaprep repair makes it again.", recoded="recoded_from" in record.options))
