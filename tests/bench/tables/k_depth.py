"""What each packing of depth costs, saves and loses at several bounds of its error."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32
from rich.table import Table

from tests.bench.rendered import Rendered
from tests.bench.timing import milliseconds, new_table, take_turns
from vdaprep import sources
from vdaprep.raw.tree import Reader
from vdaprep.shards import codec, depth_codes
from vdaprep.shards.metadata import DepthSpec
from vdatrain.data.decode import codes_of_bytes, depth_table

FRAMES = 4
SPECS = {
    f"{packing} {100 * error:g} %": DepthSpec(
        "log", error, near_m=0.1, far_m=1000.0, packing=packing, steps=steps if packing == "interpolation" else 1
    )
    for packing, bounds in (
        ("bytes", ((0.0005, 1), (0.0022, 1))),
        ("nibbles", ((0.0005, 1), (0.0022, 1))),
        ("interpolation", ((0.001, 5), (0.0022, 11), (0.005, 25))),
    )
    for error, steps in bounds
}
Frames = Sequence[Float32[np.ndarray, "h w"]]


def tables(rendered: Rendered, scratch: Path) -> Iterator[Table]:
    source, files = sources.load(rendered.plan.dataset), rendered.plan.shards[0].clips[0].trajectory.frames
    with Reader(rendered.plan.raw) as reader:
        frames = [source.read_depth(one, reader) for one in files[:: len(files) // FRAMES]]
    yield table_of(frames, note=rendered.note, rounds=rendered.scale.rounds)


def table_of(frames: Frames, *, note: str, rounds: int) -> Table:
    """Measure on any frames of one size, in metres."""
    height, width = frames[0].shape
    packed = {name: [codec.encode_depth(one, spec)[0] for one in frames] for name, spec in SPECS.items()}
    works = {("pack", name): partial(_pack, frames, spec) for name, spec in SPECS.items()}
    for name, spec in SPECS.items():
        unpacked = _unpack(packed[name], spec, height, width)
        works |= {
            ("unpack", name): partial(_unpack, packed[name], spec, height, width),
            ("numpy", name): partial(_codes, unpacked, spec, height, width),
            ("torch", name): partial(_metres, unpacked, spec, height, width),
        }
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        taken = {which: timing.per(len(frames)) for which, timing in take_turns(works, rounds=rounds).items()}
    finally:
        torch.set_num_threads(threads)
    columns = ("KiB a frame", "largest error %", "mean %", "pack ms", "unpack ms", "codes, numpy", "metres, torch")
    caption = f"{note}, {len(frames)} of them, one thread; times are medians. A device decodes what a host unpacks."
    table = new_table("(k) packings of depth", "packing, bound", columns, caption=caption)
    for name, spec in SPECS.items():
        error = _errors(frames, packed[name], spec)
        table.add_row(
            name,
            f"{sum(map(len, packed[name])) / len(frames) / 1024:.1f}",
            f"{100 * error.max():.4f}",
            f"{100 * error.mean():.4f}",
            *(milliseconds(taken[work, name])[1] for work in ("pack", "unpack", "numpy", "torch")),
        )
    return table


def _pack(frames: Frames, spec: DepthSpec) -> None:
    for depth_m in frames:
        codec.encode_depth(depth_m, spec)


def _unpack(packed: Sequence[bytes], spec: DepthSpec, height: int, width: int) -> list[np.ndarray]:
    return [codec.decompress_depth(data, spec, height=height, width=width) for data in packed]


def _codes(unpacked: Sequence[np.ndarray], spec: DepthSpec, height: int, width: int) -> None:
    for one in unpacked:
        codec.codes_of_planes(codec.planes_of_bytes(one, spec, height=height, width=width), spec)


def _metres(unpacked: Sequence[np.ndarray], spec: DepthSpec, height: int, width: int) -> None:
    for one in unpacked:
        codes = codes_of_bytes(torch.from_numpy(one.copy())[None], spec, size=(height, width))
        depth_table(spec, codes.device)[codes]


def _errors(frames: Frames, packed: Sequence[bytes], spec: DepthSpec) -> np.ndarray:
    """Return the relative errors of pixels that are known and neither too near nor beyond."""
    depth_m = np.stack(frames).astype(np.float64)
    height, width = depth_m.shape[1:]
    decoded = np.stack([codec.decode_depth(data, spec, height=height, width=width) for data in packed])
    known = np.isfinite(decoded) & (depth_m >= depth_codes.depth_table(spec)[1])
    return np.abs(decoded[known] / depth_m[known] - 1)
