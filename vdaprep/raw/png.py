"""PNGs to pixels and back, decompressed by ISA-L instead of libpng's zlib.

libpng spends four fifths of its time in zlib. So the pixels are decompressed by ISA-L and passed on to OpenCV in stored
(uncompressed) deflate blocks: what is left for libpng is to undo the filters. The pixels are the same. Chunks that
could turn or recolour them (eXIf, gAMA, iCCP, tRNS and whatever else may be left out) are not passed on.
"""

import struct
from collections.abc import Iterator

import cv2
import numpy as np
from jaxtyping import Float32, UInt8, UInt16

from vdaprep.errors import FrameError
from vdaprep.raw.deflate import InflateError, Inflater, adler32
from vdaprep.raw.images import check_size, decode_image, wrong_kind
from vdaprep.raw.tree import Location
from vdaprep.shards.canonical import crc32
from vdaprep.storage.range_reader import MAX_FILE_BYTES

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CHUNK = struct.Struct(">I4s")  # the length of the data and the kind
_HEADER = struct.Struct(">IIBB2xB")  # width, height, bits of a sample, colour type, interlacing
_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # of a pixel, by colour type
_CRITICAL = (b"IHDR", b"PLTE", b"IDAT", b"IEND")
_ANCILLARY = 0x20  # the bit of a kind's first letter that says that the pixels are complete without the chunk
_PIECE = 1 << 15  # bytes decompressed at a time, so that the result is small and in the processor's cache
_STORED = struct.Struct("<BHH")  # of a stored block: whether it is the last, its length, and the complement of that
_MAX_STORED = 0xFFFF
_ZLIB_HEADER = b"\x78\x01"

_Chunk = tuple[bytes, memoryview]  # the kind and the data


def parse_png(data: bytes, location: Location) -> UInt8[np.ndarray, "h w 3"]:
    """Decode a PNG to RGB; raises FrameError if it is cut or any chunk's CRC is wrong."""
    return decode_image(_stored(data, location), location, cv2.IMREAD_COLOR_RGB)


def encode_png(rgb: UInt8[np.ndarray, "h w 3"]) -> bytes:
    """Encode RGB as a PNG: the inverse of `parse_png`."""
    return _encode(cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))


def parse_png16(data: bytes, location: Location) -> UInt16[np.ndarray, "h w"]:
    """Decode a PNG of one channel of 16 bits; raises FrameError for others, and as above."""
    image = decode_image(_stored(data, location), location, cv2.IMREAD_UNCHANGED)
    if image.dtype != np.uint16 or image.ndim != 2:
        channels = "one channel" if image.ndim == 2 else f"{image.shape[2]} channels"
        found = f"{channels} of {8 * image.itemsize} bits"
        raise FrameError(str(location), f"is a PNG of {found}, expected one channel of 16 bits")
    return image


def encode_png16(values: UInt16[np.ndarray, "h w"]) -> bytes:
    """Encode one channel of 16 bits as a PNG: the inverse of `parse_png16`."""
    return _encode(values)


def parse_png_floats(data: bytes, location: Location) -> Float32[np.ndarray, "h w"]:
    """Decode a PNG whose four channels, in OpenCV's order, are the bytes of a float32."""
    image = decode_image(_stored(data, location), location, cv2.IMREAD_UNCHANGED)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 4:
        found = f"{1 if image.ndim == 2 else image.shape[2]} channels of {8 * image.itemsize} bits"
        raise FrameError(str(location), f"is a PNG of {found}, expected four channels of 8 bits that hold a float32")
    return image.view("<f4")[..., 0].astype(np.float32, copy=False)


def png_size(data: bytes, location: Location) -> tuple[int, int]:
    """Return (width, height) from a PNG's header; raises FrameError if it is none."""
    if data[:8] != _SIGNATURE or len(data) < 24:
        raise wrong_kind("a PNG", data, location)
    return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")


def _encode(image: UInt8[np.ndarray, "h w 3"] | UInt16[np.ndarray, "h w"]) -> bytes:
    ok, data = cv2.imencode(".png", image)
    assert ok  # cv2 encodes any image of these kinds
    return data.tobytes()


# -------------------------------------------------------------------------------------------------------------- chunks


