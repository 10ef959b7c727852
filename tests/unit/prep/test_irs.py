"""IRS's folders and archives, disparity in EXR, the twin IRS_small, and cuts."""

import gzip
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import OpenEXR
import pytest

from tests.conftest import Run, tree_bytes
from tests.exports import expect_exported
from tests.unit.prep.test_archive_tars import tar_bytes
from vdaprep.raw.frames import Frame, RgbImage, SourceOptions
from vdaprep.raw.png import encode_png
from vdaprep.raw.tree import open_tree
from vdaprep.shards.dataset import open_shards
from vdaprep.sources.training import irs
from vdaprep.synthetic.sample import render_as_frame, unpack
from vdaprep.synthetic.scene import make_scene

WIDTH, HEIGHT, SMALLER = 960, 540, 10
FRAMES, CUT = 8, 5  # the first frame, from 1, that shows another room
FOCAL_X_BASELINE = 48.0  # pixels times metres
SCENE = "Home/ArchVizInterior03Data"
OTHER = "Office/Office01_Night"


def _enlarged(frame: Frame) -> Frame:
    """The published size: another one is refused, and rendering it takes long."""
    rgb, depth_m = (
        np.repeat(np.repeat(values, SMALLER, 0), SMALLER, 1) for values in (frame.rgb.pixels, frame.depth_m)
    )
    return replace(frame, rgb=RgbImage(rgb), depth_m=depth_m)


@pytest.fixture(scope="module")
def frames() -> list[Frame]:
    """A path through a room, then one through another; numbers go on."""
    size, intrinsics = (WIDTH // SMALLER, HEIGHT // SMALLER), np.array([48.0, 48.0, 47.5, 26.5])
    numbers = [(2, number) for number in range(1, CUT)] + [(6, number) for number in range(CUT, FRAMES + 1)]
    return [_enlarged(render_as_frame(make_scene(seed), n, size=size, intrinsics=intrinsics)) for seed, n in numbers]


def exr(values: np.ndarray, channels: str = "G") -> bytes:
    stream = io.BytesIO()
    header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}
    OpenEXR.File(header, dict.fromkeys(channels, np.ascontiguousarray(values))).write(stream)
    return stream.getvalue()


def disparity_of(frame: Frame) -> np.ndarray:
    with np.errstate(divide="ignore"):
        values = (FOCAL_X_BASELINE / frame.depth_m).astype(np.float32)
    values[0, :4] = 0, -1, np.nan, np.inf
    return values


def stored_depth(frame: Frame) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        depth_m = FOCAL_X_BASELINE / disparity_of(frame)
    return np.where(np.isfinite(depth_m) & (depth_m > 0), depth_m, np.nan)


def files_of(
    frames: list[Frame], scene: str = SCENE, *, channels: str = "G", name: str = "{:05d}"
) -> Iterator[tuple[str, bytes]]:
    for number, frame in enumerate(frames, start=1):
        text = name.format(number)
        yield f"{scene}/l_{text}.png", encode_png(frame.rgb.pixels)
        yield f"{scene}/r_{text}.png", b"the right camera"
        yield f"{scene}/d_{text}.exr", exr(disparity_of(frame), channels)
        yield f"{scene}/n_{text}.exr", b"normals"


@pytest.mark.slow
def test_it_converts_verifies_and_exports_equal_to_its_source(
    frames: list[Frame], vdaprep: Run, tmp_path: Path
) -> None:
    scenes = {SCENE: dict(files_of(frames)), OTHER: dict(files_of(frames, OTHER, channels="RGB", name="{}"))}
    loose, packed = tmp_path / "loose", tmp_path / "packed"
    packed.mkdir()
    for scene, files in scenes.items():
        unpack(loose / "IRSDataset", files.items())
        (packed / f"{scene.partition('/')[0]}-1.tar.gz").write_bytes(gzip.compress(tar_bytes(files)))
    twin = {f"IRS_small/{name}": data for name, data in list(scenes[SCENE].items())[::8]}
    (packed / "IRS_small.tar.gz").write_bytes(gzip.compress(tar_bytes(twin)))
    for raw in (loose, packed):
        result = vdaprep("convert", "irs", "--raw", raw, "--out", f"{raw}-out", "--workers", 1, "--strict")
        assert (result.code, result.err) == (0, "")
    shards = [tree_bytes(tmp_path / f"{name}-out/irs") for name in ("loose", "packed")]
    records = [json.loads(found.pop("dataset.json")) for found in shards]
    assert shards[0] == shards[1]
    assert records[0]["splits"] == {"train": [OTHER], "val": [SCENE]}  # lightings of a scene stay together
    out = tmp_path / "loose-out"
    result = vdaprep("verify", out, "--deep", "--geometry")
    assert (result.code, result.err) == (0, "")
    assert f"{SCENE}: 8 frames, no poses: nothing to warp with" in result.out
    assert vdaprep("export", out, "--out", tmp_path / "export").code == 0
    given = {
        number: replace(frame, intrinsics=np.array([480.0, 480, 480, 270])) for number, frame in enumerate(frames, 1)
    }
    for scene in scenes:
        folder = tmp_path / "export" / scene
        assert not (folder / "camera_to_world.txt").exists()
        expect_exported(folder, given, depth_of=stored_depth, relative_error=0.0006, pose_error=None)


