"""The command `vdaprep verify`."""

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from vdaprep.cli.output import console
from vdaprep.errors import VdakitError

if TYPE_CHECKING:
    from vdaprep.analysis.verify import Report


EXAMPLE = "vdaprep verify shards/ --deep --geometry"


def command(
    paths: Annotated[list[str], typer.Argument(help="Folders of shards, or shards; or URLs.", metavar="PATH...")],
    deep: Annotated[bool, typer.Option("--deep", help="Decode every member and compare it with the schema.")] = False,
    geometry: Annotated[
        bool, typer.Option("--geometry", help="Warp frames with depth and poses: do they agree?")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Find whatever is wrong with shards; exit 1 and name it."""
    from vdaprep.analysis import geometry as warping
    from vdaprep.analysis.verify import count_frames, find_shards
    from vdaprep.analysis.verify import verify as check
    from vdaprep.cli.output import frame_bar
    from vdaprep.storage.paths import open_path

    places = [open_path(path) for path in paths]
    frames = count_frames(places)
    with frame_bar("verify", total=frames) as bar:
        report = check(places, deep=deep, on_frames=bar.advance)
    measured: list[warping.TrajectoryGeometry] = []
    if geometry and not report.findings:
        with frame_bar("warp", total=frames) as bar:
            tars = dict.fromkeys(tar for place in places for tar in find_shards(place))
            measured = warping.measure(tars, on_frame=bar.advance)
    findings = [*report.findings, *(what for item in measured for what in item.findings)]
    if as_json:
        trajectories = {"geometry": [asdict(item) for item in measured]} if geometry else {}
        sys.stdout.write(json.dumps({**report.to_json(), "whole": not findings, **trajectories}, indent=2) + "\n")
    else:
        for item in (*measured, *report.findings):
            console.print(str(item), markup=False, highlight=False, soft_wrap=True)
        if not findings:
            _praise(report, deep=deep)
    if findings:
        unmeasured = " (--geometry waits until they are gone)" if geometry and report.findings else ""
        count = "1 thing is" if len(findings) == 1 else f"{len(findings)} things are"
        raise VdakitError(f"{count} wrong{unmeasured}.")


def _praise(report: "Report", *, deep: bool) -> None:
    from vdaprep.units import format_bytes

    how = "every member decoded" if deep else "sizes and SHA-256 compared, --deep decodes every member"
    console.print(
        f"{report.shards} shards, {report.clips} clips, {report.frames} frames, {format_bytes(report.bytes)}: "
        f"all is well ({how})",
        highlight=False,
        soft_wrap=True,
    )
