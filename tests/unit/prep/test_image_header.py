"""What photographs say of themselves: orientation and focal length, from files that PIL writes."""

import io
import math

import numpy as np
import pytest
from PIL import Image
from PIL.ExifTags import IFD, Base
from PIL.TiffImagePlugin import IFDRational

from vdaprep.shards.pictures.header import read_header

ORIENTATION = {Base.Orientation: 6}
FILM = {Base.FocalLengthIn35mmFilm: 26}
PLANE = {
    Base.FocalLength: IFDRational(50),
    Base.FocalPlaneXResolution: IFDRational(4000),
    Base.FocalPlaneResolutionUnit: 3,
}


def photograph(kind: str, tags: dict[int, object], exif: dict[int, object], *, size: tuple[int, int]) -> bytes:
    found = Image.Exif()
    found.update(tags)
    found.get_ifd(IFD.Exif).update(exif)
    data = io.BytesIO()
    Image.fromarray(np.zeros((size[1], size[0], 3), np.uint8)).save(data, kind, exif=found.tobytes())
    return data.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize(
    ("tags", "exif", "focal_px"),
    [
        ({}, {}, None),
        ({}, FILM, 26 / math.hypot(36, 24) * 500),
        ({}, {Base.FocalLengthIn35mmFilm: 0}, None),  # not known, says the standard
        ({}, {Base.FocalLengthIn35mmFilm: 1}, None),  # wider than any camera
        ({}, {Base.FocalLengthIn35mmFilm: 60000}, None),
        ({}, PLANE, 50 * 400.0),
        ({}, {**PLANE, Base.ExifImageWidth: 4000}, 50 * 400 / 10),  # of a tenth of the size it was taken in
        ({}, {**PLANE, Base.FocalPlaneResolutionUnit: 9}, None),
        ({}, {Base.FocalLength: IFDRational(50)}, None),
        (ORIENTATION, FILM, 26 / math.hypot(36, 24) * 500),
    ],
)
def test_focal_length_in_pixels(kind: str, tags: dict, exif: dict, focal_px: float | None) -> None:
    header = read_header(photograph(kind, tags, exif, size=(400, 300)))
    assert header is not None
    assert (header.width, header.height) == ((300, 400) if tags else (400, 300))
    assert header.focal_px == (None if focal_px is None else pytest.approx(focal_px))
    fx, fy, cx, cy = header.intrinsics
    assert math.isnan(fx) if focal_px is None else (fx, cx, cy) == (fy, (header.width - 1) / 2, (header.height - 1) / 2)


@pytest.mark.parametrize("data", [b"", b"GIF89a", b"\xff\xd8\xff\xe1\0\x08Exif\0\0", b"II*\0\xff\xff\xff\xff"])
def test_what_is_no_photograph_has_no_header(data: bytes) -> None:
    assert read_header(data) is None
