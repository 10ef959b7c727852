"""Poses: 4x4 matrices of a rotation and a translation."""

import numpy as np
from jaxtyping import Float64

_RIGID = 1e-3  # how far a rotation times its transpose may be from the identity


def invert_pose(pose: Float64[np.ndarray, "4 4"]) -> Float64[np.ndarray, "4 4"]:
    """Invert a rotation and translation."""
    result = np.eye(4)
    result[:3, :3] = pose[:3, :3].T
    result[:3, 3] = -pose[:3, :3].T @ pose[:3, 3]
    return result


def is_rigid(pose: Float64[np.ndarray, "4 4"]) -> bool:
    """Tell whether a matrix is a rotation, which is no mirroring, and a translation, with a last row of 0 0 0 1."""
    rotation = pose[:3, :3]
    orthogonal = np.abs(rotation @ rotation.T - np.eye(3)).max() < _RIGID
    return bool(orthogonal and np.linalg.det(rotation) > 0 and np.array_equal(pose[3], [0, 0, 0, 1]))


def scale_intrinsics(intrinsics: Float64[np.ndarray, "4"], *, x: float, y: float) -> Float64[np.ndarray, "4"]:
    """Scale fx, fy, cx, cy to an image that is `x` times as wide and `y` times as high; pixel centres at integers."""
    fx, fy, cx, cy = intrinsics
    return np.array([fx * x, fy * y, (cx + 0.5) * x - 0.5, (cy + 0.5) * y - 0.5])
