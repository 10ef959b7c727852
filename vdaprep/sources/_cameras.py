"""Cameras as many data sets have them: a file a frame, world-to-camera, centred."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float64

from vdaprep.errors import FrameError
from vdaprep.raw.frames import Trajectory
from vdaprep.raw.tree import Location, Reader

_NEAR_PX = 2.5  # how far a principal point may be from the middle of images that it is of
T = TypeVar("T")


def parse_each(
    trajectory: Trajectory,
    reader: Reader,
    parse: Callable[[bytes, Location], T],
    *,
    missing: Callable[[int], str],
    what: str = "camera",
) -> tuple[dict[int, T], dict[int, str]]:
    """Parse each frame's own file, in `Trajectory.shared` by the frame's number.

    Args:
        trajectory: The frames.
        reader: Reads the files.
        parse: Parses one; raises FrameError.
        missing: Says of a frame's number which file is missing.
        what: What the files hold, for messages.

    Returns:
        What was parsed, and what is wrong, both by the frame's index.
    """
    found: dict[int, T] = {}
    problems: dict[int, str] = {}
    for index, frame_id in enumerate(trajectory.frame_ids):
        location = trajectory.shared.get(str(frame_id))
        if location is None:
            problems[index] = f"has no {what}: {missing(frame_id)}"
            continue
        try:
            found[index] = parse(reader.read(location), location)
        except FrameError as error:
            problems[index] = f"has no usable {what}: {error}"
    return found, problems


def by_frame(found: Mapping[int, np.ndarray], *, count: int, shape: Sequence[int]) -> Float64[np.ndarray, "n ..."]:
    """Put arrays of some frames into one of `count`, nan for the others."""
    values = np.full((count, *shape), np.nan)
    for index, value in found.items():
        values[index] = value
    return values


def invert_poses(world_to_camera: Float64[np.ndarray, "n 4 4"]) -> Float64[np.ndarray, "n 4 4"]:
    """Return camera_to_world; nan for matrices without an inverse, which `Cameras` then names."""
    poses = np.full(world_to_camera.shape, np.nan)
    with np.errstate(all="ignore"):
        usable = np.isfinite(world_to_camera).all(axis=(1, 2)) & (np.abs(np.linalg.det(world_to_camera)) > 0)
        poses[usable] = np.linalg.inv(world_to_camera[usable])
    poses[usable, 3] = world_to_camera[usable, 3]  # where that is not 0 0 0 1, it is no pose
    return poses


def known_size(intrinsics: Float64[np.ndarray, "n 4"], versions: Iterable[Mapping[str, Any]]) -> tuple[int, int] | None:
    """Return the first published size that all principal points are in the middle of.

    The middle is (width - 1) / 2 where pixel centres are at integers, width / 2 where corners are; data sets have
    either, and the sizes of one data set are farther apart.
    """
    for width, height in (version["size"] for version in versions):
        off = np.abs(intrinsics[:, 2:] - ((width - 1) / 2, (height - 1) / 2)) > _NEAR_PX
        if not off.any():  # nan is not far off
            return width, height
    return None
