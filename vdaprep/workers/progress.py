"""How far a conversion is, and how fast it goes."""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from vdaprep.shards.records import ShardRecord
from vdaprep.workers.tasks import Amount

_WINDOW_S = 30.0  # speeds are of the last half minute
_SAMPLE_S = 0.5


@dataclass(frozen=True)
class Speed:
    """What is done in a second."""

    frames: float
    bytes_in: float
    bytes_out: float

    def __str__(self) -> str:
        return f"{self.frames:.1f} frames/s, {self.bytes_in / 1e6:.1f} MB/s in, {self.bytes_out / 1e6:.1f} MB/s out"


class Throughput:
    """Counts what is done: `work` by this run, `earlier_frames` by runs before; and what came of it.

    `total_frames` and `total_shards` are what there will be in the end.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.total_frames = 0
        self.total_shards = 0
        self.work = Amount()
        self.earlier_frames = 0
        self.shards = 0
        self.rejected = 0
        self._clock = clock
        self._begun = clock()
        self._samples: deque[tuple[float, Amount]] = deque([(self._begun, self.work)])

    def begin(self, *, frames: int, shards: int, rejected: int) -> None:
        """Start the clock: this much there is to do, this many inputs are rejected already."""
        self.total_frames, self.total_shards, self.rejected = frames, shards, rejected
        self._begun = self._clock()
        self._samples = deque([(self._begun, self.work)])

    def add(self, amount: Amount) -> None:
        """Count work; or, with negative amounts, take back what a process did that died."""
        now = self._clock()
        if self.work == Amount():  # until now processes were starting
            self._samples = deque([(now, self.work)])
        self.work += amount
        if now - self._samples[-1][0] >= _SAMPLE_S:
            self._samples.append((now, self.work))
        while len(self._samples) > 2 and now - self._samples[1][0] > _WINDOW_S:
            self._samples.popleft()

    def add_shard(self, record: ShardRecord, *, earlier: bool) -> None:
        """Count a finished shard, its rejections, and its frames if an earlier run made it."""
        self.shards += 1
        self.rejected += len(record.rejected)
        self.earlier_frames += (record.num_frames + len(record.rejected)) if earlier else 0

    @property
    def frames(self) -> int:
        """Frames gone through, rejected ones too."""
        return self.earlier_frames + self.work.frames

    @property
    def seconds(self) -> float:
        """Seconds since the begin."""
        return self._clock() - self._begun

    def speed(self) -> Speed:
        """Return the speed of late, at the beginning that of all."""
        since, before = self._samples[0]
        seconds = self._clock() - since
        return self.mean_speed() if seconds < _SAMPLE_S else _speed(self.work - before, seconds)

    def mean_speed(self, seconds: float | None = None) -> Speed:
        """Return the speed since the begin, which is so many seconds ago: by default what the clock says now."""
        return _speed(self.work, self.seconds if seconds is None else seconds)

    def seconds_left(self) -> float | None:
        """Return how long it will take at the speed of late; None while that is not known."""
        speed = self.speed().frames
        return (self.total_frames - self.frames) / speed if speed > 0 else None

    def to_json(self) -> dict[str, Any]:
        """Return the counts and the speed of late, for scripts."""
        speed, left = self.speed(), self.seconds_left()
        return {
            "frames": self.frames,
            "total_frames": self.total_frames,
            "shards": self.shards,
            "total_shards": self.total_shards,
            "rejected": self.rejected,
            "bytes_in": self.work.bytes_in,
            "bytes_out": self.work.bytes_out,
            "frames_per_s": round(speed.frames, 2),
            "bytes_in_per_s": round(speed.bytes_in),
            "bytes_out_per_s": round(speed.bytes_out),
            "seconds": round(self.seconds, 3),
            "seconds_left": None if left is None else round(left, 1),
        }


def _speed(work: Amount, seconds: float) -> Speed:
    seconds = max(seconds, 1e-6)
    return Speed(*(max(count, 0) / seconds for count in (work.frames, work.bytes_in, work.bytes_out)))
