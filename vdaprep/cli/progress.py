"""What a conversion tells while it is under way: a bar on a terminal, lines elsewhere, JSON events for scripts."""

import json
import sys
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

from vdaprep.cli import output
from vdaprep.conversion.clips import PlannedShard
from vdaprep.conversion.convert import ConversionProgress, Part
from vdaprep.conversion.plan import Plan
from vdaprep.errors import VdakitError
from vdaprep.shards.records import DatasetRecord, Rejection, ShardRecord, totals
from vdaprep.units import format_bytes
from vdaprep.workers.progress import Speed, Throughput
from vdaprep.workers.signals import Interrupted
from vdaprep.workers.tasks import Amount


@dataclass(frozen=True)
class Summary:
    """What there is now, in `totals` as `dataset.json` has them; `work` is what this run did of it.

    `part` is empty for a whole conversion; `seconds` and `speed` are those of the work.
    """

    out: str
    part: str
    shards: int
    totals: Mapping[str, Any]
    rejected: tuple[Rejection, ...]
    work: Amount
    seconds: float
    speed: Speed

    @classmethod
    def of_dataset(cls, record: DatasetRecord, *, out: str, meter: Throughput) -> "Summary":
        """Sum up a whole conversion."""
        return cls(
            out=out, part="", shards=len(record.shards), totals=record.totals, rejected=record.rejected, **_done(meter)
        )

    @classmethod
    def of_part(cls, part: Part, records: Sequence[ShardRecord], *, out: str, meter: Throughput) -> "Summary":
        """Sum up a part of a conversion."""
        rejected = tuple(item for record in records for item in record.rejected)
        return cls(
            out=out, part=str(part), shards=len(records), totals=totals(records), rejected=rejected, **_done(meter)
        )

    def lines(self) -> Iterator[str]:
        """Say it in a few lines."""
        made = self.totals
        part = f" part {self.part.replace('-', ' ')}:" if self.part else ""
        each = f" ({format_bytes(made['bytes'] / made['frames'])} a frame)" if made["frames"] else ""
        yield (
            f"{self.out}:{part} {made['frames']} frames in {made['clips']} clips, {self.shards} shards, "
            f"{format_bytes(made['bytes'])}{each}"
        )
        if made["frames"]:
            kinds = ", ".join(f"{kind} {format_bytes(size)}" for kind, size in made["bytes_by_kind"].items())
            yield f"of that {kinds}; {len(self.rejected)} inputs rejected"
        if self.work.frames:
            yield f"{self.work.frames} frames in {timedelta(seconds=round(self.seconds))}: {self.speed}"
        if made["clamped_near"]:
            near = "depth pixels were nearer than the depth code goes; stored at its near end."
            yield f"{made['clamped_near']} {near}"
        if self.part:
            yield "After the last part: the same command with --finish instead of --part."

    def to_json(self) -> dict[str, Any]:
        """Return it for scripts."""
        return {
            "out": self.out,
            "part": self.part or None,
            "shards": self.shards,
            **self.totals,
            "rejected": len(self.rejected),
            "seconds": round(self.seconds, 3),
            "new_frames": self.work.frames,
            "bytes_in": self.work.bytes_in,
            "bytes_out": self.work.bytes_out,
            "frames_per_s": round(self.speed.frames, 2),
            "bytes_in_per_s": round(self.speed.bytes_in),
            "bytes_out_per_s": round(self.speed.bytes_out),
        }


def _done(meter: Throughput) -> dict[str, Any]:
    seconds = meter.seconds
    return {"work": meter.work, "seconds": seconds, "speed": meter.mean_speed(seconds)}


