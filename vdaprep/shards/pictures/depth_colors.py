"""Depth as colours: near is bright, sky blue, unknown hatched, with a bar of metres."""

import math
from collections.abc import Iterator, Sequence

import cv2
import numpy as np
from jaxtyping import Bool, Float32, UInt8

SKY_RGB = (135, 180, 235)
_HATCH = (104, 168)  # grey levels of the stripes, neither of which the colour map has as a grey
_STRIPE = 4  # pixels
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_TEXT = 0.45  # scale of the font: capitals of 10 pixels
_SMALLEST = 0.3
_INK = (40, 40, 40)
_BAR, _TICK, _LINE = 14, 5, 20  # pixels: heights of the colour bar, of its ticks, and of a line of text
_MARGIN = 6
_ROUND_ENOUGH = 4  # round depths on a colour bar, without which others are shown
_ROOM = 14  # pixels between the texts of two ticks


def near_is_bright(level: UInt8[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """Colour disparity, 0 (far) to 255 (near)."""
    return cv2.cvtColor(cv2.applyColorMap(level, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)


def colour_depth(
    depth_m: Float32[np.ndarray, "h w"], *, disparity_min: float, disparity_max: float
) -> UInt8[np.ndarray, "h w 3"]:
    """Colour depth by its disparity.

    Args:
        depth_m: Metres along z; nan where unknown, inf for sky.
        disparity_min: 1/m of the darkest colour.
        disparity_max: 1/m of the brightest colour.

    Returns:
        RGB; sky in SKY_RGB, unknown hatched.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        level = (1 / depth_m - disparity_min) / max(disparity_max - disparity_min, 1e-9)
    colours = near_is_bright((np.nan_to_num(level).clip(0, 1) * 255).astype(np.uint8))
    colours[np.isinf(depth_m)] = SKY_RGB
    return hatch(colours, np.isnan(depth_m))


def hatch(picture: UInt8[np.ndarray, "h w 3"], where: Bool[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """Return a picture with grey diagonal stripes at some pixels, which no colour map has."""
    y, x = np.indices(where.shape)
    stripes = np.array(_HATCH, np.uint8)[(x + y) // _STRIPE % 2]
    return np.where(where[..., None], stripes[..., None], picture)


def write_text(picture: UInt8[np.ndarray, "h w 3"], text: str, *, left: int, base: int) -> None:
    """Write a line of text into a picture, its lower edge at row `base`."""
    cv2.putText(picture, text, (left, base), _FONT, _TEXT, _INK, 1, cv2.LINE_AA)


def text_line(text: str, width: int, *, height: int = _LINE) -> UInt8[np.ndarray, "h w 3"]:
    """Return a white strip with a line of text, made smaller, then cut, until it fits."""
    strip = np.full((height, width, 3), 255, np.uint8)
    scale = _TEXT
    while _width_of(text, scale) > width - 4 and len(text) > 1:
        if scale > _SMALLEST:
            scale = max(_SMALLEST, scale * (width - 4) / _width_of(text, scale) - 0.005)
        else:
            text = f"{text[: (len(text) - 4) // 2]}..{text[(len(text) + 3) // 2 :]}" if len(text) > 5 else text[:-1]
    cv2.putText(strip, text, (2, height - 6), _FONT, scale, _INK, 1, cv2.LINE_AA)
    return strip


def depth_legend(
    width: int, *, disparity_min: float, disparity_max: float, is_metric: bool = True
) -> UInt8[np.ndarray, "h w 3"]:
    """Return a strip that explains `colour_depth`: a bar with metres, sky and unknown.

    Args:
        width: Pixels of the strip.
        disparity_min: 1/m of the darkest colour, 0 or more.
        disparity_max: 1/m of the brightest colour; not above `disparity_min` if no depth is known.
        is_metric: Whether these are 1/m; of relative disparity the bar says far and near.
    """
    strip = np.full((_BAR + _TICK + _LINE + _LINE, width, 3), 255, np.uint8)
    length = width - 2 * _MARGIN
    if disparity_max > disparity_min and length > 1:
        ramp = np.linspace(0, 255, length).round().astype(np.uint8)
        strip[:_BAR, _MARGIN : _MARGIN + length] = near_is_bright(np.tile(ramp, (_BAR, 1)))
        ticks = _ticks(length, disparity_min=disparity_min, disparity_max=disparity_max) if is_metric else _ends(length)
        for column, text in ticks:
            at = _MARGIN + column
            strip[_BAR : _BAR + _TICK, at] = _INK
            left = min(max(at - _width_of(text) // 2, 0), width - _width_of(text))
            write_text(strip, text, left=left, base=_BAR + _TICK + _LINE - 6)
    else:
        write_text(strip, "depth range unknown", left=_MARGIN, base=_BAR)
    base = strip.shape[0] - 6
    left = _MARGIN
    for name, swatch in (("sky", None), ("unknown", True)):
        box = strip[base - 11 : base + 1, left : left + 24]
        box[:] = SKY_RGB if swatch is None else hatch(box.copy(), np.ones(box.shape[:2], bool))
        write_text(strip, name, left=left + 30, base=base)
        left += 30 + _width_of(name) + _ROOM
    return strip


def _ends(length: int) -> Iterator[tuple[int, str]]:
    """Yield the ends of a colour bar of relative disparity."""
    yield 0, "far"
    yield length - 1, "near (relative)"


def _ticks(length: int, *, disparity_min: float, disparity_max: float) -> Iterator[tuple[int, str]]:
    """Yield columns of a colour bar and their metres: both ends, and round numbers."""
    taken: list[tuple[float, float]] = []
    ratio = disparity_max / disparity_min if disparity_min > 0 else math.inf
    digits = max(3, 2 - math.floor(math.log10(ratio - 1))) if 1 + 1e-9 < ratio < math.inf else 3
    for depth_m in _depths_to_show(disparity_min, disparity_max):
        disparity = 1 / depth_m if depth_m else 0.0
        column = round((length - 1) * (disparity - disparity_min) / (disparity_max - disparity_min))
        text = f"{depth_m:.0f} m" if depth_m >= 1000 else f"{depth_m:.{digits}g} m"
        half = _width_of(text) / 2 + _ROOM / 2
        # At the ends the text is moved inwards, so that it takes the room beside the tick.
        first, last = column - half, column + half
        if first < 0 or last > length:
            first, last = (0, 2 * half) if first < 0 else (length - 2 * half, length)
        if all(last <= other[0] or first >= other[1] for other in taken):
            taken.append((first, last))
            yield column, text


def _depths_to_show(disparity_min: float, disparity_max: float) -> Sequence[float]:
    """Return the nearest and the farthest depth, then round ones between, the roundest first."""
    near = 1 / disparity_max
    far = 1 / disparity_min if disparity_min > 0 else 1000 * near
    powers = range(math.floor(math.log10(near)), math.ceil(math.log10(far)) + 1)
    steps = (1, 2, 5, 3, 1.5, 4, 7, 2.5)
    inside = [step * 10.0**power for step in steps for power in powers if near < step * 10.0**power < far]
    ends = [near, far] if disparity_min > 0 else [near]
    even = [1 / value for value in np.linspace(disparity_min, disparity_max, 6)[1:-1].tolist()]
    return [*ends, *inside, *(even if len(inside) < _ROUND_ENOUGH else [])]


def _width_of(text: str, scale: float = _TEXT) -> int:
    (width, _), _ = cv2.getTextSize(text, _FONT, scale, 1)
    return width
