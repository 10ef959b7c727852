"""TartanAir's paths, axes and pose lines."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import decode_shards
from vdaprep import sources
from vdaprep.errors import FrameError
from vdaprep.raw.frames import FrameFiles, SourceOptions
from vdaprep.raw.tree import Location, Reader, Tree, open_tree
from vdaprep.sources import _manifest
from vdaprep.sources.training import tartanair


def pose_from_line(line: np.ndarray) -> np.ndarray:
    return tartanair.poses_from_lines(line[None])[0]


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
    [found] = sources.load("tartanair").find_trajectories(tree(*paths), SourceOptions()).trajectories
    assert (found.name, found.layout) == ("soulcity/Hard/P003", "v1")
    assert tuple(found.frame_ids) == (7, 8)
    assert found.frames[0].depth is None
    assert str(found.frames[1].depth) == paths[2]
    assert str(found.shared["pose"]) == paths[3]


@pytest.mark.parametrize("prefix", ["", "soulcity/", "soulcity/soulcity/", "TartanAir/soulcity/", "a/b/c/soulcity/"])
def test_the_second_layout_is_found_beside_the_first(prefix: str) -> None:
    first = f"{prefix}Easy/P000/image_left/000000_left.PNG"
    paths = (
        f"{prefix}Data_hard/P003/image_lcam_front/000007_lcam_front.png",
        f"{prefix}Data_hard/P003/depth_lcam_front/000007_lcam_front_depth.png",
        f"{prefix}Data_hard/P003/pose_lcam_front.txt",
        f"{prefix}Data_hard/P003/image_rcam_front/000008_rcam_front.png",
        f"{prefix}Data_hard/P003/image_lcam_back/000008_lcam_back.png",
        f"{prefix}Data_hard/P003/image_left/000008_left.png",
        f"{prefix}Hard/P003/image_lcam_front/000008_lcam_front.png",
    )
    second, other = sources.load("tartanair").find_trajectories(tree(*paths, first), SourceOptions()).trajectories
    assert (second.name, second.layout, tuple(second.frame_ids)) == ("soulcity/Data_hard/P003", "v2", (7,))
    assert [str(second.frames[0].rgb), str(second.frames[0].depth), str(second.shared["pose"])] == list(paths[:3])
    assert (other.name, other.layout, tuple(other.frame_ids)) == ("soulcity/Easy/P000", "v1", (0,))


def test_pose_axes_are_turned_to_opencv() -> None:
    """One metre forward, right and down in NED is z, x and y in OpenCV axes; so is a turn to the right."""
    still = np.array([0, 0, 0, 1.0])
    for ned, opencv in (([1, 0, 0], [0, 0, 1]), ([0, 1, 0], [1, 0, 0]), ([0, 0, 1], [0, 1, 0])):
        pose = pose_from_line(np.array([*ned, *still], np.float64))
        assert np.allclose(pose[:3, 3], opencv)
        assert np.allclose(pose[:3, :3], np.eye(3))
    right = pose_from_line(np.array([0, 0, 0, 0, 0, np.sin(np.pi / 4), np.cos(np.pi / 4)]))
    assert np.allclose(right[:3, :3] @ [0, 0, 1], [1, 0, 0])  # looking ahead, after a quarter turn right: world right


@given(st.lists(st.floats(-5, 5), min_size=7, max_size=7).filter(lambda v: np.linalg.norm(v[3:]) > 0.1))
def test_pose_lines_round_trip(values: list[float]) -> None:
    pose = pose_from_line(np.array(values))
    rotation = pose[:3, :3]
    assert np.allclose(rotation @ rotation.T, np.eye(3))
    assert np.isclose(np.linalg.det(rotation), 1)
    assert np.allclose(pose_from_line(tartanair.line_from_pose(pose)), pose)


# ---------------------------------------------------------------------------------------------------------- version 2

V2 = "ArchVizTinyHouseDay/Data_easy/P000"


def packed(depth_m: np.ndarray) -> bytes:
    """Four bytes of a float32 as the channels of a PNG, in OpenCV's order."""
    return cv2.imencode(".png", np.ascontiguousarray(depth_m, "<f4").view(np.uint8).reshape(*depth_m.shape, 4))[
        1
    ].tobytes()


