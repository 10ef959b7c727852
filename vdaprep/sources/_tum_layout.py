"""The layout of the TUM RGB-D benchmark, which others took over.

FOLDER/rgb/<t>.png           8 bits; t is the time in seconds
FOLDER/depth/<t>.png         16 bits, 5000 a metre, on the grid of the images; 0 and 65535 are unknown
FOLDER/groundtruth.txt       t tx ty tz qx qy qz qw, at times of its own
FOLDER/{rgb,depth}.txt       times and paths; not needed, as names hold the times
"""

import functools
import logging
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Float32

from vdaprep.errors import FrameError
from vdaprep.raw.frames import Cameras, FrameFiles, RgbImage, SourceOptions, Trajectory
from vdaprep.raw.png import parse_png, parse_png16
from vdaprep.raw.tree import Reader, Tree
from vdaprep.shards.records import Rejection
from vdaprep.sources._images import integer_depth
from vdaprep.sources._slots import Folder, Found, gather, trajectory_of
from vdaprep.sources._timed import TIME, WITHIN_US, paired, poses_at, time_us

_FRAME = re.compile(rf"({TIME})\.(?i:png)$")
_TABLES = {"groundtruth.txt": "pose"}

_log = logging.getLogger("vdaprep")


def find_timed(tree: Tree, options: SourceOptions, folder: re.Pattern[str]) -> Found:
    """List the trajectories of folders whose names `folder` matches.

    Args:
        tree: The files.
        options: Its `pairing` counts.
        folder: Matches the name of a trajectory's folder; its groups are the trajectory's `name`, and the `layout`.

    Returns:
        The trajectories, each image being a frame; depth maps without an image are unused.
    """
    claims, others = gather(tree, functools.partial(_folder, names=folder, top=tree.root.resolve().name))
    found = (trajectory_of(item) for item in claims if item.has("rgb", "depth"))
    return Found(tuple(paired(item, tree.files, options.pairing) for item in found), tuple(others))


def _folder(path: str, *, names: re.Pattern[str], top: str) -> Folder | None:
    above, _, last = path.rpartition("/")
    kind = last if last in ("rgb", "depth") else ""
    root, _, name = (above if kind else path).rpartition("/")
    match = names.fullmatch(name or top)
    if match is None:
        return None
    trajectory = match["name"], match["layout"]
    if not kind:
        return Folder(trajectory, root, tables=_TABLES)
    return Folder(trajectory, root, kind, _FRAME, number=time_us)


def named_by_folder(archive: str, first: str, folder: re.Pattern[str]) -> list[str] | None:
    """Return the trajectory's name by an archive that is called as its folder; None for another.

    Also None if `first`, the archive's first member where that is known, lies in no such folder.
    """
    stem = re.sub(r"\.(?:zip|tgz|tar\.gz|tar)$", "", archive.partition("?")[0].rpartition("/")[2], flags=re.IGNORECASE)
    match = folder.fullmatch(stem)
    return None if match is None or (first and stem not in first.split("/")) else [match["name"]]


# ------------------------------------------------------------------------------------------------------------ cameras


def expect_poses(found: Trajectory) -> Trajectory:
    """Name it as a problem if a trajectory's table of poses is not there."""
    if "pose" in found.shared:
        return found
    first = found.frames[0].rgb or found.frames[0].depth
    reason = f"is of {found.name}, whose groundtruth.txt is missing: its frames have no poses; get it to have them"
    return replace(found, problems=(*found.problems, Rejection(str(first), reason)))


def read_tum_cameras(
    trajectory: Trajectory, reader: Reader, options: SourceOptions, facts: Mapping[str, Any]
) -> Cameras:
    """Read poses as they stand in groundtruth.txt; `facts` are a version of a manifest.

    A frame that has no row near its time is kept without a pose: the tracker lost its markers. So are all without that
    file.
    """
    count = len(trajectory.frames)
    said = options.intrinsics is not None
    intrinsics = np.tile(np.array(options.intrinsics or facts["intrinsics"], np.float64), (count, 1))
    size = None if said else (facts["size"][0], facts["size"][1])
    location = trajectory.shared.get("pose")
    if location is None:
        return Cameras(intrinsics, None, size=size, said=said)
    try:
        poses = poses_at(trajectory.times_us, reader.read(location), location)
    except FrameError as error:
        problems = dict.fromkeys(range(count), f"has no pose: {error}")
        return Cameras(intrinsics, np.full((count, 4, 4), np.nan), problems, pose_file=location)
    unposed = frozenset(np.flatnonzero(np.isnan(poses[:, 3, 3])).tolist())
    if unposed:
        text = "%s: %d of %d frames have no row within %d ms in %s; they are kept without a pose."
        _log.warning(text, trajectory.name, len(unposed), count, WITHIN_US // 1000, location)
    return Cameras(intrinsics, poses, size=size, pose_file=location, said=said, without_pose=unposed)


# ------------------------------------------------------------------------------------------------------------- frames


def read_tum_rgb(files: FrameFiles, reader: Reader) -> RgbImage:
    """Read `rgb/<t>.png`."""
    if files.rgb is None:
        raise FrameError(str(files.depth), "has no image, as there is none in rgb")
    return RgbImage(parse_png(reader.read(files.rgb), files.rgb))


def read_tum_depth(files: FrameFiles, reader: Reader) -> Float32[np.ndarray, "h w"]:
    """Read `depth/<t>.png`: 0 is unknown, and so is 65535, the most that the integers hold."""
    if files.depth is None:
        raise FrameError(str(files.rgb), f"has no depth map of its own within {WITHIN_US // 1000} ms in depth")
    return integer_depth("tum", greatest="unknown").take(parse_png16(reader.read(files.depth), files.depth))
