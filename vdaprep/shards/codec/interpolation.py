"""Depth codes by hierarchical interpolation with a bounded error, after SZ3.

Source: Zhao et al. 2021, arXiv 2105.12730, of which this is the idea, not the format.

Pixels are coded from coarse to fine: every 32nd pixel of every 32nd row, then at strides 16, 8, 4, 2 and 1 the columns
that are missing in known rows, then the rows that are missing. A pixel is predicted from four that are known already,
at distances 3, 1, 1 and 3 strides in its row or column, by the cubic (-1, 9, 9, -1) / 16, no farther beyond the inner
two than a quarter of their distance. What is unknown, sky or outside takes no part: without an outer pixel the inner
two's mean is the prediction, with one inner pixel that one. Pixels that are masked themselves take what is predicted.

With `steps` = 2 E + 1, what a pixel differs from its prediction is rounded to whole `steps` at stride 1, to which E
codes are lost at most, and more finely before that. Within a stride all depends on coarser pixels alone, so that a
level is a few operations on whole arrays, of numpy or of torch; all numbers are integers, and both give the same.

Bytes, packed by zstd: flags (1: some unknown, 2: some sky) and a bit plane for each; then, in the order of coding, the
zigzags of all rounded differences, four to a byte: a pixel, the one below, and the two to the right of these, in two
bits each. Of those that are 3 or more the rest follows in a byte each, and of those whose rest is 255 or more the rest
of that in two bytes, the low one first.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Bool, Int32, UInt8, UInt16

from vdaprep.errors import ShardError
from vdaprep.shards.codec.zstd import Data, compress, decompress
from vdaprep.shards.depth_codes import SKY_CODE, UNKNOWN_CODE

MAX_CODE = SKY_CODE - 1
_COARSEST = 32
_STRIDES = (16, 8, 4, 2, 1)
_UNKNOWN, _SKY, _FIRST = 0, 1, 2  # values of planes: two for masked pixels, then zigzags
_IN_BLOCK, _IN_BYTE = 3, 255  # what does not fit two bits, and its rest not a byte
_LEVEL = 15  # of zstd: 12 % smaller than 9 on real frames, for some 5 ms a frame
_SOME_UNKNOWN, _SOME_SKY = 1, 2

# A pass: its pixels, and those they are predicted from, as slices of rows and columns; the axis; if the stride is 1.
_Pass = tuple[tuple[Any, slice, slice], tuple[Any, slice, slice], int, bool]


def pack_interpolated(codes: UInt16[np.ndarray, "h w"], *, steps: int) -> tuple[bytes, UInt16[np.ndarray, "h w"]]:
    """Encode codes; all but unknown and sky decode to within (steps - 1) / 2 of themselves.

    Returns the bytes, and the codes that they decode to. Raises ValueError if one of these were farther off.
    """
    values = _values_of(codes, steps=steps)
    decoded = codes_of_values(values, steps=steps)
    off = np.abs(decoded - codes.astype(np.int32))
    if off.max(initial=0) > steps // 2:
        raise ValueError(f"a depth code would decode {off.max()} codes off, expected at most {steps // 2}")
    unknown, sky = codes == UNKNOWN_CODE, codes == SKY_CODE
    flags = _SOME_UNKNOWN * unknown.any() + _SOME_SKY * sky.any()
    masks = [np.packbits(mask) for mask in (unknown, sky) if mask.any()]
    zigzags = [np.maximum(part, _FIRST) - _FIRST for part in _in_order(values)]
    blocks = [_blocks_of(part) for part in zigzags]
    flat = np.concatenate([part.ravel() for part in zigzags])
    larger = flat[flat >= _IN_BLOCK] - _IN_BLOCK
    largest = larger[larger >= _IN_BYTE] - _IN_BYTE
    parts = [np.array([flags], np.uint8), *masks, *blocks, np.minimum(larger, _IN_BYTE).astype(np.uint8)]
    data = compress(b"".join(part.tobytes() for part in [*parts, largest.astype("<u2")]), level=_LEVEL)
    return data, decoded.astype(np.uint16)


def unpack_interpolated(
    data: Data, *, height: int, width: int, where: str = "depth"
) -> UInt8[np.ndarray, "2 {height} {width}"]:
    """Undo only the compression: low and high bytes of 0 unknown, 1 sky, 2 + zigzag others.

    Raises ShardError naming `where` if the bytes are damaged.
    """
    pixels = height * width
    values = np.empty((height, width), np.uint16)
    of_mask, of_blocks = (pixels + 7) // 8, sum(map(_blocks_in, _in_order(values)))
    limits = 1 + of_blocks, 1 + 2 * of_mask + of_blocks + 3 * pixels
    read = _Bytes(decompress(data, size=limits, where=where), where)
    flags = int(read.take(1)[0])
    masked = [value for flag, value in ((_SOME_UNKNOWN, _UNKNOWN), (_SOME_SKY, _SKY)) if flags & flag]
    masks = [np.unpackbits(read.take(of_mask), count=pixels).view(bool).reshape(height, width) for _ in masked]
    parts = [_pixels_of(read.take(_blocks_in(part)), *part.shape).ravel() for part in _in_order(values)]
    zigzags = np.concatenate(parts).astype(np.uint16)
    larger = np.flatnonzero(zigzags == _IN_BLOCK)
    rest = read.take(len(larger)).astype(np.uint16)
    largest = np.flatnonzero(rest == _IN_BYTE)
    rest[largest] += read.take(2 * len(largest)).view("<u2")
    read.finish()
    zigzags[larger] += rest
    at = 0
    for part in _in_order(values):
        part[...] = zigzags[at : at + part.size].reshape(part.shape)
        at += part.size
    values += np.uint16(_FIRST)
    for value, mask in zip(masked, masks, strict=True):
        values[mask] = value
    planes = np.empty((2, height, width), np.uint8)
    np.copyto(planes[0], values, casting="unsafe")
    np.right_shift(values, 8, out=planes[1], casting="unsafe")
    return planes


def _blocks_in(part: np.ndarray) -> int:
    """Return how many blocks of 2 x 2 pixels cover a part of an image."""
    height, width = part.shape
    return (height + 1) // 2 * ((width + 1) // 2)


class _Bytes:
    """Unpacked bytes, taken part by part; raises ShardError if there are too few or many."""

    def __init__(self, data: bytes, where: str) -> None:
        self._left = np.frombuffer(data, np.uint8)
        self._where = where

    def take(self, count: int) -> UInt8[np.ndarray, " {count}"]:
        """Return the next bytes."""
        found, self._left = self._left[:count].copy(), self._left[count:]
        if len(found) < count:
            raise ShardError(f"{self._where}: ends inside the depth of a frame; the shard is damaged.")
        return found

    def finish(self) -> None:
        """Expect that nothing is left."""
        if len(self._left):
            raise ShardError(f"{self._where}: has {len(self._left)} bytes behind the depth; the shard is damaged.")


def _blocks_of(zigzags: Int32[np.ndarray, "h w"]) -> UInt8[np.ndarray, "bh bw"]:
    """Put each 2 x 2 pixels into a byte."""
    height, width = zigzags.shape
    bits = np.pad(np.minimum(zigzags, _IN_BLOCK).astype(np.uint8), ((0, height % 2), (0, width % 2)))
    return bits[::2, ::2] | bits[1::2, ::2] << 2 | bits[::2, 1::2] << 4 | bits[1::2, 1::2] << 6


def _pixels_of(blocks: UInt8[np.ndarray, " n"], height: int, width: int) -> UInt8[np.ndarray, "{height} {width}"]:
    """Undo `_blocks_of`."""
    blocks = blocks.reshape((height + 1) // 2, (width + 1) // 2)
    pixels = np.empty((2 * blocks.shape[0], 2 * blocks.shape[1]), np.uint8)
    np.bitwise_and(blocks, 3, out=pixels[::2, ::2])
    np.bitwise_and(blocks >> 2, 3, out=pixels[1::2, ::2])
    np.bitwise_and(blocks >> 4, 3, out=pixels[::2, 1::2])
    np.right_shift(blocks, 6, out=pixels[1::2, 1::2])
    return pixels[:height, :width]


def codes_of_values(values: Any, *, steps: int, xp: Any = np) -> Any:
    """Undo the prediction.

    Args:
        values: Integers of 32 bits, `[..., h, w]`, of the numbers that `unpack_interpolated` gives in two bytes.
        steps: Those of the clip's DepthSpec.
        xp: `numpy` or `torch`, whichever the values are arrays of.

    Returns:
        Depth codes, in integers of 32 bits, of the same shape.
    """
    known = values >= _FIRST
    zigzag = xp.where(known, values - _FIRST, 0)
    differences = (zigzag >> 1) ^ -(zigzag & 1)
    codes = xp.zeros_like(values)
    grid = differences[..., ::_COARSEST, ::_COARSEST]
    levels = grid.reshape(*grid.shape[:-2], -1).cumsum(-1).reshape(grid.shape)
    codes[..., ::_COARSEST, ::_COARSEST] = _limited(levels * _coarse(steps), xp)
    for target, source, axis, last in _passes(values.shape[-2], values.shape[-1]):
        predicted = _predict(codes[source], known[source], codes[target].shape[axis], axis, xp)
        codes[target] = _limited(predicted + differences[target] * (steps if last else _coarse(steps)), xp)
    codes = xp.where(values == _UNKNOWN, UNKNOWN_CODE, codes)
    return xp.where(values == _SKY, SKY_CODE, codes)


def _values_of(codes: UInt16[np.ndarray, "h w"], *, steps: int) -> Int32[np.ndarray, "h w"]:
    """Return the numbers whose low and high bytes `unpack_interpolated` gives."""
    known = (codes != UNKNOWN_CODE) & (codes != SKY_CODE)
    truth = codes.astype(np.int32)
    decoded = np.zeros_like(truth)
    differences = np.zeros_like(truth)
    every = (slice(None, None, _COARSEST),) * 2
    levels = _filled((truth[every] + _coarse(steps) // 2) // _coarse(steps), known[every])
    differences[every] = np.diff(levels.ravel(), prepend=0).reshape(levels.shape)
    decoded[every] = _limited(levels * _coarse(steps), np)
    for target, source, axis, last in _passes(*codes.shape):
        step = steps if last else _coarse(steps)
        predicted = _predict(decoded[source], known[source], decoded[target].shape[axis], axis, np)
        found = np.where(known[target], (truth[target] - predicted + step // 2) // step, 0)
        differences[target] = found
        decoded[target] = _limited(predicted + found * step, np)
    zigzag = (differences << 1) ^ (differences >> 31)
    return np.where(known, zigzag + _FIRST, np.where(codes == SKY_CODE, _SKY, _UNKNOWN)).astype(np.int32)


def _coarse(steps: int) -> int:
    """Return the steps before stride 1: half as many, odd, at least 3 to fit 16 bits."""
    return 2 * max(1, steps // 4) + 1


def _filled(levels: Int32[np.ndarray, "h w"], known: Bool[np.ndarray, "h w"]) -> Int32[np.ndarray, "h w"]:
    """Put the last known level before it in reading order, or 0, for each masked one."""
    last = np.maximum.accumulate(np.where(known.ravel(), np.arange(known.size), -1))
    return np.where(last < 0, 0, levels.ravel()[last]).reshape(levels.shape)


def _limited(codes: Any, xp: Any) -> Any:
    return xp.clip(codes, 1, MAX_CODE)


def _passes(height: int, width: int) -> Iterator[_Pass]:
    """Yield the passes after the coarsest grid."""
    for stride in _STRIDES:
        twice = 2 * stride
        known_rows, known_columns = slice(None, None, twice), slice(None, None, twice)
        columns = slice(stride, None, twice)
        if stride < width:
            yield (..., known_rows, columns), (..., known_rows, known_columns), -1, stride == 1
        if stride < height:
            every = slice(None, None, stride)
            yield (..., columns, every), (..., known_rows, every), -2, stride == 1


def _in_order(values: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the pixels of the coarsest grid, then those of each pass."""
    yield values[::_COARSEST, ::_COARSEST]
    for target, _, _, _ in _passes(*values.shape):
        yield values[target]


