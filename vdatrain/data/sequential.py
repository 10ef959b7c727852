"""Sequential streaming: shards front to back, windows shuffled in a buffer (webdataset).

One request per shard instead of one per window: for object stores, servers and slow disks. An epoch has exactly the
windows that an epoch of the full shuffle has, mix included, cut and augmented alike; only their order differs. Shards
come in an order drawn from (seed, epoch); rank r of W streams every W-th of them; a buffer of N windows is kept full,
and each window that leaves it is drawn at random.

A state is exact to the window for the same number of ranks, buffer and version of webdataset: nothing is shown twice or
left out. Only the shards with windows that were waiting in the buffer are read again, about buffer / windows per shard
of them. With another number of ranks the shards are divided otherwise from the state on, so that until the next epoch
some windows come twice and others not at all. A window left out by `--skip-bad` lets a state begin one window earlier.

What it costs in shuffling, measured on 200 shards of 16 clips of 64 frames, windows of 32 frames, batches of 4:

    order               batches with two      ... with two windows    shards among 100
                        windows of one clip   of one shard            successive windows
    shuffle             0.06 %                 2 %                    80
    sequential, 1024    0.3 %                 10 %                    53
    sequential, 256     0.9 %                 32 %                    25
    sequential, 64      4 %                   79 %                    11
    sequential, 16      17 %                  99.8 %                   6

A buffer of N windows holds their clips as stored, about 3 MB for each window of 32 frames of 640x480 pixels. Several
ranks mix more: each has a buffer of its own and other shards.
"""

import functools
import itertools
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from webdataset.filters import shuffle
from webdataset.pipeline import DataPipeline
from webdataset.shardlists import split_by_worker

from vdaprep.errors import ShardError, VdakitError
from vdaprep.shards.index import shards_of
from vdaprep.shards.metadata import ClipMeta
from vdaprep.shards.reader import Clip, load_meta
from vdaprep.storage.cache import CachedTar
from vdaprep.storage.paths import stream
from vdatrain.data.prefetch import Pace, Stalled, map_ahead
from vdatrain.data.sampler import DistributedPositions, Window, WindowSampler
from vdatrain.data.samples import Sample
from vdatrain.data.stream import FaultPolicy, Outcome, attempt, collect, pace_of, stall_error

_CLIPS_AHEAD = 2  # that are read while the buffer takes the one before


@dataclass(frozen=True)
class StreamedClip(Clip):
    """A clip whose bytes came with its shard."""

    data: bytes = field(default=b"", repr=False, compare=False)
    """The clip's part of the tar, from `entry.offset` on."""
    error: VdakitError | None = field(default=None, compare=False)
    """Why the shard could not be read up to the clip's end."""

    def read_range(self, start: int, stop: int) -> bytes:
        """Return the tar's bytes from `start` to `stop`; raises what reading the shard raised."""
        if self.error is not None:
            raise self.error
        return self.data[start - self.entry.offset : stop - self.entry.offset]

    @functools.cached_property
    def meta(self) -> ClipMeta:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The clip's metadata; raises ShardError as `read_window` does."""
        return load_meta(self)  # not kept by `read_meta`, which would keep the clip's bytes as well


@dataclass(frozen=True)
class Visit:
    """A clip in one reading of its shard."""

    clip: int
    """Its number in the index."""
    windows: tuple[Window, ...]
    """Its windows of one epoch, in the order of their first frames."""


@dataclass(frozen=True)
class Item:
    """A window on its way through the buffer."""

    window: Window
    """Which frames of which clip."""
    clip: Clip
    """A StreamedClip, unless nothing of it is to be shown."""


