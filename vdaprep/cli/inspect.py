"""The command `vdaprep inspect`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.console import RenderableType
from rich.table import Table

from vdaprep.analysis import describe
from vdaprep.analysis.preview import write_preview
from vdaprep.cli.output import errors, frame_bar, make_table, print_json, show
from vdaprep.storage.paths import open_path
from vdaprep.units import format_bytes

_BAR = 40


# ----------------------------------------------------------------------------------------------------- for the screen


def renderables(report: describe.ShardReport) -> Iterator[RenderableType]:
    """Lay a report out for a terminal."""
    size = format_bytes(report.bytes)
    yield f"{report.shard}: {size}, {len(report.clips)} clips, {report.frames} frames"
    yield f"whole: SHA-256 {report.sha256[:12]}... is its record's; {report.rejected} frames were rejected"
    yield _clip_table(report)
    yield _kind_table(report)
    yield _histogram(report.depth)


def _clip_table(report: describe.ShardReport) -> Table:
    table = make_table("key", "frames", "size", "path m", "depth m", title="clips")
    for clip in report.clips:
        near, far = clip["disparity_max"], clip["disparity_min"]
        table.add_row(
            clip["key"],
            str(clip["frames"]),
            f"{clip['width']}x{clip['height']}",
            "no poses" if clip["path_m"] is None else f"{clip['path_m']:.2f}",
            f"{1 / near:.2f} to {1 / far:.2f}" if near else "none",
        )
    return table


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
    table = make_table("metres", "share", title=f"depth of {depth.clip}")
    table.add_column("", no_wrap=True)
    edges = [f"{a:.2f} to {b:.2f}" for a, b in zip(depth.edges_m, depth.edges_m[1:], strict=False)]
    rows = [*zip(edges, depth.counts, strict=True), ("sky", depth.sky), ("unknown", depth.unknown)]
    total = sum(count for _, count in rows) or 1
    most = max(count for _, count in rows) or 1
    for label, count in rows:
        table.add_row(label, f"{count / total:.1%}", "█" * round(_BAR * count / most))
    return table


EXAMPLE = "vdaprep inspect shards/tartanair/train/shard-0001.tar --preview sheet.png"


def command(
    shard: Annotated[str, typer.Argument(help="A shard or its URL; a bare name is also looked for below ./shards.")],
    clip: Annotated[str | None, typer.Option(help="Look at this clip only.", metavar="KEY")] = None,
    preview: Annotated[
        Path | None, typer.Option(help="Draw one clip: a contact sheet (.png) or a video (.mp4).", metavar="FILE")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the facts as JSON.")] = False,
) -> None:
    """Show what a shard holds, and whether it is whole."""
    place = open_path(shard)
    tar = _find_shard(place) if isinstance(place, Path) else place
    record = describe.open_shard(tar)
    clips = describe.choose_clips(tar, record, key=clip)
    with frame_bar("read", total=sum(item.num_frames for item in clips)) as bar:
        report = describe.examine(tar, record, clips, on_frame=bar.advance)
    if as_json:
        print_json(report.to_json())
    else:
        show(renderables(report))
    if preview is not None:
        write_preview(clips[0], path=preview)
        errors.print(f"{preview}: {'contact sheet' if preview.suffix.lower() == '.png' else 'video'} of {clips[0].key}")


def _find_shard(shard: Path) -> Path:
    if shard.exists() or shard.name != str(shard):
        return shard
    found = sorted(Path("shards").glob(f"**/{shard.name}"))
    if not found:
        return shard
    if len(found) > 1:
        errors.print(f"{len(found)} shards below shards/ are called {shard}; this is {found[0]}")
    return found[0]
