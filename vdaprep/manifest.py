"""The facts about a raw data set, read from its TOML file."""

import functools
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from vdaprep.errors import UsageError
from vdaprep.schema import DepthSpec


@dataclass(frozen=True)
class Manifest:
    """What is known of a raw data set: `depth` as in DepthSpec without its error, `splits` as {set: {split: globs}}.

    A trajectory that no glob of a split set names belongs to `train`; one that `exclude` names is left out unless it
    is asked for. `versions` lists name, frames, trajectories, size, intrinsics, archives and download_gb.
    """

    name: str
    title: str
    home: str
    licence: str
    depth: Mapping[str, Any]
    evaluation_max_m: float
    versions: tuple[Mapping[str, Any], ...]
    splits: Mapping[str, Mapping[str, tuple[str, ...]]]
    exclude: tuple[str, ...]

    def depth_spec(self, *, relative_error: float) -> DepthSpec:
        """Return the depth code of this data set; `relative_error` counts only for the kind that has one."""
        return DepthSpec(**self.depth, relative_error=relative_error if self.depth["kind"] == "log" else 0.0)

    def split_of(self, trajectory: str, *, splits: str) -> str:
        """Return the split of a trajectory in the split set `splits`; raises UsageError if there is no such set."""
        if splits not in self.splits:
            known = ", ".join(sorted(self.splits))
            raise UsageError(f"--splits {splits}: {self.title} has no such split set; known: {known}.")
        for split, globs in self.splits[splits].items():
            if matches(trajectory, globs):
                return split
        return "train"


def matches(trajectory: str, globs: tuple[str, ...]) -> bool:
    """Tell whether a trajectory's name matches any of the globs, letter by letter."""
    return any(fnmatchcase(trajectory, glob) for glob in globs)


@functools.cache
def load(name: str) -> Manifest:
    """Read the manifest of the data set `name`; raises UsageError, listing the known ones, if there is none."""
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
        evaluation_max_m=depth.pop("evaluation_max_m"),
        depth=depth,
        versions=tuple(value["versions"]),
        splits={
            set_name: {split: tuple(globs) for split, globs in splits.items()}
            for set_name, splits in value["splits"].items()
        },
        exclude=tuple(value.get("exclude", ())),
    )


def _folder() -> Path:
    inside = Path(__file__).parent / "_manifests"  # where the wheel carries them
    return inside if inside.is_dir() else Path(__file__).parent.parent / "manifests"