def _predict(codes: Any, known: Any, count: int, axis: int, xp: Any) -> Any:
    """Predict `count` pixels between, and perhaps one behind, those of an axis."""
    outer, left, right, far = _neighbours(codes, count, axis, xp)
    has_outer, has_left, has_right, has_far = _neighbours(known, count, axis, xp, outside=False)
    spread = abs(left - right) >> 2
    cubic = (9 * (left + right) - outer - far + 8) >> 4
    cubic = xp.minimum(cubic, xp.maximum(left, right) + spread)
    cubic = xp.maximum(cubic, xp.minimum(left, right) - spread)
    mean = (xp.where(has_left | ~has_right, left, right) + xp.where(has_right | ~has_left, right, left)) >> 1
    return xp.where(has_outer & has_left & has_right & has_far, cubic, mean)


def _neighbours(values: Any, count: int, axis: int, xp: Any, *, outside: bool | None = None) -> list[Any]:
    """Return what lies 3 and 1 before, 1 and 3 behind; `outside` or the last at an edge."""

    def cut(start: int, stop: int | None) -> Any:
        return values[..., start:stop] if axis == -1 else values[..., start:stop, :]

    first, last = cut(0, 1), cut(-1, None)
    if outside is not None:
        first = last = xp.zeros_like(first)
    wide = xp.concatenate([first, values, last, last, last], axis)
    return [wide[..., i : i + count] if axis == -1 else wide[..., i : i + count, :] for i in range(4)]
