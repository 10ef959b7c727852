"""KITTI's annotated depth: sparse depth maps, drives in zips, calibration by date, poses of GPS and IMU."""

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.conftest import Run, pinhole
from tests.exports import expect_exported, pack_zips, shard_bytes
from tests.serving import serve
from vdaprep.analysis.preview import enlarge_points
from vdaprep.errors import UsageError
from vdaprep.raw.frames import Frame, SourceOptions
from vdaprep.raw.png import encode_png, encode_png16
from vdaprep.raw.tree import Reader, open_tree
from vdaprep.shards.dataset import open_shards
from vdaprep.sources.evaluation import kitti
from vdaprep.synthetic.sample import render_as_frame, unpack
from vdaprep.synthetic.scene import make_scene

WIDTH, HEIGHT, FRAMES = 224, 144, 30
DATE, DRIVE = "2011_09_26", "2011_09_26_drive_0002_sync"
NAME = f"val/{DRIVE}"
FIRST, LAST = 5, FRAMES - 6  # frames with ground truth
GROUND_TRUTH = f"{NAME}/proj_depth/groundtruth"
RAW = f"{DATE}/{DRIVE}"


@pytest.fixture(scope="module")
def frames() -> list[Frame]:
    """A street, of whose depth one pixel in six is known, none in the upper third."""
    intrinsics = np.array(pinhole(width=WIDTH, height=HEIGHT))
    scene, rng = make_scene(0), np.random.default_rng(0)
    found: list[Frame] = []
    for number in range(FRAMES):
        frame = render_as_frame(scene, 2 * number, size=(WIDTH, HEIGHT), intrinsics=intrinsics)
        hit = (rng.random((HEIGHT, WIDTH)) < 1 / 6) & (frame.depth_m < 120)
        hit[: HEIGHT // 3] = False
        depth_m = np.where(hit, np.round(frame.depth_m * 256) / 256, np.nan).astype(np.float32)
        found.append(dataclasses.replace(frame, frame_id=number, depth_m=depth_m))
    return found


def map_of(frame: Frame) -> bytes:
    return encode_png16(np.nan_to_num(frame.depth_m * 256).astype(np.uint16))


# ------------------------------------------------------------------------------------------------------------ fixture

IMU_TO_VELO = np.eye(4)
IMU_TO_VELO[:3, 3] = -0.81, 0.32, -0.8
VELO_TO_CAMERA = np.array([[0, -1, 0, 0.0], [0, 0, -1, -0.076], [1, 0, 0, -0.27], [0, 0, 0, 1]], np.float64)
TURN = cv2.Rodrigues(np.array([0.01, -0.02, 0.005]))[0]
BASELINE_M = -0.06  # of camera 2, to the left of camera 0
WORLD_UP = np.array([[1, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]], np.float64)
EARTH_M = 6378137.0


def _words(values: np.ndarray) -> str:
    return " ".join(f"{value:.12e}" for value in np.ravel(values))


def calibration(intrinsics: np.ndarray) -> dict[str, bytes]:
    fx, fy, cx, cy = intrinsics
    matrix = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
    cameras = {"2": -BASELINE_M, "3": -BASELINE_M - 0.5}
    lines = ["calib_time: 09-Jan-2012 13:57:47", "corner_dist: 9.950000e-02", f"R_rect_00: {_words(TURN)}"]
    for camera, shift in cameras.items():
        projection = matrix @ np.hstack([np.eye(3), [[shift], [0.01], [0.002]]])
        lines += [f"S_rect_0{camera}: {_words(np.array([WIDTH, HEIGHT]))}", f"P_rect_0{camera}: {_words(projection)}"]
    steps = {"imu_to_velo": IMU_TO_VELO, "velo_to_cam": VELO_TO_CAMERA}
    files = {"cam_to_cam": "\n".join(lines)}
    for key, step in steps.items():
        head = "calib_time: 25-May-2012 16:47:16"
        files[key] = f"{head}\nR: {_words(step[:3, :3])}\nT: {_words(step[:3, 3])}\ndelta_f: 0.0 0.0\n"
    return {f"{DATE}/calib_{key}.txt": text.encode() for key, text in files.items()}


def oxts(frame: Frame, first: Frame) -> bytes:
    """Write where the IMU is when the camera is where a frame was seen from."""
    rectify, shift = np.eye(4), np.eye(4)
    rectify[:3, :3], shift[:3, 3] = TURN, (-BASELINE_M, 0.01, 0.002)
    imu_to_camera = shift @ rectify @ VELO_TO_CAMERA @ IMU_TO_VELO
    pose, start = (WORLD_UP @ item.camera_to_world @ imu_to_camera for item in (frame, first))
    east_m, north_m, up_m = pose[:3, 3] - start[:3, 3]
    latitude = np.radians(49.015)
    scale = np.cos(latitude) * EARTH_M
    north = scale * np.log(np.tan(np.pi / 4 + latitude / 2)) + north_m
    degrees = np.degrees([2 * np.arctan(np.exp(north / scale)) - np.pi / 2, np.radians(8.43) + east_m / scale])
    rotation = pose[:3, :3]
    roll, yaw = np.arctan2(rotation[2, 1], rotation[2, 2]), np.arctan2(rotation[1, 0], rotation[0, 0])
    pitch = np.arcsin(-rotation[2, 0])
    return " ".join(f"{value:.14f}" for value in (*degrees, 100 + up_m, roll, pitch, yaw, *[0] * 24)).encode()


def files_of(frames: list[Frame]) -> Iterator[tuple[str, bytes]]:
    """Write a drive as the downloads have it."""
    for frame in frames:
        stem = f"{frame.frame_id:010d}"
        for camera in (0, 1):
            yield f"{RAW}/image_0{camera}/data/{stem}.png", b"grey"
        for camera in (2, 3):
            yield f"{RAW}/image_0{camera}/data/{stem}.png", encode_png(frame.rgb.pixels)
            if FIRST <= frame.frame_id <= LAST:
                yield f"{GROUND_TRUTH}/image_0{camera}/{stem}.png", map_of(frame)
        yield f"{RAW}/oxts/data/{stem}.txt", oxts(frame, frames[FIRST])
        yield f"{RAW}/velodyne_points/data/{stem}.bin", b"points"
    yield f"{RAW}/oxts/dataformat.txt", b"lat: ..."
    yield f"{RAW}/image_02/timestamps.txt", b"2011-09-26 13:02:25.964389445\n"
    yield from calibration(frames[0].intrinsics).items()


def write(root: Path, frames: list[Frame]) -> Path:
    unpack(root, files_of(frames))
    return root


def pack(root: Path, loose: Path) -> Path:
    archives = {"data_depth_annotated.zip": "val/**/*", f"{DRIVE}.zip": f"{RAW}/**/*", f"{DATE}_calib.zip": f"{DATE}/*"}
    return pack_zips(root, loose, {name: [glob] for name, glob in archives.items()})


def record_of(out: Path) -> dict:
    return json.loads((out / "kitti/dataset.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("profile", ["standard", "small"])
def test_it_converts_verifies_and_exports_equal_to_its_source(
    profile: str, frames: list[Frame], vdaprep: Run, tmp_path: Path
) -> None:
    loose = write(tmp_path / "loose", frames)
    packed = pack(tmp_path / "packed", loose)
    for raw in (loose, packed):
        options = ("--workers", 1, "--strict", "--profile", profile)
        result = vdaprep("convert", "kitti", "--raw", raw, "--out", f"{raw}-out", *options)
        assert (result.code, result.err) == (0, "")
    out = tmp_path / "loose-out"
    assert shard_bytes(out) == shard_bytes(tmp_path / "packed-out")
    assert record_of(out)["splits"] == {"val": [NAME]}
    assert record_of(out)["totals"]["frames"] == LAST - FIRST + 1
    result = vdaprep("verify", out, "--deep", "--geometry")
    assert (result.code, result.err) == (0, "")
    assert "median warp error 0." in result.out
    for kind in ("png", "mp4"):
        tar = out / "kitti/val/shard-0001.tar"
        assert vdaprep("inspect", tar, "--preview", tmp_path / f"{profile}.{kind}").code == 0
    assert vdaprep("stats", out).code == 0
    assert vdaprep("export", out, "--out", tmp_path / "export").code == 0
    folder = tmp_path / "export" / NAME
    poses = np.loadtxt(folder / "camera_to_world.txt").reshape(-1, 4, 4)
    given = [frame.camera_to_world for frame in frames[FIRST : LAST + 1]]
    assert np.allclose(np.linalg.inv(poses[0]) @ poses, np.linalg.inv(given[0]) @ given, atol=1e-6)
    stored = {frame.frame_id: frame for frame in frames[FIRST : LAST + 1]}
    expect_exported(folder, stored, relative_error=0 if profile == "standard" else 0.0022, pose_error=None)


def test_lone_points_are_recoded_to_what_a_conversion_makes(frames: list[Frame], vdaprep: Run, tmp_path: Path) -> None:
    raw = write(tmp_path / "raw", frames[:14])
    for profile in ("standard", "small"):
        convert = ("convert", "kitti", "--raw", raw, "--out", tmp_path / profile, "--workers", 1, "--no-check")
        assert vdaprep(*convert, "--profile", profile).code == 0
    for source, profile in (("standard", "small"), ("small", "tiny")):
        out = tmp_path / f"{source}-recoded"
        assert vdaprep("recode", tmp_path / source, "--out", out, "--profile", profile, "--workers", 1).code == 0
        result = vdaprep("verify", out, "--deep")
        assert (result.code, result.err) == (0, "")
    converted, *recoded = (
        [(clip.meta.depth, bytes(frame.members["depth.zst"])) for clip in clips for frame in clip.frames()]
        for clips in (open_shards(tmp_path / name).clips() for name in ("small", "standard-recoded", "small-recoded"))
    )
    assert converted[0][0].packing == "sparse"
    assert recoded == [converted, converted]


def test_lone_points_are_drawn_larger() -> None:
    depth_m = np.full((20, 30), np.nan, np.float32)
    depth_m[5, 5], depth_m[5, 8], depth_m[14, 20] = 4, 9, 2
    shown_m = enlarge_points(depth_m)
    assert np.count_nonzero(shown_m == 2) == 25
    assert (shown_m[5, 5:9] == [4, 4, 4, 9]).all()  # a known pixel stays, the nearer surface hides the other
    assert np.isnan(shown_m[0]).all()


def test_urls_of_the_archives_convert_to_the_same_bytes(frames: list[Frame], vdaprep: Run, tmp_path: Path) -> None:
    loose = write(tmp_path / "loose", frames[:14])
    packed = pack(tmp_path / "packed", loose)
    with serve(packed) as server:
        urls = ",".join(f"{server.url}/{path.name}" for path in sorted(packed.iterdir()))
        for raw, out in ((loose, "one"), (urls, "other")):
            result = vdaprep("convert", "kitti", "--raw", raw, "--out", tmp_path / out, "--workers", 1, "--no-check")
            assert (result.code, result.err) == (0, "")
    assert shard_bytes(tmp_path / "one") == shard_bytes(tmp_path / "other")


@pytest.mark.slow
def test_every_file_is_accounted_for_and_drives_share_calibration(
    frames: list[Frame], vdaprep: Run, tmp_path: Path
) -> None:
    raw = write(tmp_path / "raw", frames)
    other = "2011_09_26_drive_0005_sync"
    for path, data in files_of(frames):
        unpack(raw, [(path.replace(DRIVE, other), data)])
    unpack(raw, [(f"train/{DRIVE.replace('0002', '0001')}/proj_depth/groundtruth/image_02/0000000005.png", b"x")])
    unpack(raw, [(f"{DATE}/2011_09_26_drive_0009_sync/image_02/data/0000000000.png", b"x")])
    result = vdaprep("plan", "kitti", "--raw", raw, "--out", tmp_path / "out", "--json")
    account = json.loads(result.out)["account"]
    count = LAST - FIRST + 1
    assert account["used"] == 2 * 3 * count + 3
    assert account["left_out"] == 2
    assert account["not_recognised"] == 0
    assert account["found"] == sum(path.is_file() for path in raw.rglob("*"))
    assert (account["without_depth"], account["without_image"], account["missing_frames"]) == (0, 0, 0)


def test_the_right_camera_has_its_own_projection(frames: list[Frame], tmp_path: Path) -> None:
    tree = open_tree(write(tmp_path / "raw", frames))
    places = []
    for camera in (0, 1):
        options = SourceOptions(camera=camera)
        [found] = kitti.find_trajectories(tree, options).trajectories
        with Reader(tree.root) as reader:
            cameras = kitti.read_cameras(found, reader, options)
        assert cameras.camera_to_world is not None
        assert cameras.problems == {}
        places.append(cameras.camera_to_world[0])
    assert np.allclose(np.linalg.inv(places[0]) @ places[1], [[1, 0, 0, 0.5], *np.eye(4)[1:].tolist()], atol=1e-9)
    with pytest.raises(UsageError, match=r"--camera 2: KITTI has cameras 0 \(image_02\) and 1 \(image_03\)"):
        kitti.find_trajectories(tree, SourceOptions(camera=2))


def test_a_place_names_a_drive() -> None:
    assert kitti.named_by_place(f"a/{DRIVE}.zip", "") == [f"train/{DRIVE}", NAME]
    assert kitti.named_by_place(f"a/{DRIVE}.zip", f"{RAW}/image_00/") == [f"train/{DRIVE}", NAME]
    assert kitti.named_by_place(f"a/{DRIVE}.zip", "something else") is None
    assert kitti.named_by_place("data_depth_annotated.zip", "train/") is None


# ---------------------------------------------------------------------------------------------------------- bad inputs

STEM = "0000000010"
IMAGE, DEPTH = f"{RAW}/image_02/data/{STEM}.png", f"{GROUND_TRUTH}/image_02/{STEM}.png"
FRAME_FAULTS: dict[str, tuple[str, Callable[[bytes], bytes | None], str]] = {
    "no depth": (DEPTH, lambda data: None, "has no depth map of the same number; those are in data_depth_annotated.zi"),
    "no image": (IMAGE, lambda data: None, "has no image of the same number; those are in the raw drive's _sync.zip"),
    "depth cut": (DEPTH, lambda data: data[:-9], "the PNG is cut short after"),
    "8 bits": (
        DEPTH,
        lambda data: encode_png(np.zeros((HEIGHT, WIDTH, 3), np.uint8)),
        "expected one channel of 16 bit",
    ),
    "65535": (
        DEPTH,
        lambda data: encode_png16(np.full((HEIGHT, WIDTH), 65535, np.uint16)),
        "holds 65535, 256 m, which no laser point of KITTI has",
    ),
    "a crop": (DEPTH, lambda data: encode_png16(np.ones((60, 80), np.uint16)), "is 80x60 pixels, the image is 224x144"),
    "a page": (IMAGE, lambda data: b"<!DOCTYPE html><html>", "is not a PNG"),
}


@pytest.mark.parametrize("kind", FRAME_FAULTS)
def test_a_bad_file_costs_its_frame_and_a_sentence(
    kind: str, frames: list[Frame], vdaprep: Run, tmp_path: Path
) -> None:
    name, change, sentence = FRAME_FAULTS[kind]
    raw = write(tmp_path / "raw", frames)
    data = change((raw / name).read_bytes())
    (raw / name).unlink()
    if data is not None:
        (raw / name).write_bytes(data)
    result = vdaprep("convert", "kitti", "--raw", raw, "--out", tmp_path / "out", "--workers", 1, "--no-check")
    assert result.code == 0
    [line] = [line for line in result.err.splitlines() if line.startswith("rejected: ")]
    assert STEM in line
    assert sentence in line
    assert record_of(tmp_path / "out")["totals"]["frames"] == LAST - FIRST


def _without(*parts: str) -> Callable[[str, bytes], bytes | None]:
    return lambda path, data: None if any(part in path for part in parts) else data


def _replaced(part: str, old: bytes, new: bytes) -> Callable[[str, bytes], bytes | None]:
    return lambda path, data: data.replace(old, new) if part in path else data


DRIVE_FAULTS: dict[str, tuple[Callable[[str, bytes], bytes | None], int, str]] = {
    "no calibration": (
        _without("calib_"),
        1,
        "has no camera: 2011_09_26/calib_cam_to_cam.txt is missing; it is in 2011",
    ),
    "no projection": (_replaced("cam_to_cam", b"P_rect_02", b"P_rect_09"), 1, "has no line 'P_rect_02:' of 12 numbers"),
    "a number less": (
        _replaced("cam_to_cam", b"S_rect_02: 2.2", b"S_rect_02: x"),
        1,
        "has no line 'S_rect_02:' of 2 nu",
    ),
    "another size": (
        _replaced("cam_to_cam", b"1.440000000000e+02", b"3.750000000000e+02"),
        1,
        "the data set's camera ha",
    ),
    "no raw drive": (_without(RAW), 1, "has no image of the same number; those are in the raw drive's _sync.zip"),
    "no depth maps": (_without("groundtruth"), 1, "those are in data_depth_annotated.zip"),
    "no first maps": (
        _without(*(f"image_02/{n:010d}" for n in (5, 6))),
        0,
        "has 7 frames before its first depth map, 7",
    ),
    "no last maps": (_without(f"image_02/{LAST:010d}"), 0, "has 6 frames after its last depth map, 23, expected 5"),
    "unpacked otherwise": (
        lambda path, data: None if "/image" in path else data,
        1,
        "no KITTI (annotated depth) traject",
    ),
}


@pytest.mark.parametrize("kind", DRIVE_FAULTS)
def test_what_a_drive_lacks_is_named(kind: str, frames: list[Frame], vdaprep: Run, tmp_path: Path) -> None:
    change, code, sentence = DRIVE_FAULTS[kind]
    changed = ((path, change(path, data)) for path, data in files_of(frames))
    unpack(tmp_path / "raw", ((path, data) for path, data in changed if data is not None))
    result = vdaprep("convert", "kitti", "--raw", tmp_path / "raw", "--out", tmp_path / "out", "--workers", 1)
    assert result.code == code
    assert sentence in result.err


POSE_FAULTS: dict[str, tuple[Callable[[str, bytes], bytes | None], str]] = {
    "no oxts": (_without("oxts/data"), ""),
    "no calibration of the IMU": (
        _without("imu_to_velo"),
        "has no poses, as the calibration of its IMU cannot be read",
    ),
    "that is damaged": (_replaced("imu_to_velo", b"R:", b"Q:"), "has no line 'R:' of 9 numbers; get it again"),
    "an oxts less": (_without(f"oxts/data/{STEM}"), "1 frames are kept without a pose."),
    "an oxts cut": (
        lambda path, data: data[:40] if f"oxts/data/{STEM}" in path else data,
        "is not one line of 30 numbers that begins with latitude and longitude",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", POSE_FAULTS)
def test_frames_without_a_pose_are_kept(kind: str, frames: list[Frame], vdaprep: Run, tmp_path: Path) -> None:
    change, sentence = POSE_FAULTS[kind]
    changed = ((path, change(path, data)) for path, data in files_of(frames))
    unpack(tmp_path / "raw", ((path, data) for path, data in changed if data is not None))
    result = vdaprep(
        "convert", "kitti", "--raw", tmp_path / "raw", "--out", tmp_path / "out", "--workers", 1, "--strict"
    )
    assert result.code == 0
    assert sentence in result.err
    assert record_of(tmp_path / "out")["totals"]["frames"] == LAST - FIRST + 1
    assert vdaprep("verify", tmp_path / "out", "--deep", "--geometry").code == 0


def test_a_second_calibration_is_named(frames: list[Frame], vdaprep: Run, tmp_path: Path) -> None:
    raw = write(tmp_path / "raw", frames)
    unpack(raw, ((f"other/{path}", data + b"x: 1\n") for path, data in calibration(frames[0].intrinsics).items()))
    result = vdaprep("convert", "kitti", "--raw", raw, "--out", tmp_path / "out", "--workers", 1)
    assert result.code == 0
    assert "other/2011_09_26/calib_cam_to_cam.txt" in result.err
    assert "is a second calibration of 2011_09_26; the first is used" in result.err


# -------------------------------------------------------------------------------------------------------- broken twins


def _inverted(path: str, frames: list[Frame]) -> bytes | None:
    """Return a reading as if world-to-camera were the pose."""
    if "/oxts/data/" not in path:
        return None
    first, frame = (frames[number] for number in (FIRST, int(Path(path).stem)))
    one, other = (dataclasses.replace(item, camera_to_world=inverse_of(item)) for item in (frame, first))
    return oxts(one, other)


def inverse_of(frame: Frame) -> np.ndarray:
    assert frame.camera_to_world is not None
    return np.linalg.inv(frame.camera_to_world)


def _shifted(part: str, by: int) -> Callable[[str, list[Frame]], bytes | None]:
    def change(path: str, frames: list[Frame]) -> bytes | None:
        if part not in path:
            return None
        frame = frames[min(int(Path(path).stem) + by, FRAMES - 1)]
        return encode_png(frame.rgb.pixels) if part.startswith("/image") else map_of(frame)

    return change


@pytest.mark.slow
@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (_inverted, "depth, poses and intrinsics do not agree: "),
        (
            _shifted("groundtruth/image_02/", 3),
            "poses look shifted: with those 3 frames later, depth maps fit clearly b",
        ),
        (
            _shifted("/image_02/data/", 4),
            "images and depth maps look shifted: with images 4 frames earlier, depth maps fi",
        ),
    ],
)
def test_a_broken_twin_is_named(
    damage: Callable[[str, list[Frame]], bytes | None],
    sentence: str,
    frames: list[Frame],
    vdaprep: Run,
    tmp_path: Path,
) -> None:
    unpack(tmp_path / "raw", ((path, damage(path, frames) or data) for path, data in files_of(frames)))
    out = tmp_path / "out"
    assert vdaprep("convert", "kitti", "--raw", tmp_path / "raw", "--out", out, "--workers", 1, "--no-check").code == 0
    result = vdaprep("verify", out, "--geometry")
    assert result.code == 1
    assert sentence in result.out
