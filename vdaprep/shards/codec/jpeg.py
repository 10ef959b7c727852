"""Frames to JPEG and back."""

import cv2
import numpy as np
from jaxtyping import UInt8

from vdaprep.errors import ShardError
from vdaprep.shards.codec.zstd import Data


def encode_rgb(rgb: UInt8[np.ndarray, "h w 3"], *, quality: int, optimised: bool = False) -> bytes:
    """Encode as JPEG of a quality of 1 to 100, chroma halved; `optimised` is slow and small."""
    options = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_OPTIMIZE, int(optimised)]
    ok, data = cv2.imencode(".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), options)
    assert ok  # cv2 encodes any uint8 image
    return data.tobytes()


def decode_rgb(data: Data, *, size: tuple[int, int] | None = None, where: str = "frame") -> UInt8[np.ndarray, "h w 3"]:
    """Decode a JPEG; given `size` (height, width), only one of that size.

    Raises ShardError naming `where` if the JPEG is cut short, is none or has another size.
    """
    if data[:2] != b"\xff\xd8" or data[-2:] != b"\xff\xd9":  # cv2 fills what is missing with grey
        raise ShardError(f"{where}: not a whole JPEG; the shard is damaged.")
    if size is not None:
        _check_size(jpeg_size(data), size, where=where)
    as_stored = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION  # a note in the JPEG turns no depth
    image = cv2.imdecode(np.frombuffer(data, np.uint8), as_stored)
    if image is None:
        raise ShardError(f"{where}: the JPEG cannot be decoded; the shard is damaged.")
    rgb = image.astype(np.uint8, copy=False)
    if size is not None:
        _check_size(rgb.shape[:2], size, where=where)
    return rgb


def jpeg_size(data: Data) -> tuple[int, int] | None:
    """Return the height and width in a JPEG's frame header; None without one."""
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if marker == 0x01 or 0xD0 <= marker <= 0xD7:  # they stand alone
            at += 2
            continue
        if marker == 0x00 or (marker != 0xFF and length < 2):
            return None
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # those are tables, not frames
            return int.from_bytes(data[at + 5 : at + 7], "big"), int.from_bytes(data[at + 7 : at + 9], "big")
        at += 1 if marker == 0xFF else 2 + length  # a marker may be padded in front
    return None


def _check_size(found: tuple[int, ...] | None, expected: tuple[int, int], *, where: str) -> None:
    if found is None:
        raise ShardError(f"{where}: the JPEG does not say its size; the shard is damaged.")
    if found != expected:
        raise ShardError(
            f"{where}: is {found[1]}x{found[0]} pixels, its metadata says {expected[1]}x{expected[0]}; the shard is "
            "damaged: vdaprep repair makes it again."
        )
