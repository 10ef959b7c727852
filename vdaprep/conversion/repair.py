"""Rebuild from raw data the shards that are not as they should be; others stay."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vdaprep.analysis.verify import check_folder
from vdaprep.analysis.verify_shard import CheckedShard, Finding
from vdaprep.conversion.clips import PlannedShard
from vdaprep.conversion.convert import announce, make_verified, summarise, write_dataset_record
from vdaprep.conversion.options import ConversionOptions, Selection, Settings, options_of, settings_of
from vdaprep.conversion.plan import ConversionPlan, make_plan
from vdaprep.conversion.saved_plan import parse_header, prepare, refuse_lost, save_plan
from vdaprep.errors import DataError, ShardError, UsageError
from vdaprep.shards.names import DATASET_FILE, FINISHED_FILES, PLAN_FILE, record_name
from vdaprep.shards.records import DatasetRecord, ShardRecord
from vdaprep.sources import _manifest
from vdaprep.storage.output import OutputDir
from vdaprep.storage.urls import redact
from vdaprep.workers.progress import Amount, OnProgress, ProgressEvent, ignore
from vdaprep.workers.tasks import Executor


@dataclass(frozen=True)
class Diagnosis:
    """What is wrong with a data set's shards, and what repairing it takes."""

    place: str
    """Folder or URL of the shards."""
    findings: tuple[Finding, ...]
    """What is wrong."""
    broken: tuple[PlannedShard, ...]
    """Shards to make again."""
    extra: tuple[str, ...]
    """Names of shards that are in no plan."""
    whole: Mapping[str, ShardRecord]
    """Records of the shards that are kept, by name."""
    dataset_json: bool
    """Whether `dataset.json` is to be written again."""


def repair_shards(
    output: OutputDir,
    replan: Callable[[], ConversionPlan],
    *,
    executor: Executor,
    remove_extra: bool = False,
    retry_rejected: bool = False,
    on_progress: OnProgress = ignore,
) -> Diagnosis:
    """Check every shard in depth, make damaged and missing ones again, read these back.

    Args:
        output: Where the shards are.
        replan: Called if there is anything to do.
        executor: Runs the encoding.
        remove_extra: Delete shards that are in no plan; otherwise they are only reported.
        retry_rejected: Treat shards with rejected frames as broken, too.
        on_progress: Receives `checked` while shards are verified; then `finding`, `plan`, and events of the conversion.

    Raises:
        DataError: the raw data of broken shards, which are named, is not there.
        UsageError: raw data is not what the shards were made from, or another process is writing there.
        ShardError: what was made is not what `dataset.json` lists.
    """
    with output.lock():
        checked, findings = check_folder(
            output.path(),
            deep=True,
            on_frames=lambda count: on_progress(ProgressEvent("checked", amount=Amount(frames=count))),
        )
        if retry_rejected:
            checked = [_as_broken(shard) for shard in checked]
            findings = list(dict.fromkeys([*(what for shard in checked for what in shard.findings), *findings]))
        if not findings:
            return Diagnosis(output.place(), (), (), (), {}, dataset_json=False)
        plan = _plan_for(checked, findings, replan)
        found = diagnose(plan, output, checked, findings)
        if retry_rejected:
            found = _with_neighbours(plan, found)
        for finding in found.findings:
            on_progress(ProgressEvent("finding", str(finding)))
        announce(plan, found.broken, output, on_progress)
        _rebuild(plan, found, output=output, executor=executor, on_progress=on_progress)
        for name in found.extra if remove_extra else ():
            for file in (record_name(name), name):
                if output.size(file) is not None:
                    output.delete(file)
        return found


def _as_broken(shard: CheckedShard) -> CheckedShard:
    """Treat a shard with rejected frames as broken (--retry-rejected)."""
    if shard.record is None or not shard.record.rejected:
        return shard
    finding = Finding(str(shard.tar), f"lost {len(shard.record.rejected)} frames when it was made.")
    return replace(shard, findings=(*shard.findings, finding))


def _with_neighbours(plan: ConversionPlan, found: Diagnosis) -> Diagnosis:
    """Add the shards that share a trajectory with a broken one, for its differences."""
    concerned = {clip.trajectory.name for shard in found.broken for clip in shard.clips}
    broken = [shard for shard in plan.shards if any(clip.trajectory.name in concerned for clip in shard.clips)]
    names = {shard.name for shard in broken}
    whole = {name: record for name, record in found.whole.items() if name not in names}
    return replace(found, broken=tuple(broken), whole=whole, dataset_json=True)  # which lists fewer rejections now


def _plan_for(
    checked: Sequence[CheckedShard], findings: Sequence[Finding], replan: Callable[[], ConversionPlan]
) -> ConversionPlan:
    try:
        return replan()
    except DataError as error:
        broken = {shard.name for shard in checked if shard.findings}
        files = sorted(broken or {Path(finding.file).name for finding in findings})
        raise DataError(f"cannot be repaired without raw data: {', '.join(files)}; {error}") from error


def diagnose(
    plan: ConversionPlan, output: OutputDir, checked: Sequence[CheckedShard], findings: Sequence[Finding]
) -> Diagnosis:
    """Decide what to do; raises UsageError if the raw data is not what shards were made of."""
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
                f"{redact(plan.raw)} holds now; repair needs the raw data as it was."
            )
        else:
            whole[name] = there.record
    return Diagnosis(
        place=output.place(),
        findings=tuple(findings),
        broken=tuple(broken),
        extra=tuple(sorted(by_name.keys() - planned.keys())),
        whole=whole,
        dataset_json=_dataset_record(output) is None or (not broken and _is_stale(plan, output, whole)),
    )


