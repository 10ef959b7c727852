"""Data sets whose images and depth maps are named by the time at which they were taken.

A camera and a depth sensor run at rates of their own and lose frames, so neither numbers nor counts agree. A frame is
an image, its depth map being the one that was taken nearest to it; the frame's number counts the periods of the camera
since the first image, so that clips are cut where images are missing. Times are whole microseconds.
"""

from array import array
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float64, Int64

from vdaprep.errors import FrameError
from vdaprep.raw.files import Numbered
from vdaprep.raw.frames import Frames, Pairing, Trajectory
from vdaprep.raw.tree import Location
from vdaprep.shards.cameras import poses_from_quaternions
from vdaprep.sources._rows import read_rows, without_header

TIME = r"[0-9]{1,10}\.[0-9]{1,6}"
"""The pattern of a time in seconds in a file's name."""
WITHIN_US = 20_000
"""Two things less than this apart were taken together."""
_UNIT = 0.1  # how far the length of a quaternion may be from 1
_LATEST_S = 1e10  # times beyond are none
_LONGEST_GAP = 1000  # periods that a gap counts at most, so that numbers stay small whatever times say

Times = Int64[np.ndarray, " n"]


def time_us(text: str) -> int:
    """Return a time that matches `TIME` in microseconds, exactly."""
    seconds, _, fraction = text.partition(".")
    return int(seconds) * 1_000_000 + int(fraction.ljust(6, "0"))


def pair_nearest(one_us: Sequence[int], other_us: Sequence[int], *, within_us: int = WITHIN_US) -> list[int]:
    """Pair ascending lists of times, the closest first, each time once, none crossing.

    Args:
        one_us: Times without repeats.
        other_us: Times without repeats.
        within_us: Pairs are less than this apart.

    Returns:
        For each of `one_us` the index in `other_us`; -1 where there is none.
    """
    one, other = np.asarray(one_us, np.int64), np.asarray(other_us, np.int64)
    after = np.searchsorted(other, one)
    # Whatever lies beyond its two neighbours could only be had by crossing the pair of one of these.
    candidates = [
        (abs(int(one[i]) - int(other[j])), i, j)
        for i, next_one in enumerate(after.tolist())
        for j in (next_one - 1, next_one)
        if 0 <= j < len(other) and abs(int(one[i]) - int(other[j])) < within_us
    ]
    found, taken = [-1] * len(one), array("q")  # the ones that are paired, ascending
    used: set[int] = set()
    for _, i, j in sorted(candidates):
        place = bisect_left(taken, i)
        before = found[taken[place - 1]] if place else -1
        behind = found[taken[place]] if place < len(taken) else len(other)
        if found[i] < 0 and j not in used and before < j < behind:
            found[i] = j
            used.add(j)
            taken.insert(place, i)
    return found


def number_times(times_us: Sequence[int]) -> Sequence[int]:
    """Number ascending times, from 0, by the median step between them; no two alike."""
    steps = np.diff(np.asarray(times_us, np.int64))
    if not len(steps):
        return range(len(times_us))
    periods = np.clip(np.rint(steps / np.median(steps)), 1, _LONGEST_GAP).astype(np.int64)
    return [0, *np.cumsum(periods).tolist()]


def paired(found: Trajectory, files: Mapping[str, Location], pairing: Pairing) -> Trajectory:
    """Turn a trajectory whose files are numbered by their times into one of numbered frames.

    Args:
        found: As `trajectory_of` returns it; the numbers of its files are microseconds.
        files: Those of the tree.
        pairing: By the nearest time, the frames' numbers showing gaps, or by place in the sorted lists.

    Returns:
        A trajectory of all images; one without a depth map is a frame without, a depth map without an image is unused.
        Where there are no images at all, the depth maps are frames.
    """
    assert isinstance(found.frames, Frames)  # they come from trajectory_of
    images, maps = found.frames.rgb, found.frames.depth
    image_us, map_us = array("q", images), array("q", maps)
    if not images:
        alone = Numbered(files)
        alone.update(zip(number_times(map_us), maps.values(), strict=True))
        return replace(found, frames=Frames({}, alone), times_us=map_us)
    if pairing == "time":
        numbers, partners = number_times(image_us), pair_nearest(image_us, map_us)
    else:
        numbers = range(len(image_us))
        partners = [index if index < len(map_us) else -1 for index in numbers]
    rgb, depth = Numbered(files), Numbered(files)
    for number, image, partner in zip(numbers, image_us, partners, strict=True):
        rgb[number] = images[image]
        if partner >= 0:
            depth[number] = maps[map_us[partner]]
    left = sorted({*range(len(map_us))} - {*partners})
    unused = (*found.unused, *(maps[map_us[index]] for index in left))
    return replace(found, frames=Frames(rgb, depth), unused=unused, times_us=image_us)


def nearest_rows(times_us: Sequence[int], row_us: Sequence[int], *, within_us: int = WITHIN_US) -> list[int]:
    """Return the index of the row nearest in time to each of `times_us`; -1 if none is near.

    `row_us` ascend; a row may be nearest to several.
    """
    rows = np.asarray(row_us, np.int64)
    found: list[int] = []
    for time in times_us:
        after = int(np.searchsorted(rows, time))
        near = [(abs(int(rows[row]) - time), row) for row in (after - 1, after) if 0 <= row < len(rows)]
        gap, row = min(near, default=(within_us, -1))
        found.append(row if gap < within_us else -1)
    return found


# ------------------------------------------------------------------------------------------------------------- poses


def poses_at(times_us: Sequence[int], data: bytes, location: Location) -> Float64[np.ndarray, "n 4 4"]:
    """Read a table of poses, `t tx ty tz qx qy qz qw` in seconds and metres, at given times.

    Args:
        times_us: When, ascending.
        data: The table; its rows may be in any order, and those that are not 8 numbers are none.
        location: Where it is, for messages.

    Returns:
        The pose of the nearest row, its last line too being nan where none is near, or its rotation where it is none.

    Raises:
        FrameError: It is no text, or has no such row: one sentence for the whole trajectory.
    """
    rows = without_header(read_rows(data, location))
    parsed = [(row.line, row.numbers(8)) for row in rows]
    table = sorted(numbers for _, numbers in parsed if numbers is not None and abs(numbers[0]) < _LATEST_S)
    if not table:
        odd = [line for line, numbers in parsed if numbers is None]
        hint = f"; its line {odd[0]} is not 8 numbers" if odd else ""
        raise FrameError(str(location), f"has no rows of 8 numbers t tx ty tz qx qy qz qw{hint}; get the file again")
    values = np.array(table, np.float64)
    found = np.array(nearest_rows(times_us, [round(time_s * 1e6) for time_s in values[:, 0].tolist()]), np.intp)
    poses = np.full((len(found), 4, 4), np.nan)
    poses[found >= 0] = poses_from_quaternions(_of_unit_length(values[found[found >= 0], 1:]))
    return poses


def _of_unit_length(rows: Float64[np.ndarray, "n 7"]) -> Float64[np.ndarray, "n 7"]:
    """Turn quaternions that are far from unit length, and so no rotations, into nan."""
    with np.errstate(over="ignore"):
        usable = np.abs(np.sqrt((rows[:, 3:] ** 2).sum(axis=1)) - 1) <= _UNIT
    return np.where(usable[:, None], rows, np.nan)
