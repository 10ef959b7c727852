"""The raw data sets that can be read: one module each, found by listing two folders.

training     sets to train on
evaluation   sets that are only measured on

A module `NAME.py` in one of them with a manifest `manifests/NAME.toml` is a data set; it has the functions of `Source`.
Samples of it can be rendered if there is a `vdaprep/synthetic/layouts/NAME.py`, too.
"""

import functools
import importlib
import pkgutil
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, cast, runtime_checkable

import numpy as np
from jaxtyping import Float32

from vdaprep.errors import UsageError
from vdaprep.raw.frames import Cameras, FrameFiles, RgbImage, SourceOptions, Trajectory
from vdaprep.raw.tree import Reader, Tree
from vdaprep.sources._slots import Found


@runtime_checkable
class Source(Protocol):
    """What a data set's module provides.

    Where the places of archives tell what they hold, it also has `named_by_place(archive, first)`, which returns the
    names of trajectories that an archive may hold by its path or URL, and by its first member where that is known;
    None if that tells nothing.
    """

    EXPECTED: str
    """What `find_trajectories` looks for, to complete the sentence "looked for ..."."""

    def find_trajectories(self, tree: Tree, options: SourceOptions) -> Found:
        """List the trajectories of a tree, and the files that are no part of any."""
        ...

    def read_cameras(self, trajectory: Trajectory, reader: Reader, options: SourceOptions) -> Cameras:
        """Read a trajectory's intrinsics and poses; a bad pose is its frame's problem."""
        ...

    def read_rgb(self, files: FrameFiles, reader: Reader) -> RgbImage:
        """Read a frame's image; raises FrameError if it cannot be used."""
        ...

    def read_depth(self, files: FrameFiles, reader: Reader) -> Float32[np.ndarray, "h w"] | None:
        """Read a frame's depth in metres along z, nan unknown, inf sky; raises FrameError.

        Of a data set whose depth is `relative`: 1 / disparity, or None where there are no labels.
        """
        ...


ROLES = ("training", "evaluation")
"""What data sets are for, and the folders of their modules."""


def names() -> list[str]:
    """List the data sets, sorted: modules but those with `_` first, hyphens for underscores."""
    return sorted(_roles())


def role(name: str) -> str:
    """Return what a data set is for, one of `ROLES`; UsageError if there is none."""
    if name not in _roles():
        raise UsageError(f"there is no data set {name!r}; known: {', '.join(names())}.")
    return _roles()[name]


@functools.cache
def _roles() -> dict[str, str]:
    folders = {folder: [str(Path(path, folder)) for path in __path__] for folder in ROLES}
    return {
        module.name.replace("_", "-"): folder
        for folder, paths in folders.items()
        for module in pkgutil.iter_modules(paths)
        if not module.name.startswith("_")
    }


def load(name: str) -> Source:
    """Import the data set `name`; raises UsageError, listing the known ones, if there is none."""
    return cast(Source, importlib.import_module(f"{__name__}.{role(name)}.{name.replace('-', '_')}"))


def may_hold(name: str, takes: Callable[[str], bool], archive: str, first: str) -> bool:
    """Tell whether an archive of a data set may hold a trajectory whose name is taken."""
    named_by_place = getattr(load(name), "named_by_place", None)
    trajectories = None if named_by_place is None else named_by_place(archive, first)
    return trajectories is None or any(map(takes, trajectories))


def has_sample(name: str) -> bool:
    """Tell whether `vdaprep sample` can render the data set `name`."""
    return (Path(__file__).parents[1] / "synthetic" / "layouts" / f"{name.replace('-', '_')}.py").is_file()
