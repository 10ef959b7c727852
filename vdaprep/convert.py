"""Convert a raw data set into shards: encode, in parallel, what the plan says and no earlier run has finished."""

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from vdaprep.clips import PlannedShard
from vdaprep.conclude import conclude
from vdaprep.errors import OutputError, UsageError
from vdaprep.outputs import Output
from vdaprep.plan import Plan
from vdaprep.resume import finished, refuse_other_plans
from vdaprep.saved_plan import refuse_another_plan, refuse_lost
from vdaprep.schema import DatasetRecord, ShardRecord
from vdaprep.shard_task import ShardTask, encode_shard
from vdaprep.tasks import Executor, Listener, Tick

_LOOKS_S = (0.0, 0.5, 2.0, 5.0)  # pauses before another look for a shard that another machine made


@dataclass(frozen=True)
class Progress:
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


def convert(plan: Plan, *, output: Output, executor: Executor, progress: Progress) -> DatasetRecord:
    """Carry a plan out; shards that an earlier run finished are kept as they are, `dataset.json` comes last.

    Raises UsageError if what is there was made with other options or from other frames, or if another process is
    writing there; DataError if no frame can be used; OutputError if the disk is full; WorkerError if processes die.
    """
    with output.lock():
        records = _encode_missing(plan, plan.shards, output=output, executor=executor, progress=progress)
        return conclude(plan, output, records)


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
        records = take_over(plan, plan.shards, output, progress)
        missing = [shard.name for shard in plan.shards if shard.name not in records]
        if missing:
            raise UsageError(
                f"{output.place()}: {len(missing)} of {len(plan.shards)} shards are not there, the first {missing[0]}; "
                "run the parts that should have made them again, then --finish."
            )
        return conclude(plan, output, records)


def _encode_missing(
    plan: Plan, wanted: tuple[PlannedShard, ...], *, output: Output, executor: Executor, progress: Progress
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
    plan: Plan, wanted: tuple[PlannedShard, ...], output: Output, progress: Progress
) -> dict[str, ShardRecord]:
    """Return the records of those of the wanted shards that an earlier run finished; raises as `convert` does."""
    refuse_another_plan(plan, output)
    refuse_other_plans(plan, output)
    records = finished(plan, wanted, output)
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
