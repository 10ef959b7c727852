"""Spring's folders, archives, HDF5 disparity and camera tables."""

import io
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from tests.conftest import Run, pinhole, tree_bytes
from tests.exports import expect_exported, pack_zips
from vdaprep.raw.frames import Frame
from vdaprep.raw.png import encode_png
from vdaprep.synthetic.sample import render_as_frame, unpack
from vdaprep.synthetic.scene import make_scene

WIDTH, HEIGHT, FRAMES = 128, 96, 24
BASELINE_M = 0.065
TRAIN = "spring/train/0001"


def rendered(count: int, seed: int = 0) -> list[Frame]:
    """Frames of a scene whose camera zooms, so that each has a focal length of its own."""
    found: list[Frame] = []
    for number in range(count):
        intrinsics = np.array(pinhole(width=WIDTH, height=HEIGHT, fov_deg=80 - number / 4))
        found.append(render_as_frame(make_scene(seed), 2 * number, size=(WIDTH, HEIGHT), intrinsics=intrinsics))
    return found


@pytest.fixture(scope="module")
def frames() -> list[Frame]:
    return rendered(FRAMES)


def dsp5(disparity: np.ndarray | None, name: str = "disparity", **options: Any) -> bytes:
    file = io.BytesIO()
    with h5py.File(file, "w") as content:
        content.create_dataset(name, data=disparity, **{"compression": "gzip", **options})
    return file.getvalue()


def disparity_of(frame: Frame) -> np.ndarray:
    """Four values for each pixel, of which the upper left one is the frame's; sky is 0."""
    with np.errstate(divide="ignore"):
        own = (frame.intrinsics[0] * BASELINE_M / frame.depth_m).astype(np.float32)
    values = np.repeat(np.repeat(own, 2, axis=0), 2, axis=1)
    values[1::2] += 1
    values[:, 1::2] += 2
    values[0, 2] = np.nan
    values[2, 0] = np.inf
    return values


def stored_depth(frame: Frame) -> np.ndarray:
    """What is left of a frame's depth: sky is unknown, and so are two pixels."""
    depth_m = np.where(np.isinf(frame.depth_m), np.nan, frame.depth_m)
    depth_m[0, 1] = depth_m[1, 0] = np.nan
    return depth_m


def table(rows: list[np.ndarray]) -> bytes:
    return "".join(" ".join(f"{value:.12g}" for value in row) + "\n" for row in rows).encode()


def files_of(frames: list[Frame]) -> Iterator[tuple[str, bytes]]:
    for number, frame in enumerate(frames, start=1):
        yield f"{TRAIN}/frame_left/frame_left_{number:04d}.png", encode_png(frame.rgb.pixels)
        yield f"{TRAIN}/frame_right/frame_right_{number:04d}.png", b"a picture"
        yield f"{TRAIN}/disp1_left/disp1_left_{number:04d}.dsp5", dsp5(disparity_of(frame))
    poses = [frame.camera_to_world for frame in frames if frame.camera_to_world is not None]
    yield f"{TRAIN}/cam_data/intrinsics.txt", table([frame.intrinsics for frame in frames])
    yield f"{TRAIN}/cam_data/extrinsics.txt", table([np.linalg.inv(pose).ravel() for pose in poses])
    yield f"{TRAIN}/cam_data/focaldistance.txt", table([np.ones(1) for _ in frames])
    yield "spring/test/0003/frame_left/frame_left_0001.png", b"a picture of the test set"


def pack(root: Path, loose: Path) -> Path:
    """Put folders into the archives in which they are published."""
    kinds = ("frame_left", "disp1_left", "cam_data")
    return pack_zips(root, loose, {f"train_{kind}.zip": [f"spring/train/*/{kind}/*"] for kind in kinds})