class Live:
    """Counts, and tells nobody."""

    def __init__(self) -> None:
        self.meter = Throughput()

    @contextmanager
    def paused(self) -> Generator[None]:
        """Let the block have the terminal."""
        yield

    def heard(self) -> ConversionProgress:
        """Return what `convert` is to tell."""
        return ConversionProgress(on_work=self.on_work, on_shard=self.on_shard, on_notice=self.on_notice)

    def on_listing(self, archive: str, done: int, size: int) -> None:
        """Hear how many of an archive's bytes were gone through to list it."""

    def on_plan(self, plan: Plan, shards: tuple[PlannedShard, ...], *, out: str) -> None:
        """Hear which shards of a plan are to be made now."""
        frames = sum(shard.num_frames for shard in shards)
        self.meter.begin(frames=frames, shards=len(shards), rejected=len(plan.rejected))

    def on_work(self, amount: Amount) -> None:
        """Hear of work."""
        self.meter.add(amount)

    def on_shard(self, name: str, record: ShardRecord, earlier: bool) -> None:
        """Hear of a finished shard."""
        self.meter.add_shard(record, earlier=earlier)

    def on_notice(self, sentence: str) -> None:
        """Hear what went amiss without stopping anything."""

    def on_done(self, summary: Summary) -> None:
        """Hear how it ended."""
        for line in summary.lines():
            output.console.print(line, markup=False, highlight=False, soft_wrap=True)
        for item in summary.rejected:
            output.errors.print(f"rejected: {item.file}: {item.reason}", markup=False)


