"""Encode a `.sens`, a recording of ScanNet, as its authors' SensorData.saveToFile does."""

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Shot:
    """What a frame of a recording holds; colour has twice the size of depth."""

    jpeg: bytes
    depth_mm: np.ndarray
    pose: np.ndarray


def sens(shots: Sequence[Shot], depth_camera: np.ndarray, **changes: float) -> bytes:
    """Encode frames, and two readings of the inertial unit; `changes` are other values of the header."""
    height, width = shots[0].depth_mm.shape
    value = {"version": 4, "colour": 2, "depth": 1, "width": width, "units": 1000.0, "frames": len(shots), **changes}
    name = b"StructureSensor"
    colour_camera = depth_camera.copy()
    colour_camera[:2] *= 2
    parts = [
        struct.pack("<IQ", value["version"], len(name)), name,
        *map(_floats, (colour_camera, np.eye(4), depth_camera, np.eye(4))),
        struct.pack("<2i", value["colour"], value["depth"]),
        struct.pack("<4I", 2 * width, 2 * height, value["width"], height),
        struct.pack("<fQ", value["units"], value["frames"]),
    ]  # fmt: skip
    for number, shot in enumerate(shots):
        raw = shot.depth_mm.astype("<u2").tobytes()
        depth = zlib.compress(raw) if value["depth"] == 1 else raw
        times_us = 33_000 * number, 33_000 * number + 5
        parts += [_floats(shot.pose), struct.pack("<4Q", *times_us, len(shot.jpeg), len(depth)), shot.jpeg, depth]
    return b"".join([*parts, struct.pack("<Q", 2), bytes(2 * 128)])


def _floats(values: np.ndarray) -> bytes:
    return values.astype("<f4").tobytes()
