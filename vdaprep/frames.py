"""What a raw data set is made of: trajectories, cameras, frames; and the reading of the files they lie in."""

import functools
import io
import re
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float32, Float64, UInt8, UInt16

from vdaprep.archive import Location
from vdaprep.errors import FrameError

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_CHUNK = struct.Struct(">I4s")  # the length of the data and the kind
_JPEG_MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])")  # in coded data ff goes with 00 and restarts d0 to d7 only
_JPEG_END = b"\xd9"
_NPY_HEADER_BYTES = 1 << 16  # of version 2, whose own length numpy reads; longer ones it refuses


@dataclass(frozen=True)
class FrameFiles:
    """The files of one frame; None where the raw tree has no such file."""

    frame_id: int
    rgb: Location | None
    depth: Location | None


@dataclass(frozen=True)
class Trajectory:
    """One camera's path: frames in order of their numbers, and the files they share (poses, intrinsics)."""

    name: str
    layout: str
    frames: tuple[FrameFiles, ...]
    shared: Mapping[str, Location] = field(default_factory=dict[str, Location])

    @property
    def frame_ids(self) -> tuple[int, ...]:
        """The frames' numbers, ascending."""
        return tuple(frame.frame_id for frame in self.frames)


@dataclass(frozen=True)
class SourceOptions:
    """What a user may say about a raw data set: the `camera` to read, `intrinsics` (fx, fy, cx, cy) in raw pixels.

    `depth_unit_m`: metres of a unit of integer depth, where the data set cannot know.
    """

    camera: int = 0
    intrinsics: tuple[float, float, float, float] | None = None
    depth_unit_m: float | None = None


@dataclass(frozen=True)
class Cameras:
    """The cameras of a trajectory of N frames, in raw pixels and metres, OpenCV axes.

    `camera_to_world` is None where the data set has no poses; `problems` says of a frame's index why its camera is
    unusable (its rows then hold nan). `size` (width, height) is that of the images that the intrinsics are for, None
    if they are for whatever size the images have.
    """

    intrinsics: Float64[np.ndarray, "n 4"]
    camera_to_world: Float64[np.ndarray, "n 4 4"] | None
    problems: Mapping[int, str] = field(default_factory=dict[int, str])
    size: tuple[int, int] | None = None


@dataclass(frozen=True)
class RgbImage:
    """A decoded frame, and its own JPEG bytes if the source is a JPEG that can be passed on."""

    pixels: UInt8[np.ndarray, "h w 3"]
    jpeg: bytes | None = None


@dataclass(frozen=True)
class Frame:
    """One usable frame: depth in metres along z (nan unknown, inf sky), intrinsics fx, fy, cx, cy in its own pixels."""

    frame_id: int
    rgb: RgbImage
    depth_m: Float32[np.ndarray, "h w"]
    intrinsics: Float64[np.ndarray, "4"]
    camera_to_world: Float64[np.ndarray, "4 4"] | None


def make_frame(
    files: FrameFiles, rgb: RgbImage, depth_m: Float32[np.ndarray, "_h _w"], cameras: Cameras, index: int
) -> Frame:
    """Put a frame together; raises FrameError if its parts do not fit or its camera is unusable."""
    height, width = rgb.pixels.shape[:2]
    if depth_m.shape != (height, width):
        found, expected = _size(depth_m.shape), _size((height, width))
        raise FrameError(str(files.depth), f"the depth map is {found} pixels, the image is {expected}")
    if index in cameras.problems:
        raise FrameError(str(files.rgb), cameras.problems[index])
    intrinsics = cameras.intrinsics[index]
    if cameras.size is not None and cameras.size != (width, height):
        intrinsics = _intrinsics_of_copy(intrinsics, cameras.size, (width, height), files)
    pose = None if cameras.camera_to_world is None else cameras.camera_to_world[index]
    return Frame(files.frame_id, rgb, depth_m, intrinsics, pose)


def _intrinsics_of_copy(
    intrinsics: Float64[np.ndarray, "4"], known: tuple[int, int], found: tuple[int, int], files: FrameFiles
) -> Float64[np.ndarray, "4"]:
    """Scale the intrinsics of a known camera to a resized copy of its images; another aspect is another camera."""
    x, y = found[0] / known[0], found[1] / known[1]
    if abs(x / y - 1) > 0.01:
        raise FrameError(
            str(files.rgb),
            f"is {found[0]}x{found[1]} pixels, the data set's camera has {known[0]}x{known[1]}; "
            "say what this camera is with --intrinsics fx,fy,cx,cy",
        )
    return scale_intrinsics(intrinsics, x=x, y=y)


