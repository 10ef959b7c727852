"""Virtual KITTI's two layouts, cameras, tables, centimetres and JPEGs."""

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vdaprep import sources
from vdaprep.errors import FrameError, UsageError
from vdaprep.raw.frames import Cameras, FrameFiles, RgbImage, SourceOptions, Trajectory
from vdaprep.raw.tree import Location, Reader, Tree
from vdaprep.shards import codec, depth_codes
from vdaprep.sources import _manifest
from vdaprep.sources._cameras import invert_poses
from vdaprep.sources.training import vkitti

ONE_ROW = "1 0 0 0 0 1 0 0 0 0 1 0 0 0 0 1"
V2_HEADER = "frame cameraID r1,1 r1,2 r1,3 t1 r2,1 r2,2 r2,3 t2 r3,1 r3,2 r3,3 t3 0 0 0 1"
V1_HEADER = "frame r1,1 r1,2 r1,3 t1 r2,1 r2,2 r2,3 t2 r3,1 r3,2 r3,3 t3 0 0.1 0.2 1"  # as it is in the download


def tree(*paths: str) -> Tree:
    return Tree(Path("raw"), {path: Location("", path) for path in paths}, ())


def find(*paths: str, camera: int = 0) -> tuple[Trajectory, ...]:
    return sources.load("vkitti").find_trajectories(tree(*paths), SourceOptions(camera=camera)).trajectories


# -------------------------------------------------------------------------------------------------------------- paths


@pytest.mark.parametrize("ending", [str.lower, str.upper])
@pytest.mark.parametrize(
    "prefixes", [("", "", ""), ("vkitti_2.0.3_rgb/", "a/vkitti_2.0.3_depth/", "vkitti_2.0.3_textgt/"), ("a/b/",) * 3]
)
def test_version_2_is_found_wherever_it_begins(prefixes: tuple[str, str, str], ending) -> None:
    rgb, depth, text = (f"{prefix}Scene18/15-deg-left" for prefix in prefixes)
    paths = (
        f"{rgb}/frames/rgb/Camera_0/rgb_00007{ending('.jpg')}",
        f"{rgb}/frames/rgb/Camera_0/rgb_00008{ending('.jpg')}",
        f"{depth}/frames/depth/Camera_0/depth_00008{ending('.png')}",
        f"{text}/intrinsic{ending('.txt')}",
        f"{text}/extrinsic{ending('.txt')}",
        f"{text}/pose.txt",
        f"{text}/bbox.txt",
        f"{rgb}/frames/forwardFlow/Camera_0/flow_00009.png",
        f"{rgb}/frames/rgb/Camera_1/rgb_00010.jpg",
        f"{depth}/frames/depth/Camera_0/depth_00011.jpg",
        "README.md",
    )
    [found] = find(*paths)
    assert (found.name, found.layout, tuple(found.frame_ids)) == ("Scene18/15-deg-left", "2.0.3", (7, 8))
    assert found.frames[0].depth is None
    assert [str(found.frames[1].rgb), str(found.frames[1].depth)] == list(paths[1:3])
    assert {kind: str(location) for kind, location in found.shared.items()} == {
        "intrinsic": paths[3],
        "extrinsic": paths[4],
    }


@pytest.mark.parametrize("prefix", ["", "a/b/"])
def test_version_1_is_told_apart_by_its_folders(prefix: str) -> None:
    paths = (
        f"{prefix}vkitti_1.3.1_rgb/0001/30-deg-right/00003.png",
        f"{prefix}vkitti_1.3.1_depthgt/0001/30-deg-right/00003.PNG",
        f"{prefix}vkitti_1.3.1_extrinsicsgt/0001_30-deg-right.txt",
        f"{prefix}vkitti_1.3.1_scenegt/0001/30-deg-right/00004.png",
        f"{prefix}vkitti_1.3.1_motgt/0001_30-deg-right.txt",
        "Scene01/clone/frames/depth/Camera_0/depth_00000.png",
    )
    first, second = find(*paths)
    assert (first.name, first.layout, tuple(first.frame_ids)) == ("0001/30-deg-right", "1.3.1", (3,))
    assert [str(first.frames[0].rgb), str(first.frames[0].depth)] == list(paths[:2])
    assert {kind: str(location) for kind, location in first.shared.items()} == {"extrinsic": paths[2]}
    assert (second.name, second.layout) == ("Scene01/clone", "2.0.3")


