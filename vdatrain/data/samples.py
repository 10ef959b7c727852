"""A window of frames as tensors, in page-locked memory if asked."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int, UInt8
from torch import Tensor

from vdaprep.errors import DataError
from vdaprep.shards.metadata import DepthSpec, DiffSpec
from vdaprep.shards.reader import Clip, labels_of
from vdaprep.shards.reader import read_window as unpack_window
from vdatrain.data.decode import decode_images
from vdatrain.data.sampler import Window

_TORCH: dict[type[np.generic], torch.dtype] = {np.uint8: torch.uint8, np.int8: torch.int8, np.int16: torch.int16}


@dataclass(frozen=True)
class Sample:
    """A window of T frames, unpacked; what the device does faster is left to it."""

    dataset: str
    """Name of the data set."""
    key: str
    """Key of the clip."""
    window: Window
    """Which frames of the clip these are."""
    size: tuple[int, int]
    """Height and width of the stored frames, in pixels."""
    images: UInt8[Tensor, "t ..."]
    """`[t, h, w, 3]` RGB of JPEGs, `[t, rows, columns]` luma and chroma of video: what `decode_images` takes."""
    depth_bytes: UInt8[Tensor, "t n"]
    """Depth codes, packed as `depth` says: what `decode_depth` takes."""
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
    """fx, fy, cx, cy in pixels of the stored size, pixel centres at integers; nan where the camera is not known."""
    camera_to_world: Float64[np.ndarray, "t 4 4"] | None
    """OpenCV axes, metres; None without poses."""
    depth: DepthSpec
    """How depth codes become metres, or, of kind `relative`, 1 / normalised disparity."""
    disparity_min: float
    """Least disparity of the clip, in 1/m; of kind `relative` without unit."""
    disparity_max: float
    """Largest disparity of the clip, likewise."""

    def expect_metres(self) -> None:
        """Raise DataError if a metric model can neither learn from it nor be measured on it."""
        expect_metres(self, metres=self.depth.is_metric, camera=bool(np.isfinite(self.intrinsics).all()))

    def expect_truth(self) -> None:
        """Raise DataError if no error of depth and no TAE can be taken of it."""
        if not self.depth.is_metric:
            raise DataError(
                f"data set {self.dataset}: clip {self.key} has a teacher's disparity, known up to scale and shift, and "
                "errors of depth and TAE need metres; evaluate on other data sets, in training with --eval-split of "
                "those or none."
            )

    @property
    def rgb(self) -> UInt8[Tensor, "t h w 3"]:
        """Grey levels, at the stored size; of video converted each time."""
        return decode_images(self.images, self.size)


def expect_metres(of: Clip | Sample, *, metres: bool, camera: bool) -> None:
    """Raise DataError where frames for a metric model have no depth in metres or no camera."""
    if metres and camera:
        return
    found = "depth without a unit" if not metres else "no camera"
    raise DataError(
        f"data set {of.dataset}: clip {of.key} has {found}, and a metric model takes metres and intrinsics; leave the "
        f"data set out, in training with --mix {of.dataset}=0, or take a relative model."
    )


def read_window(clip: Clip, window: Window, *, pin: bool = False) -> Sample:
    """Read a window with one read of its bytes, and one of its metadata unless it is known.

    `pin` unpacks into page-locked memory, from which a GPU copies while the program goes on. Raises ShardError, naming
    the shard and the clip, where the tar cannot be read, its bytes differ from their checksum, or a member is missing
    or breaks the contract; of no member more is unpacked than the metadata says.
    """
    meta = clip.meta
    frames = window.frame_numbers
    found: dict[str, Tensor] = {}

    def allocate(name: str, shape: tuple[int, ...], dtype: type[np.generic]) -> np.ndarray:
        found[name] = _buffer(shape, dtype, pin=pin)
        return found[name].numpy()

    diff_valid = unpack_window(clip, frames, allocate=allocate)
    chosen = list(frames)
    return Sample(
        dataset=clip.dataset,
        key=clip.key,
        window=window,
        size=(meta.height, meta.width),
        images=found["images"],
        depth_bytes=found["depth"],
        differences=found.get("differences"),
        diff_valid=diff_valid,
        diff=meta.diff,
        intrinsics=meta.intrinsics_of(chosen),
        camera_to_world=None if meta.camera_to_world is None else np.array(meta.camera_to_world)[chosen],
        depth=labels_of(meta, where=clip.where),
        disparity_min=meta.disparity_min,
        disparity_max=meta.disparity_max,
    )


def _buffer(shape: tuple[int, ...], dtype: type[np.generic], *, pin: bool) -> Tensor:
    if pin:
        return torch.empty(shape, dtype=_TORCH[dtype], pin_memory=True)  # torch keeps it, and hands it out again
    return torch.from_numpy(np.empty(shape, dtype))  # numpy asks for huge pages, which costs a tenth less
