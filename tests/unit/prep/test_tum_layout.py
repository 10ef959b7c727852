"""Bonn and TUM: from folders and archives through the command line, their poses, and what they may lack."""

import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.conftest import decode_shards
from tests.exports import expect_exported
from tests.serving import serve
from tests.unit.prep.rooms import room, units_of
from vdaprep import sources
from vdaprep.raw.frames import Frame, SourceOptions
from vdaprep.raw.png import encode_png, encode_png16
from vdaprep.raw.tree import Reader, open_tree
from vdaprep.shards.cameras import invert_pose
from vdaprep.sources import _manifest
from vdaprep.sources.evaluation import bonn

UNIT_M = 0.0002
T0_S = 1_548_266_469.88
IMAGES = [*range(3), *range(5, 14)]  # a gap of 0.1 s
MAPS = [*range(4), *range(5, 14)]  # one more
NAMES = {"bonn": ("rgbd_bonn_balloon2", "balloon2", 5), "tum": ("rgbd_dataset_freiburg1_desk", "freiburg1_desk", 6)}
# What the authors of Bonn print, as they print it.
T_ROS = np.array([[-1, 0, 0, 0], [0, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 1.0]])
T_M = np.array([[1.0157, 0.1828, -0.2389], [0.0009, -0.8431, -0.6413], [-0.3009, 0.6147, -0.8085]])


def image_s(number: int) -> float:
    return T0_S + number / 29.9


def map_s(number: int) -> float:
    return T0_S + 0.004 + number / 30.0


def intrinsics_of(dataset: str, camera: int = 0) -> tuple[float, float, float, float]:
    fx, fy, cx, cy = _manifest.load(dataset).versions[camera]["intrinsics"]
    return fx, fy, cx, cy


def write(
    root: Path, dataset: str, *, folder: str = "", camera: int = 0, maps_late_s: float = 0.0, inverted: bool = False
) -> list[Frame]:
    """Write a sequence in the set's own layout; returns the frames that images and maps are of."""
    name, _, digits = NAMES[dataset]
    top = root / (folder or name)
    for kind in ("rgb", "depth"):
        (top / kind).mkdir(parents=True)
    frames = dict(zip(range(14), room(list(range(14)), intrinsics_of(dataset, camera), unit_m=UNIT_M), strict=True))
    lines: dict[str, list[str]] = {"rgb": [], "depth": []}
    for kind, number, time in [
        *(("rgb", number, image_s(number)) for number in IMAGES),
        *(("depth", number, map_s(number) + maps_late_s) for number in MAPS),
    ]:
        path = f"{kind}/{time:.{digits}f}.png"
        frame = frames[number]
        data = encode_png(frame.rgb.pixels) if kind == "rgb" else encode_png16(units_of(frame, UNIT_M))
        (top / path).write_bytes(data)
        lines[kind].append(f"{time:.{digits}f} {path}\n")
    for kind, rows in lines.items():
        (top / f"{kind}.txt").write_text(f"# {kind}\n# file: 'x.bag'\n# timestamp filename\n" + "".join(rows))
    (top / "groundtruth.txt").write_text(poses_of(dataset, frames, inverted=inverted))
    if dataset == "tum":
        (top / "accelerometer.txt").write_text("# timestamp ax ay az\n1.0 0 0 9.8\n")
    return [frames[number] for number in IMAGES]


def poses_of(dataset: str, frames: dict[int, Frame], *, inverted: bool) -> str:
    """Write the poses at 100 Hz, each row with that of the image nearest to it."""
    rows = ["# ground truth trajectory", "# timestamp tx ty tz qx qy qz qw"]
    for time in np.arange(T0_S - 0.05, image_s(13) + 0.05, 0.01):
        number = min(IMAGES, key=lambda number: abs(image_s(number) - time))
        pose = frames[number].camera_to_world
        assert pose is not None
        pose = invert_pose(pose) if inverted else pose
        if dataset == "bonn":
            pose = T_ROS @ pose @ np.linalg.inv(bonn_markers()) @ np.linalg.inv(T_ROS)
        rows.append(f"{time:.4f} " + " ".join(f"{value:.9f}" for value in [*pose[:3, 3], *quaternion(pose[:3, :3])]))
    return "\n".join(rows) + "\n"


def bonn_markers() -> np.ndarray:
    """The authors' T_M with the rotation nearest to it, by Higham's iteration."""
    rotation = T_M
    for _ in range(50):
        rotation = (rotation + np.linalg.inv(rotation).T) / 2
    markers = np.eye(4)
    markers[:3, :3], markers[:3, 3] = rotation, (0.0113, -0.0098, 0.0111)
    return markers


