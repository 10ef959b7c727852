"""Protocols of video depth benchmarks: which frames of which scenes are measured, and how.

Sources: the scripts in benchmark/ of DepthAnything/Video-Depth-Anything at 4f5ae23 (`vda`, `vda-short`, `vda-legacy`),
and the evaluation of Junyi42/monst3r at 574cc77 and of CUT3R/CUT3R at 8bc15dc (`monst3r`).
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, TypeVar

import numpy as np

Alignment = Literal["scale-shift", "scale", "none"]
Array = TypeVar("Array", bound=np.ndarray)


@dataclass(frozen=True)
class Crop:
    """A part of a frame; ends below 0 count from the far side, and None is the far side."""

    rows: tuple[int, int | None] = (0, None)
    """First row, and the row after the last."""
    columns: tuple[int, int | None] = (0, None)
    """First column, and the column after the last."""
    even: bool = False
    """Whether an odd last row or column is left out then."""

    def of(self, image: Array) -> Array:
        """Return the part of an image [h, w, ...]."""
        part: Array = image[slice(*self.rows), slice(*self.columns)]  # pyright: ignore[reportAssignmentType]
        if not self.even:
            return part
        return part[: len(part) // 2 * 2, : part.shape[1] // 2 * 2]  # pyright: ignore[reportReturnType]


WHOLE = Crop()


@dataclass(frozen=True)
class UnregisteredCrop:
    """A part of a frame that does not correspond to the part of the truth it is compared with."""

    crop: Crop
    """The part of the frame."""
    size: tuple[int, int] | None = None
    """Height and width that frames are brought to first."""
    after: bool = False
    """Whether the whole frame is predicted and the prediction is cropped."""


@dataclass(frozen=True)
class Faults:
    """What published scripts do wrong, so that old tables hold it; numbered in their order.

    Faults 1, 2 and 4 end those scripts with an error; 8 is a list of scenes that is nowhere named, and 10 sorts frames
    by four characters of their names, which mixes up no scene of the five sets as they are published.
    """

    whole_metres: bool = False
    """3: the true depth is cut to whole metres; below 1 m it is unknown."""
    scenes_unknown: bool = False
    """5: which scenes are taken depends on a file system; all are, and how much a choice of them matters is told."""
    swapped_colours: bool = False
    """6: the model sees blue for red."""
    paired_by_index: bool = False
    """7: images and depth are paired by their place in sorted lists, which shards have to be converted with."""
    unregistered_crop: UnregisteredCrop | None = None
    """9: the part of a frame that is predicted is another one than that of the truth."""
    uncropped_camera: bool = False
    """9: intrinsics stay those of the uncropped truth."""
    gaps_are_silent: bool = False
    """11: frames on both sides of missing ones are neighbours, and those without a pixel in common have no error."""


@dataclass(frozen=True)
class BenchmarkSet:
    """A column of a benchmark's table: scenes of a data set and how they are measured."""

    key: str
    """Name on the command line."""
    title: str
    """Name in tables."""
    dataset: str
    """Name of the data set in shards."""
    scenes: tuple[str, ...]
    """The scenes, sorted."""
    frames: range
    """Which frames of a scene are predicted, counted from 0; fewer where a scene ends."""
    max_depth_m: float
    """The greatest depth that is evaluated."""
    crop: Crop = WHOLE
    """The part of frame and truth that is predicted and measured."""
    measures: Literal["depth", "tae"] = "depth"
    """What the column shows: absrel and delta1, or the temporal alignment error."""
    evaluated: range = range(1 << 30)
    """Which of the predicted frames are measured, counted from the first of them."""
    alignment: Alignment = "scale-shift"
    """How a prediction up to scale and shift is fitted to the truth: in disparity, by a scale of depth, or not."""
    rgb_pass: str | None = None
    """Which rendering of the images, where there are several."""
    counted: Literal["places", "numbers"] = "places"
    """How frames are counted: those that have a truth, one after the other, or by the numbers that they have."""
    native: tuple[tuple[int, int], ...] = ()
    """Heights and widths that the data set has."""
    lengths: Mapping[str, int] = field(default_factory=dict[str, int])
    """Frames with a truth that a scene has, where that is known."""
    faults: Faults = Faults()  # noqa: RUF009 - frozen
    """What is done as published although it is wrong."""
    note: str = ""
    """What a reader of its figures has to know, below the table."""

    def evaluated_of(self, frames: int) -> range:
        """Return which of so many predicted frames are measured."""
        return range(self.evaluated.start, min(self.evaluated.stop, frames))

    def has(self, name: str) -> bool:
        """Return whether a name on the command line means this set: its key or its data set."""
        return name in (self.key, self.dataset)


