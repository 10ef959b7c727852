"""`vdaprep convert` through its command line: what comes out, twice the same, and every bad input as a sentence."""

import io
import json
import shutil
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.conftest import decode_shards, tree_bytes
from vdaprep.shards import codec
from vdaprep.shards.metadata import ClipMeta
from vdaprep.shards.records import DatasetRecord

TRAJECTORY = "abandonedfactory/Easy/P000"


def dataset(out: Path) -> DatasetRecord:
    path = out / "tartanair" / "dataset.json"
    return DatasetRecord.from_bytes(path.read_bytes(), where=str(path))


def clips(out: Path, split: str = "train") -> list[tuple[str, ClipMeta, dict[str, list[np.ndarray]]]]:
    return list(decode_shards(*sorted((out / "tartanair" / split).glob("*.tar"))))


def archive(root: Path, out: Path) -> Path:
    """Pack a raw tree as TartanAir's two zips a level."""
    for path in sorted(root.rglob("*")):
        if not path.is_file():
            continue
        name = path.relative_to(root)
        kinds = [kind for kind in ("image", "depth") if f"{kind}_left" in name.parts] or ["image", "depth"]
        for kind in kinds:
            target = out / name.parts[0] / name.parts[1] / f"{kind}_left.zip"
            target.parent.mkdir(parents=True, exist_ok=True)
            with zipfile.ZipFile(target, "a", zipfile.ZIP_DEFLATED) as file:
                file.write(path, name.as_posix())
    return out


def test_frames_depth_cameras_and_differences_are_those_of_the_source(raw, vdaprep, tmp_path: Path) -> None:
    out = tmp_path / "shards"
    result = vdaprep("convert", "tartanair", "--raw", raw.root, "--out", out, "--workers", 1, "--clip-frames", 5)
    assert (result.code, result.err) == (0, "")
    assert "24 frames in 6 clips, 2 shards" in result.out
    found = {split: clips(out, split) for split in ("train", "val")}
    assert [(meta.trajectory, meta.num_frames) for _, meta, _ in found["train"]] == [
        (TRAJECTORY, 4), (TRAJECTORY, 4), (TRAJECTORY, 5),
        ("abandonedfactory/Easy/P001", 3), ("abandonedfactory/Easy/P001", 3),
    ]  # fmt: skip
    assert [meta.trajectory for _, meta, _ in found["val"]] == ["abandonedfactory/Easy/P011"]
    assert found["train"][1][0] == "tartanair-abandonedfactory-easy-p000-000004"
    for _, meta, members in found["train"] + found["val"]:
        _check_clip(meta, members, raw.frames[meta.trajectory])


def _check_clip(meta: ClipMeta, members, truth) -> None:
    assert meta.diff is not None
    disparities = []
    for i, frame_id in enumerate(meta.frame_ids):
        source = truth[frame_id]
        depth = members["depth.zst"][i]
        known = np.isfinite(source.depth_m)
        assert np.array_equal(np.isnan(depth), np.isnan(source.depth_m))
        assert np.array_equal(np.isinf(depth), np.isinf(source.depth_m))
        assert np.abs(depth[known] / source.depth_m[known] - 1).max() <= 0.0005
        assert np.abs(members["rgb.jpg"][i].astype(int) - source.rgb.pixels).mean() < 4
        assert np.allclose(meta.intrinsics[i], source.intrinsics)
        assert np.allclose(meta.camera_to_world[i], source.camera_to_world)
        assert meta.diff_valid[i] == (frame_id > 0)
        expected = 0 if frame_id == 0 else (
            codec.shrink(source.rgb.pixels, meta.diff) - codec.shrink(truth[frame_id - 1].rgb.pixels, meta.diff)
        ).transpose(2, 0, 1)  # fmt: skip
        assert np.abs(members["diff.zst"][i] * 2.0 - expected).max() <= 1 + 1e-4
        disparities.append(1 / depth[known])
    assert meta.disparity_min == pytest.approx(min(d.min() for d in disparities))
    assert meta.disparity_max == pytest.approx(max(d.max() for d in disparities))


@pytest.mark.slow
def test_workers_archives_and_a_second_run_change_no_byte(raw, vdaprep, tmp_path: Path) -> None:
    options = ("--clip-frames", 3, "--frames-per-shard", 6)
    zips = archive(raw.root, tmp_path / "zips")
    for out, root, workers in (("one", raw.root, 1), ("two", raw.root, 2), ("zipped", zips, 2), ("one", raw.root, 1)):
        result = vdaprep("convert", "tartanair", "--raw", root, "--out", tmp_path / out, "--workers", workers, *options)
        assert (result.code, result.err) == (0, "")
    one = tree_bytes(tmp_path / "one")
    assert len([name for name in one if name.endswith(".tar")]) > 3
    assert one == tree_bytes(tmp_path / "two") == tree_bytes(tmp_path / "zipped")


