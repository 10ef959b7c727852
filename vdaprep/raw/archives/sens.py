"""List a `.sens`, a recording of ScanNet, as an archive of what its exporter writes.

NAME.sens/color/0.jpg                     the stored JPEG or PNG
NAME.sens/depth/0.pgm                     the integers, unpacked
NAME.sens/pose/0.txt                      camera_to_world, 4 rows of 4 numbers
NAME.sens/intrinsic/intrinsic_depth.txt   likewise; with extrinsic_depth, intrinsic_color, extrinsic_color

Numbers are little-endian. A header: uint32 version, 4; uint64 length and bytes of the sensor's name; 4 matrices of 16
float32 (intrinsics and extrinsics of colour, then of depth); int32 compression of colour (1 PNG, 2 JPEG) and of depth
(0 none, 1 zlib); uint32 width and height of colour, then of depth; float32 units a metre; uint64 number of frames.
Then each frame: 16 float32 camera_to_world, uint64 times of colour and of depth, uint64 bytes of colour and of depth,
and these bytes. At the end uint64 number of readings of the inertial unit, and 128 bytes each. The facts are from
`sensorData.h` and `SensorData.py` of github.com/ScanNet/ScanNet.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from vdaprep.raw.archives.spans import Listing, Span, SpanTable, TarSpan
from vdaprep.raw.deflate import Inflater
from vdaprep.storage.limits import LimitError, check_pixels
from vdaprep.storage.range_reader import Ranges

_VERSION = 4
_UNITS_PER_METRE = 1000.0  # of every published scan
_COLOURS = {1: "png", 2: "jpg"}
_COLOUR_NAMES = {0: "not compressed"}
_DEPTH_NAMES = {2: "packed by OCCI"}
_UNPACKED, _ZLIB = 0, 1  # compressions of depth
_START = struct.Struct("<IQ")
_SETTINGS = struct.Struct("<2i4IfQ")
_FRAME = struct.Struct("<64x2Q2Q")
_MATRIX_BYTES = 64
_MATRICES = ("intrinsic_color", "extrinsic_color", "intrinsic_depth", "extrinsic_depth")
_READING_BYTES = 128  # of the inertial unit: 15 float64 and a time
_MAX_NAME_BYTES = 4096
_SAY_EVERY = 256  # frames


@dataclass(frozen=True, slots=True)
class MatrixSpan:
    """A 4x4 matrix of float32, read as text."""

    offset: int
    """Where it begins."""

    @property
    def size(self) -> int:
        """Bytes of the text."""
        return 4 * 4 * 17

    def read(self, archive: Ranges) -> bytes:
        """Return four rows of four numbers, with all digits that a float32 has."""
        data = TarSpan(self.offset, _MATRIX_BYTES).read(archive)
        rows = np.frombuffer(data, "<f4").reshape(4, 4).tolist()
        return "".join(" ".join(f"{number:16.8e}" for number in row) + "\n" for row in rows).encode("ascii")


@dataclass(frozen=True, slots=True)
class DepthSpan:
    """A depth map of 16 bits, read as a PGM."""

    offset: int
    """Where it begins."""
    stored: int
    """Its bytes in the file."""
    compression: int
    """0: as it is; 1: zlib."""
    width: int
    """Pixels of a row."""
    height: int
    """Rows."""

    @property
    def size(self) -> int:
        """Bytes of the PGM."""
        return len(self._header()) + 2 * self.width * self.height

    def read(self, archive: Ranges) -> bytes:
        """Return the PGM, as `Span.read` says."""
        data = TarSpan(self.offset, self.stored).read(archive)
        expected = 2 * self.width * self.height
        if self.compression == _ZLIB:
            data = Inflater().inflate(data, limit=expected + 1)
        if len(data) != expected:
            found = f"more than {expected}" if len(data) > expected else str(len(data))
            raise ValueError(f"holds {found} bytes of depth, expected {expected} of {self.width}x{self.height} pixels")
        return self._header() + np.frombuffer(data, "<u2").byteswap().tobytes()

    def _header(self) -> bytes:
        return f"P5 {self.width} {self.height} 65535\n".encode("ascii")


def list_sens(archive: Ranges, name: str, on_bytes: Callable[[int], None]) -> Listing:
    """List the frames of a `.sens`, up to where it is cut short, if it is.

    Args:
        archive: The file.
        name: Its own, which becomes the folder of its members.
        on_bytes: Receives the bytes that were passed.

    Raises:
        ValueError, EOFError: It is none, or of a kind that is not read.
    """
    header = _read_header(archive)
    found = _Found(name, header)
    for index, kind in enumerate(_MATRICES):
        found.add(f"intrinsic/{kind}.txt", _MATRIX, header.matrices + index * _MATRIX_BYTES, _MATRIX_BYTES)
    offset = header.end
    for index in range(header.frames):
        stop = _add_frame(archive, found, offset, index)
        if stop is None:
            reason = f"is cut short after {index} of {header.frames} frames; get it again to have the rest"
            return found.listing(("", reason))
        offset = stop
        if index % _SAY_EVERY == 0:
            on_bytes(offset)
    after = _after_frames(archive, offset)
    return found.listing(("", after)) if after else found.listing()


class _Header(NamedTuple):
    matrices: int
    end: int
    colour: str
    depth: int
    width: int
    height: int
    frames: int


def _read_header(archive: Ranges) -> _Header:
    version, length = _START.unpack(_part(archive, 0, _START.size))
    if version != _VERSION:
        raise ValueError(f"it begins as version {version} of .sens would, which is not read; expected version 4")
    if length > _MAX_NAME_BYTES:
        raise ValueError(f"its sensor has a name of {length} bytes, so it is damaged")
    matrices = _START.size + length
    settings = matrices + len(_MATRICES) * _MATRIX_BYTES
    colour, depth, _, _, width, height, units, frames = _SETTINGS.unpack(_part(archive, settings, _SETTINGS.size))
    if colour not in _COLOURS:
        kind = _COLOUR_NAMES.get(colour, "of an unknown compression")
        raise ValueError(f"its colour is {kind} ({colour}), which is not read; expected 1 (PNG) or 2 (JPEG)")
    if depth not in (_UNPACKED, _ZLIB):
        kind = _DEPTH_NAMES.get(depth, "of an unknown compression")
        raise ValueError(f"its depth is {kind} ({depth}), which is not read; expected 0 (16 bits) or 1 (zlib)")
    if units != _UNITS_PER_METRE:
        raise ValueError(f"its depth has {units:g} units a metre, which is not read; expected 1000")
    try:
        check_pixels(width, height)
    except LimitError as error:
        raise ValueError(f"its depth {error.reason.rstrip('.')}") from error
    return _Header(matrices, settings + _SETTINGS.size, _COLOURS[colour], depth, width, height, frames)


def _part(archive: Ranges, offset: int, size: int) -> bytes:
    data = archive.read(offset, size)
    if len(data) < size:
        raise EOFError(f"its header is cut short after {offset + len(data)} bytes")
    return data


def _add_frame(archive: Ranges, found: "_Found", offset: int, index: int) -> int | None:
    """Add a frame's members; returns where the next frame begins, None if this one is cut short."""
    data = archive.read(offset, _FRAME.size)
    if len(data) < _FRAME.size:
        return None
    _, _, colour_bytes, depth_bytes = _FRAME.unpack(data)
    colour = offset + _FRAME.size
    stop = colour + colour_bytes + depth_bytes
    if stop > archive.size:
        return None
    found.add(f"color/{index}.{found.header.colour}", _AS_STORED, colour, colour_bytes)
    found.add(f"depth/{index}.pgm", _DEPTH, colour + colour_bytes, depth_bytes)
    found.add(f"pose/{index}.txt", _MATRIX, offset, _MATRIX_BYTES)
    return stop


