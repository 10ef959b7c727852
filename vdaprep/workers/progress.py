"""Progress events, and the throughput that follows from them."""

import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

_WINDOW_S = 30.0  # current speeds are means over the last half minute
_SAMPLE_S = 0.5


@dataclass(frozen=True)
class Amount:
    """Work done."""

    frames: int = 0
    """Frames encoded or rejected."""
    bytes_in: int = 0
    """Bytes of raw files read."""
    bytes_out: int = 0
    """Bytes of shards written."""

    def __add__(self, other: "Amount") -> "Amount":
        return Amount(self.frames + other.frames, self.bytes_in + other.bytes_in, self.bytes_out + other.bytes_out)

    def __neg__(self) -> "Amount":
        return Amount(-self.frames, -self.bytes_in, -self.bytes_out)

    def __sub__(self, other: "Amount") -> "Amount":
        return self + -other


@dataclass(frozen=True)
class ProgressEvent:
    """Something that happened during a conversion or a repair."""

    kind: str
    """listing: part of an archive was listed. probe: frames were encoded to predict sizes. chosen: a budget has chosen
    options. plan: the work is known and begins. work: frames were processed. shard: a shard is finished. rejected: an
    input cannot be used. notice: anything else worth telling. done: all is written. Of a repair also checking: shards
    with so many frames are to be verified. checked: frames were verified. finding: something is wrong with a shard."""
    text: str = ""
    """The archive, the shard's name, the rejected file, the finding, or the sentence of a notice."""
    amount: Amount = Amount()
    """Work done since the last event (negative: what a process did that died); of a shard: all that it holds."""
    facts: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """What else the JSON event of that kind holds, for example `bytes` and `sha256` of a shard."""


OnProgress = Callable[[ProgressEvent], None]


def ignore(event: ProgressEvent) -> None:
    """Report progress to no one."""


@dataclass(frozen=True)
class Speed:
    """Work per second."""

    frames: float
    """Frames per second."""
    bytes_in: float
    """Bytes read per second."""
    bytes_out: float
    """Bytes written per second."""

    def __str__(self) -> str:
        return f"{self.frames:.1f} frames/s, {self.bytes_in / 1e6:.1f} MB/s in, {self.bytes_out / 1e6:.1f} MB/s out"


class Throughput:
    """Counters of a conversion, kept up to date by its events."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.total_frames = 0
        self.total_shards = 0
        self.work = Amount()  # of this run
        self.earlier_frames = 0  # of runs before it
        self.shards = 0
        self.rejected = 0
        self._clock = clock
        self._start = clock()
        self._samples: deque[tuple[float, Amount]] = deque([(self._start, self.work)])

    def update(self, event: ProgressEvent) -> None:
        """Count an event."""
        match event.kind:
            case "plan":
                self.total_frames, self.total_shards = event.facts["frames"], event.facts["shards"]
                self._start = self._clock()
                self._samples = deque([(self._start, self.work)])
            case "work":
                self._add(event.amount)
            case "shard":
                self.shards += 1
                self.earlier_frames += event.amount.frames if event.facts["earlier"] else 0
            case "rejected":
                self.rejected += 1
            case _:
                pass

    def _add(self, amount: Amount) -> None:
        now = self._clock()
        if self.work == Amount():  # until now processes were starting
            self._samples = deque([(now, self.work)])
        self.work += amount
        if now - self._samples[-1][0] >= _SAMPLE_S:
            self._samples.append((now, self.work))
        while len(self._samples) > 2 and now - self._samples[1][0] > _WINDOW_S:
            self._samples.popleft()

    @property
    def frames(self) -> int:
        """Frames done, by this run and by those before, rejected ones included."""
        return self.earlier_frames + self.work.frames

    @property
    def seconds(self) -> float:
        """Seconds since the work began."""
        return self._clock() - self._start

    def speed(self) -> Speed:
        """Return the mean speed over the last half minute, or since the start if that was just now."""
        since, before = self._samples[0]
        seconds = self._clock() - since
        return self.mean_speed() if seconds < _SAMPLE_S else _speed(self.work - before, seconds)

    def mean_speed(self, seconds: float | None = None) -> Speed:
        """Return the mean speed since the start, `seconds` ago (default: by the clock)."""
        return _speed(self.work, self.seconds if seconds is None else seconds)

    def seconds_left(self) -> float | None:
        """Estimate the remaining seconds from the current speed; None while that is unknown."""
        speed = self.speed().frames
        return (self.total_frames - self.frames) / speed if speed > 0 else None

    def to_json(self) -> dict[str, Any]:
        """Return the counters and the current speed as JSON."""
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
