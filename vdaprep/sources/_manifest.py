"""The facts about a raw data set, read from its TOML file."""

import functools
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from vdaprep.errors import UsageError
from vdaprep.raw.frames import Pairing
from vdaprep.shards.metadata import DepthSpec
from vdaprep.shards.records import DataTerms

_EXCLUDE = "exclude"


@dataclass(frozen=True)
class Manifest:
    """The facts about a raw data set."""

    name: str
    """Name on the command line."""
    title: str
    """Name in sentences."""
    home: str
    """Where to get it."""
    licence: str
    """Licence of the data."""
    commercial: bool
    """Whether the licence allows commercial use; false where it is not stated."""
    citation: str
    """Whom to cite: authors, title, venue and year."""
    depth: Mapping[str, Any]
    """Depth code: the arguments of DepthSpec but for its error."""
    evaluation_max_m: float
    """Depth beyond this is left out of evaluations."""
    versions: tuple[Mapping[str, Any], ...]
    """Facts of each version: name, frames, trajectories, size, intrinsics, archives, download_gb, as far as known.

    A version with a licence of its own says so, and which `layout` of raw data it is, in Trajectory's words.
    """
    splits: Mapping[str, Mapping[str, tuple[str, ...]]]
    """Split sets: {set: {split: globs of trajectories}}; the first split counts, what no glob matches is `train`.

    The split `exclude` is not converted.
    """
    exclude: tuple[str, ...]
    """Globs of trajectories that are converted only on request."""
    kib_per_frame: Mapping[str, int | float]
    """Size of a frame in a shard, about, by storage profile; without those that were not measured."""
    takes_depth_unit: bool
    """Whether users give the unit of integer depth."""
    passes: tuple[str, ...]
    """Renderings of the images, one of which is converted: by default the first; empty where there is but one."""
    timed: bool
    """Whether images and depth maps are named by time, so that users may say how they are paired."""
    has_cuts: bool
    """Whether frames that follow each other by number may show different places: clips are cut there."""
    not_needed: tuple[str, ...]
    """Files of the data set that are not converted: globs of lower-case paths that begin with `/`."""
    benchmark: Mapping[str, Any]
    """What `--for benchmark` takes: `select`, globs of trajectories, and `frames` of each; empty: it is in none."""

    def depth_spec(self, *, relative_error: float, unit_m: int | float | None = None) -> DepthSpec:
        """Return this data set's depth code; `relative_error` counts only where it has one.

        `unit_m` is what the user says a unit of integer depth is: integers are kept, then. Raises UsageError if the
        data set knows its own.
        """
        if unit_m is not None and not self.takes_depth_unit:
            raise UsageError(f"--depth-unit: the depth of {self.title} has a unit of its own; leave the option out.")
        if unit_m is not None:
            return DepthSpec("linear", 0.0, unit_m=float(unit_m))
        return DepthSpec(**self.depth, relative_error=relative_error if self.depth["kind"] == "log" else 0.0)

    def render_pass(self, wanted: str) -> str:
        """Return the pass that is converted if `wanted` is asked for: the first if that is empty.

        Empty for data sets without passes. Raises UsageError for a pass that there is not.
        """
        if wanted and not self.passes:
            raise UsageError(f"--pass {wanted}: {self.title} has no passes; leave the option out.")
        if wanted and wanted not in self.passes:
            raise UsageError(f"--pass {wanted}: {self.title} has the passes {' and '.join(self.passes)}.")
        return wanted or next(iter(self.passes), "")

    def pairing(self, wanted: Pairing) -> Pairing | None:
        """Return how images and depth maps are paired if `wanted` is asked for; None without times.

        Raises UsageError if there is nothing to pair otherwise.
        """
        if wanted != "time" and not self.timed:
            raise UsageError(f"--pairing {wanted}: {self.title} is not paired by time; leave the option out.")
        return wanted if self.timed else None

    def version(self, name: str) -> Mapping[str, Any]:
        """Return the facts of a version that the manifest lists."""
        return next(version for version in self.versions if version["name"] == name)

    def terms(self, layouts: Collection[str]) -> DataTerms:
        """Return the terms of data with these layouts: of their versions, where these have own ones."""
        own = {version["layout"]: version for version in self.versions if "layout" in version}
        if not layouts or not own.keys() >= set(layouts):
            return DataTerms(self.name, self.licence, self.citation, self.commercial)
        found = [own[layout] for layout in sorted(layouts)]
        licences = dict.fromkeys(version["licence"] for version in found)
        return DataTerms(self.name, "; ".join(licences), self.citation, all(version["commercial"] for version in found))

    def split_of(self, trajectory: str, *, splits: str) -> str | None:
        """Return a trajectory's split in the split set `splits`, None if it is not converted.

        Raises UsageError without that set.
        """
        for split, globs in self.split_set(splits).items():
            if matches(trajectory, globs):
                return None if split == _EXCLUDE else split
        return "train"

    def split_set(self, name: str) -> Mapping[str, tuple[str, ...]]:
        """Return the globs of a split set by split; raises UsageError without that set."""
        if name not in self.splits:
            known = ", ".join(sorted(self.splits))
            raise UsageError(f"--splits {name}: {self.title} has no such split set; known: {known}.")
        return self.splits[name]