def test_the_camera_chooses_the_files() -> None:
    paths = [f"Scene01/clone/frames/rgb/Camera_{camera}/rgb_{camera:05d}.jpg" for camera in (0, 1)]
    old = "vkitti_1.3.1_rgb/0001/clone/00000.png"
    for camera in (0, 1):
        assert tuple(find(*paths, camera=camera)[0].frame_ids) == (camera,)
    assert [item.name for item in find(*paths, old, camera=1)] == ["Scene01/clone"]
    for there in (paths[0], old):
        with pytest.raises(UsageError, match="--camera 1: raw has frames of camera 0 only"):
            find(there, camera=1)
    with pytest.raises(UsageError, match="--camera 2: Virtual KITTI has cameras 0 and 1"):
        find(*paths, camera=2)
    assert find("Scene01/clone/extrinsic.txt") == ()


@pytest.mark.parametrize(("splits", "scene"), [("default", "01"), ("scene06", "06"), ("cut3r", "20")])
def test_splits_know_both_versions_names(splits: str, scene: str) -> None:
    facts = _manifest.load("vkitti")
    scenes = facts.versions[0]["scenes"].keys() | facts.versions[1]["scenes"].keys()
    assert len(scenes) == 10
    held = {name for name in scenes if facts.split_of(f"{name}/fog", splits=splits) == "val"}
    assert held == {f"Scene{scene}", f"00{scene}"}


def test_the_facts_add_up() -> None:
    for version in _manifest.load("vkitti").versions:
        assert version["frames"] == 10 * sum(version["scenes"].values())


# ------------------------------------------------------------------------------------------------------------ cameras


def _inverted(row: list[float]) -> np.ndarray:
    return invert_poses(np.array(row).reshape(1, 4, 4))[0]


def test_poses_are_world_to_camera_turned_round() -> None:
    moved = _inverted([1, 0, 0, -1, 0, 1, 0, -2, 0, 0, 1, -3, 0, 0, 0, 1.0])
    assert np.array_equal(moved[:3, 3], [1, 2, 3])
    # World x is the camera's z: it looks along world x, from (5, 0, 0), and what is at (7, 0, 0) is 2 m ahead.
    turned = _inverted([0, 0, -1, 0, 0, 1, 0, 0, 1, 0, 0, -5, 0, 0, 0, 1.0])
    assert np.allclose(turned[:3, :3] @ [0, 0, 1], [1, 0, 0])
    assert np.allclose(turned @ [0, 0, 2, 1], [7, 0, 0, 1])


@given(st.lists(st.floats(-3, 3), min_size=3, max_size=3), st.lists(st.floats(-500, 500), min_size=3, max_size=3))
def test_poses_invert_back(turn: list[float], position: list[float]) -> None:
    world_to_camera = np.eye(4)
    world_to_camera[:3, :3] = cv2.Rodrigues(np.array(turn))[0]
    world_to_camera[:3, 3] = position
    pose = _inverted(world_to_camera.ravel().tolist())
    assert np.allclose(pose @ world_to_camera, np.eye(4), atol=1e-11)


