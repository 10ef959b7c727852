"""Shards back to frames: windows for training, whole clips for everything else.

`Clip.read` returns arrays in physical units. `read_window` unpacks into a caller's arrays what a device goes on from.
`Clip.frames` iterates over the members of frames, decoded on request. All compare what they read with
the CRC-32 of the record, and unpack of no member more than the metadata says.
"""

import functools
import hashlib
import io
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int8, Int64, Num, UInt8, UInt16

from vdaprep.errors import ShardError, UsageError
from vdaprep.shards import codec
from vdaprep.shards.canonical import contract
from vdaprep.shards.depth_codes import metres_of
from vdaprep.shards.metadata import ClipMeta, DepthSpec
from vdaprep.shards.names import FRAME_KINDS, member_name, record_name
from vdaprep.shards.records import ClipEntry, ShardRecord
from vdaprep.shards.tar import split_members
from vdaprep.storage.cache import CachedTar
from vdaprep.storage.limits import MAX_CLIP_BYTES, MAX_WINDOW_BYTES, check_window
from vdaprep.storage.paths import PIECE_BYTES, StoragePath, is_file, opened, read_bytes, read_range, size_of

_PIXEL_BYTES = 5  # of a decoded window: three colours, two bytes of a depth code


@dataclass(frozen=True, eq=False)
class Frames:
    """T decoded frames of a clip, in physical units."""

    frame_ids: Int64[np.ndarray, " t"]
    """Numbers of the frames in their trajectory."""
    rgb: UInt8[np.ndarray, "t h w 3"]
    """Grey levels."""
    depth_m: Float32[np.ndarray, "t h w"]
    """Metres along z; nan where unknown, as in clips without labels, inf for sky. Of kind `relative` no metres, but 1 /
    normalised disparity, from 1 at the clip's nearest pixel to inf at its farthest."""
    differences: Float32[np.ndarray, "t 3 dh dw"] | None
    """Grey levels, each frame minus the one read before it, averaged over `meta.diff.scale` pixels square. Stored ones
    have steps of `meta.diff.step`, and at stride 1 the first frame's is to the one before it in the trajectory; those
    of origin `decoded` are taken from `rgb`. Zero where `diff_valid` is false; None in a clip without."""
    diff_valid: Bool[np.ndarray, " t"]
    """Whether there is a difference of a frame: not of a trajectory's first, nor of the first of others that are not
    stored or have a stride above 1."""
    intrinsics: Float64[np.ndarray, "t 4"]
    """fx, fy, cx, cy in pixels of the stored size, pixel centres at integers; nan where the camera is not known."""
    camera_to_world: Float64[np.ndarray, "t 4 4"] | None
    """Poses: metres, OpenCV axes; None in a clip without."""

    def __len__(self) -> int:
        return len(self.frame_ids)


class VideoGroup:
    """A group of frames in one member, decoded once, when a frame of it is asked for.

    Args:
        data: The member.
        meta: Metadata of its clip.
        first: Number of its first frame in the clip.
        frames: Those that will be asked for, counted from its first.
        where: Shard, clip and frames, for errors.
    """

    def __init__(self, data: memoryview, meta: ClipMeta, *, first: int, frames: range, where: str) -> None:
        self._data = data
        self._meta = meta
        self._count = min(meta.rgb.group, meta.num_frames - first)
        self._frames = frames
        self._where = where

    def rgb(self, number: int) -> UInt8[np.ndarray, "h w 3"]:
        """Return one of `frames`; raises ShardError naming the group."""
        return self._rgb[number - self._frames.start]

    def unpack(self, out: Mapping[int, UInt8[np.ndarray, "rows columns"]]) -> None:
        """Decode without converting to RGB, as `codec.decode_planes`; raises as `rgb`."""
        codec.decode_planes(self._data, **self._facts, out=out)

    @functools.cached_property
    def _rgb(self) -> UInt8[np.ndarray, "t h w 3"]:
        return codec.decode_group(self._data, **self._facts, frames=self._frames)

    @property
    def _facts(self) -> dict[str, Any]:
        size = self._meta.height, self._meta.width
        return {"codec": self._meta.rgb.codec, "size": size, "count": self._count, "where": self._where}