def quaternion(rotation: np.ndarray) -> np.ndarray:
    """x y z w, from the axis and the angle."""
    vector = cv2.Rodrigues(rotation)[0].ravel()
    angle = np.linalg.norm(vector)
    return np.array([*(vector * np.sin(angle / 2) / angle), np.cos(angle / 2)])


def pack(root: Path, dataset: str, out: Path) -> None:
    """Pack each folder as its set is published: one zip or one tgz each."""
    out.mkdir()
    for folder in sorted(root.iterdir()):
        if dataset == "bonn":
            shutil.make_archive(str(out / folder.name), "zip", root, folder.name)
        else:
            with tarfile.open(out / f"{folder.name}.tgz", "w:gz") as tar:
                tar.add(folder, folder.name)


def convert(vdaprep, dataset: str, raw: Path, out: Path, *more: object):
    return vdaprep("convert", dataset, "--raw", raw, "--out", out, "--workers", 1, *more)


def record_of(out: Path, dataset: str) -> dict:
    return json.loads((out / dataset / "dataset.json").read_text())


HOLE = "has no files of frames 3 to 4; clips are cut there"


@pytest.mark.slow
@pytest.mark.parametrize("dataset", NAMES)
def test_what_is_converted_is_what_was_written(dataset: str, vdaprep, tmp_path: Path) -> None:
    frames = write(tmp_path / "raw", dataset)
    pack(tmp_path / "raw", dataset, tmp_path / "packed")
    _, name, _ = NAMES[dataset]
    for raw in ("raw", "packed", "raw/" + NAMES[dataset][0]):
        result = convert(vdaprep, dataset, tmp_path / raw, tmp_path / f"{raw}-out".replace("/", "-"))
        assert (result.code, result.err) == (0, f"rejected: {name}: {HOLE}\n")
    out = tmp_path / "raw-out"
    tars = [path / dataset / "val" / "shard-0001.tar" for path in (out, tmp_path / "packed-out")]
    assert tars[0].read_bytes() == tars[1].read_bytes()
    record = record_of(out, dataset)
    assert record["splits"] == {"val": [name]}
    assert record["options"]["pairing"] == "time"
    assert vdaprep("verify", out, "--deep", "--geometry").code == 0
    assert vdaprep("export", out, "--out", tmp_path / "exported").code == 0
    folder = tmp_path / "exported" / name
    expect_exported(folder, dict(zip(IMAGES, frames, strict=True)), relative_error=0)
    for number, frame in zip(IMAGES, frames, strict=True):
        rgb = cv2.imread(str(folder / "rgb" / f"{number:06d}.png"))[..., ::-1]
        assert np.abs(rgb.astype(int) - frame.rgb.pixels).mean() < 3


@pytest.mark.parametrize("chosen", [("--select", "crowd2"), ("--splits", "bonn-5"), ("--for", "benchmark")])
def test_of_remote_zips_only_those_that_are_chosen_are_asked_for(
    chosen: tuple[str, str], vdaprep, tmp_path: Path
) -> None:
    for name in ("rgbd_bonn_static", "rgbd_bonn_crowd2"):
        write(tmp_path / "raw", "bonn", folder=name)
    pack(tmp_path / "raw", "bonn", tmp_path / "packed")
    with serve(tmp_path / "packed") as server:
        urls = ",".join(f"{server.url}/{path.name}" for path in sorted((tmp_path / "packed").iterdir()))
        result = vdaprep("convert", "bonn", "--raw", urls, "--out", tmp_path / "out", "--workers", 1, *chosen)
        assert (result.code, result.err) == (0, f"rejected: crowd2: {HOLE}\n")
        assert {name.partition(" ")[0] for name in server.asked} == {"rgbd_bonn_crowd2.zip"}
    assert record_of(tmp_path / "out", "bonn")["totals"]["frames"] == len(IMAGES)


@pytest.mark.slow
def test_every_file_is_accounted_for(vdaprep, tmp_path: Path) -> None:
    write(tmp_path / "raw", "tum")
    (tmp_path / "raw" / "notes.doc").write_text("?")
    result = vdaprep("plan", "tum", "--raw", tmp_path / "raw", "--out", tmp_path / "out", "--json")
    account = json.loads(result.out)["account"]
    assert {key: account[key] for key in ("found", "used", "repeated", "not_needed", "not_recognised", "left_out")} == {
        "found": 30, "used": 25, "repeated": 1, "not_needed": 3, "not_recognised": 1, "left_out": 0,
    }  # fmt: skip
    assert (account["frames"], account["missing_frames"], account["without_depth"]) == (12, 2, 0)


