"""TartanGround's folders and archives, which have TartanAir v2's files."""

import zipfile
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.conftest import Run, tree_bytes
from tests.exports import expect_exported
from vdaprep.raw.frames import Frame
from vdaprep.raw.png import encode_png
from vdaprep.sources.training.tartanair import line_from_pose
from vdaprep.synthetic.sample import render_as_frame, unpack
from vdaprep.synthetic.scene import make_scene

SIDE, FRAMES = 96, 24
NAME = "House/Data_omni/P0007"
INTRINSICS = np.array([48.0, 48.0, 47.575, 47.575])  # of 640x640 with 320, 320, 320, 320, pixel centres at integers


@pytest.fixture(scope="module")
def frames() -> list[Frame]:
    scene = make_scene(0)
    return [render_as_frame(scene, 2 * number, size=(SIDE, SIDE), intrinsics=INTRINSICS) for number in range(FRAMES)]


def files_of(frames: list[Frame], *, inverted: bool = False) -> Iterator[tuple[str, bytes]]:
    lines: list[str] = []
    for number, frame in enumerate(frames):
        assert frame.camera_to_world is not None
        depth_m = np.where(np.isinf(frame.depth_m), np.float32(10_000), frame.depth_m).astype("<f4")
        channels = np.ascontiguousarray(depth_m).view(np.uint8).reshape(SIDE, SIDE, 4)
        pose = np.linalg.inv(frame.camera_to_world) if inverted else frame.camera_to_world
        lines.append(" ".join(f"{value:.12g}" for value in line_from_pose(pose)))
        yield f"{NAME}/image_lcam_front/{number:06d}_lcam_front.png", encode_png(frame.rgb.pixels)
        yield f"{NAME}/image_lcam_left/{number:06d}_lcam_left.png", b"another camera"
        yield f"{NAME}/depth_lcam_front/{number:06d}_lcam_front_depth.png", cv2.imencode(".png", channels)[1].tobytes()
        yield f"{NAME}/seg_lcam_front/{number:06d}_lcam_front_seg.png", b"labels"
    yield f"{NAME}/pose_lcam_front.txt", ("\n".join(lines) + "\n").encode()


@pytest.mark.slow
def test_it_converts_verifies_and_exports_equal_to_its_source(
    frames: list[Frame], vdaprep: Run, tmp_path: Path
) -> None:
    unpack(tmp_path / "loose", files_of(frames))
    (tmp_path / "packed").mkdir()
    for kind in ("image", "depth"):
        with zipfile.ZipFile(tmp_path / "packed" / f"{kind}_lcam_front.zip", "w") as file:
            for path, data in files_of(frames):
                if f"/{kind}_lcam_front/" in path or path.endswith(".txt"):
                    file.writestr(path, data)
    for name in ("loose", "packed"):
        result = vdaprep(
            "convert", "tartanground", "--raw", tmp_path / name, "--out", tmp_path / f"{name}-out", "--strict"
        )
        assert (result.code, result.err) == (0, "")
    loose, packed = (tree_bytes(tmp_path / f"{name}-out/tartanground/train") for name in ("loose", "packed"))
    assert loose == packed
    result = vdaprep("verify", tmp_path / "loose-out", "--deep", "--geometry")
    assert (result.code, result.err) == (0, "")
    assert vdaprep("export", tmp_path / "loose-out", "--out", tmp_path / "export").code == 0
    expect_exported(tmp_path / "export" / NAME, dict(enumerate(frames)), relative_error=0.0005)


@pytest.mark.slow
def test_inverted_poses_are_named(frames: list[Frame], vdaprep: Run, tmp_path: Path) -> None:
    unpack(tmp_path / "raw", files_of(frames, inverted=True))
    convert = ("convert", "tartanground", "--raw", tmp_path / "raw", "--out", tmp_path / "out", "--no-check")
    assert vdaprep(*convert).code == 0
    result = vdaprep("verify", tmp_path / "out", "--geometry")
    assert result.code == 1
    assert "the poses look like world-to-camera" in result.out


def test_each_of_the_two_names_the_other(frames: list[Frame], vdaprep: Run, tmp_path: Path) -> None:
    unpack(tmp_path / "raw", files_of(frames[:2]))
    result = vdaprep("convert", "tartanair", "--raw", tmp_path / "raw", "--out", tmp_path / "out")
    assert result.code == 1
    assert "it looks like tartanground" in result.err
