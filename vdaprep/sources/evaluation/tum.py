"""TUM RGB-D: images, depth maps and poses by time, each at a rate of its own; three cameras."""

import re
from collections.abc import Sequence
from dataclasses import replace

from vdaprep.raw.frames import Cameras, SourceOptions, Trajectory
from vdaprep.raw.tree import Reader, Tree
from vdaprep.sources import _manifest, _tum_layout
from vdaprep.sources._slots import Found

EXPECTED = (
    "rgbd_dataset_freiburg{1,2,3}_NAME/{rgb/<time>.png,depth/<time>.png,groundtruth.txt}, in folders or in "
    "rgbd_dataset_freiburgN_NAME.tgz"
)

read_rgb, read_depth = _tum_layout.read_tum_rgb, _tum_layout.read_tum_depth

_FOLDER = re.compile(r"rgbd_dataset_(?P<name>(?P<layout>freiburg[123])_.+)")
_WITHOUT_POSES = "_validation"  # their poses are not published, to be compared with on a server


def find_trajectories(tree: Tree, options: SourceOptions) -> Found:
    """List trajectories `freiburgN_NAME`, all after `rgbd_dataset_`; each image is a frame."""
    found = _tum_layout.find_timed(tree, options, _FOLDER)
    trajectories = (
        item if item.name.endswith(_WITHOUT_POSES) else _tum_layout.expect_poses(item) for item in found.trajectories
    )
    return replace(found, trajectories=tuple(trajectories))


def named_by_place(archive: str, first: str) -> Sequence[str] | None:
    """Return the trajectory's name by an archive `rgbd_dataset_freiburgN_NAME.tgz`, or None."""
    return _tum_layout.named_by_folder(archive, first, _FOLDER)


def read_cameras(trajectory: Trajectory, reader: Reader, options: SourceOptions) -> Cameras:
    """Read `groundtruth.txt`, if there is one; intrinsics are of the camera in the name.

    The images of freiburg1 and freiburg2 are not undistorted, which is ignored, as benchmarks do.
    """
    facts = _manifest.load("tum").version(trajectory.layout)
    return _tum_layout.read_tum_cameras(trajectory, reader, options, facts)
