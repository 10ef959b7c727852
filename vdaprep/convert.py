"""Convert a raw data set into shards: encode what the plan says, in parallel, then say what was made."""

import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from vdaprep import manifest, shards, sources
from vdaprep.archive import Reader
from vdaprep.clips import PlannedShard
from vdaprep.encode import ClipEncoder
from vdaprep.errors import DataError, ShardError, UsageError
from vdaprep.executors import Executor, Listener, Tick
from vdaprep.outputs import Output, write_file
from vdaprep.plan import Plan
from vdaprep.schema import (
    DATASET_FILE,
    DatasetRecord,
    Rejection,
    ShardRecord,
    ShardSummary,
    record_name,
)


@dataclass(frozen=True)
class Progress:
    """Who is told of a conversion: of frames as they are encoded, of shards as they are finished, of what went amiss.

    on_frames is told a negative number of the frames of a process that died. on_shard: the record, and whether an
    earlier run made the shard.
    """

    on_frames: Callable[[int], None] = lambda count: None
    on_shard: Callable[[ShardRecord, bool], None] = lambda record, earlier: None
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


def convert(plan: Plan, *, output: Output, executor: Executor, progress: Progress) -> DatasetRecord:
    """Carry a plan out; shards that an earlier run finished are kept as they are, `dataset.json` comes last.

    Raises UsageError if what is there was made with other options or from other frames, or if another process is
    writing there; DataError if no frame can be used; OutputError if the disk is full; WorkerError if processes die.
    """
    with output.lock():
        records = _encode_missing(plan, plan.shards, output=output, executor=executor, progress=progress)
        return _conclude(plan, output, records)


def convert_part(
    plan: Plan, part: Part, *, output: Output, executor: Executor, progress: Progress
) -> list[ShardRecord]:
    """Carry a part of a plan out, beside other parts; `finish` then writes `dataset.json`.

    Raises what `convert` does.
    """
    with output.lock(part=str(part)):
        mine = part.of(plan.shards)
        records = _encode_missing(plan, mine, output=output, executor=executor, progress=progress)
    return [records[shard.name] for shard in mine]


def finish(plan: Plan, *, output: Output, progress: Progress) -> DatasetRecord:
    """Write the `dataset.json` of shards that parts have made; raises UsageError, naming them, if some are missing."""
    with output.lock():
        records = _finished(plan, plan.shards, output, progress)
        missing = [shard.name for shard in plan.shards if shard.name not in records]
        if missing:
            raise UsageError(
                f"{output.place()}: {len(missing)} of {len(plan.shards)} shards are not there, the first {missing[0]}; "
                "run the parts that should have made them again, then --finish."
            )
        return _conclude(plan, output, records)


# ------------------------------------------------------------------------------------------------------------- encoding


@dataclass(frozen=True)
class _Task:
    plan: Plan
    output: Output
    shard: PlannedShard

    def __str__(self) -> str:
        return self.output.place(self.shard.name)


def _encode_missing(
    plan: Plan, wanted: tuple[PlannedShard, ...], *, output: Output, executor: Executor, progress: Progress
) -> dict[str, ShardRecord]:
    """Encode those of the wanted shards that no earlier run has finished; returns the records of all of them."""
    _refuse_other_plans(plan, output)
    records = _finished(plan, wanted, output, progress)
    bare = replace(plan, shards=())  # every task is sent to a worker; it needs its own shard only
    tasks = [_Task(bare, output, shard) for shard in wanted if shard.name not in records]
    listener = Listener(on_tick=progress.on_frames, on_notice=progress.on_notice)
    for name, record in executor.run(encode_shard, tasks, listener):
        records[name] = record
        progress.on_shard(record, False)
    return records


def encode_shard(task: _Task, tick: Tick) -> tuple[str, ShardRecord]:
    """Encode and write a shard; `tick(1)` after every frame. Returns its name and its record."""
    plan, shard = task.plan, task.shard
    rejected: list[Rejection] = []
    with Reader(plan.raw) as reader:
        encoder = ClipEncoder(
            dataset=plan.dataset,
            source=sources.load(plan.dataset),
            reader=reader,
            options=plan.settings.source,
            encoding=plan.settings.encoding(manifest.load(plan.dataset)),
        )
        clips = (
            encoded
            for clip in shard.clips
            for encoded in encoder.encode(clip, split=shard.split, rejected=rejected, on_frame=lambda: tick(1))
        )
        record = shards.write_shard(
            task.output,
            shard.name,
            clips,
            options=plan.options,
            plan=shard.fingerprint(),
            rejected=rejected,
        )
    return shard.name, record