def test_a_run_that_stopped_goes_on_and_ends_with_the_same_bytes(raw, vdaprep, tmp_path: Path) -> None:
    arguments = ("convert", "tartanair", "--raw", raw.root, "--workers", 1, "--frames-per-shard", 6, "--clip-frames", 6)
    vdaprep(*arguments, "--out", tmp_path / "whole")
    vdaprep(*arguments, "--out", tmp_path / "stopped")
    train = tmp_path / "stopped" / "tartanair" / "train"
    (tmp_path / "stopped" / "tartanair" / "dataset.json").unlink()
    (train / "shard-0002.json").unlink()
    (train / "shard-0003.tar").rename(train / "shard-0003.tar.0123abcd.vdaprep-tmp")
    (train / "shard-0003.json").unlink()
    kept = (train / "shard-0001.tar").stat().st_mtime_ns
    assert vdaprep(*arguments, "--out", tmp_path / "stopped").code == 0
    assert (train / "shard-0001.tar").stat().st_mtime_ns == kept
    assert tree_bytes(tmp_path / "whole") == tree_bytes(tmp_path / "stopped")


def test_smaller_frames_without_differences_from_a_selection(raw, vdaprep, tmp_path: Path) -> None:
    out = tmp_path / "shards"
    result = vdaprep(
        "convert", "tartanair", "--raw", raw.root, "--out", out, "--workers", 1,
        "--short-side", 24, "--diffs", "none", "--select", "*/P00[01]", "--val", "*/P001",
    )  # fmt: skip
    assert result.code == 0
    [(_, meta, members)] = clips(out, "val")
    assert (meta.height, meta.width, meta.diff) == (24, 32, None)
    assert members.keys() == {"rgb.jpg", "depth.zst"}
    assert np.allclose(meta.intrinsics[0], [16, 16, 15.75, 11.75], atol=0.3)
    assert dataset(out).splits == {"train": [TRAJECTORY], "val": ["abandonedfactory/Easy/P001"]}


# ---------------------------------------------------------------------------------------------------------- bad input


def refused(result, code: int, *sentence: str) -> None:
    assert result.code == code
    assert result.err.startswith("vdaprep: ")
    assert result.err.count("\n") == 1
    assert "Traceback" not in result.err
    for part in sentence:
        assert part in result.err


def test_a_missing_or_empty_raw_folder_says_how_to_get_data(vdaprep, tmp_path: Path) -> None:
    advice = ("looked for ENV/{Easy,Hard}/P000/image_left", "theairlab.org", "vdaprep sample tartanair --out")
    result = vdaprep("convert", "tartanair", "--raw", tmp_path / "nowhere", "--out", tmp_path / "out")
    refused(result, 1, "nowhere: there is no such folder", *advice)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "cut.zip").write_bytes(b"PK")
    result = vdaprep("convert", "tartanair", "--raw", tmp_path / "empty", "--out", tmp_path / "out")
    refused(result, 1, "no TartanAir trajectory among 0 files", "cut.zip cannot be opened", *advice)
    assert not (tmp_path / "out").exists()


NOTHING = {
    "--select office/*": ["--select", "office/*"],
    "--select office/* ": ["--select", "*/P000", "--select", "office/*"],
    "--val */P999": ["--val", "*/P999"],
    "--val ocean/*": ["--val", "*/P001", "--val", "ocean/*"],
}


@pytest.mark.parametrize("glob", NOTHING)
def test_a_glob_that_takes_nothing_is_named_with_what_there_is(glob: str, raw, vdaprep, tmp_path: Path) -> None:
    result = vdaprep("convert", "tartanair", "--raw", raw.root, "--out", tmp_path, *NOTHING[glob])
    refused(result, 1, f"{glob.strip()} takes none of its 3 trajectories", TRAJECTORY)


@pytest.mark.slow
def test_what_is_held_out_need_not_be_selected(raw, vdaprep, tmp_path: Path) -> None:
    options = ("--select", "*/P000", "--val", "*/P011")
    result = vdaprep("plan", "tartanair", "--raw", raw.root, "--out", tmp_path, *options)
    assert result.code == 0


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=True)
    return stream.getvalue()


