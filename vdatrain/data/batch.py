"""Batches: samples decoded, cropped, resized and augmented on the device."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int, Num, UInt8
from torch import Tensor
from torch.nn import functional as F

from vdaprep.shards.metadata import DiffSpec
from vdatrain.data.decode import decode_codes, decode_images, depth_table, upload
from vdatrain.data.samples import Sample
from vdatrain.data.transforms import UNCHANGED, ColorJitter, CropParams, from_first, view_intrinsics, view_poses

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Batch:
    """B windows of T frames for one training step, on one device."""

    frames: Float32[Tensor, "b t 3 h w"]
    """RGB, normalised with ImageNet's mean and deviation."""
    differences: Float32[Tensor, "b t 3 dh dw"]
    """Signed differences to the frame before, in grey levels / 255, 0 where not valid; dh = c h / 14, dw = c w / 14, c
    being the views' `cells`."""
    diff_valid: Bool[Tensor, "b t"]
    """Whether a frame has a difference; false for all frames of a sample without."""
    disparity: Float32[Tensor, "b t h w"]
    """Normalised by the clip's range: 0 at its farthest known pixel and at sky, 1 at its nearest; 0 where unknown."""
    mask: Bool[Tensor, "b t h w"]
    """Where the depth is known."""
    intrinsics: Float32[Tensor, "b t 4"]
    """fx, fy, cx, cy in pixels of the view. Metrics take them, and poses, from the Sample, in float64."""
    camera_to_world: Float32[Tensor, "b t 4 4"] | None
    """Poses of the view, metres, from where each window's first camera is; None unless all samples have poses and depth
    in metres."""
    disparity_range: Float32[Tensor, "b 2"]
    """The disparities, in 1/m, that are 0 and 1 in `disparity`."""
    datasets: tuple[str, ...]
    """Data set of each window."""
    keys: tuple[str, ...]
    """Clip of each window."""
    taught: Bool[Tensor, " b"]
    """Whether a window's disparity is a teacher's, known up to scale and shift."""
    images: "Batch | None" = None
    """Single frames to train on beside the windows, with t = 1."""


def make_batch(
    samples: Sequence[Sample], views: Sequence[CropParams], *, device: torch.device, windows: int | None = None
) -> Batch:
    """Show each sample as its view says.

    The views agree in height and width, the samples in the number of frames.

    After so many `windows` (None: all samples are) come single frames, which are shown as a batch of their own. Nothing
    waits for the device. To be called outside autocast.
    """
    if windows is not None and len(samples) > windows:
        batch = make_batch(samples[:windows], views[:windows], device=device)
        return replace(batch, images=make_batch(samples[windows:], views[windows:], device=device))
    decoded = [decode_images(sample.images.to(device, non_blocking=True), sample.size) for sample in samples]
    samples = [replace(sample, images=rgb) for sample, rgb in zip(samples, decoded, strict=True)]
    pairs = list(zip(samples, views, strict=True))
    targets = [_show_disparity(sample, view, device) for sample, view in pairs]
    poses = [
        view_poses(view, from_first(sample.camera_to_world))
        for sample, view in pairs
        if sample.camera_to_world is not None and sample.depth.is_metric
    ]
    return Batch(
        frames=normalise(torch.stack([_show_frames(sample, view, device) for sample, view in pairs])),
        differences=torch.stack([_show_differences(sample, view, device) for sample, view in pairs]),
        diff_valid=_upload(np.stack([sample.diff_valid for sample in samples]), device),
        disparity=torch.stack([disparity for disparity, _ in targets]),
        mask=torch.stack([mask for _, mask in targets]),
        intrinsics=_upload(
            np.stack([view_intrinsics(view, sample.intrinsics) for sample, view in pairs]).astype(np.float32), device
        ),
        camera_to_world=_upload(np.stack(poses).astype(np.float32), device) if len(poses) == len(pairs) else None,
        disparity_range=_upload(
            np.array([(sample.disparity_min, sample.disparity_max) for sample in samples], np.float32), device
        ),
        datasets=tuple(sample.dataset for sample in samples),
        keys=tuple(sample.key for sample in samples),
        taught=_upload(np.array([not sample.depth.is_metric for sample in samples]), device),
    )


def _show_disparity(
    sample: Sample, view: CropParams, device: torch.device
) -> tuple[Float32[Tensor, "t h w"], Bool[Tensor, "t h w"]]:
    """Return the view's normalised disparity, by nearest pixels, and where depth is known."""
    codes = decode_codes(sample.depth_bytes.to(device, non_blocking=True), sample.depth, size=sample.size)
    rows = _nearest(view.top, view.crop_height, view.height, device)
    columns = _nearest(view.left, view.crop_width, view.width, device)
    depth_m = depth_table(sample.depth, device)[codes[:, rows[:, None], columns.flip(0) if view.flip else columns]]
    spread = sample.disparity_max - sample.disparity_min
    scale = 1 / spread if spread > 0 else 0.0  # a clip that knows one depth only, or none, is flat
    disparity = torch.where(depth_m.isfinite(), (1 / depth_m - sample.disparity_min) * scale, 0)
    return disparity, ~depth_m.isnan()


def _nearest(start: int, length: int, count: int, device: torch.device) -> Int[Tensor, " count"]:
    """Cut `length` pixels from `start` into `count` parts; return the pixel at each centre."""
    return start + (2 * torch.arange(count, device=device) + 1) * length // (2 * count)


# ------------------------------------------------------------------------------------------------- frames, differences