def overview(facts: Manifest) -> list[dict[str, Any]]:
    """Return a line for each version, or one without numbers; None for what is unknown.

    `download_gb` and `shards_gb` are in 10^9 bytes; the latter are estimates, by storage profile.
    """
    rows: list[dict[str, Any]] = []
    for version in facts.versions or ({"name": None},):
        frames = version.get("frames")
        sizes = (
            {name: round(frames * kib * 1024 / 1e9, 1) for name, kib in facts.kib_per_frame.items()} if frames else {}
        )
        rows.append(
            {
                "dataset": facts.name,
                "title": facts.title,
                "version": version["name"],
                "frames": frames,
                "download_gb": version.get("download_gb"),
                "archives": version.get("archives"),
                "shards_gb": sizes,
                "licence": version.get("licence", facts.licence),
                "commercial": version.get("commercial", facts.commercial),
                "citation": facts.citation,
                "home": facts.home,
            }
        )
    return rows


def matches(trajectory: str, globs: tuple[str, ...]) -> bool:
    """Tell whether a trajectory's name matches any of the globs, letter by letter."""
    return any(fnmatchcase(trajectory, glob) for glob in globs)


@functools.cache
def load(name: str) -> Manifest:
    """Read the manifest of a data set; raises UsageError, listing the known ones."""
    path = _folder() / f"{name}.toml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in _folder().glob("*.toml")))
        raise UsageError(f"there is no data set {name!r}; known: {known}.")
    value = tomllib.loads(path.read_text(encoding="utf-8"))
    depth = dict(value["depth"])
    return Manifest(
        name=name,
        title=value["title"],
        home=value["home"],
        licence=value["licence"],
        commercial=value.get("commercial", False),
        citation=value.get("citation", ""),
        evaluation_max_m=depth.pop("evaluation_max_m"),
        depth=depth,
        versions=tuple(value["versions"]),
        splits={
            set_name: {split: tuple(globs) for split, globs in splits.items()}
            for set_name, splits in value["splits"].items()
        },
        exclude=tuple(value.get("exclude", ())),
        kib_per_frame=value.get("kib_per_frame", {}),
        takes_depth_unit=value.get("takes_depth_unit", False),
        passes=tuple(value.get("passes", ())),
        timed=value.get("timed", False),
        has_cuts=value.get("has_cuts", False),
        not_needed=tuple(value.get("not_needed", ())),
        benchmark=value.get("benchmark", {}),
    )


def _folder() -> Path:
    package = Path(__file__).parents[1]
    inside = package / "_manifests"  # where the wheel carries them
    return inside if inside.is_dir() else package.parent / "manifests"
