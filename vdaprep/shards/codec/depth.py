"""Depth codes to bytes and back.

Packings `bytes` and `nibbles` keep every code. The residual of a pixel is code - left - above + above-left modulo 65536
(outside the image: 0), so two cumulative sums undo it. Its zigzag, 16 bits, is stored in planes, packed by zstd:

    bytes      two planes of a byte a pixel: the low bytes, then the high bytes
    nibbles    four planes of four bits a pixel, from the low bits up; a byte holds a pixel and, in its upper half, the
               one below, of rows 0 and 1, 2 and 3, ...; below the last row of an odd height are zeros

The upper bits are mostly zero, so nibbles take half the bytes where depth is smooth; sensors' noise fills them, and
bytes are the smaller. Packings `sparse` and `interpolation` are those of the modules of these names. What zstd unpacks
is where a device goes on from; here it becomes `planes`, the low and the high bytes of a 16-bit number a pixel, and
codes.
"""

import numpy as np
from jaxtyping import Float32, UInt8, UInt16

from vdaprep.shards.codec.interpolation import (
    codes_of_values,
    decompress_interpolated,
    pack_interpolated,
    plane_sizes,
    planes_of_interpolated,
)
from vdaprep.shards.codec.sparse import decompress_sparse, mask_bytes, pack_sparse, planes_of_sparse
from vdaprep.shards.codec.zstd import Data, compress, decompress
from vdaprep.shards.depth_codes import code_depth, metres_of, strips
from vdaprep.shards.metadata import DepthSpec


def encode_depth(depth_m: Float32[np.ndarray, "h w"], spec: DepthSpec) -> tuple[bytes, int]:
    """Encode metres (nan or <= 0: unknown, inf: sky).

    Returns the bytes and the number of pixels nearer than near_m.

    Raises ValueError if the depth cannot be kept within the kind's promise.
    """
    codes, clamped = code_depth(depth_m, spec)
    return pack_codes(codes, spec), clamped


def decode_depth(
    data: Data, spec: DepthSpec, *, height: int, width: int, where: str = "depth"
) -> Float32[np.ndarray, "{height} {width}"]:
    """Decode to metres: nan unknown, inf sky; raises ShardError if the bytes are damaged."""
    planes = unpack_planes(data, spec, height=height, width=width, where=where)
    return metres_of(codes_of_planes(planes, spec), spec)


def pack_codes(codes: UInt16[np.ndarray, "h w"], spec: DepthSpec) -> bytes:
    """Compress codes as `spec.packing` says; raises ValueError if its bound would break."""
    if spec.packing == "interpolation":
        return pack_interpolated(codes, steps=spec.steps)[0]
    if spec.packing == "sparse":
        return pack_sparse(codes)
    return pack_planes(_residual_planes(codes), spec)


def pack_planes(planes: UInt8[np.ndarray, "2 h w"], spec: DepthSpec) -> bytes:
    """Undo `unpack_planes`, of packings `bytes` and `nibbles`."""
    return compress(np.ascontiguousarray(planes if spec.packing == "bytes" else _nibbles_of(planes)).data)


def decompress_depth(
    data: Data, spec: DepthSpec, *, height: int, width: int, where: str = "depth"
) -> UInt8[np.ndarray, " n"]:
    """Undo only the compression; from these bytes a device goes on.

    As many as `spec.packing` needs. Raises ShardError naming `where` if the bytes are damaged.
    """
    if spec.packing == "interpolation":
        return decompress_interpolated(data, height=height, width=width, where=where)
    if spec.packing == "sparse":
        return decompress_sparse(data, height=height, width=width, where=where)
    return np.frombuffer(decompress(data, size=depth_bytes(spec, height=height, width=width), where=where), np.uint8)


def depth_bytes(spec: DepthSpec, *, height: int, width: int) -> int:
    """Return how many bytes `decompress_depth` gives; of `interpolation` and `sparse` the least."""
    if spec.packing == "interpolation":
        of_mask, of_blocks = plane_sizes(height, width)
        return 2 * of_mask + of_blocks
    if spec.packing == "sparse":
        return mask_bytes(height, width)
    return 2 * width * (height if spec.packing == "bytes" else height + height % 2)


