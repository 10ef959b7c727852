"""Statistics of data sets for the screen, a column each, and as panels of a picture."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float64, UInt8

from vdaprep.analysis.stats import DEPTH_EDGES_M, DatasetStats
from vdaprep.storage.atomic import new_file

_SCALE = 2  # drawn larger, so that lines and letters have smooth edges
_WIDTH, _HEIGHT = 520 * _SCALE, 330 * _SCALE
_LEFT, _RIGHT, _TOP, _BOTTOM = (side * _SCALE for side in (28, 22, 46, 52))
_LEGEND = 44 * _SCALE
_INK, _FAINT, _GRID, _PAPER = (40, 40, 40), (110, 110, 110), (228, 228, 228), (255, 255, 255)
# Okabe and Ito's colours, which colour-blind readers can tell apart.
_COLOURS = ((0, 114, 178), (230, 159, 0), (0, 158, 115), (204, 121, 167), (213, 94, 0), (86, 180, 233), (90, 90, 90))
_PARTS = ((68, 119, 170), (102, 204, 238), (204, 187, 68), (238, 102, 119), (187, 187, 187))  # Paul Tol's "bright"
_FONT = cv2.FONT_HERSHEY_SIMPLEX

Canvas = UInt8[np.ndarray, "h w 3"]
Point = tuple[int, int]


@dataclass(frozen=True, eq=False)
class Curve:
    """A histogram: `counts[i]` between `edges[i]` and `edges[i + 1]`; both empty if there is nothing to show."""

    edges: Float64[np.ndarray, " n"]
    counts: Float64[np.ndarray, " m"]


@dataclass(frozen=True)
class Bar:
    """Parts that are stacked: name and length."""

    parts: Sequence[tuple[str, float]]


@dataclass(frozen=True)
class Panel:
    """A chart: one curve, or one bar, for each of the names that the picture is drawn with."""

    title: str
    unit: str
    items: Sequence[Curve | Bar]
    is_log: bool = False


def draw(panels: Sequence[Panel], *, names: Sequence[str], columns: int) -> Canvas:
    """Draw panels in rows of `columns` under a legend of the names; returns RGB."""
    tiles = [_draw_panel(panel, names) for panel in panels]
    blank = np.full_like(tiles[0], 255)
    tiles += [blank] * (-len(tiles) % columns)
    rows = [np.concatenate(tiles[i : i + columns], axis=1) for i in range(0, len(tiles), columns)]
    sheet = np.concatenate([_legend(names, rows[0].shape[1]), *rows])
    size = (sheet.shape[1] // _SCALE, sheet.shape[0] // _SCALE)
    return cv2.resize(sheet, size, interpolation=cv2.INTER_AREA)


def _legend(names: Sequence[str], width: int) -> Canvas:
    canvas = np.full((_LEGEND, width, 3), 255, np.uint8)
    x = _LEFT
    for name, colour in zip(names, _cycle(_COLOURS), strict=False):
        y = _LEGEND // 2 + 4 * _SCALE
        cv2.rectangle(canvas, (x, y - 6 * _SCALE), (x + 22 * _SCALE, y + 2 * _SCALE), colour, cv2.FILLED)
        x += 30 * _SCALE
        x += _write(canvas, name, (x, y + 3 * _SCALE), _Pen(0.5)) + 28 * _SCALE
    return canvas


def _draw_panel(panel: Panel, names: Sequence[str]) -> Canvas:
    canvas = np.full((_HEIGHT, _WIDTH, 3), 255, np.uint8)
    _write(canvas, panel.title, (_LEFT, _TOP - 18 * _SCALE), _Pen(0.52, weight=2))
    curves = [item for item in panel.items if isinstance(item, Curve)]
    if curves:
        _draw_curves(canvas, panel, curves)
    else:
        _draw_bars(canvas, panel, names)
    return canvas


# --------------------------------------------------------------------------------------------------------------- curves


def _draw_curves(canvas: Canvas, panel: Panel, curves: Sequence[Curve]) -> None:
    shown = [curve for curve in curves if curve.counts.size]
    if not shown:
        _write(canvas, "nothing to measure", (_LEFT + 20 * _SCALE, _HEIGHT // 2), _Pen(0.45, colour=_FAINT))
        return
    low, high = min(float(c.edges[0]) for c in shown), max(float(c.edges[-1]) for c in shown)
    axis = _Axis(low, high, is_log=panel.is_log)
    _draw_axis(canvas, axis, panel.unit)
    for curve, colour in zip(curves, _cycle(_COLOURS), strict=False):
        if curve.counts.size:
            _draw_curve(canvas, curve, axis, colour)


def _draw_curve(canvas: Canvas, curve: Curve, axis: "_Axis", colour: tuple[int, int, int]) -> None:
    """Draw steps, the highest as high as the panel, with a tint below them."""
    floor, height = _HEIGHT - _BOTTOM, _HEIGHT - _BOTTOM - _TOP
    columns = [axis.place(float(edge)) for edge in curve.edges]
    rows = [floor - round(0.94 * height * float(count / curve.counts.max())) for count in curve.counts]
    steps = [point for i, row in enumerate(rows) for point in ((columns[i], row), (columns[i + 1], row))]
    outline = np.array([(columns[0], floor), *steps, (columns[-1], floor)], np.int32)
    tint = canvas.copy()
    cv2.fillPoly(tint, [outline], colour, cv2.LINE_AA)
    cv2.addWeighted(tint, 0.16, canvas, 0.84, 0, dst=canvas)
    cv2.polylines(canvas, [outline], isClosed=False, color=colour, thickness=_SCALE + 1, lineType=cv2.LINE_AA)


@dataclass(frozen=True)
class _Axis:
    """Values from left to right, evenly or by their logarithms."""

    low: float
    high: float
    is_log: bool = False

    def place(self, value: float) -> int:
        """Return the column of a value."""
        turn = math.log if self.is_log else float
        low, high = turn(self.low), turn(self.high)
        share = (turn(value) - low) / (high - low or 1.0)
        return _LEFT + round(share * (_WIDTH - _LEFT - _RIGHT))

    def ticks(self) -> list[float]:
        """Return round values within, four to ten."""
        if self.is_log:
            decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            steps = (1, 2, 5) if len(decades) < 6 else (1,)
            found = [step * 10.0**decade for decade in decades for step in steps]
        else:
            rough = (self.high - self.low) / 5 or 1.0
            unit = 10.0 ** math.floor(math.log10(rough))
            step = next(factor * unit for factor in (1, 2, 5, 10) if factor * unit >= rough)
            found = [i * step for i in range(math.ceil(self.low / step), math.floor(self.high / step) + 1)]
        return [value for value in found if self.low <= value <= self.high]


def _draw_axis(canvas: Canvas, axis: _Axis, unit: str) -> None:
    floor = _HEIGHT - _BOTTOM
    for value in axis.ticks():
        x = axis.place(value)
        cv2.line(canvas, (x, _TOP), (x, floor), _GRID, _SCALE)
        _write(canvas, f"{value:.4g}", (x, floor + 18 * _SCALE), _Pen(0.4, colour=_FAINT), centre=True)
    cv2.line(canvas, (_LEFT, floor), (_WIDTH - _RIGHT, floor), _INK, _SCALE)
    _write(canvas, unit, (_WIDTH // 2, floor + 38 * _SCALE), _Pen(0.42, colour=_INK), centre=True)


# ----------------------------------------------------------------------------------------------------------------- bars


def _draw_bars(canvas: Canvas, panel: Panel, names: Sequence[str]) -> None:
    bars = [item for item in panel.items if isinstance(item, Bar)]
    longest = max(sum(length for _, length in bar.parts) for bar in bars)
    axis = _Axis(0.0, longest or 1.0)
    _draw_axis(canvas, axis, panel.unit)
    top = _TOP + _draw_parts(canvas, [name for name, _ in bars[0].parts])
    pitch = (_HEIGHT - _BOTTOM - top) // len(bars)
    thick = min(pitch * 5 // 10, 40 * _SCALE)
    for row, (bar, name) in enumerate(zip(bars, names, strict=True)):
        y = top + row * pitch + (pitch - thick) // 2 + 8 * _SCALE
        _write(canvas, name, (_LEFT + 2 * _SCALE, y - 5 * _SCALE), _Pen(0.4))
        start = 0.0
        for (_, length), colour in zip(bar.parts, _cycle(_PARTS), strict=False):
            a, b = axis.place(start), axis.place(start + length)
            cv2.rectangle(canvas, (a, y), (b, y + thick), colour, cv2.FILLED)
            text = f"{length:.0f}" if longest >= 50 else f"{length:.1f}"
            if b - a > 30 * _SCALE:
                _write(canvas, text, ((a + b) // 2, y + thick // 2 + 5 * _SCALE), _Pen(0.42), centre=True)
            start += length


def _draw_parts(canvas: Canvas, parts: Sequence[str]) -> int:
    """Name the parts of all bars at a panel's top; returns how much room that takes."""
    x = _LEFT
    for name, colour in zip(parts, _cycle(_PARTS), strict=False):
        cv2.rectangle(canvas, (x, _TOP - 4 * _SCALE), (x + 10 * _SCALE, _TOP + 6 * _SCALE), colour, cv2.FILLED)
        x += 15 * _SCALE
        x += _write(canvas, name, (x, _TOP + 5 * _SCALE), _Pen(0.38, colour=_FAINT)) + 14 * _SCALE
    return 18 * _SCALE


