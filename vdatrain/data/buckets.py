"""Buckets: windows of one shape batched together, where clips differ in aspect or length.

A window is shown at that of ASPECTS which is nearest to its clip's, with about as many pixels as a square of the same
`size`. Clips too short for a window of T frames give windows of T / 2, T / 4, ... frames, the longest that fit, at
least 2. So there are at most 6 x log2(T) shapes, of which only those are made that the clips have.

The order is laid in blocks of windows of one shape, as many as all ranks show in a batch when the run begins: so they
take equal time, and none waits for another. Each bucket is an endless shuffle of its own. Which bucket a block is of is
drawn round by round, by systematic sampling: of BLOCKS blocks each bucket has its share, to within one block, and the
part of a block that is missing comes in later rounds. So nothing is left over at the end of an epoch, no window is
repeated to fill a batch, and the shares of the mix are kept. It is a function of seed, block size and position alone.
"""

import functools
import itertools
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

from vdaprep.errors import UsageError
from vdaprep.shards.index import ClipIndex
from vdatrain.config import MAX_REPEATS, PATCH_PX, TrainConfig, parse_mix
from vdatrain.data.sampler import (
    ClipWeight,
    DistributedPositions,
    TrainSampler,
    Window,
    WindowSampler,
    WindowShape,
    dataset_weights,
)

ASPECTS = (9 / 16, 3 / 4, 1.0, 4 / 3, 16 / 9, 7 / 3)
"""Width / height of the shapes that `aspect` native shows."""
FEWEST_FRAMES = 2
"""Of a window of a short clip: one frame has no change over time."""
BLOCKS = 256
"""Blocks of a round."""
_READERS = 16  # threads that read clips' metadata: of a server, each takes a round trip
_ROUNDED_WITHIN = 50  # windows of an epoch, so many that to round their number is one per cent
_GOLDEN = (math.sqrt(5) - 1) / 2  # its multiples, modulo 1, fill the interval evenly


def view_sizes(size: int) -> tuple[tuple[int, int], ...]:
    """Return height and width at each of ASPECTS, whole patches, about `size` x `size` pixels."""
    root = [math.sqrt(aspect) for aspect in ASPECTS]
    return tuple((_patches(size / side), _patches(size * side)) for side in root)


def _patches(side: float) -> int:
    return max(1, round(side / PATCH_PX)) * PATCH_PX


def largest_view(config: TrainConfig) -> tuple[int, int]:
    """Return height and width of the largest views of a configuration."""
    square = (config.size, config.size)
    return square if config.aspect == "square" else max(view_sizes(config.size), key=math.prod)


def count_shapes(config: TrainConfig) -> int:
    """Return how many shapes batches have at most, that of single images included."""
    lengths = len(_lengths(config)) if config.short_clips == "bucket" else 1
    return lengths * (1 if config.aspect == "square" else len(ASPECTS)) + bool(config.images_per_clip)


def train_sampler(clips: ClipIndex, config: TrainConfig, *, block: int) -> "WindowSampler | BucketSampler":
    """Return the order of training windows; raises as `WindowSampler`, `dataset_weights`."""
    shape, mix = WindowShape(config.frames, config.stride), parse_mix(config.mix)
    if not has_buckets(config):
        return WindowSampler(clips.lengths, shape, seed=config.seed, weights=dataset_weights(clips, mix, shape))
    weights = dataset_weights(clips, mix, shape, frames_of_clips(clips.lengths, config))
    return bucket_sampler(clips, config, weights=weights, block=block)


def expect_whole_batches(sampler: TrainSampler, positions: DistributedPositions) -> None:
    """Raise UsageError if a batch of all ranks would have windows of two blocks."""
    at_once = positions.batch * positions.world
    if isinstance(sampler, BucketSampler) and (sampler.block % at_once or positions.start % at_once):
        raise UsageError(
            f"--batch {positions.batch} on {positions.world} ranks: with --aspect native or --short-clips bucket "
            f"{sampler.block} windows of one shape follow one another, as the run began, and this is window "
            f"{positions.start}; give a --batch that, times the ranks, divides both."
        )


def has_buckets(config: TrainConfig) -> bool:
    """Say whether a configuration's batches may differ in shape."""
    return config.aspect != "square" or config.short_clips != "drop"