def fit_short_side(frame: Frame, short_side: int | None) -> Frame:
    """Scale a frame down so that its short side is `short_side` pixels (None: as it is); never up.

    RGB is averaged over areas, depth takes the nearest pixel, intrinsics follow with pixel centres at integers.
    """
    height, width = frame.depth_m.shape
    if short_side is None or min(height, width) <= short_side:
        return frame
    ratio = short_side / min(height, width)
    rows, columns = max(1, round(height * ratio)), max(1, round(width * ratio))
    pixels = cv2.resize(frame.rgb.pixels, (columns, rows), interpolation=cv2.INTER_AREA)
    nearest = np.ix_(_centres(rows, height), _centres(columns, width))
    intrinsics = scale_intrinsics(frame.intrinsics, x=columns / width, y=rows / height)
    return replace(frame, rgb=RgbImage(pixels), depth_m=frame.depth_m[nearest], intrinsics=intrinsics)


def scale_intrinsics(intrinsics: Float64[np.ndarray, "4"], *, x: float, y: float) -> Float64[np.ndarray, "4"]:
    """Scale fx, fy, cx, cy to an image that is `x` times as wide and `y` times as high; pixel centres at integers."""
    fx, fy, cx, cy = intrinsics
    return np.array([fx * x, fy * y, (cx + 0.5) * x - 0.5, (cy + 0.5) * y - 0.5])


def _centres(count: int, source: int) -> np.ndarray:
    return ((np.arange(count) + 0.5) * source / count).astype(np.intp)


def _size(shape: Sequence[int]) -> str:
    return f"{shape[1]}x{shape[0]}" if len(shape) > 1 else "x".join(map(str, shape))


# ------------------------------------------------------------------------------------------------------ file formats


def parse_png(data: bytes, location: Location) -> UInt8[np.ndarray, "h w 3"]:
    """Decode a PNG to RGB; raises FrameError if it is cut short or damaged anywhere (every chunk's CRC is compared)."""
    _check_png(data, location)
    return _decode_image(data, location, cv2.IMREAD_COLOR_RGB)


def parse_png16(data: bytes, location: Location) -> UInt16[np.ndarray, "h w"]:
    """Decode a PNG of one channel of 16 bits; raises FrameError for any other, and as `parse_png` does."""
    _check_png(data, location)
    image = _decode_image(data, location, cv2.IMREAD_UNCHANGED)
    if image.dtype != np.uint16 or image.ndim != 2:
        channels = "one channel" if image.ndim == 2 else f"{image.shape[2]} channels"
        found = f"{channels} of {8 * image.itemsize} bits"
        raise FrameError(str(location), f"is a PNG of {found}, expected one channel of 16 bits")
    return image


def parse_png_floats(data: bytes, location: Location) -> Float32[np.ndarray, "h w"]:
    """Decode a PNG of four channels of 8 bits that are, in OpenCV's order, the bytes of a float32; raises as above."""
    _check_png(data, location)
    image = _decode_image(data, location, cv2.IMREAD_UNCHANGED)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 4:
        found = f"{1 if image.ndim == 2 else image.shape[2]} channels of {8 * image.itemsize} bits"
        raise FrameError(str(location), f"is a PNG of {found}, expected four channels of 8 bits that hold a float32")
    return image.view("<f4")[..., 0].astype(np.float32, copy=False)


def png_size(data: bytes, location: Location) -> tuple[int, int]:
    """Return (width, height) from a PNG's header; raises FrameError if it is none."""
    if data[:8] != _PNG_SIGNATURE or len(data) < 24:
        raise FrameError(str(location), "is not a PNG")
    return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")


def _check_png(data: bytes, location: Location) -> None:
    if data[:8] != _PNG_SIGNATURE:
        raise FrameError(str(location), "is not a PNG")
    view, size, position, kind = memoryview(data), len(data), 8, b""
    while kind != b"IEND":
        length, kind = _PNG_CHUNK.unpack_from(data, position) if position + 12 <= size else (size, b"")
        end = position + 12 + length
        if end > size:
            raise FrameError(str(location), f"the PNG is cut short after {size} bytes")
        if zlib.crc32(view[position + 4 : end - 4]).to_bytes(4, "big") != data[end - 4 : end]:
            raise FrameError(str(location), f"the PNG is damaged near byte {position}")
        position = end


def parse_jpeg(data: bytes, location: Location) -> RgbImage:
    """Decode a JPEG and keep its bytes up to its end marker; raises FrameError if it has none."""
    if data[:2] != b"\xff\xd8":
        raise FrameError(str(location), "is not a JPEG")
    end = _jpeg_end(data)
    if end is None:  # cv2 would fill what is missing with grey
        raise FrameError(str(location), f"the JPEG is cut short after {len(data)} bytes")
    return RgbImage(_decode_image(data[:end], location, cv2.IMREAD_COLOR_RGB), jpeg=data[:end])


def _jpeg_end(data: bytes) -> int | None:
    """Walk the segments, for a thumbnail inside one has an end marker too; returns where the image's own ends."""
    position = 2
    while match := _JPEG_MARKER.search(data, position):
        if match[1] == _JPEG_END:
            return match.end()
        position = match.end() + int.from_bytes(data[match.end() : match.end() + 2], "big")
    return None


def _decode_image(data: bytes, location: Location, flags: int) -> np.ndarray:
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
