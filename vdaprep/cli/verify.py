"""The command `vdaprep verify`."""

from dataclasses import asdict
from typing import Annotated

import typer

from vdaprep.analysis import geometry as warping
from vdaprep.analysis.picture import add_shifts
from vdaprep.analysis.verify import VerifyReport, count_frames, verify
from vdaprep.cli.views.output import console, errors, frame_bar, print_json, show
from vdaprep.errors import VdakitError
from vdaprep.shards.dataset import find_shards
from vdaprep.units import format_bytes

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
    frames = count_frames(paths)
    with frame_bar("verify", total=frames) as bar:
        report = verify(paths, deep=deep, on_frames=bar.advance)
    measured: list[warping.TrajectoryGeometry] = []
    if geometry and not report.findings:
        with frame_bar("warp", total=frames) as bar:
            measured = warping.measure(find_shards(paths), on_frame=bar.advance)
        measured = add_shifts(measured, find_shards(paths))
    findings = [*report.findings, *(what for item in measured for what in item.findings)]
    if as_json:
        trajectories = {"geometry": [asdict(item) for item in measured]} if geometry else {}
        print_json({**report.to_json(), "whole": not findings, **trajectories})
    else:
        show(str(item) for item in (*measured, *report.findings))
        show(report.doubts, to=errors)
        if not findings:
            console.print(_summary(report, deep=deep))
    if findings:
        unmeasured = " (--geometry waits until they are gone)" if geometry and report.findings else ""
        count = "1 thing is" if len(findings) == 1 else f"{len(findings)} things are"
        raise VdakitError(f"{count} wrong{unmeasured}.")


def _summary(report: VerifyReport, *, deep: bool) -> str:
    how = "every member decoded" if deep else "sizes and SHA-256 compared, --deep decodes every member"
    return (
        f"{report.shards} shards, {report.clips} clips, {report.frames} frames, {format_bytes(report.bytes)}: "
        f"all is well ({how})"
    )
