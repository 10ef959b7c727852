"""What waits for labels: trajectories of shards, photographs, videos.

    a folder of shards, or its URL     clips without depth; images, cameras and differences are taken over
    a folder of images                 each image is one of its own
    a video                            clips of at most `CLIP_FRAMES` frames

The frames of an item are labelled together.
"""

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import UInt8

from vdaprep.errors import DataError
from vdaprep.shards import codec
from vdaprep.shards.dataset import ShardCollection, open_shards
from vdaprep.shards.metadata import ClipMeta, DiffSpec
from vdaprep.shards.names import DATASET_FILE, clip_key
from vdaprep.shards.reader import Clip
from vdaprep.storage.documents import path_problem
from vdaprep.storage.paths import open_path
from vdatrain.inference.image_folder import IMAGE_SUFFIXES, images_of
from vdatrain.inference.video import DEFAULT_DIFF, Remarks, Video, VideoFrame
from vdatrain.inference.video_reader import by_trajectory, open_video

CLIP_FRAMES = 64
"""Frames of a clip cut from a video, at most."""
JPEG_QUALITY = 95
_DECODED = replace(DEFAULT_DIFF, origin="decoded")
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass(frozen=True)
class Piece:
    """A frame that waits for its label."""

    frame: VideoFrame
    """Its number and image; those that follow one another have successive numbers."""
    members: tuple[tuple[str, bytes], ...]
    """Its members of a shard but depth, by kind."""
    clip: tuple[str, ClipMeta]
    """Key and metadata of its clip, without depth; where no shard says them, as of this frame alone."""


@dataclass(frozen=True)
class Item:
    """Frames that are labelled together: a photograph, or all clips of a video."""

    dataset: str
    """Name of the data set."""
    split: str
    """Name of the split."""
    trajectory: str
    """Name of the trajectory."""
    num_frames: int
    """Frames that it should have; 1 of a photograph, 0 where a video does not say."""
    digest: str
    """What tells its content apart from others, cheaply."""
    pieces: Callable[[], Iterator[Piece]] = field(repr=False)
    """Reads the frames."""
    diff: DiffSpec | None = _DECODED
    """How differences between the frames are stored or taken; None without."""
    rgb: str = f"jpeg:{JPEG_QUALITY}"
    """How the frames are stored, as options of a conversion say it."""
    source: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """What is known of the data set: its title, its licence."""


def items_of(place: str, *, name: str, split: str, short_side: int) -> list[Item]:
    """List what waits for labels at a place.

    Args:
        place: Shards, a folder of images, or a video.
        name: Name of the data set that images and videos become.
        split: Their split.
        short_side: Pixels that their larger frames are scaled down to.

    Raises:
        DataError: There is nothing, it cannot be read, or shards have labels already.
    """
    path = open_path(place)
    if not isinstance(path, Path) or path.suffix == ".tar" or _has_shards(path):
        return _items_of_shards(place)
    source = {"title": path.name, "licence": ""}
    files = images_of(path, Remarks(place)) if path.is_dir() else [path]
    found: list[Item] = []
    for file in files:
        if not file.is_file():
            raise DataError(f"{file}: there is no such file; give shards, a folder of images, or a video.")
        trajectory = file.name if len(files) == 1 else f"{path.name}/{file.name}"
        trajectory = trajectory if path_problem(trajectory) is None else f"named-{_digest(file.name)[:16]}"
        single = file.suffix.lower() in IMAGE_SUFFIXES
        reader = _FileReader(file, name, split, trajectory, short_side)
        count = 1 if single else open_video(file).num_frames
        digest = _digest(file.name, file.stat().st_size, short_side)
        found.append(Item(name, split, trajectory, count, digest, reader, source=source))
    return found


def _has_shards(path: Path) -> bool:
    return any(next(path.glob(pattern), None) for pattern in (DATASET_FILE, f"*/{DATASET_FILE}", "shard-*.tar"))


def _digest(*content: object) -> str:
    return hashlib.sha256(repr(content).encode()).hexdigest()


# ------------------------------------------------------------------------------------------------------------- shards


def _items_of_shards(place: str) -> list[Item]:
    shards = open_shards(place)
    return [item for split in shards.splits for item in _items_of_split(place, shards, split)]


def _items_of_split(place: str, shards: ShardCollection, split: str) -> Iterator[Item]:
    for (dataset, trajectory), clips in by_trajectory(shards.clips(split=split)).items():
        for clip in clips:
            if clip.meta.depth is not None:
                raise DataError(
                    f"{place}: clip {clip.key} has labels already, of kind {clip.meta.depth.kind}; vdatrain label is "
                    "for frames without, as `vdaprep convert images` makes them."
                )
        digest = _digest([(clip.key, clip.entry.crc32) for clip in clips])
        count = sum(clip.num_frames for clip in clips)
        record = shards.records.get(dataset)
        yield Item(
            dataset, split, trajectory, count, digest, _ClipReader(clips), clips[0].meta.diff,
            rgb=f"jpeg:{JPEG_QUALITY}" if record is None else str(record.options.get("rgb", f"jpeg:{JPEG_QUALITY}")),
            source={} if record is None else record.source,
        )  # fmt: skip


@dataclass(frozen=True)
class _ClipReader:
    """Reads the clips of a trajectory; images stay the bytes that they are."""

    clips: Sequence[Clip]

    def __call__(self) -> Iterator[Piece]:
        number = -1
        for clip in self.clips:
            meta = clip.meta
            for stored in clip.frames():
                number += 1 if meta.diff_valid[stored.index] or meta.diff is None else 2
                members = tuple((kind, bytes(data)) for kind, data in stored.members.items())
                yield Piece(VideoFrame(number, stored.rgb()), members, (clip.key, meta))


# -------------------------------------------------------------------------------------------------- images and videos


@dataclass(frozen=True)
class _FileReader:
    """Reads an image or a video."""

    file: Path
    dataset: str
    split: str
    trajectory: str
    short_side: int

    def __call__(self) -> Iterator[Piece]:
        video: Video = open_video(self.file)
        first, before = 0, -2
        for frame in video.frames():
            rgb = _scaled_down(frame.rgb, self.short_side)
            follows = frame.number == before + 1
            if not follows or frame.number - first >= CLIP_FRAMES:
                first = frame.number
            before = frame.number
            meta = self._meta(frame.number, rgb, follows=follows)
            members = (("rgb.jpg", codec.encode_rgb(rgb, quality=JPEG_QUALITY)),)
            yield Piece(replace(frame, rgb=rgb), members, (clip_key(self.dataset, self.trajectory, first), meta))

    def _meta(self, number: int, rgb: UInt8[np.ndarray, "h w 3"], *, follows: bool) -> ClipMeta:
        return ClipMeta(
            dataset=self.dataset,
            split=self.split,
            trajectory=self.trajectory,
            frame_ids=(number,),
            height=rgb.shape[0],
            width=rgb.shape[1],
            intrinsics=None,
            camera_to_world=None,
            depth=None,
            disparity_min=0.0,
            disparity_max=0.0,
            diff=_DECODED,
            diff_valid=(follows,),
            source={"layout": "label"},
        )


def _scaled_down(rgb: UInt8[np.ndarray, "_h _w 3"], short_side: int) -> UInt8[np.ndarray, "h w 3"]:
    """Average an image down to a short side; it is never scaled up."""
    height, width = rgb.shape[:2]
    least = min(height, width)
    if least <= short_side:
        return rgb
    size = round(width * short_side / least), round(height * short_side / least)
    return cv2.resize(rgb, size, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
