"""Rendered frames as `vdaprep export` writes them."""

import io
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from jaxtyping import Float64

from vdaprep.raw.frames import Frame
from vdaprep.raw.png import encode_png

CAMERAS_M = (0.0,)
MAX_TRAJECTORIES = 1_000


def trajectory_names(count: int, *, held_out: Sequence[str]) -> list[str]:
    """Name `count` trajectories; the last quarter (one of two at least) is below `val`."""
    held = max(count // 4, 1 if count > 1 else 0)
    return [f"{'val' if i >= count - held else 'train'}/scene-{i:03d}" for i in range(count)]


def intrinsics(*, width: int, height: int) -> Float64[np.ndarray, "4"]:
    """Return a centred camera that is about 80 degrees wide."""
    return np.array([0.6 * width, 0.6 * width, (width - 1) / 2, (height - 1) / 2])


def scene_name(trajectory: str) -> str:
    """Every trajectory is a world of its own."""
    return trajectory


def in_weather(trajectory: str, frame: Frame) -> Frame:
    """There is one weather."""
    return frame


def encode_files(trajectory: str, shots: Iterable[tuple[Frame, ...]]) -> Iterator[tuple[str, bytes]]:
    """Write frames as `vdaprep export` does."""
    poses: list[str] = []
    intrinsics: list[str] = []
    for index, (frame,) in enumerate(shots):
        yield f"{trajectory}/rgb/{index:06d}.png", encode_png(frame.rgb.pixels)
        depth = io.BytesIO()
        np.save(depth, frame.depth_m, allow_pickle=False)
        yield f"{trajectory}/depth/{index:06d}.npy", depth.getvalue()
        assert frame.camera_to_world is not None  # rendered frames have poses
        poses.append(_line(frame.camera_to_world.ravel()))
        intrinsics.append(_line(frame.intrinsics))
    yield f"{trajectory}/camera_to_world.txt", "".join(poses).encode("ascii")
    yield f"{trajectory}/intrinsics.txt", "".join(intrinsics).encode("ascii")


def _line(numbers: Float64[np.ndarray, " n"]) -> str:
    return " ".join(f"{number:.17g}" for number in numbers.tolist()) + "\n"


def archives_of(path: str) -> list[str]:
    """Name the zip that holds a file: one for all."""
    return ["custom.zip"]
