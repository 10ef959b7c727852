"""The window of frames at each position of a stream."""

import dataclasses
import functools
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from vdaprep.errors import UsageError
from vdatrain.config import MAX_REPEATS
from vdatrain.data.index import StoredClip


@dataclass(frozen=True)
class ClipWeight:
    """So many `clips` that follow one another, and how often each of their windows comes in an epoch.

    `repeats` 3: three times, each time cut anew; 0.5: half of the windows, drawn anew every epoch; 0: never.
    """

    clips: int
    repeats: int | float = 1

    def __post_init__(self) -> None:
        if self.clips < 1 or not 0 <= self.repeats <= MAX_REPEATS:
            raise UsageError(
                f"{self.clips} clips {self.repeats:g} times an epoch cannot be; 0 to {MAX_REPEATS} times can."
            )

    def count(self, windows: int) -> int:
        """Return how many windows an epoch has of a part with so many different ones."""
        return math.floor(self.repeats * windows + 0.5)


def dataset_weights(clips: Sequence[StoredClip], mix: Mapping[str, float]) -> tuple[ClipWeight, ...]:
    """Return how often the clips come; those of a data set that the mix does not name, once.

    Raises UsageError for a name that no clip has.
    """
    found = {clip.dataset for clip in clips}
    unknown = sorted(mix.keys() - found)
    if unknown:
        raise UsageError(f"--mix {unknown[0]}={mix[unknown[0]]:g}: the shards have {', '.join(sorted(found))} only.")
    return tuple(
        ClipWeight(len(list(group)), mix.get(dataset, 1))
        for dataset, group in itertools.groupby(c.dataset for c in clips)
    )


MAX_STRIDE = 258  # as many int8 differences as always add up within int16


@dataclass(frozen=True)
class WindowShape:
    """How long a window is: `num_frames` frames, each `stride` frames of the clip after the one before."""

    num_frames: int
    stride: int = 1

    def __post_init__(self) -> None:
        if self.num_frames < 1 or not 1 <= self.stride <= MAX_STRIDE:
            raise UsageError(
                f"a window needs at least 1 frame and a stride of 1 to {MAX_STRIDE}, "
                f"found {self.num_frames} frames and stride {self.stride}."
            )

    @property
    def span(self) -> int:
        """Frames of the clip from the window's first to its last."""
        return (self.num_frames - 1) * self.stride + 1


@dataclass(frozen=True)
class Window:
    """Frames of clip number `clip`, counted from `first`, that stand at `position` of an order.

    repeats: how many of the clip's frames from `first` on lie in the window before it as well; 0 but for the last
    window of a clip in an EvaluationOrder.
    """

    position: int
    clip: int
    first: int
    shape: WindowShape
    repeats: int = 0

    @property
    def frame_numbers(self) -> range:
        """The T frames of the clip that the window shows."""
        return range(self.first, self.first + self.shape.span, self.shape.stride)


@dataclass(frozen=True)
class WindowSampler:
    """All windows of all clips, shuffled anew every epoch, for ever: a pure function of seed, epoch and position.

    In an epoch a clip of L frames gives floor(L / span) windows; their first frames are drawn at random, each from a
    stretch of its own, so that they spread over the clip and every epoch cuts differently. A clip shorter than the span
    gives none; UsageError if all are. lengths: frames of each clip. parts: how often the clips come, stretch by stretch
    of them; none: all of them once.
    """

    lengths: tuple[int, ...]
    shape: WindowShape
    seed: int = 0
    parts: tuple[ClipWeight, ...] = ()

    def __post_init__(self) -> None:
        _check_lengths(self.lengths, self.shape)
        assert sum(part.clips for part in self.parts) == (len(self.lengths) if self.parts else 0)
        if not self.windows_per_epoch:
            raise UsageError("no window is left to train on; let a data set with long enough clips come more often.")

    @functools.cached_property
    def windows_per_epoch(self) -> int:
        """Windows of an epoch; position // this is the epoch."""
        return sum(part.count(int(windows.sum())) for part, windows in _windows_by_part(self))

    @property
    def clips_left_out(self) -> int:
        """Clips shorter than the span."""
        return sum(length < self.shape.span for length in self.lengths)

    @property
    def total(self) -> None:
        """There is no last position."""
        return

    def at(self, position: int) -> Window:
        """Return the window at a position from 0 on."""
        epoch, row = divmod(position, self.windows_per_epoch)
        clip, first = _shuffled_epoch(self, epoch)[row].tolist()
        return Window(position, clip, first, self.shape)

    def of_images(self) -> "WindowSampler":
        """Return an order of all frames instead, each a window of its own.

        Frame f's difference is to frame f - 1 at stride 1; at others, which add differences up, it has none.
        """
        return dataclasses.replace(self, shape=dataclasses.replace(self.shape, num_frames=1))


