"""What each profile takes, costs and loses, beside other formats, on the same frames in one run."""

import contextlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from rich.table import Table

from tests.bench import depth_peers
from tests.bench.children import running
from tests.bench.clips import SETTINGS, V1, Errors, RawClip, errors, member_kib, raw_clips
from tests.bench.depth_peers import Peer, Stored
from tests.bench.rendered import DATASET, Rendered
from tests.bench.timing import Timing, Work, new_table, ratio, take_turns
from tests.bench.training import one_thread
from vdaprep import sources
from vdaprep.conversion.clips import PlannedClip
from vdaprep.conversion.encode.encoder import ClipEncoder
from vdaprep.raw.frames import Cameras, FrameFiles, RgbImage, SourceOptions, Trajectory
from vdaprep.raw.tree import Location, Reader
from vdaprep.shards.reader import Clip
from vdaprep.shards.writer import write_shard
from vdaprep.sources import _manifest
from vdaprep.storage.output import LocalOutput
from vdatrain.data.batch import make_batch
from vdatrain.data.sampler import Window, WindowShape
from vdatrain.data.samples import read_window
from vdatrain.data.transforms import fit_view

WINDOW = 16
STARTS = (0, 2, 4, 6)  # of windows, within groups of 8 frames
ENCODED = 16  # frames
SEEN_PIXELS = 252  # of the short side, as training might see a frame of 480
ROUNDS_OF_ENCODING = 2
TARTANAIR_FRAMES, CORES = 305_000, 8


def tables(rendered: Rendered, scratch: Path) -> Iterator[Table]:
    smooth = Rendered(scratch / "smooth", rendered.scale, noisy=False)
    clips = raw_clips(smooth, rendered.data)
    shards: dict[str, dict[str, Path]] = {}
    for clip in clips:
        folder = scratch / "profiles" / clip.name.replace(" ", "-")
        shards[clip.name] = {name: folder / name for name in SETTINGS}
        yield from _tables_of(clip, shards[clip.name], scratch, rounds=rendered.scale.rounds)
    yield _conversion(clips, scratch)
    yield _stream(shards[clips[0].name], clips[0], smooth, scratch)


# ---------------------------------------------------------------------------------------------- sizes, times and errors


