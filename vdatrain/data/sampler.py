"""Samplers: which window of frames stands at each position of a training or an evaluation."""

import dataclasses
import functools
import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int32, Int64

from vdaprep.errors import UsageError
from vdaprep.shards.index import ClipIndex
from vdatrain.config import MAX_REPEATS, Mix

Lengths = tuple[int, ...] | Int64[np.ndarray, " clips"]
MAX_STRIDE = 258
"""Frames between neighbours of a window, at most: as many int8 differences as always add up within int16."""


@dataclass(frozen=True)
class WindowShape:
    """How long a window is. UsageError unless it has a frame and a stride of 1 to MAX_STRIDE."""

    num_frames: int
    """Frames per window."""
    stride: int = 1
    """Frames of the clip from one frame of the window to the next."""

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
    """Some frames of a clip, at a position of an order."""

    position: int
    """Where it stands in the order, from 0 on; seeds the augmentation."""
    clip: int
    """Number of the clip in the index."""
    first: int
    """First frame of the clip that it shows."""
    shape: WindowShape
    """Number and stride of its frames."""
    view: tuple[int, int] | None = None
    """Height and width that training shows it at, in pixels; None: those of all windows."""
    repeats: int = 0
    """How many of the clip's frames from `first` on the window before it has as well; above 0 only for the last window
    of a clip in an evaluation."""

    @property
    def frame_numbers(self) -> range:
        """The T frames of the clip that the window shows."""
        return range(self.first, self.first + self.shape.span, self.shape.stride)


# ----------------------------------------------------------------------------------------------------------- weights


@dataclass(frozen=True)
class ClipWeight:
    """How often the windows of some successive clips occur in an epoch."""

    clips: int
    """Number of clips, which follow one another in the index."""
    repeats: int | float = 1
    """3: each window three times, with three draws of its first frame; 0.5: half of the windows, another random half
    each epoch; 0: none."""

    def __post_init__(self) -> None:
        if self.clips < 1 or not 0 <= self.repeats <= MAX_REPEATS:
            raise UsageError(
                f"{self.clips} clips {self.repeats:g} times an epoch cannot be; 0 to {MAX_REPEATS} times can."
            )

    def count(self, windows: int) -> int:
        """Return how many windows an epoch has of clips that have so many different ones."""
        return math.floor(self.repeats * windows + 0.5)


def dataset_weights(
    clips: ClipIndex, mix: Mix, shape: WindowShape, frames: Int64[np.ndarray, " clips"] | None = None
) -> tuple[ClipWeight, ...]:
    """Return the weights of clips by data set, for windows of a shape.

    `frames`: those of each clip's windows, where they differ from the shape's.

    Shares of frames leave an epoch about as many windows as all data sets in the mix have: those with less than their
    share come more often, those with more come in part.

    Raises:
        UsageError: no clip is of a data set that the mix names, all of its clips are shorter than a window, or its
            windows would have to come more than MAX_REPEATS times.
    """
    stretches = clips.datasets()
    found = {dataset for dataset, _ in stretches}
    unknown = sorted(mix.numbers.keys() - found)
    if unknown:
        asked = f"{100 * mix.numbers[unknown[0]]:g}%" if mix.of_frames else f"{mix.numbers[unknown[0]]:g}"
        raise UsageError(f"--mix {unknown[0]}={asked}: the shards have {', '.join(sorted(found))} only.")
    if not mix.of_frames:
        return tuple(ClipWeight(count, mix.numbers.get(dataset, 1)) for dataset, count in stretches)
    repeats = _repeats_of_shares(_windows_by_dataset(clips, shape, frames), mix, shape)
    return tuple(ClipWeight(count, repeats.get(dataset, 0)) for dataset, count in stretches)


