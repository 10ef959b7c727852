"""What each level of zstd costs and saves on depth codes."""

from collections.abc import Iterator
from pathlib import Path

import zstandard
from rich.table import Table

from tests.bench.rendered import Rendered
from tests.bench.timing import Work, milliseconds, new_table, ratio, take_turns
from vdaprep import sources
from vdaprep.raw.tree import Reader
from vdaprep.shards import codec, depth_codes
from vdaprep.sources import _manifest

LEVELS = (-3, 1, 2, 3, 4, 6, 9, 12, 19)
FRAMES = 4  # the highest levels take seconds for more


def tables(rendered: Rendered, scratch: Path) -> Iterator[Table]:
    planes = _planes(rendered)
    packed = {level: [_compressor(level).compress(one) for one in planes] for level in LEVELS}
    works = {("pack", level): _packing(level, planes) for level in LEVELS}
    works |= {("unpack", level): _unpacking(packed[level]) for level in LEVELS}
    taken = {
        which: timing.per(len(planes)) for which, timing in take_turns(works, rounds=rendered.scale.rounds).items()
    }
    columns = ("pack ms, min", "median", "KiB a frame", "unpack ms, min", "median", "time / ours", "size / ours")
    caption = (
        f"{rendered.note}, {len(planes)} of them, one thread; zstd alone, of the byte planes that pack_codes makes. "
        f"Ours is level {codec.ZSTD_LEVEL}; the ratio of times is the median of the rounds' own."
    )
    table = new_table("(b) zstd levels on depth", "level", columns, caption=caption)
    sizes = {level: sum(map(len, data)) / len(planes) / 1024 for level, data in packed.items()}
    for level in LEVELS:
        table.add_row(
            f"{level}{' (ours)' if level == codec.ZSTD_LEVEL else ''}",
            *milliseconds(taken["pack", level]),
            f"{sizes[level]:.1f}",
            *milliseconds(taken["unpack", level]),
            f"{ratio(taken['pack', level], taken['pack', codec.ZSTD_LEVEL]):.2f}",
            f"{sizes[level] / sizes[codec.ZSTD_LEVEL]:.3f}",
        )
    yield table


def _planes(rendered: Rendered) -> list[bytes]:
    """Return the bytes that zstd gets of frames spread over the trajectory."""
    plan, source = rendered.plan, sources.load(rendered.plan.dataset)
    spec = plan.settings.encoding(_manifest.load(plan.dataset)).depth
    frames = plan.shards[0].clips[0].trajectory.frames
    planes: list[bytes] = []
    with Reader(plan.raw) as reader:
        for files in frames[:: len(frames) // FRAMES]:
            codes, _ = depth_codes.code_depth(source.read_depth(files, reader), spec)
            height, width = codes.shape
            planes.append(
                codec.unpack_planes(codec.pack_codes(codes, spec), spec, height=height, width=width).tobytes()
            )
    return planes


def _compressor(level: int) -> zstandard.ZstdCompressor:
    return zstandard.ZstdCompressor(level=level, write_checksum=True)


def _packing(level: int, planes: list[bytes]) -> Work:
    compressor = _compressor(level)
    return lambda: [compressor.compress(one) for one in planes]


def _unpacking(packed: list[bytes]) -> Work:
    decompressor = zstandard.ZstdDecompressor()
    return lambda: [decompressor.decompress(one) for one in packed]
