"""PointOdyssey's folders and archives, its cameras in an npz, and sequences without one."""

import gzip
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.conftest import Run, pinhole
from tests.exports import expect_exported, shard_bytes
from tests.unit.prep.test_archive_cases import zip_bytes
from tests.unit.prep.test_archive_tars import tar_bytes
from vdaprep.errors import FrameError
from vdaprep.raw.frames import Frame, SourceOptions
from vdaprep.raw.png import encode_png16
from vdaprep.raw.tree import Reader, open_tree
from vdaprep.sources import _manifest
from vdaprep.sources.training import pointodyssey
from vdaprep.synthetic.sample import render_as_frame, unpack
from vdaprep.synthetic.scene import make_scene

WIDTH, HEIGHT, FRAMES = 128, 96, 16
UNIT_M = 1000 / 65535
NAMES = ("train/kg", "val/ani3")


@pytest.fixture(scope="module")
def frames() -> dict[str, list[Frame]]:
    """A street with sky, and a room without."""
    intrinsics = np.array(pinhole(width=WIDTH, height=HEIGHT))
    scenes = {name: make_scene(seed) for name, seed in zip(NAMES, (0, 2), strict=True)}
    return {
        name: [render_as_frame(scene, 2 * i, size=(WIDTH, HEIGHT), intrinsics=intrinsics) for i in range(FRAMES)]
        for name, scene in scenes.items()
    }


def codes(depth_m: np.ndarray) -> np.ndarray:
    return np.where(np.isinf(depth_m), 65535, np.round(depth_m / UNIT_M)).astype(np.uint16)


def npz(**arrays: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


def anno(frames: list[Frame], *, invert: bool = True, shift: int = 0) -> bytes:
    """Encode a sequence's cameras as world-to-camera; otherwise as they must not be."""
    fx, fy, cx, cy = frames[0].intrinsics
    poses = np.roll([frame.camera_to_world for frame in frames], shift, axis=0)
    matrix = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
    extrinsics = np.linalg.inv(poses) if invert else poses
    count = len(frames)
    tracks = np.zeros((count, 5, 3), np.float32)
    return npz(intrinsics=np.tile(matrix, (count, 1, 1)), extrinsics=extrinsics, trajs_3d=tracks)


def files_of(name: str, frames: list[Frame], cameras: bytes | None) -> Iterator[tuple[str, bytes]]:
    for number, frame in enumerate(frames):
        ok, jpeg = cv2.imencode(".jpg", frame.rgb.pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 98])
        assert ok
        yield f"{name}/rgbs/rgb_{number:05d}.jpg", jpeg.tobytes()
        yield f"{name}/depths/depth_{number:05d}.png", encode_png16(codes(frame.depth_m))
        yield f"{name}/normals/normal_{number:05d}.jpg", b"a picture"
        yield f"{name}/masks/mask_{number:05d}.png", b"a picture"
    if cameras is not None:
        yield f"{name}/anno.npz", cameras
    yield f"{name}/info.npz", b"numbers"
    yield f"{name}/scene_info.json", b"{}"


def stored_depth(frame: Frame) -> np.ndarray:
    return np.where(np.isinf(frame.depth_m), np.inf, codes(frame.depth_m) * UNIT_M)


@pytest.mark.slow
def test_it_converts_verifies_and_exports_equal_to_its_source(
    frames: dict[str, list[Frame]], vdaprep: Run, tmp_path: Path
) -> None:
    loose, packed = tmp_path / "loose", tmp_path / "packed"
    packed.mkdir()
    for name, items in frames.items():
        files = dict(files_of(name, items, anno(items)))
        unpack(loose, files.items())
        (packed / f"{name.partition('/')[0]}.tar.gz").write_bytes(gzip.compress(tar_bytes(files)))
    for raw in (loose, packed):
        result = vdaprep("convert", "pointodyssey", "--raw", raw, "--out", f"{raw}-out", "--workers", 1, "--strict")
        assert (result.code, result.err) == (0, "")
    out = tmp_path / "loose-out"
    assert shard_bytes(out) == shard_bytes(tmp_path / "packed-out")
    record = json.loads((out / "pointodyssey/dataset.json").read_text())
    assert record["splits"] == {"train": ["train/kg"], "val": ["val/ani3"]}
    result = vdaprep("verify", out, "--deep", "--geometry")
    assert (result.code, result.err) == (0, "")
    assert vdaprep("export", out, "--out", tmp_path / "export").code == 0
    for name, items in frames.items():
        expect_exported(tmp_path / "export" / name, dict(enumerate(items)), depth_of=stored_depth)


