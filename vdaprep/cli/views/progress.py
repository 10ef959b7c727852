"""Progress of a conversion: a bar on a terminal, lines elsewhere, JSON events for scripts."""

import shlex
import sys
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import timedelta
from typing import Any

from rich.progress import BarColumn, Progress, SpinnerColumn

from vdaprep.cli.options import command_words
from vdaprep.cli.views import output
from vdaprep.cli.views.output import Every
from vdaprep.cli.views.picture import finding_lines, picture_lines
from vdaprep.conversion.account import grouped
from vdaprep.conversion.api import ConversionResult
from vdaprep.conversion.consume import Consumption
from vdaprep.errors import UsageError, VdakitError
from vdaprep.storage.urls import redact
from vdaprep.units import format_bytes
from vdaprep.workers.progress import ProgressEvent, Throughput
from vdaprep.workers.signals import Interrupted

EVENT_S = 1.0  # between two JSON events of listing, and of progress
_MAX_COLUMN = 40
_SHOWN = 40  # lines of what will be deleted, and of what is kept; whatever was not converted is shown in full


class TextReporter:
    """Prints a line now and then on stderr, and a summary on stdout."""

    def __init__(self) -> None:
        self.throughput = Throughput()
        self._due = Every(output.LINE_S)

    def __call__(self, event: ProgressEvent) -> None:
        """Report an event."""
        self.throughput.update(event)
        match event.kind:
            case "listing":
                self.on_listing(event)
            case "chosen":
                words = shlex.join(map(redact, command_words(event.facts["options"]))) or "nothing but the defaults"
                self.on_notice(f"--budget chose: {words}")
            case "notice":
                self.on_notice(event.text)
            case "done":
                self.on_done(event.facts["result"])
            case _:
                self.on_change(event)

    @contextmanager
    def running(self) -> Generator[None]:
        """Report while the block runs."""
        yield

    @contextmanager
    def paused(self) -> Generator[None]:
        """Leave the terminal to the block."""
        yield

    def on_listing(self, event: ProgressEvent) -> None:
        """Report the bytes of an archive that were listed."""
        if self._due.is_due():
            self.on_notice(f"listing {event.text}: {_listed(event)} GB")

    def on_change(self, event: ProgressEvent) -> None:
        """Report that counters have changed."""
        if event.kind == "work" and self._due.is_due():
            self.on_notice(", ".join(self._state()))

    def on_notice(self, sentence: str) -> None:
        """Print a sentence."""
        if not output.is_quiet():
            output.errors.print(sentence)

    def on_done(self, result: ConversionResult) -> None:
        """Print a summary, and what was rejected."""
        for line in summary_lines(result, self.throughput):
            output.console.print(line)
        for line in grouped(result.rejected):
            output.errors.print(f"rejected: {line}")
        for line in finding_lines(result.pictures):
            output.errors.print(line)

    def confirm_deletion(self, consumption: Consumption, *, yes: bool) -> None:
        """Show what --consume may delete and what is kept, and ask, unless `yes` was said.

        Raises UsageError without a terminal, VdakitError if the answer is no.
        """
        with self.paused():
            confirm_deletion(consumption, yes=yes)

    def _state(self) -> Iterator[str]:
        counts = self.throughput
        yield f"{counts.frames}/{counts.total_frames} frames"
        yield f"{counts.shards}/{counts.total_shards} shards"
        yield str(counts.speed())
        yield from self._left_and_rejected()

    def _left_and_rejected(self) -> Iterator[str]:
        left_s = self.throughput.seconds_left()
        if left_s is not None:
            yield f"{timedelta(seconds=round(left_s))} left"
        if self.throughput.rejected:
            yield f"{self.throughput.rejected} rejected"


