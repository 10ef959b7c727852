"""Statistics of data sets as a picture, drawn with matplotlib (extra `plot`)."""

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from vdaprep.analysis.stats import DEPTH_EDGES_M, DatasetStats
from vdaprep.errors import MissingExtraError
from vdaprep.storage.atomic import new_path

# Okabe and Ito's colours for data sets, Paul Tol's "bright" for parts: colour-blind readers can tell both apart.
_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#5a5a5a")
_PARTS = ("#4477aa", "#66ccee", "#ccbb44", "#ee6677", "#bbbbbb")
_BAR_INCHES = 0.34
_STYLE = {
    "font.size": 9, "axes.titlesize": 10, "axes.titleweight": "bold", "axes.titlelocation": "left",
    "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": "#888888", "axes.axisbelow": True,
    "axes.grid": True, "axes.grid.axis": "x", "grid.color": "#e4e4e4", "xtick.color": "#555555",
    "figure.constrained_layout.use": True, "figure.constrained_layout.w_pad": 0.15,
    "figure.constrained_layout.h_pad": 0.12,
}  # fmt: skip

KIND_NAMES = {
    "rgb.jpg": "RGB",
    "rgb.mp4": "RGB",
    "depth.zst": "depth",
    "diff.zst": "differences",
    "json": "metadata",
    "tar": "tar headers",
}

Histogram = tuple[Float64[np.ndarray, " n"], Float64[np.ndarray, " m"]]  # counts[i] between edges[i] and edges[i + 1]


def kib_per_frame(stats: DatasetStats) -> dict[str, float]:
    """Return the KiB that each part takes of a frame, on average; images and video are one part."""
    sizes = dict.fromkeys(KIND_NAMES.values(), 0.0)
    for kind, name in KIND_NAMES.items():
        sizes[name] += stats.bytes_by_kind[kind] / stats.frames / 1024
    return sizes


def write_picture(found: Sequence[DatasetStats], path: Path) -> None:
    """Write six charts as PNG; complete or not there. Raises MissingExtraError."""
    try:  # only charts need it, and it takes half a second
        mpl: Any = importlib.import_module("matplotlib")
        figures: Any = importlib.import_module("matplotlib.figure")
    except ModuleNotFoundError as error:
        missing = MissingExtraError.of("charts need", error)
        if missing is None:
            raise
        raise missing from error
    with mpl.rc_context(_STYLE):  # the object API needs neither a display nor pyplot's state
        figure = figures.Figure(figsize=(13, 7 + 2 * _BAR_INCHES * max(0, len(found) - 3)), dpi=110)
        draw(figure, found)
        with new_path(path) as unfinished:
            figure.savefig(unfinished, format="png")


def draw(figure: Any, found: Sequence[DatasetStats]) -> None:
    """Draw depth, differences, motion, sizes and what pixels are into a matplotlib figure."""
    axes = figure.subplots(2, 3)
    _histograms(axes[0, 0], "Depth of known pixels", "metres", [_depth(stats) for stats in found])
    if axes[0, 0].patches:
        axes[0, 0].set_xscale("log")
        axes[0, 0].xaxis.set_major_formatter("{x:g}")
    for axis, title, unit, name in [
        (axes[0, 1], "Mean difference to the frame before", "grey levels", "differences"),
        (axes[1, 0], "Camera motion", "metres a frame", "translations_m"),
        (axes[1, 1], "Camera rotation", "degrees a frame", "rotations_deg"),
    ]:
        _histograms(axis, title, unit, [_counts(getattr(stats, name)) for stats in found])
    names = [stats.dataset for stats in found]
    parts = [kib_per_frame(stats) for stats in found]
    sizes = {name: [one[name] for one in parts] for name in KIND_NAMES.values()}
    _bars(axes[0, 2], "Bytes a frame", "KiB", names, sizes)
    _bars(axes[1, 2], "Pixels", "%", names, _pixels(found))
    outlines = [axes[0, 0].fill_between([], [], color=_colour(number)) for number in range(len(names))]
    figure.legend(outlines, names, loc="outside upper left", ncols=6, frameon=False, fontsize=11)


def _colour(number: int) -> str:
    return _COLOURS[number % len(_COLOURS)]


def _histograms(axis: Any, title: str, unit: str, found: Sequence[Histogram | None]) -> None:
    """Draw outlines, each as high as its highest bin, with a tint below."""
    axis.set(title=title, xlabel=unit, yticks=[])
    axis.spines.left.set_visible(False)
    for number, histogram in enumerate(found):
        if histogram is not None:
            edges, counts = histogram
            height, colour = counts / counts.max(), _colour(number)
            axis.stairs(height, edges, color=colour, fill=True, alpha=0.15)
            axis.stairs(height, edges, color=colour, linewidth=1.5)
    if not any(found):
        axis.set(xticks=[])
        axis.text(0.5, 0.5, "nothing to measure", transform=axis.transAxes, ha="center", color="#777777")
    axis.set_ylim(0, 1.06)


def _depth(stats: DatasetStats) -> Histogram | None:
    """Join bins to some fourteen for each factor e of depth, where there are pixels."""
    counts = stats.depth_counts.reshape(-1, 16).sum(axis=1)
    used = np.flatnonzero(counts)
    if not used.size:
        return None
    first, last = max(0, int(used[0]) - 1), min(len(counts), int(used[-1]) + 2)  # with an empty bin on either side
    return DEPTH_EDGES_M[::16][first : last + 1], counts[first:last].astype(np.float64)


def _counts(values: Sequence[float]) -> Histogram | None:
    """Count values up to their 99th percentile: single frames would squeeze the rest."""
    if not values:
        return None
    top = float(np.percentile(values, 99)) * 1.05 or 1.0
    counts, edges = np.histogram(values, bins=min(40, 8 + len(values) // 8), range=(0, top))
    return edges.astype(np.float64), counts.astype(np.float64)


def _bars(axis: Any, title: str, unit: str, names: Sequence[str], parts: dict[str, list[float]]) -> None:
    """Draw a bar for each name, stacked of its parts, with figures where there is room."""
    axis.set_xlabel(unit)
    axis.set_title(title, pad=20)  # above the legend
    start = np.zeros(len(names))
    longest = max(map(sum, zip(*parts.values(), strict=True))) or 1.0
    for colour, (part, lengths) in zip(_PARTS, parts.items(), strict=False):
        bars = axis.barh(names, lengths, 0.55, left=start, color=colour, label=part)
        labels = [f"{length:.3g}" if length > 0.08 * longest else "" for length in lengths]
        axis.bar_label(bars, labels, label_type="center", fontsize=8)
        start += lengths
    axis.set(xlim=(0, longest * 1.02), ylim=(len(names) - 0.5, -0.5))  # the first at the top
    axis.tick_params(axis="y", length=0)
    where = {"loc": "lower left", "bbox_to_anchor": (0, 0.98), "borderaxespad": 0, "borderpad": 0}
    axis.legend(**where, ncols=5, frameon=False, fontsize=8, handlelength=1, columnspacing=1)


def _pixels(found: Sequence[DatasetStats]) -> dict[str, list[float]]:
    sky = [100 * stats.sky / stats.pixels for stats in found]
    unknown = [100 * stats.unknown / stats.pixels for stats in found]
    known = [100 - a - b for a, b in zip(sky, unknown, strict=True)]
    return {"known depth": known, "sky": sky, "unknown": unknown}