class Seldom:
    """Says whether it is time to tell something again."""

    def __init__(self, every_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._every_s = every_s
        self._clock = clock
        self._last = clock()

    def __call__(self) -> bool:
        """Tell whether `every_s` have passed since it last was."""
        now = self._clock()
        if now - self._last < self._every_s:
            return False
        self._last = now
        return True


_MAX_COLUMN = 40


@contextmanager
def tell_people(*, every_s: float) -> Generator[Live]:
    """Tell of what happens in the block on stderr: by a bar if that is a terminal, else by a line every `every_s`."""
    terminal = Console(stderr=True)
    if not terminal.is_terminal:
        yield _Lines(every_s)
        return
    bar = _Bar(terminal)
    with bar.shown():
        yield bar


class _Bar(Live):
    """A bar on a terminal."""

    def __init__(self, terminal: Console) -> None:
        super().__init__()
        columns = (SpinnerColumn(), BarColumn(bar_width=None), TextColumn("{task.description}"))
        self._progress = Progress(*columns, console=terminal, expand=True)
        self._task = self._progress.add_task("listing", total=None)

    def shown(self) -> Progress:
        """Return what shows the bar while it is entered."""
        return self._progress

    @contextmanager
    def paused(self) -> Generator[None]:
        """See Live."""
        self._progress.stop()
        yield
        self._progress.start()

    def on_listing(self, archive: str, done: int, size: int) -> None:
        text = f"listing {archive[-_MAX_COLUMN:]}, {done / 1e9:.1f} of {size / 1e9:.1f} GB"
        self._progress.update(self._task, total=size, completed=done, description=text)

    def on_plan(self, plan: Plan, shards: tuple[PlannedShard, ...], *, out: str) -> None:
        super().on_plan(plan, shards, out=out)
        self._progress.update(self._task, total=self.meter.total_frames)
        self._show()

    def on_work(self, amount: Amount) -> None:
        super().on_work(amount)
        self._show()

    def on_shard(self, name: str, record: ShardRecord, earlier: bool) -> None:
        super().on_shard(name, record, earlier)
        self._show()

    def on_notice(self, sentence: str) -> None:
        self._progress.console.print(sentence, markup=False, highlight=False, soft_wrap=True)

    def on_done(self, summary: Summary) -> None:
        self._progress.stop()
        super().on_done(summary)

    def _show(self) -> None:
        meter, speed, left = self.meter, self.meter.speed(), self.meter.seconds_left()
        parts = [
            f"{meter.frames}/{meter.total_frames} frames",
            f"{speed.frames:.1f}/s",
            f"{speed.bytes_in / 1e6:.1f} MB/s in",
            f"{speed.bytes_out / 1e6:.1f} out",
            *_left_and_rejected(meter, left),
        ]
        self._progress.update(self._task, completed=meter.frames, description=", ".join(parts))


class _Lines(Live):
    """A line every `every_s` seconds on a stderr that is no terminal."""

    def __init__(self, every_s: float) -> None:
        super().__init__()
        self._due = Seldom(every_s)

    def on_listing(self, archive: str, done: int, size: int) -> None:
        if self._due():
            self.on_notice(f"listing {archive}: {done / 1e9:.1f} of {size / 1e9:.1f} GB")

    def on_work(self, amount: Amount) -> None:
        super().on_work(amount)
        if self._due():
            self.on_notice(_state(self.meter))

    def on_notice(self, sentence: str) -> None:
        output.errors.print(sentence, markup=False)


def _state(meter: Throughput) -> str:
    left = meter.seconds_left()
    parts = [
        f"{meter.frames}/{meter.total_frames} frames",
        f"{meter.shards}/{meter.total_shards} shards",
        str(meter.speed()),
        *_left_and_rejected(meter, left),
    ]
    return ", ".join(parts)


def _left_and_rejected(meter: Throughput, left_s: float | None) -> list[str]:
    left = [] if left_s is None else [f"{timedelta(seconds=round(left_s))} left"]
    return [*left, *([f"{meter.rejected} rejected"] if meter.rejected else [])]


@contextmanager
def tell_scripts(*, every_s: float) -> Generator[Live]:
    """Tell of what happens in the block on stdout; of listing and of progress no more often than `every_s`."""
    events = _Events(every_s)
    try:
        yield events
    except BaseException as error:
        events.on_error(error)
        raise


class _Events(Live):
    """Events on stdout, a line of JSON each.

    listing: archive, bytes, total_bytes. plan: dataset, raw, out, frames, clips, shards. progress: the counts of
    Meter.to_json. shard: name, frames, clips, bytes, sha256, earlier. rejected: file, reason. notice: message.
    done: the summary. error: message, exit_code.
    """

    def __init__(self, every_s: float) -> None:
        super().__init__()
        self._out = sys.stdout  # as it is now: some libraries print, and that is led elsewhere
        self._listing_due = Seldom(every_s)
        self._work_due = Seldom(every_s)

    def on_listing(self, archive: str, done: int, size: int) -> None:
        if self._listing_due():
            self._tell("listing", archive=archive, bytes=done, total_bytes=size)

    def on_plan(self, plan: Plan, shards: tuple[PlannedShard, ...], *, out: str) -> None:
        super().on_plan(plan, shards, out=out)
        self._tell(
            "plan",
            dataset=plan.dataset,
            raw=plan.raw,
            out=out,
            frames=self.meter.total_frames,
            clips=sum(len(shard.clips) for shard in shards),
            shards=len(shards),
        )
        self._tell_rejected(plan.rejected)

    def on_work(self, amount: Amount) -> None:
        super().on_work(amount)
        if self._work_due():
            self._tell("progress", **self.meter.to_json())

    def on_shard(self, name: str, record: ShardRecord, earlier: bool) -> None:
        super().on_shard(name, record, earlier)
        self._tell(
            "shard",
            name=name,
            frames=record.num_frames,
            clips=len(record.clips),
            bytes=record.tar_bytes,
            sha256=record.tar_sha256,
            earlier=earlier,
        )
        self._tell_rejected(record.rejected)

    def on_notice(self, sentence: str) -> None:
        self._tell("notice", message=sentence)

    def on_done(self, summary: Summary) -> None:
        self._tell("done", **summary.to_json())

    def on_error(self, error: BaseException) -> None:
        """Hear what ended it."""
        known = isinstance(error, (VdakitError, Interrupted))
        self._tell("error", message=str(error) if known else repr(error), exit_code=error.exit_code if known else 1)

    def _tell_rejected(self, rejected: Iterable[Rejection]) -> None:
        for item in rejected:
            self._tell("rejected", file=item.file, reason=item.reason)

    def _tell(self, event: str, **facts: Any) -> None:
        self._out.write(json.dumps({"event": event, **facts}) + "\n")
        self._out.flush()


LINE_S = 10.0  # between two lines, and before the first: a short conversion tells only what came of it
EVENT_S = 1.0  # between two events of the same kind that tell of progress


def live(*, as_json: bool) -> AbstractContextManager[Live]:
    """Tell of what happens in the block: on stdout if as JSON, else on stderr."""
    return tell_scripts(every_s=EVENT_S) if as_json else tell_people(every_s=LINE_S)
