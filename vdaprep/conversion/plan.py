"""Plan a conversion: list the raw data, cut clips, fill shards; no frame is read."""

import functools
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vdaprep import sources
from vdaprep.conversion.clips import PlannedShard, plan_shards, runs, taken
from vdaprep.conversion.options import Selection, Settings, options_of
from vdaprep.errors import DataError, UsageError
from vdaprep.raw.files import Location
from vdaprep.raw.frames import SourceOptions, Trajectory
from vdaprep.raw.tree import Archive, OnListing, Tree, open_tree
from vdaprep.raw.walking import is_of_system
from vdaprep.shards.names import DATASET_FILE, find_alike, is_written_by_conversion
from vdaprep.shards.records import Rejection
from vdaprep.sources import _manifest
from vdaprep.sources._manifest import Manifest
from vdaprep.sources._slots import Found
from vdaprep.storage.documents import path_problem
from vdaprep.storage.paths import StoragePath
from vdaprep.storage.urls import is_url, redact

_NAMED = 5  # trajectories in an error


@dataclass(frozen=True)
class ConversionPlan:
    """What a conversion will do: a pure function of the raw data's listing and the options."""

    dataset: str
    """Name of the data set."""
    raw: str
    """Path or URLs of the raw data; may hold secrets."""
    settings: Settings
    """What decides bytes."""
    options: dict[str, Any]
    """Settings and selection as records hold them."""
    shards: tuple[PlannedShard, ...]
    """The shards, by split and number."""
    splits: dict[str, list[str]]
    """Names of the trajectories of each split."""
    rejected: tuple[Rejection, ...]
    """What of the raw data cannot be used, as far as the listing shows it."""

    @property
    def num_frames(self) -> int:
        """Frames of all shards, if none is rejected."""
        return sum(shard.num_frames for shard in self.shards)


@dataclass(frozen=True)
class RawData:
    """The trajectories of a raw tree, listed but not read."""

    dataset: str
    """Name of the data set."""
    raw: str
    """Path or URLs of the raw data; may hold secrets."""
    trajectories: tuple[Trajectory, ...]
    """All that were found."""
    problems: tuple[Rejection, ...]
    """Files that cannot be used."""
    files: Mapping[str, Location] = field(default_factory=dict[str, Location])
    """All files, by their path."""
    others: tuple[str, ...] = ()
    """Paths of the files that are no part of any trajectory's layout."""
    archives: Mapping[str, Archive] = field(default_factory=dict[str, Archive])
    """The archives that were listed, by their path below the root or URL."""
    unopened: int = 0
    """Number of archives that were not opened, as they hold nothing that is wanted."""
    passed_over: tuple[str, ...] = ()
    """Folders of shards below the root, this conversion's or another's; they are no raw data."""

    def plan(self, settings: Settings, selection: Selection) -> ConversionPlan:
        """Decide which frames form which shard; raises DataError if a glob takes none."""
        facts = _manifest.load(self.dataset)
        trajectories = self._select(selection, facts)
        by_split: defaultdict[str, list[Trajectory]] = defaultdict(list)
        for trajectory in trajectories:
            by_split[selection.split_of(trajectory.name, facts)].append(trajectory)
        alike = find_alike(self.dataset, (item.name for item in trajectories))
        planned = [
            plan_shards(
                items,
                split=split,
                clip_frames=settings.clip_frames,
                frames_per_shard=settings.frames_per_shard,
                stride=settings.frame_stride,
                first_frames=settings.first_frames,
                alike=alike,
            )
            for split, items in sorted(by_split.items())
        ]
        return ConversionPlan(
            dataset=self.dataset,
            raw=self.raw,
            settings=settings,
            options=options_of(settings, selection, facts),
            shards=tuple(shard for of_split in planned for shard in of_split),
            splits={split: sorted(item.name for item in items) for split, items in sorted(by_split.items())},
            rejected=(
                *self.problems,
                *(problem for item in trajectories for problem in item.problems),
                *_holes(trajectories, settings),
            ),
        )

    def _select(self, selection: Selection, facts: Manifest) -> list[Trajectory]:
        found = [item for item in self.trajectories if selection.takes(item.name, facts)]
        default = "the default selection" if selection.splits == "default" else f"--splits {selection.splits}"
        asked = [] if found else [default]
        # Of a benchmark's scenes some may be missing here: which, the benchmark says.
        scenes = tuple(facts.benchmark.get("select", ()))
        needed = [glob for glob in selection.select if not (found and glob in scenes) and not self._has(glob)]
        asked = [f"--select {glob}" for glob in needed] or asked
        if selection.select == scenes and scenes and not found:
            asked = [f"what the benchmark needs ({', '.join(scenes[:_NAMED])}{', ...' * (len(scenes) > _NAMED)})"]
        if not selection.select:  # what is held out need not be among what is selected
            asked += [f"--val {glob}" for glob in selection.val if not self._has(glob)]
        if asked:
            names = ", ".join(item.name for item in self.trajectories[:_NAMED])
            raise DataError(
                f"{redact(self.raw)}: {asked[0]} takes none of its {len(self.trajectories)} trajectories; "
                f"there are, for example, {names}."
            )
        return found

    def _has(self, glob: str) -> bool:
        return any(_manifest.matches(item.name, (glob,)) for item in self.trajectories)


