"""Statistics of data sets for the screen, a column each, and as panels of a picture."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8
from rich import box
from rich.console import RenderableType
from rich.table import Table

from vdaprep.charts import Bar, Curve, Panel, draw
from vdaprep.sizes import human_bytes
from vdaprep.stats import DEPTH_EDGES_M, DatasetStats, Spread

_KINDS = {"rgb.jpg": "rgb", "depth.zst": "depth", "diff.zst": "differences", "json": "metadata", "tar": "tar headers"}
_NONE = "-"


def renderables(found: Sequence[DatasetStats]) -> Iterator[RenderableType]:
    """Lay statistics out for a terminal."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("")
    for stats in found:
        table.add_column(stats.dataset, justify="right")
    columns = [list(_sections(stats)) for stats in found]
    for rows in zip(*columns, strict=True):
        for cells in zip(*rows, strict=True):
            table.add_row(cells[0][0], *(text for _, text in cells))
        table.add_section()
    yield table
    read, frames = sum(stats.frames_read for stats in found), sum(stats.frames for stats in found)
    some = "" if read == frames else ", evenly spread; --all reads all"
    yield f"depth and differences are of {read:,} of {frames:,} frames{some}; motion is that of their clips"


def _sections(stats: DatasetStats) -> Iterator[list[tuple[str, str]]]:
    """Yield the rows of a data set, section by section; every data set has the same."""
    lengths = stats.clip_lengths
    yield [
        ("shards", f"{stats.shards:,}"),
        ("clips", f"{len(lengths):,}"),
        ("frames", f"{stats.frames:,}"),
        ("frames a clip", f"{min(lengths)} to {max(lengths)}, median {np.median(lengths):.0f}"),
        ("pixels", ", ".join(sorted(stats.sizes))),
    ]
    yield [
        ("size", human_bytes(stats.bytes)),
        *((f"KiB a frame: {name}", f"{_kib(stats, kind):.1f}") for kind, name in _KINDS.items()),
        ("KiB a frame", f"{stats.bytes / stats.frames / 1024:.1f}"),
    ]
    depths = stats.percentiles_m()
    spreads = stats.spreads()
    yield [
        ("depth, 1 % to 99 %, m", f"{depths[1]:.2f} to {depths[99]:.2f}" if depths else _NONE),
        ("depth, middle half, m", f"{depths[25]:.2f} to {depths[75]:.2f}" if depths else _NONE),
        ("depth, median, m", f"{depths[50]:.2f}" if depths else _NONE),
        ("sky", f"{stats.sky / stats.pixels:.1%}"),
        ("unknown", f"{stats.unknown / stats.pixels:.1%}"),
        ("nearest of a clip, m", _spread(spreads["near_m"])),
        ("farthest of a clip, m", _spread(spreads["far_m"])),
    ]
    yield [
        ("difference, grey levels", _spread(spreads["differences"])),
        ("camera, m a frame", _spread(spreads["translations_m"])),
        ("camera, degrees a frame", _spread(spreads["rotations_deg"])),
    ]


def _kib(stats: DatasetStats, kind: str) -> float:
    return stats.bytes_by_kind[kind] / stats.frames / 1024


def _spread(spread: Spread | None) -> str:
    return _NONE if spread is None else f"{spread.median:.3g} ({spread.p5:.3g} to {spread.p95:.3g})"


# ------------------------------------------------------------------------------------------------------------- pictures


def write_picture(found: Sequence[DatasetStats], path: Path) -> None:
    """Write the picture as PNG; the file is complete or not there."""
    ok, png = cv2.imencode(".png", cv2.cvtColor(picture(found), cv2.COLOR_RGB2BGR))
    assert ok  # cv2 encodes any uint8 image
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.vdaprep-tmp")
    unfinished.write_bytes(png.tobytes())
    unfinished.replace(path)


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
    return Bar([(name, _kib(stats, kind)) for kind, name in _KINDS.items()])


def _pixel_bar(stats: DatasetStats) -> Bar:
    sky, unknown = 100 * stats.sky / stats.pixels, 100 * stats.unknown / stats.pixels
    return Bar([("known depth", 100 - sky - unknown), ("sky", sky), ("unknown", unknown)])