@dataclass(frozen=True)
class StoredFrame:
    """A frame's members by kind (of FRAME_KINDS), decoded when asked."""

    key: str
    """Name of the clip."""
    index: int
    """Number of the frame in its clip, from 0."""
    meta: ClipMeta
    """Metadata of the clip."""
    members: Mapping[str, memoryview]
    """Encoded bytes by kind."""
    where: str
    """Shard, clip and frame, for errors."""
    group: VideoGroup | None = None
    """The group of video that holds the image; None of JPEG."""

    def rgb(self) -> UInt8[np.ndarray, "h w 3"]:
        """Decode the image; raises ShardError naming the frame, as the methods below do."""
        if self.group is not None:
            return self.group.rgb(self.index % self.meta.rgb.group)
        return codec.decode_rgb(self._get("rgb.jpg"), size=(self.meta.height, self.meta.width), where=self.where)

    @property
    def depth_spec(self) -> DepthSpec:
        """How the clip's depth is coded; raises ShardError for one that has none."""
        return labels_of(self.meta, where=self.where)

    def depth_bytes(self) -> UInt8[np.ndarray, " n"]:
        """Undo only the compression of the depth, as `codec.decompress_depth` does."""
        size = {"height": self.meta.height, "width": self.meta.width}
        return codec.decompress_depth(self._get("depth.zst"), self.depth_spec, **size, where=self.where)

    def depth_codes(self) -> UInt16[np.ndarray, "h w"]:
        """Decode the depth to codes."""
        size = {"height": self.meta.height, "width": self.meta.width}
        return codec.unpack_codes(self._get("depth.zst"), self.depth_spec, **size, where=self.where)

    def depth_m(self) -> Float32[np.ndarray, "h w"]:
        """Decode the depth to metres: nan unknown, as all of a clip without labels, inf sky.

        Of kind `relative` to 1 / normalised disparity.
        """
        if self.meta.depth is None:
            return np.full((self.meta.height, self.meta.width), np.nan, np.float32)
        return metres_of(self.depth_codes(), self.meta.depth)

    def diff_steps(self) -> Int8[np.ndarray, "3 dh dw"]:
        """Decode the difference to the frame before, in steps of `meta.diff.step` grey levels."""
        diff = self.meta.stored_diff
        if diff is None:
            raise ShardError(f"{self.where}: a difference in a clip whose metadata says that none is stored.")
        size = {"height": self.meta.height, "width": self.meta.width}
        return codec.decode_diff(self._get("diff.zst"), diff, **size, where=self.where)

    def decode(self, kind: str) -> np.ndarray:
        """Decode the member of a kind."""
        decoders = {"rgb.jpg": self.rgb, "rgb.mp4": self.rgb, "depth.zst": self.depth_m, "diff.zst": self.diff_steps}
        return decoders[kind]()

    def _get(self, kind: str) -> memoryview:
        try:
            return self.members[kind]
        except KeyError as error:
            name = member_name(self.key, self.index, kind)
            raise ShardError(f"{self.where}: has no member {name}; vdaprep repair makes it again.") from error


