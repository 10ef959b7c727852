"""Crop, resize, flip and colour jitter, drawn from the seed and the sample's position."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64

from vdaprep.errors import UsageError
from vdatrain.data.samples import Sample
from vdatrain.models.layers.difference import CELLS_PER_PATCH
from vdatrain.models.layers.encoder import PATCH_SIZE

_LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601, as JPEG has it
_MID_GREY = 0.5
_WIDEST = 1.78  # published Video Depth Anything: wider (or taller) frames get a smaller short side, as if 1.777
_WIDEST_AS = 1.777


@dataclass(frozen=True)
class ColorJitter:
    """A linear change of colours: `matrix @ rgb + offset`, rgb from 0 to 1.

    A difference of two frames takes no offset.

    Each row of the matrix has the same sum, so that grey remains grey.
    """

    matrix: tuple[tuple[float, ...], ...] = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
    """Rows of three factors of red, green and blue."""
    offset: float = 0.0
    """Added to every channel."""


UNCHANGED = ColorJitter()


@dataclass(frozen=True)
class CropParams:
    """The view of a sample, the same for all its frames.

    Raises UsageError unless its sides are multiples of PATCH_SIZE.
    """

    top: int
    """First row of the crop, in pixels of the stored frame."""
    left: int
    """Its first column."""
    crop_height: int
    """Rows of the crop, in pixels of the stored frame."""
    crop_width: int
    """Its columns."""
    height: int
    """Rows that the crop is resized to."""
    width: int
    """Columns that it is resized to."""
    flip: bool = False
    """Whether it is mirrored left to right."""
    colour: ColorJitter = UNCHANGED
    """Change of its colours."""
    cells: int = CELLS_PER_PATCH
    """Rows and columns of differences a patch."""

    @property
    def cell_rows_and_columns(self) -> tuple[int, int]:
        """Rows and columns of its differences."""
        return self.cells * self.height // PATCH_SIZE, self.cells * self.width // PATCH_SIZE

    def __post_init__(self) -> None:
        if min(self.height, self.width) < PATCH_SIZE or self.height % PATCH_SIZE or self.width % PATCH_SIZE:
            raise UsageError(
                f"the model takes frames whose sides are multiples of {PATCH_SIZE} pixels, found "
                f"{self.width}x{self.height}."
            )
        assert min(self.top, self.left) >= 0
        assert min(self.crop_height, self.crop_width) >= 1


@dataclass(frozen=True)
class Augmentation:
    """Ranges that the views of training are drawn from."""

    least_crop: float = 0.8
    """Sides of the smallest crop, as a fraction of those of the largest that fits."""
    flip: float = 0.5
    """Probability of a flip."""
    brightness: float = 0.2
    """The factor is drawn from 1 - x to 1 + x."""
    contrast: float = 0.2
    """Likewise."""
    saturation: float = 0.2
    """Likewise."""
    hue: float = 0.02
    """Turns of the colour wheel, drawn from -x to x."""

    def __post_init__(self) -> None:
        fractions = (self.flip, self.brightness, self.contrast, self.saturation, self.hue)
        if not 0 < self.least_crop <= 1 or not all(0 <= fraction <= 1 for fraction in fractions):
            raise UsageError(f"augmentation takes numbers from 0 to 1 and a least_crop above 0, found {self}.")


# ----------------------------------------------------------------------------------------------------------- training


def sample_augmentations(
    samples: Sequence[Sample], target: tuple[int, int], *, augmentation: Augmentation, seed: int
) -> list[CropParams]:
    """Draw a view of `target` (height, width) for each sample, by seed and position alone.

    A sample whose window has a view of its own gets that.
    """
    return [
        sample_augmentation(
            sample.size,
            sample.window.view or target,
            augmentation=augmentation,
            generator=sample_generator(seed, sample.window.position),
        )
        for sample in samples
    ]


def sample_generator(seed: int, position: int) -> torch.Generator:
    """Return the generator on the CPU of all that is drawn for the sample at a position."""
    # The spawn key keeps this stream apart from that of the order of windows, which [seed, epoch] starts.
    state = np.random.SeedSequence([seed, position], spawn_key=(1,)).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0] >> np.uint64(1)))


def sample_augmentation(
    stored: tuple[int, int], target: tuple[int, int], *, augmentation: Augmentation, generator: torch.Generator
) -> CropParams:
    """Draw a crop of the aspect of `target` (height, width), a flip and a change of colours."""
    draws = torch.rand(8, generator=generator, dtype=torch.float64).tolist()
    scale = min(stored[0] / target[0], stored[1] / target[1]) * (1 - (1 - augmentation.least_crop) * draws[0])
    crop_height, crop_width = (
        min(side, max(1, round(wanted * scale))) for side, wanted in zip(stored, target, strict=True)
    )
    return CropParams(
        top=math.floor(draws[1] * (stored[0] - crop_height + 1)),
        left=math.floor(draws[2] * (stored[1] - crop_width + 1)),
        crop_height=crop_height,
        crop_width=crop_width,
        height=target[0],
        width=target[1],
        flip=draws[3] < augmentation.flip,
        colour=_colour(draws[4:], augmentation),
    )


def _colour(draws: Sequence[float], augmentation: Augmentation) -> ColorJitter:
    """Brightness and contrast about mid grey, saturation, hue; from four draws from 0 to 1."""
    brightness, contrast, saturation = (
        1 + amount * (2 * draw - 1)
        for amount, draw in zip(
            (augmentation.brightness, augmentation.contrast, augmentation.saturation), draws[:3], strict=True
        )
    )
    grey = np.tile(_LUMA, (3, 1))
    mixed = saturation * np.eye(3) + (1 - saturation) * grey
    matrix = brightness * contrast * _turn_hue(augmentation.hue * (2 * draws[3] - 1)) @ mixed
    return ColorJitter(tuple(map(tuple, matrix.tolist())), brightness * (1 - contrast) * _MID_GREY)


def _turn_hue(turns: float) -> Float64[np.ndarray, "3 3"]:
    """Rotate about the grey axis (Rodrigues' formula)."""
    cosine, sine = math.cos(2 * math.pi * turns), math.sin(2 * math.pi * turns)
    cross = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
    return cosine * np.eye(3) + (1 - cosine) / 3 * np.ones((3, 3)) + sine * cross


# --------------------------------------------------------------------------------------------------------- evaluation


def fit_view(stored: tuple[int, int], *, size: int) -> CropParams:
    """Return the view of the whole frame that published VDA takes, of `stored` (height, width)."""
    height, width = fit_size(stored, size=size)
    return CropParams(0, 0, stored[0], stored[1], height=height, width=width)


def fit_size(stored: tuple[int, int], *, size: int) -> tuple[int, int]:
    """Return (height, width) of about the aspect, `size` the short one, in whole patches.

    As video_depth.py and util/transform.py of Video Depth Anything: the sides are scaled by one factor, so that the
    short one is `size`, and rounded to the nearest multiple, up where that is below `size`. A frame wider or taller
    than 16:9 first gets a smaller `size`.
    """
    ratio = max(stored) / min(stored)
    if ratio > _WIDEST:
        size = max(1, round(int(size * _WIDEST_AS / ratio) / PATCH_SIZE)) * PATCH_SIZE
    scale = size / min(stored)
    height, width = (_multiple(side * scale, least=size) for side in stored)
    return height, width


def _multiple(side: float, *, least: int) -> int:
    nearest = round(side / PATCH_SIZE) * PATCH_SIZE
    return nearest if nearest >= least else math.ceil(side / PATCH_SIZE) * PATCH_SIZE


# ------------------------------------------------------------------------------------------------------------ cameras


def view_intrinsics(view: CropParams, intrinsics: Float64[np.ndarray, "t 4"]) -> Float64[np.ndarray, "t 4"]:
    """Turn a stored frame's fx, fy, cx, cy into the view's; pixel centres at integers."""
    fx, fy, cx, cy = intrinsics.T
    across, down = view.width / view.crop_width, view.height / view.crop_height
    cx = (cx - view.left + 0.5) * across - 0.5
    cy = (cy - view.top + 0.5) * down - 0.5
    return np.stack([fx * across, fy * down, view.width - 1 - cx if view.flip else cx, cy], axis=1)


def from_first(camera_to_world: Float64[np.ndarray, "t 4 4"]) -> Float64[np.ndarray, "t 4 4"]:
    """Return poses moved so that the first camera is at the origin; axes stay.

    In float32 those of a survey, millions of metres from its origin, would be rounded by half a metre.
    """
    moved = camera_to_world.copy()
    moved[:, :3, 3] -= camera_to_world[0, :3, 3]
    return moved


def view_poses(view: CropParams, camera_to_world: Float64[np.ndarray, "t 4 4"]) -> Float64[np.ndarray, "t 4 4"]:
    """Turn poses of the stored frames into those of the view.

    No camera sees a mirrored image of its world. Where the view flips, both the camera and the world are mirrored
    along their x axes, which is exact: the poses stay rigid, and points of the mirrored world land where they are seen.
    """
    if not view.flip:
        return camera_to_world
    mirror = np.array([-1.0, 1.0, 1.0, 1.0])
    return mirror[:, None] * camera_to_world * mirror
