"""Disparity maps to a file: a coloured video, a folder of 16-bit images or an array."""

import io
import json
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import cv2
import numpy as np
from jaxtyping import Float32, UInt8
from numpy.lib import format as npy

from vdaprep.errors import DataError, UsageError
from vdaprep.storage.atomic import new_file, new_path

SCALE_FILE = "disparity.json"
_STEPS = 65535
_EXTENSIONS = {".mp4": np.float16, ".npz": np.float32, "": np.float32}  # colours have eight bits: half floats will do


def check_output(path: Path, *, side_by_side: bool = False) -> None:
    """Raise UsageError unless `path` is one that can be written: `.mp4`, `.npz` or a new folder."""
    if _kind(path) not in _EXTENSIONS:
        raise UsageError(f"--out {path}: {path.suffix} is not known; expected .mp4, .npz or a folder.")
    if not _kind(path) and path.is_dir() and any(path.iterdir()):
        raise UsageError(f"--out {path}: is a folder with something in it; give a new one.")
    if _kind(path) and path.is_dir():
        raise UsageError(f"--out {path}: is a folder; give a file or a folder without {path.suffix}.")
    if side_by_side and _kind(path) != ".mp4":
        raise UsageError(f"--side-by-side shows the video beside its disparity, --out {path} is no .mp4.")


def _kind(path: Path) -> str:
    return path.suffix.lower()


class DisparityFile:
    """A temporary file of disparity maps, to be written as the output once the range of all of them is known.

    It is made beside the output, takes two (for a video) or four bytes a pixel, and has no name: it disappears when it
    is closed or the program is killed.

    Attributes:
        count: Maps so far.
        lowest, highest: Of all values so far.
    """

    def __init__(self, out: Path) -> None:
        out.parent.mkdir(parents=True, exist_ok=True)
        self._file = tempfile.TemporaryFile(dir=out.parent)  # noqa: SIM115 - closed by close
        self._dtype = np.dtype(_EXTENSIONS[_kind(out)])
        self._shape: tuple[int, ...] = (0, 0)
        self.count = 0
        self.lowest, self.highest = np.inf, 0.0

    def __enter__(self) -> "DisparityFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self._shape[0], self._shape[1]

    def append(self, disparity: Float32[np.ndarray, "h w"]) -> None:
        """Add the next frame's map; raises DataError if it holds anything that is not finite."""
        lowest, highest = float(disparity.min()), float(disparity.max())
        if not np.isfinite(lowest + highest):
            raise DataError(f"frame {self.count}: the model gives nan or infinity; try --precision fp32.")
        self.lowest, self.highest = min(self.lowest, lowest), max(self.highest, highest)
        self._shape, self.count = disparity.shape, self.count + 1
        self._file.write(np.ascontiguousarray(disparity, dtype=self._dtype).data)

    def __iter__(self) -> Iterator[Float32[np.ndarray, "h w"]]:
        """Read the maps back, from the first one on."""
        self._file.seek(0)
        for _ in range(self.count):
            data = self._file.read(self._dtype.itemsize * self.size[0] * self.size[1])
            yield np.frombuffer(data, self._dtype).reshape(self._shape).astype(np.float32)


def write_output(
    path: Path, maps: DisparityFile, *, fps: Fraction, beside: Iterable[UInt8[np.ndarray, "h w 3"]] | None
) -> None:
    """Write the kind of output that `path` names, complete or not at all.

    beside: frames to show to the left of a video's maps.
    """
    match _kind(path):
        case ".npz":
            _write_array(path, maps)
        case ".mp4":
            _write_video(path, _pictures(maps, beside), fps=fps)
        case _:
            _write_folder(path, maps)


# ------------------------------------------------------------------------------------------------------- array, images


def _write_array(path: Path, maps: DisparityFile) -> None:
    """Write an `.npz` that holds `disparity` [T,H,W], float32."""
    head = io.BytesIO()
    shape = (maps.count, *maps.size)
    npy.write_array_header_1_0(head, {"descr": "<f4", "fortran_order": False, "shape": shape})
    with (
        new_file(path) as file,
        zipfile.ZipFile(file, "w") as archive,
        archive.open("disparity.npy", "w", force_zip64=True) as member,
    ):
        member.write(head.getvalue())
        for disparity in maps:
            member.write(disparity.astype("<f4", copy=False).tobytes())


def _write_folder(folder: Path, maps: DisparityFile) -> None:
    """Write one 16-bit PNG a frame, 65535 the nearest of the whole video; SCALE_FILE says how to undo it."""
    scale = maps.highest / _STEPS
    with new_path(folder) as temporary:
        temporary.mkdir()
        for number, disparity in enumerate(maps):
            steps = np.rint(disparity / np.float32(scale or 1)).clip(0, _STEPS).astype(np.uint16)
            _, data = cv2.imencode(".png", steps)
            (temporary / f"{number:06d}.png").write_bytes(data.tobytes())
        facts = {"disparity": "scale * value", "scale": scale, "frames": maps.count}
        (temporary / SCALE_FILE).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


# -------------------------------------------------------------------------------------------------------------- video


def _pictures(
    maps: DisparityFile, beside: Iterable[UInt8[np.ndarray, "h w 3"]] | None
) -> Iterator[UInt8[np.ndarray, "h width 3"]]:
    """Colour the maps over the range of the whole video, near is bright."""
    spread = maps.highest - maps.lowest or 1.0
    frames = iter(beside) if beside is not None else None
    for disparity in maps:
        grey = (255 * (disparity - maps.lowest) / spread).round().clip(0, 255).astype(np.uint8)
        picture = cv2.cvtColor(cv2.applyColorMap(grey, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)
        picture = picture.astype(np.uint8, copy=False)
        yield picture if frames is None else np.concatenate([next(frames), picture], axis=1)


def _write_video(path: Path, pictures: Iterator[UInt8[np.ndarray, "h w 3"]], *, fps: Fraction) -> None:
    """Write H.264, whose sides are even: an odd one repeats its last row or column."""
    with new_file(path) as file, av.open(file, "w", format="mp4") as container:
        stream: Any = None
        for picture in pictures:
            height, width = picture.shape[:2]
            even = np.pad(picture, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
            if stream is None:
                stream = container.add_stream("libx264", rate=fps.limit_denominator(65_535))
                stream.height, stream.width, stream.pix_fmt = *even.shape[:2], "yuv420p"
            container.mux(stream.encode(av.VideoFrame.from_ndarray(even, format="rgb24")))
        container.mux(stream.encode())
