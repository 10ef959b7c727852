"""A view warped onto another by depth, pose and intrinsics, to see whether their depth agrees.

A pixel of one view is lifted with its depth, moved with the two poses and projected into the other view; the depth
that it has there is compared with that view's own (disparity is interpolated, which is exact on planes). Medians are
taken, so that what moves or is hidden does not count as long as most of a view stands still.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64

from vdaprep.poses import invert

_POINTS = 20_000  # pixels of a view that are warped, about


@dataclass(frozen=True, eq=False)
class View:
    """What a camera saw: metres along z (nan unknown, inf sky), fx, fy, cx, cy in pixels, and its pose."""

    depth_m: Float32[np.ndarray, "h w"]
    intrinsics: Float64[np.ndarray, "4"]
    camera_to_world: Float64[np.ndarray, "4 4"]


@dataclass(frozen=True)
class Fit:
    """How well a view falls onto another: median relative error of depth (inf: nothing met), share of known pixels."""

    error: float
    share: float


def warp(view: View, onto: View) -> Fit:
    """Warp a view's known pixels onto another view and compare their depth with what is there."""
    height, width = view.depth_m.shape
    step = max(1, math.isqrt(height * width // _POINTS))
    rows, columns = np.mgrid[step // 2 : height : step, step // 2 : width : step].reshape(2, -1)
    depth_m = view.depth_m[rows, columns].astype(np.float64)
    known = np.isfinite(depth_m)
    fx, fy, cx, cy = view.intrinsics
    rays = np.stack([(columns[known] - cx) / fx, (rows[known] - cy) / fy, np.ones(int(known.sum()))])
    motion = invert(onto.camera_to_world) @ view.camera_to_world
    points = motion[:3, :3] @ (rays * depth_m[known]) + motion[:3, 3:]
    x, y, z = points[:, points[2] > 1e-6]
    fx, fy, cx, cy = onto.intrinsics
    there_m = _sample(onto.depth_m, x / z * fx + cx, y / z * fy + cy)
    met = np.isfinite(there_m)
    if not met.any():
        return Fit(math.inf, 0.0)
    return Fit(float(np.median(np.abs(z[met] / there_m[met] - 1))), float(met.sum() / known.sum()))


def _sample(
    depth_m: Float32[np.ndarray, "h w"], x: Float64[np.ndarray, " p"], y: Float64[np.ndarray, " p"]
) -> Float64[np.ndarray, " p"]:
    """Interpolate disparity between pixels, return metres: nan outside and where one of the four is not known."""
    height, width = depth_m.shape
    inside = (x >= 0) & (y >= 0) & (x <= width - 1) & (y <= height - 1)
    column = np.where(inside, x, 0).astype(np.intp).clip(0, width - 2)
    row = np.where(inside, y, 0).astype(np.intp).clip(0, height - 2)
    right, down = np.where(inside, x, 0) - column, np.where(inside, y, 0) - row
    disparity = np.where(inside, 0, np.nan)
    for r, by_row in ((row, 1 - down), (row + 1, down)):
        for c, by_column in ((column, 1 - right), (column + 1, right)):
            metres = depth_m[r, c].astype(np.float64)
            disparity += by_row * by_column / np.where(np.isfinite(metres), metres, np.nan)
    return 1 / disparity
