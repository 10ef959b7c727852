"""Whether images agree with depth: grey levels of equal points, seen from two places."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from vdaprep.analysis.warping import View, Warped, frames_away, warp_points

Rgb = UInt8[np.ndarray, "h w 3"]
Grey = Float32[np.ndarray, "h w"]

_POINTS = 5000
_FEWEST = 200  # points that both views must see
_SAME = 0.05  # relative error of depth of what is the same point in both
_PLAIN = 6.0  # standard deviation of grey levels below which there is nothing to compare
_UNLIKE = 0.85  # a correlation that is worth a look at images farther away
_ALIKE = 0.975  # a correlation that leaves nothing to explain
_BETTER = 0.65  # another hypothesis is clearly better with at most this share of what lacks to 1, and all pairs agree
_GAIN = 0.05  # a difference of correlations that is no chance
_APART = 0.2  # a correlation that images of the same place exceed
_OFFSETS = (-1, 1, -2, 2, -3, 3, -4, 4, -5, 5)  # frames by which images may be shifted
_BLUR = 1.5  # pixels: what JPEG and a nearest neighbour in depth do is no difference

_TURNS: dict[str, Callable[[Grey], Grey]] = {
    "images look mirrored against their depth maps: turned back left to right, they fit": lambda grey: grey[:, ::-1],
    "images look upside down against their depth maps: mirrored top to bottom, they fit": lambda grey: grey[::-1],
    "images look upside down against their depth maps: turned by 180 degrees, they fit": lambda grey: grey[::-1, ::-1],
}


@dataclass(frozen=True, eq=False)
class Sighting:
    """Two views of a trajectory between which the camera has moved, and the images near them."""

    first: View
    """The first view."""
    last: View
    """The last view."""
    image: Callable[[bool, int], Rgb | None]
    """Returns the image an offset in frames from the first (False) or last view (True); None if there is none."""


class Likeness:
    """Gathers how alike the images of pairs of views are where their depth maps meet."""

    def __init__(self) -> None:
        self._found: list[dict[str, float]] = []

    def add(self, seen: Sighting) -> None:
        """Compare the images of two views, and others where these are not alike."""
        points = warp_points(seen.first, seen.last, points=_POINTS)
        same = np.flatnonzero(points.error < _SAME)
        if len(same) < _FEWEST:
            return
        given = _alike(_greys(seen, 0), points, same)
        if given is None:
            return
        found = {"": given}
        if given < _ALIKE:
            found |= {text: value for text, value in self._others(seen, points, same, given) if value is not None}
        self._found.append(found)

    @staticmethod
    def _others(seen: Sighting, points: Warped, same: np.ndarray, given: float) -> Iterator[tuple[str, float | None]]:
        greys = _greys(seen, 0)
        for text, turn in _TURNS.items():
            yield text, None if greys is None else _alike((turn(greys[0]), turn(greys[1])), points, same)
        for offset in _OFFSETS if given < _UNLIKE else (-1, 1):
            text = f"images and depth maps look shifted: with images {frames_away(offset)}, depth maps fit"
            yield text, _alike(_greys(seen, offset), points, same)

    def misfits(self) -> Iterator[str]:
        """Say what images do not fit, and what would fit clearly better."""
        if not self._found:
            return
        given = float(np.median([found[""] for found in self._found]))
        texts = set(self._found[0]).union(*self._found) - {""}
        left = {text: self._left(text) for text in sorted(texts)}
        best = min(left, key=lambda text: left[text], default="")
        there = float(np.median([found[best] for found in self._found if best in found])) if best else given
        if there > given + _GAIN and left[best] < _BETTER:
            yield f"{best} clearly better (grey levels correlate by {there:.2f} instead of {given:.2f})"
        elif given < _APART:
            yield (
                f"images may not be those of the depth maps: grey levels of the same points correlate by {given:.2f}, "
                f"expected over {_APART:g}"
            )

    def _left(self, text: str) -> float:
        """Return the share of what lacks to 1 that is left under a hypothesis.

        1 unless most pairs gain by it and none loses.
        """
        shares = [(1 - found[text]) / (1 - found[""]) for found in self._found if text in found]
        alike = [found for found in self._found if text not in found and found[""] >= _ALIKE]
        return 1.0 if alike or max(shares) >= 1 or 2 * len(shares) <= len(self._found) else float(np.median(shares))


def _greys(seen: Sighting, offset: int) -> tuple[Grey, Grey] | None:
    images = seen.image(False, offset), seen.image(True, offset)
    if images[0] is None or images[1] is None:
        return None
    return _grey(images[0]), _grey(images[1])


def _grey(rgb: Rgb) -> Grey:
    return cv2.GaussianBlur(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY).astype(np.float32), (0, 0), _BLUR)


def _alike(greys: tuple[Grey, Grey] | None, points: Warped, same: np.ndarray) -> float | None:
    """Return the correlation of grey levels; None where there is but a plain area."""
    if greys is None:
        return None
    first = greys[0][points.rows[same], points.columns[same]]
    x, y = points.x[same].astype(np.float32), points.y[same].astype(np.float32)
    last = cv2.remap(np.ascontiguousarray(greys[1]), x[None], y[None], cv2.INTER_LINEAR)[0]
    if min(first.std(), last.std()) < _PLAIN:
        return None
    value = float(np.corrcoef(first, last)[0, 1])
    return value if math.isfinite(value) else None
