"""Conversion by stage, and as a whole against the library calls alone."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
import zstandard
from rich.table import Table

from tests.bench.rendered import DATASET, Rendered
from tests.bench.timing import Timing, Work, milliseconds, new_table, ratio, take_turns
from vdaprep import codec, manifest, sources
from vdaprep.archive import Reader
from vdaprep.clips import PlannedClip
from vdaprep.encode import ClipEncoder, EncodedClip, Encoding
from vdaprep.frames import FrameFiles, SourceOptions
from vdaprep.outputs import LocalOutput
from vdaprep.plan import Plan
from vdaprep.schema import ShardRecord
from vdaprep.shards import write_shard

Item = TypeVar("Item")

WHOLE = "all of it"


def tables(rendered: Rendered, scratch: Path) -> Iterator[Table]:
    plan, count = rendered.plan, rendered.scale.window
    with Reader(plan.raw) as reader:
        bench = _Conversion(plan, count, reader, rendered.raw_files[:count], scratch / "shard-0001.tar")
        works = {("ours", name): work for name, work in bench.stages().items()}
        works |= {("alone", name): work for name, work in bench.library_calls().items()}
        timings = take_turns(works, rounds=rendered.scale.rounds)
        record = bench.write(bench.encode())
    yield _by_stage({which: timing.per(count) for which, timing in timings.items()}, rendered)
    yield _by_kind(record, bench.raw_bytes(), rendered)


def _by_stage(timings: dict[tuple[str, str], Timing], rendered: Rendered) -> Table:
    columns = ("ms, min", "median", "calls alone, min", "median", "calls / stage")
    caption = (
        f"{rendered.note}, one thread. Calls alone: file reads, PNG decode, JPEG encode, zstd, nothing else. The ratio "
        f"is the median of the rounds' own; 1: nothing is lost. The shard has {rendered.scale.window} frames, so its "
        "flushes to the disk weigh more than in one of 1024."
    )
    table = new_table("(a) conversion: ms a frame", "stage", columns, caption=caption)
    for name in [name for whose, name in timings if whose == "ours"]:
        stage, alone = timings["ours", name], timings.get(("alone", name))
        share = "-" if alone is None else f"{ratio(alone, stage):.2f}"
        if name == WHOLE:
            table.add_section()
        table.add_row(name, *milliseconds(stage), *milliseconds(alone), share)
    whole = timings["ours", WHOLE]
    table.add_row("frames/s", f"{1 / whole.minimum:.0f}", f"{1 / whole.median:.0f}", "", "", "")
    return table


def _by_kind(record: ShardRecord, raw_bytes: int, rendered: Rendered) -> Table:
    frames = record.num_frames
    caption = f"{rendered.note}; raw files: PNG and npy."
    table = new_table("(a) conversion: size", "kind", ("KiB a frame", "of the raw files"), caption=caption)
    sizes = {kind: size for kind, (_, size) in record.kinds.items()}
    sizes["tar headers and padding"] = record.tar_bytes - sum(sizes.values())
    for kind, size in [*sizes.items(), ("whole shard", record.tar_bytes), ("raw files", raw_bytes)]:
        if kind == "whole shard":
            table.add_section()
        table.add_row(kind, f"{size / frames / 1024:.1f}", f"{size / raw_bytes:.1%}")
    return table


@dataclass(frozen=True)
class _Conversion:
    """The first `count` frames of a trajectory, and everything that is done to them."""

    plan: Plan
    count: int
    reader: Reader
    paths: Sequence[tuple[Path, Path]]
    tar: Path

    def encode(self) -> list[EncodedClip]:
        encoder = ClipEncoder(
            dataset=DATASET,
            source=sources.load(DATASET),
            reader=self.reader,
            options=SourceOptions(),
            encoding=self._encoding,
        )
        clip = PlannedClip(self.plan.shards[0].clips[0].trajectory, 0, self.count, after_gap=True)
        return list(encoder.encode(clip, split="train", rejected=[], on_frame=lambda: None))

    def write(self, clips: list[EncodedClip]) -> ShardRecord:
        return write_shard(LocalOutput(self.tar.parent), self.tar.name, clips, options={}, plan="bench", rejected=[])

    def raw_bytes(self) -> int:
        return sum(path.stat().st_size for pair in self.paths for path in pair)

    def stages(self) -> dict[str, Work]:
        """Return each stage as `ClipEncoder` calls it, on the results of the stages before."""
        source, reader, spec, diff = sources.load(DATASET), self.reader, self._encoding.depth, self._encoding.diff
        assert diff is not None
        images = [source.read_rgb(files, reader).pixels for files in self._files]
        depths = [source.read_depth(files, reader) for files in self._files]
        codes = [codec.code_depth(depth_m, spec)[0] for depth_m in depths]
        clips = self.encode()

        def differences() -> None:
            shrunk = [codec.shrink(image, diff) for image in images]
            for before, now in itertools.pairwise([None, *shrunk]):
                assert now is not None
                codec.encode_diff(now, before, diff)

        return {
            "read, PNG decode": _each(lambda files: source.read_rgb(files, reader), self._files),
            "read, npy parse": _each(lambda files: source.read_depth(files, reader), self._files),
            "depth code": _each(lambda depth_m: codec.code_depth(depth_m, spec), depths),
            "disparity range": _each(lambda one: codec.disparity_range(one, spec), codes),
            "JPEG encode": _each(lambda image: codec.encode_rgb(image, quality=self._encoding.jpeg_quality), images),
            "depth pack": _each(codec.pack_codes, codes),
            "difference": differences,
            "tar, hash": lambda: self.write(clips),
            WHOLE: lambda: self.write(self.encode()),
        }

    def library_calls(self) -> dict[str, Work]:
        """Return what no converter to these formats can leave out, by the stage that it belongs to."""
        images = [cv2.imread(str(rgb)) for rgb, _ in self.paths]
        pack = zstandard.ZstdCompressor(level=codec.ZSTD_LEVEL, write_checksum=True).compress
        unpack = zstandard.ZstdDecompressor().decompress
        [clip] = self.encode()
        members = [dict(frame) for frame in clip.frames]
        planes = [unpack(frame["depth.zst"]) for frame in members]
        differences = [unpack(frame["diff.zst"]) for frame in members]
        quality = [cv2.IMWRITE_JPEG_QUALITY, self._encoding.jpeg_quality]
        calls: dict[str, Work] = {
            "read, PNG decode": _each(
                lambda pair: cv2.imdecode(np.frombuffer(pair[0].read_bytes(), np.uint8), cv2.IMREAD_COLOR), self.paths
            ),
            "read, npy parse": _each(lambda pair: pair[1].read_bytes(), self.paths),
            "JPEG encode": _each(lambda image: cv2.imencode(".jpg", image, quality), images),
            "depth pack": _each(pack, planes),
            "difference": _each(pack, differences),
        }
        return {**calls, WHOLE: _each(lambda call: call(), list(calls.values()))}

    @property
    def _encoding(self) -> Encoding:
        return self.plan.settings.encoding(manifest.load(DATASET))

    @property
    def _files(self) -> tuple[FrameFiles, ...]:
        return self.plan.shards[0].clips[0].trajectory.frames[: self.count]


def _each(work: Callable[[Item], object], items: Sequence[Item]) -> Work:
    def run() -> None:
        for item in items:
            work(item)

    return run