def _show_frames(sample: Sample, view: CropParams, device: torch.device) -> Float32[Tensor, "t 3 h w"]:
    """Return the view's frames, 0 to 1."""
    rows, columns = (
        slice(view.top, view.top + view.crop_height),
        slice(view.left, view.left + view.crop_width),
    )
    crop = sample.images[:, rows, columns].permute(0, 3, 1, 2).float() / 255
    frames = F.interpolate(crop, (view.height, view.width), mode="bilinear", antialias=True)
    if view.flip:
        frames = frames.flip(-1)
    if view.colour != UNCHANGED:
        frames = mix_colours(frames, view.colour) + view.colour.offset
    return frames.clamp(0, 1)


def _show_differences(sample: Sample, view: CropParams, device: torch.device) -> Float32[Tensor, "t 3 dh dw"]:
    """Return the view's differences; zeros for a sample that has none."""
    if sample.diff is not None and sample.diff.origin == "decoded":
        grey_levels = shrink(sample.images, sample.diff)
        differences = grey_levels.diff(dim=0, prepend=grey_levels[:1])
        return resample_differences(differences, view, stored=sample.size, step=1)
    if sample.differences is None or sample.diff is None:
        return torch.zeros(len(sample.images), 3, *view.cell_rows_and_columns, device=device)
    steps = sample.differences.to(device, non_blocking=True)
    return resample_differences(steps, view, stored=sample.size, step=sample.diff.step)


def shrink(rgb: UInt8[Tensor, "t h w 3"], spec: DiffSpec) -> Float32[Tensor, "t 3 dh dw"]:
    """Average frames over areas of `spec.scale` pixels square, as `codec.shrink` does."""
    height, width = rgb.shape[1:3]
    rows, columns = spec.size_of(height, width)
    image = rgb.permute(0, 3, 1, 2).float()
    if (height, width) == (rows * spec.scale, columns * spec.scale):
        return F.avg_pool2d(image, spec.scale)
    return _areas(rows, height, image.device) @ image @ _areas(columns, width, image.device).T


def _areas(count: int, pixels: int, device: torch.device) -> Float32[Tensor, "{count} {pixels}"]:
    """Return the weights of pixels in each of `count` equal parts of them."""
    edges = torch.arange(count + 1, device=device, dtype=torch.float64) * (pixels / count)
    start = torch.arange(pixels, device=device)
    overlap = torch.minimum(edges[1:, None], start + 1) - torch.maximum(edges[:-1, None], start)
    return (overlap.clamp(min=0) * (count / pixels)).float()


def resample_differences(
    steps: Num[Tensor, "t 3 down across"], view: CropParams, *, stored: tuple[int, int], step: int
) -> Float32[Tensor, "t 3 dh dw"]:
    """Return the view's differences in grey levels / 255, from steps of `step` grey levels.

    stored: height and width of the frame. The stored cells lie on a grid of the whole frame, which the crop cuts
    through: it is resampled from where the crop begins, as antialiased bilinear interpolation would, by one matrix for
    the rows and one for the columns.
    """
    device = steps.device
    height, width = view.cell_rows_and_columns
    stored_height, stored_width = stored
    cells_down, cells_across = steps.shape[-2:]
    down = _resampling(
        view.top / stored_height, view.crop_height / stored_height, cells=cells_down, count=height, device=device
    )
    across = _resampling(
        view.left / stored_width, view.crop_width / stored_width, cells=cells_across, count=width, device=device
    )
    differences = down @ steps.float() @ (across.flip(0) if view.flip else across).T * (step / 255)
    return differences if view.colour == UNCHANGED else mix_colours(differences, view.colour)


def _resampling(
    start: float, length: float, *, cells: int, count: int, device: torch.device
) -> Float32[Tensor, "{count} {cells}"]:
    """Return the weights of `cells` in each of `count` parts of a stretch.

    Its start and length are fractions of the whole.

    The weights are a triangle as wide as two parts, or as two cells if those are wider, and add up to 1.
    """
    step = length * cells / count
    centres = start * cells + (torch.arange(count, device=device, dtype=torch.float32) + 0.5) * step
    distance = torch.arange(cells, device=device) + 0.5 - centres[:, None]
    weights = (1 - distance.abs() / max(step, 1)).clamp(min=0)
    return weights / weights.sum(1, keepdim=True)


def mix_colours(image: Float32[Tensor, "t 3 h w"], colour: ColorJitter) -> Float32[Tensor, "t 3 h w"]:
    """Multiply each pixel by the colour's matrix, without its offset."""
    # Not a matrix product: TF32, where it is on, would round the frames to ten bits.
    matrix = upload(torch.tensor(colour.matrix, dtype=image.dtype), image.device)
    red, green, blue = (matrix[:, i, None, None] * image[:, i, None] for i in range(3))
    return red + green + blue


def normalise(frames: Float32[Tensor, "*batch 3 h w"]) -> Float32[Tensor, "*batch 3 h w"]:
    """Bring frames of 0 to 1 to ImageNet's mean and deviation, as the encoder takes them."""
    mean, deviation = _imagenet(frames.device)
    return (frames - mean) / deviation


def denormalise(frames: Float32[Tensor, "*batch 3 h w"]) -> Float32[Tensor, "*batch 3 h w"]:
    """Undo `normalise`."""
    mean, deviation = _imagenet(frames.device)
    return frames * deviation + mean


@functools.lru_cache(maxsize=8)
def _imagenet(device: torch.device) -> Float32[Tensor, "2 3 1 1"]:
    return torch.tensor([IMAGENET_MEAN, IMAGENET_STD], device=device)[:, :, None, None]


def _upload(values: np.ndarray, device: torch.device) -> Tensor:
    return upload(torch.from_numpy(values), device)