@dataclass(frozen=True)
class Clip:
    """A clip of a shard: consecutive frames of one trajectory, read by offset.

    Got from `open_shards(...).clips()`; nothing is read before `meta`, `read` or `frames` is used.
    """

    dataset: str
    """Name of the data set."""
    tar: StoragePath | CachedTar
    """The shard that holds it."""
    entry: ClipEntry
    """Its key, its place in the shard, its checksums."""
    evaluation_max_m: float = math.inf
    """Depth up to which predictions are evaluated, in metres."""

    @property
    def key(self) -> str:
        """Name of the clip, unique in its data set."""
        return self.entry.key

    @property
    def num_frames(self) -> int:
        """Frames that the clip has."""
        return self.entry.frames

    @property
    def meta(self) -> ClipMeta:
        """Metadata: trajectory, split, cameras, depth range; raises ShardError as `read` does."""
        return read_meta(self)

    def read(self, first: int = 0, count: int | None = None, *, stride: int = 1) -> Frames:
        """Read and decode frames `first`, `first + stride`, ..., with one read of the shard's bytes.

        Args:
            first: Number of the first frame in the clip, from 0.
            count: How many frames to return; None: all up to the clip's end.
            stride: Distance of frames; above 1, differences are summed over the frames between.

        Returns:
            `count` frames: RGB, depth in metres, differences in grey levels, cameras.

        Raises:
            UsageError: The clip does not have these frames.
            ShardError: The shard cannot be read, differs from its checksums or breaks the format.
        """
        frames = range(first, self.num_frames if count is None else first + (count - 1) * stride + 1, max(1, stride))
        if stride < 1 or not frames or frames[0] < 0 or frames[-1] >= self.num_frames:
            raise UsageError(
                f"clip {self.key}: has frames 0 to {self.num_frames - 1}; "
                f"first={first}, count={count}, stride={stride} asks for others."
            )
        meta = self.meta
        _check_memory(meta, len(frames), where=self.where, limit=MAX_CLIP_BYTES)
        stored = read_stored(self, frames[0], frames[-1] - frames[0] + 1, meta=meta)
        rgb = np.stack([frame.rgb() for frame in stored[::stride]])
        depth_m = np.stack([frame.depth_m() for frame in stored[::stride]])
        steps = None if meta.stored_diff is None else np.empty(_differences_shape(meta, len(frames)), np.float32)
        valid = _unpack_differences(stored, frames, meta=meta, out=steps)
        rows = list(frames)
        return Frames(
            frame_ids=np.array(meta.frame_ids, np.int64)[rows],
            rgb=rgb,
            depth_m=depth_m,
            differences=decoded_differences(rgb, meta) if steps is None else steps * _step_of(meta),
            diff_valid=valid,
            intrinsics=meta.intrinsics_of(rows),
            camera_to_world=None if meta.camera_to_world is None else np.array(meta.camera_to_world)[rows],
        )

    def frames(self, first: int = 0, count: int | None = None) -> Iterator[StoredFrame]:
        """Yield stored frames in order, read in pieces of PIECE_BYTES; raises as `read`."""
        meta = self.meta
        stop = self.num_frames if count is None else first + count
        while first < stop:
            several = self._frames_within(first, stop)
            yield from read_stored(self, first, several, meta=meta)
            first += several

    def _frames_within(self, first: int, stop: int) -> int:
        """Return how many frames from `first` on are read at once: one at least."""
        start = self.entry.frame_offsets[first]
        several = 1
        while first + several < stop and self.entry.frame_range(first, several + 1)[1] - start <= PIECE_BYTES:
            several += 1
        rest = (first + several) % self.meta.rgb.group  # a group that is cut in two would be read twice
        return several if first + several == stop or rest >= several else several - rest

    def read_range(self, start: int, stop: int) -> bytes:
        """Return the tar's bytes from `start` to `stop`, fewer only at its end, unchecked.

        Those of a cache are, and if they are wrong the shard is fetched once more. Raises ShardError, naming the tar
        and the clip, where they cannot be read: of a server, after several tries.
        """
        with contract(self.where):
            check_window(stop - start)
        try:
            if not isinstance(self.tar, CachedTar):
                return read_range(self.tar, start, stop)
            data = self.tar.read_range(start, stop)
            if self.entry.is_whole(data, start=start, stop=stop):
                return data
            self.tar.refetch()
            return self.tar.read_range(start, stop)
        except OSError as error:
            raise ShardError(f"{self.tar}: cannot be read for clip {self.key} ({error.strerror}).") from error

    @property
    def where(self) -> str:
        """Shard and clip, for errors."""
        return f"{self.tar}, clip {self.key}"


