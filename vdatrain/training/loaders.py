"""From the shards of a run to what it trains on and what it is judged by."""

import functools
import logging
import socket
from collections.abc import Generator, Sequence
from contextlib import closing

from vdaprep.errors import DataError
from vdaprep.storage.cache import open_cache
from vdaprep.storage.urls import redact
from vdatrain.config import TrainConfig, parse_mix
from vdatrain.data.batch import Batch, make_batch
from vdatrain.data.index import StoredClip, fingerprint, read_index, splits_of
from vdatrain.data.loader import FaultPolicy, stream_batches
from vdatrain.data.prefetch import DevicePrefetcher
from vdatrain.data.sampler import WindowSampler, WindowShape, dataset_weights
from vdatrain.data.samples import Sample, read_meta
from vdatrain.data.transforms import Augmentation, sample_augmentations
from vdatrain.models.variants import uses_differences
from vdatrain.run_dir import log
from vdatrain.training.state import TrainState

_log = logging.getLogger(__name__)


def held_out_clips(config: TrainConfig) -> tuple[StoredClip, ...]:
    """Return the clips that a run is evaluated on; none if the shards have no such split."""
    return _clips(config, config.eval_split) if config.eval_split in splits_of(config.shards) else ()


def open_feed(run: TrainState) -> DevicePrefetcher:
    """Begin to read the windows from the run's position on; to be closed.

    All ranks have to call it. Raises DataError where this one would read other shards than the first, or where the
    variant looks at differences and there are none.
    """
    _expect_the_same_shards(run)

    def show(samples: Sequence[Sample]) -> Batch:
        size = (run.config.size, run.config.size)
        views = sample_augmentations(samples, size, augmentation=Augmentation(), seed=run.config.seed)
        return make_batch(samples, views, device=run.precision.device, windows=run.config.batch)

    return DevicePrefetcher(_batches(run), show, device=run.precision.device)


def _expect_the_same_shards(run: TrainState) -> None:
    """Raise DataError if what lies under `shards` here is not what the first rank, on its machine, finds there."""
    if run.ranks.world == 1:
        return
    mine = fingerprint(run.config.shards)
    if run.ranks.broadcast_from_rank0(mine) != mine:
        raise DataError(
            f"{redact(run.config.shards)}: are other shards on {socket.gethostname()} than rank 0 has on its "
            "machine; copy the same ones to all machines, or give a folder or URL that all of them share."
        )


def _clips(config: TrainConfig, split: str) -> tuple[StoredClip, ...]:
    cache = open_cache(config.cache, size=config.cache_size, free=config.cache_free)
    return read_index(config.shards, split=split, cache=cache)


def _batches(run: TrainState) -> Generator[list[Sample]]:
    config = run.config
    clips = _clips(config, config.train_split)
    _expect_differences(config, clips)
    shape = WindowShape(config.frames, config.stride)
    parts = dataset_weights(clips, parse_mix(config.mix))
    order = WindowSampler(tuple(clip.num_frames for clip in clips), shape, seed=config.seed, parts=parts)
    if not run.resumed and run.ranks.is_first:
        log(
            run.folder,
            run.step,
            {"clips": len(clips), "clips_too_short": order.clips_left_out, "windows": order.windows_per_epoch},
        )
    share = run.share
    read = functools.partial(
        stream_batches,
        clips,
        workers=config.workers,
        pin=run.precision.device.type == "cuda",
        faults=FaultPolicy(config.skip_bad, config.stall_timeout, on_skip=_log.warning),
    )
    windows = read(order, share=share)
    if not config.images_per_clip:
        return windows
    return _beside(windows, read(order.of_images(), share=share.of_images(config.images_per_clip)))


def _expect_differences(config: TrainConfig, clips: Sequence[StoredClip]) -> None:
    """Raise DataError if the variant looks at differences and no data set has any; one that has suffices."""
    first_of_each = {str(clip.tar).rpartition("/")[0]: clip for clip in reversed(clips)}.values()
    if not uses_differences(config.variant) or any(read_meta(clip).diff for clip in first_of_each):
        return
    raise DataError(
        f"{redact(config.shards)}: have no frame differences, which {config.variant} looks at; convert again "
        "without --no-diffs, or train --variant basic."
    )


def _beside(windows: Generator[list[Sample]], images: Generator[list[Sample]]) -> Generator[list[Sample]]:
    """Yield a batch of windows and then the images that belong to it as one list."""
    with closing(windows), closing(images):
        for batch in windows:
            yield [*batch, *next(images)]
