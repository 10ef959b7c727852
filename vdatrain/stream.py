"""Windows of frames, read from the shards and unpacked, in batches that worker processes make ahead of time."""

import functools
import io
import multiprocessing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.context import ForkServerContext

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float64, Int, Int8, Int16, UInt8
from torch import Tensor
from torch.utils.data import get_worker_info
from webdataset import filters, tariterators
from webdataset.compat import WebLoader
from webdataset.pipeline import DataPipeline

from vdaprep import codec
from vdaprep.schema import ClipMeta, DepthSpec, DiffSpec, ShardError, VdakitError, member_name
from vdatrain.index import StoredClip
from vdatrain.windows import Order, Share, Window


@dataclass(frozen=True)
class Sample:
    """A window of T frames as a worker hands it over: unpacked, and left alone where the device is faster.

    rgb: grey levels of the stored size. depth_planes: what `codec.unpack_planes` gives. differences: of each frame and
    the window's frame before it, in steps of `diff.step` grey levels; int8 as stored, at a stride above 1 the sum over
    the skipped frames in int16, which holds that of MAX_STRIDE of them without clipping; zero where diff_valid is
    false, None in a shard without differences. intrinsics: fx, fy, cx, cy in pixels of the stored size, pixel centres
    at integers. camera_to_world: metres, OpenCV axes, None without poses. disparity_min, disparity_max: 1/m.

    The large arrays are tensors, which travel between processes in shared memory, each by a file descriptor; the small
    ones are arrays, which are not worth one.
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


# ---------------------------------------------------------------------------------------------------------- one window


def read_window(clip: StoredClip, window: Window) -> Sample:
    """Read a window with one read of its bytes and, unless the clip was read just before, one of its metadata.

    Raises ShardError, naming the shard and the clip, where the tar cannot be read, its bytes differ from their
    checksum, or a member is missing or breaks the contract.
    """
    meta = read_meta(clip)
    members = _read_members(clip, window)
    depth = [
        codec.unpack_planes(members.get(frame, "depth.zst"), height=meta.height, width=meta.width, where=members.where)
        for frame in window.frame_numbers
    ]
    differences, diff_valid = _differences(members, window, meta)
    chosen = list(window.frame_numbers)
    return Sample(
        dataset=clip.dataset,
        key=clip.entry.key,
        window=window,
        rgb=torch.from_numpy(np.stack([_rgb(members, frame, meta) for frame in chosen])),
        depth_planes=torch.from_numpy(np.stack(depth)),
        differences=differences,
        diff_valid=diff_valid,
        diff=meta.diff,
        intrinsics=np.array(meta.intrinsics)[chosen],
        camera_to_world=None if meta.camera_to_world is None else np.array(meta.camera_to_world)[chosen],
        depth=meta.depth,
        disparity_min=meta.disparity_min,
        disparity_max=meta.disparity_max,
    )


@functools.lru_cache(maxsize=16)
def read_meta(clip: StoredClip) -> ClipMeta:
    """Read a clip's metadata; raises ShardError as `read_window` does.

    What is kept cannot grow stale: the clip's checksums are part of what it is looked up by.
    """
    data = _read_range(clip, *clip.entry.meta_range())
    where = str(clip.tar)
    clip.entry.check_meta(data, where=where)
    meta = ClipMeta.from_bytes(_members(clip, data).get(None, "json"), where=f"{where}, clip {clip.entry.key}")
    if meta.num_frames != clip.num_frames:
        raise ShardError(
            f"{where}: clip {clip.entry.key} has metadata of {meta.num_frames} frames, its record says "
            f"{clip.num_frames}; the shard is damaged: convert it again."
        )
    return meta


@dataclass(frozen=True)
class _Members:
    """Some members of a clip, as webdataset groups them: by name without the key."""

    key: str
    where: str
    contents: Mapping[str, bytes]

    def get(self, frame: int | None, kind: str) -> bytes:
        name = member_name(self.key, frame, kind)
        try:
            return self.contents[name.removeprefix(f"{self.key}.")]
        except KeyError as error:
            raise ShardError(f"{self.where}: has no member {name}; convert it again.") from error


def _read_members(clip: StoredClip, window: Window) -> _Members:
    first, count = window.first, window.shape.span
    data = _read_range(clip, *clip.entry.frame_range(first, count))
    clip.entry.check_frames(data, first=first, count=count, where=str(clip.tar))
    return _members(clip, data)


def _members(clip: StoredClip, data: bytes) -> _Members:
    source = [{"url": str(clip.tar), "stream": io.BytesIO(data)}]
    groups = tariterators.group_by_keys(tariterators.tar_file_expander(source))
    found = next((group for group in groups if group["__key__"] == clip.entry.key), {})
    contents = {name: content for name, content in found.items() if not name.startswith("__")}
    return _Members(clip.entry.key, f"{clip.tar}, clip {clip.entry.key}", contents)


def _read_range(clip: StoredClip, start: int, stop: int) -> bytes:
    try:
        with clip.tar.open("rb") as file:
            file.seek(start)
            return file.read(stop - start)
    except OSError as error:
        raise ShardError(f"{clip.tar}: cannot be read for clip {clip.entry.key} ({error.strerror}).") from error


def _rgb(members: _Members, frame: int, meta: ClipMeta) -> UInt8[np.ndarray, "h w 3"]:
    rgb = codec.decode_rgb(members.get(frame, "rgb.jpg"), where=members.where)
    if rgb.shape[:2] != (meta.height, meta.width):
        raise ShardError(
            f"{members.where}: frame {frame} is {rgb.shape[1]}x{rgb.shape[0]} pixels, its metadata says "
            f"{meta.width}x{meta.height}; the shard is damaged: convert it again."
        )
    return rgb


def _differences(
    members: _Members, window: Window, meta: ClipMeta
) -> tuple[Int[Tensor, "t 3 dh dw"] | None, Bool[np.ndarray, " t"]]:
    """Add up each frame's differences since the window's frame before it; valid if all of them are.

    At a stride above 1 those of the first frame lie before the window and are not read: it is never valid.
    """
    if meta.diff is None:
        return None, np.zeros(window.shape.num_frames, bool)
    steps = [range(frame - window.shape.stride + 1, frame + 1) for frame in window.frame_numbers]
    valid = [span[0] >= window.first and all(meta.diff_valid[frame] for frame in span) for span in steps]
    sums = [
        _sum(members, span, meta, meta.diff) if ok else _no_difference(window, meta, meta.diff)
        for span, ok in zip(steps, valid, strict=True)
    ]
    return torch.from_numpy(np.stack(sums)), np.array(valid)


def _sum(
    members: _Members, frames: range, meta: ClipMeta, spec: DiffSpec
) -> Int8[np.ndarray, "3 dh dw"] | Int16[np.ndarray, "3 dh dw"]:
    decoded = [
        codec.decode_diff(
            members.get(frame, "diff.zst"), spec, height=meta.height, width=meta.width, where=members.where
        )
        for frame in frames
    ]
    return decoded[0] if len(decoded) == 1 else np.stack(decoded).sum(axis=0, dtype=np.int16)


def _no_difference(
    window: Window, meta: ClipMeta, spec: DiffSpec
) -> Int8[np.ndarray, "3 dh dw"] | Int16[np.ndarray, "3 dh dw"]:
    dtype = np.int8 if window.shape.stride == 1 else np.int16
    return np.zeros((3, *spec.size_of(meta.height, meta.width)), dtype)


# --------------------------------------------------------------------------------------------------------- the stream


@dataclass(frozen=True)
class _Positions:
    """The first stage of the pipeline: the positions that fall to the process it runs in."""

    share: Share
    total: int | None

    def __call__(self) -> Iterator[int]:
        info = get_worker_info()
        worker, workers = (0, 1) if info is None else (info.id, info.num_workers)
        return self.share.positions(total=self.total, worker=worker, workers=workers)


@dataclass(frozen=True)
class _Read:
    """The second stage: a position's sample, or what went wrong.

    An error travels as a value, since torch would raise it as one whose text is the worker's traceback.
    """

    clips: Sequence[StoredClip]
    order: Order

    def __call__(self, position: int) -> Sample | VdakitError:
        window = self.order.at(position)
        try:
            return read_window(self.clips[window.clip], window)
        except VdakitError as error:
            return error


def stream_batches(
    clips: Sequence[StoredClip], order: Order, *, share: Share, workers: int = 2
) -> Iterator[list[Sample]]:
    """Yield a rank's batches from `share.start` on; their samples may differ in size.

    Batch b is made by worker b mod `workers` (0: by this process), so their order is that of `order` for any number of
    workers. Closing the iterator ends the workers. Raises, when the batch's turn comes, the ShardError of `read_window`
    and VdakitError where a worker was killed.
    """
    pipeline = DataPipeline(
        _Positions(share, order.total),
        filters.map(_Read(clips, order)),
        filters.batched(share.batch, collation_fn=None),
    )
    loader = WebLoader(
        pipeline,
        batch_size=None,
        num_workers=workers,
        worker_init_fn=_use_one_thread,
        multiprocessing_context=_fork_server() if workers else None,
        generator=torch.Generator(),  # else it would draw a seed from the global one, and resuming would differ
    )
    try:
        for batch in loader:
            yield _raise_errors(batch)
    except (RuntimeError, EOFError, OSError) as error:  # the latter two: it died with a batch on the way to us
        if isinstance(error, RuntimeError) and not str(error).startswith("DataLoader worker"):
            raise
        raise VdakitError(
            f"a process that reads shards was killed ({str(error).partition(chr(10))[0]}); memory or /dev/shm may be "
            "full: use fewer workers or a smaller batch."
        ) from error


def _fork_server() -> ForkServerContext:
    """Return the way to start workers: as copies of a process that has only imported this module.

    A copy of this one would now and then hang, since cv2's threads, where it used any, leave their locks as they are.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


def _use_one_thread(_worker: int) -> None:
    cv2.setNumThreads(1)
    torch.set_num_threads(1)


def _raise_errors(batch: Sequence[Sample | VdakitError]) -> list[Sample]:
    samples: list[Sample] = []
    for item in batch:
        if isinstance(item, VdakitError):
            raise item
        samples.append(item)
    return samples
