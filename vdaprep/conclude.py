"""The `dataset.json` that a plan ends with, from the records of its shards."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from typing import Any

from vdaprep import manifest
from vdaprep.errors import DataError
from vdaprep.outputs import PLAN_FILE, Output, write_file
from vdaprep.plan import Plan
from vdaprep.schema import DATASET_FILE, DatasetRecord, ShardRecord, ShardSummary, record_name


def conclude(plan: Plan, output: Output, records: dict[str, ShardRecord]) -> DatasetRecord:
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


def totals(records: Sequence[ShardRecord]) -> dict[str, Any]:
    """Add up shards: clips, frames, bytes of the tars, bytes by kind of member, depth pixels that were too near."""
    kinds: Counter[str] = Counter()
    for record in records:
        kinds.update({kind: size for kind, (_, size) in record.kinds.items()})
    return {
        "clips": sum(len(record.clips) for record in records),
        "frames": sum(record.num_frames for record in records),
        "bytes": sum(record.tar_bytes for record in records),
        "bytes_by_kind": dict(kinds),
        "clamped_near": sum(record.clamped_near for record in records),
    }


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
    if output.size(PLAN_FILE) is not None:
        output.delete(PLAN_FILE)
    rejected = [item for record in records.values() for item in record.rejected]
    first = f"{rejected[0].file} {rejected[0].reason}" if rejected else "no reason is known"
    raise DataError(f"{plan.raw}: none of {plan.num_frames} frames can be used; the first: {first}.")
