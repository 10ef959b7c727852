"""Convert a raw data set into shards: encode, in parallel, what the plan says and no earlier run has finished."""

import contextlib
import hashlib
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from typing import Any

from vdaprep import sources
from vdaprep.conversion.clips import PlannedShard
from vdaprep.conversion.encode import ClipEncoder
from vdaprep.conversion.plan import Plan
from vdaprep.conversion.saved_plan import compare_options, refuse_another_plan, refuse_lost
from vdaprep.errors import DataError, OutputError, ShardError, UsageError
from vdaprep.raw.tree import Reader
from vdaprep.shards import writer
from vdaprep.shards.names import DATASET_FILE, record_name
from vdaprep.shards.records import DatasetRecord, Rejection, ShardRecord, ShardSummary, totals
from vdaprep.shards.writer import EncodedClip
from vdaprep.sources import _manifest
from vdaprep.storage.output import PLAN_FILE, Output, write_file
from vdaprep.workers.tasks import Amount, Executor, Listener, Tick


def write_dataset_record(plan: Plan, output: Output, records: dict[str, ShardRecord]) -> DatasetRecord:
    """Write `dataset.json`; raises DataError if the shards hold no frame."""
    _expect_frames(plan, output, records)
    result = summarise(plan, [records[shard.name] for shard in plan.shards])
    data = result.to_bytes()
    if output.size(DATASET_FILE) is None or output.read(DATASET_FILE) != data:
        write_file(output, DATASET_FILE, data)
    return result


def summarise(plan: Plan, records: list[ShardRecord]) -> DatasetRecord:
    """Return what `dataset.json` holds of a plan whose shards have these records."""
    summaries = [
        ShardSummary(
            split=shard.split,
            name=record.tar_name,
            bytes=record.tar_bytes,
            sha256=record.tar_sha256,
            record_sha256=hashlib.sha256(record.to_bytes()).hexdigest(),
            clips=len(record.clips),
            frames=record.num_frames,
        )
        for shard, record in zip(plan.shards, records, strict=True)
    ]
    rejected = [*plan.rejected, *(item for record in records for item in record.rejected)]
    return DatasetRecord(
        dataset=plan.dataset,
        source=_source(plan.dataset),
        options=plan.options,
        splits=plan.splits,
        totals=totals(records),
        shards=tuple(summaries),
        rejected=tuple(rejected),
    )


def _source(dataset: str) -> dict[str, Any]:
    facts = _manifest.load(dataset)
    return {
        "title": facts.title,
        "home": facts.home,
        "licence": facts.licence,
        "evaluation_max_m": facts.evaluation_max_m,
    }


def _expect_frames(plan: Plan, output: Output, records: dict[str, ShardRecord]) -> None:
    """Raise DataError if no frame could be used; the empty shards go, so that a run with better options can begin."""
    if any(record.clips for record in records.values()):
        return
    for name in records:
        output.delete(record_name(name))
        output.delete(name)
    if output.size(PLAN_FILE) is not None:
        output.delete(PLAN_FILE)
    rejected = [item for record in records.values() for item in record.rejected]
    first = f"{rejected[0].file} {rejected[0].reason}" if rejected else "no reason is known"
    raise DataError(f"{plan.raw}: none of {plan.num_frames} frames can be used; the first: {first}.")


def refuse_other_plans(plan: Plan, output: Output) -> None:
    """Raise UsageError if what is there was made with other options, or holds shards that are not in the plan."""
    names = output.names()
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


def finished_shards(plan: Plan, wanted: tuple[PlannedShard, ...], output: Output) -> dict[str, ShardRecord]:
    """Return, by name, the records of those shards that an earlier run finished.

    Raises UsageError if one was made with other options or from other frames, ShardError if its tar is not as long as
    its record says.
    """
    found = {shard.name: _finished_record(plan, shard, output) for shard in wanted}
    return {name: record for name, record in found.items() if record is not None}


def _finished_record(plan: Plan, shard: PlannedShard, output: Output) -> ShardRecord | None:
    name = record_name(shard.name)
    if output.size(name) is None:
        return None
    where = output.place(name)
    with _repair_helps(plan):
        record = ShardRecord.from_bytes(output.read(name), where=where)
    compare_options(where, record.options, plan)
    if record.plan != shard.fingerprint():
        raise UsageError(f"{where}: was made from other frames than {plan.raw} holds now; choose another --out.")
    size = output.size(shard.name)
    if size != record.tar_bytes:
        found = "is missing" if size is None else f"has {size} bytes"
        raise ShardError(
            f"{output.place(shard.name)}: {found}, its record says {record.tar_bytes}; "
            f"vdaprep repair {plan.dataset} makes it anew."
        )
    return record


@contextlib.contextmanager
def _repair_helps(plan: Plan) -> Generator[None]:
    try:
        yield
    except ShardError as error:
        raise ShardError(f"{error} vdaprep repair {plan.dataset} makes it anew.") from error


