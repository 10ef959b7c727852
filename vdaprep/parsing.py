"""The bytes of raw JPEGs, npy files and tables to numbers; PNGs have a module of their own."""

import functools
import io
import re
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float32

from vdaprep.archive import Location
from vdaprep.errors import FrameError
from vdaprep.frames import RgbImage

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
    except (ValueError, EOFError, SyntaxError) as error:
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