def expected_shares(clips: ClipIndex, mix: Mix) -> dict[str, float]:
    """Return the share of frames by data set that a mix asks for, no clip being too short."""
    if mix.of_frames:
        return {dataset: share for dataset, share in mix.numbers.items() if share}
    frames = _windows_by_dataset(clips, WindowShape(1))
    asked = {dataset: mix.numbers.get(dataset, 1) * count for dataset, count in frames.items()}
    total = sum(asked.values())
    return {dataset: count / total for dataset, count in asked.items() if count}


def _windows_by_dataset(
    clips: ClipIndex, shape: WindowShape, frames: Int64[np.ndarray, " clips"] | None = None
) -> dict[str, float]:
    """Return the number of each data set's windows; one of fewer frames is a part of one."""
    windows = np.asarray(clips.lengths, np.int64) // shape.span
    if frames is not None:
        windows = np.asarray(clips.lengths, np.int64) // ((frames - 1) * shape.stride + 1) * (frames / shape.num_frames)
    totals: dict[str, float] = {}
    first = 0
    for dataset, count in clips.datasets():
        totals[dataset] = totals.get(dataset, 0) + float(windows[first : first + count].sum())
        first += count
    return totals


def _repeats_of_shares(windows: Mapping[str, float], mix: Mix, shape: WindowShape) -> dict[str, float]:
    """Return how often windows come in an epoch so that frames have the mix's shares."""
    shares = {dataset: share for dataset, share in mix.numbers.items() if share}
    total = sum(windows[dataset] for dataset in shares)
    repeats: dict[str, float] = {}
    for dataset, share in shares.items():
        repeats[dataset] = share * total / windows[dataset] if windows[dataset] else math.inf
        if repeats[dataset] > MAX_REPEATS:
            raise UsageError(
                f"--mix {dataset}={100 * share:g}%: it has {windows[dataset]:.10g} windows of {shape.num_frames} "
                f"frames at stride {shape.stride} among {total:.10g}, which would have to come more than {MAX_REPEATS} "
                "times an epoch; give it a smaller share, or take shorter windows."
            )
    return repeats


# ---------------------------------------------------------------------------------------------------------- samplers


class TrainSampler(ABC):
    """An endless order of windows."""

    @abstractmethod
    def __getitem__(self, position: int) -> Window:
        """Return the window at a position from 0 on."""

    @abstractmethod
    def instead_of(self, position: int, *, attempt: int) -> Window:
        """Return one of the same shape to take its place, another for each attempt from 1 on."""


@dataclass(frozen=True, eq=False)  # so that to look up an epoch, which is kept by sampler, takes no pass over the clips
class WindowSampler(TrainSampler):
    """Endless shuffle of the windows of all clips: a pure function of (seed, epoch, position).

    In an epoch a clip of L frames gives floor(L / span) windows. The first frame of each is drawn at random from a part
    of the clip of its own, so that the windows cover the clip and every epoch cuts differently. A clip shorter than the
    span gives none. Every number of ranks and workers visits the same order, so the position is all
    that has to be kept to resume.

    Raises:
        UsageError: all clips are shorter than the span, or the weights leave no window.
    """

    lengths: Lengths
    """Frames of each clip."""
    shape: WindowShape
    """Number and stride of a window's frames."""
    seed: int = 0
    """Of the order and of the first frames."""
    weights: tuple[ClipWeight, ...] = ()
    """How often the windows of successive clips occur in an epoch; empty: once each."""

    def __post_init__(self) -> None:
        _check_lengths(self.lengths, self.shape)
        assert sum(weight.clips for weight in self.weights) == (len(self.lengths) if self.weights else 0)
        if not self.windows_per_epoch:
            raise UsageError("no window is left to train on; let a data set with long enough clips come more often.")

    @functools.cached_property
    def windows_per_epoch(self) -> int:
        """Windows of an epoch; position // this is the epoch."""
        return sum(weight.count(int(windows.sum())) for weight, windows in _windows_by_weight(self))

    @property
    def clips_left_out(self) -> int:
        """Clips shorter than the span."""
        return _count_shorter(self.lengths, self.shape)

    def __getitem__(self, position: int) -> Window:
        """Return the window at a position from 0 on; there is no last one."""
        epoch, row = divmod(position, self.windows_per_epoch)
        clip, first = _shuffled_epoch(self, epoch)[row].tolist()
        return Window(position, clip, first, self.shape)

    def instead_of(self, position: int, *, attempt: int) -> Window:
        """Return the window of the same place so many epochs later, at this position."""
        return dataclasses.replace(self[position + attempt * self.windows_per_epoch], position=position)

    def epoch(self, number: int) -> list[Window]:
        """Return all windows of an epoch in their order."""
        start = number * self.windows_per_epoch
        rows = _shuffled_epoch(self, number).tolist()
        return [Window(start + row, clip, first, self.shape) for row, (clip, first) in enumerate(rows)]

    def of_images(self) -> "WindowSampler":
        """Return an order of all frames instead, each a window of its own.

        Frame f's difference is to frame f - 1 at stride 1; at others, which add differences up, it has none.
        """
        return dataclasses.replace(self, shape=dataclasses.replace(self.shape, num_frames=1))