TWINS: dict[str, tuple[dict[str, object], tuple[str, ...]]] = {
    "poses of the other direction": ({"inverted": True}, ()),
    "depth maps a frame late": ({"maps_late_s": 1 / 30}, ()),
    "pairs by index, one depth map being too many": ({}, ("--pairing", "legacy-index")),
}


@pytest.mark.parametrize("twin", TWINS)
@pytest.mark.parametrize("dataset", NAMES)
def test_geometry_names_what_is_wrong(dataset: str, twin: str, vdaprep, tmp_path: Path) -> None:
    broken, options = TWINS[twin]
    write(tmp_path / "raw", dataset, **broken)  # type: ignore[arg-type]
    assert convert(vdaprep, dataset, tmp_path / "raw", tmp_path / "out", "--no-check", *options).code == 0
    result = vdaprep("verify", tmp_path / "out", "--geometry")
    assert result.code == 1
    expected = "inverted" if "inverted" in broken else "do not agree"
    assert expected in result.out + result.err


# ------------------------------------------------------------------------------------------------ lists and cameras


@pytest.mark.slow
def test_named_lists_leave_out_what_they_do_not_name(vdaprep, tmp_path: Path) -> None:
    for name in ("rgbd_bonn_balloon2", "rgbd_bonn_person_tracking", "rgbd_bonn_person_tracking2", "rgbd_bonn_static"):
        write(tmp_path / "raw", "bonn", folder=name)
    lists = {
        "default": ["balloon2", "person_tracking", "person_tracking2", "static"],
        "bonn-5": ["balloon2", "person_tracking"],
        "bonn-5-monst3r": ["balloon2", "person_tracking2"],
    }
    for splits, names in lists.items():
        out = tmp_path / splits
        assert convert(vdaprep, "bonn", tmp_path / "raw", out, "--splits", splits, "--no-check").code == 0
        assert record_of(out, "bonn")["splits"] == {"val": names}
    only = convert(vdaprep, "bonn", tmp_path / "raw", tmp_path / "s", "--splits", "bonn-5", "--select", "static")
    assert only.code == 1
    assert "--splits bonn-5 takes none of its 4 trajectories; there are, for example, balloon2, " in only.err


@pytest.mark.parametrize(
    ("chosen", "sentence"),
    [
        (
            ("--for", "benchmark"),
            "what the benchmark needs (balloon2, crowd2, crowd3, person_tracking*, synchronous)",
        ),
        (("--for", "benchmark", "--select", "crowd2"), "--select crowd2 takes none of its 1 trajectories"),
        (("--splits", "bonn-5"), "--splits bonn-5 takes none of its 1 trajectories"),
    ],
)
def test_where_nothing_is_taken_it_says_what_the_user_asked_for(
    chosen: tuple[str, ...], sentence: str, vdaprep, tmp_path: Path
) -> None:
    write(tmp_path / "raw", "bonn", folder="rgbd_bonn_static")
    result = convert(vdaprep, "bonn", tmp_path / "raw", tmp_path / "out", *chosen)
    assert result.code == 1
    assert sentence in result.err
    assert "for example, static" in result.err


@pytest.mark.parametrize("camera", [1, 2, 3])
def test_each_camera_of_tum_has_its_intrinsics(camera: int, tmp_path: Path) -> None:
    frames = write(tmp_path, "tum", folder=f"rgbd_dataset_freiburg{camera}_sitting_xyz", camera=camera - 1)
    cameras, trajectory = cameras_of(tmp_path, "tum")
    assert (trajectory.name, trajectory.layout) == (f"freiburg{camera}_sitting_xyz", f"freiburg{camera}")
    fx, fy, cx, cy = cameras.intrinsics[0]  # of 640x480 pixels, of which the images are a copy
    assert np.allclose(frames[0].intrinsics, [fx / 10, fy / 10, (cx + 0.5) / 10 - 0.5, (cy + 0.5) / 10 - 0.5])
    assert (cameras.size, cameras.problems) == ((640, 480), {})


def cameras_of(root: Path, dataset: str):
    source, tree = sources.load(dataset), open_tree(root)
    [trajectory] = source.find_trajectories(tree, SourceOptions()).trajectories
    with Reader(tree.root) as reader:
        return source.read_cameras(trajectory, reader, SourceOptions()), trajectory


