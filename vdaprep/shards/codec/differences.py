"""Differences of neighbouring frames to bytes and back.

Differences (int8, channels first): clip(round(d / step), -127, 127) of the difference d of two area-averaged frames in
grey levels; bytes: zstd of the array.
"""

import cv2
import numpy as np
from jaxtyping import Float32, Int8, UInt8

from vdaprep.shards.codec.zstd import Data, compress, decompress
from vdaprep.shards.metadata import DiffSpec

_MAX_SUMMED_SCALE = 16  # the sum of as many pixels squared fits 16 bits


def shrink(rgb: UInt8[np.ndarray, "h w 3"], spec: DiffSpec) -> Float32[np.ndarray, "dh dw 3"]:
    """Average a frame over `spec.scale` x `spec.scale` pixels, in grey levels, unrounded."""
    height, width, _ = rgb.shape
    rows, columns = spec.size_of(height, width)
    if spec.scale <= _MAX_SUMMED_SCALE and (height, width) == (rows * spec.scale, columns * spec.scale):
        return _block_means(np.ascontiguousarray(rgb), spec.scale)
    return cv2.resize(rgb.astype(np.float32), (columns, rows), interpolation=cv2.INTER_AREA)


def _block_means(rgb: UInt8[np.ndarray, "h w 3"], side: int) -> Float32[np.ndarray, "dh dw 3"]:
    """Average blocks of `side` x `side` pixels by sums of integers, whole lines at a time."""
    height, width, _ = rgb.shape
    lines = rgb.reshape(height // side, side, 3 * width)
    down = lines[:, 0].astype(np.uint16)
    for line in range(1, side):
        down += lines[:, line]
    values = down.ravel()
    count = values.size - 3 * (side - 1)
    along = values[:count].copy()  # of the values that begin a block all `side` are summed, of the others too
    for pixel in range(1, side):
        along += values[3 * pixel : 3 * pixel + count]
    means = np.empty((height // side, width // side, 3), np.float32)
    for channel in range(3):
        np.multiply(along[channel :: 3 * side], np.float32(1 / side**2), out=means.reshape(-1, 3)[:, channel])
    return means


def encode_diff(
    current: Float32[np.ndarray, "dh dw 3"], previous: Float32[np.ndarray, "dh dw 3"] | None, spec: DiffSpec
) -> bytes:
    """Encode the difference of two shrunk frames, current minus previous; zeros if none."""
    if previous is None:
        steps = np.zeros(current.shape, np.float32)
    else:
        steps = current - previous
        steps *= np.float32(1 / spec.step)
        np.rint(steps, out=steps)
    np.clip(steps, -127, 127, out=steps)
    return compress(np.ascontiguousarray(steps.astype(np.int8).transpose(2, 0, 1)).data)


def decode_diff(
    data: Data, spec: DiffSpec, *, height: int, width: int, where: str = "difference"
) -> Int8[np.ndarray, "3 dh dw"]:
    """Decode a difference of a `height` x `width` frame, in steps of `spec.step`.

    Raises ShardError naming `where` if the bytes are damaged.
    """
    rows, columns = spec.size_of(height, width)
    raw = decompress(data, size=3 * rows * columns, where=where)
    return np.frombuffer(raw, np.int8).reshape(3, rows, columns)