@pytest.mark.slow
@pytest.mark.parametrize("clip_frames", [64, 4, 3])
def test_clips_end_at_a_cut(clip_frames: int, frames: list[Frame], vdaprep: Run, tmp_path: Path) -> None:
    unpack(tmp_path / "raw", files_of(frames))
    convert = ("convert", "irs", "--raw", tmp_path / "raw", "--out", tmp_path / "out", "--workers", 1, "--strict")
    result = vdaprep(*convert, "--clip-frames", clip_frames, "--profile", "small")
    assert (result.code, result.err) == (0, "")
    metas = [clip.meta for clip in open_shards(tmp_path / "out").clips()]
    assert [number for meta in metas for number in meta.frame_ids] == [*range(1, FRAMES + 1)]
    assert not any({CUT - 1, CUT} <= set(meta.frame_ids) for meta in metas)
    valid = {number: flag for meta in metas for number, flag in zip(meta.frame_ids, meta.diff_valid, strict=True)}
    assert [number for number, flag in valid.items() if not flag] == [1, CUT]


def test_a_twin_of_few_frames_is_read_where_the_whole_scene_is_not_there(frames: list[Frame], tmp_path: Path) -> None:
    unpack(tmp_path, files_of(frames[:2]))
    unpack(tmp_path / "IRS_small", [*files_of(frames[:1]), *files_of(frames[:1], OTHER)])
    found = irs.find_trajectories(open_tree(tmp_path), SourceOptions())
    assert {item.name: len(item.frames) for item in found.trajectories} == {SCENE: 2, OTHER: 1}
    assert not any(item.problems for item in found.trajectories)
    assert f"IRS_small/{SCENE}/l_00001.png" in found.others


SHAPE = (HEIGHT, WIDTH)
BAD: dict[str, tuple[str, Callable[[bytes], bytes | None], str]] = {
    "no disparity": ("d_", lambda data: None, "has no disparity d_ of the same number beside it"),
    "no image": ("l_", lambda data: None, "has no image l_ of the same number beside it"),
    "empty": ("d_", lambda data: b"", "is not an EXR"),
    "a page": ("d_", lambda data: b"<!DOCTYPE html>", "is not an EXR"),
    "cut": ("d_", lambda data: data[: len(data) // 2], "the EXR is cut short"),
    "another channel": (
        "d_",
        lambda data: exr(np.ones(SHAPE, "f4"), "Y"),
        "has the channels Y (float32), expected on",
    ),
    "normals": ("d_", lambda data: coloured(), "has colours, R unlike G or B, expected one channel G of floats"),
    "a small copy": (
        "d_",
        lambda data: exr(np.ones((54, 96), "f4")),
        "is 96x54 pixels, expected 960x540, in whose ",
    ),
    "the image's size": (
        "l_",
        lambda data: encode_png(np.zeros((54, 96, 3), np.uint8)),
        "the depth map is 960x540 pixels, the image is 96x54",
    ),
}


def coloured() -> bytes:
    stream = io.BytesIO()
    channels = {name: np.full(SHAPE, index, np.float32) for index, name in enumerate("RGB")}
    OpenEXR.File({"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}, channels).write(stream)
    return stream.getvalue()


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_file_costs_its_frame_and_a_sentence(
    kind: str, frames: list[Frame], vdaprep: Run, tmp_path: Path
) -> None:
    start, change, sentence = BAD[kind]
    unpack(tmp_path / "raw", files_of(frames[:3]))
    [path] = (tmp_path / "raw" / SCENE).glob(f"{start}00002.*")
    data = change(path.read_bytes())
    path.unlink()
    if data is not None:
        path.write_bytes(data)
    convert = ("convert", "irs", "--raw", tmp_path / "raw", "--out", tmp_path / "out", "--workers", 1, "--no-check")
    result = vdaprep(*convert)
    assert result.code == 0
    [line] = [line for line in result.err.splitlines() if line.startswith("rejected: ")]
    assert "_00002." in line
    assert sentence in line


def test_shifted_pairs_of_image_and_disparity_cannot_be_noticed(
    frames: list[Frame], vdaprep: Run, tmp_path: Path
) -> None:
    """There are no poses to warp with, so this documents a limit, not a wish."""
    unpack(tmp_path / "raw", files_of(frames[: CUT - 1]))
    for number in range(1, CUT - 1):
        (tmp_path / "raw" / SCENE / f"d_{number:05d}.exr").write_bytes(exr(disparity_of(frames[number])))
    out = tmp_path / "out"
    assert vdaprep("convert", "irs", "--raw", tmp_path / "raw", "--out", out, "--workers", 1).code == 0
    result = vdaprep("verify", out, "--deep", "--geometry")
    assert result.code == 0
    assert "no poses: nothing to warp with" in result.out
