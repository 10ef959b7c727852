"""Shards back to frames: windows for training, whole clips for everything else.

`Clip.read` returns arrays in physical units. `read_window` unpacks into a caller's arrays and leaves depth as byte
planes, for a device to go on from. `Clip.frames` iterates over the members of frames, decoded on request. All compare
what they read with the CRC-32 of the record, and unpack of no member more than the metadata says.
"""

import functools
import hashlib
import io
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int8, Int64, Num, UInt8

from vdaprep.errors import ShardError, UsageError
from vdaprep.shards import codec
from vdaprep.shards.canonical import contract
from vdaprep.shards.depth_codes import metres_of
from vdaprep.shards.metadata import ClipMeta
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
    """Metres along z; nan where unknown, inf for sky."""
    differences: Float32[np.ndarray, "t 3 dh dw"] | None
    """Grey levels, each frame minus the one read before it, averaged over `meta.diff.scale` pixels square. Stored ones
    have steps of `meta.diff.step`, and at stride 1 the first frame's is to the one before it in the trajectory; those
    of origin `decoded` are taken from `rgb`. Zero where `diff_valid` is false; None in a clip without."""
    diff_valid: Bool[np.ndarray, " t"]
    """Whether there is a difference of a frame: not of a trajectory's first, nor of the first of others that are not
    stored or have a stride above 1."""
    intrinsics: Float64[np.ndarray, "t 4"]
    """fx, fy, cx, cy in pixels of the stored size; pixel centres are at integers."""
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

    @functools.cached_property
    def _rgb(self) -> UInt8[np.ndarray, "t h w 3"]:
        return codec.decode_group(
            self._data,
            codec=self._meta.rgb.codec,
            size=(self._meta.height, self._meta.width),
            count=self._count,
            frames=self._frames,
            where=self._where,
        )


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

    def depth_planes(self) -> UInt8[np.ndarray, "2 h w"]:
        """Undo only the compression of the depth, as `codec.unpack_planes` does."""
        size = {"height": self.meta.height, "width": self.meta.width}
        return codec.unpack_planes(self._get("depth.zst"), self.meta.depth, **size, where=self.where)

    def depth_m(self) -> Float32[np.ndarray, "h w"]:
        """Decode the depth to metres: nan unknown, inf sky."""
        return metres_of(codec.codes_of_planes(self.depth_planes(), self.meta.depth), self.meta.depth)

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
        rgb, planes, diff = window_shapes(meta, len(frames), where=self.where, limit=MAX_CLIP_BYTES)
        steps = None if diff is None else np.empty(diff, np.float32)
        window = WindowArrays(np.empty(rgb, np.uint8), np.empty(planes, np.uint8), steps)
        valid = read_window(self, frames, out=window)
        codes = (codec.codes_of_planes(planes, meta.depth) for planes in window.depth_planes)
        depth_m = np.stack([metres_of(one, meta.depth) for one in codes])
        rows = list(frames)
        return Frames(
            frame_ids=np.array(meta.frame_ids, np.int64)[rows],
            rgb=window.rgb,
            depth_m=depth_m,
            differences=decoded_differences(window.rgb, meta) if steps is None else steps * _step_of(meta),
            diff_valid=valid,
            intrinsics=np.array(meta.intrinsics)[rows],
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


@dataclass(frozen=True, eq=False)
class WindowArrays:
    """What `read_window` writes to."""

    rgb: UInt8[np.ndarray, "t h w 3"]
    """Grey levels."""
    depth_planes: UInt8[np.ndarray, "t 2 h w"]
    """Low and high bytes of what `meta.depth.packing` makes of depth codes, as `codec.unpack_planes` gives them."""
    differences: Num[np.ndarray, "t 3 dh dw"] | None
    """In steps of `meta.diff.step` grey levels; None without stored ones. int8 suffices at stride 1, int16 to 258."""


def window_shapes(
    meta: ClipMeta, num_frames: int, *, where: str, limit: int = MAX_WINDOW_BYTES
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...] | None]:
    """Return the shapes of WindowArrays' rgb, depth_planes, differences for a window.

    Raises ShardError for a window of more than `limit` bytes.
    """
    size = (meta.height, meta.width)
    diff = None if meta.stored_diff is None else (num_frames, 3, *meta.stored_diff.size_of(*size))
    with contract(where):
        check_window(_PIXEL_BYTES * num_frames * math.prod(size) + math.prod(diff or (0,)), limit=limit)
    return (num_frames, *size, 3), (num_frames, 2, *size), diff


def read_window(clip: Clip, frames: range, *, out: WindowArrays) -> Bool[np.ndarray, " t"]:
    """Unpack a window into `out` with one read; returns which differences are valid.

    A frame's difference is the sum over the frames since the window's frame before it, and valid if all of those are;
    at a stride above 1 those of the first frame lie before the window and are not read: it is never valid. Raises
    ShardError, naming the shard and the clip, where the tar cannot be read, its bytes differ from their checksum, or a
    member is missing or breaks the format.
    """
    meta = clip.meta
    stored = read_stored(clip, frames[0], frames[-1] - frames[0] + 1, meta=meta)
    for row, frame in enumerate(stored[:: frames.step]):
        out.rgb[row] = frame.rgb()
        out.depth_planes[row] = frame.depth_planes()
    valid = np.zeros(len(frames), bool)
    if meta.diff is not None and meta.diff.origin == "decoded":
        valid[1:] = True
    if out.differences is None:
        return valid
    for row, last in enumerate(frames):
        span = range(last - frames.step + 1, last + 1)
        valid[row] = span[0] >= frames[0] and all(meta.diff_valid[frame] for frame in span)
        out.differences[row] = 0
        for frame in span if valid[row] else ():
            out.differences[row] += stored[frame - frames[0]].diff_steps()
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
