"""Photographs with a teacher's disparity, or none: names, pixels, sizes, and what is refused."""

import io
import math
import tarfile
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import OpenEXR
import pytest
from PIL import Image
from PIL.ExifTags import IFD, Base

import vdaprep
from tests.unit.prep.test_as_stored import npy
from vdaprep.errors import DataError, FrameError, UsageError
from vdaprep.raw.exr import encode_exr
from vdaprep.raw.frames import Frame, SourceOptions, make_frame
from vdaprep.raw.png import encode_png, encode_png16
from vdaprep.raw.tree import Reader, open_tree
from vdaprep.sources.training import images

SIZE = 24, 40
PIXELS = cv2.resize(
    np.random.default_rng(0).integers(0, 256, (3, 5, 3), np.uint8), SIZE[::-1], interpolation=cv2.INTER_NEAREST
)
UNITS = np.add.outer(np.arange(24) * 1000, np.arange(40) * 100).astype(np.uint16)
MAP = encode_png16(UNITS)


def photograph(kind: str = "JPEG", *, pixels: np.ndarray = PIXELS, orientation: int = 1, film_mm: int = 0) -> bytes:
    exif = Image.Exif()
    exif[Base.Orientation] = orientation
    if film_mm:
        exif.get_ifd(IFD.Exif)[Base.FocalLengthIn35mmFilm] = film_mm
    data = io.BytesIO()
    how = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}.get(kind, {})
    Image.fromarray(pixels).save(data, kind, exif=exif.tobytes(), **how)
    return data.getvalue()


def exr(channels: Mapping[str, np.ndarray]) -> bytes:
    data = io.BytesIO()
    OpenEXR.File({"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}, dict(channels)).write(data)
    return data.getvalue()


def cmyk(kind: str) -> bytes:
    data = io.BytesIO()
    Image.fromarray(PIXELS).convert("CMYK").save(data, kind)
    return data.getvalue()


def laid(root: Path, files: Mapping[str, bytes]) -> Path:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def packed(path: Path, files: Mapping[str, bytes]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def names_of(root: Path) -> dict[str, tuple[str | None, str | None]]:
    found = images.find_trajectories(open_tree(root), SourceOptions()).trajectories
    frames = {item.name: item.frames[0] for item in found}
    return {
        name: tuple(None if one is None else one.member for one in (frame.rgb, frame.depth))
        for name, frame in frames.items()
    }


def frame_of(root: Path) -> Frame:
    tree, options = open_tree(root), SourceOptions()
    [trajectory] = images.find_trajectories(tree, options).trajectories
    [files] = trajectory.frames
    with Reader(tree.root) as reader:
        cameras = images.read_cameras(trajectory, reader, options)
        return make_frame(files, images.read_rgb(files, reader), images.read_depth(files, reader), cameras, 0)


@pytest.mark.parametrize(
    ("rgb", "depth", "name"),
    [
        ("a.jpg", "a.disparity.png", "a"),
        ("a.jpg", "a.npy", "a"),
        ("x/y/a.PNG", "x/y/a.disparity.EXR", "x/y/a"),
        ("x/images/a.webp", "x/disparity/a.png", "x/a"),
        ("x/rgb/a.b.tif", "x/disparity/a.b.npy", "x/a.b"),
        ("x/images/a.jpeg", "x/images/a.disparity.png", "x/a"),
    ],
)
def test_a_map_is_found_by_its_photographs_name(rgb: str, depth: str, name: str, tmp_path: Path) -> None:
    assert names_of(laid(tmp_path, {rgb: b"", depth: b""})) == {name: (rgb, depth)}


def test_a_coloured_picture_of_a_map_and_other_files_are_not_recognised(tmp_path: Path) -> None:
    root = laid(tmp_path, {"images/a.jpg": b"", "disparity/a.jpg": b"", "a.mp4": b"", "._a.jpg": b""})
    found = images.find_trajectories(open_tree(root), SourceOptions())
    assert [item.name for item in found.trajectories] == ["a"]
    assert sorted(found.others) == ["._a.jpg", "a.mp4", "disparity/a.jpg"]


def test_a_second_file_of_a_kind_is_named(tmp_path: Path) -> None:
    root = laid(tmp_path, {"a.jpg": b"", "a.png": b"", "a.npy": b"", "a.disparity.png": b""})
    [found] = images.find_trajectories(open_tree(root), SourceOptions()).trajectories
    assert [str(problem.file) for problem in found.problems] == ["a.png", "a.npy"]
    assert "a second photograph of a; a.jpg is used; if it is a disparity map, call it" in found.problems[0].reason
    assert "a second disparity map of a; a.disparity.png is used" in found.problems[1].reason


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        (("a.jpg", "b.jpg", "c.jpg", "a.npy"), "2 of 3 photographs have no disparity map, the first b.jpg; give all"),
        (("a.jpg", "disparity/b.png"), "1 of 1 photographs .* 1 maps have no photograph of their name, the first disp"),
        (("a.npy", "b.txt"), "no your own photographs trajectory among 2 files"),
    ],
)
def test_maps_for_some_photographs_are_refused(files: tuple[str, ...], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=sentence):
        vdaprep.plan("images", raw=laid(tmp_path, dict.fromkeys(files, b"")))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_photographs_are_as_they_are_shown(kind: str, orientation: int, tmp_path: Path) -> None:
    shown = [0, 1, 2, 3, 4, 5, 6, 7][orientation - 1]
    turned = [
        PIXELS, PIXELS[:, ::-1], PIXELS[::-1, ::-1], PIXELS[::-1], PIXELS.swapaxes(0, 1), np.rot90(PIXELS, -1),
        PIXELS[::-1, ::-1].swapaxes(0, 1), np.rot90(PIXELS),
    ][shown]  # fmt: skip
    frame = frame_of(laid(tmp_path, {f"a.{kind.lower()}": photograph(kind, orientation=orientation, film_mm=36)}))
    assert frame.rgb.pixels.shape == turned.shape
    assert np.abs(frame.rgb.pixels.astype(int) - turned).mean() < 4
    assert (frame.rgb.jpeg is not None) == (kind == "JPEG" and orientation == 1)
    height, width = turned.shape[:2]
    focal_px = 36 / math.hypot(36, 24) * math.hypot(24, 40)
    assert frame.intrinsics.tolist() == pytest.approx([focal_px, focal_px, (width - 1) / 2, (height - 1) / 2])
    assert np.isnan(frame.depth_m).all()


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        ("16 bits.png", encode_png16(UNITS), np.repeat((UNITS >> 8)[..., None], 3, axis=2)),
        ("grey.png", cv2.imencode(".png", PIXELS[..., 0])[1].tobytes(), np.repeat(PIXELS[..., :1], 3, axis=2)),
        ("alpha.png", photograph("PNG", pixels=np.dstack([PIXELS, PIXELS[..., 0]])), PIXELS),
        ("named otherwise.jpg", photograph("PNG"), PIXELS),
    ],
)
def test_pixels_become_eight_bits_of_rgb(name: str, data: bytes, expected: np.ndarray, tmp_path: Path) -> None:
    frame = frame_of(laid(tmp_path, {name: data}))
    assert np.array_equal(frame.rgb.pixels, expected)
    assert np.isnan(frame.intrinsics).all()


