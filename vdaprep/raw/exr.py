"""OpenEXR files of one channel, of depth or disparity: bytes to an array and back.

OpenEXR prints errors to stdout and stderr, and returns images that lack the blocks that it could not read. So every
block is compared with the file's own structure first, and only whole files are decoded.
"""

import functools
import io
import logging
import struct
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import OpenEXR
from jaxtyping import Float, Float16

from vdaprep.errors import FrameError
from vdaprep.raw.deflate import InflateError, Inflater
from vdaprep.raw.images import check_size, wrong_kind
from vdaprep.raw.tree import Location
from vdaprep.storage.range_reader import MAX_FILE_BYTES

_MAGIC = b"\x76\x2f\x31\x01"
_NOT_SCAN_LINES = 0x1A00  # flags: tiles, deep pixels, several parts
_BLOCK_LINES = {0: 1, 1: 1, 2: 1, 3: 16, 4: 32, 5: 16, 6: 32, 7: 32, 8: 32, 9: 256}  # by the code of the compression
_ZIPS, _ZIP = 2, 3
_LOSSY = {  # compressions by code that change values, by the type of a channel
    "float16": {6: "B44", 7: "B44A", 8: "DWAA", 9: "DWAB"},
    "float32": {5: "PXR24", 8: "DWAA", 9: "DWAB"},
}
_CHANNEL_TYPES = {0: "uint32", 1: "float16", 2: "float32"}
_WINDOWS = ("dataWindow", "displayWindow")

_openexr = cast(Any, OpenEXR)  # it has no types
_log = logging.getLogger("vdaprep")


@dataclass(frozen=True)
class Expected:
    """What an EXR of a data set holds."""

    channel: str
    """Name of its one channel; empty: any."""
    values: str
    """Its values, for messages."""

    def __str__(self) -> str:
        return f"one channel{' ' * bool(self.channel)}{self.channel} of {self.values}"


HALF_Y = Expected("Y", "half floats")
"""What MVS-Synth has."""


@dataclass(frozen=True)
class _Window:
    """A rectangle of pixels, its last row and column included."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def width(self) -> int:
        """Pixels of a row."""
        return self.right - self.left + 1

    @property
    def height(self) -> int:
        """Number of rows."""
        return self.bottom - self.top + 1


@dataclass(frozen=True)
class _Header:
    """What an EXR says of itself: `channels` with types; block offsets at `table`.

    Pixels are stored of the `data` window, which may be another than the `display` window, the image.
    """

    channels: dict[str, str]
    compression: int
    data: _Window
    display: _Window
    table: int

    @property
    def height(self) -> int:
        """Stored lines."""
        return self.data.height

    @property
    def width(self) -> int:
        """Pixels of a stored line."""
        return self.data.width

    @property
    def blocks(self) -> int:
        """Blocks of scan lines, each compressed alone."""
        return -(-self.height // _BLOCK_LINES[self.compression])

    @property
    def line_bytes(self) -> int:
        """Bytes of one line of all channels."""
        return self.width * sum(np.dtype(kind).itemsize for kind in self.channels.values())


def parse_exr(data: bytes, location: Location, expected: Expected = HALF_Y) -> Float[np.ndarray, "h w"]:
    """Decode an EXR's one channel, or R of colours, as float16 or float32.

    Pixels of the image that are not stored are nan. Raises FrameError if it has other channels than `expected`, or is
    cut short. Damage inside a block is noticed where its compression has checksums (Adler-32 in ZIP and ZIPS); PIZ and
    the others have none, only the archive's.
    """
    header = _parse_header(data, location)
    channel = _depth_channel(header, location, expected)
    if header.compression in _LOSSY.get(header.channels[channel], {}):
        _note_loss(_LOSSY[header.channels[channel]][header.compression])
    _check_blocks(data, header, location)
    try:
        file = _openexr.File(io.BytesIO(data), separate_channels=True)
        channels = {name: found.pixels for name, found in file.channels().items()}
    except (RuntimeError, ValueError) as error:
        raise FrameError(str(location), "the EXR cannot be decoded") from error
    pixels = channels[channel]
    if not all(np.array_equal(pixels, channels[name], equal_nan=True) for name in channels if name in "GB"):
        raise FrameError(str(location), f"has colours, R unlike G or B, expected {expected}, or three that are equal")
    return np.ascontiguousarray(pixels if header.data == header.display else _displayed(pixels, header))


def _displayed(pixels: Float[np.ndarray, "_h _w"], header: _Header) -> Float[np.ndarray, "h w"]:
    """Put stored pixels where they are in the image; what is stored beyond it is left out."""
    stored, shown = header.data, header.display
    image = np.full((shown.height, shown.width), np.nan, pixels.dtype)
    top, bottom = max(stored.top, shown.top), min(stored.bottom, shown.bottom) + 1
    left, right = max(stored.left, shown.left), min(stored.right, shown.right) + 1
    if top < bottom and left < right:
        part = pixels[top - stored.top : bottom - stored.top, left - stored.left : right - stored.left]
        image[top - shown.top : bottom - shown.top, left - shown.left : right - shown.left] = part
    return image


def encode_exr(values: Float16[np.ndarray, "h w"]) -> bytes:
    """Encode half floats as the channel Y of an EXR, compressed with ZIP."""
    stream = io.BytesIO()
    header = {"compression": _openexr.ZIP_COMPRESSION, "type": _openexr.scanlineimage}
    _openexr.File(header, {"Y": np.ascontiguousarray(values)}).write(stream)
    return stream.getvalue()


def _depth_channel(header: _Header, location: Location, expected: Expected) -> str:
    names, kinds = set(header.channels), set(header.channels.values())
    found = ", ".join(f"{name} ({kind})" for name, kind in header.channels.items())
    colours = "R" in names and names <= set("RGBA")
    channel = expected.channel or min(names, default="")
    if not (colours or names == {channel}) or not kinds <= {"float16", "float32"}:
        raise FrameError(str(location), f"has the channels {found or 'none'}, expected {expected}")
    if expected == HALF_Y and found != "Y (float16)":
        _note_channels(found, "R" if colours else "Y")
    return "R" if colours else channel


@functools.cache  # logged once, not for every frame
def _note_loss(compression: str) -> None:
    _log.warning(
        "EXR files are compressed with %s, which changes depth, most at edges; expected ZIP, ZIPS, PIZ, RLE or none: "
        "they are taken as they are, get the original ones.",
        compression,
    )


@functools.cache
def _note_channels(found: str, taken: str) -> None:
    _log.warning(
        "EXR files have the channels %s, expected %s: depth is taken from %s; a frame whose values are no half floats "
        "is rejected.",
        found,
        HALF_Y,
        taken,
    )


# ---------------------------------------------------------------------------------------------------------- structure


def _parse_header(data: bytes, location: Location) -> _Header:
    if data[:4] != _MAGIC:
        raise wrong_kind("an EXR", data, location)
    if int.from_bytes(data[4:8], "little") & _NOT_SCAN_LINES:
        raise FrameError(str(location), "is an EXR of tiles, deep pixels or several parts, expected scan lines")
    try:
        attributes, table = _attributes(data)
        data_window, display = (_Window(*struct.unpack("<4i", attributes[name])) for name in _WINDOWS)
        channels, [compression] = _channels(attributes["channels"]), attributes["compression"]
    except KeyError as error:
        raise FrameError(str(location), f"the EXR's header lacks {error}") from error
    except (ValueError, struct.error) as error:
        raise FrameError(str(location), "the EXR's header is cut short or damaged") from error
    if compression not in _BLOCK_LINES:
        raise FrameError(str(location), f"the EXR's compression has the code {compression}, expected 0 to 9")
    for window in (data_window, display):
        check_size(window.width, window.height, location)
    header = _Header(channels, compression, data_window, display, table)
    if header.height * header.line_bytes > MAX_FILE_BYTES:
        raise FrameError(str(location), f"the EXR claims to have {header.width}x{header.height} pixels")
    return header


def _attributes(data: bytes) -> tuple[dict[str, bytes], int]:
    """Return the header's attributes and the position after them; raises ValueError."""
    found: dict[str, bytes] = {}
    position = 8
    while (end := data.index(b"\0", position)) != position:
        start = data.index(b"\0", end + 1) + 5  # the type's name and the size, four bytes
        size = int.from_bytes(data[start - 4 : start], "little")
        name = data[position:end].decode("ascii")
        if start + size > len(data) or name in found:
            raise ValueError("an attribute is cut short, or there twice")
        found[name] = data[start : start + size]
        position = start + size
    return found, position + 1


