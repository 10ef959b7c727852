"""From the shards of a run to what it trains on and what it is judged by."""

import functools
from collections.abc import Generator, Sequence
from contextlib import closing

from vdatrain.batch import Batch, make_batch
from vdatrain.cache import open_cache
from vdatrain.config import Config
from vdatrain.console import warn
from vdatrain.feed import Feed
from vdatrain.folder import log
from vdatrain.index import StoredClip, read_index, splits_of
from vdatrain.mix import parse_mix, parts_of
from vdatrain.reading import Sample
from vdatrain.run import Run
from vdatrain.stream import Faults, stream_batches
from vdatrain.views import Augmentation, draw_views
from vdatrain.windows import TrainingOrder, WindowShape


def held_out_clips(config: Config) -> tuple[StoredClip, ...]:
    """Return the clips that a run is evaluated on; none if the shards have no such split."""
    return _clips(config, config.eval_split) if config.eval_split in splits_of(config.shards) else ()


def open_feed(run: Run) -> Feed:
    """Begin to read the windows from the run's position on; to be closed."""

    def show(samples: Sequence[Sample]) -> Batch:
        size = (run.config.size, run.config.size)
        views = draw_views(samples, size, augmentation=Augmentation(), seed=run.config.seed)
        return make_batch(samples, views, device=run.precision.device, windows=run.config.batch)

    return Feed(_batches(run), show, device=run.precision.device)


def _clips(config: Config, split: str) -> tuple[StoredClip, ...]:
    cache = open_cache(config.cache, size=config.cache_size, free=config.cache_free)
    return read_index(config.shards, split=split, cache=cache)


def _batches(run: Run) -> Generator[list[Sample]]:
    config = run.config
    clips = _clips(config, config.train_split)
    shape = WindowShape(config.frames, config.stride)
    parts = parts_of(clips, parse_mix(config.mix))
    order = TrainingOrder(tuple(clip.num_frames for clip in clips), shape, seed=config.seed, parts=parts)
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
        faults=Faults(config.skip_bad, config.stall_timeout, on_skip=warn),
    )
    windows = read(order, share=share)
    if not config.images_per_clip:
        return windows
    return _beside(windows, read(order.of_images(), share=share.of_images(config.images_per_clip)))


def _beside(windows: Generator[list[Sample]], images: Generator[list[Sample]]) -> Generator[list[Sample]]:
    """Yield a batch of windows and then the images that belong to it as one list."""
    with closing(windows), closing(images):
        for batch in windows:
            yield [*batch, *next(images)]