def _stored(data: bytes, location: Location) -> bytes:
    """Return a PNG of the same pixels, uncompressed; raises FrameError if it is damaged."""
    if data[:8] != _SIGNATURE:
        raise wrong_kind("a PNG", data, location)
    chunks = [chunk for chunk in _chunks(data, location) if not chunk[0][0] & _ANCILLARY]
    size = _stream_bytes(chunks, location)
    parts: list[bytes | memoryview] = [_SIGNATURE]
    for number, (kind, content) in enumerate(chunks):
        if kind != b"IDAT" or size is None:
            parts += _chunk(kind, [content])
        elif chunks[number - 1][0] != b"IDAT":
            streams = (content for kind, content in chunks if kind == b"IDAT")
            parts += _chunk(kind, list(_stored_blocks(streams, size, location)))
    return b"".join(parts)


def _chunks(data: bytes, location: Location) -> Iterator[_Chunk]:
    view, size, position, kind = memoryview(data), len(data), len(_SIGNATURE), b""
    while kind != b"IEND":
        length, kind = _CHUNK.unpack_from(data, position) if position + 12 <= size else (size, b"")
        end = position + 12 + length
        if end > size:
            raise FrameError(str(location), f"the PNG is cut short after {size} bytes")
        if crc32(view[position + 4 : end - 4]).to_bytes(4, "big") != data[end - 4 : end]:
            raise FrameError(str(location), f"the PNG is damaged near byte {position}")
        yield kind, view[position + 8 : end - 4]
        position = end


def _chunk(kind: bytes, content: list[bytes | memoryview]) -> list[bytes | memoryview]:
    checksum = crc32(kind)
    for part in content:
        checksum = crc32(part, checksum)
    return [_CHUNK.pack(sum(map(len, content)), kind), *content, checksum.to_bytes(4, "big")]


def _stream_bytes(chunks: list[_Chunk], location: Location) -> int | None:
    """Return how many bytes of filtered lines an image has; None if it is left to libpng.

    Raises FrameError for a header that is none or claims too many pixels, and for chunks that change what pixels mean.
    """
    kind, content = chunks[0]
    if kind != b"IHDR" or len(content) != _HEADER.size:
        raise FrameError(str(location), "the PNG does not begin with a header")
    for kind, _ in chunks:
        if kind not in _CRITICAL:
            name = kind.decode("latin-1")
            raise FrameError(str(location), f"has a chunk {name!r}, which no PNG has; save the image as a plain PNG")
    width, height, bits, colour, interlacing = _HEADER.unpack(content)
    check_size(width, height, location)
    if interlacing or colour not in _SAMPLES:
        return None
    size = height * (1 + (width * bits * _SAMPLES[colour] + 7) // 8)
    if size > MAX_FILE_BYTES:
        raise FrameError(str(location), f"the PNG is larger than {MAX_FILE_BYTES >> 20} MiB without its compression")
    return size


# -------------------------------------------------------------------------------------------------------------- stream


def _stored_blocks(streams: Iterator[memoryview], size: int, location: Location) -> Iterator[bytes | memoryview]:
    """Yield an uncompressed zlib stream of what `streams` hold, which must be `size` bytes."""
    yield _ZLIB_HEADER
    found, checksum = 0, 1
    for lines in _inflate(streams, location):
        found += len(lines)
        if found > size:
            break
        checksum = adler32(lines, checksum)
        for start in range(0, len(lines), _MAX_STORED):
            block = memoryview(lines)[start : start + _MAX_STORED]
            yield _STORED.pack(False, len(block), len(block) ^ _MAX_STORED)
            yield block
    if found != size:
        held = f"more than {size}" if found > size else str(found)
        raise FrameError(str(location), f"the PNG holds {held} bytes of pixels, its header says {size}")
    yield _STORED.pack(True, 0, _MAX_STORED)
    yield checksum.to_bytes(4, "big")


def _inflate(streams: Iterator[memoryview], location: Location) -> Iterator[bytes]:
    inflater = Inflater()
    try:
        for stream in streams:
            for start in range(0, len(stream), _PIECE):
                yield inflater.inflate(stream[start : start + _PIECE])
    except InflateError as error:
        raise FrameError(str(location), f"the PNG's pixels cannot be unpacked ({error})") from error