def cameras_of(root: Path, tables: dict[str, str | bytes], *, frames: int = 3, camera: int = 0) -> Cameras:
    """Write tables of Scene01/clone and read the cameras of frames 0, 1, ..."""
    for name, text in tables.items():
        (root / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    shared = {name.removesuffix(".txt"): Location("", name) for name in tables}
    files = tuple(FrameFiles(i, None, None) for i in range(frames))
    with Reader(root) as reader:
        options = SourceOptions(camera=camera)
        return vkitti.read_cameras(Trajectory("Scene01/clone", "2.0.3", files, shared), reader, options)


def lines(header: str, row: str, *, skip: tuple[str, ...] = ()) -> str:
    keys = [f"{frame} {camera}" for frame in range(3) for camera in range(2)]
    return "\n".join([header, *(f"{key} {row}" for key in keys if key not in skip)]) + "\n"


def intrinsic(**options) -> str:
    return lines("frame cameraID K[0,0] K[1,1] K[0,2] K[1,2]", "725 726 620.5 187", **options)


def extrinsic(**options) -> str:
    return lines(V2_HEADER, ONE_ROW, **options)


@pytest.mark.parametrize("camera", [0, 1])
def test_each_frame_and_camera_has_its_rows(camera: int, tmp_path: Path) -> None:
    keys = [(frame, number) for frame in range(3) for number in range(2)]
    row = "1 0 0 {} 0 1 0 {} 0 0 1 0 0 0 0 1"
    tables: dict[str, str | bytes] = {
        "intrinsic.txt": "\r\n".join(["frame cameraID K", *(f"{f} {c} {700 + f} {710 + c} 1 2" for f, c in keys)]),
        "extrinsic.txt": "\n".join([V2_HEADER, *(f"{f} {c} {row.format(f, c)}" for f, c in reversed(keys))]),
    }
    cameras = cameras_of(tmp_path, tables, camera=camera)
    assert cameras.problems == {}
    assert cameras.intrinsics.tolist() == [[700 + frame, 710 + camera, 1, 2] for frame in range(3)]
    assert cameras.camera_to_world is not None
    assert cameras.camera_to_world[:, :2, 3].tolist() == [[-frame, -camera] for frame in range(3)]
    assert cameras.size is None


NO_ROW = "has no camera: {}.txt has no rows for frame 1 and camera 0"
TWO_ROWS = "has no camera: {}.txt has 2 rows for frame 1 and camera 0"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"extrinsic.txt": extrinsic(skip=("1 0",))}, NO_ROW.format("extrinsic")),
        ({"intrinsic.txt": intrinsic(skip=("1 0",))}, NO_ROW.format("intrinsic")),
        ({"extrinsic.txt": extrinsic() + f"1 0 {ONE_ROW}\n"}, TWO_ROWS.format("extrinsic")),
        ({"intrinsic.txt": intrinsic() + "1 0 725 726 620.5 187"}, TWO_ROWS.format("intrinsic")),
        (
            {"extrinsic.txt": extrinsic().replace("1 0 1 0 0 0 0 1", "1 0 1 x 0 0 0 1")},
            NO_ROW.format("extrinsic") + "; its line 4 is not 18 numbers",
        ),
        (
            {"intrinsic.txt": intrinsic().replace("1 0 725 726 620.5", "1 0 725 726")},
            NO_ROW.format("intrinsic") + "; its line 4 is not 6 numbers",
        ),
        (
            {"extrinsic.txt": extrinsic().replace("1 0 1 0 0 0 0 1", "1 0 nan 0 0 0 0 1")},
            NO_ROW.format("extrinsic") + "; its line 4 is not 18 numbers",
        ),
        (
            {"extrinsic.txt": extrinsic().replace("1 0 1 0 0 0 0 1", "1 0 2 0 0 0 0 2")},
            "has no usable pose: its matrix in extrinsic.txt is not a rotation and a translation",
        ),
        (
            {"intrinsic.txt": intrinsic().replace("1 0 725 726", "1 0 725 -726")},
            "has no usable camera: its focal lengths in intrinsic.txt are not positive",
        ),
    ],
)
def test_a_frame_without_its_one_row_is_rejected(change: dict[str, str | bytes], sentence: str, tmp_path: Path) -> None:
    tables = {"intrinsic.txt": intrinsic(), "extrinsic.txt": extrinsic(), **change}
    assert cameras_of(tmp_path, tables).problems == {1: sentence}
    assert cameras_of(tmp_path, tables, camera=1).problems == {}