# -------------------------------------------------------------------------------------------------------------- letters


@dataclass(frozen=True)
class _Pen:
    """How letters look."""

    size: float
    colour: tuple[int, int, int] = _INK
    weight: int = 1


def _write(canvas: Canvas, text: str, at: Point, pen: _Pen, *, centre: bool = False) -> int:
    """Write a line whose baseline begins, or is centred, at a point; returns its width."""
    size, thickness = pen.size * _SCALE, pen.weight * _SCALE - (pen.weight == 1)
    (width, _), _ = cv2.getTextSize(text, _FONT, size, thickness)
    x = at[0] - width // 2 if centre else at[0]
    cv2.putText(canvas, text, (x, at[1]), _FONT, size, pen.colour, thickness, cv2.LINE_AA)
    return width


def _cycle(colours: Sequence[tuple[int, int, int]]) -> Iterator[tuple[int, int, int]]:
    while True:
        yield from colours


KIND_NAMES = {
    "rgb.jpg": "rgb",
    "depth.zst": "depth",
    "diff.zst": "differences",
    "json": "metadata",
    "tar": "tar headers",
}


def kib_per_frame(stats: DatasetStats, kind: str) -> float:
    """Return the KiB that members of a kind take of a frame, on average."""
    return stats.bytes_by_kind[kind] / stats.frames / 1024