def _channels(value: bytes) -> dict[str, str]:
    """Return the types of the channels by name; raises ValueError if the list is damaged."""
    found: dict[str, str] = {}
    position = 0
    while (end := value.index(b"\0", position)) != position:
        code, _, *sampling = struct.unpack_from("<4i", value, end + 1)
        if code not in _CHANNEL_TYPES or sampling != [1, 1]:
            raise ValueError("a channel has no known type, or not every pixel")
        found[value[position:end].decode("ascii")] = _CHANNEL_TYPES[code]
        position = end + 17
    return found


def _check_blocks(data: bytes, header: _Header, location: Location) -> None:
    """Compare each block's place, line and checksum; FrameError for the first wrong one."""
    end = header.table + 8 * header.blocks
    cut = FrameError(str(location), f"the EXR is cut short after {len(data)} bytes")
    if end > len(data):
        raise cut
    lines = _BLOCK_LINES[header.compression]
    for index, (offset,) in enumerate(struct.iter_unpack("<Q", data[header.table : end])):
        if not end <= offset <= len(data) - 8:
            raise cut
        first = index * lines
        line, size = struct.unpack_from("<2i", data, offset)
        if line != header.data.top + first or size < 0:
            raise FrameError(str(location), f"the EXR is damaged near byte {offset}")
        if offset + 8 + size > len(data):
            raise cut
        whole = min(lines, header.height - first) * header.line_bytes
        if header.compression in (_ZIP, _ZIPS) and size < whole:  # a block that would not shrink is stored as it is
            _check_zlib(data[offset + 8 : offset + 8 + size], whole, location, offset)


def _check_zlib(block: bytes, size: int, location: Location, offset: int) -> None:
    inflater = Inflater()
    try:
        whole = len(inflater.inflate(block, limit=size + 1)) == size  # compares the checksum when it meets the end
    except InflateError:
        whole = False
    if not whole or not inflater.is_done:
        raise FrameError(str(location), f"the EXR is damaged near byte {offset}")
