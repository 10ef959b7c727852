"""Tars against their records, records against `dataset.json` and each other.

What finds a flipped bit: in a tar the SHA-256 of its record; in a record, in `dataset.json` and in `plan.json` the
checksum that each holds of itself, and for its spelling that JSON is canonical.
"""

import contextlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from vdaprep.analysis.verify_shard import (
    CheckedShard,
    Finding,
    OnFrames,
    check_canonical,
    check_shard,
    finding_of,
    made_again,
)
from vdaprep.errors import ShardError
from vdaprep.shards import reader
from vdaprep.shards.canonical import parse_sealed_json
from vdaprep.shards.dataset import RECORDS, TARS, Paths, as_paths, find_in, find_shards, tars_of
from vdaprep.shards.names import DATASET_FILE, PLAN_FILE
from vdaprep.shards.records import DatasetRecord, Rejection, ShardRecord, ShardSummary, totals
from vdaprep.storage.paths import StoragePath, list_files, read_bytes, sort_paths

_LEFT_OVERS = "*.vdaprep-tmp"


@dataclass(frozen=True)
class VerifyReport:
    """What `verify` looked at, and what is wrong with it."""

    shards: int
    """Shards that were looked at."""
    clips: int
    """Clips that their records list."""
    frames: int
    """Frames of these clips."""
    bytes: int
    """Bytes of the shards."""
    findings: tuple[Finding, ...]
    """What is wrong: file and sentence; empty if nothing is."""
    doubts: tuple[str, ...] = ()
    """What a deep look found that breaks no rule but makes data useless: trajectories of which no depth is known."""

    @property
    def whole(self) -> bool:
        """Whether nothing is wrong."""
        return not self.findings

    def to_json(self) -> dict[str, Any]:
        """Return the facts as JSON has them."""
        return {"whole": self.whole, **asdict(self)}


def count_frames(path: Paths) -> int:
    """Count the frames that the readable records of shards list, for a progress bar."""
    frames = 0
    for tar in find_shards(path):
        with contextlib.suppress(ShardError):
            frames += reader.read_record(tar).num_frames
    return frames


def verify(path: Paths, *, deep: bool = False, on_frames: OnFrames = lambda count: None) -> VerifyReport:
    """Compare shards with their records and `dataset.json`.

    Args:
        path: Folders of data sets, data sets' folders, single shards; or URLs.
        deep: Decode every member as well and compare it with the format.
        on_frames: Called with the number of frames after each clip.

    Returns:
        Everything that is wrong, and how much was looked at.

    Raises:
        ShardError: There are no shards, or they cannot be listed.
        DataError: A server does not answer.
    """
    checked: list[CheckedShard] = []
    findings: list[Finding] = []
    for place in as_paths(path):
        tars, folders = find_in(place)
        by_folder: dict[StoragePath, list[StoragePath]] = {folder: [] for folder in folders}
        for tar in tars:
            by_folder.setdefault(tar.parent.parent, []).append(tar)
        for folder in sort_paths(by_folder):
            whole = folder == place or place in folder.parents
            found, wrong = _check_shards(folder, by_folder[folder], whole=whole, deep=deep, on_frames=on_frames)
            checked += found
            findings += wrong
    records = [shard.record for shard in checked if shard.record is not None]
    return VerifyReport(
        shards=len(checked),
        clips=sum(len(record.clips) for record in records),
        frames=sum(record.num_frames for record in records),
        bytes=sum(record.tar_bytes for record in records),
        findings=tuple(dict.fromkeys(findings)),
        doubts=tuple(_doubts(checked)),
    )


def _doubts(checked: Sequence[CheckedShard]) -> Iterator[str]:
    clips: defaultdict[str, list[bool]] = defaultdict(list)
    for clip in (clip for shard in checked for clip in shard.clips):
        clips[clip.trajectory].append(clip.has_depth)
    for name, known in sorted(clips.items()):
        if not any(known):
            yield (
                f"{name}: no depth is known in any of its {len(known)} clips, all of it is sky or unknown; look at its "
                "raw depth maps, which should be in metres"
            )


def check_folder(folder: StoragePath, *, deep: bool, on_frames: OnFrames) -> tuple[list[CheckedShard], list[Finding]]:
    """Check a data set's folder, which may have no shards; returns the shards and what is wrong."""
    tars = [tar for tar in tars_of(list_files(folder, TARS, RECORDS)) if tar.parent.parent == folder]
    found, findings = _check_shards(folder, tars, whole=True, deep=deep, on_frames=on_frames)
    return found, list(dict.fromkeys(findings))


def _check_shards(
    folder: StoragePath, tars: Sequence[StoragePath], *, whole: bool, deep: bool, on_frames: OnFrames
) -> tuple[list[CheckedShard], list[Finding]]:
    found = [check_shard(tar, deep=deep, on_frames=on_frames) for tar in tars]
    findings = [finding for shard in found for finding in shard.findings]
    findings += _check_dataset(folder, found, whole=whole)
    recoded = any("recoded_from" in shard.record.options for shard in found if shard.record is not None)
    return found, [Finding(item.file, made_again(item.what, recoded=recoded)) for item in findings]


# ----------------------------------------------------------------------------------------------------------- data set


