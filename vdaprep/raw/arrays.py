"""Numbers in files: `.npy` arrays, and some of those in an `.npz`."""

import functools
import re
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64

from vdaprep.errors import FrameError
from vdaprep.raw.archives.spans import UNREADABLE
from vdaprep.raw.images import check_size, wrong_kind
from vdaprep.raw.tree import Location
from vdaprep.storage.documents import shown
from vdaprep.storage.limits import MAX_SMALL_DOCUMENT_BYTES
from vdaprep.storage.range_reader import Ranges, buffered

_MAGIC = b"\x93NUMPY"
_LENGTH_BYTES = {1: 2, 2: 4, 3: 4}  # of the header's length, by version
_MAX_HEADER_BYTES = 1 << 14  # numpy's own have 128
# The header is a dictionary in Python, of which only this is needed; nothing is evaluated.
_DTYPE = re.compile(r"""['"]descr['"]\s*:\s*['"]([^'"]{1,20})['"]""")
_ORDER = re.compile(r"""['"]fortran_order['"]\s*:\s*(True|False)""")
_SHAPE = re.compile(r"""['"]shape['"]\s*:\s*\(([\d\sL,]{,100})\)""")
_FLOATS = re.compile(r"[<>=|]?f[248]")
_LARGEST = float(np.finfo(np.float32).max)


def parse_npy(data: bytes, location: Location) -> Float32[np.ndarray, "h w"]:
    """Decode a `.npy` of floats [h, w], [h, w, 1] or [1, h, w] to float32, never objects.

    Finite numbers beyond float32 become its largest. Raises FrameError for anything else.
    """
    start = _header_end(data)
    if start is None and not data.startswith(_MAGIC):
        raise wrong_kind("a whole .npy", data, location)
    if start is None:
        raise FrameError(str(location), f"is not a whole .npy ({len(data)} bytes that begin with {data[:8]!r})")
    try:
        shape, fortran, dtype = _parse_header(data[:start])
    except ValueError as error:
        raise FrameError(str(location), str(error)) from error
    check_size(shape[1], shape[0], location)
    room = len(data) - start
    if room != shape[0] * shape[1] * dtype.itemsize:
        raise FrameError(str(location), f"has {room} bytes of numbers for {dtype} {shape}; it is cut short or padded")
    values = np.frombuffer(data, dtype, offset=start)
    array = values.reshape(shape[::-1]).T if fortran else values.reshape(shape)
    if dtype.itemsize > 4:
        array = np.where(np.isfinite(array), np.clip(array, -_LARGEST, _LARGEST), array)
    return np.ascontiguousarray(array, np.float32)


def _header_end(data: bytes) -> int | None:
    """Return where the numbers begin; None if the file is no npy or ends before."""
    digits = _LENGTH_BYTES.get(data[6], 0) if data[:6] == _MAGIC and len(data) > 6 else 0
    start = 8 + digits + int.from_bytes(data[8 : 8 + digits], "little")
    return start if digits and start <= min(len(data), _MAX_HEADER_BYTES) else None


@functools.lru_cache(maxsize=16)  # those of a data set's frames are equal
def _parse_header(data: bytes) -> tuple[tuple[int, int], bool, np.dtype[Any]]:
    """Return height, width, whether Fortran's order, and type; raises ValueError."""
    text = data[8:].decode("latin-1")
    dtype, order, shape = _DTYPE.search(text), _ORDER.search(text), _SHAPE.search(text)
    if order is None or shape is None:
        raise ValueError("is not a whole .npy (its header says neither order nor shape)")
    sizes = tuple(int(size) for size in re.findall(r"\d+", shape[1]))
    if dtype is None or "O" in dtype[1]:
        raise ValueError("holds pickled objects, which are never loaded, or fields; expected numbers")
    if not _FLOATS.fullmatch(dtype[1]):
        raise ValueError(f"holds {_name(dtype[1])} {sizes}, expected floats, such as float32")
    inner = sizes[:2] if sizes[2:] == (1,) else sizes[1:] if len(sizes) == 3 and sizes[0] == 1 else sizes
    if len(inner) != 2:
        raise ValueError(f"holds {_name(dtype[1])} {sizes}, expected floats in two dimensions")
    return (inner[0], inner[1]), order[1] == "True", np.dtype(dtype[1])


def _name(dtype: str) -> str:
    """Spell a type out, such as '<i4', as far as numpy knows it."""
    try:
        return str(np.dtype(dtype))
    except (TypeError, ValueError):
        return shown(dtype)


# ---------------------------------------------------------------------------------------------------------------- npz


def parse_npz(
    file: Ranges, location: Location, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, Float64[np.ndarray, "..."]]:
    """Read some arrays of floats of an `.npz`, a row for each frame; closes the file.

    Nothing else of it is read, and never objects.

    Args:
        file: The file; it may be larger than memory.
        location: Where it is, for messages.
        shapes: The shape of a row of each array, by its name.

    Returns:
        The arrays by name, [rows, *shape].

    Raises:
        FrameError: It is no `.npz`, is damaged, or lacks an array of these.
    """
    try:
        start = file.read(0, 512)
        if not start.startswith(b"PK"):
            raise wrong_kind("a whole .npz", start, location)
        with zipfile.ZipFile(buffered(file)) as archive:
            return {name: _npz_array(archive, name, shape, location) for name, shape in shapes.items()}
    except UNREADABLE as error:
        raise FrameError(str(location), f"the .npz is cut short or damaged ({error}); get it again") from error
    finally:
        file.close()


def _npz_array(
    archive: zipfile.ZipFile, name: str, shape: tuple[int, ...], location: Location
) -> Float64[np.ndarray, "..."]:
    member = f"{name}.npy"
    if member not in archive.namelist():
        raise FrameError(str(location), f"lacks the array {name!r}; get it again")
    if archive.getinfo(member).file_size > MAX_SMALL_DOCUMENT_BYTES:
        raise FrameError(str(location), f"its array {name!r} has more than {MAX_SMALL_DOCUMENT_BYTES >> 20} MiB")
    with archive.open(member) as file:
        try:
            values = np.lib.format.read_array(file, allow_pickle=False)
        except ValueError as error:
            raise FrameError(str(location), f"its array {name!r} holds objects, or is cut short") from error
    if values.dtype.kind not in "fiu" or values.shape[1:] != shape or values.ndim != 1 + len(shape):
        expected = "x".join(map(str, ("rows", *shape)))
        found = "x".join(map(str, values.shape))
        raise FrameError(str(location), f"its array {name!r} is {found} of {values.dtype}, expected {expected} numbers")
    return values.astype(np.float64)