@dataclass(frozen=True)
class Protocol:
    """A benchmark: its sets, and how a set's figures come of its scenes'."""

    name: str
    """Name on the command line."""
    title: str
    """What it is, in a line."""
    sets: tuple[BenchmarkSet, ...]
    """The columns of the table, in order."""
    weighting: Literal["scenes", "pixels"] = "scenes"
    """Whether each scene counts the same, frame by frame, or each pixel of all scenes."""


# ---------------------------------------------------------------------------------------------------------- the scenes

_SINTEL_LENGTHS = {
    "alley_1": 50, "alley_2": 50, "ambush_2": 21, "ambush_4": 33, "ambush_5": 50, "ambush_6": 20, "ambush_7": 50,
    "bamboo_1": 50, "bamboo_2": 50, "bandage_1": 50, "bandage_2": 50, "cave_2": 50, "cave_4": 50, "market_2": 50,
    "market_5": 50, "market_6": 40, "mountain_1": 50, "shaman_2": 50, "shaman_3": 50, "sleeping_1": 50,
    "sleeping_2": 50, "temple_2": 50, "temple_3": 50,
}  # fmt: skip
SINTEL = tuple(_SINTEL_LENGTHS)
_NOT_MONST3R = {"alley_1", "ambush_2", "ambush_7", "bamboo_1", "bamboo_2", "bandage_1", "bandage_2", "mountain_1"}
SINTEL_14 = tuple(name for name in SINTEL if name not in {*_NOT_MONST3R, "shaman_2"})
_KITTI_LENGTHS = {
    "2011_09_26_drive_0002_sync": 67, "2011_09_26_drive_0005_sync": 144, "2011_09_26_drive_0013_sync": 134,
    "2011_09_26_drive_0020_sync": 76, "2011_09_26_drive_0023_sync": 464, "2011_09_26_drive_0036_sync": 793,
    "2011_09_26_drive_0079_sync": 90, "2011_09_26_drive_0095_sync": 258, "2011_09_26_drive_0113_sync": 77,
    "2011_09_28_drive_0037_sync": 79, "2011_09_29_drive_0026_sync": 148, "2011_09_30_drive_0016_sync": 269,
    "2011_10_03_drive_0047_sync": 827,
}  # fmt: skip
KITTI = tuple(_KITTI_LENGTHS)
BONN = ("balloon2", "crowd2", "crowd3", "person_tracking", "synchronous")
BONN_MONST3R = ("balloon2", "crowd2", "crowd3", "person_tracking2", "synchronous")
SCANNET = tuple(f"scene{number:04d}_00" for number in range(707, 807))
NYUV2 = (
    "basement_0001a", "bookstore_0001a", "cafe_0001a", "classroom_0001a", "kitchen_0003", "office_0004",
    "playroom_0002", "study_0002",
)  # fmt: skip
TAE_SCENES = 20

# ----------------------------------------------------------------------------------------------------------- protocols

_VGA = ((480, 640),)
_KITTI_SIZES = ((375, 1242), (370, 1224), (374, 1238), (370, 1226), (376, 1241))
_SCANNET_CROP = Crop((8, -8), (11, -11))
_SCANNET_COLOUR = (968, 1296)