def planes_of_bytes(
    unpacked: UInt8[np.ndarray, " n"], spec: DepthSpec, *, height: int, width: int
) -> UInt8[np.ndarray, "2 {height} {width}"]:
    """Return low and high bytes of a number a pixel, from what `decompress_depth` gives."""
    if spec.packing == "interpolation":
        return planes_of_interpolated(unpacked, height=height, width=width)
    if spec.packing == "sparse":
        return planes_of_sparse(unpacked, height=height, width=width)
    if spec.packing == "bytes":
        return unpacked.reshape(2, height, width)
    return _planes_of(unpacked.reshape(4, (height + 1) // 2, width))[:, :height]


def unpack_planes(
    data: Data, spec: DepthSpec, *, height: int, width: int, where: str = "depth"
) -> UInt8[np.ndarray, "2 {height} {width}"]:
    """Undo all but the prediction. Raises ShardError naming `where` if the bytes are damaged."""
    unpacked = decompress_depth(data, spec, height=height, width=width, where=where)
    return planes_of_bytes(unpacked, spec, height=height, width=width)


def unpack_codes(
    data: Data, spec: DepthSpec, *, height: int, width: int, where: str = "depth"
) -> UInt16[np.ndarray, "{height} {width}"]:
    """Undo `pack_codes`. Raises ShardError naming `where` if the bytes are damaged."""
    return codes_of_planes(unpack_planes(data, spec, height=height, width=width, where=where), spec)


def codes_of_planes(planes: UInt8[np.ndarray, "2 h w"], spec: DepthSpec) -> UInt16[np.ndarray, "h w"]:
    """Undo the prediction of `spec.packing`."""
    low, high = planes
    if spec.packing == "interpolation":
        values = low.astype(np.int32) | high.astype(np.int32) << 8
        return codes_of_values(values, steps=spec.steps).astype(np.uint16)
    if spec.packing == "sparse":
        return low | high.astype(np.uint16) << 8
    codes = np.empty(low.shape, np.uint16)
    above = np.zeros(low.shape[1], np.uint16)
    for rows in strips(*low.shape):
        zigzag = high[rows].astype(np.uint16)
        zigzag <<= 8
        zigzag |= low[rows]
        sign = zigzag & 1
        np.subtract(np.uint16(0), sign, out=sign)
        zigzag >>= 1
        zigzag ^= sign
        np.cumsum(zigzag, axis=1, dtype=np.uint16, out=sign)
        sign[0] += above
        above = np.cumsum(sign, axis=0, dtype=np.uint16, out=codes[rows])[-1]
    return codes


def _residual_planes(codes: UInt16[np.ndarray, "h w"]) -> UInt8[np.ndarray, "2 h w"]:
    planes = np.empty((2, *codes.shape), np.uint8)
    across = np.empty((1 + codes.shape[0], codes.shape[1]), np.uint16)  # a pixel less the one to its left
    across[0] = 0
    np.subtract(codes.ravel()[1:], codes.ravel()[:-1], out=across[1:].ravel()[1:])
    across[1:, 0] = codes[:, 0]
    residual = np.subtract(across[1:], across[:-1]).view(np.int16)
    sign = np.right_shift(residual, 15, out=across[1:].view(np.int16))
    zigzag = np.left_shift(residual, 1, out=residual)
    zigzag ^= sign
    np.copyto(planes[0], zigzag, casting="unsafe")  # the low bytes
    np.right_shift(zigzag, 8, out=planes[1], casting="unsafe")
    return planes


def _nibbles_of(planes: UInt8[np.ndarray, "2 h w"]) -> UInt8[np.ndarray, "4 pairs w"]:
    """Cut bytes into nibbles, each beside the one below it."""
    _, height, width = planes.shape
    if height % 2:
        planes = np.concatenate([planes, np.zeros((2, 1, width), np.uint8)], axis=1)
    upper, lower = planes[:, ::2], planes[:, 1::2]
    nibbles = np.empty((2, 2, *upper.shape[1:]), np.uint8)  # bytes, their halves, pairs of rows, columns
    low, high = nibbles[:, 0], nibbles[:, 1]
    np.left_shift(lower, 4, out=low)
    low |= np.bitwise_and(upper, 15, out=high)
    np.right_shift(upper, 4, out=high)
    high |= lower & 0xF0
    return nibbles.reshape(4, *upper.shape[1:])


def _planes_of(nibbles: UInt8[np.ndarray, "4 pairs w"]) -> UInt8[np.ndarray, "2 h w"]:
    """Undo `_nibbles_of`; the height is even."""
    _, pairs, width = nibbles.shape
    planes = np.empty((2, 2 * pairs, width), np.uint8)
    for plane, (low, high) in zip(planes, nibbles.reshape(2, 2, pairs, width), strict=True):
        np.bitwise_or(low & 15, high << 4, out=plane[::2])
        np.bitwise_or(low >> 4, high & 0xF0, out=plane[1::2])
    return planes
