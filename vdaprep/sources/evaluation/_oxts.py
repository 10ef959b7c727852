"""KITTI's calibration, GPS/IMU readings (oxts), and the poses that follow from them.

After the development kit of KITTI's raw data (readTransformations and convertOxtsToPose in MATLAB): a Mercator
projection whose scale is that of the first latitude, then roll, pitch and yaw; the IMU to the laser, to camera 0, to
the rectified camera 0, to the rectified camera that is read.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from vdaprep.errors import FrameError
from vdaprep.raw.tree import Location
from vdaprep.sources._rows import Row, read_rows

CHAIN = ("imu_to_velo", "velo_to_cam")
"""Calibration from the IMU to camera 0."""
_EARTH_M = 6378137.0  # radius of the earth, at the equator
_VALUES = 30  # of a reading; the first six are latitude, longitude, altitude, roll, pitch and yaw
_MAX_LATITUDE = 85.0  # degrees: beyond, Mercator's projection is of no use

Bytes = tuple[bytes, Location]


@dataclass(frozen=True)
class Rectified:
    """A rectified camera."""

    intrinsics: tuple[float, float, float, float]
    """fx, fy, cx, cy in pixels."""
    size: tuple[int, int]
    """Width and height of its images."""
    from_first: Float64[np.ndarray, "4 4"]
    """From camera 0, not rectified, to this one; metres."""


def parse_rectified(data: bytes, location: Location, *, camera: str) -> Rectified:
    """Read calib_cam_to_cam.txt; raises FrameError if the camera's lines are not there."""
    table = _Table(data, location)
    projection = table.numbers(f"P_rect_0{camera}", 12).reshape(3, 4)
    width, height = table.numbers(f"S_rect_0{camera}", 2)
    matrix = projection[:, :3]
    (fx, skew, cx), (below, fy, cy), last = matrix
    if (skew, below, *last) != (0, 0, 0, 0, 1) or min(fx, fy) <= 0:
        raise FrameError(str(location), f"P_rect_0{camera} is no projection, expected fx 0 cx .., 0 fy cy .., 0 0 1 ..")
    rectify, shift = np.eye(4), np.eye(4)
    rectify[:3, :3] = table.numbers("R_rect_00", 9).reshape(3, 3)
    shift[:3, 3] = np.linalg.solve(matrix, projection[:, 3])
    return Rectified((fx, fy, cx, cy), (round(width), round(height)), shift @ rectify)


def camera_to_imu(from_first: Float64[np.ndarray, "4 4"], files: Mapping[str, Bytes]) -> Float64[np.ndarray, "4 4"]:
    """Return the pose of a rectified camera in the axes of the IMU, by the files of `CHAIN`.

    Raises FrameError if one of them has no rotation and translation.
    """
    to_camera = from_first
    for key in reversed(CHAIN):
        table = _Table(*files[key])
        step = np.eye(4)
        step[:3, :3], step[:3, 3] = table.numbers("R", 9).reshape(3, 3), table.numbers("T", 3)
        to_camera = to_camera @ step
    try:
        return np.linalg.inv(to_camera)
    except np.linalg.LinAlgError as error:
        raise FrameError(str(files[CHAIN[0]][1]), "its R or another one of the date is no rotation") from error


def parse_oxts(data: bytes, location: Location) -> Float64[np.ndarray, "6"]:
    """Read latitude and longitude (degrees), altitude (m), roll, pitch and yaw (radians).

    Raises FrameError for a file that is not one row of 30 numbers.
    """
    rows = read_rows(data, location)
    values = rows[0].numbers(_VALUES) if len(rows) == 1 else None
    if values is None or abs(values[0]) > _MAX_LATITUDE:
        raise FrameError(str(location), f"is not one line of {_VALUES} numbers that begins with latitude and longitude")
    return np.array(values[:6])


def imu_to_world(rows: Float64[np.ndarray, "n 6"]) -> Float64[np.ndarray, "n 4 4"]:
    """Turn rows of `parse_oxts` into poses of the IMU.

    Metres from the first one; x east, y north, z up.
    """
    latitude, longitude, altitude_m, roll, pitch, yaw = rows.T
    scale = np.cos(np.radians(latitude[0])) * _EARTH_M
    places_m = np.stack(
        [scale * np.radians(longitude), scale * np.log(np.tan(np.radians(90 + latitude) / 2)), altitude_m], axis=1
    )
    poses = np.tile(np.eye(4), (len(rows), 1, 1))
    poses[:, :3, :3] = _about(yaw, axis=2) @ _about(pitch, axis=1) @ _about(roll, axis=0)
    poses[:, :3, 3] = places_m - places_m[0]
    return poses


def _about(angles: Float64[np.ndarray, " n"], *, axis: int) -> Float64[np.ndarray, "n 3 3"]:
    """Return rotations about x (0), y (1) or z (2)."""
    one, other = (axis + 1) % 3, (axis + 2) % 3
    matrices = np.tile(np.eye(3), (len(angles), 1, 1))
    matrices[:, one, one] = matrices[:, other, other] = np.cos(angles)
    matrices[:, other, one] = np.sin(angles)
    matrices[:, one, other] = -np.sin(angles)
    return matrices


class _Table:
    """The lines `NAME: numbers` of a calibration file."""

    def __init__(self, data: bytes, location: Location) -> None:
        self._location = location
        self._rows = {row.words[0]: Row(row.line, row.words[1:]) for row in read_rows(data, location)}

    def numbers(self, name: str, count: int) -> Float64[np.ndarray, " n"]:
        """Return the numbers of a line; raises FrameError if there are not `count`."""
        row = self._rows.get(f"{name}:")
        values = None if row is None else row.numbers(count)
        if values is None:
            raise FrameError(str(self._location), f"has no line '{name}:' of {count} numbers; get it again")
        return np.array(values)
