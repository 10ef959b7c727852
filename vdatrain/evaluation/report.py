"""One HTML page about a comparison: table, curves, clips; it needs no other file.

The page is the template `report.html`, which escapes every text: names of data sets, models and folders come from
outside. Its policy for browsers (Content-Security-Policy) allows no script and nothing from elsewhere all the same.
"""

import base64
import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import imageio.v3 as iio
import jinja2
import numpy as np
from jaxtyping import UInt8

from vdaprep.shards.pictures.depth_colors import depth_legend, near_is_bright
from vdaprep.storage.atomic import new_file, write_text
from vdatrain.evaluation.compare import Row, heading, verdict
from vdatrain.evaluation.evaluate import Gallery
from vdatrain.evaluation.figures import ERROR_RANGE, error_colours, true_colours
from vdatrain.evaluation.files import AVERAGE, EvaluatedModel, read_gallery

_COLOURS = ("#3366cc", "#dd4b39", "#109618", "#990099", "#ff9900", "#0099c6")
_TILE_HEIGHT = 168
_FPS = 8
_LEFT, _BOTTOM, _WIDTH, _HEIGHT = 60, 190, 640, 170  # of a chart, as the template draws its axes
_TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


@dataclass(frozen=True)
class _Clip:
    """A data set's clip as every model predicts it."""

    frames: UInt8[np.ndarray, "t h w 3"]
    """The pictures, side by side."""
    caption: str
    """What they show."""


def write_report(path: Path, models: Sequence[EvaluatedModel], rows: Sequence[Row]) -> None:
    """Write the page, and beside it `comparison.png`, the first clip as a still picture."""
    clips = _clips(models)
    trained = [(model, _COLOURS[number % len(_COLOURS)]) for number, model in enumerate(models) if model.log]
    page = _TEMPLATES.get_template("report.html").render(
        names=sorted({model.name for model in models}),
        verdict=verdict(rows),
        heading=heading(),
        rows=rows,
        clips=[
            {"mp4": base64.b64encode(_encode(clip.frames)).decode("ascii"), "caption": f"{name}: {clip.caption}"}
            for name, clip in clips.items()
        ],
        curves_of=[{"title": f"{model.folder.name} ({model.name})", "colour": colour} for model, colour in trained],
        charts=[chart for title, key, at in _CHARTS if (chart := _chart(title, trained, key=key, at=at))],
        models=models,
    )
    write_text(path, page.encode("utf-8", "replace").decode("utf-8"))
    for clip in [*clips.values()][:1]:
        with new_file(path.with_name("comparison.png")) as file:
            file.write(iio.imwrite("<bytes>", clip.frames[len(clip.frames) // 2], extension=".png"))


# -------------------------------------------------------------------------------------------------------------- clips


def _clips(models: Sequence[EvaluatedModel]) -> dict[str, _Clip]:
    """Return the clip of each data set; of several models of one name the first is shown."""
    found: defaultdict[str, dict[str, Gallery]] = defaultdict(dict)
    for model in models:
        for dataset in sorted({*model.figures} - {AVERAGE}):
            path = model.folder / f"gallery-{dataset}.npz"
            if path.is_file() and model.name not in found[dataset]:
                gallery = read_gallery(path)
                first = next(iter(found[dataset].values()), gallery)
                if gallery.truth.shape == first.truth.shape:
                    found[dataset][model.name] = gallery
    return {dataset: _Clip(*_side_by_side(galleries)) for dataset, galleries in sorted(found.items()) if galleries}


def _side_by_side(galleries: Mapping[str, Gallery]) -> tuple[UInt8[np.ndarray, "t h w 3"], str]:
    """Draw frames, truth and each variant's prediction side by side, errors below."""
    names = sorted(galleries)
    first = galleries[names[0]]
    titles = ["frame", "truth", *names]
    sheets: list[np.ndarray] = []
    for t in range(len(first.frames)):
        top = [
            first.frames[t],
            true_colours(first.truth[t], first.known[t]),
            *(near_is_bright(galleries[name].prediction[t]) for name in names),
        ]
        blank = np.full_like(first.frames[t], 255)
        below = [blank, blank, *(_error(galleries[name], t) for name in names)]
        columns = [
            np.concatenate([_caption(title, _scaled(a).shape[1]), _scaled(a), _scaled(b)])
            for title, a, b in zip(titles, top, below, strict=True)
        ]
        sheet = np.concatenate(columns, axis=1)
        sheets.append(np.concatenate([sheet, _legend(first, sheet.shape[1])]))
    return np.stack(sheets), f"{', '.join(titles)}; below, the error, brightest at {ERROR_RANGE:.0%} of the range"


def _legend(gallery: Gallery, width: int) -> UInt8[np.ndarray, "h w 3"]:
    low, high = gallery.disparity_range.tolist()
    legend = depth_legend(width, disparity_min=low, disparity_max=high)
    return np.concatenate([legend, np.full((len(legend) % 2, width, 3), 255, np.uint8)])  # H.264 wants even sides


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

_CHARTS = (  # title, figure, and whether it is one of the log's lines or of the evaluations in it
    ("training loss", "total", "steps"),
    ("held-out loss", "loss", "evaluations"),
    ("held-out absrel", "absrel", "evaluations"),
    ("held-out TAE", "tae", "evaluations"),
    ("share of time waiting for data", "waiting", "steps"),
)


def _points(model: EvaluatedModel, *, key: str, at: str) -> list[tuple[float, float]]:
    lines = (
        model.log
        if at == "steps"
        else [{**line["evaluation"], "step": line["step"]} for line in model.log if "evaluation" in line]
    )
    return [(float(line["step"]), float(line[key])) for line in lines if line.get(key) is not None]


def _chart(title: str, trained: Sequence[tuple[EvaluatedModel, str]], *, key: str, at: str) -> dict[str, Any] | None:
    """Return a chart of a figure over the steps; None if no model has the figure."""
    curves = [(_points(model, key=key, at=at), colour) for model, colour in trained]
    points = [point for curve, _ in curves for point in curve]
    if not points:
        return None
    right, top = max(x for x, _ in points) or 1, max(y for _, y in points) or 1
    return {
        "title": title,
        "last_step": f"{right:.0f}",
        "lines": [{"y": round(_BOTTOM - _HEIGHT * part), "label": f"{top * part:.3g}"} for part in (0, 0.5, 1)],
        "curves": [
            {
                "colour": colour,
                "points": " ".join(
                    f"{_LEFT + _WIDTH * x / right:.1f},{_BOTTOM - _HEIGHT * y / top:.1f}" for x, y in curve
                ),
            }
            for curve, colour in curves
        ],
    }
