"""ScanNet's recordings (`.sens`), what their exporter writes, and poses that are not known."""

import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.conftest import Run, decode_shards, pinhole
from tests.sens import Shot, sens
from tests.serving import serve
from vdaprep import sources
from vdaprep.raw.frames import Frame, SourceOptions
from vdaprep.raw.png import encode_png16
from vdaprep.raw.tree import Location, Reader, Tree, open_tree
from vdaprep.shards.cameras import invert_pose, scale_intrinsics
from vdaprep.synthetic.sample import render_as_frame, unpack
from vdaprep.synthetic.scene import make_scene

SCAN = "scene0707_00"
WIDTH, HEIGHT = 64, 48
MOMENTS = (0, 10, 12, 22, 24, 34)  # the camera moves unevenly, so that another frame's pose shows
FRAMES = len(MOMENTS)
LOST = 2  # the frame without a pose
NO_POSE = np.full((4, 4), -np.inf)


@pytest.fixture(scope="module")
def frames() -> list[Frame]:
    """A room in which nothing moves, on the grid of the depth maps."""
    return render(width=WIDTH, height=HEIGHT)


@pytest.fixture(scope="module")
def shots(frames: list[Frame]) -> list[Shot]:
    large = render(width=2 * WIDTH, height=2 * HEIGHT)
    poses = [frame.camera_to_world for frame in frames]
    poses[LOST] = NO_POSE
    return [
        Shot(jpeg(colour), millimetres(frame), pose)
        for colour, frame, pose in zip(large, frames, poses, strict=True)
        if pose is not None
    ]


def render(*, width: int, height: int) -> list[Frame]:
    scene = make_scene(5)
    scene = replace(scene, solids=tuple(solid for solid in scene.solids if not solid.moves))
    camera = scale_intrinsics(
        np.array(pinhole(width=WIDTH, height=HEIGHT)), x=width / WIDTH, y=height / HEIGHT
    )  # of one view
    return [render_as_frame(scene, moment, size=(width, height), intrinsics=camera) for moment in MOMENTS]


def jpeg(frame: Frame) -> bytes:
    ok, data = cv2.imencode(".jpg", cv2.cvtColor(frame.rgb.pixels, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 98])
    assert ok
    return data.tobytes()


def millimetres(frame: Frame) -> np.ndarray:
    depth_mm = np.nan_to_num(frame.depth_m * 1000.0, nan=0.0, posinf=0.0).round()
    depth_mm[0, :4] = 0, 1, 65534, 65535
    return depth_mm.astype(np.uint16)


def matrix(frame: Frame) -> np.ndarray:
    fx, fy, cx, cy = frame.intrinsics.tolist()
    return np.array([[fx, 0, cx, 0], [0, fy, cy, 0], [0, 0, 1, 0], [0, 0, 0, 1]])


def text(values: np.ndarray) -> bytes:
    return "".join(" ".join(f"{number:.6f}" for number in row) + "\n" for row in values.tolist()).encode()


def exported(shots: list[Shot], depth_camera: np.ndarray) -> dict[str, bytes]:
    """What SensReader writes of a recording, by paths: frames are numbered without zeros in front."""
    files = {f"{SCAN}/intrinsic/intrinsic_depth.txt": text(depth_camera)}
    files |= {f"{SCAN}/intrinsic/{name}.txt": text(np.eye(4)) for name in ("intrinsic_color", "extrinsic_color")}
    for number, shot in enumerate(shots):
        files[f"{SCAN}/color/{number}.jpg"] = shot.jpeg
        files[f"{SCAN}/depth/{number}.png"] = encode_png16(shot.depth_mm)
        files[f"{SCAN}/pose/{number}.txt"] = text(shot.pose)
    return files


@pytest.fixture
def recording(shots: list[Shot], frames: list[Frame], tmp_path: Path) -> Path:
    path = tmp_path / "raw" / "scans_test" / SCAN / f"{SCAN}.sens"
    path.parent.mkdir(parents=True)
    path.write_bytes(sens(shots, matrix(frames[0])))
    (path.parent / f"{SCAN}.txt").write_text("axisAlignment = 1 0 0 0\n")
    return path


# ------------------------------------------------------------------------------------------------- through the command