@pytest.mark.parametrize("kind", ["intrinsic", "extrinsic"])
def test_a_table_that_is_none_rejects_every_frame(kind: str, tmp_path: Path) -> None:
    whole: dict[str, str | bytes] = {"intrinsic.txt": intrinsic(), "extrinsic.txt": extrinsic()}
    name = f"{kind}.txt"
    headerless = str(whole[name]).split("\n", 1)[1]
    for data, sentence in (
        (headerless, f"{name}: begins with '0 0 "),
        (headerless, "expected the header 'frame cameraID ...'"),
        (b"", f"{name}: begins with '', expected the header"),
        (b"\x89PNG\r\n", f"{name}: is not UTF-8"),
        (V1_HEADER, f"{name}: begins with 'frame r1,1"),
    ):
        problems = cameras_of(tmp_path, {**whole, name: data}).problems
        assert list(problems) == [0, 1, 2]
        assert problems[2].startswith("has no camera: ")
        assert sentence in problems[2]
    del whole[name]
    problems = cameras_of(tmp_path, whole).problems
    sentence = f"has no camera: the {kind} table of Scene01/clone is missing; it is in vkitti_2.0.3_textgt.tar.gz"
    assert problems == dict.fromkeys(range(3), sentence)


def test_intrinsics_of_the_user_need_no_table(tmp_path: Path) -> None:
    (tmp_path / "e.txt").write_text(extrinsic())
    trajectory = Trajectory("Scene01/a", "2.0.3", (FrameFiles(2, None, None),), {"extrinsic": Location("", "e.txt")})
    with Reader(tmp_path) as reader:
        cameras = vkitti.read_cameras(trajectory, reader, SourceOptions(intrinsics=(1.0, 2.0, 3.0, 4.0)))
    assert cameras.intrinsics.tolist() == [[1, 2, 3, 4]]
    assert cameras.problems == {}


def test_version_1_has_one_camera_and_one_table(tmp_path: Path) -> None:
    row = ONE_ROW.replace("1 0 0 0 0", "1 0 0 -4 0", 1)
    (tmp_path / "e.txt").write_text(f"{V1_HEADER}\n0 {ONE_ROW}\n1 {row}\n1 {row}\n2 {row}\n")
    files = tuple(FrameFiles(i, None, None) for i in range(4))
    trajectory = Trajectory("0001/clone", "1.3.1", files, {"extrinsic": Location("", "e.txt")})
    with Reader(tmp_path) as reader:
        cameras = vkitti.read_cameras(trajectory, reader, SourceOptions())
    assert cameras.size == (1242, 375)
    assert cameras.intrinsics[0].tolist() == [725, 725, 620.5, 187]
    assert cameras.camera_to_world is not None
    assert cameras.camera_to_world[2, :3, 3].tolist() == [4, 0, 0]
    assert cameras.problems == {
        1: "has no camera: e.txt has 2 rows for frame 1",
        3: "has no camera: e.txt has no rows for frame 3",
    }


# ------------------------------------------------------------------------------------------------------------- frames


def read_depth(root: Path, data: bytes) -> np.ndarray:
    (root / "depth.png").write_bytes(data)
    with Reader(root) as reader:
        return vkitti.read_depth(FrameFiles(0, Location("", "rgb.jpg"), Location("", "depth.png")), reader)


def read_rgb(root: Path, data: bytes, name: str = "rgb.jpg") -> RgbImage:
    (root / name).write_bytes(data)
    with Reader(root) as reader:
        return vkitti.read_rgb(FrameFiles(0, Location("", name), Location("", "depth.png")), reader)


def encode(ending: str, image: np.ndarray) -> bytes:
    return cv2.imencode(ending, image)[1].tobytes()