@pytest.mark.slow
def test_it_converts_verifies_and_exports_equal_to_its_source(
    frames: list[Frame], vdaprep: Run, tmp_path: Path
) -> None:
    unpack(tmp_path / "loose", files_of(frames))
    pack(tmp_path / "packed", tmp_path / "loose")
    for raw in (tmp_path / "loose", tmp_path / "packed"):
        result = vdaprep("convert", "spring", "--raw", raw, "--out", f"{raw}-out", "--workers", 1, "--strict")
        assert (result.code, result.err) == (0, "")
    loose, packed = (tree_bytes(tmp_path / f"{name}-out/spring/train") for name in ("loose", "packed"))
    assert loose == packed
    out = tmp_path / "loose-out"
    source = json.loads((out / "spring/dataset.json").read_text())["source"]
    assert (source["licence"], source["commercial"]) == ("CC BY 4.0", True)
    result = vdaprep("verify", out, "--deep", "--geometry")
    assert (result.code, result.err) == (0, "")
    assert vdaprep("export", out, "--out", tmp_path / "export").code == 0
    expect_exported(
        tmp_path / "export/0001", dict(enumerate(frames, start=1)), depth_of=stored_depth, relative_error=0.0005
    )


def outside(path: Path) -> bytes:
    """Return an HDF5 file whose disparity is the bytes of another file."""
    file = io.BytesIO()
    with h5py.File(file, "w") as content:
        content.create_dataset("disparity", (192, 256), "f4", external=[(str(path), 0, h5py.h5f.UNLIMITED)])
    return file.getvalue()


def linked(path: Path) -> bytes:
    file = io.BytesIO()
    with h5py.File(file, "w") as content:
        content["disparity"] = h5py.ExternalLink(str(path), "disparity")
    return file.getvalue()


