"""Depth codes of lone points, as of laser scanners: a bit plane, and what is known.

Where three of four pixels are unknown, predictions from neighbours predict nothing. Stored are: a bit a pixel, row by
row, the highest bit first, which says whether its code is known; then of the known ones, row by row, what they differ
from the one before (the first: from 0), modulo 65536, as zigzags of 16 bits: all low bytes, then all high bytes.
No code is lost. zstd packs all of it.
"""

import numpy as np
from jaxtyping import Bool, UInt8, UInt16

from vdaprep.errors import ShardError
from vdaprep.shards.codec.zstd import Data, compress, decompress
from vdaprep.shards.depth_codes import UNKNOWN_CODE

_LEVEL = 3  # of zstd: 9 saves 1 % for ten times the time
_LONE = 0.5  # share of the known pixels whose right neighbour is unknown, from which on points are lone


def is_sparse(known: Bool[np.ndarray, "h w"]) -> bool:
    """Tell whether most known pixels, at most two of three, are lone points."""
    if 3 * np.count_nonzero(known) > 2 * known.size:
        return False
    beside = np.count_nonzero(known[:, :-1] & known[:, 1:])
    return bool(beside < (1 - _LONE) * np.count_nonzero(known))


def pack_sparse(codes: UInt16[np.ndarray, "h w"]) -> bytes:
    """Compress codes."""
    known = codes != UNKNOWN_CODE
    differences = np.diff(codes[known], prepend=np.uint16(0)).view(np.int16)
    zigzags = ((differences << 1) ^ (differences >> 15)).view(np.uint16)
    planes = zigzags.astype(np.uint8), (zigzags >> 8).astype(np.uint8)
    return compress(b"".join(part.tobytes() for part in (np.packbits(known), *planes)), level=_LEVEL)


def mask_bytes(height: int, width: int) -> int:
    """Return how many bytes the bit plane takes."""
    return (height * width + 7) // 8


def decompress_sparse(data: Data, *, height: int, width: int, where: str = "depth") -> UInt8[np.ndarray, " n"]:
    """Undo only the compression; raises ShardError naming `where` if the bytes are damaged."""
    of_mask = mask_bytes(height, width)
    unpacked = np.frombuffer(decompress(data, size=(of_mask, of_mask + 2 * height * width), where=where), np.uint8)
    bits = np.unpackbits(unpacked[:of_mask])
    known = np.count_nonzero(bits)
    if len(unpacked) != of_mask + 2 * known or bits[height * width :].any():
        raise ShardError(f"{where}: has {len(unpacked)} bytes for {known} known pixels; the shard is damaged.")
    return unpacked


def planes_of_sparse(
    unpacked: UInt8[np.ndarray, " n"], *, height: int, width: int
) -> UInt8[np.ndarray, "2 {height} {width}"]:
    """Return low and high bytes of the codes.

    unpacked: What `decompress_sparse` gives; anything may follow.
    """
    of_mask = mask_bytes(height, width)
    known = np.unpackbits(unpacked[:of_mask], count=height * width).view(bool).reshape(height, width)
    count = np.count_nonzero(known)
    low, high = unpacked[of_mask : of_mask + 2 * count].reshape(2, count).astype(np.uint16)
    zigzags = low | high << 8
    found = np.cumsum((zigzags >> 1) ^ -(zigzags & 1), dtype=np.uint16)
    planes = np.zeros((2, height, width), np.uint8)
    planes[0][known], planes[1][known] = found & 0xFF, found >> 8
    return planes
