"""Save a plan beside its shards, to finish them when part of the raw data is gone."""

import functools
from bisect import bisect_left
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from vdaprep.conversion.clips import PlannedClip, PlannedShard, runs
from vdaprep.conversion.options import Selection, Settings, options_of
from vdaprep.conversion.plan import ConversionPlan, RawData, find_raw
from vdaprep.errors import DataError, UsageError
from vdaprep.raw.frames import FrameFiles, Trajectory
from vdaprep.raw.tree import OnListing
from vdaprep.shards.canonical import SCHEMA_VERSION, contract, parse_sealed_json, sealed_json
from vdaprep.shards.names import PLAN_FILE, find_alike
from vdaprep.shards.records import Rejection
from vdaprep.storage.documents import Document, Fields
from vdaprep.storage.output import OutputDir, write_file
from vdaprep.storage.urls import redact


def compare_options(where: str, found: Any, plan: ConversionPlan) -> None:
    """Raise UsageError if `found`, the options in `where`, are not the plan's."""
    names = sorted(name for name in {*found, *plan.options} if found.get(name) != plan.options.get(name))
    if names:
        there = ", ".join(f"{name} = {found.get(name)}" for name in names)
        here = ", ".join(f"{name} = {plan.options.get(name)}" for name in names)
        raise UsageError(f"{where}: was made with {there}; this run has {here}; use the same options or another --out.")


@dataclass(frozen=True)
class LostTrajectory(Trajectory):
    """A trajectory of a saved plan, without its files."""

    first: str = ""
    """A file of its first frame, by which it is found again."""
    incomplete: tuple[tuple[int, str], ...] = ()
    """Frames that lacked a file: (number, `rgb` or `depth`)."""


@dataclass(frozen=True)
class Prepared:
    """A plan, and the raw data that it is for."""

    plan: ConversionPlan
    """The plan, made now or read from its file."""
    found: RawData | None
    """The raw data; None if there is none any more."""


def prepare(
    dataset: str,
    *,
    raw: str,
    settings: Settings,
    selection: Selection,
    output: OutputDir,
    on_listing: OnListing = lambda archive, done, size: None,
) -> Prepared:
    """List raw data and make a plan, or take the one that `--consume` left there.

    Raises UsageError if that was made with other options; DataError if there is nothing to convert, and no such plan.
    """
    find = functools.partial(
        find_raw,
        dataset,
        raw=raw,
        options=settings.source,
        selection=selection,
        on_listing=on_listing,
        output=output.path(),
    )
    if output.size(PLAN_FILE) is None:
        found = find()
        return Prepared(found.plan(settings, selection), found)
    where = output.place(PLAN_FILE)
    saved = parse_plan(output.read(PLAN_FILE), where=where, raw=raw, settings=settings)
    if saved.dataset != dataset:
        raise UsageError(f"{where}: is of {saved.dataset}, not of {dataset}; choose another --out.")
    compare_options(where, saved.options, replace(saved, options=_options(dataset, settings, selection)))
    try:
        found = find()
    except (DataError, UsageError):  # nothing, or nothing of this camera: it may not be needed any more
        return Prepared(saved, None)
    return Prepared(bind(replace(saved, raw=found.raw), found.trajectories), found)


def _options(dataset: str, settings: Settings, selection: Selection) -> dict[str, Any]:
    from vdaprep.sources import _manifest

    return options_of(settings, selection, _manifest.load(dataset))


def save_plan(plan: ConversionPlan, output: OutputDir) -> None:
    """Write the plan beside its shards, if it is not there; UsageError if it is too large."""
    if plan.num_frames > MAX_PLANNED_FRAMES:
        raise UsageError(
            f"--consume: the plan has {plan.num_frames} frames, more than the {MAX_PLANNED_FRAMES} that can be saved; "
            "convert a part of the trajectories at a time, with --select."
        )
    data = plan_bytes(plan)
    if output.size(PLAN_FILE) is None or output.read(PLAN_FILE) != data:
        write_file(output, PLAN_FILE, data)


def refuse_another_plan(plan: ConversionPlan, output: OutputDir) -> None:
    """Raise UsageError if the plan that was saved is not this one."""
    if output.size(PLAN_FILE) is not None and output.read(PLAN_FILE) != plan_bytes(plan):
        raise UsageError(f"{output.place(PLAN_FILE)}: has changed since this run began; run the same command again.")