def frames_of_clips(
    lengths: Sequence[int] | Int64[np.ndarray, " clips"], config: TrainConfig
) -> Int64[np.ndarray, " clips"]:
    """Return how many frames the windows of each clip have; `frames` for one left out."""
    frames = np.full(len(lengths), config.frames, np.int64)
    for longer, shorter in itertools.pairwise(_lengths(config) if config.short_clips == "bucket" else ()):
        frames[np.asarray(lengths) < WindowShape(longer, config.stride).span] = shorter
    return frames


def _lengths(config: TrainConfig) -> list[int]:
    """Return the numbers of frames that windows may have, longest first."""
    found = [config.frames]
    while found[-1] // 2 >= FEWEST_FRAMES:
        found.append(found[-1] // 2)
    return found


def _views_of_clips(clips: ClipIndex, config: TrainConfig) -> list[tuple[int, int]]:
    """Return the height and width of each clip's views; reads all metadata for native aspects."""
    if config.aspect == "square":
        return [(config.size, config.size)] * len(clips)
    views = view_sizes(config.size)

    def view_of(number: int) -> tuple[int, int]:
        meta = clips[number].meta
        return views[int(np.argmin(np.abs(np.log(np.array(ASPECTS) * meta.height / meta.width))))]

    with ThreadPoolExecutor(_READERS) as pool:
        return list(pool.map(view_of, range(len(clips))))


@dataclass(frozen=True, eq=False)
class Bucket:
    """The clips whose windows have one shape."""

    view: tuple[int, int]
    """Height and width that they are shown at, in pixels."""
    clips: Int64[np.ndarray, " n"]
    """Their numbers in the index."""
    sampler: WindowSampler
    """The order of their windows; of these alone, whose clips it counts from 0."""
    windows: float
    """How many windows they have in an epoch of all; the bucket's share of it."""


def bucket_sampler(
    clips: ClipIndex, config: TrainConfig, *, weights: Sequence[ClipWeight], block: int
) -> "BucketSampler":
    """Return the order of windows in buckets.

    Args:
        clips: The index.
        config: Its `aspect`, `short_clips`, `size`, `frames`, `stride` and `seed`.
        weights: How often the windows of successive clips occur in an epoch.
        block: Windows of one shape that follow one another.

    Raises:
        UsageError: all clips are too short, or the weights leave no window.
        ShardError: a clip's metadata cannot be read.
    """
    shown = np.array(_views_of_clips(clips, config))
    keys = np.column_stack([shown, frames_of_clips(clips.lengths, config)])
    repeats = np.repeat([float(weight.repeats) for weight in weights], [weight.clips for weight in weights])
    found: list[Bucket] = []
    for height, width, frames in np.unique(keys, axis=0).tolist():
        shape = WindowShape(frames, config.stride)
        numbers = np.flatnonzero(
            (keys == (height, width, frames)).all(1) & (clips.lengths >= shape.span) & (repeats > 0)
        )
        windows = clips.lengths[numbers] // shape.span
        if len(numbers):
            # A seed of its own for each shape, whatever the others are; the spawn key keeps it apart from other draws.
            sequence = np.random.SeedSequence([config.seed, height, width, frames], spawn_key=(4,))
            seed = int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))
            order = WindowSampler(clips.lengths[numbers], shape, seed=seed, weights=_weights(repeats[numbers], windows))
            found.append(Bucket((height, width), numbers, order, float((windows * repeats[numbers]).sum())))
    shortest = WindowShape(int(keys[:, 2].min()), config.stride)
    every = WindowSampler(clips.lengths, shortest, config.seed, tuple(weights))  # says why where no clip has a window
    left_out = int(np.count_nonzero(clips.lengths < [WindowShape(n, config.stride).span for n in keys[:, 2].tolist()]))
    return BucketSampler(tuple(found), every, block=block, clips_left_out=left_out)


