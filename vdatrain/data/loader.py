"""Loaders: batches on the device, read ahead by threads, for training and evaluation."""

import contextlib
import dataclasses
import hashlib
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from vdaprep.errors import DataError, UsageError
from vdaprep.shards.dataset import ShardCollection, open_shards
from vdaprep.shards.index import ClipIndex, lengths_of
from vdaprep.shards.reader import Clip
from vdaprep.storage.cache import open_cache
from vdaprep.storage.urls import redact
from vdaprep.units import spread_evenly
from vdatrain.config import DifferencesName, Mix, TrainConfig, WindowOrder, parse_mix
from vdatrain.data.altered.differences import decoded, shuffled
from vdatrain.data.altered.stress import StressPlan
from vdatrain.data.batch import Batch, make_batch
from vdatrain.data.buckets import BucketSampler, expect_whole_batches, train_sampler
from vdatrain.data.prefetch import DevicePrefetcher
from vdatrain.data.sampler import (
    DistributedPositions,
    EvalSampler,
    SubsetSampler,
    Window,
    WindowSampler,
    WindowShape,
    expected_shares,
    partition,
)
from vdatrain.data.samples import Sample, expect_metres
from vdatrain.data.stream import FaultPolicy, check_state, stream_batches
from vdatrain.data.transforms import Augmentation, CropParams, fit_view, sample_augmentations
from vdatrain.models.layers.difference import CELLS_PER_PATCH
from vdatrain.models.variants import cells_per_patch, uses_differences


def train_loader(  # noqa: PLR0913 - the public face, all keywords
    shards: Path | str,
    *,
    frames: int = 16,
    size: int = 252,
    batch: int = 2,
    seed: int = 0,
    stride: int = 1,
    mix: str = "",
    split: str = "train",
    workers: int = 2,
    rank: int = 0,
    world_size: int = 1,
    device: torch.device | str = "cpu",
    order: WindowOrder = "shuffle",
    shuffle_buffer: int = 64,
    cache: Path | str | None = None,
) -> "TrainLoader":
    """Return the loader that `vdatrain run` trains on: endless, augmented, ordered by the seed.

    Args:
        shards: What `vdaprep convert` wrote: a folder, a URL, or several with commas between.
        frames: Frames per window (T).
        size: Height and width of a training view in pixels, a multiple of 14.
        batch: Windows per batch of this rank (B).
        seed: Seed of the order, of where windows begin, and of the augmentation.
        stride: Frames of a clip from one frame of a window to the next.
        mix: How often each data set's windows occur in an epoch, as in `tartanair=1,vkitti=3`, or shares of frames, as
            in `tartanair=40%,vkitti=60%`; empty: once each.
        split: Split of the shards.
        workers: Threads that read and decode; they change nothing of the batches.
        rank: Number of this process among those that train together.
        world_size: Number of those processes.
        device: Device of the batches; on a GPU they are copied in a stream of their own.
        order: `shuffle`: all windows, whole epochs; or `sequential`: shard after shard, for object stores and slow
            disks, see `vdatrain.data.sequential`.
        shuffle_buffer: Windows from which the sequential order draws at random.
        cache: Folder in which at most 20 GB of whole shards are kept.

    Returns:
        Batches without end, a context manager; `state_dict` says where it stands.

    Raises:
        UsageError: an option that cannot be, or one that the shards leave no window for.
        DataError, ShardError: there are no finished shards.
    """
    config = TrainConfig(
        shards=str(shards), frames=frames, stride=stride, size=size, batch=batch, seed=seed, mix=mix, order=order,
        shuffle_buffer=shuffle_buffer, train_split=split, workers=workers, cache=None if cache is None else str(cache),
    )  # fmt: skip
    return TrainLoader(config, rank=rank, world_size=world_size, device=torch.device(device))


