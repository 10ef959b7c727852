"""PNGs to pixels and back, inflated faster than libpng does it.

libpng spends four fifths of its time in zlib. So the stream of the pixels is inflated by ISA-L and handed to OpenCV
stored, which deflate allows: what is left for libpng is to undo the filters. The pixels are the same.
"""

import functools
import io
import re
import struct
import tokenize
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float32, UInt8, UInt16

from vdaprep.errors import FrameError
from vdaprep.raw.deflate import InflateError, Inflater, adler32
from vdaprep.raw.frames import RgbImage
from vdaprep.raw.tree import Location
from vdaprep.shards.canonical import crc32
from vdaprep.storage.range_reader import MAX_FILE_BYTES

_JPEG_MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])")  # in coded data ff goes with 00 and restarts d0 to d7 only
_JPEG_END = b"\xd9"
_NPY_HEADER_BYTES = 1 << 16  # of version 2, whose own length numpy reads; longer ones it refuses


def parse_jpeg(data: bytes, location: Location) -> RgbImage:
    """Decode a JPEG and keep its bytes up to its end marker; raises FrameError if it has none."""
    if data[:2] != b"\xff\xd8":
        raise FrameError(str(location), "is not a JPEG")
    end = _jpeg_end(data)
    if end is None:  # cv2 would fill what is missing with grey
        raise FrameError(str(location), f"the JPEG is cut short after {len(data)} bytes")
    return RgbImage(decode_image(data[:end], location, cv2.IMREAD_COLOR_RGB), jpeg=data[:end])


def _jpeg_end(data: bytes) -> int | None:
    """Walk the segments, for a thumbnail inside one has an end marker too; returns where the image's own ends."""
    position = 2
    while match := _JPEG_MARKER.search(data, position):
        if match[1] == _JPEG_END:
            return match.end()
        position = match.end() + int.from_bytes(data[match.end() : match.end() + 2], "big")
    return None


def decode_image(data: bytes, location: Location, flags: int) -> np.ndarray:
    """Decode an image that was found to be whole, as cv2 does with `flags`; raises FrameError if it cannot be."""
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:  # a size that no image has
        raise FrameError(str(location), "the image cannot be decoded") from error
    if image is None:
        raise FrameError(str(location), "the image cannot be decoded")
    return image


def parse_npy(data: bytes, location: Location) -> Float32[np.ndarray, "h w"]:
    """Decode a 2-D float `.npy` to float32; raises FrameError for anything else, pickled objects above all."""
    start = 10 + int.from_bytes(data[8:10], "little") if data[6:7] == b"\x01" else _NPY_HEADER_BYTES
    try:
        shape, fortran, dtype, start = _parse_npy_header(data[:start])
    except (ValueError, TypeError, EOFError, SyntaxError, RecursionError, tokenize.TokenError) as error:
        raise FrameError(str(location), f"is not a whole .npy ({error})") from error
    if dtype.hasobject:
        raise FrameError(str(location), "holds pickled objects, which are never loaded; expected numbers")
    if len(shape) != 2 or dtype.kind != "f":
        raise FrameError(str(location), f"holds {dtype} {shape}, expected floats in two dimensions")
    room = len(data) - start
    if room != shape[0] * shape[1] * dtype.itemsize:
        raise FrameError(str(location), f"has {room} bytes of numbers for {dtype} {shape}; it is cut short or padded")
    values = np.frombuffer(data, dtype, offset=start)
    array = values.reshape(shape[::-1]).T if fortran else values.reshape(shape)
    return np.ascontiguousarray(array, np.float32)


