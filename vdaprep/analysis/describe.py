"""What a shard holds: clips, sizes by kind, shapes, value ranges, a depth histogram."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from vdaprep.errors import ShardError, UsageError
from vdaprep.shards import reader
from vdaprep.shards.metadata import ClipMeta
from vdaprep.shards.names import FRAME_KINDS
from vdaprep.shards.reader import Clip
from vdaprep.shards.records import ShardRecord
from vdaprep.storage.paths import StoragePath, is_file

_BINS = 12


@dataclass
class KindFacts:
    """Count, bytes, shape, type and range of values of one kind of member."""

    unit: str
    """What the values are in: m, steps or nothing."""
    count: int = 0
    """Members."""
    bytes: int = 0
    """Of all of them."""
    shape: str = ""
    """Of each as an array, for example 540x960x3; `various` if they differ."""
    dtype: str = ""
    """Of the array."""
    minimum: float | None = None
    """The least value; nan and infinity count for none."""
    maximum: float | None = None
    """The greatest value."""

    def add(self, size: int, values: np.ndarray | None) -> None:
        """Count a member of `size` bytes that decodes to `values`, whose finite ones have a range."""
        self.count += 1
        self.bytes += size
        if values is None:
            return
        shape = "x".join(map(str, values.shape))
        self.shape = shape if self.shape in ("", shape) else "various"
        self.dtype = str(values.dtype)
        for part in values:  # the rows of an image, one at a time: a mask of it and what it leaves take as much again
            known = part[np.isfinite(part)] if values.dtype.kind == "f" else part
            if known.size:
                low, high = float(known.min()), float(known.max())
                self.minimum = low if self.minimum is None else min(self.minimum, low)
                self.maximum = high if self.maximum is None else max(self.maximum, high)


def _kinds() -> dict[str, KindFacts]:
    units = {"depth.zst": "m", "diff.zst": "steps"}
    return {kind: KindFacts(units.get(kind, "")) for kind in ("json", *FRAME_KINDS)}


@dataclass
class DepthHistogram:
    """Pixels of one clip by depth, or by the normalised disparity of a teacher."""

    clip: str
    """The clip's key."""
    edges_m: list[float] = field(default_factory=list[float])
    """Edges of the bins, even in log depth: one more than bins. Of kind `relative` even in disparity, 0 to 1."""
    counts: list[int] = field(default_factory=list[int])
    """Pixels from an edge to the next."""
    unknown: int = 0
    """Pixels whose depth is not known."""
    sky: int = 0
    """Pixels that are sky."""
    is_metric: bool = True
    """Whether the edges are metres."""

    def add(self, depth_m: np.ndarray, meta: ClipMeta) -> None:
        """Count the pixels of a frame of the clip `meta`."""
        if not self.edges_m and not meta.is_metric:
            self.edges_m, self.counts = np.linspace(0, 1, _BINS + 1).tolist(), [0] * _BINS
            self.is_metric = False
        if not self.edges_m:
            low, high = meta.disparity_min or 1e-3, meta.disparity_max or 1.0
            self.edges_m = np.geomspace(0.999 / high, max(1.001 / low, 1.01 / high), _BINS + 1).tolist()
            self.counts = [0] * _BINS
        for row in depth_m:
            self.unknown += int(np.isnan(row).sum())
            values = row if self.is_metric else 1 / row  # a disparity of 0 is inf
            self.sky += int(np.isinf(values).sum())
            found, _ = np.histogram(values[np.isfinite(values)], self.edges_m)
            self.counts = [a + int(b) for a, b in zip(self.counts, found, strict=True)]


@dataclass
class ShardReport:
    """The facts about a shard."""

    shard: str
    """Where the tar lies."""
    bytes: int
    """Of the tar."""
    sha256: str
    """Of the tar, equal to its record's."""
    frames: int
    """Of all clips."""
    clips: list[dict[str, Any]]
    """Metadata of the clips that were read, frames and poses left out."""
    kinds: dict[str, KindFacts]
    """What was found of each kind of member."""
    depth: DepthHistogram
    """Depth of one clip."""
    rejected: int
    """Frames that could not be used."""
    clamped_near: int
    """Pixels nearer than the depth code reaches."""

    def to_json(self) -> dict[str, Any]:
        """Return the facts as JSON has them."""
        return {"state": "whole: size and SHA-256 are those of the record", **asdict(self)}


def open_shard(tar: StoragePath) -> ShardRecord:
    """Read a shard's record and compare the tar with it; raises ShardError if they differ."""
    if not is_file(tar):
        raise ShardError(f"{tar}: there is no such shard; vdaprep convert makes them.")
    record = reader.read_record(tar)
    reader.check_tar(tar, record)
    return record


def choose_clips(tar: StoragePath, record: ShardRecord, *, key: str | None = None) -> list[Clip]:
    """Return all clips, or the one called `key`; raises UsageError if there is none."""
    clips = [Clip("", tar, entry) for entry in record.clips if key is None or entry.key == key]
    if not clips:
        names = ", ".join(clip.key for clip in record.clips[:5]) or "none"
        raise UsageError(f"{tar}: has no clip {key or ''}; its clips are {names}{' ...' * (len(record.clips) > 5)}.")
    return clips


def examine(
    tar: StoragePath, record: ShardRecord, clips: Sequence[Clip], *, on_frame: Callable[[], None]
) -> ShardReport:
    """Decode every member of `clips` and gather the facts; raises ShardError if one is damaged."""
    kinds = _kinds()
    histogram = DepthHistogram(clips[0].key)
    metas: list[dict[str, Any]] = []
    for clip in clips:
        metas.append(_short(clip))
        kinds["json"].add(len(clip.meta.to_bytes()), None)
        for frame in clip.frames():
            for kind, data in frame.members.items():
                values = frame.decode(kind)
                if kind == "depth.zst" and not clip.meta.is_metric:
                    kinds[kind].unit = "1 / disparity"
                kinds[kind].add(len(data), values)
                if kind == "depth.zst" and clip is clips[0]:
                    histogram.add(values, clip.meta)
            on_frame()
    return ShardReport(
        shard=str(tar),
        bytes=record.tar_bytes,
        sha256=record.tar_sha256,
        frames=sum(clip.num_frames for clip in clips),
        clips=metas,
        kinds={kind: facts for kind, facts in kinds.items() if facts.count},
        depth=histogram,
        rejected=len(record.rejected),
        clamped_near=record.clamped_near,
    )


def _short(clip: Clip) -> dict[str, Any]:
    meta = clip.meta
    poses = None if meta.camera_to_world is None else np.array(meta.camera_to_world)[:, :3, 3]
    path_m = None if poses is None else float(np.linalg.norm(np.diff(poses, axis=0), axis=1).sum())
    return {
        "key": clip.key,
        "trajectory": meta.trajectory,
        "split": meta.split,
        "frames": clip.num_frames,
        "first_frame": meta.frame_ids[0],
        "width": meta.width,
        "height": meta.height,
        "bytes": clip.entry.bytes,
        "intrinsics": None if meta.intrinsics is None else list(meta.intrinsics[0]),
        "path_m": path_m,
        "depth": None if meta.depth is None else meta.depth.to_json(),
        "disparity_min": meta.disparity_min,
        "disparity_max": meta.disparity_max,
        "teacher_disparity": meta.teacher_disparity,
        "diff_valid": sum(meta.diff_valid),
    }
