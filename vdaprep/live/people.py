"""What people are told of a conversion: a bar on a terminal, lines elsewhere."""

from collections.abc import Generator
from contextlib import contextmanager
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

from vdaprep import console
from vdaprep.clips import PlannedShard
from vdaprep.live.teller import Live, Seldom
from vdaprep.meter import Meter
from vdaprep.plan import Plan
from vdaprep.schema import ShardRecord
from vdaprep.summary import Summary
from vdaprep.tasks import Amount

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
        console.errors.print(sentence, markup=False)


def _state(meter: Meter) -> str:
    left = meter.seconds_left()
    parts = [
        f"{meter.frames}/{meter.total_frames} frames",
        f"{meter.shards}/{meter.total_shards} shards",
        str(meter.speed()),
        *_left_and_rejected(meter, left),
    ]
    return ", ".join(parts)


def _left_and_rejected(meter: Meter, left_s: float | None) -> list[str]:
    left = [] if left_s is None else [f"{timedelta(seconds=round(left_s))} left"]
    return [*left, *([f"{meter.rejected} rejected"] if meter.rejected else [])]