def labels_of(meta: ClipMeta, *, where: str) -> DepthSpec:
    """Return how a clip's depth is coded; raises ShardError for one without labels."""
    if meta.depth is None:
        raise ShardError(
            f"{where}: its frames have no depth, expected labels; vdatrain label makes those of a teacher, or convert "
            "the data set again with its depth maps."
        )
    return meta.depth


@functools.lru_cache(maxsize=256)
def read_meta(clip: Clip) -> ClipMeta:
    """Read a clip's metadata as `load_meta` does, once for the windows that follow.

    What is kept cannot grow stale: the clip's checksums are part of what it is looked up by.
    """
    return load_meta(clip)


def load_meta(clip: Clip) -> ClipMeta:
    """Read a clip's metadata; raises ShardError as `Clip.read` does."""
    data = clip.read_range(*clip.entry.meta_range())
    clip.entry.check_meta(data, where=str(clip.tar))
    name = member_name(clip.key, None, "json")
    found = next((member.data for member in split_members(data, where=clip.where) if member.name == name), None)
    if found is None:
        raise ShardError(f"{clip.where}: has no member {name}; vdaprep repair makes it again.")
    meta = ClipMeta.from_bytes(bytes(found), where=clip.where)
    if meta.num_frames != clip.num_frames:
        raise ShardError(
            f"{clip.where}: has metadata of {meta.num_frames} frames, its record says {clip.num_frames}; the shard is "
            "damaged: vdaprep repair makes it again."
        )
    return meta


def read_stored(clip: Clip, first: int, count: int, *, meta: ClipMeta) -> list[StoredFrame]:
    """Read consecutive frames' members, with one read, and compare their checksums.

    Of video the read begins with the first frame's group.
    """
    stop = first + count
    start = first - first % meta.rgb.group
    data = clip.read_range(*clip.entry.frame_range(start, stop - start))
    clip.entry.check_frames(data, first=start, count=stop - start, where=str(clip.tar))
    where = clip.where
    contents = {member.name: member.data for member in split_members(data, where=where)}
    groups = _groups_of(clip, meta, contents, wanted=range(first, stop))
    found: list[StoredFrame] = []
    for index in range(first, stop):
        names = {kind: member_name(clip.key, index, kind) for kind in FRAME_KINDS}
        members = {kind: contents[name] for kind, name in names.items() if name in contents}
        group = groups.get(index - index % meta.rgb.group)
        found.append(StoredFrame(clip.key, index, meta, members, f"{where}, frame {index}", group))
    return found


def _groups_of(
    clip: Clip, meta: ClipMeta, contents: Mapping[str, memoryview], *, wanted: range
) -> dict[int, VideoGroup]:
    """Return the groups of video that hold frames, by first frame; none of JPEG."""
    groups: dict[int, VideoGroup] = {}
    start = wanted.start - wanted.start % meta.rgb.group
    for first in range(start, wanted.stop, meta.rgb.group) if meta.rgb.codec != "jpeg" else ():
        name = member_name(clip.key, first, meta.rgb.kind)
        last = min(first + meta.rgb.group, clip.num_frames) - 1
        where = f"{clip.where}, frames {first} to {last}"
        if name not in contents:
            raise ShardError(f"{where}: has no member {name}; vdaprep repair makes it again.")
        frames = range(max(wanted.start - first, 0), min(last + 1, wanted.stop) - first)
        groups[first] = VideoGroup(contents[name], meta, first=first, frames=frames, where=where)
    return groups


# -------------------------------------------------------------------------------------------------------------- windows


Allocate = Callable[[str, tuple[int, ...], type[np.generic]], np.ndarray]
"""Gives `read_window` an array to write to: of a name, a shape and a type, with any content."""


