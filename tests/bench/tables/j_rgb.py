"""What each way to store frames costs and saves: JPEG alone, or groups of H.264 and AV1."""

import concurrent.futures
import functools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8
from rich.table import Table

from tests.bench.clips import luma, psnr
from tests.bench.rendered import Rendered
from tests.bench.timing import Timing, new_table, ratio, take_turns
from vdaprep.shards.codec import decode_group, encode_group

WINDOW = 16
LARGEST_GROUP = 16
ROUNDS_OF_ENCODING = 2
THREADS = 2
Frames = UInt8[np.ndarray, "t h w 3"]


@dataclass(frozen=True)
class Way:
    """A way to store frames; `group` frames are decoded together."""

    name: str
    group: int
    encode: Callable[[Frames], bytes]
    decode: Callable[[bytes, int], Frames]
    """Returns the first frames of a group of `group`."""


def ways(size: tuple[int, int]) -> list[Way]:
    """Return every way that there is a row for."""
    found = [_jpeg("JPEG 95", 95, optimised=False), _jpeg("JPEG 85 optimised", 85, optimised=True)]
    for codec, crf in (("h264", 16), ("av1", 20)):
        found += [_video(codec, crf, group, size) for group in (4, 8, LARGEST_GROUP)]
    return found


def _jpeg(name: str, quality: int, *, optimised: bool) -> Way:
    options = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_OPTIMIZE, int(optimised)]

    def encode(frames: Frames) -> bytes:
        return cv2.imencode(".jpg", cv2.cvtColor(frames[0], cv2.COLOR_RGB2BGR), options)[1].tobytes()

    def decode(data: bytes, take: int) -> Frames:
        return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)[None]

    return Way(name, 1, encode, decode)


def _video(codec: str, crf: int, group: int, size: tuple[int, int]) -> Way:
    def decode(data: bytes, take: int) -> Frames:
        return decode_group(data, codec=codec, size=size, count=group, frames=range(take))

    name = f"{codec} {crf}, {group} a group"
    return Way(name, group, lambda frames: encode_group(list(frames), codec=codec, crf=crf), decode)


def tables(rendered: Rendered, scratch: Path) -> Iterator[Table]:
    images = (cv2.imread(str(rgb), cv2.IMREAD_COLOR_RGB) for rgb, _ in rendered.raw_files)
    frames = np.stack([image.astype(np.uint8) for image in islice(images, WINDOW + LARGEST_GROUP)])
    yield from tables_of(frames, note=rendered.note, rounds=rendered.scale.rounds)


def tables_of(frames: Frames, *, note: str, rounds: int) -> Iterator[Table]:
    """Measure on any frames; fewer than 32 are continued backward."""
    frames = np.concatenate([frames, *[frames[::-1], frames] * 8])[: WINDOW + LARGEST_GROUP]
    yield _table_of_ways(frames, note=note, rounds=rounds)
    yield _table_of_scales(frames, note=note, rounds=rounds)


# ---------------------------------------------------------------------------------------------------------------- ways


def _table_of_ways(frames: Frames, *, note: str, rounds: int) -> Table:
    size = frames.shape[1], frames.shape[2]
    every = ways(size)
    groups = {way.name: [way.encode(part) for part in _parts(frames, way.group)] for way in every}
    encoding = take_turns(
        {way.name: functools.partial(way.encode, frames[: way.group]) for way in every}, rounds=ROUNDS_OF_ENCODING
    )
    works = {
        (way.name, start): functools.partial(_window, way, groups[way.name], start)
        for way in every
        for start in (0, way.group // 2)
    }
    decoding = {which: timing.per(WINDOW) for which, timing in take_turns(works, rounds=rounds).items()}
    columns = (
        "KiB", "Y, dB", "RGB, dB", "encode ms", "decode ms", "from middle", "/ JPEG 95", f"{THREADS} threads, 1/s",
    )  # fmt: skip
    caption = (
        f"{note}, {len(frames)} of them; medians a frame, one thread. A window of {WINDOW} frames begins with a "
        "group, or in its middle; the ratio is the median of the rounds' own."
    )
    table = new_table("(j) frames, alone and in groups", "stored as", columns, caption=caption)
    for way in every:
        aligned, unaligned = (decoding[way.name, start] for start in (0, way.group // 2))
        found = np.concatenate([way.decode(data, way.group) for data in groups[way.name]])
        table.add_row(
            way.name,
            f"{sum(map(len, groups[way.name])) / len(frames) / 1024:.1f}",
            f"{psnr(luma(found), luma(frames)):.1f}",
            f"{psnr(found, frames):.1f}",
            *(_ms(timing) for timing in (encoding[way.name].per(way.group), aligned, unaligned)),
            f"{ratio(aligned, decoding['JPEG 95', 0]):.2f}",
            f"{_in_threads(way, groups[way.name]):.0f}",
        )
    return table


def _parts(frames: Frames, group: int) -> list[Frames]:
    return [frames[start : start + group] for start in range(0, len(frames), group)]


def _window(way: Way, groups: Sequence[bytes], start: int) -> None:
    """Decode the groups that a window touches, the last one as far as needed."""
    stop = start + WINDOW
    for number in range(start // way.group, -(-stop // way.group)):
        way.decode(groups[number], min(way.group, stop - number * way.group))


def _in_threads(way: Way, groups: Sequence[bytes]) -> float:
    """Return frames a second of windows that several threads decode."""
    windows = 6 * THREADS
    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        before = time.perf_counter()
        list(pool.map(lambda _: _window(way, groups, 0), range(windows)))
        return windows * WINDOW / (time.perf_counter() - before)


def _ms(timing: Timing) -> str:
    return f"{1000 * timing.median:.2f}"


# -------------------------------------------------------------------------------------------------------------- scales


def _table_of_scales(frames: Frames, *, note: str, rounds: int) -> Table:
    """Compare a JPEG decoded at a half or a quarter with one decoded whole and averaged."""
    flags = {1: cv2.IMREAD_COLOR_RGB, 2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4}
    frames = frames[:WINDOW]
    encode = _jpeg("", 95, optimised=False).encode
    data = [np.frombuffer(encode(part), np.uint8) for part in _parts(frames, 1)]
    works = {scale: functools.partial(_decode_all, data, flag) for scale, flag in flags.items()}
    taken = {scale: timing.per(len(data)) for scale, timing in take_turns(works, rounds=rounds).items()}
    whole = _decode_all(data, flags[1])
    columns = ("decode ms", "/ whole", "dB to whole, averaged")
    caption = f"{note}, {len(data)} of them; medians a frame, one thread."
    table = new_table("(j) JPEG 95 decoded below its size", "size", columns, caption=caption)
    for scale in flags:
        found = _decode_all(data, flags[scale])
        channels = found[..., ::-1] if scale > 1 else found  # the flags of reduced sizes give BGR
        height, width = found[0].shape[:2]
        small = [cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA) for frame in whole]
        table.add_row(
            f"1/{scale}", _ms(taken[scale]), f"{ratio(taken[scale], taken[1]):.2f}",
            "-" if scale == 1 else f"{psnr(channels, np.stack(small)):.1f}",
        )  # fmt: skip
    return table


def _decode_all(data: Sequence[UInt8[np.ndarray, " n"]], flag: int) -> Frames:
    return np.stack([cv2.imdecode(one, flag) for one in data]).astype(np.uint8, copy=False)