def make_plan(
    dataset: str, *, raw: str | Path, settings: Settings, selection: Selection, output: StoragePath | None = None
) -> ConversionPlan:
    """List the raw tree, a path or URLs, and put frames into shards; no frame is read.

    Raises DataError, saying what was looked for and how to get it, if there is nothing to convert.
    """
    found = find_raw(dataset, raw=raw, options=settings.source, selection=selection, output=output)
    return found.plan(settings, selection)


def find_raw(
    dataset: str,
    *,
    raw: str | Path,
    options: SourceOptions,
    selection: Selection = Selection(),  # noqa: B008 - frozen
    on_listing: OnListing = lambda archive, done, size: None,
    output: StoragePath | None = None,
) -> RawData:
    """List a raw tree, a path or URLs; raises DataError if it holds no trajectory.

    Where `selection` has globs or a split set, archives whose places name other trajectories are not opened. `output`,
    the folder of the data set's shards, may lie in the tree and is passed over; raises UsageError if it holds anything
    else.
    """
    tree, found = _find(dataset, str(raw), options, selection, on_listing, _folders_of_shards(output))
    place = redact(str(raw)) if is_url(str(raw)) else str(tree.root)
    trajectories, unnamable = _namable(found.trajectories)
    if not trajectories:
        raise DataError(f"{place}: no trajectory can be converted: {unnamable[0].file} {unnamable[0].reason}.")
    return RawData(
        dataset=dataset,
        raw=place,
        trajectories=trajectories,
        problems=(*tree.problems, *unnamable),
        files=tree.files,
        others=found.others,
        archives=tree.archives,
        unopened=len(tree.unopened),
        passed_over=tree.passed_over,
    )


def _namable(found: Sequence[Trajectory]) -> tuple[tuple[Trajectory, ...], list[Rejection]]:
    """Leave out, as problems, the trajectories whose names no shard can hold."""
    problems = {item.name: problem for item in found if (problem := _name_problem(item.name))}
    rejected: list[Rejection] = []
    for item in found:
        if item.name in problems:
            first = _first_file(item)
            advice = "unpack it and rename the folder" if first.container else "rename its folder"
            reason = f"is of a trajectory whose name {problems[item.name]}; {advice}"
            rejected.append(Rejection(str(first), reason))
    return tuple(item for item in found if item.name not in problems), rejected


def _name_problem(name: str) -> str | None:
    # A tree's paths have no backslashes but those of bytes that are spelt out.
    return "is not UTF-8" if "\\x" in name else path_problem(name)


def _first_file(trajectory: Trajectory) -> Location:
    location = trajectory.frames[0].rgb or trajectory.frames[0].depth
    assert location is not None  # a frame has at least one file
    return location