def _check_dataset(folder: StoragePath, checked: Sequence[CheckedShard], *, whole: bool) -> Iterator[Finding]:
    """Compare shards with `dataset.json` and each other; `whole`: the data set has no more."""
    path = folder / DATASET_FILE
    if whole:
        for left in list_files(folder, _LEFT_OVERS):
            yield Finding(str(left), "was left by a run that died; run convert again.")
        yield from _check_across(checked)
        yield from _check_plan(folder / PLAN_FILE)
    try:
        data = read_bytes(path)
        record = DatasetRecord.from_bytes(data, where=str(path))
    except FileNotFoundError:
        if whole:
            yield Finding(str(path), "is missing: the conversion was not finished; run convert again.")
        return
    except ShardError as error:
        yield finding_of(path, error)
        return
    if not all(isinstance(value, dict) for value in (record.options, record.source, record.splits, record.totals)):
        yield Finding(str(path), "its options, source, splits and totals are not all objects.")
        return
    yield from (Finding(str(path), what) for what in check_canonical(data, where=str(path)))
    yield from _check_summaries(folder, record, checked, whole=whole)
    yield from (Finding(str(path), what) for what in _check_clips_of(record, checked))
    if whole and all(shard.record for shard in checked):
        yield from (Finding(str(path), what) for what in _check_totals(record, checked))
        yield from (Finding(str(path), what) for what in _check_splits(record, checked))


def _check_plan(path: StoragePath) -> Iterator[Finding]:
    """Check the plan that `convert --consume` leaves, if it is there."""
    try:
        data = read_bytes(path)
        parse_sealed_json(data, where=str(path))
        yield from (Finding(str(path), what) for what in check_canonical(data, where=str(path)))
    except FileNotFoundError:
        return
    except ShardError as error:
        yield finding_of(path, error)


def _check_across(checked: Sequence[CheckedShard]) -> Iterator[Finding]:
    homes: dict[str, str] = {}
    taken: dict[tuple[str, int], str] = {}
    splits: dict[str, str] = {}
    for shard in checked:
        for entry in () if shard.record is None else shard.record.clips:
            home = homes.setdefault(entry.key, shard.name)
            if home != shard.name:
                yield Finding(str(shard.tar), f"clip {entry.key} is also in {home}.")
        for clip in shard.clips:
            if splits.setdefault(clip.trajectory, clip.split) != clip.split:
                yield Finding(str(shard.tar), f"trajectory {clip.trajectory} is also in {splits[clip.trajectory]}.")
            other = [taken.setdefault((clip.trajectory, i), clip.key) for i in clip.frame_ids]
            if any(key != clip.key for key in other):
                yield Finding(str(shard.tar), f"clip {clip.key} repeats frames of {min({*other} - {clip.key})}.")


def _check_summaries(
    folder: StoragePath, record: DatasetRecord, checked: Sequence[CheckedShard], *, whole: bool
) -> Iterator[Finding]:
    listed = {f"{item.split}/{item.name}": item for item in record.shards}
    if len(listed) != len(record.shards):
        yield Finding(str(folder / DATASET_FILE), "lists a shard twice.")
    for shard in checked:
        item = listed.pop(shard.name, None)
        if item is None:
            yield Finding(str(shard.tar), f"is not listed in {DATASET_FILE}: it does not belong here.")
        elif shard.record is not None:
            yield from (Finding(str(shard.tar), what) for what in _compare(item, _summary(shard, shard.record)))
            if shard.record.options != record.options:
                yield Finding(str(shard.tar), f"was made with other options than {DATASET_FILE} says.")
    for name in listed if whole else ():
        yield Finding(str(folder / name), f"is missing, {DATASET_FILE} lists it.")


def _compare(listed: ShardSummary, found: ShardSummary) -> Iterator[str]:
    there = asdict(found)
    for name, value in asdict(listed).items():
        if value != there[name]:
            yield f"{DATASET_FILE} says {name} {value}, found {there[name]}."


def _summary(shard: CheckedShard, record: ShardRecord) -> ShardSummary:
    return ShardSummary(
        split=shard.tar.parent.name,
        name=shard.tar.name,
        bytes=record.tar_bytes,
        sha256=record.tar_sha256,
        record_sha256=shard.record_sha256,
        clips=len(record.clips),
        frames=record.num_frames,
    )


def _check_clips_of(record: DatasetRecord, checked: Sequence[CheckedShard]) -> Iterator[str]:
    for name in {clip.dataset for shard in checked for clip in shard.clips} - {record.dataset}:
        yield f"is of {record.dataset}, its clips are of {name}."


def _check_totals(record: DatasetRecord, checked: Sequence[CheckedShard]) -> Iterator[str]:
    records = [shard.record for shard in checked if shard.record is not None]
    expected = totals(records)
    for name in sorted({*expected, *record.totals}):
        if record.totals.get(name) != expected.get(name):
            yield f"says {name} {record.totals.get(name)} in all, the records say {expected.get(name)}."
    encoding: list[Rejection] = [rejection for item in records for rejection in item.rejected]
    if encoding and list(record.rejected[-len(encoding) :]) != encoding:
        yield "its list of rejected frames does not end with those of the records."


def _check_splits(record: DatasetRecord, checked: Sequence[CheckedShard]) -> Iterator[str]:
    """Compare the lists of trajectories with the clips, if all were read and are good.

    A trajectory that lost all frames may be listed without a clip.
    """
    found: defaultdict[str, set[str]] = defaultdict(set)
    for clip in (clip for shard in checked for clip in shard.clips):
        found[clip.split].add(clip.trajectory)
    if any(shard.record is None or len(shard.clips) < len(shard.record.clips) for shard in checked):
        return
    for split in sorted({*found, *record.splits}):
        listed = record.splits.get(split, ())
        if sorted(set(listed)) != list(listed):
            yield f"the trajectories of {split} are not in order."
        for name in sorted(found[split] - {*listed}):
            yield f"does not list trajectory {name} in {split}, where its clips are."
        for name in () if record.rejected else sorted({*listed} - found[split]):
            yield f"lists trajectory {name} in {split}, which has no clip."