SHAPE = (2 * HEIGHT, 2 * WIDTH)
BAD: dict[str, tuple[str, Callable[[bytes], bytes | None], str]] = {
    "no disparity": ("disp1_left", lambda data: None, "has no disparity of the same number in disp1_left"),
    "no image": ("frame_left", lambda data: None, "has no image of the same number in frame_left"),
    "empty": ("disp1_left", lambda data: b"", "begins with b'', expected HDF5; get it again"),
    "a page": ("disp1_left", lambda data: b"<!DOCTYPE html>", "expected HDF5; get it again"),
    "cut": ("disp1_left", lambda data: data[: len(data) // 2], "is damaged HDF5 ("),
    "another name": ("disp1_left", lambda data: dsp5(np.ones(SHAPE, "f4"), "flow"), "has no data set 'disparity'"),
    "of one size": ("disp1_left", lambda data: dsp5(np.ones((3, 5), "f4")), "disparity is 3x5 of float32, expected"),
    "whole numbers": ("disp1_left", lambda data: dsp5(np.ones(SHAPE, "i4")), "disparity is 192x256 of int32, expected"),
    "three axes": ("disp1_left", lambda data: dsp5(np.ones((2, 2, 2), "f4")), "disparity is 2x2x2 of float32"),
    "the image's size": (
        "disp1_left",
        lambda data: dsp5(np.ones((HEIGHT, WIDTH), "f4")),
        "the depth map is 64x48 pixels, the image is 128x96",
    ),
    "a bomb": (
        "disp1_left",
        lambda data: dsp5(None, shape=(2**20, 2**20), chunks=(2**10, 2**10), dtype="f4"),
        "is 1048576x1048576 pixels by its header",
    ),
    "another file": ("disp1_left", lambda data: outside(Path("/etc/hostname")), "has no data set 'disparity' of its o"),
    "a link": ("disp1_left", lambda data: linked(Path("/etc/hostname")), "has no data set 'disparity' of its own"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_file_costs_its_frame_and_a_sentence(
    kind: str, frames: list[Frame], vdaprep: Run, tmp_path: Path
) -> None:
    folder, change, sentence = BAD[kind]
    unpack(tmp_path / "raw", files_of(frames[:3]))
    [path] = (tmp_path / "raw" / TRAIN / folder).glob("*_0002.*")
    data = change(path.read_bytes())
    path.unlink()
    if data is not None:
        path.write_bytes(data)
    convert = ("convert", "spring", "--raw", tmp_path / "raw", "--out", tmp_path / "out", "--workers", 1, "--no-check")
    result = vdaprep(*convert)
    assert result.code == 0
    [line] = [line for line in result.err.splitlines() if line.startswith("rejected: ")]
    assert "_0002." in line
    assert sentence in line


TABLES: dict[str, tuple[str, Callable[[bytes], bytes | None], str]] = {
    "no intrinsics": (
        "intrinsics",
        lambda data: None,
        "has no intrinsics, which are in train_cam_data.zip",
    ),
    "no poses": (
        "extrinsics",
        lambda data: None,
        "extrinsics.txt is missing; it is in train_cam_data.zip",
    ),
    "a row short": ("intrinsics", lambda data: data.split(b"\n", 1)[1], "has 2 rows, and nothing tells which frame"),
    "a column short": ("intrinsics", lambda data: data.replace(b" ", b"_", 1), "intrinsics.txt has none for frame 1"),
    "no focal length": ("intrinsics", lambda data: b"0 5 6 7\n" * 3, "has no focal length: "),
    "singular": (
        "extrinsics",
        lambda data: b"0 " * 16 + b"\n" + data.split(b"\n", 1)[1],
        "is not a rotation and a",
    ),
}


@pytest.mark.parametrize("kind", TABLES)
def test_a_bad_table_is_said(kind: str, frames: list[Frame], vdaprep: Run, tmp_path: Path) -> None:
    name, change, sentence = TABLES[kind]
    unpack(tmp_path / "raw", files_of(frames[:3]))
    path = tmp_path / "raw" / TRAIN / "cam_data" / f"{name}.txt"
    data = change(path.read_bytes())
    path.unlink()
    if data is not None:
        path.write_bytes(data)
    result = vdaprep("convert", "spring", "--raw", tmp_path / "raw", "--out", tmp_path / "out", "--no-check")
    assert sentence in result.err


def test_without_h5py_the_extra_is_named(
    frames: list[Frame], vdaprep: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unpack(tmp_path / "raw", files_of(frames[:2]))
    monkeypatch.setitem(sys.modules, "h5py", None)
    convert = ("convert", "spring", "--raw", tmp_path / "raw", "--out", tmp_path / "out", "--workers", 1)
    result = vdaprep(*convert)
    assert result.code == 1
    assert "pip install 'vdakit[h5]'" in result.err
    assert result.err.count("\n") == 1


def _inverted(root: Path, frames: list[Frame]) -> None:
    poses = [frame.camera_to_world.ravel() for frame in frames if frame.camera_to_world is not None]
    (root / TRAIN / "cam_data/extrinsics.txt").write_bytes(table(poses))


def _shifted(root: Path, frames: list[Frame]) -> None:
    for number in range(1, len(frames) - 3):
        path = root / TRAIN / f"disp1_left/disp1_left_{number:04d}.dsp5"
        path.write_bytes(dsp5(disparity_of(frames[number + 3])))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("damage", "sentence"),
    [(_inverted, "the poses look like world-to-camera"), (_shifted, "poses look shifted: with those 4 frames later")],
)
def test_a_broken_twin_is_named(
    damage: Callable[[Path, list[Frame]], None], sentence: str, frames: list[Frame], vdaprep: Run, tmp_path: Path
) -> None:
    unpack(tmp_path / "raw", files_of(frames))
    damage(tmp_path / "raw", frames)
    convert = ("convert", "spring", "--raw", tmp_path / "raw", "--out", tmp_path / "out", "--workers", 1, "--no-check")
    assert vdaprep(*convert).code == 0
    result = vdaprep("verify", tmp_path / "out", "--geometry")
    assert result.code == 1
    assert sentence in result.out
