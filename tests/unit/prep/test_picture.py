"""The picture of the whole: good trajectories are not named, twins with one thing wrong are, with what it is."""

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pytest

from tests.conftest import Run, pinhole
from vdaprep.shards.cameras import invert_pose
from vdaprep.synthetic.render import render_frame
from vdaprep.synthetic.scene import make_scene

WIDTH, HEIGHT, FRAMES = 160, 120, 24
LOOKING_BACK = np.diag([1.0, -1.0, -1.0, 1.0])


@dataclasses.dataclass
class Video:
    """What a folder of the data set `custom` holds; None: no such file."""

    rgb: list[np.ndarray]
    depth_m: list[np.ndarray]
    intrinsics: np.ndarray
    poses: list[np.ndarray] | None

    def write(self, folder: Path) -> None:
        for kind in ("rgb", "depth"):
            (folder / kind).mkdir(parents=True)
        for number, (rgb, depth_m) in enumerate(zip(self.rgb, self.depth_m, strict=True)):
            cv2.imwrite(str(folder / f"rgb/{number:06d}.png"), np.ascontiguousarray(rgb[..., ::-1]))
            np.save(folder / f"depth/{number:06d}.npy", depth_m.astype(np.float32))
        np.savetxt(folder / "intrinsics.txt", self.intrinsics[None])
        if self.poses is not None:
            np.savetxt(folder / "camera_to_world.txt", np.reshape(self.poses, (-1, 16)), fmt="%.17g")


@pytest.fixture(scope="module")
def video() -> Video:
    """A room through which a camera moves."""
    scene = make_scene(2)
    intrinsics = pinhole(width=WIDTH, height=HEIGHT)
    seen = [render_frame(scene, frame=2 * i, width=WIDTH, height=HEIGHT, intrinsics=intrinsics) for i in range(FRAMES)]
    return Video(
        [one.rgb for one in seen],
        [one.depth_m for one in seen],
        np.array(intrinsics),
        [one.camera_to_world for one in seen],
    )


def shifted(items: list[np.ndarray], by: int) -> list[np.ndarray]:
    return items[by:] + items[-1:] * by


def lengths(video: Video) -> np.ndarray:
    fx, fy, cx, cy = video.intrinsics
    rows, columns = np.ogrid[:HEIGHT, :WIDTH]
    return np.sqrt(1 + ((columns - cx) / fx) ** 2 + ((rows - cy) / fy) ** 2)


def moved(pose: np.ndarray, factor: float) -> np.ndarray:
    pose = pose.copy()
    pose[:3, 3] *= factor
    return pose


class Twin(NamedTuple):
    name: str
    change: Callable[[Video], dict[str, object]]
    sentence: str