def stream_sequential(  # noqa: PLR0913 - keywords
    clips: Sequence[Clip],
    sampler: WindowSampler,
    *,
    positions: DistributedPositions,
    buffer: int,
    workers: int = 2,
    pin: bool = False,
    faults: FaultPolicy = FaultPolicy(),  # noqa: B008 - it is frozen
) -> Generator[list[Sample]]:
    """Yield a rank's batches in sequential order; otherwise as `stream_batches`.

    One thread streams the shards; `workers` threads decode. A window that cannot be read is left out where `skip_bad`
    allows it, and the next one takes its place.

    Args:
        clips: The index that the windows' clip numbers refer to.
        sampler: Says which windows an epoch has.
        positions: The positions to read; position p is that after p // world windows of every rank.
        buffer: Windows from which the next one is drawn.
        workers: Threads that decode ahead; they change nothing of the order.
        pin: Decode into page-locked memory.
        faults: What to do about windows that cannot be read.

    Raises:
        ShardError: a window or a shard cannot be read, when its batch is due.
        VdakitError: reading a clip takes longer than `stall_timeout_s`, or memory does not suffice.
    """
    items = iter(
        sequential_windows(clips, sampler, positions=positions, buffer=buffer, stall_timeout_s=faults.stall_timeout_s)
    )
    pace = replace(pace_of(positions, workers, faults), patience_s=0)  # what is decoded is in memory already
    outcomes = map_ahead(functools.partial(_decode, pin=pin), items, pace=pace)
    with closing(collect(outcomes, batch=positions.batch, faults=faults)) as batches:
        try:
            yield from batches
        except Stalled as stalled:
            assert isinstance(stalled.item, _Task)
            raise stall_error(clips[stalled.item.visit.clip], faults) from None


def sequential_windows(
    clips: Sequence[Clip],
    sampler: WindowSampler,
    *,
    positions: DistributedPositions,
    buffer: int,
    stall_timeout_s: int | float = 0,
) -> Iterable[Item]:
    """Return a webdataset.DataPipeline over a rank's windows, each with its clip's bytes.

    Where several workers of a torch DataLoader iterate it, they divide the rank's shards; `start` is that of one alone.
    """
    skipped = positions.start // positions.world
    shown: frozenset[int] = frozenset()
    if skipped:
        replay = DataPipeline(*_stages(clips, sampler, positions, buffer, functools.partial(_unread, clips=clips)))
        shown = frozenset(item.window.position for item in itertools.islice(replay, skipped))
    read = functools.partial(_read, clips=clips, shown=shown, stall_timeout_s=stall_timeout_s)
    stages = _stages(clips, sampler, positions, buffer, read)
    return DataPipeline(*stages, functools.partial(_skip, count=skipped))


def _stages(
    clips: Sequence[Clip],
    sampler: WindowSampler,
    positions: DistributedPositions,
    buffer: int,
    read: Callable[[Iterator[Sequence[Visit]]], Iterator[Item]],
) -> tuple[Callable[..., object], ...]:
    return (
        functools.partial(_shards, clips, sampler),
        functools.partial(_split_by_rank, positions=positions),
        split_by_worker,
        read,
        shuffle(buffer, initial=buffer, seed=sampler.seed),
    )


def _shards(clips: Sequence[Clip], sampler: WindowSampler) -> Iterator[tuple[Visit, ...]]:
    """Yield visits of shards, epoch after epoch; shards without a window are left out."""
    shard_of = shards_of(clips)
    for epoch in itertools.count():
        windows = sorted(sampler.epoch(epoch), key=lambda window: (window.clip, window.first, window.position))
        found = [Visit(clip, tuple(own)) for clip, own in itertools.groupby(windows, key=lambda window: window.clip)]
        shards = [tuple(own) for _, own in itertools.groupby(found, key=lambda visit: shard_of[visit.clip])]
        # The spawn key keeps this stream apart from that of the windows, which [seed, epoch] starts.
        sequence = np.random.SeedSequence([sampler.seed, epoch], spawn_key=(3,))
        draws = np.random.Generator(np.random.PCG64(sequence)).random(len(shards))
        yield from (shards[number] for number in np.argsort(draws, kind="stable"))


def _split_by_rank(shards: Iterator[Sequence[Visit]], *, positions: DistributedPositions) -> Iterator[Sequence[Visit]]:
    """As webdataset.split_by_node, for the given ranks, not the environment's."""
    return itertools.islice(shards, positions.rank, None, positions.world)