def read_window(clip: Clip, frames: range, *, allocate: Allocate) -> Bool[np.ndarray, " t"]:
    """Unpack a window with one read; returns which differences are valid.

    What a device does faster is left to it. The arrays, which it asks for, are

        images        uint8 [t, h, w, 3], RGB of JPEGs; of video [t, rows, columns], as `codec.decode_planes` gives them
        depth         uint8 [t, n], what `codec.decompress_depth` gives of each frame, zeros behind the shorter ones
        differences   [t, 3, dh, dw] in steps of `meta.diff.step` grey levels, int8 or, at a stride above 1, int16,
                      which holds the sum of 258; not asked for unless differences are stored

    A frame's difference is the sum over the frames since the window's frame before it, and valid if all of those are;
    at a stride above 1 those of the first frame lie before the window and are not read: it is never valid. Raises
    ShardError, naming the shard and the clip, where the tar cannot be read, its bytes differ from their checksum, a
    member is missing or breaks the format, the clip has no labels, or the window takes too much memory.
    """
    meta, count = clip.meta, len(frames)
    depth = labels_of(meta, where=clip.where)
    _check_memory(meta, count, where=clip.where, limit=MAX_WINDOW_BYTES)
    stored = read_stored(clip, frames[0], frames[-1] - frames[0] + 1, meta=meta)
    shown = stored[:: frames.step]
    size = meta.height, meta.width
    images = allocate("images", (count, *((*size, 3) if meta.rgb.group == 1 else codec.planes_size(size))), np.uint8)
    _unpack_images(shown, images)
    _unpack_depth(shown, depth, allocate)
    if meta.stored_diff is None:
        return _unpack_differences(stored, frames, meta=meta, out=None)
    dtype = np.int8 if frames.step == 1 else np.int16
    steps = allocate("differences", _differences_shape(meta, count), dtype)
    return _unpack_differences(stored, frames, meta=meta, out=steps)


def _check_memory(meta: ClipMeta, num_frames: int, *, where: str, limit: int) -> None:
    size = _PIXEL_BYTES * num_frames * meta.height * meta.width
    if meta.stored_diff is not None:
        size += math.prod(_differences_shape(meta, num_frames))
    with contract(where):
        check_window(size, limit=limit)


def _unpack_images(frames: Sequence[StoredFrame], images: UInt8[np.ndarray, "t ..."]) -> None:
    for group, several in itertools.groupby(zip(images, frames, strict=True), key=lambda pair: pair[1].group):
        if group is None:
            for image, frame in several:
                image[...] = frame.rgb()
        else:
            group.unpack({frame.index % frame.meta.rgb.group: image for image, frame in several})


def _unpack_depth(frames: Sequence[StoredFrame], spec: DepthSpec, allocate: Allocate) -> None:
    meta = frames[0].meta
    if spec.packing in ("bytes", "nibbles"):
        size = codec.depth_bytes(spec, height=meta.height, width=meta.width)
        depth = allocate("depth", (len(frames), size), np.uint8)
        for row, frame in enumerate(frames):
            depth[row] = frame.depth_bytes()
        return
    unpacked = [frame.depth_bytes() for frame in frames]  # small, and each of its own size
    depth = allocate("depth", (len(frames), max(map(len, unpacked))), np.uint8)
    for row, one in zip(depth, unpacked, strict=True):
        row[: len(one)] = one
        row[len(one) :] = 0


def _differences_shape(meta: ClipMeta, num_frames: int) -> tuple[int, ...]:
    assert meta.stored_diff is not None
    return (num_frames, 3, *meta.stored_diff.size_of(meta.height, meta.width))


