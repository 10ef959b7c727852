"""JPEGs, PPMs and PGMs to pixels, and the decoding that all kinds of images have in common.

Pixels are taken as they are stored: no metadata turns, mirrors or recolours them, since depth maps have none.
"""

import os
import re
import tempfile
import threading
from collections.abc import Callable, Iterator
from typing import Literal

import cv2
import numpy as np
from jaxtyping import UInt8, UInt16

from vdaprep.errors import FrameError
from vdaprep.raw.archives.sniff import found_instead
from vdaprep.raw.frames import RgbImage
from vdaprep.raw.tree import Location
from vdaprep.storage.limits import LimitError, check_pixels

_JPEG_MARKER = re.compile(rb"\xff+([^\x00\x01\xff\xd0-\xd7])")  # not ff 00 and what has no length: 01, d0 to d7
_JPEG_END = 0xD9
_JPEG_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # headers with the size, one for each kind of coding
_JPEG_METADATA = 0xE1  # Exif or XMP
_LIBJPEG = re.compile(rb"(?P<what>(?:Corrupt JPEG data|Premature end of JPEG file)(?:: (?P<extra>\d+) extra)?[^\n]*)\n")
_EXTRA = 16  # bytes before a marker that no damage need have left
_hearing = threading.Lock()
_EXIF = b"Exif\0\0"
_ORIENTATION = 0x0112
_SHORT = 3  # kind of a TIFF value: 16 bits
_XMP_ORIENTATION = re.compile(rb"tiff:Orientation[\s=\"'>]*([^\s\"'<]*)")
_GAP = rb"(?:\s|#[^\r\n]*[\r\n])+"
_NETPBM_HEADER = re.compile(rb"P[56]" + _GAP + rb"(\d{1,7})" + _GAP + rb"(\d{1,7})" + _GAP + rb"(\d{1,5})\s")
_MAX_NETPBM_HEADER_BYTES = 4096


def parse_jpeg(data: bytes, location: Location) -> RgbImage:
    """Decode a JPEG as stored, and keep its bytes; raises FrameError without an end marker.

    Exif or XMP by which other readers would turn the image is cut out of the bytes; the coded pixels stay.
    """
    if data[:2] != b"\xff\xd8":
        raise wrong_kind("a JPEG", data, location)
    segments = list(_segments(data))
    if not segments or segments[-1][0] != _JPEG_END:  # cv2 would fill what is missing with grey
        raise FrameError(str(location), f"the JPEG is cut short after {len(data)} bytes")
    parts: list[bytes] = []
    start = 0
    for marker, begin, end in segments:
        content = data[begin:end].lstrip(b"\xff")[3:]  # after the marker and the length
        if marker in _JPEG_FRAMES:
            _check_frame_header(content, location)
        if marker == _JPEG_METADATA and _turns(content):
            parts.append(data[start:begin])
            start = end
    jpeg = b"".join([*parts, data[start : segments[-1][2]]])
    said, pixels = _hear(lambda: decode_image(jpeg, location, cv2.IMREAD_COLOR_RGB))
    if damage := _damage(said):
        raise FrameError(str(location), f"the JPEG is damaged ({damage}); get it again")
    return RgbImage(pixels, jpeg=jpeg)


def _damage(said: bytes) -> str:
    """Return what libjpeg said of damage inside an image; empty if it said nothing of that.

    It fills what it cannot read with grey. A few bytes before a marker are what some cameras add.
    """
    found = _LIBJPEG.search(said)
    if found is None or int(found["extra"] or _EXTRA + 1) <= _EXTRA:
        return ""
    return found["what"].decode("ascii", "replace").strip()