@functools.lru_cache(maxsize=16)  # numpy takes long for a header, and those of a data set's frames are equal
def _parse_npy_header(data: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """Return the shape, whether it is in Fortran's order, the type, and where the numbers begin."""
    stream = io.BytesIO(data)
    version = np.lib.format.read_magic(stream)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read_header(stream)
    return shape, fortran, dtype, stream.tell()


def parse_table(data: bytes, location: Location, *, columns: int) -> list[list[float] | None]:
    """Parse lines of numbers; a line that is not `columns` finite numbers becomes None, blank lines at the end go.

    Raises FrameError if the file is no text.
    """
    try:
        lines = data.decode("ascii").rstrip().splitlines()
    except UnicodeDecodeError as error:
        raise FrameError(str(location), "is not a text file") from error
    return [_numbers(line, columns) for line in lines]


def _numbers(line: str, columns: int) -> list[float] | None:
    try:
        values = [float(word) for word in line.split()]
    except ValueError:
        return None
    return values if len(values) == columns and bool(np.isfinite(values).all()) else None


_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CHUNK = struct.Struct(">I4s")  # the length of the data and the kind
_HEADER = struct.Struct(">IIBB2xB")  # width, height, bits of a sample, colour type, interlacing
_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # of a pixel, by colour type
_PIECE = 1 << 15  # bytes inflated at a time: what they come to stays in the processor's cache, and is little
_STORED = struct.Struct("<BHH")  # whether a stored block is the last, its length, and that with all bits turned
_MAX_STORED = 0xFFFF
_ZLIB_HEADER = b"\x78\x01"

_Chunk = tuple[bytes, memoryview]  # the kind and the data


def parse_png(data: bytes, location: Location) -> UInt8[np.ndarray, "h w 3"]:
    """Decode a PNG to RGB; raises FrameError if it is cut short or damaged anywhere (every chunk's CRC is compared)."""
    return decode_image(_stored(data, location), location, cv2.IMREAD_COLOR_RGB)


def encode_png(rgb: UInt8[np.ndarray, "h w 3"]) -> bytes:
    """Undo `parse_png`."""
    return _encode(cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))


def parse_png16(data: bytes, location: Location) -> UInt16[np.ndarray, "h w"]:
    """Decode a PNG of one channel of 16 bits; raises FrameError for any other, and as `parse_png` does."""
    image = decode_image(_stored(data, location), location, cv2.IMREAD_UNCHANGED)
    if image.dtype != np.uint16 or image.ndim != 2:
        channels = "one channel" if image.ndim == 2 else f"{image.shape[2]} channels"
        found = f"{channels} of {8 * image.itemsize} bits"
        raise FrameError(str(location), f"is a PNG of {found}, expected one channel of 16 bits")
    return image


def encode_png16(values: UInt16[np.ndarray, "h w"]) -> bytes:
    """Undo `parse_png16`."""
    return _encode(values)


def parse_png_floats(data: bytes, location: Location) -> Float32[np.ndarray, "h w"]:
    """Decode a PNG of four channels of 8 bits that are, in OpenCV's order, the bytes of a float32; raises as above."""
    image = decode_image(_stored(data, location), location, cv2.IMREAD_UNCHANGED)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 4:
        found = f"{1 if image.ndim == 2 else image.shape[2]} channels of {8 * image.itemsize} bits"
        raise FrameError(str(location), f"is a PNG of {found}, expected four channels of 8 bits that hold a float32")
    return image.view("<f4")[..., 0].astype(np.float32, copy=False)


def png_size(data: bytes, location: Location) -> tuple[int, int]:
    """Return (width, height) from a PNG's header; raises FrameError if it is none."""
    if data[:8] != _SIGNATURE or len(data) < 24:
        raise FrameError(str(location), "is not a PNG")
    return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")


def _encode(image: UInt8[np.ndarray, "h w 3"] | UInt16[np.ndarray, "h w"]) -> bytes:
    ok, data = cv2.imencode(".png", image)
    assert ok  # cv2 encodes any image of these kinds
    return data.tobytes()


# -------------------------------------------------------------------------------------------------------------- chunks


def _stored(data: bytes, location: Location) -> bytes:
    """Return a PNG of the same pixels whose stream is not compressed; raises FrameError if anything is damaged."""
    if data[:8] != _SIGNATURE:
        raise FrameError(str(location), "is not a PNG")
    chunks = list(_chunks(data, location))
    size = _stream_bytes(chunks[0])
    if size is None:
        return data
    if size > MAX_FILE_BYTES:
        raise FrameError(str(location), f"the PNG is larger than {MAX_FILE_BYTES >> 20} MiB without its compression")
    parts: list[bytes | memoryview] = [_SIGNATURE]
    for number, (kind, content) in enumerate(chunks):
        if kind != b"IDAT":
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


def _stream_bytes(header: _Chunk) -> int | None:
    """Return how many bytes of filtered lines an image has; None if libpng had better see to it as it is."""
    kind, content = header
    if kind != b"IHDR" or len(content) != _HEADER.size:
        return None
    width, height, bits, colour, interlacing = _HEADER.unpack(content)
    if interlacing or colour not in _SAMPLES:
        return None
    return height * (1 + (width * bits * _SAMPLES[colour] + 7) // 8)


# -------------------------------------------------------------------------------------------------------------- stream


def _stored_blocks(streams: Iterator[memoryview], size: int, location: Location) -> Iterator[bytes | memoryview]:
    """Yield a zlib stream that holds what `streams` hold together, uncompressed; that must be `size` bytes."""
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
