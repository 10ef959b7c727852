"""The stream alone, against raw files read as research code does."""

import contextlib
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from rich.table import Table
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from tests.bench.rendered import Rendered
from tests.bench.timing import Timing, new_table, ratio
from vdatrain.index import read_index
from vdatrain.stream import stream_batches
from vdatrain.windows import Share, TrainingOrder, WindowShape

RAW = "raw PNG + npy, 2 workers"
WORKERS = (2, 1, 0)  # two first: their first batch is the one for which the fork server has to be started

Batches = Generator[object]


def tables(rendered: Rendered, scratch: Path) -> Iterator[Table]:
    readers = _readers(rendered)
    count = rendered.scale.stream_windows
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in readers}
    for _ in range(1 + rendered.scale.rounds // 2):
        for name, start in readers.items():
            taken[name].append(_time(start, count))
    cold, _ = taken[_name(WORKERS[0])][0]
    first = {name: Timing(tuple(first for first, _ in pairs[1:])) for name, pairs in taken.items()}
    window = {name: Timing(tuple(each for _, each in pairs[1:])) for name, pairs in taken.items()}
    yield _table(first, window, rendered, cold=cold)


def _table(first: dict[str, Timing], window: dict[str, Timing], rendered: Rendered, *, cold: float) -> Table:
    length = rendered.scale.window
    columns = ("windows/s, best", "median", "frames/s, best", "median", "first batch s, min", "median", "x raw")
    caption = (
        f"{rendered.note}, windows of {length}, {len(window[RAW].seconds)} rounds of {rendered.scale.stream_windows} "
        "windows; all files are in the page cache. The ratio is the median of the rounds' own. Raw: a DataLoader of 2 "
        "processes that call cv2.imread, cvtColor and np.load for each frame, without a difference or a disparity. The "
        "stream leaves the last of depth decoding to the device. Very first batch of 2 workers, starting the fork "
        f"server: {cold:.2f} s."
    )
    table = new_table("(c) the stream alone", "reader", columns, caption=caption)
    for name in sorted(window):
        each = window[name]
        rates = [rate for frames in (1, length) for rate in (frames / each.minimum, frames / each.median)]
        starts = (f"{first[name].minimum:.2f}", f"{first[name].median:.2f}")
        table.add_row(name, *(f"{rate:.1f}" for rate in rates), *starts, f"{ratio(window[RAW], each):.1f}")
    return table


def _time(start: Callable[[], Batches], count: int) -> tuple[float, float]:
    """Return the seconds to the first batch and those of each of `count` after what was read ahead is used up."""
    began = time.perf_counter()
    with contextlib.closing(start()) as batches:
        next(batches)
        first = time.perf_counter() - began
        for _ in range(max(WORKERS)):
            next(batches)
        began = time.perf_counter()
        for _ in range(count):
            next(batches)
        return first, (time.perf_counter() - began) / count


def _name(workers: int) -> str:
    return f"stream, {workers} worker{'' if workers == 1 else 's'}"


def _readers(rendered: Rendered) -> dict[str, Callable[[], Batches]]:
    clips = read_index(rendered.shards, split="train")
    order = TrainingOrder(tuple(clip.num_frames for clip in clips), WindowShape(rendered.scale.window))

    def stream(workers: int) -> Batches:
        yield from stream_batches(clips, order, share=Share(batch=1), workers=workers)

    def raw() -> Batches:
        windows = _RawWindows(rendered.raw_files, rendered.scale.window)
        yield from DataLoader(windows, batch_size=None, num_workers=2, multiprocessing_context="forkserver")

    return {**{_name(workers): lambda workers=workers: stream(workers) for workers in WORKERS}, RAW: raw}


@dataclass(frozen=True)
class _RawWindows(Dataset[tuple[Tensor, Tensor]]):
    """Windows of raw frames, as often as one likes."""

    files: list[tuple[Path, Path]]
    window: int

    def __len__(self) -> int:
        return 1_000_000

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        cv2.setNumThreads(1)
        first = index % (len(self.files) - self.window + 1)
        files = self.files[first : first + self.window]
        rgb = [cv2.cvtColor(cv2.imread(str(image)), cv2.COLOR_BGR2RGB) for image, _ in files]
        depth_m = [np.load(depth) for _, depth in files]
        return torch.from_numpy(np.stack(rgb)), torch.from_numpy(np.stack(depth_m))