def _hear(decode: Callable[[], np.ndarray]) -> tuple[bytes, np.ndarray]:
    """Decode, and return what was written to stderr meanwhile, where alone libjpeg warns.

    What is no warning of libjpeg, as of another thread, is passed on.
    """
    with _hearing, tempfile.TemporaryFile() as heard:
        try:
            stderr = os.dup(2)
        except OSError:  # there is none to write to
            return b"", decode()
        os.dup2(heard.fileno(), 2)
        try:
            image = decode()
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            heard.seek(0)
            said = heard.read()
            if others := _LIBJPEG.sub(b"", said):
                os.write(2, others)
    return said, image


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield marker, start and end of each segment, by lengths: thumbnails have ends, too."""
    position = 2
    while match := _JPEG_MARKER.search(data, position):
        marker = match[1][0]
        position = match.end() + int.from_bytes(data[match.end() : match.end() + 2], "big")
        if marker == _JPEG_END:
            yield marker, match.start(), match.end()
            return
        yield marker, match.start(), position


def _check_frame_header(content: bytes, location: Location) -> None:
    """Refuse sizes that no frame has, and colours that readers decode in various ways."""
    check_size(int.from_bytes(content[3:5], "big"), int.from_bytes(content[1:3], "big"), location)
    if content[5:6] not in (b"\1", b"\3"):
        colours = int.from_bytes(content[5:6], "big")
        raise FrameError(str(location), f"is a JPEG of {colours} colours (4 is CMYK), expected grey or RGB")


def _turns(metadata: bytes) -> bool:
    """Tell whether a reader may turn the image, as metadata says so or is not understood."""
    if metadata.startswith(_EXIF):
        return not _is_upright(metadata[len(_EXIF) :])
    return any(value != b"1" for value in _XMP_ORIENTATION.findall(metadata))


def _is_upright(tiff: bytes) -> bool:
    """Tell whether Exif has no orientation, or that of an image stored as it is shown."""
    orders: dict[bytes, Literal["little", "big"]] = {b"II*\0": "little", b"MM\0*": "big"}
    order = orders.get(tiff[:4])
    if order is None:
        return False
    first = int.from_bytes(tiff[4:8], order)
    for number in range(int.from_bytes(tiff[first : first + 2], order)):
        entry = tiff[first + 2 + 12 * number :][:12]
        if len(entry) < 12:
            return False
        tag, kind, count = (int.from_bytes(entry[a:b], order) for a, b in ((0, 2), (2, 4), (4, 8)))
        if tag == _ORIENTATION and (kind, count, int.from_bytes(entry[8:10], order)) != (_SHORT, 1, 1):
            return False
    return True


def parse_pgm16(data: bytes, location: Location) -> UInt16[np.ndarray, "h w"]:
    """Decode a PGM of 16 bits, high bytes first; raises FrameError for anything else."""
    width, height, pixels = _parse_netpbm(data, location, kind="a PGM", magic=b"P5", largest=65535, pixel_bytes=2)
    return np.frombuffer(pixels, ">u2").astype(np.uint16).reshape(height, width)


def parse_ppm(data: bytes, location: Location) -> UInt8[np.ndarray, "h w 3"]:
    """Decode a PPM of 8 bits; raises FrameError for anything else."""
    width, height, pixels = _parse_netpbm(data, location, kind="a PPM", magic=b"P6", largest=255, pixel_bytes=3)
    return np.frombuffer(pixels, np.uint8).reshape(height, width, 3)


def _parse_netpbm(
    data: bytes, location: Location, *, kind: str, magic: bytes, largest: int, pixel_bytes: int
) -> tuple[int, int, memoryview]:
    """Return width, height and the bytes of the pixels, whose number is as the header says."""
    header = _NETPBM_HEADER.match(data, 0, _MAX_NETPBM_HEADER_BYTES)
    if header is None or data[:2] != magic:
        raise wrong_kind(kind, data, location)
    width, height, found = map(int, header.groups())
    check_size(width, height, location)
    if found != largest:
        raise FrameError(str(location), f"is {kind} whose largest value is {found}, expected {largest}")
    pixels = memoryview(data)[header.end() :]
    expected = pixel_bytes * width * height
    if len(pixels) != expected:
        what = "is cut short" if len(pixels) < expected else "goes on after its end"
        reason = f"{what}: it has {len(pixels)} bytes for {width}x{height} pixels, expected {expected}"
        raise FrameError(str(location), reason)
    return width, height, pixels


def wrong_kind(expected: str, data: bytes, location: Location) -> FrameError:
    """Return the error for a file that does not begin as `expected`, saying what it is."""
    head = data[:512]
    other = next((name for name, start in _OTHER_KINDS.items() if start.match(head)), "")
    found = f"it is {other}: rename or convert it" if other else found_instead(head, location.member.rpartition("/")[2])
    return FrameError(str(location), f"is not {expected}{f' ({found})' if found else ''}")


_OTHER_KINDS = {
    name: re.compile(start, re.DOTALL)
    for name, start in {
        "a JPEG": rb"\xff\xd8\xff", "a PNG": rb"\x89PNG\r\n", "a WebP": rb"RIFF....WEBP", "a GIF": rb"GIF8[79]a",
        "a TIFF": rb"II[*+]\0|MM\0[*+]", "a BMP": rb"BM....\0\0\0\0", "an EXR": rb"\x76\x2f\x31\x01",
        "a HEIC or AVIF": rb"....ftyp(?:hei|mif|avif|avis)", "a JPEG 2000": rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51",
        "a JPEG XL": rb"\xff\x0a|\0\0\0\x0cJXL ", "a Radiance HDR": rb"#\?(?:RADIANCE|RGBE)",
        "a PFM": rb"P[Ff]\s", "a PGM or PPM": rb"P[1-6]\s", "a .npy": rb"\x93NUMPY", "a zip or .npz": rb"PK\x03\x04",
        "a gzip": rb"\x1f\x8b", "a pickle": rb"\x80[\x02-\x05]", "an HDF5": rb"\x89HDF",
    }.items()
}  # fmt: skip


def check_size(width: int, height: int, location: Location) -> None:
    """Raise FrameError for a header's size that no frame can have; nothing is decoded yet."""
    try:
        check_pixels(width, height)
    except LimitError as error:
        raise FrameError(str(location), error.reason.rstrip(".")) from error


def decode_image(data: bytes, location: Location, flags: int, *, turned: bool = False) -> np.ndarray:
    """Decode a whole image as cv2 does with `flags`; raises FrameError if that fails.

    The size that its header says must have been checked. It is as stored, or `turned` as Exif says.
    """
    try:
        flags |= 0 if turned else cv2.IMREAD_IGNORE_ORIENTATION
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:  # a size that no image has
        raise FrameError(str(location), "the image cannot be decoded") from error
    if image is None:
        raise FrameError(str(location), "the image cannot be decoded")
    return image