def refuse_lost(plan: ConversionPlan, shards: Iterable[PlannedShard]) -> None:
    """Raise DataError if raw data of these shards, which are to be made, is missing."""
    lost = {
        shard.name: clip.trajectory.name
        for shard in shards
        for clip in shard.clips
        if isinstance(clip.trajectory, LostTrajectory)
    }
    if lost:
        names = ", ".join(list(lost)[:5]) + (", ..." if len(lost) > 5 else "")
        raise DataError(
            f"{redact(plan.raw)}: does not hold trajectory {next(iter(lost.values()))} as it did when the conversion "
            f"began, so {len(lost)} shards cannot be made: {names}; put the raw data back, or choose another --out to "
            "convert what there is."
        )


# ------------------------------------------------------------------------------------------------------------ the file


def plan_bytes(plan: ConversionPlan) -> bytes:
    """Serialise a plan; where raw data lies is not in it."""
    trajectories = {clip.trajectory.name: clip.trajectory for shard in plan.shards for clip in shard.clips}
    numbers = {name: number for number, name in enumerate(trajectories)}
    return sealed_json(
        {
            "schema_version": SCHEMA_VERSION,
            "dataset": plan.dataset,
            "options": plan.options,
            "splits": plan.splits,
            "rejected": [asdict(item) for item in plan.rejected],
            "trajectories": [_trajectory_to_json(item) for item in trajectories.values()],
            "shards": [_shard_to_json(shard, numbers) for shard in plan.shards],
        }
    )


def _trajectory_to_json(trajectory: Trajectory) -> dict[str, Any]:
    lost = _without_files(trajectory)
    ids = lost.frame_ids
    return {
        "name": lost.name,
        "layout": lost.layout,
        "frames": [[ids[start], ids[stop - 1]] for start, stop in runs(ids)],
        "first": lost.first,
        "incomplete": [list(item) for item in lost.incomplete],
    }


def _shard_to_json(shard: PlannedShard, numbers: Mapping[str, int]) -> dict[str, Any]:
    clips = [[numbers[item.trajectory.name], item.start, item.stop, item.after_gap] for item in shard.clips]
    return {"split": shard.split, "number": shard.number, "clips": clips}


MAX_PLANNED_FRAMES = 4_000_000
"""Frames of a plan that is saved: some 400 MB when it is read."""
_MAX_NUMBER = 10**9


def parse_plan(data: bytes, *, where: str, raw: str, settings: Settings) -> ConversionPlan:
    """Parse what `plan_bytes` wrote, without trajectories' files; raises ShardError."""
    document = parse_sealed_json(data, where=where)
    with contract(where):
        options, dataset = document.mapping("options"), document.name("dataset")
        splits = document.mapping("splits")
        trajectories = _trajectories_from_json(document)
        alike = find_alike(dataset, (item.name for item in trajectories))
        clips = _Clips(trajectories, options.integer("frame_stride", 1, 1000), alike)
        return ConversionPlan(
            dataset=dataset,
            raw=raw,
            settings=settings,
            options=dict(options.values),
            shards=tuple(clips.of_shard(item) for item in document.mappings("shards", at_most=MAX_PLANNED_FRAMES)),
            splits={name: splits.path_names(name, at_most=MAX_PLANNED_FRAMES) for name in splits.names("a split")},
            rejected=tuple(
                Rejection(item.text("file"), item.text("reason"))
                for item in document.mappings("rejected", at_most=MAX_PLANNED_FRAMES)
            ),
        )


def parse_header(data: bytes, *, where: str) -> tuple[dict[str, Any], str]:
    """Return the options and the data set of a saved plan; raises ShardError if damaged."""
    document = parse_sealed_json(data, where=where)
    with contract(where):
        return dict(document.mapping("options").values), document.name("dataset")


def _trajectories_from_json(document: Document) -> list[LostTrajectory]:
    found: list[LostTrajectory] = []
    left = MAX_PLANNED_FRAMES
    for fields in document.mappings("trajectories", at_most=MAX_PLANNED_FRAMES):
        ranges = _ranges(fields)
        left -= sum(last - first + 1 for first, last in ranges)
        if left < 0:  # before they are listed
            fields.fail("frames", f"are more than {MAX_PLANNED_FRAMES} together with those before")
        found.append(
            LostTrajectory(
                name=fields.path_name("name"),
                layout=fields.text("layout"),
                frames=tuple(FrameFiles(i, None, None) for first, last in ranges for i in range(first, last + 1)),
                first=fields.text("first"),
                incomplete=tuple(_incomplete(fields)),
            )
        )
    if len({item.name for item in found}) < len(found):
        document.fail("trajectories", "hold a name twice")
    return found


