"""TartanAir's paths, axes and pose lines."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vdaprep import sources
from vdaprep.archive import Location, Tree
from vdaprep.frames import SourceOptions
from vdaprep.sources import tartanair


def tree(*paths: str) -> Tree:
    return Tree(Path("soulcity"), {path: Location("", path) for path in paths}, ())


@pytest.mark.parametrize("prefix", ["", "soulcity/", "soulcity/soulcity/", "TartanAir/soulcity/", "a/b/c/soulcity/"])
def test_trajectories_are_found_wherever_they_begin(prefix: str) -> None:
    paths = (
        f"{prefix}Hard/P003/image_left/000007_left.png",
        f"{prefix}Hard/P003/image_left/000008_left.png",
        f"{prefix}Hard/P003/depth_left/000008_left_depth.npy",
        f"{prefix}Hard/P003/pose_left.txt",
        f"{prefix}Hard/P003/flow/000008_000009_flow.npy",
        f"{prefix}Hard/P003/seg_left/000008_left_seg.npy",
        "README.md",
    )
    [found] = sources.load("tartanair").find_trajectories(tree(*paths), SourceOptions())
    assert found.name == "soulcity/Hard/P003"
    assert found.frame_ids == (7, 8)
    assert found.frames[0].depth is None
    assert str(found.frames[1].depth) == paths[2]
    assert str(found.shared["pose"]) == paths[3]


def test_pose_axes_are_turned_to_opencv() -> None:
    """One metre forward, right and down in NED is z, x and y in OpenCV axes; so is a turn to the right."""
    still = np.array([0, 0, 0, 1.0])
    for ned, opencv in (([1, 0, 0], [0, 0, 1]), ([0, 1, 0], [1, 0, 0]), ([0, 0, 1], [0, 1, 0])):
        pose = tartanair.pose_from_line(np.array([*ned, *still], np.float64))
        assert np.allclose(pose[:3, 3], opencv)
        assert np.allclose(pose[:3, :3], np.eye(3))
    right = tartanair.pose_from_line(np.array([0, 0, 0, 0, 0, np.sin(np.pi / 4), np.cos(np.pi / 4)]))
    assert np.allclose(right[:3, :3] @ [0, 0, 1], [1, 0, 0])  # looking ahead, after a quarter turn right: world right


@given(st.lists(st.floats(-5, 5), min_size=7, max_size=7).filter(lambda v: np.linalg.norm(v[3:]) > 0.1))
def test_pose_lines_round_trip(values: list[float]) -> None:
    pose = tartanair.pose_from_line(np.array(values))
    rotation = pose[:3, :3]
    assert np.allclose(rotation @ rotation.T, np.eye(3))
    assert np.isclose(np.linalg.det(rotation), 1)
    assert np.allclose(tartanair.pose_from_line(tartanair.line_from_pose(pose)), pose)


def test_sample_names_hold_some_out() -> None:
    held = ["abandonedfactory/Easy/P011", "x/Easy/P000"]
    assert tartanair.sample_names(1, held_out=held) == ["abandonedfactory/Easy/P000"]
    assert tartanair.sample_names(4, held_out=held)[-1] == held[0]
    many = tartanair.sample_names(20, held_out=held)
    assert len(set(many)) == 20
    assert many[-2:] == held