@pytest.mark.slow
def test_a_recording_and_its_export_convert_to_what_they_hold(
    recording: Path, shots: list[Shot], frames: list[Frame], vdaprep: Run, tmp_path: Path
) -> None:
    unpack(tmp_path / "folders", exported(shots, matrix(frames[0])).items())
    for name, raw in (("sens", tmp_path / "raw"), ("export", tmp_path / "folders"), ("file", recording)):
        result = vdaprep("convert", "scannet", "--raw", raw, "--out", tmp_path / name, "--workers", 1, "--strict")
        assert (result.code, result.err) == (0, "")
        assert vdaprep("verify", tmp_path / name, "--deep", "--geometry").code == 0
        [tar] = (tmp_path / name).rglob("*.tar")
        assert tar.parent.name == "val"
        clips = [(meta, values) for _, meta, values in decode_shards(tar)]
        # A clip has poses for all of its frames or for none, so it is cut where tracking is lost; no frame is.
        assert [meta.frame_ids for meta, _ in clips] == [(0, 1), (2,), (3, 4, 5)]
        assert [meta.camera_to_world is None for meta, _ in clips] == [False, True, False]
        for meta, values in clips:
            for place, number in enumerate(meta.frame_ids):
                _expect_frame(values, place, shots[number], frames[number])
                np.testing.assert_allclose(meta.intrinsics[place], frames[number].intrinsics, rtol=1e-6)
                if meta.camera_to_world is not None:
                    np.testing.assert_allclose(meta.camera_to_world[place], frames[number].camera_to_world, atol=2e-6)


def _expect_frame(values: dict[str, list[np.ndarray]], place: int, shot: Shot, frame: Frame) -> None:
    known = (shot.depth_mm > 0) & (shot.depth_mm < 65535)
    expected_m = np.where(known, shot.depth_mm * 0.001, np.nan).astype(np.float32)
    np.testing.assert_array_equal(values["depth.zst"][place], expected_m)
    off = values["rgb.jpg"][place].astype(float) - frame.rgb.pixels
    assert np.abs(off).mean() < 6  # two JPEGs, and averaged pixels instead of pixels' centres


def test_a_recording_behind_a_url_gives_the_same_shards(
    recording: Path, shots: list[Shot], frames: list[Frame], vdaprep: Run, tmp_path: Path
) -> None:
    with serve(tmp_path / "raw") as server:
        url = f"{server.url}/scans_test/{SCAN}/{SCAN}.sens?token=secret"
        for name, raw in (("url", url), ("file", recording)):
            result = vdaprep("convert", "scannet", "--raw", raw, "--out", tmp_path / name, "--workers", 1)
            assert (result.code, result.err) == (0, "")
        assert f"{SCAN}.sens whole" not in server.asked
        long = sens([replace(shots[0], jpeg=bytes(200_000))] * 60, matrix(frames[0]))
        recording.write_bytes(long)
        server.asked.clear()
        assert len(open_tree(url).files) == 4 + 3 * 60
        assert server.asked.total() <= len(long) // (4 << 20) + 4  # its size, its first bytes, what follows its frames
    [tar] = (tmp_path / "url").rglob("*.tar")
    assert tar.read_bytes() == (tmp_path / "file" / tar.relative_to(tmp_path / "url")).read_bytes()


def test_export_writes_nan_for_a_pose_that_is_not_known(recording: Path, vdaprep: Run, tmp_path: Path) -> None:
    assert vdaprep("convert", "scannet", "--raw", recording, "--out", tmp_path / "out", "--workers", 1).code == 0
    assert vdaprep("export", tmp_path / "out", "--out", tmp_path / "plain").code == 0
    poses = np.loadtxt(tmp_path / "plain" / SCAN / "camera_to_world.txt")
    assert poses.shape == (FRAMES, 16)
    assert np.flatnonzero(np.isnan(poses).any(axis=1)).tolist() == [LOST]


