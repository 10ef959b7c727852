"""Conversion by stage, and as a whole against the library calls alone."""

import io
import itertools
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
import zstandard
from rich.table import Table

from tests.bench.converting import Conversion, lay_out, run
from tests.bench.rendered import DATASET, Rendered
from tests.bench.timing import Timing, Work, milliseconds, new_table, ratio, take_turns
from vdaprep import sources
from vdaprep.conversion.clips import PlannedClip
from vdaprep.conversion.encode.encoder import ClipEncoder
from vdaprep.conversion.encode.profiles import Encoding
from vdaprep.conversion.plan import ConversionPlan
from vdaprep.raw import png
from vdaprep.raw.frames import FrameFiles, SourceOptions
from vdaprep.raw.tree import Location, Reader
from vdaprep.shards import codec, depth_codes
from vdaprep.shards.records import ShardRecord
from vdaprep.shards.writer import EncodedClip, write_shard
from vdaprep.sources import _manifest
from vdaprep.storage.output import LocalOutput

Item = TypeVar("Item")

WHOLE = "all of it"
WHOLE_AS_OURS = "calls with our PNG decode"
PROCESSOR = "all, processor time"


def tables(rendered: Rendered, scratch: Path) -> Iterator[Table]:
    plan, count = rendered.plan, rendered.scale.frames
    with Reader(plan.raw) as reader:
        bench = _Conversion(plan, count, reader, rendered.raw_files[:count], scratch / "shard-0001.tar")
        works = {("ours", name): work for name, work in bench.stages().items()}
        works |= {("alone", name): work for name, work in bench.library_calls().items()}
        timings = take_turns(works, rounds=rendered.scale.rounds)
        whole = {which: work for which, work in works.items() if which[1] == WHOLE}
        processor = take_turns(whole, rounds=rendered.scale.rounds, clock=time.process_time)
        timings |= {(whose, PROCESSOR): timing for (whose, _), timing in processor.items()}
        record = bench.write(bench.encode())
    yield _by_stage({which: timing.per(count) for which, timing in timings.items()}, rendered)
    yield _by_kind(record, bench.raw_bytes(), bench.zip_bytes(), rendered)
    yield _by_workers(rendered, scratch)


def _by_stage(timings: dict[tuple[str, str], Timing], rendered: Rendered) -> Table:
    columns = ("ms, min", "median", "calls alone, min", "median", "calls / stage")
    caption = (
        f"{rendered.note}. Calls alone: file reads, PNG decode by OpenCV, JPEG encode, zstd, nothing else, in one "
        f"thread; ours inflates PNGs by ISA-L, so there is a row for the calls with that. All of "
        "it reads the next files in a second thread; its processor time is that of both. The ratio is the median of "
        f"that of each round; 1: nothing is lost. The shard has {rendered.scale.frames} frames, so its flushes to the "
        "disk weigh more than in one of 1024."
    )
    table = new_table("(a) conversion: ms a frame", "stage", columns, caption=caption)
    for name in [name for whose, name in timings if whose == "ours"]:
        stage, alone = timings["ours", name], timings.get(("alone", name))
        share = "-" if alone is None else f"{ratio(alone, stage):.2f}"
        if name == WHOLE:
            table.add_section()
        table.add_row(name, *milliseconds(stage), *milliseconds(alone), share)
    ours, alone = (timings[whose, WHOLE] for whose in ("ours", "alone"))
    as_ours = timings["alone", WHOLE_AS_OURS]
    table.add_row(WHOLE_AS_OURS, *milliseconds(ours), *milliseconds(as_ours), f"{ratio(as_ours, ours):.2f}")
    rates = [f"{1 / seconds:.0f}" for timing in (ours, alone) for seconds in (timing.minimum, timing.median)]
    table.add_row("frames/s", *rates, "")
    return table


def _by_kind(record: ShardRecord, raw_bytes: int, zip_bytes: int, rendered: Rendered) -> Table:
    frames = record.num_frames
    caption = f"{rendered.note}; raw files: PNG and npy, in the download's zips deflated."
    columns = ("KiB a frame", "bits a pixel", "of the raw files", "of the zips")
    table = new_table("(a) conversion: size", "kind", columns, caption=caption)
    sizes = {kind: size for kind, (_, size) in record.kinds.items()}
    sizes["tar headers and padding"] = record.tar_bytes - sum(sizes.values())
    pixels = frames * rendered.scale.width * rendered.scale.height
    rows = [*sizes.items(), ("whole shard", record.tar_bytes), ("raw files", raw_bytes), ("zips", zip_bytes)]
    for kind, size in rows:
        if kind == "whole shard":
            table.add_section()
        shares = f"{size / raw_bytes:.1%}", f"{size / zip_bytes:.1%}"
        table.add_row(kind, f"{size / frames / 1024:.1f}", f"{8 * size / pixels:.3f}", *shares)
    return table