def damage(root: Path, kind: str) -> None:
    folder = root / TRAJECTORY
    image = folder / "image_left" / "000004_left.png"
    depth = folder / "depth_left" / "000004_left_depth.npy"
    poses = folder / "pose_left.txt"
    lines = poses.read_text().splitlines()
    if kind == "png cut":
        image.write_bytes(image.read_bytes()[:-30])
    elif kind == "npy shape":
        depth.write_bytes(npy(np.ones((5, 5), np.float32)))
    elif kind == "npy pickle":
        depth.write_bytes(npy(np.array([[{}]], object)))
    elif kind == "no depth":
        depth.unlink()
    elif kind == "no image":
        image.unlink()
    elif kind == "nan pose":
        poses.write_text("\n".join([*lines[:4], "nan " * 7, *lines[5:]]))
    elif kind == "no rotation":
        poses.write_text("\n".join([*lines[:4], "1 2 3 0 0 0 0", *lines[5:]]))


BAD_FRAMES = {
    "png cut": "P000/image_left/000004_left.png: the PNG is cut short after",
    "npy shape": "P000/depth_left/000004_left_depth.npy: the depth map is 5x5 pixels, the image is 64x48",
    "npy pickle": "P000/depth_left/000004_left_depth.npy: holds pickled objects, which are never loaded",
    "no depth": "P000/image_left/000004_left.png: has no depth map beside it",
    "no image": "P000/depth_left/000004_left_depth.npy: has no image beside it",
    "nan pose": "P000/image_left/000004_left.png: has no usable pose: line 5 of",
    "no rotation": "P000/image_left/000004_left.png: has no usable pose: line 5 of",
}


@pytest.mark.parametrize("kind", BAD_FRAMES)
def test_a_bad_frame_is_listed_and_cuts_its_clip(kind: str, raw, vdaprep, tmp_path: Path) -> None:
    damage(raw.root, kind)
    arguments = ("convert", "tartanair", "--raw", raw.root, "--out", tmp_path / "out", "--workers", 1)
    result = vdaprep(*arguments, "--select", TRAJECTORY, "--clip-frames", 6)
    assert result.code == 0
    assert result.err.startswith(f"rejected: abandonedfactory/Easy/{BAD_FRAMES[kind]}")
    found = [(meta.frame_ids, meta.diff_valid) for _, meta, _ in clips(tmp_path / "out")]
    # 13 frames are 3 clips of 4, 4 and 5; frame 4 opens the second one. Frame 5 then has no valid difference.
    assert found == [
        ((0, 1, 2, 3), (False, True, True, True)),
        ((5, 6, 7), (False, True, True)),
        ((8, 9, 10, 11, 12), (True,) * 5),
    ]
    [rejection] = dataset(tmp_path / "out").rejected
    assert f"{rejection.file}: {rejection.reason}" in result.err
    strict = vdaprep(*arguments, "--select", TRAJECTORY, "--clip-frames", 6, "--strict")
    assert strict.code == 1
    assert "1 inputs were rejected, and --strict takes none" in strict.err


def test_poses_shorter_than_the_images(raw, vdaprep, tmp_path: Path) -> None:
    poses = raw.root / TRAJECTORY / "pose_left.txt"
    poses.write_text("\n".join(poses.read_text().splitlines()[:10]))
    result = vdaprep("convert", "tartanair", "--raw", raw.root, "--out", tmp_path / "out", "--workers", 1)
    assert result.code == 0
    [said] = result.err.splitlines()
    assert said.startswith(f"rejected: {TRAJECTORY}/image_left/000000_left.png and 12 more there (")
    assert f"has no pose: {TRAJECTORY}/pose_left.txt: has 10 rows, and nothing tells which frame each is of" in said


def test_no_pose_file_at_all(raw, vdaprep, tmp_path: Path) -> None:
    for poses in raw.root.rglob("pose_left.txt"):
        poses.unlink()
    result = vdaprep("convert", "tartanair", "--raw", raw.root, "--out", tmp_path / "out", "--workers", 1)
    refused(result, 1, "none of 24 frames can be used", "has no pose: pose_left.txt is missing")
    assert not list((tmp_path / "out").rglob("shard-*"))


@pytest.mark.slow
def test_a_zip_with_a_broken_member(raw, vdaprep, tmp_path: Path) -> None:
    zips = archive(raw.root, tmp_path / "zips")
    target = zips / "abandonedfactory" / "Easy" / "image_left.zip"
    with zipfile.ZipFile(target) as file:
        info = file.getinfo(f"{TRAJECTORY}/image_left/000002_left.png")
    data = bytearray(target.read_bytes())
    data[info.header_offset + 200] ^= 0xFF
    target.write_bytes(data)
    result = vdaprep("convert", "tartanair", "--raw", zips, "--out", tmp_path / "out", "--workers", 1)
    assert result.code == 0
    assert f"Easy/image_left.zip: {TRAJECTORY}/image_left/000002_left.png: cannot be read (" in result.err
    assert dataset(tmp_path / "out").totals["frames"] == 23