TWINS = [
    Twin("good", lambda v: {}, ""),
    Twin("no poses", lambda v: {"poses": None}, ""),
    Twin(
        "poses inverted", lambda v: {"poses": [invert_pose(p) for p in v.poses]}, "the poses look like world-to-camera"
    ),
    Twin("poses of OpenGL", lambda v: {"poses": [p @ LOOKING_BACK for p in v.poses]}, "the poses look like OpenGL's"),
    Twin(
        "poses of OpenGL in its world",
        lambda v: {"poses": [LOOKING_BACK @ p @ LOOKING_BACK for p in v.poses]},
        "OpenGL's",
    ),
    Twin("poses a frame late", lambda v: {"poses": shifted(v.poses, 1)}, "with those a frame earlier, depth maps fit"),
    Twin(
        "poses three frames late",
        lambda v: {"poses": shifted(v.poses, 3)},
        "with those 3 frames earlier, depth maps fit",
    ),
    Twin(
        "poses in millimetres",
        lambda v: {"poses": [moved(p, 1000) for p in v.poses]},
        "different units: depth times 1000",
    ),
    Twin(
        "poses in centimetres",
        lambda v: {"poses": [moved(p, 100) for p in v.poses]},
        "different units: depth times 100",
    ),
    Twin(
        "poses as names sort",
        lambda v: {"poses": [v.poses[int(i)] for i in sorted(map(str, range(FRAMES)))]},
        "do not agree|look|fit",
    ),
    Twin(
        "intrinsics of half the size",
        lambda v: {"intrinsics": v.intrinsics / 2},
        "its principal point is at 25% and 25%",
    ),
    Twin(
        "intrinsics of a size a third larger",
        lambda v: {"intrinsics": v.intrinsics * (4 / 3)},
        "the intrinsics look unscaled: times 0.75",
    ),
    Twin(
        "focal lengths of another size",
        lambda v: {"intrinsics": v.intrinsics * [0.75, 0.75, 1, 1]},
        "the focal lengths look like",
    ),
    Twin(
        "f_x of another width",
        lambda v: {"intrinsics": v.intrinsics * [960 / 810, 1, 1, 1]},
        "f_x looks like that of another",
    ),
    Twin(
        "no poses, intrinsics of half the size",
        lambda v: {"intrinsics": v.intrinsics / 2, "poses": None},
        "images of another size than 160x120",
    ),
    Twin(
        "depth in millimetres",
        lambda v: {"depth_m": [d * 1000 for d in v.depth_m]},
        "depth looks like millimetres: say --depth-unit 0.001",
    ),
    Twin(
        "depth in millimetres, no poses",
        lambda v: {"depth_m": [d * 1000 for d in v.depth_m], "poses": None},
        "depth looks like millimetres",
    ),
    Twin(
        "depth in centimetres", lambda v: {"depth_m": [d * 100 for d in v.depth_m]}, "different units: depth times 0.01"
    ),
    Twin(
        "depth of 5000 a metre as of 1000",
        lambda v: {"depth_m": [d * 5 for d in v.depth_m]},
        "different units: depth times 0.2",
    ),
    Twin(
        "depth in kilometres",
        lambda v: {"depth_m": [d / 1000 for d in v.depth_m]},
        "nearer than the depth code reaches",
    ),
    Twin(
        "depth as disparity",
        lambda v: {"depth_m": [1 / d for d in v.depth_m]},
        "depth looks like disparity|nearer than the depth code",
    ),
    Twin(
        "depth as disparity of a camera pair",
        lambda v: {"depth_m": [100 / d for d in v.depth_m]},
        "depth looks like disparity",
    ),
    Twin(
        "depth along rays",
        lambda v: {"depth_m": [d * lengths(v) for d in v.depth_m]},
        "the distance from the camera's centre",
    ),
    Twin(
        "depth a frame late",
        lambda v: {"depth_m": shifted(v.depth_m, 1)},
        "poses look shifted: with those a frame later",
    ),
    Twin(
        "depth unknown",
        lambda v: {"depth_m": [d * np.nan for d in v.depth_m]},
        "has no known depth: 100% of its pixels are unknown",
    ),
    Twin(
        "depth zero",
        lambda v: {"depth_m": [d * 0 for d in v.depth_m]},
        "has no known depth: 100% of its pixels are unknown",
    ),
    Twin(
        "depth infinite",
        lambda v: {"depth_m": [d + np.inf for d in v.depth_m]},
        "has no known depth: .* 100% are sky or were too far",
    ),
    Twin(
        "depth all beyond",
        lambda v: {"depth_m": [d + 5000 for d in v.depth_m]},
        "has no known depth: .*depth looks like millimetres",
    ),
    Twin(
        "images mirrored",
        lambda v: {"rgb": [i[:, ::-1] for i in v.rgb]},
        "images look mirrored against their depth maps",
    ),
    Twin(
        "images upside down",
        lambda v: {"rgb": [i[::-1] for i in v.rgb]},
        "images look upside down .*mirrored top to bottom",
    ),
    Twin(
        "images turned",
        lambda v: {"rgb": [i[::-1, ::-1] for i in v.rgb]},
        "images look upside down .*turned by 180 degrees",
    ),
    Twin(
        "all mirrored",
        lambda v: {"rgb": [i[:, ::-1] for i in v.rgb], "depth_m": [d[:, ::-1] for d in v.depth_m]},
        "images and depth look mirrored",
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize("twin", TWINS, ids=lambda twin: twin.name)
def test_what_is_wrong_is_named(vdaprep: Run, video: Video, tmp_path: Path, twin: Twin) -> None:
    dataclasses.replace(video, **twin.change(video)).write(tmp_path / "raw")
    convert = ("convert", "custom", "--raw", tmp_path / "raw", "--out", tmp_path, "--workers", 1)
    result = vdaprep(*convert)
    assert result.code == 0, result.err
    assert "raw: 24 frames, unknown " in result.out
    found = [line for line in result.err.splitlines() if line.startswith("looks wrong: raw: ")]
    if twin.sentence:
        assert any(map(re.compile(twin.sentence).search, found)), found
    else:
        assert found == []


def test_json_has_all_of_it(vdaprep: Run, video: Video, tmp_path: Path) -> None:
    dataclasses.replace(video, intrinsics=video.intrinsics / 2).write(tmp_path / "raw")
    convert = ("convert", "custom", "--raw", tmp_path / "raw", "--out", tmp_path, "--workers", 1)
    found = [line for line in vdaprep(*convert).err.splitlines() if line.startswith("looks wrong: raw: ")]
    [one] = json.loads(vdaprep(*convert, "--json").out.splitlines()[-1])["trajectories"]
    assert found == [f"looks wrong: raw: {what}" for what in one["findings"]]
    assert one["principal_point"] == pytest.approx([0.25, 0.25], abs=0.01)
    assert one["warp_error"] > 0.01
    assert one["unknown"] == 0


def test_the_look_can_be_left_out(vdaprep: Run, video: Video, tmp_path: Path) -> None:
    dataclasses.replace(video, intrinsics=video.intrinsics / 2).write(tmp_path / "raw")
    result = vdaprep("convert", "custom", "--raw", tmp_path / "raw", "--out", tmp_path, "--workers", 1, "--no-check")
    assert (result.code, result.err) == (0, "")
    assert "principal point" not in result.out


def test_one_that_differs_from_the_others_is_named(vdaprep: Run, video: Video, tmp_path: Path) -> None:
    some = dataclasses.replace(video, rgb=video.rgb[:6], depth_m=video.depth_m[:6], poses=None)
    for name, factor in (("a", 1), ("b", 1.5), ("c", 2), ("d", 50)):
        dataclasses.replace(some, depth_m=[d * factor for d in some.depth_m]).write(tmp_path / "raw" / name)
    result = vdaprep("convert", "custom", "--raw", tmp_path / "raw", "--out", tmp_path, "--workers", 1)
    [line] = result.err.splitlines()
    assert line.startswith("looks wrong: d: its depth is ")
    assert "times that of the others: is it in another unit?" in line