def test_the_matrix_of_the_markers_becomes_a_rotation() -> None:
    poses = np.tile(np.eye(4), (2, 1, 1))
    poses[1, :3, 3] = 1, 2, 3
    found = bonn._of_camera(poses)
    assert np.allclose(found[0], bonn_markers())
    assert np.allclose(found[1] @ np.linalg.inv(found[0]), [[1, 0, 0, -1], [0, 1, 0, 3], [0, 0, 1, 2], [0, 0, 0, 1]])
    assert np.linalg.norm(bonn_markers()[:3, :3] - T_M) < 0.12  # so it is T_M, but for its scale of 1.06


@pytest.mark.parametrize(
    ("archive", "first", "expected"),
    [
        ("a/rgbd_bonn_balloon2.zip", "", ["balloon2"]),
        ("https://x.org/rgbd_bonn_balloon2.zip?token=1", "", ["balloon2"]),
        ("rgbd_bonn_balloon2.zip", "rgbd_bonn_balloon2/rgb/1.5.png", ["balloon2"]),
        ("rgbd_bonn_balloon2.zip", "rgbd_bonn_crowd/rgb/1.5.png", None),
        ("rgbd_bonn_dataset.zip", "rgbd_bonn_dataset/", None),
        ("balloon2.zip", "", None),
    ],
)
def test_archives_say_what_they_hold(archive: str, first: str, expected: list[str] | None) -> None:
    assert bonn.named_by_place(archive, first) == expected


def test_without_published_poses_a_trajectory_is_whole(vdaprep, tmp_path: Path) -> None:
    write(tmp_path / "raw", "tum", folder="rgbd_dataset_freiburg3_sitting_xyz_validation", camera=2)
    (tmp_path / "raw" / "rgbd_dataset_freiburg3_sitting_xyz_validation" / "groundtruth.txt").unlink()
    result = convert(vdaprep, "tum", tmp_path / "raw", tmp_path / "out")
    assert (result.code, result.err) == (0, f"rejected: freiburg3_sitting_xyz_validation: {HOLE}\n")
    assert record_of(tmp_path / "out", "tum")["totals"]["frames"] == len(IMAGES)
    assert "no poses: nothing to warp with" in vdaprep("verify", tmp_path / "out", "--geometry").out


def test_pairing_is_said_of_data_that_has_times_only(vdaprep, tmp_path: Path) -> None:
    write(tmp_path / "raw", "bonn")
    legacy = ("--pairing", "legacy-index", "--no-check")
    assert convert(vdaprep, "bonn", tmp_path / "raw", tmp_path / "out", *legacy).code == 0
    assert record_of(tmp_path / "out", "bonn")["options"]["pairing"] == "legacy-index"
    again = convert(vdaprep, "bonn", tmp_path / "raw", tmp_path / "out", "--no-check")
    assert again.code != 0  # the same folder cannot hold both
    other = convert(vdaprep, "tartanair", tmp_path / "raw", tmp_path / "out", *legacy)
    assert (other.code, other.err) == (
        2, "vdaprep: --pairing legacy-index: TartanAir is not paired by time; leave the option out.\n"
    )  # fmt: skip


def test_frames_that_no_pose_is_near_are_kept_without(vdaprep, tmp_path: Path) -> None:
    write(tmp_path / "raw", "tum")
    table = tmp_path / "raw" / "rgbd_dataset_freiburg1_desk" / "groundtruth.txt"
    rows = table.read_text().splitlines()
    lost = (image_s(8) - 0.025, image_s(9) + 0.025)
    kept = [row for row in rows if row.startswith("#") or not lost[0] < float(row.split()[0]) < lost[1]]
    table.write_text("\n".join(kept))
    result = convert(vdaprep, "tum", tmp_path / "raw", tmp_path / "out")
    assert result.code == 0
    assert "freiburg1_desk: 2 of 12 frames have no row within 20 ms in rgbd_dataset_freiburg1_desk/" in result.err
    clips = {
        tuple(meta.frame_ids): meta.camera_to_world is not None
        for _, meta, _ in decode_shards(tmp_path / "out/tum/val/shard-0001.tar")
    }
    assert clips == {(0, 1, 2): True, (5, 6, 7): True, (8, 9): False, (10, 11, 12, 13): True}


# ----------------------------------------------------------------------------------------------------------- bad input


def files(folder: Path, kind: str) -> list[Path]:
    return sorted((folder / kind).iterdir())


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def rename_all(folder: Path, kind: str, later_s: float) -> None:
    for path in reversed(files(folder, kind)):
        path.rename(path.with_name(f"{float(path.stem) + later_s:.6f}.png"))


def keep_rows(folder: Path, count: int, *more: str) -> None:
    path = folder / "groundtruth.txt"
    path.write_text("\n".join([*path.read_text().splitlines()[:count], *more]) + "\n")