@dataclass(frozen=True)
class EvalSampler:
    """All windows of all clips, once, clip after clip from frame 0.

    Where frames remain at a clip's end, one more window ends with the clip, and its `repeats` says how many of its
    frames were seen before. A clip shorter than the span is left out; UsageError if all are. lengths: frames of each
    clip.
    """

    lengths: tuple[int, ...]
    shape: WindowShape

    def __post_init__(self) -> None:
        _check_lengths(self.lengths, self.shape)

    @property
    def clips_left_out(self) -> int:
        """Clips shorter than the span."""
        return sum(length < self.shape.span for length in self.lengths)

    @property
    def total(self) -> int:
        """The number of windows."""
        return sum(-(-length // self.shape.span) for length in self.lengths if length >= self.shape.span)

    def at(self, position: int) -> Window:
        """Return the window at a position from 0 to `total - 1`."""
        clip, first, repeats = _in_sequence(self)[position]
        return Window(position, clip, first, self.shape, repeats)


@dataclass(frozen=True)
class SubsetSampler:
    """At most `count` windows of an evaluation, spread evenly over all of them."""

    order: EvalSampler
    count: int

    @property
    def total(self) -> int:
        """The number of windows."""
        return min(self.count, self.order.total)

    def at(self, position: int) -> Window:
        """Return the window at a position from 0 to `total - 1`; its own `position` is that in the whole order."""
        return self.order.at((2 * position + 1) * self.order.total // (2 * self.total))


@dataclass(frozen=True)
class ChosenSampler:
    """Some positions of an evaluation, as a rank takes them over."""

    order: EvalSampler | SubsetSampler
    positions: tuple[int, ...]

    @property
    def total(self) -> int:
        """The number of windows."""
        return len(self.positions)

    def at(self, position: int) -> Window:
        """Return the window at a position from 0 to `total - 1`; its own `position` is that in the whole order."""
        return self.order.at(self.positions[position])


Sampler = WindowSampler | EvalSampler | SubsetSampler | ChosenSampler


def _check_lengths(lengths: tuple[int, ...], shape: WindowShape) -> None:
    longest = max(lengths, default=0)
    if longest < shape.span:
        raise UsageError(
            f"a window of {shape.num_frames} frames at stride {shape.stride} spans {shape.span} frames and the longest "
            f"clip has {longest}; ask for fewer frames, or convert with a larger --clip-frames."
        )


@functools.lru_cache(maxsize=4)
def _shuffled_epoch(order: WindowSampler, epoch: int) -> Int64[np.ndarray, "n 2"]:
    """Return (clip, first frame) of each position of an epoch.

    Only uniform doubles are drawn: PCG64 fixes them for every machine and version, which numpy does not promise of
    `permutation` and `integers`.
    """
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([order.seed, epoch])))
    span = order.shape.span
    lengths = np.array(order.lengths, np.int64)
    clips, nth = _chosen_windows(order, rng).T
    stretch = (lengths[clips] - span + 1) / (lengths[clips] // span)
    firsts = np.minimum(np.floor((nth + rng.random(len(clips))) * stretch), lengths[clips] - span).astype(np.int64)
    windows = np.stack([clips, firsts], axis=1)
    return windows[np.argsort(rng.random(len(windows)), kind="stable")]


def _chosen_windows(order: WindowSampler, rng: np.random.Generator) -> Int64[np.ndarray, "n 2"]:
    """Return (clip, which of its windows) of all windows of an epoch, as often as they come, unshuffled."""
    chosen: list[np.ndarray] = []
    first = 0
    for part, counts in _windows_by_part(order):
        clips = np.repeat(np.arange(first, first + len(counts)), counts)
        nth = np.arange(len(clips)) - np.repeat(np.cumsum(counts) - counts, counts)
        windows = np.stack([clips, nth], axis=1)
        whole, rest = divmod(part.count(len(windows)), max(1, len(windows)))
        chosen += [windows] * whole
        if rest:
            chosen.append(windows[np.argsort(rng.random(len(windows)), kind="stable")[:rest]])
        first += len(counts)
    return np.concatenate(chosen)


def _windows_by_part(order: WindowSampler) -> list[tuple[ClipWeight, Int64[np.ndarray, " clips"]]]:
    """Return each part with the number of windows of each of its clips."""
    counts = np.array(order.lengths, np.int64) // order.shape.span
    parts = order.parts or (ClipWeight(len(counts)),)
    ends = np.cumsum([part.clips for part in parts])
    return list(zip(parts, np.split(counts, ends[:-1]), strict=True))


@functools.lru_cache(maxsize=4)
def _in_sequence(order: EvalSampler) -> list[tuple[int, int, int]]:
    """Return (clip, first frame, repeats) of each position."""
    span = order.shape.span
    windows: list[tuple[int, int, int]] = []
    for clip, length in enumerate(order.lengths):
        whole = length // span
        windows += [(clip, nth * span, 0) for nth in range(whole)]
        if whole and length % span:
            windows.append((clip, length - span, whole * span - (length - span)))
    return windows


@dataclass(frozen=True)
class DistributedPositions:
    """A rank's part of the global batches that follow one another from position `start` on.

    A global batch is `batch * world` positions; the rank reads every `world`-th of them, from `rank` on. So the order
    of the global batches is the same for every number of ranks that has the same `batch * world`.
    """

    batch: int
    rank: int = 0
    world: int = 1
    start: int = 0

    def __post_init__(self) -> None:
        if self.batch < 1 or self.start < 0 or not 0 <= self.rank < self.world:
            raise UsageError(
                f"a batch of {self.batch} windows from position {self.start} on for rank {self.rank} "
                f"of {self.world} cannot be."
            )

    def start_after(self, batches: int) -> int:
        """Return the position to resume from after so many batches: the stream's whole state but for the seed."""
        return self.start + batches * self.batch * self.world

    def of_images(self, per_clip: int) -> "DistributedPositions":
        """Return the share in an order of images, so many beside each window of this one."""
        return dataclasses.replace(self, batch=self.batch * per_clip, start=self.start * per_clip)

    def positions(self, *, total: int | None) -> Iterator[int]:
        """Yield the rank's positions, batch after batch.

        Ends before `total`, unless that is None; then only the last batch of a rank can be short, and a rank can have
        one batch fewer than another.
        """
        positions = itertools.count(self.start + self.rank, self.world)
        return positions if total is None else itertools.takewhile(lambda position: position < total, positions)