class BarReporter(TextReporter):
    """Shows a bar on a terminal."""

    def __init__(self, terminal: output.SafeConsole) -> None:
        super().__init__()
        columns = (SpinnerColumn(), BarColumn(bar_width=None), output.LabelColumn())
        self._progress = Progress(*columns, console=terminal, expand=True)
        self._task = self._progress.add_task("listing", total=None)

    @contextmanager
    def running(self) -> Generator[None]:
        """See TextReporter."""
        with self._progress:
            yield

    @contextmanager
    def paused(self) -> Generator[None]:
        """See TextReporter."""
        self._progress.stop()
        yield
        self._progress.start()

    def on_listing(self, event: ProgressEvent) -> None:
        """See TextReporter."""
        text = f"listing {event.text[-_MAX_COLUMN:]}, {_listed(event)} GB"
        self._progress.update(
            self._task, total=event.facts["total_bytes"], completed=event.facts["bytes"], description=text
        )

    def on_change(self, event: ProgressEvent) -> None:
        """See TextReporter."""
        counts, speed = self.throughput, self.throughput.speed()
        parts = [
            f"{counts.frames}/{counts.total_frames} frames",
            f"{speed.frames:.1f}/s",
            f"{speed.bytes_in / 1e6:.1f} MB/s in",
            f"{speed.bytes_out / 1e6:.1f} out",
            *self._left_and_rejected(),
        ]
        self._progress.update(
            self._task, total=counts.total_frames, completed=counts.frames, description=", ".join(parts)
        )

    def on_notice(self, sentence: str) -> None:
        """See TextReporter."""
        self._progress.console.print(sentence)

    def on_done(self, result: ConversionResult) -> None:
        """See TextReporter."""
        self._progress.stop()
        super().on_done(result)


class JsonReporter(TextReporter):
    """Prints events on stdout, a line of JSON each.

    listing: archive, bytes, total_bytes. plan: dataset, raw, out, frames, clips, shards. progress: the counts of
    Throughput.to_json. shard: name, frames, clips, bytes, sha256, earlier. rejected: file, reason. notice: message.
    done: the summary. error: message, exit_code. Of listing and progress there is at most one in EVENT_S seconds.
    """

    _TEXTS = {"shard": "name", "rejected": "file"}

    def __init__(self) -> None:
        super().__init__()
        self._out = sys.stdout  # as it is now: some libraries print, and that is redirected
        self._listing, self._work = Every(EVENT_S), Every(EVENT_S)

    @contextmanager
    def running(self) -> Generator[None]:
        """See TextReporter; an error is an event, too."""
        try:
            yield
        except BaseException as error:
            known = isinstance(error, (VdakitError, Interrupted))
            message, code = (str(error), error.exit_code) if known else (repr(error), 1)
            self._print("error", message=message, exit_code=code)
            raise

    def on_listing(self, event: ProgressEvent) -> None:
        """See TextReporter."""
        if self._listing.is_due():
            self._print("listing", archive=event.text, **event.facts)

    def on_change(self, event: ProgressEvent) -> None:
        """See TextReporter."""
        if event.kind in self._TEXTS:
            self._print(event.kind, **{self._TEXTS[event.kind]: event.text}, **event.facts)
        elif event.kind == "plan":
            self._print("plan", **event.facts)
        elif event.kind == "work" and self._work.is_due():
            self._print("progress", **self.throughput.to_json())

    def on_notice(self, sentence: str) -> None:
        """See TextReporter."""
        self._print("notice", message=sentence)

    def on_done(self, result: ConversionResult) -> None:
        """See TextReporter."""
        self._print("done", **summary_json(result, self.throughput))

    def _print(self, event: str, **facts: Any) -> None:
        output.print_json({"event": event, **facts}, indent=None, to=self._out)


@contextmanager
def reporter(*, as_json: bool) -> Generator[TextReporter]:
    """Provide what reports progress in the block: on stdout if as JSON, else on stderr."""
    terminal = output.SafeConsole(stderr=True)
    has_bar = terminal.is_terminal and not output.is_quiet()
    found = JsonReporter() if as_json else BarReporter(terminal) if has_bar else TextReporter()
    with found.running():
        yield found


