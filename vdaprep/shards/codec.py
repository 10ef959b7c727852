"""Frames to the bytes of members and back; every encoder stands next to its decoder.

Depth codes are those of `depth_codes`.

Depth bytes: zstd(low bytes, then high bytes, of zigzag(gradient residual of the codes)); the residual of a pixel is
code - left - above + above-left modulo 65536 (outside the image: 0), so two cumulative sums undo it.

Differences (int8, channels first): clip(round(d / step), -127, 127) of the difference d of two area-averaged frames in
grey levels; bytes: zstd of the array.
"""

import threading

import cv2
import numpy as np
import zstandard
from jaxtyping import Float32, Int8, UInt8, UInt16

from vdaprep.errors import ShardError
from vdaprep.shards.depth_codes import code_depth, metres_of
from vdaprep.shards.metadata import DepthSpec, DiffSpec

# After the prediction zstd's level 1 packs as small as level 3 (62 KiB a real frame of 540x360) and is quicker; level 6
# saves 6.5 % for four times the time, level 19 19 % for 140 times. `make bench` prints the table.
ZSTD_LEVEL = 1
_UNSAID = zstandard.CONTENTSIZE_ERROR  # as large as a size that is not in the frame, and the next one
_MAX_SUMMED_SCALE = 16  # the sum of as many pixels squared fits 16 bits
_zstd = threading.local()
_Data = bytes | memoryview


# ---------------------------------------------------------------------------------------------------------- zstandard


def _compress(data: bytes | memoryview) -> bytes:
    compressor: zstandard.ZstdCompressor | None = getattr(_zstd, "compressor", None)
    if compressor is None:
        compressor = zstandard.ZstdCompressor(level=ZSTD_LEVEL, write_checksum=True, write_content_size=True)
        _zstd.compressor = compressor
    return compressor.compress(data)


def _decompress(data: _Data, *, size: int, where: str) -> bytes:
    """Decompress to exactly `size` bytes; the size is compared before anything is allocated."""
    try:
        found = zstandard.get_frame_parameters(data).content_size
        if found != size:
            said = "does not say how many bytes it holds" if found >= _UNSAID else f"holds {found} bytes when unpacked"
            raise ShardError(f"{where}: {said}, expected {size}; the shard is damaged.")
        decompressor: zstandard.ZstdDecompressor | None = getattr(_zstd, "decompressor", None)
        if decompressor is None:
            decompressor = _zstd.decompressor = zstandard.ZstdDecompressor()
        return decompressor.decompress(data, max_output_size=size, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise ShardError(f"{where}: not readable as zstd ({error}); the shard is damaged.") from error


# -------------------------------------------------------------------------------------------------------- depth bytes


def encode_depth(depth_m: Float32[np.ndarray, "h w"], spec: DepthSpec) -> tuple[bytes, int]:
    """Encode metres (nan or <= 0: unknown, inf: sky); returns the bytes and the number of pixels nearer than near_m.

    Raises ValueError if the depth cannot be kept within the kind's promise.
    """
    codes, clamped = code_depth(depth_m, spec)
    return pack_codes(codes), clamped


def decode_depth(
    data: _Data, spec: DepthSpec, *, height: int, width: int, where: str = "depth"
) -> Float32[np.ndarray, "{height} {width}"]:
    """Decode to metres: nan = unknown, inf = sky. Raises ShardError naming `where` if the bytes are damaged."""
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
    return _compress(planes.data)


def unpack_planes(
    data: _Data, *, height: int, width: int, where: str = "depth"
) -> UInt8[np.ndarray, "2 {height} {width}"]:
    """Undo only the compression: the low and the high bytes of the zigzag residuals, for a device to go on from."""
    raw = _decompress(data, size=2 * height * width, where=where)
    return np.frombuffer(raw, np.uint8).reshape(2, height, width)


def unpack_codes(
    data: _Data, *, height: int, width: int, where: str = "depth"
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


# -------------------------------------------------------------------------------------------------------- differences


def shrink(rgb: UInt8[np.ndarray, "h w 3"], spec: DiffSpec) -> Float32[np.ndarray, "dh dw 3"]:
    """Average a frame over areas of `spec.scale` x `spec.scale` pixels, in grey levels, without rounding."""
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
    """Encode the difference of two shrunk frames, current minus previous; zeros if there is no previous one."""
    if previous is None:
        steps = np.zeros(current.shape, np.float32)
    else:
        steps = current - previous
        steps *= np.float32(1 / spec.step)
        np.rint(steps, out=steps)
    np.clip(steps, -127, 127, out=steps)
    return _compress(np.ascontiguousarray(steps.astype(np.int8).transpose(2, 0, 1)).data)


def decode_diff(
    data: _Data, spec: DiffSpec, *, height: int, width: int, where: str = "difference"
) -> Int8[np.ndarray, "3 dh dw"]:
    """Decode the difference of a frame of `height` x `width` pixels, in steps of `spec.step` grey levels.

    Raises ShardError naming `where` if the bytes are damaged.
    """
    rows, columns = spec.size_of(height, width)
    raw = _decompress(data, size=3 * rows * columns, where=where)
    return np.frombuffer(raw, np.int8).reshape(3, rows, columns)


# ---------------------------------------------------------------------------------------------------------------- rgb


def encode_rgb(rgb: UInt8[np.ndarray, "h w 3"], *, quality: int) -> bytes:
    """Encode as JPEG of the given quality (1 to 100), chroma halved both ways."""
    ok, data = cv2.imencode(".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    assert ok  # cv2 encodes any uint8 image
    return data.tobytes()


def decode_rgb(data: _Data, *, size: tuple[int, int] | None = None, where: str = "frame") -> UInt8[np.ndarray, "h w 3"]:
    """Decode a JPEG, if `size` (height, width) is given only one of that size: it is compared before anything is.

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


def jpeg_size(data: _Data) -> tuple[int, int] | None:
    """Return the height and width that a JPEG's frame header says; None if there is no such header."""
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