def _skip(items: Iterator[Item], *, count: int) -> Iterator[Item]:
    return itertools.islice(items, count, None)


def _unread(shards: Iterator[Sequence[Visit]], *, clips: Sequence[Clip]) -> Iterator[Item]:
    return (Item(window, clips[visit.clip]) for visits in shards for visit in visits for window in visit.windows)


# ------------------------------------------------------------------------------------------------------------- reading


def _read(
    shards: Iterator[Sequence[Visit]],
    *,
    clips: Sequence[Clip],
    shown: Collection[int],
    stall_timeout_s: int | float,
) -> Iterator[Item]:
    """Yield the windows of the shards, with their clips, which one thread reads ahead.

    Of a shard whose windows have all been `shown` nothing is read: the buffer has to take them again all the same.
    """
    pace = Pace(1, ahead=_CLIPS_AHEAD, patience_s=stall_timeout_s)
    with closing(map_ahead(_ShardReader(clips), _tasks(shards, shown), pace=pace)) as tasks:
        for windows, clip in tasks:
            yield from (Item(window, clip) for window in windows)


def _tasks(shards: Iterator[Sequence[Visit]], shown: Collection[int]) -> Iterator["_Task"]:
    for visits in shards:
        is_wanted = any(window.position not in shown for visit in visits for window in visit.windows)
        yield from (_Task(visit, visits[-1].clip, is_wanted) for visit in visits)


@dataclass(frozen=True)
class _Task:
    """A clip to be read."""

    visit: Visit
    last: int
    """Number of the last clip that is read of the same shard."""
    is_wanted: bool
    """Whether any window of the shard has still to be shown."""


class _ShardReader:
    """Reads clips; those of a remote tar, in the file's order, from one answer of the server."""

    def __init__(self, clips: Sequence[Clip]) -> None:
        self._clips = clips
        self._tar: object = None
        self._pieces: Iterator[bytes] = iter(())
        self._buffer = b""
        self._position = 0  # in the tar, of the buffer's first byte

    def __call__(self, task: _Task) -> tuple[tuple[Window, ...], Clip]:
        """Return a clip's windows and the clip with its bytes, or with the error of reading them."""
        clip = self._clips[task.visit.clip]
        if not task.is_wanted:
            return task.visit.windows, clip
        data, error = b"", None
        try:
            data = self._read(clip, end=_end(self._clips[task.last]))
        except VdakitError as failure:
            error = failure
        read = StreamedClip(**_fields(clip), data=data, error=error)
        return task.visit.windows, read

    def _read(self, clip: Clip, *, end: int) -> bytes:
        """Return the clip's part of its tar, of which the bytes up to `end` will be asked for."""
        start, stop = clip.entry.offset, _end(clip)
        if isinstance(clip.tar, Path | CachedTar):
            return clip.read_range(start, stop)
        if clip.tar != self._tar or start < self._position:
            self._tar, self._pieces, self._buffer, self._position = clip.tar, stream(clip.tar, end), b"", 0
        try:
            data = self._take(stop)[start - self._position :]
        except OSError as error:
            self._tar = None
            raise ShardError(f"{clip.tar}: cannot be read for clip {clip.entry.key} ({error.strerror}).") from error
        self._position = stop
        return data

    def _take(self, stop: int) -> bytes:
        """Take the bytes from the present position to `stop`, fewer where the tar ends."""
        pieces, size = [self._buffer], len(self._buffer)
        while size < stop - self._position and (piece := next(self._pieces, b"")):
            pieces.append(piece)
            size += len(piece)
        data = b"".join(pieces)
        self._buffer = data[stop - self._position :]
        return data[: stop - self._position]


def _end(clip: Clip) -> int:
    return clip.entry.offset + clip.entry.bytes


def _fields(clip: Clip) -> dict[str, Any]:
    return {item.name: getattr(clip, item.name) for item in fields(clip)}


def _decode(item: Item, *, pin: bool) -> Outcome:
    found = attempt(item.clip, item.window, pin=pin)
    return Outcome(found, ()) if isinstance(found, Sample) else Outcome(None, (found,))
