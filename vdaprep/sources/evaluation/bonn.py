"""Bonn RGB-D Dynamic: TUM's layout; poses are of markers, in the axes of their tracker."""

import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float64

from vdaprep.raw.frames import Cameras, SourceOptions, Trajectory
from vdaprep.raw.tree import Reader, Tree
from vdaprep.sources import _manifest, _tum_layout
from vdaprep.sources._slots import Found

EXPECTED = "rgbd_bonn_NAME/{rgb/<time>.png,depth/<time>.png,groundtruth.txt}, in folders or in rgbd_bonn_NAME.zip"

read_rgb, read_depth = _tum_layout.read_tum_rgb, _tum_layout.read_tum_depth

_FOLDER = re.compile(r"rgbd_(?P<layout>bonn)_(?P<name>(?!dataset$).+)")
# The authors' page: from the capture's axes (z up) to the sensor's, and from the markers to the sensor.
_T_ROS = np.array([[-1.0, 0, 0, 0], [0, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
_T_MARKERS = np.array(
    [
        [1.0157, 0.1828, -0.2389, 0.0113],
        [0.0009, -0.8431, -0.6413, -0.0098],
        [-0.3009, 0.6147, -0.8085, 0.0111],
        [0, 0, 0, 1],
    ]
)


def find_trajectories(tree: Tree, options: SourceOptions) -> Found:
    """List trajectories `NAME` of folders `rgbd_bonn_NAME`; each image is a frame."""
    found = _tum_layout.find_timed(tree, options, _FOLDER)
    return replace(found, trajectories=tuple(map(_tum_layout.expect_poses, found.trajectories)))


def named_by_place(archive: str, first: str) -> Sequence[str] | None:
    """Return the trajectory's name by an archive `rgbd_bonn_NAME.zip`, or None."""
    return _tum_layout.named_by_folder(archive, first, _FOLDER)


def read_cameras(trajectory: Trajectory, reader: Reader, options: SourceOptions) -> Cameras:
    """Read `groundtruth.txt`, and the sensor's intrinsics."""
    cameras = _tum_layout.read_tum_cameras(trajectory, reader, options, _manifest.load("bonn").versions[0])
    if cameras.camera_to_world is None:
        return cameras
    return replace(cameras, camera_to_world=_of_camera(cameras.camera_to_world))


def _of_camera(markers_to_world: Float64[np.ndarray, "n 4 4"]) -> Float64[np.ndarray, "n 4 4"]:
    """Turn poses of the markers into camera_to_world, by the formula on the authors' page.

    Their calibration is a rotation times 1.06; the rotation nearest to it is used.
    """
    left, _, right = np.linalg.svd(_T_MARKERS[:3, :3])
    markers = _T_MARKERS.copy()
    markers[:3, :3] = left @ right
    return np.linalg.inv(_T_ROS) @ markers_to_world @ _T_ROS @ markers
