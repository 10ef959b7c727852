"""Rendered frames as TartanAir v1 has them."""

import io
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from jaxtyping import Float64

from vdaprep.errors import UsageError
from vdaprep.raw.frames import Frame
from vdaprep.raw.png import encode_png
from vdaprep.shards.cameras import scale_intrinsics
from vdaprep.sources.training.tartanair import line_from_pose, own_camera

CAMERAS_M = (0.0,)
MAX_TRAJECTORIES = 1_000


def trajectory_names(count: int, *, held_out: Sequence[str]) -> list[str]:
    """Name `count` trajectories of one environment, the last quarter from `held_out`."""
    held = min(len(held_out), max(count // 4, 1 if count > 1 else 0))
    numbers = (f"abandonedfactory/Easy/P{i:03d}" for i in range(1000))
    training = [name for name in numbers if name not in held_out]
    return training[: count - held] + list(held_out[:held])


def intrinsics(*, width: int, height: int) -> Float64[np.ndarray, "4"]:
    """Return TartanAir's camera for another size; raises UsageError unless it is 4:3."""
    known, size = own_camera("v1")
    if width * size[1] != height * size[0]:
        raise UsageError(f"--size {width}x{height}: TartanAir's frames are 4:3, for example 320x240.")
    return scale_intrinsics(np.array(known), x=width / size[0], y=height / size[1])


def scene_name(trajectory: str) -> str:
    """Every trajectory is a world of its own."""
    return trajectory


def in_weather(trajectory: str, frame: Frame) -> Frame:
    """There is one weather."""
    return frame


def encode_files(trajectory: str, shots: Iterable[tuple[Frame, ...]]) -> Iterator[tuple[str, bytes]]:
    """Write frames as TartanAir v1 has them; sky becomes 10,000 m."""
    lines: list[str] = []
    for index, (frame,) in enumerate(shots):
        yield f"{trajectory}/image_left/{index:06d}_left.png", encode_png(frame.rgb.pixels)
        depth = io.BytesIO()
        np.save(depth, np.where(np.isinf(frame.depth_m), np.float32(10_000), frame.depth_m), allow_pickle=False)
        yield f"{trajectory}/depth_left/{index:06d}_left_depth.npy", depth.getvalue()
        assert frame.camera_to_world is not None  # rendered frames have poses
        lines.append(" ".join(f"{number:.17g}" for number in line_from_pose(frame.camera_to_world)))
    yield f"{trajectory}/pose_left.txt", ("\n".join(lines) + "\n").encode("ascii")


def archives_of(path: str) -> list[str]:
    """Name the zips that hold a file: `image_left.zip`, `depth_left.zip`, both for poses."""
    env, level, *_ = path.split("/")
    kinds = [kind for kind in ("image", "depth") if f"/{kind}_left/" in path] or ["image", "depth"]
    return [f"{env}/{level}/{kind}_left.zip" for kind in kinds]