@pytest.mark.parametrize(
    ("name", "data", "sentence"),
    [
        ("a.jpg", cmyk("JPEG"), "is a JPEG of 4 colours"),
        ("a.tif", cmyk("TIFF"), "is a TIFF of CMYK pixels, expected grey or RGB"),
        ("a.tif", photograph("TIFF", pixels=np.ones(SIZE, np.float32)), "is a TIFF of F pixels"),
        ("a.jpg", photograph()[:-40], "the JPEG is cut short"),
        ("a.webp", photograph("WEBP")[:-200], "the image cannot be decoded|header is damaged"),
        ("a.jpg", b"\xff\xd8\xff\xe0", "its header is damaged"),
        ("a.jpg", b"GIF89a", r"is not a JPEG, PNG, WebP or TIFF \(it is a GIF: rename or convert it\)"),
        ("a.jpg", b"", "is not a JPEG, PNG, WebP or TIFF"),
    ],
)
def test_photographs_that_cannot_be_used(name: str, data: bytes, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(FrameError, match=sentence):
        frame_of(laid(tmp_path, {name: data}))


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.disparity.png", MAP),
        ("a.npy", npy(UNITS.astype(np.float32))),
        ("a.npy", npy(UNITS.astype(np.float64))),
        ("a.exr", encode_exr(UNITS.astype(np.float16))),
        ("a.exr", exr({"disparity": UNITS.astype(np.float32)})),
        ("a.exr", exr(dict.fromkeys("RGB", UNITS.astype(np.float32)))),
    ],
)
def test_disparity_is_read_in_any_of_its_formats(name: str, data: bytes, tmp_path: Path) -> None:
    frame = frame_of(laid(tmp_path, {"a.jpg": photograph(), name: data}))
    assert np.allclose(1 / frame.depth_m, UNITS.astype(np.float32), rtol=1e-3)
    assert np.isinf(frame.depth_m[0, 0])  # the farthest


def test_numbers_that_are_no_disparity_are_unknown(tmp_path: Path) -> None:
    values = UNITS.astype(np.float32)
    values[3, :4] = np.nan, np.inf, -np.inf, -0.1
    frame = frame_of(laid(tmp_path, {"a.jpg": photograph(), "a.npy": npy(values)}))
    assert np.isnan(frame.depth_m[3, :4]).all()
    assert np.isnan(frame.depth_m).sum() == 4