def _ranges(fields: Fields) -> list[tuple[int, int]]:
    """Return the ranges of frame numbers, which ascend, both ends included."""
    bounds = fields.numbers("frames", (None, 2)).ravel()
    first, last = bounds[::2], bounds[1::2]
    ascend = bool((first <= last).all() and (first[1:] > last[:-1]).all() and (bounds == bounds.round()).all())
    if not (len(bounds) and ascend and bounds[0] >= 0 and bounds[-1] < _MAX_NUMBER):
        fields.fail("frames", "are no ranges of frame numbers that ascend")
    return [(int(low), int(high)) for low, high in zip(first, last, strict=True)]


def _incomplete(fields: Fields) -> Iterator[tuple[int, str]]:
    for item in fields.list("incomplete", at_most=MAX_PLANNED_FRAMES):
        match item:
            case [int() as number, "rgb" | "depth" as kind]:
                yield number, kind
            case _:
                fields.fail("incomplete", "holds what is no frame number with rgb or depth")


@dataclass(frozen=True)
class _Clips:
    """Makes the clips of shards, of these trajectories."""

    trajectories: Sequence[LostTrajectory]
    stride: int
    alike: Container[str]

    def of_shard(self, fields: Fields) -> PlannedShard:
        """Return the shard that the fields describe."""
        clips: list[PlannedClip] = []
        for item in fields.list("clips", at_most=MAX_PLANNED_FRAMES):
            clip = self._clip(item)
            if clip is None:
                fields.fail("clips", "holds one that is not within its trajectory")
            clips.append(clip)
        if not clips:
            fields.fail("clips", "is empty")
        return PlannedShard(fields.name("split"), fields.integer("number", 1, _MAX_NUMBER), tuple(clips))

    def _clip(self, item: object) -> PlannedClip | None:
        match item:
            case [int() as number, int() as start, int() as stop, bool() as gap]:
                pass
            case _:
                return None
        if not 0 <= number < len(self.trajectories):
            return None
        trajectory = self.trajectories[number]
        if not 0 <= start < stop <= len(trajectory.frames):
            return None
        before = trajectory.frames[start].frame_id - self.stride
        place = bisect_left(trajectory.frames, before, key=lambda frame: frame.frame_id)
        if not gap and (place >= start or trajectory.frames[place].frame_id != before):
            return None
        return PlannedClip(trajectory, start, stop, gap, self.stride, trajectory.name in self.alike)


# ------------------------------------------------------------------------------------------------------- the raw data


def bind(plan: ConversionPlan, trajectories: Iterable[Trajectory]) -> ConversionPlan:
    """Give the trajectories of a saved plan their files back, as far as all of them are there."""
    by_first = {_without_files(item).first: item for item in trajectories}
    bound: dict[str, Trajectory] = {}

    def of(lost: Trajectory) -> Trajectory:
        if lost.name not in bound:
            assert isinstance(lost, LostTrajectory)  # the plan was just read
            there = by_first.get(lost.first)
            # A name may depend on what else there is; that of the plan is kept.
            named = lost if there is None else replace(there, name=lost.name)
            bound[lost.name] = named if _without_files(named) == lost else lost
        return bound[lost.name]

    shards = [
        replace(shard, clips=tuple(replace(clip, trajectory=of(clip.trajectory)) for clip in shard.clips))
        for shard in plan.shards
    ]
    return replace(plan, shards=tuple(shards))


def _without_files(trajectory: Trajectory) -> LostTrajectory:
    if isinstance(trajectory, LostTrajectory):
        return trajectory
    frames = trajectory.frames
    lacking = [(frame.frame_id, kind) for frame in frames for kind in ("rgb", "depth") if getattr(frame, kind) is None]
    return LostTrajectory(
        name=trajectory.name,
        layout=trajectory.layout,
        frames=tuple(FrameFiles(frame.frame_id, None, None) for frame in frames),
        first=str(frames[0].rgb or frames[0].depth),
        incomplete=tuple(lacking),
    )