class TrainLoader:
    """Endless iterator of training batches, with a position that can be saved.

    `next(loader)` waits for a batch. What a trainer needs besides: `prepare` begins the next batch while the device is
    at work, `peek` shows it. Reading begins with the first batch; `close` ends it.

    Args:
        config: Its fields that concern data: shards, train_split, frames, stride, size, batch, seed, mix,
            order, shuffle_buffer, differences,
            aspect, short_clips, images_per_clip, images, workers, skip_bad, stall_timeout and those of the cache.
        rank: Number of this process among those that train together.
        world_size: Number of those processes.
        start: Global position of the first window, as `position` had it.
        block: Where batches differ in shape, the windows of a batch of all ranks when the run began; 0: it begins now.
        device: Device of the batches.
        on_skip: Called with a sentence for every window that cannot be read, while `skip_bad` lasts.

    Raises:
        UsageError: an option that cannot be.
        DataError: the variant needs frame differences and the shards have none, or frames have no labels.
    """

    def __init__(  # noqa: PLR0913 - keywords
        self,
        config: TrainConfig,
        *,
        device: torch.device,
        rank: int = 0,
        world_size: int = 1,
        start: int = 0,
        block: int = 0,
        on_skip: Callable[[str], None] = lambda sentence: None,
    ) -> None:
        self._config, self._device, self._cells = config, device, cells_per_patch(config.variant)
        self._faults = FaultPolicy(config.skip_bad, config.stall_timeout, on_skip)
        self._clips = open_shards_of(config).clips(split=config.train_split)
        expect_labels(config.shards, self._clips)
        expect_differences(config, self._clips)
        if config.task == "metric":
            expect_cameras(self._clips, parse_mix(config.mix))
        self._positions = DistributedPositions(config.batch, rank, world_size, start)
        self._sampler = train_sampler(self._clips, config, block=block or config.batch * world_size)
        expect_whole_batches(self._sampler, self._positions)
        self.expected_shares = expected_shares(self._clips, parse_mix(config.mix))
        """Share of the frames that each data set should have, by its name."""
        self._images = None if not config.images else _images_of(config)
        self.expected_image_shares = {} if self._images is None else expected_shares(self._images[0], Mix({}))
        """The same of the images beside them, if they have shards of their own."""
        self._taken = 0
        self.shown_frames = 0
        """Frames of the batches so far, single images included."""
        self.shown_pixels = 0
        """Their pixels."""
        self._batches = self._open()

    @property
    def position(self) -> int:
        """Global position of the next batch's first window, of all ranks alike."""
        return self._positions.start_after(self._taken)

    @property
    def waited_s(self) -> float:
        """Seconds in which the device had nothing to do because no batch was read."""
        return self._batches.waited

    def summary(self) -> dict[str, int]:
        """Return the numbers of clips, of those shorter than a window, and of an epoch's windows."""
        sampler = self._sampler
        return {
            "clips": len(self._clips),
            "clips_too_short": sampler.clips_left_out,
            "windows": sampler.windows_per_epoch,
            **({} if self._images is None else {"images": self._images[1].windows_per_epoch}),
        }

    def prepare(self) -> None:
        """Begin to bring the next batch to the device; raises what reading it raises."""
        self._batches.prepare()

    def peek(self) -> Batch:
        """Return the next batch and leave it the next."""
        return self._batches.peek()

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        """Return the next batch.

        Raises:
            ShardError: a window of it cannot be read.
            VdakitError: its reading takes longer than the config's `stall_timeout`, or memory does not suffice.
        """
        batch = self._batches.take()
        self._taken += 1
        for part in (batch, *([] if batch.images is None else [batch.images])):
            self.shown_frames += part.mask.shape[:2].numel()
            self.shown_pixels += part.mask.numel()
        return batch

    def state_dict(self) -> dict[str, Any]:
        """Return the position, and what has to be the same where it is loaded."""
        block = {"block": self._sampler.block} if isinstance(self._sampler, BucketSampler) else {}
        return {"position": self.position, **block, **self._identity()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state, for any number of ranks, workers and windows per batch.

        Raises:
            DataError: the state is of other shards or of another order.
            UsageError: batches that differ in shape would not be whole with this many windows.
        """
        check_state(state, self._identity())
        positions = dataclasses.replace(self._positions, start=state["position"])
        if isinstance(self._sampler, BucketSampler):
            self._sampler = dataclasses.replace(self._sampler, block=state["block"])
        expect_whole_batches(self._sampler, positions)
        self._batches.close()
        self._positions = positions
        self._taken = 0
        self._batches = self._open()

    def close(self) -> None:
        """End the threads that read."""
        self._batches.close()

    def __enter__(self) -> "TrainLoader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _identity(self) -> dict[str, Any]:
        return {
            "order": self._config.order,
            "seed": self._sampler.seed,
            "windows": self._sampler.windows_per_epoch,
            **({"shuffle_buffer": self._config.shuffle_buffer} if self._config.order == "sequential" else {}),
            **({} if self._images is None else {"images": self._images[1].windows_per_epoch}),
        }

    def _open(self) -> DevicePrefetcher:
        return DevicePrefetcher(self._samples(), self._show, device=self._device)

    def _show(self, samples: Sequence[Sample]) -> Batch:
        config = self._config
        size = (config.size, config.size)
        if config.differences == "decoded":
            samples = [decoded(sample, cells=self._cells) for sample in samples]
        if config.task == "metric":
            for sample in samples:
                sample.expect_metres()
        drawn = sample_augmentations(samples, size, augmentation=Augmentation(), seed=config.seed)
        views = [dataclasses.replace(view, cells=self._cells) for view in drawn]
        batch = make_batch(samples, views, device=self._device, windows=config.batch)
        return shuffled(batch) if config.differences == "shuffled" else batch

    def _samples(self) -> Generator[list[Sample]]:
        config, positions = self._config, self._positions
        options = {"workers": config.workers, "pin": self._device.type == "cuda", "faults": self._faults}
        if isinstance(self._sampler, WindowSampler) and config.order == "sequential":
            from vdatrain.data.sequential import stream_sequential  # webdataset is imported for this order alone

            return stream_sequential(
                self._clips, self._sampler, positions=positions, buffer=config.shuffle_buffer, **options
            )
        windows = stream_batches(self._clips, self._sampler, positions=positions, **options)
        if not config.images_per_clip:
            return windows
        clips, order = self._images or (self._clips, self._sampler.of_images())
        images = stream_batches(clips, order, positions=positions.of_images(config.images_per_clip), **options)
        return _beside(windows, images)


def open_shards_of(config: TrainConfig) -> ShardCollection:
    """Open a run's shards, through its cache if it has one; raises as `open_shards`."""
    cache = open_cache(config.cache, size=config.cache_size, free=config.cache_free)
    return open_shards(config.shards, cache=cache)


def _images_of(config: TrainConfig) -> tuple[ClipIndex, WindowSampler]:
    """Return the clips of a run's image shards, and the order of all their frames."""
    clips = open_images_of(config).clips(split=config.train_split)
    expect_labels(config.images, clips)
    return clips, WindowSampler(clips.lengths, WindowShape(1), seed=config.seed)


def open_images_of(config: TrainConfig) -> ShardCollection:
    """Open the shards in `images`; raises as `open_shards`, UsageError if none can be shown."""
    if config.task == "metric":
        raise UsageError("--images are for --task relative: a teacher's labels are without unit; leave --images out.")
    if not config.images_per_clip:
        raise UsageError("--images: none of them would be shown; say how many beside each window: --images-per-clip 8.")
    cache = open_cache(config.cache, size=config.cache_size, free=config.cache_free)
    return open_shards(config.images, cache=cache)


def fingerprint_of(config: TrainConfig) -> str:
    """Return a SHA-256 of a run's shards, those of its images included; raises as `open_shards`."""
    shards = open_shards(config.shards).fingerprint
    if not config.images:
        return shards
    return hashlib.sha256(f"{shards} {open_images_of(config).fingerprint}".encode()).hexdigest()


def expect_labels(place: str, clips: ClipIndex) -> None:
    """Raise DataError if a data set has clips without depth, which nothing can be learnt from."""
    for clip in _first_of_each(clips):
        if clip.meta.depth is None:
            raise DataError(
                f"{redact(place)}: frames of {clip.dataset} have no labels, expected depth or a teacher's disparity; "
                "vdatrain label writes shards with these."
            )


def _first_of_each(clips: ClipIndex) -> Iterable[Clip]:
    """Return a clip of each data set's split."""
    return {str(clip.tar).rpartition("/")[0]: clip for clip in reversed(clips.first_of_shards())}.values()


def expect_cameras(clips: ClipIndex, mix: Mix) -> None:
    """Raise DataError if a data set that a metric run shows has no metres or no cameras."""
    for clip in _first_of_each(clips):
        if mix.takes(clip.dataset):
            expect_metres(clip, metres=clip.meta.is_metric, camera=clip.meta.intrinsics is not None)


def expect_differences(config: TrainConfig, clips: ClipIndex) -> None:
    """Raise DataError if the variant needs differences and no data set has any."""
    needed = uses_differences(config.variant) and config.differences not in ("decoded", "zeros")
    if not needed or any(clip.meta.diff for clip in _first_of_each(clips)):
        return
    raise DataError(
        f"{redact(config.shards)}: have no frame differences, which {config.variant} looks at; convert again "
        "without --diffs none, or train with --differences decoded, or --variant basic."
    )


def _beside(windows: Generator[list[Sample]], images: Generator[list[Sample]]) -> Generator[list[Sample]]:
    """Yield a batch of windows and then the images that belong to it as one list."""
    with contextlib.closing(windows), contextlib.closing(images):
        for batch in windows:
            yield [*batch, *next(images)]


# ---------------------------------------------------------------------------------------------------------- evaluation


def eval_loader(  # noqa: PLR0913 - the public face, all keywords
    shards: Path | str,
    *,
    frames: int = 16,
    size: int = 252,
    stride: int = 1,
    split: str = "val",
    windows: int = 0,
    workers: int = 2,
    rank: int = 0,
    world_size: int = 1,
    device: torch.device | str = "cpu",
) -> "EvalLoader":
    """Return the loader for evaluation: every frame of a split, unaugmented, in order.

    Args:
        shards: What `vdaprep convert` wrote: a folder, a URL, or several with commas between.
        frames: Frames per window.
        size: Short side of a view in pixels; the other keeps the frame's aspect ratio, both are multiples of 14.
        stride: Frames of a clip from one frame of a window to the next.
        split: Split of the shards.
        windows: At most so many windows, spread evenly over all; 0: all.
        workers: Threads that read and decode.
        rank: Number of this process among those that evaluate together.
        world_size: Number of those processes; each window is in the loader of one of them.
        device: Device of the batches.

    Returns:
        Batches of one window each, every time that it is iterated.

    Raises:
        UsageError: every clip is shorter than a window.
        DataError, ShardError: there are no finished shards with this split.
    """
    clips = open_shards(shards).clips(split=split)
    order = eval_order(clips, WindowShape(frames, stride), windows=windows)
    mine, _ = partition(len(order), first_takes=(), rank=rank, world=world_size)
    return EvalLoader(clips, SubsetSampler(order, mine), size=size, workers=workers, device=torch.device(device))


def eval_order(clips: Sequence[Clip], shape: WindowShape, *, windows: int = 0) -> Sequence[Window]:
    """Return the windows of an evaluation: all of them, or so many, spread evenly."""
    order = EvalSampler(lengths_of(clips), shape)
    if not 0 < windows < len(order):
        return order
    return SubsetSampler(order, spread_evenly(len(order), windows))


@dataclasses.dataclass(frozen=True)
class EvalLoader:
    """Batches of one window each, of whole frames; can be iterated any number of times."""

    clips: Sequence[Clip]
    """The index that the windows' clip numbers refer to."""
    order: Sequence[Window]
    """The windows."""
    _: dataclasses.KW_ONLY
    size: int
    """Short side of a view in pixels."""
    workers: int = 2
    """Threads that read and decode."""
    stall_timeout_s: int | float = 300
    """Seconds that a window may take; 0: no limit."""
    device: torch.device = torch.device("cpu")  # noqa: RUF009
    """Device of the batches."""
    differences: DifferencesName = "both"
    """Which differences a batch has, as `TrainConfig.differences` says."""
    foreign: Sequence[Window] = ()
    """For each of `order` the window whose differences it is shown, where those are `shuffled`."""
    stress: StressPlan = StressPlan()
    """What disturbs the images."""
    cells: int = CELLS_PER_PATCH
    """Rows and columns of differences a patch."""

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Iterator[Batch]:
        return (batch for _, batch in self.with_samples())

    def with_samples(self) -> Iterator[tuple[Sample, Batch]]:
        """Yield each window as stored, which metrics are taken of, and as a batch.

        Both have the images under stress, if there is any.

        Raises:
            ShardError: a window cannot be read.
            VdakitError: reading one takes longer than `stall_timeout_s`.
        """
        if self.differences != "shuffled":
            yield from map(self._shown, self._read(self.order))
            return
        for sample, other in zip(self._read(self.order), self._read(self.foreign), strict=False):
            _, batch = self._shown(sample)
            height, width = batch.frames.shape[-2:]
            view = dataclasses.replace(self._view(other), height=height, width=width)
            instead = make_batch([other], [view], device=self.device)
            yield sample, dataclasses.replace(batch, differences=instead.differences, diff_valid=instead.diff_valid)

    def _read(self, order: Sequence[Window]) -> Iterator[Sample]:
        share, faults = DistributedPositions(batch=1), FaultPolicy(stall_timeout_s=self.stall_timeout_s)
        for [sample] in stream_batches(self.clips, order, positions=share, workers=self.workers, faults=faults):
            sample = self.stress.apply(sample)
            yield decoded(sample, cells=self.cells) if self.differences == "decoded" else sample

    def _shown(self, sample: Sample) -> tuple[Sample, Batch]:
        return sample, make_batch([sample], [self._view(sample)], device=self.device)

    def _view(self, sample: Sample) -> CropParams:
        return dataclasses.replace(fit_view(sample.size, size=self.size), cells=self.cells)
