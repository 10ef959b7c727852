"""Convert a raw data set into shards: encode what the plan says, in parallel, then say what was made."""

import fcntl
import hashlib
import os
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vdaprep import executors, manifest, shards, sources
from vdaprep.archive import Reader
from vdaprep.clips import PlannedShard
from vdaprep.encode import ClipEncoder
from vdaprep.errors import DataError, ShardError, UsageError
from vdaprep.plan import Plan
from vdaprep.schema import (
    DATASET_FILE,
    DatasetRecord,
    Rejection,
    ShardRecord,
    ShardSummary,
    record_name,
    shard_name,
)


@dataclass(frozen=True)
class Progress:
    """Who is told of a conversion: of frames as they are encoded, of shards as they are finished."""

    on_frames: Callable[[int], None] = lambda count: None
    on_shard: Callable[[ShardRecord], None] = lambda record: None


def convert(plan: Plan, *, out: Path, workers: int, progress: Progress) -> DatasetRecord:
    """Carry a plan out into `out/DATASET`; shards that an earlier run finished are kept as they are.

    Raises UsageError if what is there was made with other options or from other frames, or if another process is
    writing there; DataError if no frame can be used; VdakitError if a worker dies.
    """
    folder = out / plan.dataset
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        _refuse_other_options(folder, plan)
        finished = {_name(shard): _finished(folder, plan, shard) for shard in plan.shards}
        records = {name: record for name, record in finished.items() if record is not None}
        for record in records.values():
            progress.on_frames(record.num_frames + len(record.rejected))
            progress.on_shard(record)
        bare = replace(plan, shards=())  # every task is sent to a worker; it needs its own shard only
        tasks = [_Task(bare, folder, shard) for shard in plan.shards if _name(shard) not in records]
        for name, record in executors.run_local(_encode_shard, tasks, workers=workers, on_tick=progress.on_frames):
            records[name] = record
            progress.on_shard(record)
        _expect_frames(plan, folder, records)
        result = _summarise(plan, folder, [records[_name(shard)] for shard in plan.shards])
        shards.write_file(folder / DATASET_FILE, result.to_bytes())
    return result


@dataclass(frozen=True)
class _Task:
    plan: Plan
    folder: Path
    shard: PlannedShard


def _encode_shard(task: _Task, tick: executors.Tick) -> tuple[str, ShardRecord]:
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
            task.folder / _name(shard),
            clips,
            options=plan.options,
            plan=shard.fingerprint(),
            rejected=rejected,
        )
    return _name(shard), record


def _name(shard: PlannedShard) -> str:
    return f"{shard.split}/{shard_name(shard.number)}"


def _summarise(plan: Plan, folder: Path, records: list[ShardRecord]) -> DatasetRecord:
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


def _expect_frames(plan: Plan, folder: Path, records: dict[str, ShardRecord]) -> None:
    """Raise DataError if no frame could be used; the empty shards go, so that a run with better options can begin."""
    if any(record.clips for record in records.values()):
        return
    for name in records:
        (folder / record_name(name)).unlink()
        (folder / name).unlink()
    rejected = [item for record in records.values() for item in record.rejected]
    first = f"{rejected[0].file} {rejected[0].reason}" if rejected else "no reason is known"
    raise DataError(f"{plan.raw}: none of {plan.num_frames} frames can be used; the first: {first}.")


# ---------------------------------------------------------------------------------------------- what is there already


@contextmanager
def _locked(folder: Path) -> Generator[None]:
    """Hold the only right to write into a folder; the lock is the folder's own and dies with its process."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shards.remove_unfinished(folder)
        yield
    except BlockingIOError as error:
        raise UsageError(
            f"{folder}: another vdaprep is writing there; wait for it, or choose another --out."
        ) from error
    finally:
        os.close(handle)


def _refuse_other_options(folder: Path, plan: Plan) -> None:
    path = folder / DATASET_FILE
    if path.is_file():
        _compare_options(path, DatasetRecord.from_bytes(path.read_bytes(), where=str(path)).options, plan)
    planned = {_name(shard) for shard in plan.shards}
    for tar in sorted(folder.glob("*/shard-*.tar")):
        if tar.relative_to(folder).as_posix() not in planned:
            raise UsageError(f"{tar}: is there but not in this run's plan; choose another --out, or delete {folder}.")


def _finished(folder: Path, plan: Plan, shard: PlannedShard) -> ShardRecord | None:
    tar = folder / _name(shard)
    path = tar.with_name(record_name(tar.name))
    if not path.is_file():
        return None
    record = shards.read_record(tar)
    _compare_options(path, record.options, plan)
    if record.plan != shard.fingerprint():
        raise UsageError(f"{path}: was made from other frames than {plan.raw} holds now; choose another --out.")
    if not tar.is_file() or tar.stat().st_size != record.tar_bytes:
        raise ShardError(
            f"{tar}: is missing or cut short, its record says {record.tar_bytes} bytes; delete {path} to redo it."
        )
    return record


def _compare_options(path: Path, found: Any, plan: Plan) -> None:
    names = sorted(name for name in {*found, *plan.options} if found.get(name) != plan.options.get(name))
    if names:
        there = ", ".join(f"{name} = {found.get(name)}" for name in names)
        here = ", ".join(f"{name} = {plan.options.get(name)}" for name in names)
        raise UsageError(f"{path}: was made with {there}; this run has {here}; use the same options or another --out.")
