"""One HTML page about a comparison: the table, the curves, the clips; nothing outside the file is needed.

All of it is made by `_element`, which escapes every text: names of data sets, variants and folders come from outside.
"""

import base64
import html
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import cv2
import imageio.v3 as iio
import numpy as np
from jaxtyping import UInt8

from vdaprep.storage.atomic import write_text
from vdatrain.evaluation.compare import AVERAGE, Cell, FinishedRun, Row, heading, verdict
from vdatrain.evaluation.evaluate import Gallery, read_gallery
from vdatrain.evaluation.figures import ERROR_RANGE, error_colours, near_is_bright

_COLOURS = ("#3366cc", "#dd4b39", "#109618", "#990099", "#ff9900", "#0099c6")
_TILE_HEIGHT = 168
_FPS = 8
_HEAD = """<!doctype html>
<meta charset="utf-8"><title>vdatrain comparison</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: 1rem 0 } td, th { padding: .3rem .8rem; border-bottom: 1px solid #ddd }
td:nth-child(n+3), th:nth-child(n+3) { text-align: right; font-variant-numeric: tabular-nums }
th { text-align: left } video, img, svg { max-width: 100%; height: auto } figcaption { color: #666; font-size: .9rem }
figure { margin: 1.5rem 0 } .legend span { margin-right: 1.2rem }
</style>
"""


