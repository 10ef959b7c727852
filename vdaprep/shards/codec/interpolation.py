"""Depth codes by hierarchical interpolation with a bounded error, after SZ3.

Source: Zhao et al. 2021, arXiv 2105.12730, of which this is the idea, not the format.

Pixels are coded from coarse to fine: every 32nd pixel of every 32nd row, as the difference to the known one before it;
then at strides 16, 8, 4, 2 and 1 the columns that are missing in known rows, then the rows that are missing. At the
strides 16 and 8 a pixel is predicted from four that are known already, at distances 3, 1, 1 and 3 strides in its row or
column, by the cubic (-1, 9, 9, -1) / 16, no farther beyond the inner two than a quarter of their distance; at the
finer ones it is the mean of two, since their errors then outweigh what a curve explains. In place of one that is
unknown, sky or outside stands the other one of the inner two, and for an outer one the inner one beside it. Pixels that
are masked themselves take what is predicted, and stand for themselves where both of the inner two are masked.

What a pixel differs from its prediction is rounded to whole steps of 2 e + 1 codes. At stride 1 e is (steps - 1) / 2,
the bound; before that less, since more pixels depend on it: 5/6 of it at stride 2, 4/6 at 4, half at coarser ones.
Within a pass all depends on earlier passes alone, so that a pass is a few operations on whole arrays, of numpy or of
torch; all numbers are integers, and both give the same.

Bytes, packed by zstd: flags (1: some unknown, 2: some sky; others are for later versions) and a bit plane for each,
of pixels XOR the pixel above, a byte being four rows of two; then, in the order of coding, the zigzags of all rounded
differences, four to a byte: a pixel, the one below, and the two to the right of these, in two bits each. Of those that
are 3 or more the rest follows in a byte each, and of those whose rest is 255 or more the rest of that in two bytes, the
low one first.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, Int32, UInt8, UInt16

from vdaprep.errors import ShardError
from vdaprep.shards.codec.zstd import Data, compress, decompress
from vdaprep.shards.depth_codes import SKY_CODE, UNKNOWN_CODE
from vdaprep.shards.metadata import MAX_CODE

_COARSEST = 32
_STRIDES = (16, 8, 4, 2, 1)
_CUBIC = (16, 8)  # strides
_SIXTHS = {1: 6, 2: 5, 4: 4}  # of the bound; 3 for coarser strides. On real frames 40 % smaller than half for all
UNKNOWN, SKY, FIRST = 0, 1, 2  # values of planes: two for masked pixels, then zigzags
IN_BLOCK, _IN_BYTE = 3, 255  # what does not fit two bits, and its rest not a byte
_LEVEL = 15  # of zstd: 8 % smaller than 9 on real frames, for some 5 ms a frame
_SOME_UNKNOWN, _SOME_SKY = 1, 2
# The upper pixels of each block, side by side, and the lower ones, FIRST added.
_PAIRS = [
    np.array([((block >> shift & 3) + FIRST, (block >> shift + 4 & 3) + FIRST) for block in range(256)], np.uint8)
    .view(np.uint16)
    .reshape(1, 256)
    for shift in (0, 2)
]


@dataclass(frozen=True)
class Pass:
    """Pixels that are predicted at once, and those that they are predicted from."""

    stride: int
    """Pixels to the nearest of those."""
    axis: int
    """-1: they lie to the left and right; -2: above and below."""
    source: tuple[slice, slice]
    """Rows and columns of those."""
    target: tuple[slice, slice]
    """Rows and columns of the pixels."""
    count: int
    """How many columns (axis -1) or rows (axis -2) are predicted; of the others there are as many, or one more."""


def pack_interpolated(codes: UInt16[np.ndarray, "h w"], *, steps: int) -> tuple[bytes, UInt16[np.ndarray, "h w"]]:
    """Encode codes; all but unknown and sky decode to within (steps - 1) / 2 of themselves.

    Returns the bytes, and the codes that they decode to. Raises ValueError if one of these were farther off.
    """
    values = _values_of(codes, steps=steps)
    decoded = codes_of_values(values, steps=steps).astype(np.uint16)
    _check_bound(codes, decoded, bound=steps // 2)
    unknown, sky = codes == UNKNOWN_CODE, codes == SKY_CODE
    flags = _SOME_UNKNOWN * unknown.any() + _SOME_SKY * sky.any()
    masks = [_bits_of(mask) for mask in (unknown, sky) if mask.any()]
    zigzags = [np.maximum(part, FIRST) - FIRST for part in in_order(values)]
    blocks = [_blocks_of(part) for part in zigzags]
    flat = np.concatenate([part.ravel() for part in zigzags])
    larger = flat[flat >= IN_BLOCK] - IN_BLOCK
    largest = larger[larger >= _IN_BYTE] - _IN_BYTE
    parts = [np.array([flags], np.uint8), *masks, *blocks, np.minimum(larger, _IN_BYTE).astype(np.uint8)]
    data = compress(b"".join(part.tobytes() for part in [*parts, largest.astype("<u2")]), level=_LEVEL)
    return data, decoded


def decompress_interpolated(data: Data, *, height: int, width: int, where: str = "depth") -> UInt8[np.ndarray, " n"]:
    """Undo only the compression.

    What follows depends on the frame's size and on what its blocks say, both of which fit when this returns: a bit
    plane of unknown pixels and one of sky, zeros if there are none; the blocks; all rests, in two bytes each.

    Raises ShardError naming `where` if the bytes are damaged.
    """
    of_mask, of_blocks = plane_sizes(height, width)
    limits = 1 + of_blocks, 1 + 2 * of_mask + of_blocks + 3 * height * width
    read = _Bytes(decompress(data, size=limits, where=where), where)
    flags = int(read.take(1)[0])
    if flags > _SOME_UNKNOWN | _SOME_SKY:
        raise ShardError(f"{where}: has flags {flags}, expected at most 3; a later vdaprep wrote it, or it is damaged.")
    none = np.zeros(of_mask, np.uint8)
    masks = [read.take(of_mask) if flags & flag else none for flag in (_SOME_UNKNOWN, _SOME_SKY)]
    blocks = read.take(of_blocks)
    rests = read.take(_count_full(blocks)).astype("<u2")
    largest = np.flatnonzero(rests == _IN_BYTE)
    rests[largest] += read.take(2 * len(largest)).view("<u2")
    read.finish()
    return np.concatenate([*masks, blocks, rests.view(np.uint8)])


def planes_of_interpolated(
    unpacked: UInt8[np.ndarray, " n"], *, height: int, width: int
) -> UInt8[np.ndarray, "2 {height} {width}"]:
    """Return low and high bytes of 0 unknown, 1 sky, 2 + zigzag others.

    unpacked: What `decompress_interpolated` gives; anything may follow.
    """
    planes = np.zeros((2, height, width), np.uint8)
    low, high = planes
    of_mask, of_blocks = plane_sizes(height, width)
    masks, left = unpacked[: 2 * of_mask].reshape(2, of_mask), unpacked[2 * of_mask :]
    parts: list[UInt8[np.ndarray, " m"]] = []
    rests = left[of_blocks:].view("<u2")
    for part in in_order(low):
        blocks, left = left[: _blocks_in(part)], left[_blocks_in(part) :]
        parts.append(_pixels_of(blocks, *part.shape).ravel())
    _add_rests(parts, high, rests)
    for target, part in zip(in_order(low), parts, strict=True):
        target[...] = part.reshape(target.shape)
    for value, bits in zip((UNKNOWN, SKY), masks, strict=True):
        if bits.any():
            mask = _mask_of(bits, height, width).view(np.uint8)
            planes &= mask - np.uint8(1)  # all bits of pixels outside the mask
            low |= mask * np.uint8(value)
    return planes


def _add_rests(
    parts: Sequence[UInt8[np.ndarray, "..."]], high: UInt8[np.ndarray, "h w"], rests: UInt16[np.ndarray, " n"]
) -> None:
    """Complete the pixels that do not fit their blocks, with their high bytes if any has one."""
    places = [np.flatnonzero(part == FIRST + IN_BLOCK) for part in parts]
    ends = np.cumsum([len(found) for found in places])
    whole = rests[: ends[-1]] + np.uint16(FIRST + IN_BLOCK)
    low, upper = whole.astype(np.uint8), (whole >> 8).astype(np.uint8)
    for part, found, end in zip(parts, places, ends, strict=True):
        part[found] = low[end - len(found) : end]
    for target, found, end in zip(in_order(high), places, ends, strict=True) if upper.any() else ():
        target[np.unravel_index(found, target.shape)] = upper[end - len(found) : end]


def _check_bound(codes: UInt16[np.ndarray, "h w"], decoded: UInt16[np.ndarray, "h w"], *, bound: int) -> None:
    off = np.maximum(codes, decoded) - np.minimum(codes, decoded)
    masked = (codes == UNKNOWN_CODE) | (codes == SKY_CODE)
    masked |= (decoded == UNKNOWN_CODE) | (decoded == SKY_CODE)
    wrong = (off > bound) | (masked & (off != 0))
    if wrong.any():
        row, column = np.unravel_index(int(np.argmax(wrong)), wrong.shape)
        raise ValueError(
            f"depth code {codes[row, column]} at row {row}, column {column} would decode as {decoded[row, column]}, "
            f"expected at most {bound} codes off"
        )


def _blocks_in(part: np.ndarray) -> int:
    """Return how many blocks of 2 x 2 pixels cover a part of an image."""
    height, width = part.shape
    return (height + 1) // 2 * ((width + 1) // 2)


@functools.lru_cache(maxsize=16)
def plane_sizes(height: int, width: int) -> tuple[int, int]:
    """Return the bytes of a bit plane and of all blocks."""
    of_mask = (height + 3) // 4 * ((width + 1) // 2)
    return of_mask, sum(map(_blocks_in, in_order(np.empty((height, width), np.uint8))))


def _count_full(blocks: UInt8[np.ndarray, " n"]) -> int:
    """Return how many pixels of blocks have both their bits set, which is where a rest follows."""
    full = blocks >> 1
    full &= blocks
    full &= np.uint8(0b01010101)
    eights = len(full) // 8 * 8  # counted at once
    return int(np.bitwise_count(full[:eights].view(np.uint64)).sum() + np.bitwise_count(full[eights:]).sum())


class _Bytes:
    """Unpacked bytes, taken part by part; raises ShardError if there are too few or many."""

    def __init__(self, data: bytes, where: str) -> None:
        self._left = np.frombuffer(data, np.uint8)
        self._where = where

    def take(self, count: int) -> UInt8[np.ndarray, " {count}"]:
        """Return the next bytes."""
        found, self._left = self._left[:count], self._left[count:]
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
    bits = np.pad(np.minimum(zigzags, IN_BLOCK).astype(np.uint8), ((0, height % 2), (0, width % 2)))
    return bits[::2, ::2] | bits[1::2, ::2] << 2 | bits[::2, 1::2] << 4 | bits[1::2, 1::2] << 6


def _pixels_of(blocks: UInt8[np.ndarray, " n"], height: int, width: int) -> UInt8[np.ndarray, "{height} {width}"]:
    """Undo `_blocks_of`, and add FIRST."""
    blocks = blocks.reshape((height + 1) // 2, (width + 1) // 2)
    pixels = np.empty((len(blocks), 2, blocks.shape[1]), np.uint16)  # of two pixels each
    for row, pairs in enumerate(_PAIRS):
        pixels[:, row] = cv2.LUT(blocks, pairs)
    return pixels.view(np.uint8).reshape(2 * len(blocks), 2 * blocks.shape[1])[:height, :width]


def _bits_of(mask: Bool[np.ndarray, "h w"]) -> UInt8[np.ndarray, " n"]:
    """Put each 4 x 2 pixels into a byte, as bits that say where the pixel above is another."""
    height, width = mask.shape
    edges = np.zeros((height + -height % 4, width + width % 2), bool)
    edges[:height, :width] = mask
    edges[1:height, :width] ^= mask[:-1]
    return np.packbits(edges.reshape(len(edges) // 4, 4, -1, 2).swapaxes(1, 2))


def _mask_of(bits: UInt8[np.ndarray, " n"], height: int, width: int) -> Bool[np.ndarray, "{height} {width}"]:
    """Undo `_bits_of`."""
    edges = bits.reshape((height + 3) // 4, (width + 1) // 2)
    blocks: UInt8[np.ndarray, "rows columns"] = (
        edges ^ edges >> 2
    )  # a byte's rows are two bits each, the upper ones first
    blocks ^= blocks >> 4
    below = np.bitwise_xor.accumulate(blocks & 3, axis=0)  # each block's lowest row
    blocks[1:] ^= below[:-1] * np.uint8(0b01010101)
    pairs = np.unpackbits(blocks, axis=1).view(np.uint16).reshape(*blocks.shape, 4)
    rows = np.ascontiguousarray(pairs.swapaxes(1, 2)).view(bool)
    return rows.reshape(4 * len(blocks), 2 * blocks.shape[1])[:height, :width]


def in_order(values: Any) -> Iterator[Any]:
    """Yield the pixels of the coarsest grid, then those of each pass, of an array `[..., h, w]`."""
    yield values[..., ::_COARSEST, ::_COARSEST]
    for one in passes(*values.shape[-2:]):
        yield values[(..., *one.target)]


# --------------------------------------------------------------------------------------------------------- prediction


def codes_of_values(values: Any, *, steps: int, xp: Any = np) -> Any:
    """Undo the prediction.

    Args:
        values: Integers of 32 bits, `[..., h, w]`, of the numbers that `planes_of_interpolated` gives in two bytes.
        steps: Those of the clip's DepthSpec.
        xp: `numpy` or `torch`, whichever the values are arrays of. Nothing waits for a GPU.

    Returns:
        Depth codes, in integers of 32 bits, of the same shape.
    """
    known = values >= FIRST
    everywhere = str(getattr(values, "device", "cpu")) == "cpu" and bool(known.all())  # then masks take no time
    zigzag = xp.clip(values - FIRST, 0, SKY_CODE)
    differences = (zigzag >> 1) ^ -(zigzag & 1)

    def fill(one: Pass, predicted: Any) -> Any:
        return _moved(predicted, differences[(..., *one.target)], _step(one.stride, steps), xp)

    codes = xp.empty_like(values)
    first = _first_codes(differences[..., ::_COARSEST, ::_COARSEST], steps, xp)
    _interpolate(codes, None if everywhere else known, first, fill, xp)
    return codes if everywhere else xp.where(known, codes, values * SKY_CODE)


def _values_of(codes: UInt16[np.ndarray, "h w"], *, steps: int) -> Int32[np.ndarray, "h w"]:
    """Return the numbers whose low and high bytes `planes_of_interpolated` gives."""
    known = (codes != UNKNOWN_CODE) & (codes != SKY_CODE)
    truth = codes.astype(np.int32)
    differences = np.zeros_like(truth)
    every = (slice(None, None, _COARSEST),) * 2
    step = _step(_COARSEST, steps)
    apart = differences[every]
    apart[known[every]] = np.diff((truth[every][known[every]] + step // 2) // step, prepend=0)

    def fill(one: Pass, predicted: Int32[np.ndarray, "n m"]) -> Int32[np.ndarray, "n m"]:
        step = _step(one.stride, steps)
        found = (truth[one.target] - predicted + step // 2) // step
        found *= known[one.target]
        differences[one.target] = found
        return _moved(predicted, found, step, np)

    _interpolate(np.empty_like(truth), None if known.all() else known, _first_codes(apart, steps, np), fill, np)
    zigzag = (differences << 1) ^ (differences >> 31)
    return np.where(known, zigzag + FIRST, np.where(codes == SKY_CODE, SKY, UNKNOWN)).astype(np.int32)


def _step(stride: int, steps: int) -> int:
    """Return the codes of a step: odd, at least 3 so that differences fit 16 bits."""
    return 2 * max(1, (_SIXTHS.get(stride, 3) * (steps // 2) + 2) // 6) + 1


def _moved(predicted: Any, differences: Any, step: int, xp: Any) -> Any:
    return xp.clip(predicted + differences * step, 1, MAX_CODE)


def _first_codes(differences: Any, steps: int, xp: Any) -> Any:
    """Return the codes of the coarsest grid; a masked pixel takes the one before it."""
    step = _step(_COARSEST, steps)
    levels = xp.cumsum(differences.reshape(*differences.shape[:-2], -1), -1, dtype=xp.int32)
    return _moved(0, xp.clip(levels, 0, MAX_CODE // step + 1), step, xp).reshape(differences.shape)


@functools.lru_cache(maxsize=16)
def passes(height: int, width: int) -> tuple[Pass, ...]:
    """Return the passes of an image in their order, without those that have no pixels."""
    return tuple(_passes(height, width))


def _passes(height: int, width: int) -> Iterator[Pass]:
    for stride in _STRIDES:
        coarse, between, fine = slice(0, None, 2 * stride), slice(stride, None, 2 * stride), slice(0, None, stride)
        columns, rows = (len(range(stride, length, 2 * stride)) for length in (width, height))
        if columns:
            yield Pass(stride, -1, (coarse, coarse), (coarse, between), columns)
        if rows:
            yield Pass(stride, -2, (coarse, fine), (between, fine), rows)


def _interpolate(codes: Any, known: Any | None, first: Any, fill: Callable[[Pass, Any], Any], xp: Any) -> None:
    """Fill in the codes, `[..., h, w]`, from coarse to fine.

    known: Where there is depth; None: everywhere. first: Codes of the coarsest grid. fill: Returns the codes of a
    pass's pixels, given what is predicted for them.
    """
    codes[..., ::_COARSEST, ::_COARSEST] = first
    for one in passes(*codes.shape[-2:]):
        mask = None if known is None else known[(..., *one.source)]
        codes[(..., *one.target)] = fill(one, _predict(one, codes[(..., *one.source)], mask, xp))


def _predict(one: Pass, cells: Any, known: Any | None, xp: Any) -> Any:
    reach = 3 if one.stride in _CUBIC else 1
    near = _neighbours(one, cells, reach, xp)
    if known is not None:
        near = _replace_unknown(near, _neighbours(one, known, reach, xp), xp)
    before, after = near[-2:]
    if reach == 1:
        return (before + after + 1) >> 1
    low, high = xp.minimum(before, after), xp.maximum(before, after)
    more = (high - low) >> 2
    cubic = (9 * (before + after) - near[0] - near[1] + 8) >> 4
    return xp.clip(cubic, low - more, high + more)


def _neighbours(one: Pass, cells: Any, reach: int, xp: Any) -> tuple[Any, ...]:
    """Return the neighbours three strides before and after (reach 3), then one stride.

    Where the image ends, its last row or column stands for those outside.
    """

    def along(start: int, stop: int | None) -> Any:
        return cells[..., start:stop] if one.axis == -1 else cells[..., start:stop, :]

    first, last = along(0, 1), along(-1, None)
    before, after = along(0, one.count), along(1, one.count + 1)
    if after.shape[one.axis] < one.count:
        after = xp.concatenate((after, last), one.axis)
    if reach == 1:
        return before, after
    outer_before = xp.concatenate((first, along(0, one.count - 1)), one.axis) if one.count > 1 else first
    outer_after = along(2, one.count + 2)
    missing = one.count - outer_after.shape[one.axis]
    return outer_before, xp.concatenate((outer_after, *[last] * missing), one.axis), before, after


def _replace_unknown(near: tuple[Any, ...], known: tuple[Any, ...], xp: Any) -> tuple[Any, ...]:
    before, after = near[-2:]
    inner = xp.where(known[-2], before, after), xp.where(known[-1], after, before)
    if len(near) == 2:
        return inner
    return xp.where(known[0], near[0], inner[0]), xp.where(known[1], near[1], inner[1]), *inner
