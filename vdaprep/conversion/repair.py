"""Rebuild from raw data the shards that are not what they should be, leaving all others untouched."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vdaprep.analysis.verify import check_folder
from vdaprep.analysis.verify_shard import CheckedShard, Finding, OnFrames
from vdaprep.conversion.clips import PlannedShard
from vdaprep.conversion.convert import ConversionProgress, summarise, write_dataset_record
from vdaprep.conversion.plan import Plan
from vdaprep.conversion.saved_plan import refuse_lost, save_plan
from vdaprep.conversion.verified import make_verified
from vdaprep.errors import DataError, ShardError, UsageError
from vdaprep.shards.canonical import parse_sealed_json
from vdaprep.shards.names import DATASET_FILE, record_name
from vdaprep.shards.records import DatasetRecord, ShardRecord
from vdaprep.storage.output import PLAN_FILE, Output
from vdaprep.storage.paths import open_path
from vdaprep.workers.tasks import Executor


@dataclass(frozen=True)
class Diagnosis:
    """What is wrong, and what is to be done about it: shards to make anew, shards that are in no plan.

    `whole` are the records of the shards that stay; `dataset_json` tells whether that file is to be written anew.
    """

    findings: tuple[Finding, ...]
    broken: tuple[PlannedShard, ...]
    extra: tuple[str, ...]
    whole: Mapping[str, ShardRecord]
    dataset_json: bool


@dataclass(frozen=True)
class Watch:
    """Who is told of a repair: of frames that were checked, of the diagnosis, of the work as in a conversion."""

    on_checked: OnFrames = lambda count: None
    on_diagnosis: Callable[[Diagnosis], None] = lambda diagnosis: None
    progress: ConversionProgress = ConversionProgress()  # noqa: RUF009 - frozen


@dataclass(frozen=True)
class Wishes:
    """What to do beyond making good what is broken.

    `remove_extra`: delete shards that are in no plan; `retry_rejected`: make those anew, too, that lost frames.
    """

    remove_extra: bool = False
    retry_rejected: bool = False


def repair(
    output: Output, make_plan: Callable[[], Plan], *, executor: Executor, watch: Watch, wishes: Wishes
) -> Diagnosis:
    """Check every shard in depth, make those anew that are broken or missing, then read these back.

    `make_plan` is called if there is anything to do. Shards that are in no plan are reported.
    Raises DataError, naming the shards, if their raw data is not there; UsageError if it is not what the shards were
    made from, or if another process is writing there; ShardError if what was made is not what `dataset.json` lists.
    """
    with output.lock():
        checked, findings = check_folder(open_path(output.place()), deep=True, on_frames=watch.on_checked)
        if wishes.retry_rejected:
            checked = [_as_broken(shard) for shard in checked]
            findings = list(dict.fromkeys([*(what for shard in checked for what in shard.findings), *findings]))
        if not findings:
            return Diagnosis((), (), (), {}, dataset_json=False)
        plan = _plan_for(checked, findings, make_plan)
        found = diagnose(plan, output, checked, findings)
        if wishes.retry_rejected:
            found = _with_neighbours(plan, found)
        watch.on_diagnosis(found)
        _rebuild(plan, found, output=output, executor=executor, progress=watch.progress)
        for name in found.extra if wishes.remove_extra else ():
            for file in (record_name(name), name):
                if output.size(file) is not None:
                    output.delete(file)
        return found


def _as_broken(shard: CheckedShard) -> CheckedShard:
    """Hold it against a shard that it lost frames."""
    if shard.record is None or not shard.record.rejected:
        return shard
    finding = Finding(str(shard.tar), f"lost {len(shard.record.rejected)} frames when it was made.")
    return replace(shard, findings=(*shard.findings, finding))


def _with_neighbours(plan: Plan, found: Diagnosis) -> Diagnosis:
    """Add the shards that share a trajectory with a broken one: a difference is to the frame before, wherever it is."""
    concerned = {clip.trajectory.name for shard in found.broken for clip in shard.clips}
    broken = [shard for shard in plan.shards if any(clip.trajectory.name in concerned for clip in shard.clips)]
    names = {shard.name for shard in broken}
    whole = {name: record for name, record in found.whole.items() if name not in names}
    return replace(found, broken=tuple(broken), whole=whole, dataset_json=True)  # which lists fewer rejections now


def _plan_for(checked: Sequence[CheckedShard], findings: Sequence[Finding], make_plan: Callable[[], Plan]) -> Plan:
    try:
        return make_plan()
    except DataError as error:
        broken = {shard.name for shard in checked if shard.findings}
        files = sorted(broken or {Path(finding.file).name for finding in findings})
        raise DataError(f"cannot be repaired without raw data: {', '.join(files)}; {error}") from error


def diagnose(plan: Plan, output: Output, checked: Sequence[CheckedShard], findings: Sequence[Finding]) -> Diagnosis:
    """Decide what to do; raises UsageError if the raw data of the plan is not what whole shards were made from."""
    by_name = {shard.name: shard for shard in checked}
    planned = {shard.name: shard for shard in plan.shards}
    broken: list[PlannedShard] = []
    whole: dict[str, ShardRecord] = {}
    for name, shard in planned.items():
        there = by_name.get(name)
        if there is None or there.record is None or there.findings:
            broken.append(shard)
        elif there.record.options != plan.options or there.record.plan != shard.fingerprint():
            raise UsageError(
                f"{there.tar.with_name(record_name(there.tar.name))}: is whole, but was made from other frames than "
                f"{plan.raw} holds now; repair needs the raw data as it was."
            )
        else:
            whole[name] = there.record
    return Diagnosis(
        findings=tuple(findings),
        broken=tuple(broken),
        extra=tuple(sorted(by_name.keys() - planned.keys())),
        whole=whole,
        dataset_json=_dataset_record(output) is None or (not broken and _is_stale(plan, output, whole)),
    )


def _is_stale(plan: Plan, output: Output, records: Mapping[str, ShardRecord]) -> bool:
    expected = summarise(plan, [records[shard.name] for shard in plan.shards]).to_bytes()
    return output.read(DATASET_FILE) != expected


def _dataset_record(output: Output) -> DatasetRecord | None:
    """Read `dataset.json`; None if it is missing or damaged."""
    try:
        return DatasetRecord.from_bytes(output.read(DATASET_FILE), where=output.place(DATASET_FILE))
    except (FileNotFoundError, ShardError):
        return None


def _rebuild(plan: Plan, found: Diagnosis, *, output: Output, executor: Executor, progress: ConversionProgress) -> None:
    refuse_lost(plan, found.broken)
    listed = _dataset_record(output)
    for shard in found.broken:  # a shard without record is none: should this run die, the next finds what is to do
        if output.size(record_name(shard.name)) is not None:
            output.delete(record_name(shard.name))
    records = dict(found.whole)
    made = make_verified(plan, found.broken, {}, output=output, executor=executor, progress=progress)
    with contextlib.closing(made):
        for name, record in made:
            records[name] = record
    if listed is not None and not found.dataset_json:
        _compare(listed, summarise(plan, [records[shard.name] for shard in plan.shards]), output)
    if output.size(PLAN_FILE) is not None:
        save_plan(plan, output)
    write_dataset_record(plan, output, records)


def _compare(listed: DatasetRecord, made: DatasetRecord, output: Output) -> None:
    """Raise ShardError if shards were not made as they were before: the raw data is not the same."""
    if listed == made:
        return
    other = [f"{item.split}/{item.name}" for item in made.shards if item not in listed.shards]
    raise ShardError(
        f"{output.place(DATASET_FILE)}: does not list what could be made again ({', '.join(other) or 'rejections'} "
        "differ): the raw data, or this program, is not what it was; convert anew into another --out."
    )


# ---------------------------------------------------------------------------------------------- what is to be repaired


def stored_options(output: Output, *, dataset: str) -> dict[str, Any] | None:
    """Return the options that intact records hold, None if there is no such record.

    Raises UsageError if they contradict each other or are of another data set.
    """
    found: dict[str, Any] | None = None
    first = ""
    for name, options, of in _all_options(output):
        if of not in ("", dataset):
            raise UsageError(f"{output.place(name)}: is of {of}, not of {dataset}.")
        if found is not None and options != found:
            raise UsageError(
                f"{output.place(name)}: was made with other options than {output.place(first)}; move away what does "
                "not belong there."
            )
        found, first = options, first or name
    return found


def _all_options(output: Output) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Yield the files that hold options and are intact: name, options, data set if the file says."""
    for name in _candidates(output.names()):
        where = output.place(name)
        try:
            if name == DATASET_FILE:
                record = DatasetRecord.from_bytes(output.read(name), where=where)
                yield name, dict(record.options), record.dataset
            elif name == PLAN_FILE:
                value = parse_sealed_json(output.read(name), where=where)
                yield name, value["options"], value["dataset"]
            else:
                yield name, dict(ShardRecord.from_bytes(output.read(name), where=where).options), ""
        except (FileNotFoundError, ShardError):
            continue


def _candidates(names: Iterable[str]) -> list[str]:
    return [DATASET_FILE, PLAN_FILE, *(name for name in names if name.endswith(".json") and name != DATASET_FILE)]