def write_report(path: Path, runs: Sequence[FinishedRun], rows: Sequence[Row]) -> None:
    """Write the page, and beside it `comparison.png`, the first clip as a still picture."""
    sheets = {dataset: _side_by_side(galleries) for dataset, galleries in _galleries(runs).items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    for _, (frames, _) in sorted(sheets.items())[:1]:
        iio.imwrite(path.with_name("comparison.png"), frames[len(frames) // 2])
    write_text(path, _HEAD + "".join(_page(runs, rows, sheets)))


class _Html(str):
    """Markup, as opposed to text that is yet to be escaped."""

    __slots__ = ()


def _element(name: str, *content: object, **attributes: object) -> _Html:
    """Make an element of a page; content that is no markup, and all values of attributes, are escaped."""
    inside = "".join(item if isinstance(item, _Html) else html.escape(str(item)) for item in content)
    given = "".join(
        f' {key.strip("_").replace("_", "-")}="{html.escape(str(value))}"' for key, value in attributes.items()
    )
    return _Html(f"<{name}{given}>{inside}</{name}>\n")


def _page(
    runs: Sequence[FinishedRun],
    rows: Sequence[Row],
    sheets: Mapping[str, tuple[UInt8[np.ndarray, "t h w 3"], str]],
) -> Iterator[_Html]:
    yield _element("h1", " against ".join(sorted({run.variant for run in runs})))
    yield _element("p", verdict(rows))
    yield _comparison_table(rows)
    yield _element("h2", "Held-out clips")
    for dataset, (frames, caption) in sorted(sheets.items()):
        source = f"data:video/mp4;base64,{base64.b64encode(_encode(frames)).decode('ascii')}"
        yield _element(
            "figure",
            _element("video", autoplay="", loop="", muted="", playsinline="", src=source),
            _element("figcaption", f"{dataset}: {caption}; near is bright."),
        )
    yield _element("h2", "Curves")
    yield _element("p", *_legend(runs), class_="legend")
    yield _chart("training loss", [_points(run, "total") for run in runs])
    for title, key in (("held-out loss", "loss"), ("held-out absrel", "absrel"), ("held-out TAE", "tae")):
        yield _chart(title, [_evaluation_points(run, key) for run in runs])
    yield _chart("share of time waiting for data", [_points(run, "waiting") for run in runs])
    yield _element("h2", "Runs")
    facts = [
        (run.folder, run.variant, run.config["encoder"], run.config["steps"], run.step, run.config["seed"])
        for run in runs
    ]
    yield _table(("run", "variant", "encoder", "steps", "best at", "seed"), facts)


def _comparison_table(rows: Sequence[Row]) -> _Html:
    lines = [
        (row.dataset, row.variant, row.runs, *("-" if cell is None else _cell(cell) for cell in row.cells.values()))
        for row in rows
    ]
    return _table(heading(), lines)


def _cell(cell: Cell) -> object:
    return _element("b", cell) if cell.best else cell


def _table(titles: Sequence[str], lines: Iterable[Sequence[object]]) -> _Html:
    rows = [_element("tr", *(_element("td", item) for item in line)) for line in lines]
    return _element("table", _element("tr", *(_element("th", title) for title in titles)), *rows)


# -------------------------------------------------------------------------------------------------------------- clips


def _galleries(runs: Sequence[FinishedRun]) -> dict[str, dict[str, Gallery]]:
    """Return the galleries by data set and variant; of several runs of a variant the first."""
    found: dict[str, dict[str, Gallery]] = {}
    for run in runs:
        for dataset in run.figures:
            path = run.folder / f"gallery-{dataset}.npz"
            if dataset != AVERAGE and path.is_file() and run.variant not in found.get(dataset, {}):
                found.setdefault(dataset, {})[run.variant] = read_gallery(path)
    return found


def _side_by_side(galleries: Mapping[str, Gallery]) -> tuple[UInt8[np.ndarray, "t h w 3"], str]:
    """Draw the frames, the truth and each variant's prediction side by side, the error of each below it."""
    names = sorted(galleries)
    first = galleries[names[0]]
    titles = ["frame", "truth", *names]
    sheets: list[np.ndarray] = []
    for t in range(len(first.frames)):
        top = [
            first.frames[t],
            near_is_bright(first.truth[t]),
            *(near_is_bright(galleries[name].prediction[t]) for name in names),
        ]
        blank = np.full_like(first.frames[t], 255)
        below = [blank, blank, *(_error(galleries[name], t) for name in names)]
        columns = [
            np.concatenate([_caption(title, _scaled(a).shape[1]), _scaled(a), _scaled(b)])
            for title, a, b in zip(titles, top, below, strict=True)
        ]
        sheets.append(np.concatenate(columns, axis=1))
    return np.stack(sheets), f"{', '.join(titles)}; below, the error, brightest at {ERROR_RANGE:.0%} of the range"


def _error(gallery: Gallery, t: int) -> UInt8[np.ndarray, "h w 3"]:
    return error_colours(gallery.prediction[t], gallery.truth[t], gallery.known[t])


def _scaled(pixels: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "th tw 3"]:
    width = max(16, round(pixels.shape[1] * _TILE_HEIGHT / pixels.shape[0] / 16) * 16)  # H.264 likes whole blocks
    return cv2.resize(pixels, (width, _TILE_HEIGHT), interpolation=cv2.INTER_LINEAR)


def _caption(text: str, width: int) -> UInt8[np.ndarray, "h w 3"]:
    strip = np.full((32, width, 3), 255, np.uint8)
    cv2.putText(strip, text, (4, 22), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (40, 40, 40), 1, cv2.LINE_AA)
    return strip


def _encode(frames: UInt8[np.ndarray, "t h w 3"]) -> bytes:
    target = io.BytesIO()
    iio.imwrite(target, frames, extension=".mp4", plugin="pyav", codec="libx264", fps=_FPS, out_pixel_format="yuv420p")
    return target.getvalue()


# ------------------------------------------------------------------------------------------------------------- curves


def _points(run: FinishedRun, key: str) -> list[tuple[float, float]]:
    return [(float(line["step"]), line[key]) for line in run.log if key in line]


def _evaluation_points(run: FinishedRun, key: str) -> list[tuple[float, float]]:
    found = [(float(line["step"]), line["evaluation"]["average"][key]) for line in run.log if "evaluation" in line]
    return [(step, value) for step, value in found if value is not None]


def _legend(runs: Sequence[FinishedRun]) -> Iterator[_Html]:
    for number, run in enumerate(runs):
        yield _element("span", f"● {run.folder.name} ({run.variant})", style=f"color:{_colour(number)}")


def _colour(number: int) -> str:
    return _COLOURS[number % len(_COLOURS)]


def _chart(title: str, curves: Sequence[Sequence[tuple[float, float]]]) -> _Html:
    """Draw curves as SVG, the vertical axis from 0."""
    points = [point for curve in curves for point in curve]
    if not points:
        return _Html()
    right = max(x for x, _ in points) or 1
    top = max(y for _, y in points) or 1
    left, bottom, width, height = 60, 190, 640, 170
    parts: list[_Html] = []
    for part in (0, 0.5, 1):
        y = round(bottom - height * part)
        parts.append(_element("line", x1=left, x2=left + width, y1=y, y2=y, stroke="#ddd"))
        parts.append(_element("text", f"{top * part:.3g}", x=left - 8, y=y + 4, text_anchor="end"))
    for number, curve in enumerate(curves):
        path = " ".join(f"{left + width * x / right:.1f},{bottom - height * y / top:.1f}" for x, y in curve)
        parts.append(_element("polyline", points=path, fill="none", stroke=_colour(number), stroke_width=2))
    parts.append(_element("text", f"step {right:.0f}", x=left + width, y=bottom + 22, text_anchor="end"))
    parts.append(_element("text", title, x=left, y=14, font_weight="bold"))
    svg = _element("svg", *parts, viewBox="0 0 720 220", font_size=12, font_family="sans-serif")
    return _element("figure", svg)
