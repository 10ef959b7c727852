"""Images and depth maps that are named by time: pairs, numbers, poses."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vdaprep.errors import FrameError
from vdaprep.raw.files import Location, Numbered
from vdaprep.raw.frames import Frames, Trajectory
from vdaprep.sources._timed import WITHIN_US, nearest_rows, number_times, pair_nearest, paired, poses_at, time_us

HERE = Location("", "groundtruth.txt")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1548266469.88272", 1_548_266_469_882_720),  # Bonn
        ("1311868164.363181", 1_311_868_164_363_181),  # TUM
        ("0.1", 100_000),
        ("9999999999.999999", 9_999_999_999_999_999),
    ],
)
def test_times_are_exact(text: str, expected: int) -> None:
    assert time_us(text) == expected


# -------------------------------------------------------------------------------------------------------------- pairs

PAIRS = {
    "each to its own": ([0, 33], [1, 34], [0, 1]),
    "the limit itself is too far": ([0], [20], [-1]),
    "just below it": ([0], [19], [0]),
    "before and after, the nearer": ([30], [20, 31], [1]),
    "each depth once, for the nearest": ([0, 10], [8], [-1, 0]),
    "the other then takes what is left": ([0, 10], [-9, 8], [0, 1]),
    "no crossing": ([0, 12], [10, 18], [-1, 0]),
    "none": ([], [1], []),
    "no depth": ([1], [], [-1]),
    "far away": ([0, 33], [1000, 1033], [-1, -1]),
}


@pytest.mark.parametrize("case", PAIRS)
def test_pairs(case: str) -> None:
    one, other, expected = PAIRS[case]
    assert pair_nearest([1000 * ms for ms in one], [1000 * ms for ms in other]) == expected


TIMES = st.lists(st.integers(0, 500_000), unique=True, max_size=25).map(sorted)


@given(TIMES, TIMES)
def test_pairs_are_near_and_in_order_and_none_could_be_added(one: list[int], other: list[int]) -> None:
    found = pair_nearest(one, other)
    pairs = [(i, j) for i, j in enumerate(found) if j >= 0]
    assert all(abs(one[i] - other[j]) < WITHIN_US for i, j in pairs)
    assert all(a < b for (_, a), (_, b) in itertools.pairwise(pairs))  # so each once, too
    for i, j in itertools.product(range(len(one)), range(len(other))):
        if found[i] < 0 and j not in found and abs(one[i] - other[j]) < WITHIN_US:
            assert any((i - k) * (j - m) <= 0 for k, m in pairs), f"{i} and {j} could be a pair"


def sensors(seconds: float = 20.0) -> tuple[list[int], list[int]]:
    """Images at 29.9 Hz and depth maps at 30.0 Hz from the same moment on."""
    return [round(k * 1e6 / 29.9) for k in range(int(seconds * 29.9))], [
        round(k * 1e6 / 30) for k in range(int(seconds * 30) + 1)
    ]


def test_rates_that_drift_stay_within_half_a_period_by_time_and_not_by_index() -> None:
    image_us, map_us = sensors()
    found = pair_nearest(image_us, map_us)
    assert min(found) >= 0
    assert max(abs(a - map_us[j]) for a, j in zip(image_us, found, strict=True)) <= 1e6 / 30 / 2 + 1
    assert abs(image_us[-1] - map_us[len(image_us) - 1]) > 60_000  # two frames off after 20 s
    assert len(map_us) - len(found) == 3


@pytest.mark.parametrize(
    ("times_ms", "numbers"),
    [
        ([], []),
        ([5], [0]),
        ([0, 33, 67, 100], [0, 1, 2, 3]),
        ([0, 33, 67, 100, 200, 233, 267], [0, 1, 2, 3, 6, 7, 8]),  # a gap of 0.1 s: two images are missing
        ([0, 33, 67, 71, 105, 138], [0, 1, 2, 3, 4, 5]),  # one that comes early still has a number of its own
        ([0, 33, 67, 10**9, 10**9 + 33], [0, 1, 2, 1002, 1003]),
    ],
)
def test_numbers_show_gaps(times_ms: list[int], numbers: list[int]) -> None:
    assert list(number_times([1000 * ms for ms in times_ms])) == numbers


def of_times(image_us: list[int], map_us: list[int]) -> Trajectory:
    rgb, depth = Numbered({}), Numbered({})
    for kind, slots, times in (("rgb", rgb, image_us), ("depth", depth, map_us)):
        for time in times:
            slots[time] = Location("", f"{kind}/{time}.png")
    return Trajectory("a", "toy", Frames(rgb, depth))


def files_of(found: Trajectory) -> list[tuple[int, str, str]]:
    return [(item.frame_id, str(item.rgb), str(item.depth)) for item in found.frames]


def test_a_trajectory_keeps_images_without_depth_and_counts_depth_without_images() -> None:
    image_us, map_us = [0, 33_000, 66_000, 166_000], [1_000, 25_000, 40_000, 167_000]
    by_time = paired(of_times(image_us, map_us), {}, "time")
    assert files_of(by_time) == [
        (0, "rgb/0.png", "depth/1000.png"),
        (1, "rgb/33000.png", "depth/40000.png"),
        (2, "rgb/66000.png", "None"),
        (5, "rgb/166000.png", "depth/167000.png"),
    ]
    assert list(map(str, by_time.unused)) == ["depth/25000.png"]
    assert list(by_time.times_us) == image_us
    assert by_time.count_without("depth") == 1
    by_index = paired(of_times(image_us, map_us[:3]), {}, "legacy-index")
    assert [number for number, _, _ in files_of(by_index)] == [0, 1, 2, 3]
    assert [depth for _, _, depth in files_of(by_index)] == [f"depth/{time}.png" for time in map_us[:3]] + ["None"]
    assert list(by_index.with_files_of([0]).times_us) == image_us


# -------------------------------------------------------------------------------------------------------------- poses


def test_poses_are_those_of_the_nearest_rows() -> None:
    half = np.sqrt(0.5)
    table = (
        "# ground truth trajectory\n# timestamp tx ty tz qx qy qz qw\n"
        f"10.05 4 5 6 0 {half} 0 {half}  # out of order\n10.00 1 2 3 0 0 0 1\n\n10.02 nan 0 0 0 0 0 1\n"
    )
    poses = poses_at([9_999_000, 10_019_999, 10_020_000, 10_030_000, 10_065_000], table.encode(), HERE)
    assert np.allclose(poses[[0, 1]], [[[1, 0, 0, 1], [0, 1, 0, 2], [0, 0, 1, 3], [0, 0, 0, 1]]] * 2)
    assert np.allclose(poses[4], [[0, 0, 1, 4], [0, 1, 0, 5], [-1, 0, 0, 6], [0, 0, 0, 1]])
    assert np.isnan(poses[[2, 3]]).all()


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        (b"", "has no rows of 8 numbers t tx ty tz qx qy qz qw; get"),
        (b"# t x y z\n", "has no rows of 8 numbers"),
        (b"1,2,3,4,5,6,7,8\n", "its line 1 is not 8 numbers"),
        (b"1e300 0 0 0 0 0 0 1\n", "has no rows of 8 numbers"),
        (b"\x89PNG\r\n\0\0\0\0\0\0", "groundtruth.txt: "),
    ],
)
def test_tables_that_are_none(table: bytes, sentence: str) -> None:
    with pytest.raises(FrameError, match="groundtruth.txt: ") as caught:
        poses_at([0], table, HERE)
    assert sentence in str(caught.value)


@pytest.mark.parametrize("row", ["0 0 0 0 0 0 0 0", "0 0 0 0 0 0 0 2", "0 1 1 1 1e200 0 0 1"])
def test_what_is_no_rotation_is_nan(row: str) -> None:
    [pose] = poses_at([0], row.encode(), HERE)
    assert np.isnan(pose[:3, :3]).all()
    assert pose[3, 3] == 1  # so there is a row, and Cameras names it


def test_rows_may_serve_several_times(tmp_path: Path) -> None:
    assert nearest_rows([0, 5_000, 40_000], [1_000, 30_000]) == [0, 0, 1]
    assert nearest_rows([0], []) == [-1]
