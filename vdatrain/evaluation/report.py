"""One HTML page about a comparison: the table, the curves, the clips; nothing outside the file is needed."""

import base64
import html
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import cv2
import imageio.v3 as iio
import numpy as np
from jaxtyping import UInt8

from vdaprep.storage.atomic import write_text
from vdatrain.evaluation.compare import AVERAGE, FinishedRun, Row, heading, verdict
from vdatrain.evaluation.evaluate import Gallery, read_gallery
from vdatrain.evaluation.figures import ERROR_RANGE, error_colours, near_is_bright

_COLOURS = ("#3366cc", "#dd4b39", "#109618", "#990099", "#ff9900", "#0099c6")
_TILE_HEIGHT = 168
_FPS = 8
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: 1rem 0 } td, th { padding: .3rem .8rem; border-bottom: 1px solid #ddd }
td:nth-child(n+3), th:nth-child(n+3) { text-align: right; font-variant-numeric: tabular-nums }
th { text-align: left } video, img, svg { max-width: 100%; height: auto } figcaption { color: #666; font-size: .9rem }
figure { margin: 1.5rem 0 } .legend span { margin-right: 1.2rem }
"""


def write_report(path: Path, runs: Sequence[FinishedRun], rows: Sequence[Row]) -> None:
    """Write the page, and beside it `comparison.png`, the first clip as a still picture."""
    sheets = {dataset: _side_by_side(galleries) for dataset, galleries in _galleries(runs).items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    for _, (frames, _) in sorted(sheets.items())[:1]:
        iio.imwrite(path.with_name("comparison.png"), frames[len(frames) // 2])
    write_text(path, "\n".join(_page(runs, rows, sheets)))


def _page(
    runs: Sequence[FinishedRun],
    rows: Sequence[Row],
    sheets: Mapping[str, tuple[UInt8[np.ndarray, "t h w 3"], str]],
) -> Iterator[str]:
    yield f"<!doctype html><html lang=en><meta charset=utf-8><title>vdatrain comparison</title><style>{_STYLE}</style>"
    yield f"<h1>{' against '.join(sorted({run.variant for run in runs}))}</h1>"
    yield f"<p>{html.escape(verdict(rows))}</p>"
    yield _html_table(rows)
    yield "<h2>Held-out clips</h2>"
    for dataset, (frames, caption) in sorted(sheets.items()):
        video = base64.b64encode(_encode(frames)).decode("ascii")
        yield f"<figure><video autoplay loop muted playsinline src='data:video/mp4;base64,{video}'></video>"
        yield f"<figcaption>{dataset}: {html.escape(caption)}; near is bright.</figcaption></figure>"
    yield "<h2>Curves</h2>"
    yield "<p class=legend>" + "".join(_legend(runs)) + "</p>"
    yield _chart("training loss", [_points(run, "total") for run in runs])
    for title, key in (("held-out loss", "loss"), ("held-out absrel", "absrel"), ("held-out TAE", "tae")):
        yield _chart(title, [_evaluation_points(run, key) for run in runs])
    yield _chart("share of time waiting for data", [_points(run, "waiting") for run in runs])
    yield "<h2>Runs</h2><table><tr><th>run<th>variant<th>encoder<th>steps<th>best at<th>seed</tr>"
    for run in runs:
        facts = (run.folder, run.variant, run.config["encoder"], run.config["steps"], run.step, run.config["seed"])
        yield "<tr>" + "".join(f"<td>{html.escape(str(fact))}" for fact in facts) + "</tr>"
    yield "</table></html>"


def _html_table(rows: Sequence[Row]) -> str:
    lines = ["<table><tr>" + "".join(f"<th>{title}" for title in heading()) + "</tr>"]
    for row in rows:
        cells = ["-" if cell is None else f"<b>{cell}</b>" if cell.best else str(cell) for cell in row.cells.values()]
        lines.append("<tr>" + "".join(f"<td>{cell}" for cell in (row.dataset, row.variant, row.runs, *cells)) + "</tr>")
    return "".join(lines) + "</table>"


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
    """Put the frames, the truth and each variant's prediction next to each other, its error below."""
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


def _legend(runs: Sequence[FinishedRun]) -> Iterator[str]:
    for number, run in enumerate(runs):
        yield f"<span style='color:{_colour(number)}'>● {html.escape(run.folder.name)} ({run.variant})</span>"


def _colour(number: int) -> str:
    return _COLOURS[number % len(_COLOURS)]


def _chart(title: str, curves: Sequence[Sequence[tuple[float, float]]]) -> str:
    """Draw curves as SVG, the vertical axis from 0."""
    points = [point for curve in curves for point in curve]
    if not points:
        return ""
    right = max(x for x, _ in points) or 1
    top = max(y for _, y in points) or 1
    left, bottom, width, height = 60, 190, 640, 170
    lines = [
        f"<line x1={left} x2={left + width} y1={bottom - height * share:.0f} y2={bottom - height * share:.0f} "
        f"stroke=#ddd /><text x={left - 8} y={bottom - height * share + 4:.0f} text-anchor=end>{top * share:.3g}</text>"
        for share in (0, 0.5, 1)
    ]
    for number, curve in enumerate(curves):
        path = " ".join(f"{left + width * x / right:.1f},{bottom - height * y / top:.1f}" for x, y in curve)
        lines.append(f"<polyline points='{path}' fill=none stroke='{_colour(number)}' stroke-width=2 />")
    lines.append(f"<text x={left + width} y={bottom + 22} text-anchor=end>step {right:.0f}</text>")
    lines.append(f"<text x={left} y=14 font-weight=bold>{title}</text>")
    return f"<figure><svg viewBox='0 0 720 220' font-size=12 font-family=sans-serif>{''.join(lines)}</svg></figure>"
