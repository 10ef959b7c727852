"""What a training's start and each of its windows cost as data sets grow: the index, and places in the order."""

import gc
import hashlib
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Int64
from rich.table import Table

from tests.bench.rendered import Rendered
from tests.bench.timing import new_table
from vdaprep.shards.dataset import open_shards
from vdaprep.shards.names import DATASET_FILE, clip_key, record_name, shard_name
from vdaprep.shards.records import ClipEntry, DatasetRecord, ShardRecord, ShardSummary
from vdatrain.data.sampler import WindowSampler, WindowShape

CLIP, CLIPS_PER_SHARD, FRAME_BYTES = 64, 16, 60_000
WINDOW = 32
ASKED = 500
COLUMNS = ("clips", "index s CPU", "KiB a clip", "epoch s CPU", "us a window", "MiB an epoch")


def tables(rendered: Rendered, scratch: Path) -> Iterator[Table]:
    table = new_table("(g) scale of a training", "frames", COLUMNS, caption=_CAPTION)
    for frames in rendered.scale.indexed_frames:
        folder = write_records(scratch / f"index-{frames}", clips=frames // CLIP)
        seconds, lengths = _timed_index(folder)
        table.add_row(
            f"{frames:,}", f"{len(lengths):,}", f"{seconds:.2f}", f"{kib_a_clip(folder):.2f}", *_order(lengths)
        )
    lengths = np.full(rendered.scale.ordered_frames // CLIP, CLIP)
    table.add_row(f"{rendered.scale.ordered_frames:,}", f"{len(lengths):,}", "-", "-", *_order(lengths))
    yield table


_CAPTION = (
    f"Records of {CLIPS_PER_SHARD} clips of {CLIP} frames a shard, as convert writes them, beside tars without bytes. "
    "Index: seconds of the processor to open the shards and list the clips, and memory kept of that. Epoch: to shuffle "
    f"all windows of {WINDOW} frames, once an epoch; a window: to find its place after that. The last row has no "
    "records: its order alone."
)


def write_records(folder: Path, *, clips: int) -> Path:
    """Write the records of a data set of so many clips, and a file of the right length, but empty, for each tar."""
    (folder / "train").mkdir(parents=True)
    shards = [
        _write_shard(folder, number, range(first, min(first + CLIPS_PER_SHARD, clips)))
        for number, first in enumerate(range(0, clips, CLIPS_PER_SHARD), start=1)
    ]
    record = DatasetRecord("scale", {}, {}, {"train": ()}, {}, tuple(shards), ())
    (folder / DATASET_FILE).write_bytes(record.to_bytes())
    return folder


def _write_shard(folder: Path, number: int, clips: range) -> ShardSummary:
    entries: list[ClipEntry] = []
    random, offset = np.random.default_rng(number), 0
    for clip in clips:
        starts = offset + 20_000 + FRAME_BYTES * np.arange(CLIP) + random.integers(0, FRAME_BYTES // 2, CLIP)
        sums = random.integers(0, 2**32, CLIP + 1)
        size = 20_000 + FRAME_BYTES * (CLIP + 1)
        key = clip_key("scale", f"environment-{clip // 100}/hard/P{clip % 100:03d}", 0)
        entries.append(ClipEntry(key, offset, size, CLIP, tuple(starts.tolist()), tuple(sums.tolist())))
        offset += size
    name = shard_name(number)
    record = ShardRecord(name, offset, "0" * 64, tuple(entries), {}, "0" * 64, {"json": (len(clips), 0)}).to_bytes()
    (folder / "train" / record_name(name)).write_bytes(record)
    with (folder / "train" / name).open("wb") as file:
        file.truncate(offset)
    digest = hashlib.sha256(record).hexdigest()
    return ShardSummary("train", name, offset, "0" * 64, digest, len(clips), CLIP * len(clips))


def _timed_index(folder: Path) -> tuple[float, Int64[np.ndarray, " clips"]]:
    before = time.process_time()
    clips = open_shards(folder).clips(split="train")
    return time.process_time() - before, clips.lengths


def kib_a_clip(folder: Path) -> float:
    """Return the memory that the index of a data set keeps, for each of its clips."""
    gc.collect()
    tracemalloc.start()
    clips = open_shards(folder).clips(split="train")
    gc.collect()
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return kept / 1024 / len(clips)


def _order(lengths: Int64[np.ndarray, " clips"]) -> tuple[str, str, str]:
    order = WindowSampler(lengths, WindowShape(WINDOW))
    tracemalloc.start()
    before = time.process_time()
    order[0]
    epoch_s = time.process_time() - before
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    places = np.random.default_rng(0).integers(0, order.windows_per_epoch, ASKED).tolist()
    before = time.perf_counter()
    for place in places:
        order[place]
    window_s = (time.perf_counter() - before) / ASKED
    return f"{epoch_s:.2f}", f"{1e6 * window_s:.1f}", f"{kept / 2**20:.1f}"