@pytest.mark.slow
def test_a_zip_whose_names_leave_the_tree(raw, vdaprep, tmp_path: Path) -> None:
    zips = archive(raw.root, tmp_path / "zips")
    with zipfile.ZipFile(zips / "abandonedfactory" / "Easy" / "image_left.zip", "a") as file:
        file.writestr("../../evil/Easy/P000/image_left/000000_left.png", b"evil")
    arguments = ("convert", "tartanair", "--raw", zips, "--out", tmp_path / "out", "--workers", 1)
    result = vdaprep(*arguments)
    assert result.code == 0
    assert "image_left.zip: ../../evil/Easy/P000/image_left/000000_left.png: the name leads out" in result.err
    assert dataset(tmp_path / "out").totals["frames"] == 24
    assert vdaprep(*arguments, "--strict").code == 1


def test_a_hole_in_the_frame_numbers_is_listed(raw, vdaprep, tmp_path: Path) -> None:
    for number in (3, 4):
        (raw.root / TRAJECTORY / "image_left" / f"{number:06d}_left.png").unlink()
        (raw.root / TRAJECTORY / "depth_left" / f"{number:06d}_left_depth.npy").unlink()
    result = vdaprep("convert", "tartanair", "--raw", raw.root, "--out", tmp_path / "out", "--workers", 1)
    assert f"rejected: {TRAJECTORY}: has no files of frames 3 to 4; clips are cut there" in result.err


def test_another_camera_must_be_named(raw, vdaprep, tmp_path: Path) -> None:
    for image in raw.root.rglob("*.png"):
        pixels = cv2.imread(str(image))
        cv2.imwrite(str(image), pixels[:40])
    for depth in raw.root.rglob("*.npy"):
        depth.write_bytes(npy(np.load(depth)[:40]))
    arguments = ("convert", "tartanair", "--raw", raw.root, "--out", tmp_path / "out", "--workers", 1)
    refused(vdaprep(*arguments), 1, "is 64x40 pixels, the data set's camera has 640x480", "--intrinsics fx,fy,cx,cy")
    assert vdaprep(*arguments, "--intrinsics", "33,34,31.5,19.5").code == 0
    assert clips(tmp_path / "out")[0][1].intrinsics[0] == (33, 34, 31.5, 19.5)


def test_other_options_are_refused_not_mixed(raw, vdaprep, tmp_path: Path) -> None:
    arguments = ("convert", "tartanair", "--raw", raw.root, "--out", tmp_path / "out", "--workers", 1)
    assert vdaprep(*arguments).code == 0
    before = tree_bytes(tmp_path / "out")
    result = vdaprep(*arguments, "--rgb", "jpeg:80")
    refused(result, 2, "dataset.json: was made with rgb = jpeg:95; this run has rgb = jpeg:80", "another --out")
    (tmp_path / "out" / "tartanair" / "dataset.json").unlink()
    result = vdaprep(*arguments, "--clip-frames", 7)
    refused(result, 2, "shard-0001.json: was made with clip_frames = 64; this run has clip_frames = 7")
    shutil.rmtree(raw.root / "abandonedfactory" / "Easy" / "P001")
    result = vdaprep(*arguments)
    refused(result, 2, "shard-0001.json: was made from other frames than")
    assert tree_bytes(tmp_path / "out") == {name: data for name, data in before.items() if "dataset" not in name}


def test_two_writers_are_refused(raw, vdaprep, tmp_path: Path) -> None:
    import fcntl
    import os

    (tmp_path / "out" / "tartanair").mkdir(parents=True)
    handle = os.open(tmp_path / "out" / "tartanair" / ".vdaprep-lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(handle, fcntl.LOCK_EX)
    result = vdaprep("convert", "tartanair", "--raw", raw.root, "--out", tmp_path / "out", "--workers", 1)
    os.close(handle)
    refused(result, 2, "another vdaprep is writing there")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--rgb", "jpeg:101"), "--rgb jpeg:101: expected 1 to 100 behind jpeg"),
        (("--rgb", "webp:50"), "--rgb webp:50: expected jpeg:QUALITY, h264:CRF or av1:CRF"),
        (("--rgb", "jpeg"), "--rgb jpeg: expected jpeg:QUALITY, h264:CRF or av1:CRF"),
        (("--profile", "v1", "--diffs", "decoded"), "--profile v1: has JPEG frames"),
        (("--clip-frames", "0"), "--clip-frames: expected 1 to 1000"),
        (("--depth-error", "0.00001"), "--depth-error: expected 0.00008 to 0.1"),
        (("--short-side", "big"), "--short-side big: expected a whole number, or native"),
        (("--intrinsics", "1,2,3"), "--intrinsics 1,2,3: expected four numbers"),
        (("--intrinsics", "0,2,3,4"), "the focal lengths fx and fy must be positive"),
        (("--splits", "mine"), "--splits mine: TartanAir has no such split set; known: default"),
    ],
)
def test_options_that_cannot_be(arguments: tuple[str, str], sentence: str, raw, vdaprep, tmp_path: Path) -> None:
    result = vdaprep("convert", "tartanair", "--raw", raw.root, "--out", tmp_path / "out", *arguments)
    refused(result, 2, sentence)