Change = Callable[[list[Shot]], list[Shot]]
BROKEN: dict[str, tuple[Change, str]] = {
    "poses are inverted": (
        lambda shots: [
            replace(shot, pose=shot.pose if shot.pose is NO_POSE else invert_pose(shot.pose)) for shot in shots
        ],
        "the poses look like world-to-camera: inverted, they fit clearly better",
    ),
    "pairing is shifted": (
        lambda shots: [
            replace(shot, pose=before.pose) for before, shot in zip(shots[-1:] + shots[:-1], shots, strict=True)
        ],
        "depth, poses and intrinsics do not agree: ",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_verify_names_wrong_geometry(
    name: str, shots: list[Shot], frames: list[Frame], vdaprep: Run, tmp_path: Path
) -> None:
    change, sentence = BROKEN[name]
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / f"{SCAN}.sens").write_bytes(sens(change(shots), matrix(frames[0])))
    assert vdaprep("convert", "scannet", "--raw", tmp_path / "raw", "--out", tmp_path / "out", "--workers", 1).code == 0
    result = vdaprep("verify", tmp_path / "out", "--geometry")
    assert result.code == 1
    assert f"{SCAN}: {FRAMES} frames, " in result.out
    assert sentence in result.out


def test_some_of_a_benchmarks_scans_are_enough_to_convert(
    recording: Path, shots: list[Shot], frames: list[Frame], vdaprep: Run, tmp_path: Path
) -> None:
    recording.with_name("scene0000_00.sens").write_bytes(sens(shots, matrix(frames[0])))
    places = ("--raw", tmp_path / "raw", "--out", tmp_path / "out")
    assert vdaprep("convert", "scannet", *places, "--workers", 1, "--for", "benchmark").code == 0
    [tar] = (tmp_path / "out").rglob("*.tar")
    assert [meta.trajectory for _, meta, _ in decode_shards(tar)] == [SCAN] * 3
    other = recording.with_name("scene0707_00.sens").rename(tmp_path / "raw" / "scene0001_00.sens")
    result = vdaprep("plan", "scannet", "--raw", other, "--out", tmp_path / "none", "--for", "benchmark")
    assert result.code == 1
    assert "takes none of its 1 trajectories; there are, for example, scene0001_00" in result.err


def test_the_default_split_holds_everything_out_and_select_opens_one_recording(
    recording: Path, shots: list[Shot], frames: list[Frame], vdaprep: Run, tmp_path: Path
) -> None:
    other = tmp_path / "raw" / "scene0708_00.sens"
    other.write_bytes(b"not opened")
    result = vdaprep(
        "convert", "scannet", "--raw", tmp_path / "raw", "--out", tmp_path / "out", "--workers", 1, "--select", SCAN
    )
    assert (result.code, result.err) == (0, "")
    assert "1 archives hold nothing of it and were not opened" in result.out


@pytest.mark.parametrize("cut", [False, True])
def test_a_recording_is_consumed_if_every_byte_of_it_is_accounted_for(
    cut: bool, recording: Path, vdaprep: Run, tmp_path: Path
) -> None:
    data = recording.read_bytes()
    recording.write_bytes(data[:-300] if cut else data)
    places = ("--raw", tmp_path / "raw", "--out", tmp_path / "out")
    assert vdaprep("convert", "scannet", *places, "--workers", 1, "--consume", "--yes").code == 0
    assert recording.exists() == cut
    assert vdaprep("verify", tmp_path / "out", "--deep").code == 0


# ------------------------------------------------------------------------------------------------------------ listing


def test_a_recording_is_listed_as_its_exporter_names_files(recording: Path, shots: list[Shot]) -> None:
    tree = open_tree(recording)
    assert tree.problems == ()
    assert tree.archives[recording.name].accounted
    assert len(tree.files) == 4 + 3 * FRAMES
    with Reader(tree.root) as reader:
        read = {path: reader.read(location) for path, location in tree.files.items()}
        assert all(len(read[path]) == location.span.size for path, location in tree.files.items() if location.span)
    assert read[f"{SCAN}.sens/color/3.jpg"] == shots[3].jpeg
    assert np.loadtxt(read[f"{SCAN}.sens/pose/{LOST}.txt"].decode().split()).tolist() == [-np.inf] * 16
    pose = np.array(read[f"{SCAN}.sens/pose/3.txt"].split(), float)
    np.testing.assert_array_equal(pose.astype(np.float32), shots[3].pose.astype(np.float32).ravel())


HEADER = 12 + 15 + 4 * 64 + 36
BAD: dict[str, tuple[dict[str, float] | Callable[[bytes], bytes], str]] = {
    "another version": (lambda data: b"\3" + data[1:], "version 3 of .sens would, which is not read; expected version"),
    "raw colour": ({"colour": 0}, "its colour is not compressed (0), which is not read; expected 1 (PNG) or 2 (JPEG)"),
    "no colour": ({"colour": -1}, "its colour is of an unknown compression (-1), which is not read"),
    "OCCI": ({"depth": 2}, "its depth is packed by OCCI (2), which is not read; expected 0 (16 bits) or 1 (zlib)"),
    "other unit": ({"units": 5000.0}, "its depth has 5000 units a metre, which is not read; expected 1000"),
    "huge": ({"width": 1 << 30}, "its depth is 1073741824x48 pixels by its header, expected at most"),
    "long name": (lambda data: data[:4] + b"\xff" * 8 + data[12:], "its sensor has a name of 1844674407"),
    "half a header": (lambda data: data[: HEADER - 1], "its header is cut short after 318 bytes"),
    "a web page": (lambda data: b"<!DOCTYPE html><html></html>", "it is a web page, which a server sent instead"),
    "zeros": (lambda data: bytes(len(data)), "holds nothing but zeros: it was not downloaded"),
    "nothing": (lambda data: b"", "it is empty"),
    "half a frame": (lambda data: data[: len(data) // 4], "is cut short after 1 of 6 frames; get it again"),
    "more frames": ({"frames": 1 << 60}, " of 1152921504606846976 frames; get it again to have the rest"),
    "fewer frames": ({"frames": 5}, "bytes of the inertial unit are there; get it again"),
    "half a reading": (lambda data: data[:-100], "164 of 264 bytes of the inertial unit are there; get it again"),
    "more bytes": (lambda data: data + b"more", "goes on for 4 bytes after its end; get it again, or cut them off"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_recording_that_is_none_costs_a_sentence(
    name: str, shots: list[Shot], frames: list[Frame], tmp_path: Path
) -> None:
    change, sentence = BAD[name]
    camera = matrix(frames[0])
    data = sens(shots, camera, **change) if isinstance(change, dict) else change(sens(shots, camera))
    (tmp_path / f"{SCAN}.sens").write_bytes(data)
    tree = open_tree(tmp_path)
    [problem] = tree.problems
    assert problem.file == f"{SCAN}.sens"
    assert sentence in problem.reason
    assert not tree.archives or not tree.archives[f"{SCAN}.sens"].accounted


def test_a_recording_without_readings_or_with_plain_depth_is_whole(
    shots: list[Shot], frames: list[Frame], tmp_path: Path
) -> None:
    plain = sens(shots, matrix(frames[0]), depth=0)
    for data in (plain, plain[: -8 - 2 * 128], plain[: -8 - 2 * 128] + bytes(8)):
        (tmp_path / f"{SCAN}.sens").write_bytes(data)
        tree = open_tree(tmp_path)
        assert tree.problems == ()
        assert tree.archives[f"{SCAN}.sens"].accounted
        with Reader(tree.root) as reader:
            pgm = reader.read(tree.files[f"{SCAN}.sens/depth/1.pgm"])
        np.testing.assert_array_equal(cv2.imdecode(np.frombuffer(pgm, np.uint8), -1), shots[1].depth_mm)


# ------------------------------------------------------------------------------------------------------ one bad frame


def damaged(data: bytes, shot: Shot, change: Callable[[bytes], bytes]) -> bytes:
    packed = zlib.compress(shot.depth_mm.astype("<u2").tobytes())
    assert data.count(packed) == 1
    changed = change(packed)
    assert len(changed) == len(packed)
    return data.replace(packed, changed)


def smaller_map(packed: bytes) -> bytes:
    small = zlib.compress(bytes(100))
    return small + bytes(len(packed) - len(small))


def bomb(packed: bytes) -> bytes:
    large = zlib.compress(bytes(1 << 20), 9)
    return large + bytes(len(packed) - len(large))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda packed: b"\0" * len(packed), "cannot be read ("),
        (smaller_map, "holds 100 bytes of depth, expected 6144 of 64x48 pixels"),
        (bomb, "holds more than 6144 bytes of depth, expected 6144 of 64x48 pixels"),
    ],
)
def test_damaged_depth_is_its_frames_alone(
    change: Callable[[bytes], bytes],
    sentence: str,
    recording: Path,
    shots: list[Shot],
    vdaprep: Run,
    tmp_path: Path,
) -> None:
    recording.write_bytes(damaged(recording.read_bytes(), shots[4], change))
    result = vdaprep("convert", "scannet", "--raw", recording, "--out", tmp_path / "out", "--workers", 1)
    assert result.code == 0
    assert f"{SCAN}.sens/depth/4.pgm: " in result.err
    assert sentence in result.err
    [tar] = (tmp_path / "out").rglob("*.tar")
    assert [number for _, meta, _ in decode_shards(tar) for number in meta.frame_ids] == [0, 1, 2, 3, 5]


Files = dict[str, bytes]
BAD_EXPORTS: dict[str, tuple[Callable[[Files], object], str]] = {
    "no calibration": (
        lambda files: files.pop(f"{SCAN}/intrinsic/intrinsic_depth.txt"),
        "has no intrinsics: scene0707_00/intrinsic/intrinsic_depth.txt: is missing; get it with SensReader's",
    ),
    "half a calibration": (
        lambda files: files.update({f"{SCAN}/intrinsic/intrinsic_depth.txt": b"577 0 319\n0 578 239\n"}),
        "intrinsic_depth.txt: has 6 numbers in 2 rows, expected 4 rows of 4",
    ),
    "no pose": (
        lambda files: files.pop(f"{SCAN}/pose/4.txt"),
        "has no pose: pose/4.txt is missing, though other frames have theirs",
    ),
    "words for a pose": (
        lambda files: files.update({f"{SCAN}/pose/4.txt": b"a b c d\n" * 4}),
        "pose/4.txt: holds something else than numbers, expected 4 rows of 4 numbers",
    ),
    "a mirroring": (
        lambda files: files.update({f"{SCAN}/pose/4.txt": text(np.diag([1.0, -1.0, 1.0, 1.0]))}),
        "has no usable pose: its matrix is not a rotation and a translation",
    ),
    "no colour": (
        lambda files: [files.pop(f"{SCAN}/color/{number}.jpg") for number in range(FRAMES)],
        "has no image beside it in color",
    ),
    "no depth map": (lambda files: files.pop(f"{SCAN}/depth/4.png"), "has no depth map beside it in depth"),
    "another view": (
        lambda files: files.update({f"{SCAN}/depth/4.png": encode_png16(np.ones((40, 64), np.uint16))}),
        "the depth map is 64x40 pixels, the image is 128x96",
    ),
    "an image that is too small": (
        lambda files: files.update({f"{SCAN}/depth/4.png": encode_png16(np.ones((480, 640), np.uint16))}),
        "the depth map is 640x480 pixels, the image is 128x96",
    ),
    "two of one frame": (
        lambda files: files.update({f"{SCAN}/color/04.jpg": files[f"{SCAN}/color/4.jpg"]}),
        "is a second rgb file of a frame of scene0707_00",
    ),
}


@pytest.mark.parametrize("name", BAD_EXPORTS)
def test_an_export_that_is_not_whole_costs_a_sentence(
    name: str, shots: list[Shot], frames: list[Frame], vdaprep: Run, tmp_path: Path
) -> None:
    files = exported(shots, matrix(frames[0]))
    change, sentence = BAD_EXPORTS[name]
    change(files)
    unpack(tmp_path / "raw", files.items())
    result = vdaprep(
        "convert", "scannet", "--raw", tmp_path / "raw", "--out", tmp_path / "out", "--workers", 1, "--strict"
    )
    assert result.code == 1
    assert sentence in result.err


def test_an_export_without_poses_has_none(shots: list[Shot], frames: list[Frame], vdaprep: Run, tmp_path: Path) -> None:
    files = exported(shots, matrix(frames[0]))
    unpack(tmp_path / "raw", ((path, data) for path, data in files.items() if "/pose/" not in path))
    result = vdaprep(
        "convert", "scannet", "--raw", tmp_path / "raw", "--out", tmp_path / "out", "--workers", 1, "--strict"
    )
    assert (result.code, result.err) == (0, "")
    [tar] = (tmp_path / "out").rglob("*.tar")
    assert [meta.camera_to_world for _, meta, _ in decode_shards(tar)] == [None]


def test_the_published_camera_follows_the_size_of_depth_maps(tmp_path: Path) -> None:
    camera = np.array([[577.87, 0, 319.5, 0], [0, 578.73, 239.5, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    location = Location("", "x.txt")
    tree = Tree(tmp_path, {f"{SCAN}/color/0.jpg": location, f"{SCAN}/intrinsic/intrinsic_depth.txt": location}, ())
    (tmp_path / "x.txt").write_bytes(text(camera))
    source = sources.load("scannet")
    [trajectory] = source.find_trajectories(tree, SourceOptions()).trajectories
    with Reader(tmp_path) as reader:
        cameras = source.read_cameras(trajectory, reader, SourceOptions())
    assert cameras.size == (640, 480)
    assert cameras.camera_to_world is None


def test_numbers_order_frames_and_names_order_nothing(shots: list[Shot], frames: list[Frame], tmp_path: Path) -> None:
    paths = [
        f"{SCAN}/{kind}/{number}.{ending}"
        for kind, ending in (("color", "jpg"), ("depth", "png"))
        for number in range(12)
    ]
    tree = Tree(tmp_path, {path: Location("", path) for path in sorted(paths)}, ())
    [trajectory] = sources.load("scannet").find_trajectories(tree, SourceOptions()).trajectories
    assert tuple(trajectory.frame_ids) == tuple(range(12))
    assert [frame.rgb and frame.rgb.member for frame in trajectory.frames][10] == f"{SCAN}/color/10.jpg"