@dataclass(frozen=True, eq=False)
class EvalSampler(Sequence[Window]):
    """All windows of all clips, once, clip after clip from frame 0.

    Where frames remain at a clip's end one more window ends with the clip, and its `repeats` says how many of its
    frames the window before it has. A clip shorter than the span is left out.

    Raises:
        UsageError: all clips are shorter than the span.
    """

    lengths: Lengths
    """Frames of each clip."""
    shape: WindowShape
    """Number and stride of a window's frames."""

    def __post_init__(self) -> None:
        _check_lengths(self.lengths, self.shape)

    @property
    def clips_left_out(self) -> int:
        """Clips shorter than the span."""
        return _count_shorter(self.lengths, self.shape)

    @functools.cached_property
    def _ends(self) -> Int64[np.ndarray, " clips"]:
        """Position after the last window of each clip."""
        lengths, span = np.asarray(self.lengths, np.int64), self.shape.span
        return np.cumsum(np.where(lengths < span, 0, -(-lengths // span)))

    def __len__(self) -> int:
        """Return the number of windows."""
        return int(self._ends[-1])

    def __getitem__(self, position: int) -> Window:  # pyright: ignore[reportIncompatibleMethodOverride] - no slices
        """Return the window at a position, found by bisection; IndexError beyond the last."""
        position = range(len(self))[position]
        clip = int(np.searchsorted(self._ends, position, side="right"))
        nth = position - (int(self._ends[clip - 1]) if clip else 0)
        start, span = nth * self.shape.span, self.shape.span
        first = min(start, int(self.lengths[clip]) - span)
        return Window(position, clip, first, self.shape, repeats=start - first)


@dataclass(frozen=True)
class SubsetSampler(Sequence[Window]):
    """Some windows of an evaluation; each keeps its position in the whole of it."""

    order: Sequence[Window]
    """The evaluation, or a part of it."""
    positions: Sequence[int]
    """The positions in `order` that are kept."""

    def __len__(self) -> int:
        """Return the number of windows."""
        return len(self.positions)

    def __getitem__(self, position: int) -> Window:  # pyright: ignore[reportIncompatibleMethodOverride] - no slices
        """Return the window at a position of the subset."""
        return self.order[self.positions[position]]


Sampler = TrainSampler | Sequence[Window]


def _count_shorter(lengths: Lengths, shape: WindowShape) -> int:
    return int(np.count_nonzero(np.asarray(lengths, np.int64) < shape.span))


def _check_lengths(lengths: Lengths, shape: WindowShape) -> None:
    longest = int(np.max(np.asarray(lengths, np.int64), initial=0))
    if longest < shape.span:
        raise UsageError(
            f"a window of {shape.num_frames} frames at stride {shape.stride} spans {shape.span} frames and the longest "
            f"clip has {longest}; ask for fewer frames, or convert with a larger --clip-frames."
        )


@functools.lru_cache(maxsize=4)
def _shuffled_epoch(order: WindowSampler, epoch: int) -> Int32[np.ndarray, "n 2"]:
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
    windows = np.stack([clips, firsts], axis=1, dtype=np.int32, casting="same_kind")
    return windows[np.argsort(rng.random(len(windows)), kind="stable")]


def _chosen_windows(order: WindowSampler, rng: np.random.Generator) -> Int64[np.ndarray, "n 2"]:
    """Return (clip, which of its windows) of all windows of an epoch, repeated, unshuffled."""
    chosen: list[np.ndarray] = []
    first = 0
    for weight, counts in _windows_by_weight(order):
        clips = np.repeat(np.arange(first, first + len(counts)), counts)
        nth = np.arange(len(clips)) - np.repeat(np.cumsum(counts) - counts, counts)
        windows = np.stack([clips, nth], axis=1)
        whole, rest = divmod(weight.count(len(windows)), max(1, len(windows)))
        chosen += [windows] * whole
        if rest:
            chosen.append(windows[np.argsort(rng.random(len(windows)), kind="stable")[:rest]])
        first += len(counts)
    return np.concatenate(chosen)


def _windows_by_weight(order: WindowSampler) -> list[tuple[ClipWeight, Int64[np.ndarray, " clips"]]]:
    """Return each weight with the number of windows of each of its clips."""
    counts = np.array(order.lengths, np.int64) // order.shape.span
    weights = order.weights or (ClipWeight(len(counts)),)
    ends = np.cumsum([weight.clips for weight in weights])
    return list(zip(weights, np.split(counts, ends[:-1]), strict=True))


# ------------------------------------------------------------------------------------------------------------- ranks


@dataclass(frozen=True)
class DistributedPositions:
    """Distributed sampler: the positions that a rank reads, starting at a global position.

    A global batch is `batch * world` positions; the rank reads every `world`-th of them, from `rank` on. So the order
    of the global batches is the same for every number of ranks that has the same `batch * world`.
    """

    batch: int
    """Windows per batch of one rank."""
    rank: int = 0
    """Number of this rank, from 0 on."""
    world: int = 1
    """Number of ranks."""
    start: int = 0
    """Global position at which the first global batch begins."""

    def __post_init__(self) -> None:
        if self.batch < 1 or self.start < 0 or not 0 <= self.rank < self.world:
            raise UsageError(
                f"a batch of {self.batch} windows from position {self.start} on for rank {self.rank} "
                f"of {self.world} cannot be."
            )

    def start_after(self, batches: int) -> int:
        """Return the position to resume from after so many batches."""
        return self.start + batches * self.batch * self.world

    def of_images(self, per_clip: int) -> "DistributedPositions":
        """Return the positions in an order of images, `per_clip` for each window of this one."""
        return dataclasses.replace(self, batch=self.batch * per_clip, start=self.start * per_clip)

    def positions(self, *, total: int | None) -> Iterator[int]:
        """Yield the rank's positions, batch after batch.

        Ends before `total`, unless that is None; then only the last batch of a rank can be short, and a rank can have
        one batch fewer than another.
        """
        positions = itertools.count(self.start + self.rank, self.world)
        return positions if total is None else itertools.takewhile(lambda position: position < total, positions)


def partition(total: int, *, first_takes: Collection[int], rank: int, world: int) -> tuple[tuple[int, ...], int]:
    """Divide the positions of an evaluation over the ranks.

    Rank 0 gets those in `first_takes`, of which it alone makes pictures; then all ranks are filled up to
    ceil(total / world) positions.

    Returns:
        This rank's positions, ascending, and the most that any rank has.
    """
    quota = max(-(-total // world), len(first_takes))
    ordered = sorted(range(total), key=lambda position: (position not in first_takes, position))
    if rank == 0:
        return tuple(sorted(ordered[:quota])), quota
    return tuple(ordered[quota + rank - 1 :: world - 1]), quota
