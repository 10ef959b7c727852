"""Depth codes to bytes and back: prediction by the gradient, byte planes, zstd.

Depth bytes: zstd(low bytes, then high bytes, of zigzag(gradient residual of the codes)); the residual of a pixel is
code - left - above + above-left modulo 65536 (outside the image: 0), so two cumulative sums undo it.
"""

import numpy as np
from jaxtyping import Float32, UInt8, UInt16

from vdaprep.shards.codec.zstd import Data, compress, decompress
from vdaprep.shards.depth_codes import code_depth, metres_of
from vdaprep.shards.metadata import DepthSpec


def encode_depth(depth_m: Float32[np.ndarray, "h w"], spec: DepthSpec) -> tuple[bytes, int]:
    """Encode metres (nan or <= 0: unknown, inf: sky).

    Returns the bytes and the number of pixels nearer than near_m.

    Raises ValueError if the depth cannot be kept within the kind's promise.
    """
    codes, clamped = code_depth(depth_m, spec)
    return pack_codes(codes), clamped


def decode_depth(
    data: Data, spec: DepthSpec, *, height: int, width: int, where: str = "depth"
) -> Float32[np.ndarray, "{height} {width}"]:
    """Decode to metres: nan unknown, inf sky; raises ShardError if the bytes are damaged."""
    return metres_of(unpack_codes(data, height=height, width=width, where=where), spec)


def pack_codes(codes: UInt16[np.ndarray, "h w"]) -> bytes:
    """Compress codes: gradient prediction, zigzag, byte planes, zstd."""
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
    return compress(planes.data)


def unpack_planes(
    data: Data, *, height: int, width: int, where: str = "depth"
) -> UInt8[np.ndarray, "2 {height} {width}"]:
    """Undo only the compression: low and high bytes of the residuals, for a device."""
    raw = decompress(data, size=2 * height * width, where=where)
    return np.frombuffer(raw, np.uint8).reshape(2, height, width)


def unpack_codes(
    data: Data, *, height: int, width: int, where: str = "depth"
) -> UInt16[np.ndarray, "{height} {width}"]:
    """Undo `pack_codes`. Raises ShardError naming `where` if the bytes are damaged."""
    return codes_of_planes(unpack_planes(data, height=height, width=width, where=where))


def codes_of_planes(planes: UInt8[np.ndarray, "2 h w"]) -> UInt16[np.ndarray, "h w"]:
    """Undo the prediction: the codes whose zigzag residuals have these low and high bytes."""
    low, high = planes
    zigzag = high.astype(np.uint16)
    zigzag <<= 8
    zigzag |= low
    sign = zigzag & 1
    np.subtract(np.uint16(0), sign, out=sign)
    zigzag >>= 1
    zigzag ^= sign
    np.cumsum(zigzag, axis=1, dtype=np.uint16, out=sign)
    return np.cumsum(sign, axis=0, dtype=np.uint16, out=zigzag)