def _by_workers(rendered: Rendered, scratch: Path) -> Table:
    """Convert the same number of frames with one worker and with two, as many short trajectories and as a long one."""
    frames, clip = rendered.scale.converted_frames, rendered.scale.frames
    shapes = {"short": (frames // clip, clip), "long": (1, frames)}
    raw = {
        name: lay_out(rendered.raw_files, rendered.poses, scratch / name, trajectories=trajectories, frames=length)
        for name, (trajectories, length) in shapes.items()
    }
    taken: dict[tuple[str, int], list[Conversion]] = {}
    for _ in range(2):
        for which in (("short", 1), ("short", 2), ("long", 2)):
            name, workers = which
            with tempfile.TemporaryDirectory(dir=scratch) as out:
                taken.setdefault(which, []).append(run(raw[name], Path(out), workers=workers, shard_frames=clip))
    caption = (
        f"{rendered.note}, repeated; {frames} frames in shards of {clip}, flushes and the start of the workers "
        "included. The best of two runs each; the speed-up is that of the better pair. Peak: of the largest worker."
    )
    columns = ("frames/s", "speed-up", "processor ms a frame", "peak MiB a worker")
    table = new_table("(a) conversion: workers", "trajectories", columns, caption=caption)
    for (name, workers), found in taken.items():
        pairs = [alone.seconds / own.seconds for alone, own in zip(taken["short", 1], found, strict=True)]
        peak = max(one.worker_kib if workers > 1 else one.own_kib for one in found) / 1024
        rate = frames / min(one.seconds for one in found)
        busy = 1000 * min(one.processor_s for one in found) / frames
        trajectories, length = shapes[name]
        title = f"{trajectories} of {length} frames, {workers} worker{'s' if workers > 1 else ''}"
        table.add_row(title, f"{rate:.0f}", f"{max(pairs):.2f}", f"{busy:.1f}", f"{peak:.0f}")
    return table


@dataclass(frozen=True)
class _Conversion:
    """The first `count` frames of a trajectory, and everything that is done to them."""

    plan: ConversionPlan
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

    def zip_bytes(self) -> int:
        """Return what the raw files take in zips, as the download has them."""
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
            for path in itertools.chain.from_iterable(self.paths):
                archive.write(path, path.name)
        return stream.tell()

    def stages(self) -> dict[str, Work]:
        """Return each stage as `ClipEncoder` calls it, on the results of the stages before."""
        source, reader, spec, diff = sources.load(DATASET), self.reader, self._encoding.depth, self._encoding.diff
        assert diff is not None
        images = [source.read_rgb(files, reader).pixels for files in self._files]
        depths = [source.read_depth(files, reader) for files in self._files]
        codes = [depth_codes.code_depth(depth_m, spec)[0] for depth_m in depths]
        clips = self.encode()

        def differences() -> None:
            shrunk = [codec.shrink(image, diff) for image in images]
            for before, now in itertools.pairwise([None, *shrunk]):
                assert now is not None
                codec.encode_diff(now, before, diff)

        return {
            "read, PNG decode": _each(lambda files: source.read_rgb(files, reader), self._files),
            "read, npy parse": _each(lambda files: source.read_depth(files, reader), self._files),
            "depth code": _each(lambda depth_m: depth_codes.code_depth(depth_m, spec), depths),
            "disparity range": _each(lambda one: depth_codes.disparity_range(one, spec), codes),
            "JPEG encode": _each(lambda image: codec.encode_rgb(image, quality=self._encoding.rgb.quality), images),
            "depth pack": _each(lambda one: codec.pack_codes(one, spec), codes),
            "difference": differences,
            "tar, hash": lambda: self.write(clips),
            WHOLE: lambda: self.write(self.encode()),
        }

    def library_calls(self) -> dict[str, Work]:
        """Return what no converter to these formats can leave out, by the stage that it belongs to."""
        frames = [cv2.imread(str(rgb), cv2.IMREAD_COLOR_RGB) for rgb, _ in self.paths]
        pack = zstandard.ZstdCompressor(level=codec.ZSTD_LEVEL, write_checksum=True).compress
        unpack = zstandard.ZstdDecompressor().decompress
        [clip] = self.encode()
        members = [dict(frame) for frame in clip.frames]
        planes = [unpack(frame["depth.zst"]) for frame in members]
        differences = [unpack(frame["diff.zst"]) for frame in members]
        quality = [cv2.IMWRITE_JPEG_QUALITY, self._encoding.rgb.quality]
        calls: dict[str, Work] = {
            "read, PNG decode": _each(
                lambda pair: cv2.imdecode(np.frombuffer(pair[0].read_bytes(), np.uint8), cv2.IMREAD_COLOR_RGB),
                self.paths,
            ),
            "read, npy parse": _each(lambda pair: pair[1].read_bytes(), self.paths),
            "JPEG encode": _each(lambda image: cv2.imencode(".jpg", image, quality), frames),
            "depth pack": _each(pack, planes),
            "difference": _each(pack, differences),
        }
        our_png = _each(lambda pair: png.parse_png(pair[0].read_bytes(), Location("", str(pair[0]))), self.paths)
        return {
            **calls,
            WHOLE: _each(lambda call: call(), [*calls.values()]),
            WHOLE_AS_OURS: _each(lambda call: call(), [our_png, *list(calls.values())[1:]]),
        }

    @property
    def _encoding(self) -> Encoding:
        return self.plan.settings.encoding(_manifest.load(DATASET))

    @property
    def _files(self) -> tuple[FrameFiles, ...]:
        return self.plan.shards[0].clips[0].trajectory.frames[: self.count]


def _each(work: Callable[[Item], object], items: Sequence[Item]) -> Work:
    def run() -> None:
        for item in items:
            work(item)

    return run