def _folders_of_shards(output: StoragePath | None) -> list[Path]:
    """Return a data set's folder, and others beside it that hold shards alone."""
    if not isinstance(output, Path):
        return []
    others = (output.parent / name for name in sources.names() if name != output.name)
    return [output, *(place for place in others if (place / DATASET_FILE).is_file() and not _strange(place))]


def _expect_only_shards(output: Path) -> None:
    if found := _strange(output):
        raise UsageError(
            f"{output}: lies in the raw data and would be passed over, but it holds {found}, which no conversion "
            "writes; choose another --out."
        )


def _strange(output: Path) -> str:
    """Name a file in a folder that no conversion writes there; empty if there is none."""
    files = (Path(folder, name) for folder, _, names in os.walk(output) for name in names)
    paths = (file.relative_to(output).as_posix() for file in files)
    return next((path for path in paths if not is_written_by_conversion(path) and not is_of_system(path)), "")


def _find(
    dataset: str,
    raw: str,
    options: SourceOptions,
    selection: Selection,
    on_listing: OnListing,
    outputs: Sequence[Path],
) -> tuple[Tree, Found]:
    facts, source = _manifest.load(dataset), sources.load(dataset)
    facts.render_pass(options.render_pass)
    facts.pairing(options.pairing)
    taken = is_url(raw) or Path(raw).is_file() or (Path(raw).is_dir() and any(Path(raw).iterdir()))
    place = f"raw/{dataset}" if taken else raw
    advice = f"looked for {source.EXPECTED}; get {facts.title} from {facts.home}"
    if sources.has_sample(dataset):
        advice += f" or make a small sample: vdaprep sample {dataset} --out {place}"
    if not is_url(raw) and not Path(raw).exists():
        raise DataError(f"{redact(raw)}: there is no such folder; {advice}")
    tree = open_tree(raw, on_listing, _wants(selection, facts), outputs)
    if tree.passed_over:
        _expect_only_shards(outputs[0])
    found = source.find_trajectories(tree, options)
    if not found.trajectories and tree.unopened:
        return _find(dataset, raw, options, Selection(), on_listing, outputs)  # so that an error can say what there is
    if found.refusal:
        raise DataError(f"{redact(raw)}: {found.refusal}.")
    if not found.trajectories:
        unreadable = "".join(f"; {problem.file} {problem.reason}" for problem in tree.problems[:3])
        others = "".join(f"; it looks like {name}" for name in _looks_like(tree))
        there = f" ({', '.join(sorted(tree.files)[:3])})" if tree.files else ""
        raise DataError(
            f"{redact(raw)}: no {facts.title} trajectory among {len(tree.files)} files{there}{others}{unreadable}; "
            f"{advice}"
        )
    return tree, found


def _wants(selection: Selection, facts: Manifest) -> Callable[[str, str], bool]:
    """Return what tells of an archive, by its place and its first member, whether to open it."""
    if not selection.select and selection.splits == "default":
        return lambda archive, first: True
    return functools.partial(sources.may_hold, facts.name, functools.partial(selection.takes, facts=facts))


def _looks_like(tree: Tree) -> list[str]:
    """Name the data sets that do find trajectories; those of any images if no other does."""
    found = [
        name for name in sources.names() if sources.load(name).find_trajectories(tree, SourceOptions()).trajectories
    ]
    return [name for name in found if _manifest.load(name).depth["kind"] != "relative"] or found


def _holes(trajectories: Iterable[Trajectory], settings: Settings) -> list[Rejection]:
    holes: list[Rejection] = []
    stride = settings.frame_stride
    for trajectory in trajectories:
        numbers = trajectory.frame_ids
        ids = [numbers[index] for index in taken(trajectory, stride=stride, first_frames=settings.first_frames)]
        found = runs(ids, stride=stride)
        for (_, stop), (start, _) in zip(found, found[1:], strict=False):
            missing = f"{ids[stop - 1] + stride} to {ids[start] - stride}"
            holes.append(Rejection(trajectory.name, f"has no files of frames {missing}; clips are cut there"))
    return holes