_sintel = BenchmarkSet(
    "sintel", "Sintel", "sintel", SINTEL, range(100), 70.0, Crop((0, 436), (0, 1024)), rgb_pass="clean",
    native=((436, 1024),), lengths=_SINTEL_LENGTHS,
)  # fmt: skip
_kitti = BenchmarkSet(
    "kitti", "KITTI-500", "kitti", KITTI, range(500), 80.0, Crop((0, 374), (0, 1242)),
    native=_KITTI_SIZES, lengths=_KITTI_LENGTHS,
    note="the laser reaches neither the sky nor the upper third of frames: no model is measured there",
)  # fmt: skip
_bonn = BenchmarkSet("bonn", "Bonn-500", "bonn", BONN, range(500), 10.0, native=_VGA)
_scannet = BenchmarkSet(
    "scannet", "ScanNet-500", "scannet", SCANNET, range(500), 10.0, _SCANNET_CROP, counted="numbers", native=_VGA
)  # fmt: skip
_nyuv2 = BenchmarkSet("nyuv2", "NYUv2-500", "nyuv2", NYUV2, range(500), 10.0, Crop((45, 471), (41, 601)), native=_VGA)
_scannet_tae = replace(
    _scannet, key="scannet-tae", title="ScanNet TAE", scenes=SCANNET[:TAE_SCENES], frames=range(192), measures="tae",
    evaluated=range(10, 180),
)  # fmt: skip

VDA = Protocol(
    "vda",
    "the paper's protocol: float truth, pairs by time, one crop for frame and truth, TAE of the first 20 sorted scenes",
    (_kitti, _scannet, _bonn, _nyuv2, _sintel, _scannet_tae),
)
VDA_SHORT = Protocol(
    "vda-short",
    "as DepthCrafter: 110 frames, ScanNet 90 at stride 3",
    (
        replace(_kitti, title="KITTI-110", frames=range(110)),
        replace(_scannet, title="ScanNet-90", frames=range(0, 270, 3)),
        replace(_bonn, title="Bonn-110", frames=range(30, 140)),
        _sintel,
        _scannet_tae,
    ),
)
_AS_PUBLISHED = Faults(swapped_colours=True, gaps_are_silent=True)
_EVEN = replace(_AS_PUBLISHED, unregistered_crop=UnregisteredCrop(Crop(even=True)))
_COLOUR_CROP = UnregisteredCrop(_SCANNET_CROP, size=_SCANNET_COLOUR)
_SCANNET_FAULTS = replace(_AS_PUBLISHED, unregistered_crop=_COLOUR_CROP)
_TAE_FAULTS = Faults(
    swapped_colours=True,
    gaps_are_silent=True,
    unregistered_crop=replace(_COLOUR_CROP, after=True),
    uncropped_camera=True,
    scenes_unknown=True,
)
VDA_LEGACY = Protocol(
    "vda-legacy",
    "the published scripts with what is wrong in them, to compare with old tables",
    (
        replace(_kitti, faults=_EVEN),
        replace(_scannet, faults=_SCANNET_FAULTS),
        replace(_bonn, faults=replace(_AS_PUBLISHED, paired_by_index=True)),
        replace(_nyuv2, faults=_AS_PUBLISHED),
        replace(_sintel, faults=replace(_AS_PUBLISHED, whole_metres=True)),
        replace(_scannet_tae, scenes=SCANNET, faults=_TAE_FAULTS),
    ),
)
MONST3R = Protocol(
    "monst3r",
    "scale alone, 14 Sintel scenes of the final pass, every pixel of equal weight",
    (
        replace(
            _sintel, scenes=SINTEL_14, rgb_pass="final", alignment="scale", title="Sintel-14", crop=WHOLE
        ),
        replace(
            _bonn, scenes=BONN_MONST3R, frames=range(30, 140), alignment="scale", title="Bonn-110", max_depth_m=70.0,
            faults=Faults(paired_by_index=True),
        ),
        replace(_kitti, frames=range(110), alignment="scale", title="KITTI-110", max_depth_m=70.0, crop=WHOLE),
    ),
    weighting="pixels",
)  # fmt: skip
PROTOCOLS: Mapping[str, Protocol] = {item.name: item for item in (VDA, VDA_SHORT, VDA_LEGACY, MONST3R)}


def describe(benchmark_set: BenchmarkSet) -> dict[str, Any]:
    """Return a set as JSON, which two runs have to share for their results to go together."""
    facts = asdict(benchmark_set)
    del facts["note"]
    frames, evaluated = benchmark_set.frames, benchmark_set.evaluated
    return {
        **facts,
        "frames": [frames.start, frames.stop, frames.step],
        "evaluated": [evaluated.start, evaluated.stop],
    }
