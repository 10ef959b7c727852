"""Poses, 4x4 matrices of a rotation and a translation, and intrinsics: fx, fy, cx, cy."""

import numpy as np
from jaxtyping import Bool, Float64

from vdaprep.errors import UsageError

_RIGID = 1e-3  # how far a rotation times its transpose may be from the identity


def invert_pose(pose: Float64[np.ndarray, "4 4"]) -> Float64[np.ndarray, "4 4"]:
    """Invert a rotation and translation."""
    result = np.eye(4)
    result[:3, :3] = pose[:3, :3].T
    result[:3, 3] = -pose[:3, :3].T @ pose[:3, 3]
    return result


def is_rigid(pose: Float64[np.ndarray, "4 4"]) -> bool:
    """Tell whether a matrix is a rotation, no mirroring, and a translation."""
    return bool(are_rigid(pose[None])[0])


def are_rigid(poses: Float64[np.ndarray, "n 4 4"]) -> Bool[np.ndarray, " n"]:
    """Tell of each matrix whether it is finite and `is_rigid`."""
    rotation = poses[:, :3, :3]
    with np.errstate(over="ignore", invalid="ignore"):
        off = np.abs(rotation @ rotation.swapaxes(1, 2) - np.eye(3)).max(axis=(1, 2))
        proper = np.linalg.det(rotation) > 0
    last = (poses[:, 3] == [0, 0, 0, 1]).all(axis=1)
    return (off < _RIGID) & proper & last & np.isfinite(poses).all(axis=(1, 2))


def poses_from_quaternions(rows: Float64[np.ndarray, "n 7"]) -> Float64[np.ndarray, "n 4 4"]:
    """Turn `tx ty tz qx qy qz qw` into matrices; quaternions are scaled to unit length."""
    lengths = [[np.linalg.norm(row)] for row in rows[:, 3:]]  # along an axis the last bit is another
    x, y, z, w = (rows[:, 3:] / np.reshape(lengths, (-1, 1))).T
    poses = np.tile(np.eye(4), (len(rows), 1, 1))
    rotation = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    poses[:, :3, :3] = np.moveaxis(np.array(rotation), 2, 0)
    poses[:, :3, 3] = rows[:, :3]
    return poses


def scale_intrinsics(intrinsics: Float64[np.ndarray, "4"], *, x: float, y: float) -> Float64[np.ndarray, "4"]:
    """Scale fx, fy, cx, cy to `x` times the width and `y` times the height.

    Pixel centres are at integers.
    """
    fx, fy, cx, cy = intrinsics
    return np.array([fx * x, fy * y, (cx + 0.5) * x - 0.5, (cy + 0.5) * y - 0.5])


def parse_intrinsics(text: str) -> tuple[float, float, float, float]:
    """Read `fx,fy,cx,cy`, pixels; raises UsageError if the text is anything else."""
    try:
        fx, fy, cx, cy = (float(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(f"--intrinsics {text}: expected four numbers fx,fy,cx,cy.") from error
    if not (0 < fx < 1e6 and 0 < fy < 1e6):
        raise UsageError(f"--intrinsics {text}: the focal lengths fx and fy must be positive.")
    return fx, fy, cx, cy
