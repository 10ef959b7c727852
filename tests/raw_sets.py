"""Raw data of the five sets that benchmarks measure on, rendered and written in each set's own layout.

Readers have tests of their own on odd files; here is what a download looks like when all is well. Few frames are
rendered: the camera goes back and forth between them.
"""

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from tests.conftest import pinhole
from tests.sens import Shot, sens
from tests.unit.prep.test_sintel import cam, dpt
from vdaprep.raw.frames import Frame
from vdaprep.raw.png import encode_png, encode_png16
from vdaprep.synthetic.sample import render_as_frame, unpack
from vdaprep.synthetic.scene import make_scene

RENDERED = 12
NATIVE = {"sintel": (1024, 436), "kitti": (1242, 375), "bonn": (640, 480), "scannet": (640, 480), "nyuv2": (640, 480)}
"""Width and height of each set."""

Files = Iterator[tuple[str, bytes]]


@dataclass(frozen=True)
class Film:
    """A rendered scene, of any number of frames."""

    seed: int
    """Of the scene: an even multiple of two has sky."""
    size: tuple[int, int]
    """Width and height."""

    def frame(self, number: int) -> Frame:
        """Return a frame; the camera turns back after each RENDERED ones."""
        step = number % (2 * RENDERED - 2)
        return _rendered(self.seed, self.size, min(step, 2 * RENDERED - 2 - step))


@functools.lru_cache(maxsize=4 * RENDERED)
def _rendered(seed: int, size: tuple[int, int], moment: int) -> Frame:
    camera = np.array(pinhole(width=size[0], height=size[1]))
    return render_as_frame(make_scene(seed), moment, size=size, intrinsics=camera)


def write_set(
    dataset: str, root: Path, scenes: Mapping[str, int], *, size: tuple[int, int] | None = None, seed: int = 0
) -> Path:
    """Write scenes of a set, each with a number of frames, into ROOT/DATASET; native size unless one is given."""
    film = Film(seed, size or NATIVE[dataset])
    for scene, frames in scenes.items():
        unpack(root / dataset, WRITERS[dataset](scene, film, frames))
    return root / dataset


def _units(frame: Frame, unit_m: float) -> np.ndarray:
    """Return depth as integers of a unit; 0 for sky and what they do not hold."""
    units = np.rint(np.where(np.isfinite(frame.depth_m), frame.depth_m, 0) / unit_m)
    return np.where(units < 65535, units, 0).astype(np.uint16)


def _jpeg(pixels: np.ndarray) -> bytes:
    return cv2.imencode(".jpg", pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()


def _pose(frame: Frame) -> np.ndarray:
    assert frame.camera_to_world is not None
    return frame.camera_to_world


def sintel(scene: str, film: Film, frames: int) -> Files:
    for number in range(1, frames + 1):
        frame = film.frame(number)
        for render_pass in ("clean", "final"):
            yield f"training/{render_pass}/{scene}/frame_{number:04d}.png", encode_png(frame.rgb.pixels)
        yield f"training/depth/{scene}/frame_{number:04d}.dpt", dpt(frame.depth_m)
        yield f"training/camdata_left/{scene}/frame_{number:04d}.cam", cam(frame)


def kitti(scene: str, film: Film, frames: int) -> Files:
    """Laser points on a sixth of the pixels, none in the upper third, none of the first and last five frames."""
    date, (width, height) = scene[:10], film.size
    rng = np.random.default_rng(film.seed)
    for number in range(frames + 10):
        frame = film.frame(number)
        yield f"{date}/{scene}/image_02/data/{number:010d}.png", encode_png(frame.rgb.pixels)
        if 5 <= number < frames + 5:
            points = rng.random((height, width)) < 1 / 6
            points[: height // 3] = False
            depth = encode_png16(np.where(points & (frame.depth_m < 120), _units(frame, 1 / 256), 0).astype(np.uint16))
            yield f"val/{scene}/proj_depth/groundtruth/image_02/{number:010d}.png", depth
    fx, fy, cx, cy = film.frame(0).intrinsics
    projection = f"P_rect_02: {fx} 0 {cx} 0 0 {fy} {cy} 0 0 0 1 0"
    lines = ("R_rect_00: 1 0 0 0 1 0 0 0 1", f"S_rect_02: {width} {height}", projection)
    yield f"{date}/calib_cam_to_cam.txt", "\n".join(lines).encode()


def bonn(scene: str, film: Film, frames: int) -> Files:
    """Images and depth at the times of one clock; no poses."""
    for number in range(frames):
        time, frame = f"{1_548_266_469 + number / 30:.5f}", film.frame(number)
        yield f"rgbd_bonn_{scene}/rgb/{time}.png", encode_png(frame.rgb.pixels)
        yield f"rgbd_bonn_{scene}/depth/{time}.png", encode_png16(_units(frame, 0.0002))
    yield f"rgbd_bonn_{scene}/groundtruth.txt", _standing(frames)


def _standing(frames: int) -> bytes:
    """A tracker's table of markers that stand still."""
    times = 1_548_266_469 + np.arange(-5, 100 * frames / 30 + 5) / 100
    return "".join(f"{time:.4f} 0 0 0 0 0 0 1\n" for time in times).encode()


def scannet(scene: str, film: Film, frames: int) -> Files:
    """A recording; colour has twice the size of depth."""
    width, height = film.size
    shots = [
        Shot(
            _jpeg(cv2.resize(film.frame(number).rgb.pixels, (2 * width, 2 * height))),
            _units(film.frame(number), 0.001),
            _pose(film.frame(number)),
        )
        for number in range(frames)
    ]
    fx, fy, cx, cy = film.frame(0).intrinsics
    camera = np.array([[fx, 0, cx, 0], [0, fy, cy, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    yield f"scans_test/{scene}/{scene}.sens", sens(shots, camera)


def nyuv2(scene: str, film: Film, frames: int) -> Files:
    """Projected depth, in sixths of a millimetre."""
    for number in range(frames):
        frame = film.frame(number)
        near = np.where(frame.depth_m <= 10, _units(frame, 1 / 6000), 0).astype(np.uint16)
        yield f"{scene}/rgb/{number:04d}.jpg", _jpeg(frame.rgb.pixels)
        yield f"{scene}/depth/{number:04d}.png", encode_png16(near)


WRITERS: Mapping[str, Callable[[str, Film, int], Files]] = {
    "sintel": sintel, "kitti": kitti, "bonn": bonn, "scannet": scannet, "nyuv2": nyuv2,
}  # fmt: skip
