"""JPEGs to pixels, and the decoding that all kinds of images have in common."""

import re

import cv2
import numpy as np

from vdaprep.errors import FrameError
from vdaprep.raw.frames import RgbImage
from vdaprep.raw.tree import Location

_JPEG_MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])")  # not the ff 00 and ff d0 to ff d7 of coded data
_JPEG_END = b"\xd9"


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
