"""What a shard holds, for a terminal."""

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import RenderableType
from rich.table import Table

from vdaprep.analysis import describe
from vdaprep.cli.views.output import make_table
from vdaprep.units import format_bytes

_BAR = 40


def renderables(report: describe.ShardReport) -> Iterator[RenderableType]:
    """Lay a report out for a terminal."""
    size = format_bytes(report.bytes)
    yield f"{report.shard}: {size}, {len(report.clips)} clips, {report.frames} frames"
    yield f"whole: SHA-256 {report.sha256[:12]}... is its record's; {report.rejected} frames were rejected"
    yield _clip_table(report)
    yield _kind_table(report)
    if report.depth.edges_m:
        yield _histogram(report.depth)


def _clip_table(report: describe.ShardReport) -> Table:
    table = make_table("key", "frames", "size", "path m", "depth m", title="clips")
    for clip in report.clips:
        table.add_row(
            clip["key"],
            str(clip["frames"]),
            f"{clip['width']}x{clip['height']}",
            "no poses" if clip["path_m"] is None else f"{clip['path_m']:.2f}",
            _depth_of(clip),
        )
    return table


def _depth_of(clip: Mapping[str, Any]) -> str:
    if clip["depth"] is None:
        return "no labels"
    if clip["teacher_disparity"] is not None:
        return "relative"
    near, far = clip["disparity_max"], clip["disparity_min"]
    return f"{1 / near:.2f} to {1 / far:.2f}" if near else "none"


def _kind_table(report: describe.ShardReport) -> Table:
    table = make_table("kind", "count", "bytes", "KiB/frame", "share", "shape", "dtype", "min", "max", title="members")
    total = sum(facts.bytes for facts in report.kinds.values())
    for kind, facts in report.kinds.items():
        table.add_row(
            f"{kind} ({facts.unit})" if facts.unit else kind,
            str(facts.count),
            format_bytes(facts.bytes),
            f"{facts.bytes / report.frames / 1024:.1f}",
            f"{facts.bytes / total:.1%}",
            facts.shape,
            facts.dtype,
            "" if facts.minimum is None else f"{facts.minimum:.4g}",
            "" if facts.maximum is None else f"{facts.maximum:.4g}",
        )
    return table


def _histogram(depth: describe.DepthHistogram) -> Table:
    names = ("metres", "depth") if depth.is_metric else ("disparity", "relative disparity")
    table = make_table(names[0], "share", title=f"{names[1]} of {depth.clip}")
    table.add_column("", no_wrap=True)
    edges = [f"{a:.2f} to {b:.2f}" for a, b in zip(depth.edges_m, depth.edges_m[1:], strict=False)]
    rows = [*zip(edges, depth.counts, strict=True), ("sky", depth.sky), ("unknown", depth.unknown)]
    total = sum(count for _, count in rows) or 1
    most = max(count for _, count in rows) or 1
    for label, count in rows:
        table.add_row(label, f"{count / total:.1%}", "█" * round(_BAR * count / most))
    return table
