"""A process that reads windows in one way or another and times that, as it is told line by line.

    python -m tests.bench.readers FAMILY SPEC.json

A family is what has to be imported together; FAMILIES names them. It prints the names of its readers as JSON and then,
for each line [reader, "time" or "memory"], [seconds to the first window, seconds of each after] or the peak of the
memory of all its processes in bytes, shared pages counted once.
"""

import contextlib
import importlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

WORKERS = 2
FAMILIES = {"ours": "_ours", "raw": "_raw", "webdataset": "_webdataset", "streaming": "", "litdata": ""}
RAW = "raw PNG + npy, 2 workers"
RAW_WHOLE = "raw whole, 2 workers"
OUR_BYTES, PNG_DEPTH = "our bytes", "JPEG + PNG"
_SAMPLE_S = 0.05

Start = Callable[[], Generator[object]]


@dataclass(frozen=True)
class Spec:
    """What is read: the folder of shards, (image, depth) files, a folder for others' formats; how many windows."""

    shards: Path
    raw_files: Sequence[tuple[str, str]]
    scratch: Path
    window: int
    count: int

    @classmethod
    def load(cls, path: Path) -> "Spec":
        value: dict[str, Any] = json.loads(path.read_text())
        return cls(**{**value, "shards": Path(value["shards"]), "scratch": Path(value["scratch"])})


def main() -> None:
    family, spec = sys.argv[1], Spec.load(Path(sys.argv[2]))
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # some libraries print
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    own = FAMILIES[family]
    readers = globals()[own](spec) if own else importlib.import_module("tests.bench.peers").readers(family, spec)
    print(json.dumps(list(readers)), file=answers)
    for line in sys.stdin:
        name, what = json.loads(line)
        result = take(readers[name], spec.count) if what == "time" else peak_memory(readers[name], spec.count)
        print(json.dumps(result), file=answers)


# --------------------------------------------------------------------------------------------------------- measurements


def take(start: Start, count: int) -> tuple[float, float]:
    """Return the seconds to the first window and those of each of `count` after what was read ahead is used up."""
    began = time.perf_counter()
    with contextlib.closing(start()) as windows:
        next(windows)
        first = time.perf_counter() - began
        for _ in range(WORKERS):
            next(windows)
        began = time.perf_counter()
        for _ in range(count):
            next(windows)
        return first, (time.perf_counter() - began) / count


def peak_memory(start: Start, count: int) -> int:
    """Read once more while another thread adds up the memory of this process and all below it."""
    peak = 0
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while True:
            peak = max(peak, sum(map(_memory_of, _tree(os.getpid()))))
            if done.wait(_SAMPLE_S):
                return

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        take(start, count)
    finally:
        done.set()
        watcher.join()
    return peak


def _tree(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        text = " ".join(path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children"))
        return [pid, *(each for child in text.split() for each in _tree(int(child)))]
    return []


def _memory_of(pid: int) -> int:
    """Return a process's share of the memory it uses; 0 once it is gone."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return 1024 * int(line.split()[1])
    return 0


# -------------------------------------------------------------------------------------------------------------- readers


def _ours(spec: Spec) -> dict[str, Start]:
    from vdaprep.shards.dataset import open_shards
    from vdatrain.data.sampler import DistributedPositions, WindowSampler, WindowShape
    from vdatrain.data.stream import stream_batches

    clips = open_shards(spec.shards).clips(split="train")
    order = WindowSampler(tuple(clip.num_frames for clip in clips), WindowShape(spec.window))

    def start(workers: int) -> Generator[object]:
        return stream_batches(clips, order, positions=DistributedPositions(batch=1), workers=workers)

    return {
        f"stream, {workers} worker{'' if workers == 1 else 's'}": lambda workers=workers: start(workers)
        for workers in (2, 1, 0)
    }


def _raw(spec: Spec) -> dict[str, Start]:
    def start(windows: Dataset[object]) -> Generator[object]:
        yield from DataLoader(windows, batch_size=None, num_workers=WORKERS)

    return {
        RAW: lambda: start(_RawWindows(spec.raw_files, spec.window)),
        RAW_WHOLE: lambda: start(_WholeWindows(spec.raw_files, spec.window)),
    }


@dataclass(frozen=True)
class _RawWindows(Dataset[object]):
    """Windows of raw frames, as often as one likes."""

    files: Sequence[tuple[str, str]]
    window: int

    def __len__(self) -> int:
        return 1_000_000

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        first = index % (len(self.files) - self.window + 1)
        files = self.files[first : first + self.window]
        rgb = [self.read(image) for image, _ in files]
        depth_m = [np.load(depth) for _, depth in files]
        return torch.from_numpy(np.stack(rgb)), torch.from_numpy(np.stack(depth_m))

    def read(self, path: str) -> np.ndarray:
        return cv2.cvtColor(cv2.imread(path), cv2.COLOR_BGR2RGB)


class _WholeWindows(_RawWindows):
    """All that the model takes: frames from 0 to 1, and their differences at a quarter of the size."""

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        rgb, depth_m = super().__getitem__(index)
        _, height, width, _ = rgb.shape
        size = (width // 4, height // 4)
        small = np.stack([cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in rgb.numpy()])
        return rgb, depth_m, torch.from_numpy(np.diff(small, axis=0, prepend=small[:1]))

    def read(self, path: str) -> np.ndarray:
        return super().read(path).astype(np.float32) / 255


def _webdataset(spec: Spec) -> dict[str, Start]:
    import webdataset as wds

    tars = [str(tar) for tar in sorted(spec.shards.glob("*/train/*.tar"))]

    def start() -> Generator[object]:
        clips = wds.WebDataset(tars, resampled=True, shardshuffle=False)  # else one of two workers had no shard
        windows = clips.compose(lambda source: _cut(source, spec.window))
        yield from wds.WebLoader(windows, batch_size=None, num_workers=WORKERS)

    return {f"webdataset, {OUR_BYTES}": start}


def _cut(clips: Any, window: int) -> Generator[tuple[Tensor, ...]]:
    from vdaprep.shards.metadata import ClipMeta

    for clip in clips:
        meta = ClipMeta.from_bytes(clip["json"], where=clip["__key__"])
        for first in range(0, meta.num_frames - window + 1, window):
            names = [f"f{frame:03d}" for frame in range(first, first + window)]
            yield decode_ours(
                [[clip[f"{name}.{kind}"] for name in names] for kind in ("rgb.jpg", "depth.zst", "diff.zst")],
                height=meta.height,
                width=meta.width,
                spec=meta.depth,
                diff=meta.diff,
            )


def decode_ours(
    members: Sequence[Sequence[bytes]], *, height: int, width: int, spec: Any, diff: Any
) -> tuple[Tensor, ...]:
    """Decode frames, depth and differences by the calls that our own reader makes."""
    from vdaprep.shards import codec

    size = {"height": height, "width": width}
    rgb, depth, differences = members
    decoded = (
        [codec.decode_rgb(data) for data in rgb],
        [codec.decompress_depth(data, spec, **size) for data in depth],
        [codec.decode_diff(data, diff, **size) for data in differences],
    )
    return tuple(torch.from_numpy(np.stack(frames)) for frames in decoded)


if __name__ == "__main__":
    main()
