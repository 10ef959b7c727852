"""Rendered frames as MVS-Synth's GTAV_540 has them."""

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float64

from vdaprep.raw.exr import encode_exr
from vdaprep.raw.frames import Frame
from vdaprep.raw.png import encode_png
from vdaprep.sources.training.mvs_synth import INTRINSICS, extrinsic_from_pose, unit_m

CAMERAS_M = (0.0,)
MAX_TRAJECTORIES = 10_000


def trajectory_names(count: int, *, held_out: Sequence[str]) -> list[str]:
    """Name `count` trajectories; the last quarter, at least one of two, is from `held_out`."""
    held_names = [glob.removeprefix("*") for glob in held_out]
    held = min(len(held_names), max(count // 4, 1 if count > 1 else 0))
    training = [name for name in (f"{i:04d}" for i in range(10_000)) if name not in held_names]
    return training[: count - held] + held_names[:held]


def intrinsics(*, width: int, height: int) -> Float64[np.ndarray, "4"]:
    """Return a camera about 80 degrees wide, whatever the aspect."""
    return np.array([0.6 * width, 0.6 * width, width / 2, height / 2])


def scene_name(trajectory: str) -> str:
    """Every trajectory is a world of its own."""
    return trajectory


def in_weather(trajectory: str, frame: Frame) -> Frame:
    """There is one weather."""
    return frame


def encode_files(trajectory: str, shots: Iterable[tuple[Frame, ...]]) -> Iterator[tuple[str, bytes]]:
    """Write frames as GTAV_540: depth in half floats, infinite sky, left-handed world."""
    for index, (frame,) in enumerate(shots):
        yield f"GTAV_540/{trajectory}/images/{index:04d}.png", encode_png(frame.rgb.pixels)
        with np.errstate(over="ignore"):  # beyond the range of half floats is sky
            raw = (frame.depth_m.astype(np.float64) / unit_m()).astype(np.float16)
        yield f"GTAV_540/{trajectory}/depths/{index:04d}.exr", encode_exr(raw)
        assert frame.camera_to_world is not None  # rendered frames have poses
        camera: dict[str, Any] = dict(zip(INTRINSICS, frame.intrinsics.tolist(), strict=True))
        camera["extrinsic"] = extrinsic_from_pose(frame.camera_to_world).tolist()
        yield f"GTAV_540/{trajectory}/poses/{index:04d}.json", json.dumps(camera).encode("ascii")


def archives_of(path: str) -> list[str]:
    """Name the one archive of the download."""
    return ["GTAV_540.tar.gz"]