def noise(*shape: int, dtype: type = np.uint8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def test_every_integer_of_depth_comes_back(tmp_path: Path) -> None:
    centimetres = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    depth_m = read_depth(tmp_path, encode(".png", centimetres))
    assert np.isnan(depth_m[0, 0])
    assert np.isposinf(depth_m[-1, -1])
    assert depth_m[0, 100] == 1
    codes, clamped = depth_codes.code_depth(depth_m, _manifest.load("vkitti").depth_spec(relative_error=0.01))
    assert np.array_equal(codes, centimetres)
    assert clamped == 0


def test_depth_of_another_kind_is_refused(tmp_path: Path) -> None:
    whole = encode(".png", noise(9, 9, dtype=np.uint16))
    damaged = bytearray(whole)
    damaged[60] ^= 1
    for data, sentence in (
        (encode(".png", noise(9, 9)), "depth.png: is a PNG of one channel of 8 bits, expected one channel of 16 bits"),
        (encode(".png", noise(9, 9, 3, dtype=np.uint16)), "depth.png: is a PNG of 3 channels of 16 bits"),
        (encode(".jpg", noise(9, 9)), "depth.png: is not a PNG"),
        (whole[:-20], "depth.png: the PNG is cut short after"),
        (bytes(damaged), "depth.png: the PNG is damaged near byte"),
        (huge_png(), "depth.png: is 100000x100000 pixels by its header, expected at most 67108864"),
        (b"", "depth.png: is not a PNG"),
    ):
        with pytest.raises(FrameError, match=sentence):
            read_depth(tmp_path, data)


def huge_png() -> bytes:
    """Return a PNG, whole by its checksums, that says it is 100,000 pixels high and wide."""
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", 100_000, 100_000, 16, 0, 0, 0, 0)), (b"IDAT", b""), (b"IEND", b""))
    packed = [struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
              for kind, data in chunks]  # fmt: skip
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def test_a_jpeg_keeps_its_bytes(tmp_path: Path) -> None:
    image = noise(40, 60, 3)
    jpeg = encode(".jpg", image)
    found = read_rgb(tmp_path, jpeg)
    assert found.jpeg == jpeg
    assert np.array_equal(found.pixels, codec.decode_rgb(jpeg))
    assert np.abs(found.pixels[..., ::-1].astype(int) - image).mean() < 60  # noise is what JPEG is bad at
    for tail in (b"\0" * 500, b"\xff\xff", b"\n", jpeg[:100]):  # padding, or whatever a program left there
        assert read_rgb(tmp_path, jpeg + tail).jpeg == jpeg


def test_every_cut_of_a_jpeg_is_noticed(tmp_path: Path) -> None:
    jpeg = encode(".jpg", noise(40, 60, 3))
    thumbnail = encode(".jpg", noise(8, 8, 3))
    app1 = b"\xff\xe1" + struct.pack(">H", len(thumbnail) + 2) + thumbnail
    with_thumbnail = jpeg[:2] + app1 + jpeg[2:]
    assert read_rgb(tmp_path, with_thumbnail).jpeg == with_thumbnail
    for data in (jpeg, with_thumbnail):
        for length in [*range(0, len(data), 97), len(data) - 1]:
            for padding in (b"", b"\0" * 64):
                with pytest.raises(FrameError, match=r"rgb.jpg: (is not a JPEG|the JPEG is cut short after \d+ bytes)"):
                    read_rgb(tmp_path, data[:length] + padding)


def test_a_jpeg_of_restart_markers_and_an_undecodable_one(tmp_path: Path) -> None:
    ok, data = cv2.imencode(".jpg", noise(40, 60, 3), [cv2.IMWRITE_JPEG_RST_INTERVAL, 1])
    assert ok
    assert b"\xff\xd3" in data.tobytes()
    assert read_rgb(tmp_path, data.tobytes()).jpeg == data.tobytes()
    with pytest.raises(FrameError, match="rgb.jpg: the image cannot be decoded"):
        read_rgb(tmp_path, b"\xff\xd8 nothing \xff\xd9")


def test_a_png_frame_has_no_bytes_to_pass_on(tmp_path: Path) -> None:
    image = noise(20, 30, 3)
    found = read_rgb(tmp_path, encode(".png", image), name="00000.PNG")
    assert found.jpeg is None
    assert np.array_equal(found.pixels[..., ::-1], image)


def test_a_frame_lacks_its_image_or_its_depth(tmp_path: Path) -> None:
    with Reader(tmp_path) as reader:
        with pytest.raises(FrameError, match="depth_00001.png: has no image of the same number"):
            vkitti.read_rgb(FrameFiles(1, None, Location("", "depth_00001.png")), reader)
        with pytest.raises(FrameError, match="rgb_00001.jpg: has no depth map of the same number"):
            vkitti.read_depth(FrameFiles(1, Location("", "rgb_00001.jpg"), None), reader)