def _listed(event: ProgressEvent) -> str:
    return f"{event.facts['bytes'] / 1e9:.1f} of {event.facts['total_bytes'] / 1e9:.1f}"


# -------------------------------------------------------------------------------------------------------------- summary


def summary_lines(result: ConversionResult, throughput: Throughput) -> Iterator[str]:
    """Lay out for a terminal what a conversion has made."""
    made, seconds = result.totals, throughput.seconds
    part = "" if result.part is None else f" part {str(result.part).replace('-', ' ')}:"
    each = f" ({format_bytes(made['bytes'] / made['frames'])} a frame)" if made["frames"] else ""
    yield (
        f"{result.out}:{part} {made['frames']} frames in {made['clips']} clips, {result.shards} shards, "
        f"{format_bytes(made['bytes'])}{each}"
    )
    if made["frames"]:
        kinds = ", ".join(f"{kind} {format_bytes(size)}" for kind, size in made["bytes_by_kind"].items())
        yield f"of that {kinds}; {len(result.rejected)} inputs rejected"
    if frames := throughput.work.frames:
        yield f"{frames} frames in {timedelta(seconds=round(seconds))}: {throughput.mean_speed(seconds)}"
    if made["clamped_near"]:
        yield f"{made['clamped_near']} depth pixels were nearer than the depth code reaches; stored at its near end."
    if beyond := made.get("clamped_far"):
        yield f"{beyond} depth pixels were farther than the depth code reaches; stored as sky."
    if result.account is not None:
        yield from result.account.lines()
    yield from picture_lines(result.pictures)
    if part:
        yield "After the last part: the same command with --finish instead of --part."


def summary_json(result: ConversionResult, throughput: Throughput) -> dict[str, Any]:
    """Return what a conversion has made, and how fast, as JSON."""
    seconds = throughput.seconds
    speed = throughput.mean_speed(seconds)
    return {
        "out": result.out,
        "part": None if result.part is None else str(result.part),
        "shards": result.shards,
        **result.totals,
        "rejected": len(result.rejected),
        "account": None if result.account is None else result.account.to_json(),
        "trajectories": [asdict(one) for one in result.pictures],
        "seconds": round(seconds, 3),
        "new_frames": throughput.work.frames,
        "bytes_in": throughput.work.bytes_in,
        "bytes_out": throughput.work.bytes_out,
        "frames_per_s": round(speed.frames, 2),
        "bytes_in_per_s": round(speed.bytes_in),
        "bytes_out_per_s": round(speed.bytes_out),
    }


# ------------------------------------------------------------------------------------------------------------- deletion


def confirm_deletion(consumption: Consumption, *, yes: bool) -> None:
    """Show what --consume may delete and what is kept, and ask, unless `yes` was said.

    Raises UsageError without a terminal, VdakitError if the answer is no.
    """
    _print_some(list(consumption.deleted()), "to delete", limit=_SHOWN)
    _print_some(list(consumption.deleted_unused()), "to delete")
    _print_some(list(consumption.left()), "kept", limit=_SHOWN)
    if yes or not consumption.items:
        return
    what = f"{format_bytes(sum(item.bytes for item in consumption.items))} of raw data"
    if any(item.unused for item in consumption.items):
        what = f"{what} (some of it not converted)"
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UsageError(f"--consume: would delete {what} below {consumption.root}; say --yes to allow it.")
    if not output.confirm(f"Delete {what}, each part when its shards were read back?"):
        raise VdakitError("nothing was done; without --consume raw data is kept.")


def _print_some(lines: Sequence[str], what: str, *, limit: int | None = None) -> None:
    for line in lines[:limit]:
        output.errors.print(line)
    if more := len(lines) - len(lines[:limit]):
        output.errors.print(f"and {more} more {what}")
