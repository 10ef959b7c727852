"""A window of frames from the bytes of its shard: read by offset, compared with its checksums, unpacked."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int, Int8, Int16, UInt8
from torch import Tensor

from vdaprep.errors import ShardError
from vdaprep.shards import codec
from vdaprep.shards.metadata import ClipMeta, DepthSpec, DiffSpec
from vdaprep.shards.names import member_name
from vdatrain.data.index import StoredClip
from vdatrain.data.sampler import Window

MAX_FRAME_PIXELS = 2**26  # twice 8K video; a shard that asks for more memory than that is not one of ours
_BLOCK = 512  # what tars are made of
_NUMPY = {torch.uint8: np.uint8, torch.int8: np.int8, torch.int16: np.int16}


@dataclass(frozen=True)
class Sample:
    """A window of T frames as it comes from the shard: unpacked, and left alone where the device is faster.

    rgb: grey levels of the stored size. depth_planes: what `codec.unpack_planes` gives. differences: of each frame and
    the window's frame before it, in steps of `diff.step` grey levels; int8 as stored, at a stride above 1 the sum over
    the skipped frames in int16, which holds that of MAX_STRIDE of them without clipping; zero where diff_valid is
    false, None in a shard without differences. At stride 1 the first frame's is to the frame before the window, so that
    a window of a single frame has one as well. intrinsics: fx, fy, cx, cy in pixels of the stored size, pixel centres
    at integers. camera_to_world: metres, OpenCV axes, None without poses. disparity_min, disparity_max: 1/m.
    """

    dataset: str
    key: str
    window: Window
    rgb: UInt8[Tensor, "t h w 3"]
    depth_planes: UInt8[Tensor, "t 2 h w"]
    differences: Int[Tensor, "t 3 dh dw"] | None
    diff_valid: Bool[np.ndarray, " t"]
    diff: DiffSpec | None
    intrinsics: Float64[np.ndarray, "t 4"]
    camera_to_world: Float64[np.ndarray, "t 4 4"] | None
    depth: DepthSpec
    disparity_min: float
    disparity_max: float

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the stored frames, in pixels."""
        return self.rgb.shape[1], self.rgb.shape[2]


def read_window(clip: StoredClip, window: Window, *, pin: bool = False) -> Sample:
    """Read a window with one read of its bytes and, unless the clip was read not long ago, one of its metadata.

    `pin` unpacks into page-locked memory, from which a GPU copies while the program goes on. Raises ShardError, naming
    the shard and the clip, where the tar cannot be read, its bytes differ from their checksum, or a member is missing
    or breaks the contract; of no member more is unpacked than the metadata says.
    """
    meta = read_meta(clip)
    members = _read_members(clip, window)
    frames = window.frame_numbers
    size = (meta.height, meta.width)
    rgb = _buffer((len(frames), *size, 3), torch.uint8, pin=pin)
    planes = _buffer((len(frames), 2, *size), torch.uint8, pin=pin)
    rgb_rows, plane_rows = rgb.numpy(), planes.numpy()
    for row, frame in enumerate(frames):
        rgb_rows[row] = codec.decode_rgb(members.get(frame, "rgb.jpg"), size=size, where=members.at(frame))
        plane_rows[row] = codec.unpack_planes(
            members.get(frame, "depth.zst"), height=meta.height, width=meta.width, where=members.at(frame)
        )
    differences, diff_valid = _differences(members, window, meta, pin=pin)
    chosen = list(frames)
    return Sample(
        dataset=clip.dataset,
        key=clip.entry.key,
        window=window,
        rgb=rgb,
        depth_planes=planes,
        differences=differences,
        diff_valid=diff_valid,
        diff=meta.diff,
        intrinsics=np.array(meta.intrinsics)[chosen],
        camera_to_world=None if meta.camera_to_world is None else np.array(meta.camera_to_world)[chosen],
        depth=meta.depth,
        disparity_min=meta.disparity_min,
        disparity_max=meta.disparity_max,
    )


@functools.lru_cache(maxsize=256)
def read_meta(clip: StoredClip) -> ClipMeta:
    """Read a clip's metadata; raises ShardError as `read_window` does.

    What is kept cannot grow stale: the clip's checksums are part of what it is looked up by.
    """
    data = clip.read(*clip.entry.meta_range())
    tar = str(clip.tar)
    where = f"{tar}, clip {clip.entry.key}"
    clip.entry.check_meta(data, where=tar)
    members = _Members(clip.entry.key, where, _split_tar(data, where=where))
    meta = ClipMeta.from_bytes(bytes(members.get(None, "json")), where=where)
    if meta.num_frames != clip.num_frames:
        raise ShardError(
            f"{where}: has metadata of {meta.num_frames} frames, its record says {clip.num_frames}; the shard is "
            "damaged: convert it again."
        )
    if meta.height * meta.width > MAX_FRAME_PIXELS:
        raise ShardError(
            f"{where}: has frames of {meta.width}x{meta.height} pixels by its metadata; at most {MAX_FRAME_PIXELS} "
            "pixels are read."
        )
    return meta


