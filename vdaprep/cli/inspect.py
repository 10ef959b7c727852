"""The command `vdaprep inspect`."""

from pathlib import Path
from typing import Annotated

import typer

from vdaprep.analysis import describe
from vdaprep.analysis.preview import check_preview, write_preview
from vdaprep.cli.views.output import errors, frame_bar, print_json, show
from vdaprep.cli.views.shard import renderables
from vdaprep.errors import UsageError
from vdaprep.shards.dataset import TARS
from vdaprep.shards.names import record_name
from vdaprep.storage.atomic import check_output
from vdaprep.storage.paths import list_files, open_path

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
    if preview is not None:
        check_preview(preview)
        check_output(preview, inputs=[tar, tar.with_name(record_name(tar.name))])
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
    """Return the shard that is meant, a folder's only one; raises UsageError for several."""
    if shard.is_dir():
        inside = list_files(shard, TARS)
        if len(inside) == 1 and isinstance(inside[0], Path):
            return inside[0]
        example = f"; name one, for example {inside[0]}, or see all with vdaprep stats {shard}" if inside else ""
        raise UsageError(f"{shard}: is a folder of {len(inside)} shards, expected a shard{example}.")
    if shard.exists() or shard.name != str(shard):
        return shard
    found = sorted(Path("shards").glob(f"**/{shard.name}"))
    if len(found) > 1:
        errors.print(f"{len(found)} shards below shards/ are called {shard}; this is {found[0]}")
    return found[0] if found else shard
