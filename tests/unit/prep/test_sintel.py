"""MPI-Sintel's folders, archives, depth and camera files; its passes."""

import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import Run, pinhole
from tests.exports import expect_exported, pack_zips, shard_bytes
from vdaprep.errors import UsageError
from vdaprep.raw.frames import Frame, SourceOptions
from vdaprep.raw.png import encode_png
from vdaprep.raw.tree import Reader, open_tree
from vdaprep.sources import _manifest
from vdaprep.sources.evaluation import sintel
from vdaprep.synthetic.sample import render_as_frame, unpack
from vdaprep.synthetic.scene import make_scene

WIDTH, HEIGHT, FRAMES = 128, 96, 24
SKY_M = 1e10
NAMES = ("alley_1", "ambush_4")
IMAGES, DEPTHS = "MPI-Sintel-training_images.zip", "MPI-Sintel-depth-training-20150305.zip"


def rendered(seed: int, count: int = FRAMES) -> list[Frame]:
    intrinsics = np.array(pinhole(width=WIDTH, height=HEIGHT))
    scene = make_scene(seed)
    return [render_as_frame(scene, 2 * number, size=(WIDTH, HEIGHT), intrinsics=intrinsics) for number in range(count)]


@pytest.fixture(scope="module")
def frames() -> dict[str, list[Frame]]:
    """A street with sky, and a room without."""
    return dict(zip(NAMES, (rendered(0), rendered(2)), strict=True))


def dpt(depth_m: np.ndarray) -> bytes:
    height, width = depth_m.shape
    finite = np.where(np.isinf(depth_m), np.float32(SKY_M), depth_m)
    return struct.pack("<fii", 202021.25, width, height) + finite.astype("<f4").tobytes()


def cam(frame: Frame, pose: np.ndarray | None = None) -> bytes:
    """Encode a frame's camera; `pose`: what is stored as world-to-camera instead."""
    assert frame.camera_to_world is not None
    fx, fy, cx, cy = frame.intrinsics
    matrix = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
    extrinsic = np.linalg.inv(frame.camera_to_world) if pose is None else pose
    return struct.pack("<f", 202021.25) + matrix.astype("<f8").tobytes() + extrinsic[:3].astype("<f8").tobytes()


