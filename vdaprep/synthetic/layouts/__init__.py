"""Writers of rendered frames in raw layouts: modules found by listing this folder.

A module `NAME.py` here belongs to the data set `vdaprep/sources/*/NAME.py` and has the functions of `Layout`. It is
optional: a data set without one converts all the same, only `vdaprep sample` cannot render a sample of it.
"""

import importlib
import pkgutil
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol, cast, runtime_checkable

import numpy as np
from jaxtyping import Float64

from vdaprep import sources
from vdaprep.errors import UsageError
from vdaprep.raw.frames import Frame


@runtime_checkable
class Layout(Protocol):
    """What a layout's module provides."""

    CAMERAS_M: tuple[float, ...]
    """Positions of the cameras: metres to the right of the first, which is at 0."""
    MAX_TRAJECTORIES: int
    """How many trajectories can be named."""

    def trajectory_names(self, count: int, *, held_out: Sequence[str]) -> list[str]:
        """Name `count` trajectories, the last quarter (at least one of two) from `held_out`."""
        ...

    def scene_name(self, trajectory: str) -> str:
        """Name a trajectory's scene: those of equal scenes are rendered alike, along one path."""
        ...

    def intrinsics(self, *, width: int, height: int) -> Float64[np.ndarray, "4"]:
        """Return fx, fy, cx, cy for this image size; raises UsageError for a wrong aspect."""
        ...

    def in_weather(self, trajectory: str, frame: Frame) -> Frame:
        """Return a frame as the trajectory's weather lets it be seen, if the data set has weathers."""
        ...

    def encode_files(self, trajectory: str, shots: Iterable[tuple[Frame, ...]]) -> Iterator[tuple[str, bytes]]:
        """Encode frames in the raw layout; yields each file's path in the data set and bytes.

        `shots` holds, for each moment, the frame of every camera of CAMERAS_M.
        """
        ...

    def archives_of(self, path: str) -> list[str]:
        """Name the archives (.zip, .tar, .tar.gz) in which the download carries the file `path`."""
        ...


def names() -> list[str]:
    """List the data sets that have a layout, sorted, as `sources.names` spells them."""
    return sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules(__path__))


def load(name: str) -> Layout:
    """Import a data set's layout; raises UsageError if there is none, or no such data set."""
    sources.load(name)
    if name not in names():
        raise UsageError(f"{name} has no samples, only real data; there are samples of {', '.join(names())}.")
    return cast(Layout, importlib.import_module(f"{__name__}.{name.replace('-', '_')}"))