@dataclass(frozen=True)
class ShardTask:
    """A shard to make; `plan` is without its shards."""

    plan: Plan
    output: Output
    shard: PlannedShard

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
    """Tells of frames as they are encoded, with the bytes that were read for them, and of the bytes of clips."""

    def __init__(self, reader: Reader, tick: Tick) -> None:
        self._reader = reader
        self._tick = tick
        self._in = 0
        self._out = 0

    def frame(self) -> None:
        """Tell of a frame."""
        before, self._in = self._in, self._reader.bytes_read
        self._tick(Amount(frames=1, bytes_in=self._in - before))

    def counted(self, clip: EncodedClip) -> EncodedClip:
        """Tell of a clip's bytes, roughly: what the tar adds is told of in the end."""
        self.written(self._out + sum(len(data) for frame in clip.frames for _, data in frame))
        return clip

    def written(self, total: int) -> None:
        """Tell of what there is beyond the bytes told of before."""
        self._tick(Amount(bytes_out=total - self._out))
        self._out = total


_LOOKS_S = (0.0, 0.5, 2.0, 5.0)  # pauses before another look for a shard that another machine made


@dataclass(frozen=True)
class ConversionProgress:
    """Who is told of a conversion: of work as it is done, of shards as they are finished, of what went amiss.

    on_work is told the negative of what a process did that died. on_shard: the shard's name below the output, its
    record, and whether an earlier run made it.
    """

    on_work: Tick = lambda amount: None
    on_shard: Callable[[str, ShardRecord, bool], None] = lambda name, record, earlier: None
    on_notice: Callable[[str], None] = lambda sentence: None


@dataclass(frozen=True)
class Part:
    """Part `number`, from 1, of `count`: every `count`-th shard of a plan."""

    number: int
    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count:
            raise UsageError(f"--part {self.number}/{self.count}: expected i/n with i from 1 to n, for example 1/4.")

    def __str__(self) -> str:
        return f"{self.number}-of-{self.count}"

    def of(self, planned: tuple[PlannedShard, ...]) -> tuple[PlannedShard, ...]:
        """Return the shards that fall to this part."""
        return planned[self.number - 1 :: self.count]


def parse_part(text: str) -> Part:
    """Return what `--part i/n` says; raises UsageError."""
    number, slash, count = text.partition("/")
    if not (slash and number.isdecimal() and count.isdecimal()):
        raise UsageError(f"--part {text}: expected i/n with i from 1 to n, for example 1/4.")
    return Part(int(number), int(count))


def convert(plan: Plan, *, output: Output, executor: Executor, progress: ConversionProgress) -> DatasetRecord:
    """Carry a plan out; shards that an earlier run finished are kept as they are, `dataset.json` comes last.

    Raises UsageError if what is there was made with other options or from other frames, or if another process is
    writing there; DataError if no frame can be used; OutputError if the disk is full; WorkerError if processes die.
    """
    with output.lock():
        records = _encode_missing(plan, plan.shards, output=output, executor=executor, progress=progress)
        return write_dataset_record(plan, output, records)


def convert_part(
    plan: Plan, part: Part, *, output: Output, executor: Executor, progress: ConversionProgress
) -> list[ShardRecord]:
    """Carry a part of a plan out, beside other parts; `finish` then writes `dataset.json`.

    Raises what `convert` does.
    """
    with output.lock(part=str(part)):
        mine = part.of(plan.shards)
        records = _encode_missing(plan, mine, output=output, executor=executor, progress=progress)
    return [records[shard.name] for shard in mine]


def finish(plan: Plan, *, output: Output, progress: ConversionProgress) -> DatasetRecord:
    """Write the `dataset.json` of shards that parts have made; raises UsageError, naming them, if some are missing."""
    with output.lock():
        records = take_over(plan, plan.shards, output, progress)
        missing = [shard.name for shard in plan.shards if shard.name not in records]
        if missing:
            raise UsageError(
                f"{output.place()}: {len(missing)} of {len(plan.shards)} shards are not there, the first {missing[0]}; "
                "run the parts that should have made them again, then --finish."
            )
        return write_dataset_record(plan, output, records)


def _encode_missing(
    plan: Plan, wanted: tuple[PlannedShard, ...], *, output: Output, executor: Executor, progress: ConversionProgress
) -> dict[str, ShardRecord]:
    """Encode those of the wanted shards that no earlier run has finished; returns the records of all of them."""
    records = take_over(plan, wanted, output, progress)
    missing = [shard for shard in wanted if shard.name not in records]
    refuse_lost(plan, missing)
    tasks = [ShardTask(replace(plan, shards=()), output, shard) for shard in missing]
    listener = Listener(on_tick=progress.on_work, on_notice=progress.on_notice)
    with contextlib.closing(executor.run(encode_shard, tasks, listener)) as results:  # no process outlives the lock
        for name, record in results:
            expect_here(output, name, record)
            records[name] = record
            progress.on_shard(name, record, False)
    return records


def take_over(
    plan: Plan, wanted: tuple[PlannedShard, ...], output: Output, progress: ConversionProgress
) -> dict[str, ShardRecord]:
    """Return the records of those of the wanted shards that an earlier run finished; raises as `convert` does."""
    refuse_another_plan(plan, output)
    refuse_other_plans(plan, output)
    records = finished_shards(plan, wanted, output)
    for name, record in records.items():
        progress.on_shard(name, record, True)
    return records


def expect_here(output: Output, name: str, record: ShardRecord) -> None:
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