def write_parts(folder: Path, frames: dict[str, list[Frame]]) -> list[Path]:
    """Write `train.tar.gz` in parts, cut in a member's header and in another's data, and `val.tar` in two.

    The gzip is not compressed, so that it can be told where these are.
    """
    files = {name: dict(files_of(name, items, anno(items))) for name, items in frames.items()}
    train, val = (tar_bytes(files[name]) for name in NAMES)
    data = gzip.compress(train, 0)
    header = data.index(b"train/kg/depths/depth_00003.png") + 20
    inside = data.index(files[NAMES[0]]["train/kg/rgbs/rgb_00009.jpg"][-80:-40]) + 10
    cuts = {"train.tar.gz": (data, [0, header, inside, len(data) - 700]), "val.tar": (val, [0, len(val) // 2])}
    written: list[Path] = []
    for whole, (content, begins) in cuts.items():
        for letter, begin, end in zip("abcd", begins, [*begins[1:], len(content)], strict=False):
            written.append(folder / f"{whole}.parta{letter}")
            written[-1].write_bytes(content[begin:end])
    return written


@pytest.mark.slow
def test_archives_in_parts_are_converted_as_folders_are(
    frames: dict[str, list[Frame]], vdaprep: Run, tmp_path: Path
) -> None:
    loose, raw = tmp_path / "loose", tmp_path / "parts"
    raw.mkdir()
    parts = write_parts(raw, frames)
    for name, items in frames.items():
        unpack(loose, files_of(name, items, anno(items)))
    for place in (loose, raw):
        result = vdaprep("convert", "pointodyssey", "--raw", place, "--out", f"{place}-out", "--workers", 2, "--strict")
        assert (result.code, result.err) == (0, "")
    out = tmp_path / "parts-out"
    expected = shard_bytes(tmp_path / "loose-out")
    assert shard_bytes(out) == expected
    plan = vdaprep("plan", "pointodyssey", "--raw", raw, "--out", tmp_path / "none").out
    assert "134 files found: 66 used, 68 known and not needed, 0 not recognised" in " ".join(plan.split())
    assert vdaprep("verify", out, "--deep", "--geometry").code == 0
    [tar] = out.rglob("train/shard-0001.tar")
    tar.write_bytes(tar.read_bytes()[:-5000])
    assert vdaprep("repair", "pointodyssey", "--raw", raw, "--out", out).code == 0
    assert shard_bytes(out) == expected
    consume = ("convert", "pointodyssey", "--raw", raw, "--out", tmp_path / "again", "--workers", 1, "--yes")
    kept = vdaprep(*consume, "--consume")
    assert f"{raw}/train.tar.gz: kept: this run does not use 34 files like train/kg/normals" in kept.err + kept.out
    assert sorted(raw.iterdir()) == parts
    gone = vdaprep(*consume, "--consume", "--consume-unused")
    assert f"{raw}/train.tar.gz: will be deleted" in gone.err + gone.out
    assert (gone.code, list(raw.iterdir())) == (0, [])
    assert shard_bytes(tmp_path / "again") == expected


def test_parts_of_which_one_is_missing_are_used_up_to_it_and_kept(
    frames: dict[str, list[Frame]], vdaprep: Run, tmp_path: Path
) -> None:
    parts = write_parts(tmp_path, frames)
    parts[2].unlink()
    options = ("--workers", 1, "--consume", "--consume-unused", "--yes", "--intrinsics", "100,100,64,48")
    result = vdaprep("convert", "pointodyssey", "--raw", tmp_path, "--out", tmp_path / "out", *options)
    assert result.code == 0
    said = "its part train.tar.gz.partac is missing, as train.tar.gz.partad is there; get it"
    assert "train.tar.gz: is cut short after 36 members, inside train/kg/rgbs/rgb_00009.jpg, which" in result.err
    assert said in result.err
    record = json.loads((tmp_path / "out/pointodyssey/dataset.json").read_text())
    assert record["totals"]["frames"] == 9 + FRAMES
    assert sorted(path for path in tmp_path.iterdir() if path.is_file()) == [*parts[:2], parts[3]]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("broken", "fault"),
    [({"invert": False}, "the poses look like world-to-camera"), ({"shift": 3}, "poses look shifted")],
)
def test_wrong_cameras_are_named_by_their_geometry(
    broken: dict[str, int], fault: str, frames: dict[str, list[Frame]], vdaprep: Run, tmp_path: Path
) -> None:
    unpack(tmp_path / "raw", files_of(NAMES[1], frames[NAMES[1]], anno(frames[NAMES[1]], **broken)))
    out = tmp_path / "out"
    assert vdaprep("convert", "pointodyssey", "--raw", tmp_path / "raw", "--out", out, "--workers", 1).code == 0
    result = vdaprep("verify", out, "--geometry")
    assert result.code == 1
    assert NAMES[1] in result.out
    assert fault in " ".join(result.out.split())


def test_a_split_set_trains_on_33_indoor_sequences() -> None:
    facts = _manifest.load("pointodyssey")
    assert len(set(facts.splits["indoor33"]["train"])) == 33
    of = {name: facts.split_of(name, splits="indoor33") for name in ("train/kg", "train/ani", "val/kg_ego3")}
    assert of == {"train/kg": "train", "train/ani": "other", "val/kg_ego3": "other"}


def test_without_anno_there_is_depth_if_the_intrinsics_are_said(frames: dict[str, list[Frame]], tmp_path: Path) -> None:
    unpack(tmp_path, files_of("train/ani_new_2", frames["train/kg"][:3], None))
    tree = open_tree(tmp_path)
    [found] = pointodyssey.find_trajectories(tree, SourceOptions()).trajectories
    with Reader(tree.root) as reader:
        cameras = pointodyssey.read_cameras(found, reader, SourceOptions())
        assert cameras.camera_to_world is None
        assert "anno.npz is missing" in cameras.problems[2]
        cameras = pointodyssey.read_cameras(found, reader, SourceOptions(intrinsics=(50.0, 50.0, 64.0, 48.0)))
        assert (cameras.camera_to_world, cameras.problems) == (None, {})


def _without(data: bytes, **other: np.ndarray) -> bytes:
    with np.load(io.BytesIO(data)) as arrays:
        return npz(**{name: values for name, values in ({**arrays} | other).items() if values.size})


BAD: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "cut": (lambda data: data[:-30], "the .npz is cut short or damaged (File is not a zip file)"),
    "nothing": (lambda data: b"", "anno.npz: is not a whole .npz (it is empty)"),
    "damaged": (
        lambda data: data.replace(b"\0\0\xf0\x3f", b"\0\0\xf1\x3f"),
        "the .npz is cut short or damaged (Bad CRC-32",
    ),
    "no array": (lambda data: _without(data, extrinsics=np.empty(0)), "lacks the array 'extrinsics'"),
    "shape": (lambda data: _without(data, extrinsics=np.zeros((3, 3, 4))), "'extrinsics' is 3x3x4 of float64, expecte"),
    "objects": (lambda data: _without(data, extrinsics=np.array([{}], object)), "'extrinsics' holds objects"),
    "large": (lambda data: _without(data, extrinsics=np.zeros((40_000, 4, 4))), "'extrinsics' has more than 4 MiB"),
    "rows": (lambda data: _without(data, extrinsics=np.zeros((2, 4, 4))), "has 2 rows, and nothing tells which frame"),
    "other rows": (lambda data: _without(data, intrinsics=np.zeros((2, 3, 3))), "has 2 and 3 intrinsics and extrin"),
    "zeros": (lambda data: _without(data, extrinsics=np.zeros((3, 4, 4))), "is not a rotation and a translation"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_cameras_cost_a_sentence(case: str, frames: dict[str, list[Frame]], tmp_path: Path) -> None:
    change, sentence = BAD[case]
    items = frames["train/kg"][:3]
    unpack(tmp_path, files_of("train/kg", items, change(anno(items))))
    tree = open_tree(tmp_path)
    [found] = pointodyssey.find_trajectories(tree, SourceOptions()).trajectories
    with Reader(tree.root) as reader:
        cameras = pointodyssey.read_cameras(found, reader, SourceOptions())
    assert list(cameras.problems) == [0, 1, 2]
    assert sentence in cameras.problems[1]


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "a.zip", ""])
def test_a_file_that_is_read_in_parts_has_the_same_bytes_wherever_it_lies(name: str, tmp_path: Path) -> None:
    files = {"e/first.bin": b"before", "e/anno.npz": bytes(range(256)) * 20, "e/last.bin": b"after"}
    if not name:
        unpack(tmp_path, files.items())
    else:
        tar = tar_bytes(files)
        packed = {"a.tar": tar, "a.tar.gz": gzip.compress(tar), "a.zip": zip_bytes(files)}
        (tmp_path / name).write_bytes(packed[name])
    tree = open_tree(tmp_path)
    expected, location = files["e/anno.npz"], tree.files["e/anno.npz"]
    with Reader(tree.root) as reader:
        part = reader.open(location)
        assert part.size == len(expected)
        for offset, size in ((0, 10), (300, 500), (len(expected) - 5, 100), (len(expected), 1)):
            assert part.read(offset, size) == expected[offset : offset + size]
        part.close()
        assert reader.read(location) == expected  # closing a part leaves the archive open
    if not name:
        (tmp_path / "e/anno.npz").unlink()
        with Reader(tree.root) as reader, pytest.raises(FrameError, match=r"e/anno\.npz: is missing"):
            reader.open(location)
