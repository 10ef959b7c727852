"""Read the frames of a video file, a folder of images or a shard, one after the other."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from av.error import FFmpegError
from jaxtyping import UInt8

from vdaprep.errors import DataError, UsageError
from vdaprep.shards.metadata import DiffSpec
from vdaprep.shards.names import record_name
from vdaprep.shards.reader import Clip
from vdaprep.shards.records import ShardRecord
from vdaprep.storage.paths import StoragePath, open_path, read_bytes
from vdatrain.data.sampler import Window, WindowShape
from vdatrain.data.samples import Sample, read_window

IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
DEFAULT_FPS = Fraction(24)  # of images and shards, which do not say
DEFAULT_DIFF = DiffSpec(scale=4, step=2)  # as `vdaprep convert` stores differences unless told otherwise


@dataclass(frozen=True)
class VideoFrame:
    """A frame and its number."""

    number: int
    """Successive frames have successive numbers; where frames are missing a number is left out."""
    rgb: UInt8[np.ndarray, "h w 3"]
    """Its pixels."""


@dataclass(frozen=True)
class Video:
    """A source of frames that can be read repeatedly, one frame in memory at a time."""

    frames: Callable[[], Iterator[VideoFrame]]
    """Starts at the first frame at each call; all frames have one size. Raises DataError where one cannot be read, has
    another size, or where there is none."""
    num_frames: int
    """What the container promises, 0 where it says nothing."""
    fps: Fraction = DEFAULT_FPS
    """Frames a second."""
    diff: DiffSpec = DEFAULT_DIFF
    """How differences between the frames are to be taken."""


def open_video(path: Path | str, *, trajectory: str | None = None) -> Video:
    """Open a video.

    Args:
        path: Anything that PyAV reads, a folder of images, or a shard (`.tar`), which may be behind a URL.
        trajectory: Which one, of a shard that has several.

    Returns:
        The video; its frames are read when they are asked for.

    Raises:
        DataError: There is nothing at `path`, or it is no video.
        ShardError: The shard is damaged or cannot be read.
        UsageError: The shard has several trajectories and `trajectory` is none of them, or a URL names no shard.
    """
    found = open_path(path)
    if found.suffix == ".tar":
        return _open_shard(found, trajectory)
    if trajectory is not None:
        raise UsageError(f"{found}: --trajectory chooses from a shard, which is a .tar file; leave it out here.")
    if not isinstance(found, Path):
        raise UsageError(f"{found}: of URLs only shards (.tar) are read; download it and give the file.")
    if found.is_dir():
        return _open_folder(found)
    if not found.is_file():
        raise DataError(f"{found}: there is no such video; give a video file, a folder of images or a shard.")
    return _open_file(found)


def _checked(frames: Iterator[tuple[str, VideoFrame]], *, where: str) -> Iterator[VideoFrame]:
    """Yield named frames; raises DataError at one of another size than the first, or if there is none."""
    size: tuple[int, ...] | None = None
    for name, frame in frames:
        found = frame.rgb.shape
        size = size or found
        if found != size:
            raise DataError(
                f"{name}: is {found[1]}x{found[0]} pixels, the frames before it are {size[1]}x{size[0]}; "
                "all must have one size."
            )
        yield frame
    if size is None:
        raise DataError(f"{where}: holds no frame of video that can be read.")


# ------------------------------------------------------------------------------------------------------------ folders


def _open_folder(folder: Path) -> Video:
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
    if not paths:
        raise DataError(f"{folder}: has no images; looked for files that end in {', '.join(IMAGE_SUFFIXES)}.")
    return Video(lambda: _checked(_read_images(paths), where=str(folder)), num_frames=len(paths))


def _read_images(paths: Sequence[Path]) -> Iterator[tuple[str, VideoFrame]]:
    for number, path in enumerate(paths):
        image = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR) if path.stat().st_size else None
        if image is None:
            raise DataError(f"{path}: is no image that can be read.")
        yield str(path), VideoFrame(number, cv2.cvtColor(image, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False))


# -------------------------------------------------------------------------------------------------------------- files


def _open_file(path: Path) -> Video:
    try:
        with av.open(path) as container:
            if not container.streams.video:
                raise DataError(f"{path}: has no video stream.")
            stream = container.streams.video[0]
            fps = stream.average_rate or DEFAULT_FPS
            seconds = 0 if container.duration is None else Fraction(container.duration, av.time_base)
            num_frames = stream.frames or round(seconds * fps)
    except (FFmpegError, OSError) as error:
        raise _unreadable(path, error) from error
    return Video(lambda: _checked(_decode(path), where=str(path)), num_frames=num_frames, fps=Fraction(fps))


def _decode(path: Path) -> Iterator[tuple[str, VideoFrame]]:
    try:
        with av.open(path) as container:
            container.streams.video[0].thread_type = "AUTO"
            for number, frame in enumerate(container.decode(video=0)):
                # A phone stores what its sensor sees and how far that is to be turned, counter-clockwise.
                rgb = np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90)
                yield f"{path}, frame {number}", VideoFrame(number, np.ascontiguousarray(rgb, dtype=np.uint8))
    except (FFmpegError, OSError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> DataError:
    reason = getattr(error, "strerror", None) or str(error)
    return DataError(f"{path}: cannot be read as a video ({reason}).")


# ------------------------------------------------------------------------------------------------------------- shards


def _open_shard(tar: StoragePath, trajectory: str | None) -> Video:
    record_path = tar.with_name(record_name(tar.name))
    try:
        data = read_bytes(record_path)
    except FileNotFoundError as error:
        raise DataError(
            f"{record_path}: is missing; a shard is read with the record that vdaprep wrote beside it."
        ) from error
    record = ShardRecord.from_bytes(data, where=str(record_path))
    found = by_trajectory([Clip("", tar, entry) for entry in record.clips])
    names = [name for _, name in found]
    if trajectory is None and len(names) == 1:
        trajectory = names[0]
    if trajectory not in names:
        asked = "choose one with --trajectory" if trajectory is None else f"--trajectory {trajectory} is not one"
        raise UsageError(f"{tar}: holds the trajectories {', '.join(names)}; {asked}.")
    clips = found["", trajectory]

    def frames() -> Iterator[tuple[str, VideoFrame]]:
        for number, sample in read_trajectory(clips):
            yield f"{tar}, clip {sample.key}", VideoFrame(number, sample.rgb[0].numpy())

    diff = clips[0].meta.diff or DEFAULT_DIFF
    return Video(
        lambda: _checked(frames(), where=str(tar)), num_frames=sum(clip.num_frames for clip in clips), diff=diff
    )


def by_trajectory(clips: Sequence[Clip]) -> dict[tuple[str, str], list[Clip]]:
    """Group clips by data set and trajectory, both sorted, the clips of each in the order of their frames."""
    found: defaultdict[tuple[str, str], list[tuple[int, Clip]]] = defaultdict(list)
    for clip in clips:
        meta = clip.meta
        found[clip.dataset, meta.trajectory].append((meta.frame_ids[0], clip))
    return {key: [clip for _, clip in sorted(items, key=lambda item: item[0])] for key, items in sorted(found.items())}


def read_trajectory(clips: Sequence[Clip]) -> Iterator[tuple[int, Sample]]:
    """Yield each frame of the clips as a window of one, with its number; a number is left out where frames are."""
    number = -1
    for clip in clips:
        meta = clip.meta
        for first in range(clip.num_frames):
            gap = meta.diff is not None and not meta.diff_valid[first]
            number += 2 if gap else 1
            yield number, read_window(clip, Window(position=0, clip=0, first=first, shape=WindowShape(1)))
