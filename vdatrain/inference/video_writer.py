"""Disparity maps to a file: a coloured video, a folder of 16-bit images or an array."""

import contextlib
import json
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import cv2
import numpy as np
from av.error import FFmpegError
from jaxtyping import Float32, UInt8
from numpy.lib import format as npy

from vdaprep.errors import DataError, UsageError
from vdaprep.shards.pictures.depth_colors import near_is_bright
from vdaprep.storage import atomic
from vdaprep.storage.atomic import as_sentence, new_file, new_path

DISPARITY_FILE = "disparity.json"
DEPTH_FILE = "depth.json"

_STEPS = 65535
_EXTENSIONS = {".mp4": np.float16, ".npz": np.float32, "": np.float32}  # colours have eight bits: half floats will do
_FINE = Fraction(1, 90_000)  # seconds: the clock of MPEG, for times that are no multiples of the video's own
_LATEST_START = 60  # seconds: a film that begins later does so by the clock of a recorder, not with a pause


@dataclass(frozen=True)
class Timeline:
    """When the frames of an output are shown."""

    seconds: Sequence[Fraction]
    """Of each frame; they grow."""
    fps: Fraction
    """Frames a second, on average."""
    time_base: Fraction
    """Seconds of which the times are multiples, if they are."""

    def ticks(self) -> tuple[list[int], Fraction]:
        """Return a film's times as growing multiples of a unit, and the unit in seconds."""
        first = self.seconds[0] if self.seconds else Fraction(0)
        start = Fraction(0) if 0 <= first <= _LATEST_START else first
        shown = [time - start for time in self.seconds]
        unit = self.time_base if all((time / self.time_base).denominator == 1 for time in shown) else _FINE
        ticks: list[int] = []
        for time in shown:
            ticks.append(max(round(time / unit), ticks[-1] + 1 if ticks else 0))
        return ticks, unit


def check_output(path: Path, *, side_by_side: bool = False, inputs: Iterable[object] = ()) -> None:
    """Check that an output can be written: `.mp4`, `.npz` or a new folder.

    Args:
        path: Where it is to be.
        side_by_side: Whether the video is to be shown beside it.
        inputs: What it must not be.

    Raises:
        UsageError: The name is none of an output's, or a folder with something in it.
        OutputError: It cannot be written there, or is an input.
    """
    if str(path) == "-":
        raise UsageError("--out -: nothing is written to standard output; give a file (.mp4, .npz) or a folder.")
    if _kind(path) not in _EXTENSIONS:
        raise UsageError(f"--out {path}: {path.suffix} is not known; expected .mp4, .npz or a folder.")
    if side_by_side and _kind(path) != ".mp4":
        raise UsageError(f"--side-by-side shows the video beside its disparity, --out {path} is no .mp4.")
    if _kind(path):
        atomic.check_output(path, inputs=inputs)
        return
    atomic.check_output_folder(path, inputs=inputs)
    if path.is_dir() and any(path.iterdir()):
        raise UsageError(f"--out {path}: is a folder with something in it; give a new one.")


def _kind(path: Path) -> str:
    return path.suffix.lower()


class DisparityFile:
    """A temporary file of maps, written as the output once their whole range is known.

    It is made beside the output, takes two (for a video) or four bytes a pixel, and has no name: it disappears when it
    is closed or the program is killed.

    Args:
        out: The output.
        metric: Whether disparity is 1/m, so that depth is written as metres.
        remedy: What to do if a map is not finite.

    Attributes:
        count: Maps so far.
        lowest, highest: Of all values so far.
    """

    def __init__(self, out: Path, *, metric: bool = False, remedy: str = "see how it was trained") -> None:
        self._out, self._remedy = out, remedy
        with as_sentence(out):
            out.parent.mkdir(parents=True, exist_ok=True)
            self._file = tempfile.TemporaryFile(dir=out.parent)  # noqa: SIM115 - closed by close
        self._dtype = np.dtype(_EXTENSIONS[_kind(out)])
        self._shape: tuple[int, ...] = (0, 0)
        self.metric = metric
        self.count = 0
        self.lowest, self.highest = np.inf, 0.0

    def __enter__(self) -> "DisparityFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):  # what was not written on a full disk is not needed any more
            self._file.close()

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self._shape[0], self._shape[1]

    def append(self, disparity: Float32[np.ndarray, "h w"]) -> None:
        """Add the next frame's map; raises DataError if it is not finite, OutputError if full."""
        lowest, highest = float(disparity.min()), float(disparity.max())
        if not np.isfinite(lowest + highest):
            raise DataError(f"frame {self.count}: the model gives nan or infinity; {self._remedy}.")
        self.lowest, self.highest = min(self.lowest, lowest), max(self.highest, highest)
        self._shape, self.count = disparity.shape, self.count + 1
        with as_sentence(self._out):
            self._file.write(np.ascontiguousarray(disparity, dtype=self._dtype).data)

    def __iter__(self) -> Iterator[Float32[np.ndarray, "h w"]]:
        """Read the maps back, from the first one on."""
        with as_sentence(self._out):
            self._file.seek(0)  # also writes what is still in memory
        for _ in range(self.count):
            data = self._file.read(self._dtype.itemsize * self.size[0] * self.size[1])
            yield np.frombuffer(data, self._dtype).reshape(self._shape).astype(np.float32)


