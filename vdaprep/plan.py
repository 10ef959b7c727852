"""Which shards a conversion will make: options checked, the raw tree listed, clips cut; no frame is read."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vdaprep import manifest, sources
from vdaprep.archive import Location, OnListing, Tree, open_tree
from vdaprep.clips import PlannedShard, plan_shards, runs, taken
from vdaprep.encode import DIFF_STEP, Encoding
from vdaprep.errors import DataError, UsageError
from vdaprep.frames import SourceOptions, Trajectory
from vdaprep.manifest import Manifest
from vdaprep.ranges import is_url
from vdaprep.schema import MAX_CLIP_FRAMES, DiffSpec, Rejection, canonical_json, parse_json


@dataclass(frozen=True)
class Settings:
    """The options of a conversion that decide its bytes; None as `short_side` keeps the raw size.

    Of a trajectory every `frame_stride`-th frame is taken, by the frames' numbers; differences are to the last taken.
    """

    short_side: int | None = 540
    clip_frames: int = 64
    frames_per_shard: int = 1024
    jpeg_quality: int = 95
    depth_error: float = 0.0005
    diff_scale: int | None = 4
    source: SourceOptions = field(default_factory=SourceOptions)
    frame_stride: int = 1

    def __post_init__(self) -> None:
        _expect(self.short_side is None or self.short_side >= 14, "--short-side", "at least 14 pixels, or native")
        _expect(1 <= self.clip_frames <= MAX_CLIP_FRAMES, "--clip-frames", f"1 to {MAX_CLIP_FRAMES}")
        _expect(self.frames_per_shard >= 1, "--frames-per-shard", "at least 1")
        _expect(1 <= self.jpeg_quality <= 100, "--jpeg-quality", "1 to 100")
        _expect(8e-5 <= self.depth_error <= 0.1, "--depth-error", "0.00008 to 0.1, which 16-bit codes can hold")
        _expect(1 <= self.frame_stride <= 1000, "--frame-stride", "1 to 1000")
        unit_m = self.source.depth_unit_m
        _expect(unit_m is None or 0 < unit_m < 1000, "--depth-unit", "metres of a unit, for example 0.001")
        _expect(self.diff_scale is None or 1 <= self.diff_scale <= 64, "--diff-scale", "1 to 64")

    def encoding(self, facts: Manifest) -> Encoding:
        """Return what decides the bytes of a frame of a data set."""
        return Encoding(
            depth=facts.depth_spec(relative_error=self.depth_error, unit_m=self.source.depth_unit_m),
            short_side=self.short_side,
            jpeg_quality=self.jpeg_quality,
            diff=None if self.diff_scale is None else DiffSpec(self.diff_scale, DIFF_STEP),
        )


@dataclass(frozen=True)
class Selection:
    """Which trajectories are converted, and into which split each goes.

    `select`: globs of names (empty: all but those that the manifest excludes); `splits`: a split set of the manifest;
    `val`: globs that are held out instead of the split set's.
    """

    select: tuple[str, ...] = ()
    splits: str = "default"
    val: tuple[str, ...] = ()

    def takes(self, trajectory: str, facts: Manifest) -> bool:
        """Tell whether a trajectory is to be converted."""
        if self.select:
            return manifest.matches(trajectory, self.select)
        return not manifest.matches(trajectory, facts.exclude)

    def split_of(self, trajectory: str, facts: Manifest) -> str:
        """Return the split of a trajectory."""
        if self.val:
            return "val" if manifest.matches(trajectory, self.val) else "train"
        return facts.split_of(trajectory, splits=self.splits)


@dataclass(frozen=True)
class Plan:
    """Everything that a conversion will do, before it does anything."""

    dataset: str
    raw: str
    settings: Settings
    options: dict[str, Any]
    shards: tuple[PlannedShard, ...]
    splits: dict[str, list[str]]
    rejected: tuple[Rejection, ...]

    @property
    def num_frames(self) -> int:
        """Frames of all shards if none is rejected."""
        return sum(shard.num_frames for shard in self.shards)


@dataclass(frozen=True)
class RawData:
    """The trajectories of a raw tree, found but not read; `raw` is its path or URLs, `files` are all that it holds."""

    dataset: str
    raw: str
    trajectories: tuple[Trajectory, ...]
    problems: tuple[Rejection, ...]
    files: Mapping[str, Location] = field(default_factory=dict[str, Location])

    def plan(self, settings: Settings, selection: Selection) -> Plan:
        """Decide which frames go into which shard; raises DataError if the selection takes no trajectory."""
        facts = manifest.load(self.dataset)
        trajectories = self._select(selection, facts)
        by_split: defaultdict[str, list[Trajectory]] = defaultdict(list)
        for trajectory in trajectories:
            by_split[selection.split_of(trajectory.name, facts)].append(trajectory)
        stride = settings.frame_stride
        cutting = {"clip_frames": settings.clip_frames, "frames_per_shard": settings.frames_per_shard, "stride": stride}
        planned = [plan_shards(items, split=split, **cutting) for split, items in sorted(by_split.items())]
        return Plan(
            dataset=self.dataset,
            raw=self.raw,
            settings=settings,
            options=options_of(settings, selection, facts),
            shards=tuple(shard for of_split in planned for shard in of_split),
            splits={split: sorted(item.name for item in items) for split, items in sorted(by_split.items())},
            rejected=(*self.problems, *_holes(trajectories, stride=stride)),
        )

    def _select(self, selection: Selection, facts: Manifest) -> list[Trajectory]:
        found = [item for item in self.trajectories if selection.takes(item.name, facts)]
        if not found:
            asked = f"--select {' '.join(selection.select)}" if selection.select else "the default selection"
            names = ", ".join(item.name for item in self.trajectories[:5])
            raise DataError(
                f"{self.raw}: {asked} takes none of its {len(self.trajectories)} trajectories; "
                f"there are, for example, {names}."
            )
        return found


def make_plan(dataset: str, *, raw: str | Path, settings: Settings, selection: Selection) -> Plan:
    """List the raw tree, a path or URLs, and decide which frames go into which shard; no frame is read.

    Raises DataError, saying what was looked for and how to get it, if there is nothing to convert.
    """
    return find_raw(dataset, raw=raw, options=settings.source).plan(settings, selection)


def find_raw(
    dataset: str,
    *,
    raw: str | Path,
    options: SourceOptions,
    on_listing: OnListing = lambda archive, done, size: None,
) -> RawData:
    """List a raw tree, a path or URLs; raises DataError, saying how to get one, if it holds no trajectory."""
    tree, found = _find(dataset, str(raw), options, on_listing)
    place = str(raw) if is_url(str(raw)) else str(tree.root)
    return RawData(dataset, place, tuple(found), tree.problems, tree.files)


def _find(dataset: str, raw: str, options: SourceOptions, on_listing: OnListing) -> tuple[Tree, list[Trajectory]]:
    facts, source = manifest.load(dataset), sources.load(dataset)
    taken = is_url(raw) or Path(raw).is_file() or (Path(raw).is_dir() and any(Path(raw).iterdir()))
    place = f"raw/{dataset}" if taken else raw
    advice = (
        f"looked for {source.EXPECTED}; get {facts.title} from {facts.home} "
        f"or make a small sample: vdaprep sample {dataset} --out {place}"
    )
    if not is_url(raw) and not Path(raw).exists():
        raise DataError(f"{raw}: there is no such folder; {advice}")
    tree = open_tree(raw, on_listing)
    trajectories = source.find_trajectories(tree, options)
    if not trajectories:
        unreadable = "".join(f"; {problem.file} {problem.reason}" for problem in tree.problems[:3])
        others = "".join(f"; it looks like {name}" for name in _looks_like(tree))
        raise DataError(
            f"{raw}: no {facts.title} trajectory among {len(tree.files)} files{others}{unreadable}; {advice}"
        )
    return tree, trajectories


def _looks_like(tree: Tree) -> list[str]:
    """Name the data sets that do find trajectories in a tree."""
    return [name for name in sources.names() if sources.load(name).find_trajectories(tree, SourceOptions())]


def _holes(trajectories: Iterable[Trajectory], *, stride: int) -> list[Rejection]:
    holes: list[Rejection] = []
    for trajectory in trajectories:
        ids = [trajectory.frames[index].frame_id for index in taken(trajectory, stride=stride)]
        found = runs(ids, stride=stride)
        for (_, stop), (start, _) in zip(found, found[1:], strict=False):
            missing = f"{ids[stop - 1] + stride} to {ids[start] - stride}"
            holes.append(Rejection(trajectory.name, f"has no files of frames {missing}; clips are cut there"))
    return holes


def options_of(settings: Settings, selection: Selection, facts: Manifest) -> dict[str, Any]:
    """Return settings and selection as records hold them."""
    intrinsics = settings.source.intrinsics
    options = {
        **settings.encoding(facts).to_json(),
        "clip_frames": settings.clip_frames,
        "frames_per_shard": settings.frames_per_shard,
        "frame_stride": settings.frame_stride,
        "camera": settings.source.camera,
        "intrinsics": None if intrinsics is None else list(intrinsics),
        "depth_unit": settings.source.depth_unit_m,
        "select": list(selection.select),
        "splits": selection.splits,
        "val": list(selection.val),
    }
    return parse_json(canonical_json(options), where="options")  # as a record gives them back, to be compared


def settings_of(options: Mapping[str, Any], *, dataset: str) -> tuple[Settings, Selection]:
    """Undo `options_of`; raises UsageError for options that this program does not write."""
    try:
        depth, diff, intrinsics = options["depth"], options["diff"], options["intrinsics"]
        settings = Settings(
            **{name: options[name] for name in ("short_side", "clip_frames", "frames_per_shard", "jpeg_quality")},
            depth_error=depth["relative_error"] or Settings.depth_error,
            diff_scale=None if diff is None else diff["scale"],
            source=SourceOptions(
                camera=options["camera"],
                intrinsics=None if intrinsics is None else tuple(intrinsics),
                depth_unit_m=options["depth_unit"],
            ),
            frame_stride=options["frame_stride"],
        )
        selection = Selection(tuple(options["select"]), options["splits"], tuple(options["val"]))
    except (KeyError, TypeError) as error:
        raise UsageError(f"the options {dict(options)} are of another release of this program.") from error
    if options_of(settings, selection, manifest.load(dataset)) != options:
        raise UsageError(f"the options {dict(options)} are of another release of this program.")
    return settings, selection


def _expect(condition: bool, option: str, expected: str) -> None:
    if not condition:
        raise UsageError(f"{option}: expected {expected}.")
