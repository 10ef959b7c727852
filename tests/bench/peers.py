"""The same windows as mosaicml-streaming and litdata hold them, read as their manuals say."""

import contextlib
import functools
import json
import shutil
import sys
from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from tests.bench.readers import OUR_BYTES, PNG_DEPTH, WORKERS, Spec, Start, decode_ours
from vdaprep.shards.dataset import open_shards
from vdaprep.shards.metadata import ClipMeta, DepthSpec, DiffSpec

Fields = Mapping[str, Any]


def readers(family: str, spec: Spec) -> dict[str, Start]:
    """Write a library's files and return its readers; each sample is a window, its frames' bytes in a row."""
    module = {"streaming": _Streaming, "litdata": _Litdata}[family]
    found: dict[str, Start] = {}
    for content in (OUR_BYTES, PNG_DEPTH):
        folder = spec.scratch / f"{family}-{content.partition(' ')[0]}"
        shutil.rmtree(folder, ignore_errors=True)
        module.write(folder, samples(spec, content))
        found[f"{family}, {content}"] = lambda folder=folder: module.read(folder)
    return found


def samples(spec: Spec, content: str) -> list[dict[str, Any]]:
    """Return as many windows as are read in a round, since an epoch's end would cost these libraries a restart."""
    clip = open_shards(spec.shards).clips(split="train")[0]
    meta = clip.meta
    members = _members(clip)
    windows = [
        _sample(meta, members, content, range(first, first + spec.window))
        for first in range(0, clip.num_frames - spec.window + 1, spec.window)
    ]
    count = spec.count + 8 * WORKERS
    return [windows[number % len(windows)] for number in range(count)]


def _members(clip: Any) -> dict[str, bytes]:
    import tarfile

    with tarfile.open(clip.tar) as tar:
        return {item.name.removeprefix(f"{clip.entry.key}."): tar.extractfile(item).read() for item in tar}


def _sample(meta: ClipMeta, members: Mapping[str, bytes], content: str, frames: range) -> dict[str, Any]:
    assert meta.diff is not None
    kinds = ["rgb.jpg", "depth.zst", "diff.zst"]
    columns = [[members[f"f{frame:03d}.{kind}"] for frame in frames] for kind in kinds]
    if content == PNG_DEPTH:
        columns = [columns[0], [_png(data, meta) for data in columns[1]]]
    lengths = np.array([[len(data) for data in column] for column in columns], np.int64)
    shape = np.array([meta.height, meta.width, meta.diff.scale, meta.diff.step], np.int64)
    depth = json.dumps(meta.depth.to_json()).encode()
    data = {f"data{number}": b"".join(column) for number, column in enumerate(columns)}
    return {"lengths": lengths.tobytes(), "shape": shape.tobytes(), "depth": depth, "data2": b"", **data}


def _png(data: bytes, meta: ClipMeta) -> bytes:
    from vdaprep.shards import codec

    codes = codec.unpack_codes(data, meta.depth, height=meta.height, width=meta.width)
    return cv2.imencode(".png", codes)[1].tobytes()


def decode(sample: Fields) -> tuple[Tensor, ...]:
    """Unpack a window; with depth as PNG there are no differences."""
    height, width, scale, step = np.frombuffer(sample["shape"], np.int64).tolist()
    columns = 3 if sample["data2"] else 2
    lengths = np.frombuffer(sample["lengths"], np.int64).reshape(columns, -1)
    members = [list(_split(sample[f"data{number}"], lengths[number])) for number in range(columns)]
    if columns == 3:
        spec, diff = DepthSpec(**json.loads(sample["depth"])), DiffSpec(scale=scale, step=step)
        return decode_ours(members, height=height, width=width, spec=spec, diff=diff)
    rgb = [cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB) for data in members[0]]
    codes = [cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) for data in members[1]]
    return torch.from_numpy(np.stack(rgb)), torch.from_numpy(np.stack(codes))


def _split(data: bytes, lengths: Sequence[int] | np.ndarray) -> Iterator[bytes]:
    at = 0
    for length in lengths:
        yield data[at : at + int(length)]
        at += int(length)


def first(items: Sequence[object]) -> object:
    """Take a batch of one for what it is."""
    return items[0]


def _nth(windows: Sequence[Fields], number: int) -> Fields:
    return windows[number]


class _Streaming:
    @staticmethod
    def write(folder: Path, windows: Sequence[Fields]) -> None:
        from streaming import MDSWriter

        with MDSWriter(out=str(folder), columns=dict.fromkeys(windows[0], "bytes"), size_limit="64mb") as writer:
            for window in windows:
                writer.write(dict(window))

    @staticmethod
    def read(folder: Path) -> Generator[object]:
        import streaming

        class Windows(streaming.StreamingDataset):
            def __getitem__(self, at: Any) -> Any:
                return decode(super().__getitem__(at))

        dataset = Windows(local=str(folder), batch_size=1, shuffle=False)
        yield from DataLoader(dataset, batch_size=1, num_workers=WORKERS, collate_fn=first)


class _Litdata:
    @staticmethod
    def write(folder: Path, windows: Sequence[Fields]) -> None:
        import litdata

        with contextlib.redirect_stdout(sys.stderr):
            litdata.optimize(
                functools.partial(_nth, windows),
                inputs=list(range(len(windows))),
                output_dir=str(folder),
                chunk_bytes="64MB",
                num_workers=1,
                start_method="fork",
            )

    @staticmethod
    def read(folder: Path) -> Generator[object]:
        import litdata

        class Windows(litdata.StreamingDataset):
            def __getitem__(self, at: Any) -> Any:
                return decode(super().__getitem__(at))

        dataset = Windows(str(folder), shuffle=False)
        yield from litdata.StreamingDataLoader(dataset, batch_size=1, num_workers=WORKERS, collate_fn=first)
