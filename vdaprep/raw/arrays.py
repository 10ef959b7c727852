"""Numbers in files: `.npy` arrays and tables of text."""

import functools
import io
import tokenize
from typing import Any

import numpy as np
from jaxtyping import Float32

from vdaprep.errors import FrameError
from vdaprep.raw.tree import Location

_NPY_HEADER_BYTES = 1 << 16  # of version 2, whose own length numpy reads; longer ones it refuses


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
    """Parse lines of numbers; a line that is not `columns` finite numbers becomes None.

    Blank lines at the end are dropped. Raises FrameError if the file is no text.
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