def test_an_unknown_data_set(vdaprep, tmp_path: Path) -> None:
    refused(vdaprep("convert", "kitty", "--out", tmp_path), 2, "there is no data set 'kitty'; known: ", "tartanair")


# ------------------------------------------------------------------------------------------------------------ inspect


@pytest.fixture
def shard(raw, vdaprep, tmp_path: Path) -> Path:
    vdaprep("convert", "tartanair", "--raw", raw.root, "--out", tmp_path / "shards", "--workers", 1)
    return tmp_path / "shards" / "tartanair" / "train" / "shard-0001.tar"


def test_inspect_tells_what_a_shard_holds(shard: Path, vdaprep) -> None:
    result = vdaprep("inspect", shard)
    assert result.code == 0
    for text in ("2 clips, 19 frames", "whole: SHA-256", "rgb.jpg", "48x64x3", "float32", "tartanair-abandonedfactory"):
        assert text in result.out
    for text in ("depth.zst (m)", "diff.zst (steps)", "unknown", "sky"):
        assert text in result.out


def test_inspect_as_json(shard: Path, vdaprep) -> None:
    report = json.loads(vdaprep("inspect", shard, "--json").out)
    assert report["frames"] == 19
    assert report["kinds"]["rgb.jpg"]["count"] == 19
    assert report["kinds"]["depth.zst"]["minimum"] == pytest.approx(1.5, rel=1e-3)
    assert [clip["frames"] for clip in report["clips"]] == [13, 6]
    depth = report["depth"]
    assert sum(depth["counts"]) + depth["sky"] + depth["unknown"] == 13 * 48 * 64
    assert depth["sky"] == 13 * 4 * 64
    one = json.loads(vdaprep("inspect", shard, "--json", "--clip", report["clips"][1]["key"]).out)
    assert one["frames"] == 6


def test_inspect_draws_a_contact_sheet(shard: Path, vdaprep, tmp_path: Path) -> None:
    result = vdaprep("inspect", shard, "--preview", tmp_path / "sheet.png")
    assert "sheet.png: contact sheet of tartanair-abandonedfactory-easy-p000-000000" in result.err
    sheet = cv2.imread(str(tmp_path / "sheet.png"))
    assert sheet.shape[1] == 84 + 6 * 266  # names of the rows, and six frames
    assert sheet.std() > 20
    refused(vdaprep("inspect", shard, "--preview", tmp_path / "sheet.gif"), 2, "ends in .png")


def test_a_bare_name_is_looked_for_below_shards(shard: Path, vdaprep, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(shard.parents[3])
    result = vdaprep("inspect", "shard-0001.tar")
    assert result.code == 0
    assert (
        "2 shards below shards/ are called shard-0001.tar; this is shards/tartanair/train/shard-0001.tar" in result.err
    )


@pytest.mark.slow
def test_a_flipped_byte_a_cut_and_a_missing_shard(shard: Path, vdaprep, tmp_path: Path) -> None:
    whole = shard.read_bytes()
    shard.write_bytes(whole[:5000] + bytes([whole[5000] ^ 1]) + whole[5001:])
    refused(
        vdaprep("inspect", shard), 1, "shard-0001.tar: its SHA-256 is not the one in its record; the shard is damaged"
    )
    shard.write_bytes(whole[:-10240])
    refused(vdaprep("inspect", shard), 1, "the shard is cut or damaged")
    refused(
        vdaprep("inspect", tmp_path / "none.tar"), 1, "none.tar: there is no such shard; vdaprep convert makes them"
    )
    shard.write_bytes(whole)
    refused(vdaprep("inspect", shard, "--clip", "nope"), 2, "has no clip nope; its clips are tartanair-abandoned")
