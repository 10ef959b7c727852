"""What scripts are told of a conversion: events, a line of JSON each."""

import json
import sys
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from typing import Any

from vdaprep.clips import PlannedShard
from vdaprep.errors import VdakitError
from vdaprep.live.teller import Live, Seldom
from vdaprep.plan import Plan
from vdaprep.schema import Rejection, ShardRecord
from vdaprep.signals import Interrupted
from vdaprep.summary import Summary
from vdaprep.tasks import Amount


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
