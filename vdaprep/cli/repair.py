"""The command `vdaprep repair`."""

from contextlib import ExitStack
from typing import Annotated, Any

import typer

from vdaprep.cli.options import Dataset, check_shards_folder, given_options
from vdaprep.cli.views.output import console, frame_bar
from vdaprep.conversion.api import repair
from vdaprep.conversion.options import ConversionOptions
from vdaprep.errors import VdakitError
from vdaprep.workers.progress import ProgressEvent

EXAMPLE = "vdaprep repair tartanair --raw raw/tartanair --out shards/"


@given_options(ConversionOptions)
def command(
    dataset: Dataset,
    out: Annotated[str, typer.Option(help="Folder or URL of the shards, as convert was given.", show_default=False)],
    given: dict[str, Any],
    workers: Annotated[int, typer.Option(help="Processes that encode.", show_default="one a core", min=0)] = 0,
    remove_extra: Annotated[
        bool, typer.Option("--remove-extra", help="Delete shards that do not belong there; else they are named.")
    ] = False,
    retry_rejected: Annotated[
        bool, typer.Option("--retry-rejected", help="Also make again those that lost frames, once raw files are good.")
    ] = False,
    break_lock: Annotated[
        bool, typer.Option("--break-lock", help="Take an object store's lock from a process that is known to be dead.")
    ] = False,
) -> None:
    """Make again, from raw data, only those shards that verify --deep finds wrong or missing.

    Options are read from what is there; giving them again is not needed.
    """
    check_shards_folder(out, dataset, raw=given.get("raw", f"raw/{dataset}"))
    with _Reporter() as report:
        found = repair(
            dataset,
            out=out,
            workers=workers or None,
            remove_extra=remove_extra,
            retry_rejected=retry_rejected,
            break_lock=break_lock,
            on_progress=report,
            **given,
        )
    if not found.findings:
        console.print(f"{found.place}: all is well, nothing was written")
        return
    names = ", ".join(shard.name for shard in found.broken) or "no shard"
    console.print(f"{found.place}: made again and read back: {names}")
    if found.extra and not remove_extra:
        raise VdakitError(
            f"{', '.join(f'{found.place}/{name}' for name in found.extra)}: not part of this data set; "
            "--remove-extra deletes what does not belong there."
        )


class _Reporter(ExitStack):
    """Shows a bar while shards are verified, what is wrong, a bar while they are made again."""

    def __call__(self, event: ProgressEvent) -> None:
        """Report an event."""
        match event.kind:
            case "checking":
                self._bar = self.enter_context(frame_bar("verify", total=event.amount.frames))
            case "checked" | "work":
                self._bar.advance(event.amount.frames)
            case "finding":
                self.close()
                console.print(event.text)
            case "plan":
                self.close()
                self._bar = self.enter_context(frame_bar("repair", total=event.facts["frames"]))
            case "notice":
                self._bar.notice(event.text)
            case _:
                pass