def write_second_layout(root: Path, *, side: int = 64, count: int = 3) -> np.ndarray:
    """Write a trajectory; returns its depth, by frame, with sky at the top and unknown pixels at the bottom."""
    y, x = np.mgrid[:side, :side].astype(np.float32)
    depth_m = np.stack([0.7 + x / 9 + y * y / 50 + number for number in range(count)]).astype(np.float32)
    depth_m[:, :4], depth_m[:, -1, :3] = 12_345.678, (np.nan, 0, -1)
    folder = root / V2
    (folder / "image_lcam_front").mkdir(parents=True)
    (folder / "depth_lcam_front").mkdir()
    for number in range(count):
        rgb = np.random.default_rng(number).integers(0, 256, (side, side, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / f"image_lcam_front/{number:06d}_lcam_front.png"), rgb)
        (folder / f"depth_lcam_front/{number:06d}_lcam_front_depth.png").write_bytes(packed(depth_m[number]))
    lines = [f"{number} 2 3 0 0 0 1" for number in range(count)]
    (folder / "pose_lcam_front.txt").write_text("\n".join(lines) + "\n")
    return depth_m


def test_float_depth_of_the_second_layout_is_read_bit_for_bit(tmp_path: Path) -> None:
    depth_m = write_second_layout(tmp_path)
    files = open_tree(tmp_path)
    [trajectory] = tartanair.find_trajectories(files, SourceOptions()).trajectories
    with Reader(files.root) as reader:
        for number, frame in enumerate(trajectory.frames):
            found = tartanair.read_depth(frame, reader)
            known = (depth_m[number] > 0) & (depth_m[number] < 1000)
            assert np.array_equal(found[known], depth_m[number][known])
            assert np.isinf(found[:4]).all()
            assert np.isnan(found[-1, :3]).all()
        cameras = tartanair.read_cameras(trajectory, reader, SourceOptions())
    assert cameras.size == (640, 640)
    assert np.array_equal(cameras.intrinsics, [[320, 320, 320, 320]] * 3)
    assert cameras.camera_to_world is not None
    assert np.allclose(cameras.camera_to_world[:, :3, 3], [[2, 3, 0], [2, 3, 1], [2, 3, 2]])  # x is ahead: z


@pytest.mark.parametrize(
    ("image", "found"),
    [
        (np.zeros((4, 4), np.uint8), "1 channels of 8 bits"),
        (np.zeros((4, 4, 3), np.uint8), "3 channels of 8 bits"),
        (np.zeros((4, 4, 4), np.uint16), "4 channels of 16 bits"),
    ],
)
def test_a_png_that_holds_no_floats_is_refused(image: np.ndarray, found: str, tmp_path: Path) -> None:
    write_second_layout(tmp_path, count=1)
    path = f"{V2}/depth_lcam_front/000000_lcam_front_depth.png"
    cv2.imwrite(str(tmp_path / path), image)
    frame = FrameFiles(0, None, Location("", path))
    sentence = f"000000_lcam_front_depth.png: is a PNG of {found}, expected four channels of 8 bits that hold a float32"
    with Reader(tmp_path) as reader:
        with pytest.raises(FrameError, match=sentence):
            tartanair.read_depth(frame, reader)
        with pytest.raises(FrameError, match="has no image beside it in image_lcam_front"):
            tartanair.read_rgb(frame, reader)
        with pytest.raises(FrameError, match="has no depth map beside it in depth_lcam_front"):
            tartanair.read_depth(
                FrameFiles(0, Location("", f"{V2}/image_lcam_front/000000_lcam_front.png"), None), reader
            )


def test_the_second_layout_goes_through_the_command_line(vdaprep, tmp_path: Path) -> None:
    depth_m = write_second_layout(tmp_path / "raw")
    arguments = ("convert", "tartanair", "--raw", tmp_path / "raw", "--workers", 1, "--no-check")  # poses are made up
    result = vdaprep(*arguments, "--out", tmp_path / "out")
    assert (result.code, result.err) == (0, "")
    tar = tmp_path / "out" / "tartanair" / "train" / "shard-0001.tar"
    [(_, meta, values)] = decode_shards(tar)
    assert (meta.trajectory, meta.source) == (V2, {"layout": "v2"})
    assert np.allclose(meta.intrinsics, [32, 32, 31.55, 31.55])  # a tenth of 640x640, pixel centres at integers
    for number, found in enumerate(values["depth.zst"]):
        known = (depth_m[number] > 0) & (depth_m[number] < 1000)
        assert np.abs(found[known] / depth_m[number][known] - 1).max() <= 0.0005
        assert np.isinf(found[:4]).all()
        assert np.isnan(found[-1, :3]).all()
    (tmp_path / "raw" / V2 / "pose_lcam_front.txt").unlink()
    result = vdaprep(*arguments, "--out", tmp_path / "other")
    assert result.code == 1
    assert "has no pose: pose_lcam_front.txt is missing" in result.err


def test_both_versions_have_their_facts() -> None:
    facts = _manifest.load("tartanair")
    assert [version["name"] for version in facts.versions] == ["1", "2"]
    assert "CC BY 4.0" in facts.licence
    assert "v1: not stated" in facts.licence