@pytest.mark.parametrize(
    ("of_map", "stored"),
    [((12, 20), (12, 20)), ((48, 80), SIZE), ((13, 22), None), ((40, 24), None), ((48, 40), None)],
)
def test_of_two_sizes_of_an_aspect_the_smaller_is_taken(
    of_map: tuple[int, int], stored: tuple[int, int] | None, tmp_path: Path
) -> None:
    units = cv2.resize(UNITS, of_map[::-1], interpolation=cv2.INTER_NEAREST)
    root = laid(tmp_path, {"a.jpg": photograph(film_mm=36), "a.disparity.png": encode_png16(units)})
    if stored is None:
        with pytest.raises(FrameError, match=f"the depth map is {of_map[1]}x{of_map[0]} pixels, the image is 40x24"):
            frame_of(root)
        return
    frame = frame_of(root)
    assert frame.depth_m.shape == frame.rgb.pixels.shape[:2] == stored
    assert {*np.rint(1 / frame.depth_m).ravel().tolist()} <= {*UNITS.ravel().tolist()}  # nearest, never between
    focal_px = 36 / math.hypot(36, 24) * math.hypot(*stored)
    centre = (stored[1] - 1) / 2, (stored[0] - 1) / 2
    assert frame.intrinsics.tolist() == pytest.approx([focal_px, focal_px, *centre])


MAPS = {
    "8 bits": ("a.disparity.png", cv2.imencode(".png", PIXELS[..., 0])[1].tobytes(), "one channel of 8 bits, expected"),
    "colours": ("a.disparity.png", encode_png(PIXELS), "3 channels of 8 bits, expected one channel of 16 bits"),
    "whole numbers": ("a.npy", npy(UNITS), "holds uint16 .*, expected floats, such as float32"),
    "constant": ("a.disparity.png", encode_png16(np.full(SIZE, 7, np.uint16)), "disparity has 7 everywhere"),
    "nothing known": ("a.npy", npy(np.full(SIZE, np.nan, np.float32)), "disparity has no number that is finite"),
    "a coloured EXR": (
        "a.exr",
        exr({name: UNITS.astype(np.float32) * number for number, name in enumerate("RGB")}),
        "has colours, R unlike G or B, expected one channel of disparity",
    ),
    "two channels": ("a.exr", exr(dict.fromkeys("YZ", UNITS.astype(np.float32))), "expected one channel of disparity"),
    "cut": ("a.disparity.png", MAP[:-30], "the PNG is cut short"),
}


@pytest.mark.parametrize("case", MAPS)
def test_maps_that_are_none_are_rejected_with_a_sentence(case: str, tmp_path: Path) -> None:
    name, data, sentence = MAPS[case]
    laid(tmp_path / "raw", {"a.jpg": photograph(), name: data})
    with pytest.raises(DataError, match=f"none of 1 frames can be used; the first: .*{name} .*{sentence}"):
        vdaprep.convert(vdaprep.plan("images", raw=tmp_path / "raw"), out=tmp_path / "out", workers=1)


def test_tars_of_a_web_dataset_and_folders_become_shards(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    laid(raw, {"val/c d.jpg": photograph(film_mm=36), "val/c d.disparity.png": MAP, "c-d.jpg": photograph()})
    laid(raw, {"c-d.npy": npy(-1 / (1 + UNITS.astype(np.float32)) + 2)})
    for number, pixels in enumerate((PIXELS, PIXELS[::-1].copy())):  # equal names in two archives
        members = {"00.jpg": photograph(pixels=pixels), "00.disparity.png": MAP, "00.txt": b"a caption"}
        packed(raw / f"{number}.tar", members)
    plan = vdaprep.plan("images", raw=raw)
    vdaprep.convert(plan, out=tmp_path / "out", workers=1)
    assert vdaprep.verify(tmp_path / "out", deep=True).whole
    clips = {clip.meta.trajectory: clip for clip in vdaprep.open_shards(tmp_path / "out").clips()}
    assert sorted(clips) == ["0/00", "1/00", "c-d", "val/c d"]
    held_out = clips["val/c d"].meta
    assert held_out.split == "val"
    assert held_out.teacher_disparity == pytest.approx((0.0, 26900.0))
    assert held_out.intrinsics is not None
    assert clips["c-d"].meta.intrinsics is None
    assert len({clip.key for clip in clips.values()}) == 4
    for name in ("0/00", "1/00"):
        frames = clips[name].read()
        assert np.allclose(1 / frames.depth_m[0], UNITS / 26900, atol=1e-5)
    with pytest.raises(UsageError, match="--profile v1: has no relative disparity"):
        vdaprep.plan("images", raw=raw, profile="v1")


def test_photographs_without_maps_wait_for_labels(tmp_path: Path) -> None:
    raw = laid(tmp_path / "raw", {f"{number:02d}.jpg": photograph() for number in range(5)})
    for profile in ("standard", "tiny"):
        out = tmp_path / profile
        vdaprep.convert(vdaprep.plan("images", raw=raw, profile=profile, val=("03",)), out=out, workers=1)
        assert vdaprep.verify(out, deep=True).whole
        shards = vdaprep.open_shards(out)
        assert [clip.meta.trajectory for clip in shards.clips(split="val")] == ["03"]
        [meta, *_] = [clip.meta for clip in shards.clips(split="train")]
        assert (meta.depth, meta.intrinsics, meta.camera_to_world, meta.diff) == (None,) * 4
        assert np.isnan(shards.clips(split="train")[0].read().depth_m).all()
