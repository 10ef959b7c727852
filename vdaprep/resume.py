"""What earlier runs left in an output: finished shards are taken over, whatever does not fit the plan is refused."""

import contextlib
from collections.abc import Generator
from typing import Any

from vdaprep.clips import PlannedShard
from vdaprep.errors import ShardError, UsageError
from vdaprep.outputs import Output
from vdaprep.plan import Plan
from vdaprep.schema import DATASET_FILE, DatasetRecord, ShardRecord, record_name


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


def finished(plan: Plan, wanted: tuple[PlannedShard, ...], output: Output) -> dict[str, ShardRecord]:
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


def compare_options(where: str, found: Any, plan: Plan) -> None:
    """Raise UsageError, naming what differs, if `found`, the options that stand in `where`, are not the plan's."""
    names = sorted(name for name in {*found, *plan.options} if found.get(name) != plan.options.get(name))
    if names:
        there = ", ".join(f"{name} = {found.get(name)}" for name in names)
        here = ", ".join(f"{name} = {plan.options.get(name)}" for name in names)
        raise UsageError(f"{where}: was made with {there}; this run has {here}; use the same options or another --out.")