def write_output(
    path: Path, maps: DisparityFile, timeline: Timeline, *, beside: Iterable[UInt8[np.ndarray, "h w 3"]] | None = None
) -> None:
    """Write the kind of output that `path` names, complete or not at all.

    Args:
        path: Where.
        maps: The disparity of all frames.
        timeline: Their times.
        beside: Frames to show to the left of a video's maps.

    Raises:
        OutputError: It cannot be written.
    """
    match _kind(path):
        case ".npz":
            _write_array(path, maps, timeline)
        case ".mp4":
            _write_video(path, _pictures(maps, beside), timeline)
        case _:
            _write_folder(path, maps, timeline)


# ------------------------------------------------------------------------------------------------------- array, images


def depth_of(disparity: Float32[np.ndarray, "*shape"]) -> Float32[np.ndarray, "*shape"]:
    """Return metres of 1/m; no disparity is infinitely far."""
    with np.errstate(divide="ignore"):
        return np.float32(1) / disparity


def _write_array(path: Path, maps: DisparityFile, timeline: Timeline) -> None:
    """Write `.npz`: `disparity` or `depth_m` [T,H,W] float32, `seconds` [T] float64."""
    name = "depth_m" if maps.metric else "disparity"
    with new_file(path) as file, zipfile.ZipFile(file, "w") as archive:
        with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
            head = {"descr": "<f4", "fortran_order": False, "shape": (maps.count, *maps.size)}
            npy.write_array_header_1_0(member, head)
            for disparity in maps:
                values = depth_of(disparity) if maps.metric else disparity
                member.write(values.astype("<f4", copy=False).tobytes())
        with archive.open("seconds.npy", "w") as member:
            npy.write_array(member, np.array([float(time) for time in timeline.seconds], "<f8"))


def _write_folder(folder: Path, maps: DisparityFile, timeline: Timeline) -> None:
    """Write a 16-bit PNG a frame, 65535 the nearest of all; a JSON file says how to undo it."""
    scale = maps.highest / _STEPS
    facts: dict[str, object] = {"disparity": "scale * value", "scale": scale, "frames": maps.count}
    if maps.metric:
        facts = {"depth_m": "1 / (scale * value)", "scale": scale, "frames": maps.count}
    with new_path(folder) as temporary:
        temporary.mkdir()
        for number, disparity in enumerate(maps):
            steps = np.rint(disparity / np.float32(scale or 1)).clip(0, _STEPS).astype(np.uint16)
            _, data = cv2.imencode(".png", steps)
            (temporary / f"{number:06d}.png").write_bytes(data.tobytes())
        facts["seconds"] = [float(time) for time in timeline.seconds]
        name = DEPTH_FILE if maps.metric else DISPARITY_FILE
        (temporary / name).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


# -------------------------------------------------------------------------------------------------------------- video


def _pictures(
    maps: DisparityFile, beside: Iterable[UInt8[np.ndarray, "h w 3"]] | None
) -> Iterator[UInt8[np.ndarray, "h width 3"]]:
    """Colour the maps over the range of the whole video, near is bright."""
    spread = maps.highest - maps.lowest or 1.0
    frames = iter(beside) if beside is not None else None
    for disparity in maps:
        grey = (255 * (disparity - maps.lowest) / spread).round().clip(0, 255).astype(np.uint8)
        picture = near_is_bright(grey)
        yield picture if frames is None else np.concatenate([next(frames), picture], axis=1)


def _write_video(path: Path, pictures: Iterator[UInt8[np.ndarray, "h w 3"]], timeline: Timeline) -> None:
    """Write H.264, each picture at its time; an odd side repeats its last row or column."""
    ticks, unit = timeline.ticks()
    lasting = [*(after - before for before, after in pairwise(ticks)), max(1, round(1 / (timeline.fps * unit)))]
    try:
        with new_file(path) as file, av.open(file, "w", format="mp4") as container:
            stream: Any = None
            for picture, tick, duration in zip(pictures, ticks, lasting, strict=True):
                height, width = picture.shape[:2]
                even = np.pad(picture, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
                if stream is None:
                    # Frames are stored in the order in which they are shown, so that no edit list moves their times.
                    options = {"bf": "0"}
                    stream = container.add_stream(
                        "libx264", rate=timeline.fps.limit_denominator(65_535), options=options
                    )
                    stream.height, stream.width, stream.pix_fmt = *even.shape[:2], "yuv420p"
                    stream.codec_context.time_base = unit
                frame = av.VideoFrame.from_ndarray(even, format="rgb24")
                frame.pts, frame.time_base, frame.duration = tick, unit, duration
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
    except FFmpegError as error:
        with as_sentence(path):
            raise OSError(error.errno, error.strerror) from error