def files_of(name: str, frames: list[Frame]) -> Iterator[tuple[str, bytes]]:
    """Write a sequence as the download has it; the final pass is darker."""
    for number, frame in enumerate(frames, start=1):
        yield f"training/clean/{name}/frame_{number:04d}.png", encode_png(frame.rgb.pixels)
        yield f"training/final/{name}/frame_{number:04d}.png", encode_png(frame.rgb.pixels // 2)
        yield f"training/depth/{name}/frame_{number:04d}.dpt", dpt(frame.depth_m)
        yield f"training/depth_viz/{name}/frame_{number:04d}.png", b"a picture"
        yield f"training/camdata_left/{name}/frame_{number:04d}.cam", cam(frame)


def write(root: Path, frames: dict[str, list[Frame]]) -> Path:
    unpack(root, (file for name, items in frames.items() for file in files_of(name, items)))
    return root


def pack(root: Path, loose: Path) -> Path:
    """Put folders into the archives in which they are published."""
    depths = ["training/depth*/**/*", "training/camdata_left/**/*"]
    return pack_zips(root, loose, {IMAGES: ["training/clean/**/*", "training/final/**/*"], DEPTHS: depths})


@pytest.mark.slow
def test_it_converts_verifies_and_exports_equal_to_its_source(
    frames: dict[str, list[Frame]], vdaprep: Run, tmp_path: Path
) -> None:
    loose = write(tmp_path / "loose", frames)
    packed = pack(tmp_path / "packed", loose)
    for raw in (loose, packed):
        result = vdaprep("convert", "sintel", "--raw", raw, "--out", f"{raw}-out", "--workers", 1, "--strict")
        assert (result.code, result.err) == (0, "")
    out = tmp_path / "loose-out"
    assert shard_bytes(out) == shard_bytes(tmp_path / "packed-out")
    record = json.loads((out / "sintel/dataset.json").read_text())
    assert record["splits"] == {"val": list(NAMES)}
    assert record["options"]["pass"] == "clean"
    result = vdaprep("verify", out, "--deep", "--geometry")
    assert (result.code, result.err) == (0, "")
    assert vdaprep("export", out, "--out", tmp_path / "export").code == 0
    for name, items in frames.items():
        folder = tmp_path / "export" / name
        expect_exported(folder, dict(enumerate(items, start=1)), relative_error=0.0005)


@pytest.mark.slow
def test_a_pass_is_chosen_and_kept(frames: dict[str, list[Frame]], vdaprep: Run, tmp_path: Path) -> None:
    raw = write(tmp_path / "raw", {"alley_1": frames["alley_1"][:3]})
    out = tmp_path / "out"
    convert = ("convert", "sintel", "--raw", raw, "--out", out, "--workers", 1)
    assert vdaprep(*convert, "--pass", "final").code == 0
    record = json.loads((out / "sintel/dataset.json").read_text())
    assert record["options"]["pass"] == "final"
    assert vdaprep(*convert, "--pass", "final").code == 0
    result = vdaprep(*convert)
    assert result.code == 2
    assert "pass" in result.err
    (out / "sintel/val/shard-0001.tar").write_bytes(b"")
    assert vdaprep("repair", "sintel", "--raw", raw, "--out", out).code == 0  # takes the pass from the record
    assert vdaprep("export", out, "--out", tmp_path / "export").code == 0
    [brightest] = {int(item.rgb.pixels.max()) for item in frames["alley_1"][:1]}
    tree = open_tree(raw)
    for render_pass, share in (("", 1), ("clean", 1), ("final", 2)):
        options = SourceOptions(render_pass=render_pass)
        [found] = sintel.find_trajectories(tree, options).trajectories
        with Reader(tree.root) as reader:
            assert sintel.read_rgb(found.frames[0], reader).pixels.max() == brightest // share
    assert "vdaprep convert sintel" in vdaprep("plan", "sintel", "--raw", raw, "--out", tmp_path / "o").out


def test_a_pass_that_is_not_there_is_refused(frames: dict[str, list[Frame]], vdaprep: Run, tmp_path: Path) -> None:
    files = [item for item in files_of("alley_1", frames["alley_1"][:2]) if "/final/" not in item[0]]
    unpack(tmp_path / "raw", files)
    for dataset, name, sentence in (
        ("sintel", "final", "--pass final: raw has images of the pass clean only; say --pass clean."),
        ("sintel", "albedo", "--pass albedo: MPI-Sintel has the passes clean and final."),
        ("tartanair", "clean", "--pass clean: TartanAir has no passes; leave the option out."),
    ):
        for command in ("plan", "convert"):
            out = tmp_path / "out"
            result = vdaprep(command, dataset, "--raw", tmp_path / "raw", "--out", out, "--pass", name)
            assert result.code == 2
            assert sentence in result.err.replace(f"{tmp_path}/", "")
    with pytest.raises(UsageError, match="--pass final"):
        _manifest.load("vkitti").render_pass("final")


def test_only_what_is_to_be_read_is_read() -> None:
    known = sintel._folder
    assert known("MPI-Sintel/test/clean/cave_3", wanted="clean", passes=set()) is None
    assert known("training/final/alley_1", wanted="clean", passes=set()) is None
    assert known("training/clean", wanted="clean", passes=set()) is None
    found = known("a/training/clean/alley_1", wanted="clean", passes=set())
    assert found is not None
    assert (found.trajectory, found.root, found.kind) == (("alley_1", "clean"), "a/training", "rgb")


# ---------------------------------------------------------------------------------------------------------- bad inputs

_HEAD = struct.pack("<fii", 202021.25, WIDTH, HEIGHT)


def _cut(data: bytes) -> bytes:
    return data[:-1]


BAD: dict[str, tuple[str, Callable[[bytes], bytes | None], str]] = {
    "no depth": ("depth", lambda data: None, "has no depth map of the same number; they are in MPI-Sintel-depth-train"),
    "no image": ("clean", lambda data: None, "has no image of the same number in this pass, see --pass"),
    "no camera": ("camdata_left", lambda data: None, "camdata_left/alley_1/frame_0002.cam is missing; it is in MPI-Si"),
    "depth cut": ("depth", _cut, "has 49163 bytes, expected 49164 of a .dpt of 128x96 pixels; get it again"),
    "depth padded": ("depth", lambda data: data + b"\0", "has 49165 bytes, expected 49164 of a .dpt"),
    "depth's head": ("depth", lambda data: data[:7], "the .dpt is cut short after 7 bytes; get it again"),
    "huge depth": (
        "depth",
        lambda data: data[:4] + b"\xff\xff\xff\x7f" * 2,
        "is 2147483647x2147483647 pixels by its h",
    ),
    "negative size": ("depth", lambda data: data[:4] + b"\xff" * 8, "is -1x-1 pixels by its header"),
    "big-endian": (
        "depth",
        lambda data: data[3::-1] + data[4:],
        "with its bytes in big-endian order, expected little-",
    ),
    "a PNG": (
        "depth",
        lambda data: b"\x89PNG\r\n\x1a\n",
        "is not a .dpt of MPI-Sintel (it is a PNG: rename or convert",
    ),
    "a page": ("depth", lambda data: b"<!DOCTYPE html><html>", "is not a .dpt of MPI-Sintel"),
    "other size": ("depth", lambda data: dpt(np.ones((48, 64))), "the depth map is 64x48 pixels, the image is 128x96"),
    "camera cut": ("camdata_left", _cut, "has 171 bytes, expected 172 of a .cam; get it again"),
    "no tag": ("camdata_left", lambda data: b"\0" * 172, "is not a .cam of MPI-Sintel"),
    "no camera's": (
        "camdata_left",
        lambda data: data[:76] + b"\0" * 96,
        "matrix is not a rotation and a translati",
    ),
    "not rigid": (
        "camdata_left",
        lambda data: data[:76] + np.eye(4)[:3].astype("<f8").tobytes().replace(b"\xf0?", b"\0@"),
        "has no usable pose: its matrix is not a rotation and a translati",
    ),
    "nan": ("camdata_left", lambda data: data[:76] + struct.pack("<d", np.nan) + data[84:], "has no usable pose"),
    "skewed": (
        "camdata_left",
        lambda data: data[:12] + struct.pack("<d", 3.0) + data[20:],
        "its first nine numbers are no intrinsics, expected fx 0 cx, 0 fy cy and 0 0 1",
    ),
    "image cut": ("clean", _cut, "the PNG is cut short after"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_file_costs_its_frame_and_a_sentence(
    kind: str, frames: dict[str, list[Frame]], vdaprep: Run, tmp_path: Path
) -> None:
    folder, change, sentence = BAD[kind]
    raw = write(tmp_path / "raw", {"alley_1": frames["alley_1"][:3]})
    [path] = raw.glob(f"training/{folder}/alley_1/frame_0002.*")
    data = change(path.read_bytes())
    path.unlink()
    if data is not None:
        path.write_bytes(data)
    result = vdaprep("convert", "sintel", "--raw", raw, "--out", tmp_path / "out", "--workers", 1, "--no-check")
    assert result.code == 0
    [line] = [line for line in result.err.splitlines() if line.startswith("rejected: ")]
    assert "frame_0002" in line
    assert sentence in line
    record = json.loads((tmp_path / "out/sintel/dataset.json").read_text())
    assert record["totals"]["frames"] == 2


def test_wrong_layouts_and_partial_downloads_are_named(
    frames: dict[str, list[Frame]], vdaprep: Run, tmp_path: Path
) -> None:
    items = list(files_of("alley_1", frames["alley_1"][:2]))
    images = [item for item in items if "/clean/" in item[0]]
    cases = {
        "images": (images, "they are in MPI-Sintel-depth-training-20150305.zip"),
        "flat": ([(path.rpartition("/")[2], data) for path, data in items], "no MPI-Sintel trajectory among"),
    }
    for name, (files, sentence) in cases.items():
        unpack(tmp_path / name, files)
        result = vdaprep("convert", "sintel", "--raw", tmp_path / name, "--out", tmp_path / "out", "--workers", 1)
        assert result.code == 1
        assert sentence in result.err


# -------------------------------------------------------------------------------------------------------- broken twins


def _stored_inverted(root: Path, frames: list[Frame]) -> None:
    for number, frame in enumerate(frames, start=1):
        path = root / f"training/camdata_left/alley_1/frame_{number:04d}.cam"
        path.write_bytes(cam(frame, frame.camera_to_world))


def _depth_shifted(root: Path, frames: list[Frame]) -> None:
    for number in range(1, len(frames) - 3):
        path = root / f"training/depth/alley_1/frame_{number:04d}.dpt"
        path.write_bytes(dpt(frames[number + 3].depth_m))


def _images_shifted(root: Path, frames: list[Frame]) -> None:
    for number in range(1, len(frames) - 3):
        path = root / f"training/clean/alley_1/frame_{number:04d}.png"
        path.write_bytes(encode_png(frames[number + 3].rgb.pixels))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (_stored_inverted, "the poses look like world-to-camera: inverted, they fit clearly better"),
        (_depth_shifted, "poses look shifted: with those 4 frames later, depth maps fit clearly better"),
        (_images_shifted, "images and depth maps look shifted: with images 4 frames earlier, depth maps fit clearly b"),
    ],
)
def test_a_broken_twin_is_named(
    damage: Callable[[Path, list[Frame]], None],
    sentence: str,
    frames: dict[str, list[Frame]],
    vdaprep: Run,
    tmp_path: Path,
) -> None:
    items = frames["alley_1"]
    raw = write(tmp_path / "raw", {"alley_1": items})
    damage(raw, items)
    assert vdaprep("convert", "sintel", "--raw", raw, "--out", tmp_path / "out", "--workers", 1, "--no-check").code == 0
    result = vdaprep("verify", tmp_path / "out", "--geometry")
    assert result.code == 1
    assert sentence in result.out