def _unpack_differences(
    stored: Sequence[StoredFrame], frames: range, *, meta: ClipMeta, out: Num[np.ndarray, "t 3 dh dw"] | None
) -> Bool[np.ndarray, " t"]:
    """Sum stored differences into `out`; returns which are valid, decoded ones too."""
    valid = np.zeros(len(frames), bool)
    if meta.diff is not None and meta.diff.origin == "decoded":
        valid[1:] = True
    if out is None:
        return valid
    for row, last in enumerate(frames):
        span = range(last - frames.step + 1, last + 1)
        valid[row] = span[0] >= frames[0] and all(meta.diff_valid[frame] for frame in span)
        out[row] = 0
        for frame in span if valid[row] else ():
            out[row] += stored[frame - frames[0]].diff_steps()
    return valid


def decoded_differences(rgb: UInt8[np.ndarray, "t h w 3"], meta: ClipMeta) -> Float32[np.ndarray, "t 3 dh dw"] | None:
    """Return the differences of decoded frames, in grey levels; None if not asked for."""
    if meta.diff is None or meta.diff.origin != "decoded":
        return None
    shrunk = np.stack([codec.shrink(frame, meta.diff) for frame in rgb]).transpose(0, 3, 1, 2)
    return np.diff(shrunk, axis=0, prepend=shrunk[:1])


def _step_of(meta: ClipMeta) -> np.float32:
    return np.float32(1 if meta.diff is None else meta.diff.step)


# --------------------------------------------------------------------------------------------------------- whole shards


def read_record(tar: StoragePath) -> ShardRecord:
    """Read the record beside a tar; raises ShardError if there is none or it is damaged."""
    return ShardRecord.from_bytes(record_bytes(tar), where=str(tar.with_name(record_name(tar.name))))


def record_bytes(tar: StoragePath) -> bytes:
    """Return what the record beside a tar holds; raises ShardError if there is none."""
    path = tar.with_name(record_name(tar.name))
    try:
        return read_bytes(path)
    except FileNotFoundError as error:
        raise ShardError(
            f"{tar}: has no record {path.name} beside it, so it was never finished; run convert again."
        ) from error


def check_tar(tar: StoragePath, record: ShardRecord) -> None:
    """Compare a tar with its record, size and SHA-256; raises ShardError if they differ."""
    check_size(tar, record)
    with opened(tar) as file:
        check_sum(TarPass(tar, file), record)


def check_size(tar: StoragePath, record: ShardRecord) -> None:
    """Compare a tar's size with its record; raises ShardError if it differs."""
    if not is_file(tar):
        raise ShardError(f"{tar}: is missing, though its record is there; run convert again.")
    size = size_of(tar)
    if size != record.tar_bytes:
        raise ShardError(f"{tar}: has {size} bytes, its record says {record.tar_bytes}; the shard is cut or damaged.")


class TarPass:
    """One pass through a tar, front to back, that hashes every byte."""

    def __init__(self, tar: StoragePath, file: io.BufferedReader) -> None:
        self.tar = tar
        self._file = file
        self._position = 0
        self._sha256 = hashlib.sha256()

    def read(self, start: int, stop: int) -> bytes:
        """Return bytes [start, stop), fewer at the tar's end; raises ShardError for passed ones."""
        if start < self._position:
            raise ShardError(f"{self.tar}: two clips of the record share byte {start}.")
        self.go_to(start)
        return self._take(stop - start)

    def go_to(self, offset: int) -> None:
        """Pass over what lies before an offset; nothing happens if it was passed already."""
        while self._position < offset and self._take(min(PIECE_BYTES, offset - self._position)):
            pass

    def sha256(self) -> str:
        """Read to the end; returns the SHA-256 of everything, in hexadecimal."""
        while self._take(PIECE_BYTES):
            pass
        return self._sha256.hexdigest()

    def _take(self, size: int) -> bytes:
        data = self._file.read(size)
        self._position += len(data)
        self._sha256.update(data)
        return data


def check_sum(reading: TarPass, record: ShardRecord) -> None:
    """Read a tar to its end and compare its SHA-256; raises ShardError if it differs."""
    if reading.sha256() != record.tar_sha256:
        raise ShardError(f"{reading.tar}: its SHA-256 is not the one in its record; the shard is damaged.")