def _weights(repeats: Float64[np.ndarray, " n"], windows: Int64[np.ndarray, " n"]) -> tuple[ClipWeight, ...]:
    """Return the weights of a bucket's clips, for an epoch so long that rounding is little."""
    starts = np.flatnonzero(np.diff(repeats, prepend=-1))
    wanted = (np.add.reduceat(windows, starts) * repeats[starts])[repeats[starts] % 1 != 0]
    scale = math.ceil(_ROUNDED_WITHIN / wanted.min()) if len(wanted) else 1
    scale = max(1, min(scale, int(MAX_REPEATS // repeats.max())))
    counts = np.diff(starts, append=len(repeats)).tolist()
    return tuple(ClipWeight(n, r * scale) for n, r in zip(counts, repeats[starts].tolist(), strict=True))


@dataclass(frozen=True, eq=False)
class BucketSampler(TrainSampler):
    """Windows in blocks of one shape: a pure function of seed, block size and position."""

    buckets: tuple[Bucket, ...]
    """At least one; each has a window."""
    every: WindowSampler
    """All clips, for single images."""
    block: int
    """Windows of one shape that follow one another; a batch, of all ranks together, divides it."""
    clips_left_out: int = 0
    """Clips that are too short for a window."""

    @property
    def seed(self) -> int:
        """The seed of the order."""
        return self.every.seed

    @functools.cached_property
    def windows_per_epoch(self) -> int:
        """Windows that all clips have, as often as the mix has them."""
        return max(1, round(sum(bucket.windows for bucket in self.buckets)))

    def __getitem__(self, position: int) -> Window:
        """Return the window at a position from 0 on; there is no last one."""
        return self.instead_of(position, attempt=0)

    def instead_of(self, position: int, *, attempt: int) -> Window:
        """Return the window of the same shape, some epochs of its bucket later."""
        number, row = divmod(position, self.block)
        bucket, nth = _block(self, number)
        order = self.buckets[bucket].sampler
        found = order[nth * self.block + row + attempt * order.windows_per_epoch]
        return Window(
            position, int(self.buckets[bucket].clips[found.clip]), found.first, found.shape,
            view=self.buckets[bucket].view,
        )  # fmt: skip

    def of_images(self) -> WindowSampler:
        """Return an order of all frames instead, as `WindowSampler.of_images`."""
        return self.every.of_images()

    @functools.cached_property
    def _ends(self) -> Float64[np.ndarray, " buckets"]:
        """Where the share of each bucket ends, on a line from 0 to 1."""
        windows = np.cumsum([bucket.windows for bucket in self.buckets])
        return windows / windows[-1]

    def _counts(self, start: int, stop: int) -> Int64[np.ndarray, "rounds buckets"]:
        """Return the blocks of each bucket in rounds: of equidistant points those in its share."""
        offsets = np.arange(start, stop)[:, None] * _GOLDEN % 1
        ends = np.clip(np.ceil(BLOCKS * self._ends - offsets), 0, BLOCKS)
        ends[:, -1] = BLOCKS
        return np.diff(ends, axis=1, prepend=0).astype(np.int64)


def _block(order: BucketSampler, number: int) -> tuple[int, int]:
    """Return the bucket of a block, and the block's number among those of that bucket."""
    buckets, nth = _shuffled_round(order, number // BLOCKS)
    return int(buckets[number % BLOCKS]), int(nth[number % BLOCKS])


@functools.lru_cache(maxsize=4)
def _shuffled_round(
    order: BucketSampler, number: int
) -> tuple[Int64[np.ndarray, " blocks"], Int64[np.ndarray, " blocks"]]:
    """Return bucket and number of each block of a round; only uniform doubles are drawn."""
    sequence = np.random.SeedSequence([order.seed, number], spawn_key=(5,))
    draws = np.random.Generator(np.random.PCG64(sequence)).random(BLOCKS)
    [counts] = order._counts(number, number + 1)
    before = order._counts(0, number).sum(0)
    sorted_nth = np.arange(BLOCKS) - np.repeat(np.cumsum(counts) - counts, counts) + np.repeat(before, counts)
    shuffled = np.argsort(draws, kind="stable")
    buckets = np.repeat(np.arange(len(counts)), counts)[shuffled]
    # Those of a bucket are numbered as they stand in the round.
    nth = np.empty(BLOCKS, np.int64)
    nth[np.argsort(buckets, kind="stable")] = sorted_nth
    return buckets, nth