BAD: dict[str, tuple[Callable[[Path], object], int, str]] = {
    "a cut image": (lambda top: cut(files(top, "rgb")[1]), 11, "the PNG is cut short after"),
    "a cut depth map": (lambda top: cut(files(top, "depth")[1]), 11, "the PNG is cut short after"),
    "depth of 8 bits": (
        lambda top: files(top, "depth")[1].write_bytes(encode_png(np.zeros((48, 64, 3), np.uint8))),
        11, "is a PNG of 3 channels of 8 bits, expected one channel of 16 bits",
    ),
    "depth of another size": (
        lambda top: files(top, "depth")[1].write_bytes(encode_png16(np.ones((4, 4), np.uint16))),
        11, "the depth map is 4x4 pixels, the image is 64x48",
    ),
    "a depth map less": (
        lambda top: files(top, "depth")[-1].unlink(), 11, "has no depth map of its own within 20 ms in depth",
    ),
    "no depth": (
        lambda top: shutil.rmtree(top / "depth"), 0, "has no depth map of its own within 20 ms in depth",
    ),
    "no images": (lambda top: shutil.rmtree(top / "rgb"), 0, "has no image, as there is none in rgb"),
    "clocks apart": (
        lambda top: rename_all(top, "depth", 100.0), 0, "has no depth map of its own within 20 ms in depth",
    ),
    "a row that is cut": (
        lambda top: keep_rows(top, 2, "1548266469.8800 1 2 3"), 0,
        "groundtruth.txt: has no rows of 8 numbers t tx ty tz qx qy qz qw; its line 3 is not 8 numbers; get the file",
    ),
    "an empty table": (lambda top: keep_rows(top, 2), 0, "has no rows of 8 numbers t tx ty tz qx qy qz qw; get the"),
    "a table that is none": (
        lambda top: (top / "groundtruth.txt").write_bytes(b"\x89PNG\0\xff\xfe"), 0, "has no pose: ",
    ),
    "a rotation that is none": (
        lambda top: keep_rows(top, 0, f"{T0_S} 1 2 3 0 0 0 0", *(f"{image_s(n)} 1 2 3 0 0 0 1" for n in IMAGES[1:])),
        11, "has no usable pose: its matrix in ",
    ),
    "no table": (
        lambda top: (top / "groundtruth.txt").unlink(), 12,
        "whose groundtruth.txt is missing: its frames have no poses; get it to have them",
    ),
    "the same time twice": (
        lambda top: shutil.copy(files(top, "rgb")[0], files(top, "rgb")[0].with_name(f"{T0_S:.2f}.png")), 12,
        "is a second rgb file of a frame of ",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("dataset", NAMES)
def test_bad_input_costs_a_sentence(dataset: str, case: str, vdaprep, tmp_path: Path) -> None:
    break_it, left, sentence = BAD[case]
    write(tmp_path / "raw", dataset)
    break_it(tmp_path / "raw" / NAMES[dataset][0])
    result = convert(vdaprep, dataset, tmp_path / "raw", tmp_path / "out", "--no-check")
    assert result.code == (0 if left else 1)
    assert sentence in result.err
    if left:
        assert record_of(tmp_path / "out", dataset)["totals"]["frames"] == left


@pytest.mark.parametrize("dataset", NAMES)
def test_other_layouts_are_named(dataset: str, vdaprep, tmp_path: Path) -> None:
    write(tmp_path / "raw", dataset)
    other = next(name for name in NAMES if name != dataset)
    result = convert(vdaprep, other, tmp_path / "raw", tmp_path / "out")
    assert result.code == 1
    assert f"it looks like {dataset}; looked for rgbd_" in result.err
    (tmp_path / "raw" / NAMES[dataset][0]).rename(tmp_path / "raw" / "mine")
    renamed = convert(vdaprep, dataset, tmp_path / "raw", tmp_path / "out")
    assert renamed.code == 1
    assert f"no {_manifest.load(dataset).title} trajectory among " in renamed.err


def test_depth_that_no_integer_holds_is_unknown(tmp_path: Path) -> None:
    write(tmp_path, "bonn")
    folder = tmp_path / "rgbd_bonn_balloon2"
    files(folder, "depth")[0].write_bytes(encode_png16(np.array([[0, 1, 5000, 65534, 65535]], np.uint16)))
    tree = open_tree(tmp_path)
    [trajectory] = bonn.find_trajectories(tree, SourceOptions()).trajectories
    with Reader(tree.root) as reader:
        depth_m = bonn.read_depth(trajectory.frames[0], reader)
    assert np.array_equal(depth_m, np.array([[np.nan, 0.0002, 1, 13.1068, np.nan]], np.float32), equal_nan=True)
