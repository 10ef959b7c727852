"""A window of frames as tensors, in page-locked memory if asked."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int, UInt8
from torch import Tensor

from vdaprep.shards.metadata import DepthSpec, DiffSpec
from vdaprep.shards.reader import Clip, WindowArrays, window_shapes
from vdaprep.shards.reader import read_window as unpack_window
from vdatrain.data.sampler import Window

_NUMPY = {torch.uint8: np.uint8, torch.int8: np.int8, torch.int16: np.int16}


@dataclass(frozen=True)
class Sample:
    """A window of T frames, unpacked; what the device does faster is left to it."""

    dataset: str
    """Name of the data set."""
    key: str
    """Key of the clip."""
    window: Window
    """Which frames of the clip these are."""
    rgb: UInt8[Tensor, "t h w 3"]
    """Grey levels, at the stored size."""
    depth_planes: UInt8[Tensor, "t 2 h w"]
    """What `codec.unpack_planes` gives: depth codes before the prediction is undone."""
    differences: Int[Tensor, "t 3 dh dw"] | None
    """Of each frame and the window's frame before it, in steps of `diff.step` grey levels; None without stored ones.

    int8 as stored; at a stride above 1 the sum over the skipped frames in int16, which holds that of MAX_STRIDE of them
    without clipping. Zero where diff_valid is false. At stride 1 the first frame's is to the frame before the window,
    so that a window of a single frame has one as well.
    """
    diff_valid: Bool[np.ndarray, " t"]
    """Which differences are known; where `diff.origin` is `decoded`, of all frames but the first."""
    diff: DiffSpec | None
    """Scale and step of the differences; None without."""
    intrinsics: Float64[np.ndarray, "t 4"]
    """fx, fy, cx, cy in pixels of the stored size, pixel centres at integers."""
    camera_to_world: Float64[np.ndarray, "t 4 4"] | None
    """OpenCV axes, metres; None without poses."""
    depth: DepthSpec
    """How depth codes become metres."""
    disparity_min: float
    """Least disparity of the clip, in 1/m."""
    disparity_max: float
    """Largest disparity of the clip, in 1/m."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the stored frames, in pixels."""
        return self.rgb.shape[1], self.rgb.shape[2]


def read_window(clip: Clip, window: Window, *, pin: bool = False) -> Sample:
    """Read a window with one read of its bytes, and one of its metadata unless it is known.

    `pin` unpacks into page-locked memory, from which a GPU copies while the program goes on. Raises ShardError, naming
    the shard and the clip, where the tar cannot be read, its bytes differ from their checksum, or a member is missing
    or breaks the contract; of no member more is unpacked than the metadata says.
    """
    meta = clip.meta
    frames = window.frame_numbers
    shapes = window_shapes(meta, len(frames), where=clip.where)
    rgb = _buffer(shapes[0], torch.uint8, pin=pin)
    planes = _buffer(shapes[1], torch.uint8, pin=pin)
    dtype = torch.int8 if window.shape.stride == 1 else torch.int16
    differences = None if shapes[2] is None else _buffer(shapes[2], dtype, pin=pin)
    steps = None if differences is None else differences.numpy()
    diff_valid = unpack_window(clip, frames, out=WindowArrays(rgb.numpy(), planes.numpy(), steps))
    chosen = list(frames)
    return Sample(
        dataset=clip.dataset,
        key=clip.key,
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


def _buffer(shape: tuple[int, ...], dtype: torch.dtype, *, pin: bool) -> Tensor:
    if pin:
        return torch.empty(shape, dtype=dtype, pin_memory=True)  # torch keeps such memory and hands it out again
    return torch.from_numpy(np.empty(shape, _NUMPY[dtype]))  # numpy asks for huge pages, which costs a tenth less
