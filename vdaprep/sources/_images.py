"""Images and depth maps as most data sets have them: PNG or JPEG, metres as whole numbers."""

import functools
from typing import Literal

import numpy as np
from jaxtyping import Float32

from vdaprep.raw.frames import RgbImage
from vdaprep.raw.images import parse_jpeg
from vdaprep.raw.png import parse_png
from vdaprep.raw.tree import Location
from vdaprep.shards.depth_codes import SKY_CODE, depth_table
from vdaprep.sources import _manifest


def parse_image(data: bytes, location: Location) -> RgbImage:
    """Parse a PNG or, by its name, a JPEG, which keeps its bytes, to be passed on."""
    if location.member.lower().endswith(".png"):
        return RgbImage(parse_png(data, location))
    return parse_jpeg(data, location)


@functools.cache
def integer_depth(dataset: str, *, greatest: Literal["sky", "unknown"]) -> Float32[np.ndarray, "65536"]:
    """Return the metres of each whole number in a data set's depth maps: nan for 0.

    They are those that depth codes of kind `linear` decode to. `greatest`: what 65535 means.
    """
    table = depth_table(_manifest.load(dataset).depth_spec(relative_error=0.0))
    if greatest == "unknown":
        table = table.copy()
        table[SKY_CODE] = np.nan
    return table
