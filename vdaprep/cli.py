"""The command line of vdaprep: options in, sentences out; all work is done elsewhere."""

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from vdaprep.errors import UsageError, VdakitError

if TYPE_CHECKING:
    from vdaprep.schema import DatasetRecord
    from vdaprep.verify import Report

# Modules that import numpy or OpenCV are imported by the commands that need them: --help must be quick.

app = typer.Typer(
    help="Turn raw depth videos into small WebDataset shards.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
console = Console()
errors = Console(stderr=True, soft_wrap=True, highlight=False)


def main() -> None:
    """Run the command line; a user's error is one sentence on stderr and exit 1 or 2."""
    try:
        app()
    except VdakitError as error:
        errors.print(f"vdaprep: {error}", markup=False)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        errors.print("vdaprep: stopped; run the same command again to go on.")
        sys.exit(130)


Dataset = Annotated[str, typer.Argument(help="The data set, for example tartanair.", show_default=False)]


@app.command(epilog="Example: vdaprep sample tartanair --out raw/tartanair --trajectories 6 --size 160x120")
def sample(
    dataset: Dataset,
    out: Annotated[Path, typer.Option(help="Folder of the raw sample.", show_default="raw/DATASET")] = Path(),
    trajectories: Annotated[int, typer.Option(help="Scenes to render, each another world.", min=1)] = 8,
    frames: Annotated[int, typer.Option(help="Frames of each.", min=1)] = 32,
    size: Annotated[str, typer.Option(help="Pixels, WxH.")] = "320x240",
    seed: Annotated[int, typer.Option(help="Other seeds are other worlds.", min=0)] = 0,
    archives: Annotated[bool, typer.Option("--archives", help="Pack it as the download is packed.")] = False,
) -> None:
    """Render a small synthetic data set in the exact raw layout of a real one."""
    from vdaprep.progress import frame_bar
    from vdaprep.sample import SampleSpec, write_sample

    width, height = _size(size)
    spec = SampleSpec(trajectories=trajectories, frames=frames, width=width, height=height, seed=seed)
    out = Path("raw", dataset) if out == Path() else out
    with frame_bar("render", total=trajectories * frames) as bar:
        names = write_sample(dataset, out=out, spec=spec, archives=archives, on_frame=bar.advance)
    console.print(f"{len(names)} trajectories of {frames} frames in {out}", highlight=False, soft_wrap=True)


@app.command(epilog="Example: vdaprep convert tartanair --raw raw/tartanair --out shards/ --workers 2")
def convert(
    dataset: Dataset,
    out: Annotated[Path, typer.Option(help="Folder of the shards; they go into OUT/DATASET.", show_default=False)],
    raw: Annotated[
        str,
        typer.Option(
            help="Folder of the download, unpacked or not; or https:// or s3:// URLs of its archives, by commas.",
            show_default="raw/DATASET",
        ),
    ] = "",
    select: Annotated[
        list[str] | None, typer.Option(help="Take only trajectories that match; repeatable.", metavar="GLOB")
    ] = None,
    splits: Annotated[str, typer.Option(help="Split set of the manifest.", metavar="NAME")] = "default",
    val: Annotated[
        list[str] | None, typer.Option(help="Hold these trajectories out instead; repeatable.", metavar="GLOB")
    ] = None,
    intrinsics: Annotated[str | None, typer.Option(help="Camera of the raw frames, fx,fy,cx,cy in pixels.")] = None,
    camera: Annotated[int, typer.Option(help="Camera, where a data set has several.", min=0)] = 0,
    depth_unit: Annotated[
        float | None, typer.Option(help="Metres of a unit of 16-bit PNG depth, for custom.", show_default=False)
    ] = None,
    short_side: Annotated[str, typer.Option(help="Scale down to this short side; native keeps.")] = "540",
    clip_frames: Annotated[int, typer.Option(help="Frames of a clip at most.")] = 64,
    frames_per_shard: Annotated[int, typer.Option(help="Frames of a shard at most.")] = 1024,
    jpeg_quality: Annotated[int, typer.Option(help="JPEG quality of the frames.")] = 95,
    depth_error: Annotated[
        float, typer.Option(help="Relative error of depth at most, where it is not exact.")
    ] = 0.0005,
    diff_scale: Annotated[int, typer.Option(help="Pixels averaged, each way, for frame differences.")] = 4,
    no_diffs: Annotated[bool, typer.Option("--no-diffs", help="Leave frame differences out.")] = False,
    workers: Annotated[int, typer.Option(help="Processes.", show_default="one a core", min=0)] = 0,
    strict: Annotated[bool, typer.Option("--strict", help="Exit 1 if any frame was rejected.")] = False,
) -> None:
    """Convert a raw data set, straight from its archives, into shards."""
    from vdaprep.convert import Progress
    from vdaprep.convert import convert as run
    from vdaprep.frames import SourceOptions
    from vdaprep.plan import Selection, Settings, make_plan
    from vdaprep.progress import frame_bar

    settings = Settings(
        short_side=None if short_side == "native" else _whole("--short-side", short_side),
        clip_frames=clip_frames,
        frames_per_shard=frames_per_shard,
        jpeg_quality=jpeg_quality,
        depth_error=depth_error,
        diff_scale=None if no_diffs else diff_scale,
        source=SourceOptions(camera=camera, intrinsics=_intrinsics(intrinsics), depth_unit_m=depth_unit),
    )
    selection = Selection(select=tuple(select or ()), splits=splits, val=tuple(val or ()))
    plan = make_plan(dataset, raw=raw or f"raw/{dataset}", settings=settings, selection=selection)
    with frame_bar("convert", total=plan.num_frames) as bar:
        progress = Progress(on_frames=bar.advance, on_shard=lambda record: bar.reject(len(record.rejected)))
        record = run(plan, out=out, workers=workers or os.cpu_count() or 1, progress=progress)
    _summarise(record, out / dataset)
    if strict and record.rejected:
        raise VdakitError(f"{len(record.rejected)} inputs were rejected, and --strict takes none.")


@app.command(epilog="Example: vdaprep inspect shards/tartanair/train/shard-0001.tar --preview sheet.png")
def inspect(
    shard: Annotated[Path, typer.Argument(help="A shard; a bare name is also looked for below ./shards.")],
    clip: Annotated[str | None, typer.Option(help="Look at this clip only.", metavar="KEY")] = None,
    preview: Annotated[
        Path | None, typer.Option(help="Draw one clip: a contact sheet (.png) or a video (.mp4).", metavar="FILE")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the facts as JSON.")] = False,
) -> None:
    """Show what a shard holds, and whether it is whole."""
    from vdaprep import inspect as inspection
    from vdaprep.preview import write_preview
    from vdaprep.progress import frame_bar

    tar = _find_shard(shard)
    record = inspection.open_shard(tar)
    clips = inspection.choose_clips(tar, record, key=clip)
    with frame_bar("read", total=sum(entry.frames for entry in clips)) as bar:
        report = inspection.examine(tar, record, clips, on_frame=bar.advance)
    if as_json:
        sys.stdout.write(json.dumps(report.to_json(), indent=2) + "\n")
    else:
        for part in inspection.renderables(report):
            console.print(part)
    if preview is not None:
        write_preview(tar, clips[0], path=preview)
        errors.print(f"{preview}: {'contact sheet' if preview.suffix.lower() == '.png' else 'video'} of {clips[0].key}")


@app.command(epilog="Example: vdaprep verify shards/ --deep --geometry")
def verify(
    paths: Annotated[list[Path], typer.Argument(help="Folders of shards, or shards.", metavar="PATH...")],
    deep: Annotated[bool, typer.Option("--deep", help="Decode every member and compare it with the schema.")] = False,
    geometry: Annotated[
        bool, typer.Option("--geometry", help="Warp frames with depth and poses: do they agree?")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Find whatever is wrong with shards; exit 1 and name it."""
    from vdaprep import geometry as warping
    from vdaprep.progress import frame_bar
    from vdaprep.verify import count_frames, find_shards
    from vdaprep.verify import verify as check

    frames = count_frames(paths)
    with frame_bar("verify", total=frames) as bar:
        report = check(paths, deep=deep, on_frames=bar.advance)
    measured: list[warping.TrajectoryGeometry] = []
    if geometry and not report.findings:
        with frame_bar("warp", total=frames) as bar:
            tars = dict.fromkeys(tar for path in paths for tar in find_shards(path))
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


@app.command(epilog="Example: vdaprep export shards/tartanair --out frames/")
def export(
    path: Annotated[Path, typer.Argument(help="A data set's folder of shards, or a shard.")],
    out: Annotated[Path, typer.Option(help="Folder of the trajectories' folders.", show_default=False)],
) -> None:
    """Turn shards back into PNG, npy and text files, one folder a trajectory."""
    from vdaprep.export import export as run
    from vdaprep.progress import frame_bar
    from vdaprep.verify import count_frames, find_shards

    frames = count_frames([path])
    with frame_bar("export", total=frames) as bar:
        names = run(find_shards(path), out=out, on_frame=bar.advance)
    console.print(f"{out}: {frames} frames of {len(names)} trajectories", highlight=False, soft_wrap=True)


@app.command(epilog="Example: vdaprep datasets --json")
def datasets(as_json: Annotated[bool, typer.Option("--json", help="Print the facts as JSON.")] = False) -> None:
    """List the data sets that convert reads: size, licence, where to get them, what shards will weigh."""
    from vdaprep import manifest, sources

    facts = [manifest.load(name) for name in sources.names()]
    rows = [row for item in facts for row in manifest.overview(item)]
    if as_json:
        sys.stdout.write(json.dumps(rows, indent=2) + "\n")
        return
    for item in facts:
        console.print(f"{item.name}: {item.title}; licence: {item.licence}; {item.home}", markup=False, soft_wrap=True)
        for row in (row for row in rows if row["dataset"] == item.name and row["version"]):
            figures = [f"{row[name]:,.0f} {unit}" for name, unit in _FIGURES.items() if row[name] is not None]
            known = ", ".join(figures) or "sizes are not known"
            console.print(f"  {row['version']}: {known}", markup=False, highlight=False, soft_wrap=True)


# ------------------------------------------------------------------------------------------------------------ details


def _summarise(record: "DatasetRecord", folder: Path) -> None:
    from vdaprep.progress import human_bytes

    totals = record.totals
    console.print(
        f"{folder}: {totals['frames']} frames in {totals['clips']} clips, {len(record.shards)} shards, "
        f"{human_bytes(totals['bytes'])} ({human_bytes(totals['bytes'] / totals['frames'])} a frame)",
        highlight=False,
        soft_wrap=True,
    )
    if totals["clamped_near"]:
        console.print(
            f"{totals['clamped_near']} depth pixels were nearer than the depth code goes; stored at its near end."
        )
    for item in record.rejected:
        errors.print(f"rejected: {item.file}: {item.reason}", markup=False)


_FIGURES = {"frames": "frames", "download_gb": "GB to download", "shards_gb": "GB of shards, about"}


def _praise(report: "Report", *, deep: bool) -> None:
    from vdaprep.progress import human_bytes

    how = "every member decoded" if deep else "sizes and SHA-256 compared, --deep decodes every member"
    console.print(
        f"{report.shards} shards, {report.clips} clips, {report.frames} frames, {human_bytes(report.bytes)}: "
        f"all is well ({how})",
        highlight=False,
        soft_wrap=True,
    )


def _find_shard(shard: Path) -> Path:
    if shard.exists() or shard.name != str(shard):
        return shard
    found = sorted(Path("shards").glob(f"**/{shard.name}"))
    if not found:
        return shard
    if len(found) > 1:
        errors.print(f"{len(found)} shards below shards/ are called {shard}; this is {found[0]}")
    return found[0]


def _size(text: str) -> tuple[int, int]:
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(part.isdigit() for part in parts):
        raise UsageError(f"--size {text}: expected WxH, for example 320x240.")
    return int(parts[0]), int(parts[1])


def _whole(option: str, text: str) -> int:
    if not text.isdigit():
        raise UsageError(f"{option} {text}: expected a whole number, or native.")
    return int(text)


def _intrinsics(text: str | None) -> tuple[float, float, float, float] | None:
    if text is None:
        return None
    try:
        fx, fy, cx, cy = (float(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(f"--intrinsics {text}: expected four numbers fx,fy,cx,cy.") from error
    if not (0 < fx < 1e6 and 0 < fy < 1e6):
        raise UsageError(f"--intrinsics {text}: the focal lengths fx and fy must be positive.")
    return fx, fy, cx, cy
