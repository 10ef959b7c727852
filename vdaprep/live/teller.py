"""The teller that all others are made from: it hears of a conversion, counts, tells nobody."""

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

from vdaprep import console
from vdaprep.clips import PlannedShard
from vdaprep.convert import Progress
from vdaprep.meter import Meter
from vdaprep.plan import Plan
from vdaprep.schema import ShardRecord
from vdaprep.summary import Summary
from vdaprep.tasks import Amount


class Live:
    """Counts, and tells nobody."""

    def __init__(self) -> None:
        self.meter = Meter()

    @contextmanager
    def paused(self) -> Generator[None]:
        """Let the block have the terminal."""
        yield

    def heard(self) -> Progress:
        """Return what `convert` is to tell."""
        return Progress(on_work=self.on_work, on_shard=self.on_shard, on_notice=self.on_notice)

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
            console.console.print(line, markup=False, highlight=False, soft_wrap=True)
        for item in summary.rejected:
            console.errors.print(f"rejected: {item.file}: {item.reason}", markup=False)


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