def _after_frames(archive: Ranges, offset: int) -> str:
    """Say what follows the frames, unless it is nothing or the readings of the inertial unit."""
    left = archive.size - offset
    if left == 0:
        return ""
    count = int.from_bytes(archive.read(offset, 8), "little") if left >= 8 else 0
    expected = 8 + count * _READING_BYTES
    if left == expected:
        return ""
    if left < expected:
        return f"is cut short after its frames: {left} of {expected} bytes of the inertial unit are there; get it again"
    return f"goes on for {left - expected} bytes after its end; get it again, or cut them off"


_AS_STORED, _DEPTH, _MATRIX = range(3)


class _Found:
    """Members, in order, as columns."""

    def __init__(self, name: str, header: _Header) -> None:
        self.header = header
        self._folder = name
        self._names: list[str] = []
        self._rows: list[tuple[int, int, int]] = []  # what, offset, bytes

    def add(self, name: str, what: int, offset: int, size: int) -> None:
        """Add a member."""
        self._names.append(f"{self._folder}/{name}")
        self._rows.append((what, offset, size))

    def listing(self, *problems: tuple[str, str]) -> Listing:
        """Return what was found."""
        count, header = len(self._rows), self.header
        alike = ([value] * count for value in (header.depth, header.width, header.height))
        columns = [*(np.array(self._rows, np.uint64).T if count else np.empty((3, 0), np.uint64)), *alike]
        return Listing(self._names, SpanTable(_span, columns), problems, has_end=not problems)


def _span(what: int, offset: int, size: int, compression: int, width: int, height: int) -> Span:
    if what == _MATRIX:
        return MatrixSpan(offset)
    return DepthSpan(offset, size, compression, width, height) if what == _DEPTH else TarSpan(offset, size)
