"""What a photograph says of itself: size, orientation, focal length; no pixel is decoded.

The focal length in pixels comes from Exif. `FocalLengthIn35mmFilm` f is that of a frame of 36 x 24 mm whose diagonal is
the image's: f / hypot(36, 24) * hypot(width, height). Else it is `FocalLength` times the pixels a millimetre of the
focal plane, scaled with the image if that was made smaller. It is left out where neither is there or the view would be
wider than 157 or narrower than 1 degree.
"""

import io
import math
import struct
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from PIL import Image, UnidentifiedImageError
from PIL.ExifTags import IFD, Base

from vdaprep.storage.limits import MAX_FRAME_PIXELS, LimitError

FORMATS = ("JPEG", "PNG", "TIFF", "WEBP")
"""Formats of photographs."""
BROKEN = (
    *(UnidentifiedImageError, OSError, EOFError, struct.error),
    *(ValueError, SyntaxError, KeyError, IndexError, TypeError, ArithmeticError),
)
"""What PIL raises for images that it cannot read."""
_SIDEWAYS = (5, 6, 7, 8)  # orientations that exchange width and height
_FILM_MM = math.hypot(36, 24)
_UNIT_MM = {2: 25.4, 3: 10.0, 4: 1.0, 5: 0.001}  # of the focal plane's resolution
_WIDEST, _NARROWEST = 0.1, 57.0  # focal lengths as a share of the long side


@dataclass(frozen=True)
class ImageHeader:
    """What is known of an image before it is decoded."""

    width: int
    """Pixels of the image as it is shown."""
    height: int
    """Pixels of the image as it is shown."""
    kind: str
    """One of FORMATS."""
    mode: str
    """PIL's name of what a pixel is, such as `RGB`, `CMYK` or `I;16`."""
    orientation: int
    """Exif's number of how the stored pixels are turned to be shown, 1 to 8; 1: not at all."""
    pictures: int
    """Pictures in the file: more than 1 of one that moves, or has pages."""
    focal_px: float | None
    """Focal length in pixels of the image as stored; None where it is not known."""

    @property
    def intrinsics(self) -> tuple[float, float, float, float]:
        """Return fx, fy, cx, cy with the principal point in the middle; nan without a focal length."""
        if self.focal_px is None:
            return math.nan, math.nan, math.nan, math.nan
        return self.focal_px, self.focal_px, (self.width - 1) / 2, (self.height - 1) / 2


def read_header(data: bytes) -> ImageHeader | None:
    """Read an image's header.

    Returns:
        What it says; None if it is none of FORMATS, or damaged.

    Raises:
        LimitError: It has more pixels than a frame may have.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of large pictures, for which there is a limit of our own
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                return _header_of(image)
    except Image.DecompressionBombError as error:
        raise LimitError("", f"has more than {MAX_FRAME_PIXELS} pixels by its header.") from error
    except BROKEN:
        return None


def _header_of(image: Image.Image) -> ImageHeader:
    exif = _exif_of(image)
    kind = "JPEG" if image.format == "MPO" else image.format or ""  # of cameras that put a preview behind the picture
    # PIL has exchanged the sides of a TIFF already.
    found = exif.get(Base.Orientation, 1)
    orientation = found if found in range(1, 9) else 1
    width, height = image.size
    if orientation in _SIDEWAYS and image.format != "TIFF":
        width, height = height, width
    return ImageHeader(
        width=width,
        height=height,
        kind=kind,
        mode=image.mode,
        orientation=orientation,
        pictures=1 if kind == "JPEG" else getattr(image, "n_frames", 1),
        focal_px=_focal_px(exif.get_ifd(IFD.Exif), width=width, height=height),
    )


def _exif_of(image: Image.Image) -> Image.Exif:
    """Return the tags; of a PNG, PIL would decode the whole image in search of them."""
    if image.format == "TIFF":
        return image.getexif()
    exif = Image.Exif()
    exif.load(image.info.get("exif", b""))
    return exif


def _focal_px(tags: Mapping[int, Any], *, width: int, height: int) -> float | None:
    found = _of_film(tags, width, height) or _of_focal_plane(tags, width, height)
    usable = found is not None and _WIDEST <= found / max(width, height) <= _NARROWEST
    return found if usable else None


def _of_film(tags: Mapping[int, Any], width: int, height: int) -> float | None:
    film_mm = _number(tags, Base.FocalLengthIn35mmFilm)
    return None if film_mm is None else film_mm / _FILM_MM * math.hypot(width, height)


def _of_focal_plane(tags: Mapping[int, Any], width: int, height: int) -> float | None:
    focal_mm, resolution = _number(tags, Base.FocalLength), _number(tags, Base.FocalPlaneXResolution)
    unit_mm = _UNIT_MM.get(int(_number(tags, Base.FocalPlaneResolutionUnit) or 2))
    if focal_mm is None or resolution is None or unit_mm is None:
        return None
    taken = [_number(tags, tag) for tag in (Base.ExifImageWidth, Base.ExifImageHeight)]
    longest = max((side for side in taken if side is not None), default=max(width, height))
    return focal_mm * resolution / unit_mm * max(width, height) / longest


def _number(tags: Mapping[int, Any], tag: int) -> float | None:
    """Return a positive finite number; None for anything else."""
    value = tags.get(tag)
    number = math.nan if value is None else float(value)
    return number if 0 < number < math.inf else None
