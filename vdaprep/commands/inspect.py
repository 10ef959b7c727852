"""The command `vdaprep inspect`."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from vdaprep.console import console, errors

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
    from vdaprep import inspect as inspection
    from vdaprep.places import place_of
    from vdaprep.preview import write_preview
    from vdaprep.progress import frame_bar

    place = place_of(shard)
    tar = _find_shard(place) if isinstance(place, Path) else place
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


def _find_shard(shard: Path) -> Path:
    if shard.exists() or shard.name != str(shard):
        return shard
    found = sorted(Path("shards").glob(f"**/{shard.name}"))
    if not found:
        return shard
    if len(found) > 1:
        errors.print(f"{len(found)} shards below shards/ are called {shard}; this is {found[0]}")
    return found[0]