# ------------------------------------------------------------------------------------------------------------- members


@dataclass(frozen=True)
class _Members:
    """Some members of a clip, by name; `where` names the tar and the clip."""

    key: str
    where: str
    contents: Mapping[str, memoryview]

    def at(self, frame: int) -> str:
        return f"{self.where}, frame {frame}"

    def get(self, frame: int | None, kind: str) -> memoryview:
        name = member_name(self.key, frame, kind)
        try:
            return self.contents[name]
        except KeyError as error:
            raise ShardError(f"{self.where}: has no member {name}; convert it again.") from error


def _read_members(clip: StoredClip, window: Window) -> _Members:
    first, count = window.first, window.shape.span
    data = clip.read(*clip.entry.frame_range(first, count))
    clip.entry.check_frames(data, first=first, count=count, where=str(clip.tar))
    where = f"{clip.tar}, clip {clip.entry.key}"
    return _Members(clip.entry.key, where, _split_tar(data, where=where))


def _split_tar(data: bytes, *, where: str) -> dict[str, memoryview]:
    """Cut a stretch of a USTAR file into its members, by name: bytes, whatever a name ends in.

    `tarfile`, and with it webdataset, takes a tenth of a second for a thousand frames, all of it under the
    interpreter's lock, which the threads that unpack and the training itself would wait for.
    """
    members: dict[str, memoryview] = {}
    view = memoryview(data)
    at = 0
    while at < len(data):
        header = data[at : at + _BLOCK]
        digits = header[124:136].rstrip(b"\0 ")
        begin = at + _BLOCK
        size = int(digits, 8) if digits.isdigit() and b"8" not in digits and b"9" not in digits else -1
        if size < 0 or begin + size > len(data):
            raise ShardError(f"{where}: holds bytes that are no member of a tar; the shard is damaged.")
        members[header[:100].partition(b"\0")[0].decode("ascii", "replace")] = view[begin : begin + size]
        at = begin + -(-size // _BLOCK) * _BLOCK
    return members


# --------------------------------------------------------------------------------------------------------- differences


def _differences(
    members: _Members, window: Window, meta: ClipMeta, *, pin: bool
) -> tuple[Int[Tensor, "t 3 dh dw"] | None, Bool[np.ndarray, " t"]]:
    """Add up each frame's differences since the window's frame before it; valid if all of them are.

    At a stride above 1 those of the first frame lie before the window and are not read: it is never valid.
    """
    if meta.diff is None:
        return None, np.zeros(window.shape.num_frames, bool)
    steps = [range(frame - window.shape.stride + 1, frame + 1) for frame in window.frame_numbers]
    valid = [span[0] >= window.first and all(meta.diff_valid[frame] for frame in span) for span in steps]
    dtype = torch.int8 if window.shape.stride == 1 else torch.int16
    differences = _buffer((len(steps), 3, *meta.diff.size_of(meta.height, meta.width)), dtype, pin=pin)
    rows = differences.numpy()
    for row, (span, ok) in enumerate(zip(steps, valid, strict=True)):
        rows[row] = _sum(members, span, meta, meta.diff) if ok else 0
    return differences, np.array(valid)


def _sum(
    members: _Members, frames: range, meta: ClipMeta, spec: DiffSpec
) -> Int8[np.ndarray, "3 dh dw"] | Int16[np.ndarray, "3 dh dw"]:
    decoded = [
        codec.decode_diff(
            members.get(frame, "diff.zst"), spec, height=meta.height, width=meta.width, where=members.at(frame)
        )
        for frame in frames
    ]
    return decoded[0] if len(decoded) == 1 else np.stack(decoded).sum(axis=0, dtype=np.int16)


def _buffer(shape: tuple[int, ...], dtype: torch.dtype, *, pin: bool) -> Tensor:
    if pin:
        return torch.empty(shape, dtype=dtype, pin_memory=True)  # torch keeps such memory and hands it out again
    return torch.from_numpy(np.empty(shape, _NUMPY[dtype]))  # numpy asks for huge pages, which costs a tenth less
