"""Figures of data sets side by side, for a terminal."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from rich.console import RenderableType

from vdaprep import sources
from vdaprep.analysis.plots import kib_per_frame
from vdaprep.analysis.stats import DatasetStats, Spread
from vdaprep.cli.views.output import make_table
from vdaprep.conversion.encode.profiles import Encoding
from vdaprep.errors import ShardError, UsageError
from vdaprep.sources import _manifest
from vdaprep.units import format_bytes

_NONE = "-"


def renderables(found: Sequence[DatasetStats]) -> Iterator[RenderableType]:
    """Lay statistics out for a terminal."""
    table = make_table("", *(stats.dataset for stats in found))
    columns = [list(_sections(stats)) for stats in found]
    for rows in zip(*columns, strict=True):
        for cells in zip(*rows, strict=True):
            table.add_row(cells[0][0], *(text for _, text in cells))
        table.add_section()
    yield table
    read, frames = sum(stats.frames_read for stats in found), sum(stats.frames for stats in found)
    some = "" if read == frames else ", evenly spread; --all reads all"
    yield f"depth and differences are of {read:,} of {frames:,} frames{some}; motion is that of their clips"
    for stats in found:
        if expected := expected_bytes(stats):
            sizes = ", ".join(f"{format_bytes(size)} {name}" for name, size in expected.items())
            yield f"{stats.dataset}: expected of its frames in other profiles, an estimate: {sizes}"
        yield from _warnings(stats)


def to_json(stats: DatasetStats) -> dict[str, Any]:
    """Return statistics as JSON has them, with the profile and estimates for others."""
    return {
        **stats.to_json(),
        "profile": profile_of(stats),
        "kib_per_frame": kib_per_frame(stats),
        "expected_bytes": expected_bytes(stats),
    }


def profile_of(stats: DatasetStats) -> str:
    """Name the profile that shards are stored in, or what it is instead."""
    try:
        found = {_in_words(options) for options in stats.options}
    except (ShardError, UsageError):
        return "of another program"
    return found.pop() if len(found) == 1 else "several"


def _in_words(options: Mapping[str, Any]) -> str:
    encoding = Encoding.of(options, where="the options")
    return encoding.profile or str(encoding)


def expected_bytes(stats: DatasetStats) -> dict[str, int]:
    """Estimate the shards in other profiles, by the ratios of sizes in the manifest.

    Empty where it has none, or the shards follow no profile.
    """
    if stats.dataset not in sources.names():
        return {}
    sizes = _manifest.load(stats.dataset).kib_per_frame
    own = profile_of(stats)
    return {name: round(stats.bytes * kib / sizes[own]) for name, kib in sizes.items() if own in sizes and name != own}


def _warnings(stats: DatasetStats) -> Iterator[str]:
    """Say what makes depth useless or is lost, though the figures may look harmless."""
    if clips := stats.without_depth.total():
        first = next(iter(stats.without_depth))
        yield (
            f"{stats.dataset}: {clips:,} of {sum(stats.sizes.values()):,} clips that were read have NO KNOWN DEPTH: "
            f"all of it is sky or unknown (the first is of {first}); look at the raw depth maps, whose unit should be "
            "metres"
        )
    total = sum(stats.sizes.values())
    if stats.relative:
        yield (
            f"{stats.dataset}: {stats.relative:,} of {total:,} clips that were read have a teacher's disparity, "
            "which is known up to scale and shift: no figure in metres is of them"
        )
    if stats.unlabelled:
        yield (
            f"{stats.dataset}: {stats.unlabelled:,} of {total:,} clips that were read have no labels; vdatrain label "
            "makes those of a teacher"
        )
    if stats.clamped_far:
        yield f"{stats.dataset}: {stats.clamped_far:,} depth pixels were beyond the depth code's far end; stored as sky"


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
        ("profile", profile_of(stats)),
        ("size", format_bytes(stats.bytes)),
        *((f"KiB a frame: {name}", f"{kib:.1f}") for name, kib in kib_per_frame(stats).items()),
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


def _spread(spread: Spread | None) -> str:
    return _NONE if spread is None else f"{spread.median:.3g} ({spread.p5:.3g} to {spread.p95:.3g})"