def _tables_of(clip: RawClip, folders: Mapping[str, Path], scratch: Path, *, rounds: int) -> Iterator[Table]:
    converted = {name: clip.convert(name, folder) for name, folder in folders.items()}
    others = {
        peer.name: (peer, peer.encode(clip.rgb, clip.depth_m)) for peer in depth_peers.peers(clip.depth_m, scratch)
    }
    encoding = _encoding(clip, others)
    reading = {name: found for name, (found, _) in converted.items()}
    decoding, showing = _decoding(reading, rounds=rounds), _showing(reading, rounds=rounds)
    decoding |= _decoding_of_peers(others, len(clip.rgb), rounds=max(1, rounds // 3))
    size = new_table(f"(l) {clip.name}: size and time", "stored as", _SIZES, caption=_size_caption(clip))
    kib = {name: member_kib(record) for name, (_, record) in converted.items()}
    kib |= {name: _kib(stored, len(clip.rgb)) for name, (_, stored) in others.items()}
    raw = clip.raw_bytes / len(clip.rgb) / 1024
    for name, parts in kib.items():
        if name not in converted and name == next(iter(others)):
            size.add_section()
        ours = f"{_ms(showing[name])}" if name in showing else "-"
        times = (_ms(encoding[name]), _ms(decoding[name]), ours)
        quotient = f"{ratio(decoding[name], decoding[V1]):.2f}" if name in converted else _quotient(decoding, name)
        sizes = (f"{value:.1f}" for value in parts.values())
        size.add_row(name, *sizes, f"{parts['all'] / raw:.1%}", *times, quotient)
    yield size
    lost = new_table(f"(l) {clip.name}: errors", "stored as", _ERRORS, caption=_ERROR_CAPTION)
    for name, (found, _) in converted.items():
        frames = found.read()
        lost.add_row(name, *_error_row(errors(clip, frames.rgb, frames.depth_m)))
    lost.add_section()
    for name, (peer, stored) in others.items():
        lost.add_row(name, *_error_row(errors(clip, *peer.decode(stored))))
    yield lost


_SIZES = (
    "KiB a frame", "rgb", "depth", "diff", "rest", "of raw", "encode ms", "decode ms", "to batch ms", "decode / v1",
)  # fmt: skip
_ERRORS = ("Y, dB", "depth, max %", "mean %", "lost %", "disparity %", "its change %")
_ERROR_CAPTION = (
    "Y: PSNR of luma. Depth: relative error of pixels known before and after; lost: known ones that decode as unknown "
    "or sky. Disparity: mean absolute error of disparity normalised over the clip, in % of its mean; its change: of "
    "the difference to the frame before, of pixels that the temporal loss counts, in % of its mean size."
)


def _size_caption(clip: RawClip) -> str:
    raw = clip.raw_bytes / len(clip.rgb) / 1024
    return (
        f"{len(clip.rgb)} frames of {clip.size}, {raw:.0f} KiB each as raw files. Times are milliseconds of processor "
        f"a frame, medians, one thread. Encode: {min(ENCODED, len(clip.rgb))} frames from memory. Decode: windows of "
        f"{min(WINDOW, len(clip.rgb))} frames, as the stream reads them, beginning at every second frame of a group; "
        f"to batch: what a CPU then takes to make the model's input of {SEEN_PIXELS} pixels. The ratio: the median of "
        "the rounds' own. Peers decode the whole clip, to metres; rest: headers, padding, metadata."
    )


def _error_row(found: Errors) -> Iterator[str]:
    yield f"{found.luma_db:.1f}" if found.luma_db < 100 else "equal"
    yield f"{found.depth_max:.3f}"
    yield f"{found.depth_mean:.3f}"
    yield f"{found.lost:.2f}"
    yield f"{found.disparity:.3f}"
    yield f"{found.gradient:.2f}"


def _kib(stored: Stored, frames: int) -> Mapping[str, float]:
    rgb, depth = (sum(map(len, members)) for members in (stored.rgb, stored.depth))
    parts = {"all": stored.total, "rgb": rgb, "depth": depth, "diff": 0, "rest": stored.total - rgb - depth}
    return {name: size / frames / 1024 for name, size in parts.items()}


def _ms(timing: Timing) -> str:
    return f"{1000 * timing.median:.2f}"


def _quotient(decoding: Mapping[str, Timing], name: str) -> str:
    return f"{decoding[name].median / decoding[V1].median:.2f}"


# ------------------------------------------------------------------------------------------------------------- measured


def _encoding(clip: RawClip, others: Mapping[str, tuple[Peer, Stored]]) -> dict[str, Timing]:
    count = min(ENCODED, len(clip.rgb))
    rgb, depth_m = clip.rgb[:count], clip.depth_m[:count]
    works: dict[str, Work] = {name: partial(_encode, clip, name, _InMemory(clip), count) for name in SETTINGS}
    works |= {name: partial(peer.encode, rgb, depth_m) for name, (peer, _) in others.items()}
    taken = take_turns(works, rounds=ROUNDS_OF_ENCODING, clock=time.process_time)
    return {name: timing.per(count) for name, timing in taken.items()}


def _encode(clip: RawClip, name: str, source: "_InMemory", count: int) -> None:
    encoder = _encoder(clip, name, source=source, reader=_NoFiles(clip.raw))
    for _ in encoder.encode(_planned(clip, name, count), split="train", rejected=[], on_frame=lambda: None):
        pass


def _encoder(clip: RawClip, name: str, *, source: sources.Source, reader: Reader) -> ClipEncoder:
    encoding = SETTINGS[name].encoding(_manifest.load(DATASET))
    return ClipEncoder(dataset=DATASET, source=source, reader=reader, options=clip.source, encoding=encoding)


def _planned(clip: RawClip, name: str, count: int) -> PlannedClip:
    return PlannedClip(clip.plan(SETTINGS[name]).shards[0].clips[0].trajectory, 0, count, after_gap=True)


def _decoding(clips: Mapping[str, Clip], *, rounds: int) -> dict[str, Timing]:
    works = {name: partial(_read_all, clip) for name, clip in clips.items()}
    frames = sum(window.shape.num_frames for window in _windows(next(iter(clips.values()))))
    taken = take_turns(works, rounds=rounds, clock=time.process_time)
    return {name: timing.per(frames) for name, timing in taken.items()}


def _read_all(clip: Clip) -> None:
    for window in _windows(clip):
        read_window(clip, window)


def _windows(clip: Clip) -> list[Window]:
    shape = WindowShape(min(WINDOW, clip.num_frames))
    return [Window(0, 0, first, shape) for first in STARTS if first + shape.num_frames <= clip.num_frames]


def _showing(clips: Mapping[str, Clip], *, rounds: int) -> dict[str, Timing]:
    """Time what is left to the device, on one core."""
    samples = {name: read_window(clip, _windows(clip)[0]) for name, clip in clips.items()}
    view = fit_view(next(iter(samples.values())).size, size=SEEN_PIXELS)
    works = {
        name: partial(make_batch, [sample], [view], device=torch.device("cpu")) for name, sample in samples.items()
    }
    with one_thread():
        taken = take_turns(works, rounds=max(1, rounds // 2), clock=time.process_time)
    return {name: timing.per(len(samples[name].rgb)) for name, timing in taken.items()}


def _decoding_of_peers(others: Mapping[str, tuple[Peer, Stored]], frames: int, *, rounds: int) -> dict[str, Timing]:
    works = {name: partial(peer.decode, stored) for name, (peer, stored) in others.items()}
    taken = take_turns(works, rounds=rounds, clock=time.process_time)
    return {name: timing.per(frames) for name, timing in taken.items()}


class _NoFiles(Reader):
    def read(self, location: Location) -> bytes:
        return b""


@dataclass(frozen=True)
class _InMemory:
    """The data set's source, with frames that are read already."""

    clip: RawClip
    EXPECTED = "nothing"

    def find_trajectories(self, tree: object, options: SourceOptions) -> object:
        raise NotImplementedError

    def read_cameras(self, trajectory: Trajectory, reader: Reader, options: SourceOptions) -> Cameras:
        with Reader(self.clip.raw) as own:
            return sources.load(DATASET).read_cameras(trajectory, own, options)

    def read_rgb(self, files: FrameFiles, reader: Reader) -> RgbImage:
        return RgbImage(self.clip.rgb[files.frame_id])

    def read_depth(self, files: FrameFiles, reader: Reader) -> np.ndarray:
        return self.clip.depth_m[files.frame_id]


# ----------------------------------------------------------------------------------------------------------- conversion


def _conversion(clips: Sequence[RawClip], scratch: Path) -> Table:
    columns = ("frames/s a core", "speed / v1", f"TartanAir, {CORES} cores: hours")
    caption = (
        "Whole conversions, files read and shards written, one worker: frames a second of processor, the median of "
        f"{ROUNDS_OF_ENCODING}; the ratio is the median of the rounds' own. TartanAir: {TARTANAIR_FRAMES:,} frames as "
        "these, if disk and server keep up."
    )
    table = new_table("(l) conversion", "clip, stored as", columns, caption=caption)
    for clip in clips:
        with Reader(clip.raw) as reader:
            works = {name: partial(_convert, clip, name, reader, scratch) for name in SETTINGS}
            taken = take_turns(works, rounds=ROUNDS_OF_ENCODING, clock=time.process_time)
        table.add_section()
        for name, timing in taken.items():
            rate = len(clip.rgb) / timing.median
            hours = TARTANAIR_FRAMES / rate / CORES / 3600
            table.add_row(f"{clip.name}, {name}", f"{rate:.1f}", f"{ratio(taken[V1], timing):.2f}", f"{hours:.2f}")
    return table


def _convert(clip: RawClip, name: str, reader: Reader, scratch: Path) -> None:
    encoder = _encoder(clip, name, source=sources.load(DATASET), reader=reader)
    planned = _planned(clip, name, len(clip.rgb))
    made = encoder.encode(planned, split="train", rejected=[], on_frame=lambda: None)
    write_shard(LocalOutput(scratch), "shard-0001.tar", made, options={}, plan="bench", rejected=[])


# --------------------------------------------------------------------------------------------------------------- stream


def _stream(folders: Mapping[str, Path], clip: RawClip, rendered: Rendered, scratch: Path) -> Table:
    """Read windows at random by two threads, each profile in a process of its own."""
    window, reader = min(WINDOW, len(clip.rgb)), "stream, 2 workers"
    taken: dict[str, list[float]] = {name: [] for name in folders}
    with contextlib.ExitStack() as stack:
        children = {}
        for number, (name, folder) in enumerate(folders.items()):
            spec = scratch / f"profile-{number}.json"
            count = 4 * rendered.scale.stream_windows
            value = {"shards": str(folder), "raw_files": [], "scratch": str(scratch), "window": window, "count": count}
            spec.write_text(json.dumps(value))
            children[name] = stack.enter_context(running("ours", spec))
        for child in children.values():
            child.receive()
        for _ in range(rendered.scale.rounds + 1):
            for name, child in children.items():
                taken[name].append(child.ask(reader, "time")[1])
        megabytes = {name: child.ask(reader, "memory") / 1e6 for name, child in children.items()}
    caption = (
        f"{clip.name}, windows of {window} frames that begin anywhere, {rendered.scale.rounds} rounds in which the "
        "profiles took turns, each in a process of its own; wall time, files in the page cache. Take it on an idle "
        "machine; ratios, medians of the rounds' own, are less sensitive. MB: the most memory of the process, torch "
        "included."
    )
    columns = ("frames/s, best", "median", "time / v1", "MB", "MB - v1's")
    table = new_table("(l) the stream, 2 workers", "stored as", columns, caption=caption)
    timings = {name: Timing(tuple(seconds[1:])) for name, seconds in taken.items()}
    for name, timing in timings.items():
        rates = (f"{window / seconds:.0f}" for seconds in (timing.minimum, timing.median))
        memory = (f"{megabytes[name]:.0f}", f"{megabytes[name] - megabytes[V1]:+.0f}")
        table.add_row(name, *rates, f"{ratio(timing, timings[V1]):.2f}", *memory)
    return table
