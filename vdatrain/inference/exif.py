"""The camera of a photograph, by its EXIF metadata (Exif 3.0, JEITA CP-3451G, 4.6.6).

    focal length in pixels = focal length * pixels a millimetre of the focal plane        where both are stated
                           = 35 mm equivalent * diagonal in pixels / diagonal of 36 x 24 mm   otherwise

The focal plane's resolution is of the picture as it was taken; one that was made smaller since keeps it, and says in
PixelXDimension how large it was. The equivalent is of the angle of view over the diagonal, and a whole number of
millimetres: 2 % at 26 mm. Pixels are square and the principal point is the middle. A picture that was cropped since it
was taken has another camera than its metadata say; that cannot be told.
"""

import math
import struct
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64
from PIL import Image, UnidentifiedImageError
from PIL.ExifTags import IFD, Base

_MILLIMETRES = {2: 25.4, 3: 10.0, 4: 1.0, 5: 0.001}  # of a FocalPlaneResolutionUnit
_FILM_DIAGONAL_MM = math.hypot(36, 24)
_NARROWEST = 1000  # focal lengths in sides of a picture that are believed, at most, and their inverse
_BROKEN = (
    *(UnidentifiedImageError, Image.DecompressionBombError, OSError, EOFError, struct.error),
    *(ValueError, SyntaxError, KeyError, IndexError, TypeError, AttributeError, ZeroDivisionError),
)


def intrinsics_of_photograph(path: Path, *, width: int, height: int) -> Float64[np.ndarray, "4"] | None:
    """Return fx, fy, cx, cy in pixels of width x height; None where a picture does not say."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what else is wrong in the file, which reading the pixels tells
            with Image.open(path) as image:
                tags = image.getexif().get_ifd(IFD.Exif)
        focal_px = _by_focal_plane(tags, width=width, height=height) or _by_equivalent(tags, width=width, height=height)
    except _BROKEN:
        return None
    if focal_px is None:
        return None
    return np.array([focal_px, focal_px, (width - 1) / 2, (height - 1) / 2])


def _by_focal_plane(tags: dict[int, Any], *, width: int, height: int) -> float | None:
    focal_mm, resolution = _number(tags, Base.FocalLength), _number(tags, Base.FocalPlaneXResolution)
    taken = max(_number(tags, Base.ExifImageWidth) or 0, _number(tags, Base.ExifImageHeight) or 0)
    unit_mm = _MILLIMETRES.get(int(_number(tags, Base.FocalPlaneResolutionUnit) or 2))
    if not (focal_mm and resolution and taken and unit_mm):
        return None
    return _believed(focal_mm * resolution / unit_mm * max(width, height) / taken, max(width, height))


def _by_equivalent(tags: dict[int, Any], *, width: int, height: int) -> float | None:
    equivalent_mm = _number(tags, Base.FocalLengthIn35mmFilm)  # 0: unknown
    if not equivalent_mm:
        return None
    return _believed(equivalent_mm * math.hypot(width, height) / _FILM_DIAGONAL_MM, max(width, height))


def _number(tags: dict[int, Any], tag: Base) -> float | None:
    value = tags.get(tag)
    number = math.nan if value is None else float(value)
    return number if math.isfinite(number) and number > 0 else None


def _believed(focal_px: float, side_px: int) -> float | None:
    """Return a focal length that a camera can have, else None."""
    return focal_px if side_px / _NARROWEST < focal_px < side_px * _NARROWEST else None