def _is_stale(plan: ConversionPlan, output: OutputDir, records: Mapping[str, ShardRecord]) -> bool:
    expected = summarise(plan, [records[shard.name] for shard in plan.shards]).to_bytes()
    return output.read(DATASET_FILE) != expected


def _dataset_record(output: OutputDir) -> DatasetRecord | None:
    """Read `dataset.json`; None if it is missing or damaged."""
    try:
        return DatasetRecord.from_bytes(output.read(DATASET_FILE), where=output.place(DATASET_FILE))
    except (FileNotFoundError, ShardError):
        return None


def _rebuild(
    plan: ConversionPlan, found: Diagnosis, *, output: OutputDir, executor: Executor, on_progress: OnProgress
) -> None:
    refuse_lost(plan, found.broken)
    listed = _dataset_record(output)
    for shard in found.broken:  # a shard without record is none: should this run die, the next finds what is to do
        if output.size(record_name(shard.name)) is not None:
            output.delete(record_name(shard.name))
    records = dict(found.whole)
    made = make_verified(plan, found.broken, {}, output=output, executor=executor, on_progress=on_progress)
    with contextlib.closing(made):
        for name, record in made:
            records[name] = record
    if listed is not None and not found.dataset_json:
        _compare(listed, summarise(plan, [records[shard.name] for shard in plan.shards]), output, on_progress)
    if output.size(PLAN_FILE) is not None:
        save_plan(plan, output)
    write_dataset_record(plan, output, records)


def _made_the_same(record: DatasetRecord) -> DatasetRecord:
    """Return what of a record every release writes alike: its tar."""
    shards = tuple(replace(item, record_sha256="") for item in record.shards)
    counts = {name: value for name, value in record.totals.items() if name != "clamped_far"}
    return replace(record, shards=shards, totals=counts)


def _counts(record: DatasetRecord) -> list[tuple[str, str, int, int]]:
    return [(item.split, item.name, item.clips, item.frames) for item in record.shards]


def _compare(listed: DatasetRecord, made: DatasetRecord, output: OutputDir, on_progress: OnProgress) -> None:
    """Raise ShardError if shards were not made as before: the raw data has changed.

    Another encoder of video writes other bytes of the same frames; that is told, and what was made, and read back
    whole, is recorded.
    """
    if _made_the_same(listed) == _made_the_same(made):
        return
    tars = {item.sha256 for item in listed.shards}
    other = [f"{item.split}/{item.name}" for item in made.shards if item.sha256 not in tars]
    before, now = listed.totals.get("encoders"), made.totals.get("encoders")
    if before != now and _counts(listed) == _counts(made):
        notice = f"{', '.join(other)}: not the same bytes as before, since the encoder is another: {before}, then {now}"
        on_progress(ProgressEvent("notice", notice))
        return
    raise ShardError(
        f"{output.place(DATASET_FILE)}: does not list what could be made again ({', '.join(other) or 'rejections'} "
        "differ): the raw data, or this program, is not what it was; convert again into another --out."
    )


# ---------------------------------------------------------------------------------------------- what is to be repaired


def stored_options(output: OutputDir, *, dataset: str) -> dict[str, Any] | None:
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


def _all_options(output: OutputDir) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Yield the intact files that hold options: name, options, data set if it is said."""
    for name in _candidates(output.names(*FINISHED_FILES)):
        where = output.place(name)
        try:
            if name == DATASET_FILE:
                record = DatasetRecord.from_bytes(output.read(name), where=where)
                yield name, dict(record.options), record.dataset
            elif name == PLAN_FILE:
                yield name, *parse_header(output.read(name), where=where)
            else:
                yield name, dict(ShardRecord.from_bytes(output.read(name), where=where).options), ""
        except (FileNotFoundError, ShardError):
            continue


def _candidates(names: Iterable[str]) -> list[str]:
    return [DATASET_FILE, PLAN_FILE, *(name for name in names if name.endswith(".json") and name != DATASET_FILE)]


# -------------------------------------------------------------------------------------- the options and the plan of it

_KEYS = {
    "diffs": "diff",
    "diff_scale": "diff",
    "depth_error": "depth",
    "profile": "depth",
}  # where records call an option otherwise


def options_for_repair(
    options: ConversionOptions, output: OutputDir, dataset: str, *, given: Iterable[str]
) -> tuple[Settings, Selection]:
    """Return the options that shards were made with; UsageError if others were `given`."""
    stored = stored_options(output, dataset=dataset)
    if stored is None:
        return options.settings(), options.selection()
    said = options_of(options.settings(), options.selection(), _manifest.load(dataset))
    for name in sorted({*given} - {"raw"}):
        key = _KEYS.get(name, name)
        if said.get(key) != stored.get(key):
            raise UsageError(
                f"--{name.replace('_', '-')}: the shards in {output.place()} were made with {key} = {stored.get(key)}; "
                "leave the option out."
            )
    return settings_of(stored, dataset=dataset)


def plan_again(
    dataset: str, *, raw: str, settings: Settings, selection: Selection, output: OutputDir
) -> ConversionPlan:
    """Make the plan that the shards were made by."""
    try:
        return prepare(dataset, raw=raw, settings=settings, selection=selection, output=output).plan
    except ShardError:  # the saved plan is damaged: if all raw data is still there, it can be made from that
        return make_plan(dataset, raw=raw, settings=settings, selection=selection, output=output.path())