# ------------------------------------------------------------------------------------------------------------- pictures


def write_picture(found: Sequence[DatasetStats], path: Path) -> None:
    """Write the picture as PNG; the file is complete or not there."""
    ok, png = cv2.imencode(".png", cv2.cvtColor(picture(found), cv2.COLOR_RGB2BGR))
    assert ok  # cv2 encodes any uint8 image
    with new_file(path) as file:
        file.write(png.tobytes())


def picture(found: Sequence[DatasetStats]) -> UInt8[np.ndarray, "h w 3"]:
    """Draw statistics: depth, differences, motion, sizes, what pixels are."""
    names = [stats.dataset for stats in found]
    panels = [
        Panel("Depth of known pixels", "metres", [_depth_curve(stats) for stats in found], is_log=True),
        Panel("Mean difference to the frame before", "grey levels", [_curve(stats.differences) for stats in found]),
        Panel("Bytes a frame", "KiB", [_size_bar(stats) for stats in found]),
        Panel("Camera motion", "metres a frame", [_curve(stats.translations_m) for stats in found]),
        Panel("Camera rotation", "degrees a frame", [_curve(stats.rotations_deg) for stats in found]),
        Panel("Pixels", "%", [_pixel_bar(stats) for stats in found]),
    ]
    return draw(panels, names=names, columns=3)


def _depth_curve(stats: DatasetStats) -> Curve:
    """Join bins to some fourteen for each factor e of depth, where there are pixels."""
    counts = stats.depth_counts.reshape(-1, 16).sum(axis=1)
    used = np.flatnonzero(counts)
    if not used.size:
        return Curve(np.zeros(0), np.zeros(0))
    first, last = max(0, int(used[0]) - 1), min(len(counts), int(used[-1]) + 2)  # with an empty bin on either side
    return Curve(DEPTH_EDGES_M[::16][first : last + 1], counts[first:last].astype(np.float64))


def _curve(values: Sequence[float]) -> Curve:
    """Count values up to their 99th percentile, beyond which single frames would squeeze the rest."""
    if not values:
        return Curve(np.zeros(0), np.zeros(0))
    top = float(np.percentile(values, 99)) * 1.05 or 1.0
    counts, edges = np.histogram(values, bins=min(40, 8 + len(values) // 8), range=(0, top))
    return Curve(edges.astype(np.float64), counts.astype(np.float64))


def _size_bar(stats: DatasetStats) -> Bar:
    return Bar([(name, kib_per_frame(stats, kind)) for kind, name in KIND_NAMES.items()])


def _pixel_bar(stats: DatasetStats) -> Bar:
    sky, unknown = 100 * stats.sky / stats.pixels, 100 * stats.unknown / stats.pixels
    return Bar([("known depth", 100 - sky - unknown), ("sky", sky), ("unknown", unknown)])
