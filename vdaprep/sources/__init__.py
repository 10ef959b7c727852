"""The raw data sets that can be read: one module each, found by listing this folder.

A module `NAME.py` here with a manifest `manifests/NAME.toml` is a data set; it has the functions of `Source`.
"""

import importlib
import pkgutil
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol, cast, runtime_checkable

import numpy as np
from jaxtyping import Float32, Float64

from vdaprep.errors import UsageError
from vdaprep.raw.frames import Cameras, Frame, FrameFiles, RgbImage, SourceOptions, Trajectory
from vdaprep.raw.tree import Reader, Tree


@runtime_checkable
class Source(Protocol):
    """What a data set's module provides."""

    EXPECTED: str
    """What `find_trajectories` looks for, to complete the sentence "looked for ..."."""

    def find_trajectories(self, tree: Tree, options: SourceOptions) -> list[Trajectory]:
        """List the trajectories of a tree; raises DataError if the tree is of another kind."""
        ...

    def read_cameras(self, trajectory: Trajectory, reader: Reader, options: SourceOptions) -> Cameras:
        """Read a trajectory's intrinsics and poses; a bad pose is a problem of its frame, not an error."""
        ...

    def read_rgb(self, files: FrameFiles, reader: Reader) -> RgbImage:
        """Read a frame's image; raises FrameError if it cannot be used."""
        ...

    def read_depth(self, files: FrameFiles, reader: Reader) -> Float32[np.ndarray, "h w"]:
        """Read a frame's depth in metres along z, nan unknown, inf sky; raises FrameError if it cannot be used."""
        ...

    SAMPLE_CAMERAS_M: tuple[float, ...]
    """Where a sample's cameras stand: metres to the right of the first, which is at 0."""

    def sample_names(self, count: int, *, held_out: Sequence[str]) -> list[str]:
        """Name `count` trajectories for a sample, the last quarter (at least one of two) from `held_out`."""
        ...

    def sample_world(self, trajectory: str) -> str:
        """Name the world of a trajectory: those of the same world show the same scene along the same path."""
        ...

    def sample_intrinsics(self, *, width: int, height: int) -> Float64[np.ndarray, "4"]:
        """Return the camera that a sample of this size is rendered with; raises UsageError for a wrong aspect."""
        ...

    def sample_files(self, trajectory: str, shots: Iterable[tuple[Frame, ...]]) -> Iterator[tuple[str, bytes]]:
        """Write frames in the raw layout: the path inside the data set and the bytes of every file.

        `shots` holds, for each moment, the frame of every camera of SAMPLE_CAMERAS_M.
        """
        ...

    def sample_archives(self, path: str) -> list[str]:
        """Name the archives (.zip, .tar, .tar.gz) in which the download carries the file `path`."""
        ...


def names() -> list[str]:
    """List the data sets, sorted; a module's underscores are hyphens in the data set's name; `_manifest` is none."""
    found = (module.name for module in pkgutil.iter_modules(__path__))
    return sorted(name.replace("_", "-") for name in found if not name.startswith("_"))


def load(name: str) -> Source:
    """Import the data set `name`; raises UsageError, listing the known ones, if there is none."""
    if name not in names():
        raise UsageError(f"there is no data set {name!r}; known: {', '.join(names())}.")
    return cast(Source, importlib.import_module(f"{__name__}.{name.replace('-', '_')}"))