# ------------------------------------------------------------------------------------------------------- dataset.json


def _conclude(plan: Plan, output: Output, records: dict[str, ShardRecord]) -> DatasetRecord:
    _expect_frames(plan, output, records)
    result = _summarise(plan, [records[shard.name] for shard in plan.shards])
    data = result.to_bytes()
    if output.size(DATASET_FILE) is None or output.read(DATASET_FILE) != data:
        write_file(output, DATASET_FILE, data)
    return result


def _summarise(plan: Plan, records: list[ShardRecord]) -> DatasetRecord:
    summaries: list[ShardSummary] = []
    kinds: Counter[str] = Counter()
    for shard, record in zip(plan.shards, records, strict=True):
        kinds.update({kind: size for kind, (_, size) in record.kinds.items()})
        summaries.append(
            ShardSummary(
                split=shard.split,
                name=record.tar_name,
                bytes=record.tar_bytes,
                sha256=record.tar_sha256,
                record_sha256=hashlib.sha256(record.to_bytes()).hexdigest(),
                clips=len(record.clips),
                frames=record.num_frames,
            )
        )
    rejected = [*plan.rejected, *(item for record in records for item in record.rejected)]
    totals = {
        "clips": sum(item.clips for item in summaries),
        "frames": sum(item.frames for item in summaries),
        "bytes": sum(item.bytes for item in summaries),
        "bytes_by_kind": dict(kinds),
        "clamped_near": sum(record.clamped_near for record in records),
    }
    return DatasetRecord(
        dataset=plan.dataset,
        source=_source(plan.dataset),
        options=plan.options,
        splits=plan.splits,
        totals=totals,
        shards=tuple(summaries),
        rejected=tuple(rejected),
    )


def _source(dataset: str) -> dict[str, Any]:
    facts = manifest.load(dataset)
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
    rejected = [item for record in records.values() for item in record.rejected]
    first = f"{rejected[0].file} {rejected[0].reason}" if rejected else "no reason is known"
    raise DataError(f"{plan.raw}: none of {plan.num_frames} frames can be used; the first: {first}.")


# ---------------------------------------------------------------------------------------------- what is there already


def _refuse_other_plans(plan: Plan, output: Output) -> None:
    names = output.names()
    if DATASET_FILE in names:
        where = output.place(DATASET_FILE)
        _compare_options(where, DatasetRecord.from_bytes(output.read(DATASET_FILE), where=where).options, plan)
    planned = {shard.name for shard in plan.shards}
    for name in (name for name in names if name.endswith(".tar") and name not in planned):
        raise UsageError(
            f"{output.place(name)}: is there but not in this run's plan; choose another --out, "
            f"or delete {output.place()}."
        )


def _finished(
    plan: Plan, wanted: tuple[PlannedShard, ...], output: Output, progress: Progress
) -> dict[str, ShardRecord]:
    """Read the records of those shards that an earlier run finished."""
    found = {shard.name: _finished_record(plan, shard, output) for shard in wanted}
    records = {name: record for name, record in found.items() if record is not None}
    for record in records.values():
        progress.on_shard(record, True)
    return records


def _finished_record(plan: Plan, shard: PlannedShard, output: Output) -> ShardRecord | None:
    name = record_name(shard.name)
    if output.size(name) is None:
        return None
    where = output.place(name)
    record = ShardRecord.from_bytes(output.read(name), where=where)
    _compare_options(where, record.options, plan)
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


def _compare_options(where: str, found: Any, plan: Plan) -> None:
    names = sorted(name for name in {*found, *plan.options} if found.get(name) != plan.options.get(name))
    if names:
        there = ", ".join(f"{name} = {found.get(name)}" for name in names)
        here = ", ".join(f"{name} = {plan.options.get(name)}" for name in names)
        raise UsageError(f"{where}: was made with {there}; this run has {here}; use the same options or another --out.")
