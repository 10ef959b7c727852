"""Clips to measure profiles on, rendered or real, and what the frames of one have lost when they are decoded."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Bool, Float32, Float64, UInt8

from tests.bench.rendered import DATASET, Rendered
from vdaprep import sources
from vdaprep.conversion.convert import convert_plan
from vdaprep.conversion.encode.profiles import Rgb
from vdaprep.conversion.options import Selection, Settings
from vdaprep.conversion.plan import ConversionPlan, make_plan
from vdaprep.raw.frames import SourceOptions
from vdaprep.raw.tree import Reader
from vdaprep.shards import dataset
from vdaprep.shards.depth_codes import log_range
from vdaprep.shards.reader import Clip
from vdaprep.shards.records import ShardRecord
from vdaprep.sources import _manifest
from vdaprep.storage.output import LocalOutput
from vdaprep.workers.local import LocalExecutor
from vdatrain.objectives.losses import STATIC_CHANGE

V1 = "v1"
SETTINGS = {name: Settings().with_profile(name) for name in (V1, "standard", "small", "tiny")}
SETTINGS["tiny, av1"] = replace(SETTINGS["tiny"], rgb=Rgb("av1", 20))
_HOLOLENS = SourceOptions(intrinsics=(495.558, 495.482, 269.503, 169.194))
_REAL = {"TartanAir": ("tartanair-real", SourceOptions()), "HoloLens": ("tartanair", _HOLOLENS)}


@dataclass(frozen=True)
class RawClip:
    """The first clip of a raw tree in TartanAir's layout."""

    name: str
    """What it is called in tables."""
    raw: Path
    """The raw tree."""
    source: SourceOptions = field(default_factory=SourceOptions)
    """What its conversion is told besides."""

    def plan(self, settings: Settings) -> ConversionPlan:
        """Plan the conversion of its trajectory alone."""
        return make_plan(
            DATASET, raw=self.raw, settings=replace(settings, source=self.source), selection=self._selection
        )

    @cached_property
    def _selection(self) -> Selection:
        settings = replace(SETTINGS[V1], source=self.source)
        plan = make_plan(DATASET, raw=self.raw, settings=settings, selection=Selection())
        return Selection(select=(plan.shards[0].clips[0].trajectory.name,), val=("none",))

    @cached_property
    def _content(self) -> tuple[UInt8[np.ndarray, "t h w 3"], Float32[np.ndarray, "t h w"], int]:
        plan, source = self.plan(SETTINGS[V1]), sources.load(DATASET)
        clip = plan.shards[0].clips[0]
        _, far_m = log_range(_manifest.load(DATASET).depth_spec(relative_error=SETTINGS[V1].depth_error, unit_m=None))
        with Reader(self.raw) as reader:
            files = [clip.trajectory.frames[index] for index in clip.indices]
            rgb = np.stack([source.read_rgb(one, reader).pixels for one in files])
            depth_m = np.stack([source.read_depth(one, reader) for one in files])
            depth_m = np.where(depth_m > 0, np.where(depth_m <= far_m, depth_m, np.inf), np.nan).astype(np.float32)
            return rgb, depth_m, reader.bytes_read

    @property
    def rgb(self) -> UInt8[np.ndarray, "t h w 3"]:
        """The source's frames."""
        return self._content[0]

    @property
    def depth_m(self) -> Float32[np.ndarray, "t h w"]:
        """The source's depth: nan unknown, inf sky and what is beyond the range that is stored."""
        return self._content[1]

    @property
    def raw_bytes(self) -> int:
        """What its images and depth maps take, outside of archives."""
        return self._content[2]

    @property
    def size(self) -> str:
        """Width x height."""
        height, width = self.depth_m.shape[1:]
        return f"{width}x{height}"

    def convert(self, name: str, folder: Path) -> tuple[Clip, ShardRecord]:
        """Convert it as SETTINGS[name] says; returns its clip and the record of its shard."""
        plan = self.plan(SETTINGS[name])
        convert_plan(plan, output=LocalOutput(folder / plan.dataset), executor=LocalExecutor(1))
        clip = dataset.open_shards(folder).clips(split="train")[0]
        record = ShardRecord.from_bytes(Path(str(clip.tar)).with_suffix(".json").read_bytes(), where=name)
        return clip, record


def raw_clips(rendered: Rendered, data: Path | None) -> list[RawClip]:
    """Return a rendered clip and, of a folder of real frames, those that it holds."""
    found = [RawClip(f"rendered {rendered.scale.width}x{rendered.scale.height}", rendered.raw)]
    if data is not None:
        found += [RawClip(name, data / folder, source) for name, (folder, source) in _REAL.items()]
    return found


# -------------------------------------------------------------------------------------------------------------- errors


@dataclass(frozen=True)
class Errors:
    """What decoded frames differ from their source in."""

    luma_db: float
    """PSNR of luma."""
    depth_max: float
    """Largest relative error of depth, in %, of pixels that both know."""
    depth_mean: float
    """Mean of it."""
    lost: float
    """Pixels of known depth, in %, that decode as unknown or as sky."""
    disparity: float
    """Mean absolute error of normalised disparity, in % of its own mean."""
    gradient: float
    """The same of its change from frame to frame, of pixels that the temporal loss counts."""


def errors(clip: RawClip, rgb: UInt8[np.ndarray, "t h w 3"], depth_m: Float32[np.ndarray, "t h w"]) -> Errors:
    """Compare decoded frames with their source; disparity is normalised by the range of the source."""
    true = clip.depth_m
    known = np.isfinite(true)
    both = known & np.isfinite(depth_m)
    off = np.abs(depth_m[both].astype(np.float64) / true[both] - 1)
    low, high = 1 / float(true[known].max()), 1 / float(true[known].min())
    truth, found = _normalised(true, low, high), _normalised(depth_m, low, high)
    compared = ~np.isnan(truth) & ~np.isnan(found)
    return Errors(
        luma_db=psnr(luma(rgb), luma(clip.rgb)),
        depth_max=100 * float(off.max()),
        depth_mean=100 * float(off.mean()),
        lost=100 * float((known & ~np.isfinite(depth_m)).sum() / known.sum()),
        disparity=_share(found - truth, truth, compared),
        gradient=_gradient(truth, found, compared),
    )


def _normalised(depth_m: Float32[np.ndarray, "t h w"], low: float, high: float) -> Float64[np.ndarray, "t h w"]:
    """Return disparity from 0 (farthest, sky) to 1 (nearest); nan where unknown."""
    disparity = 1 / depth_m.astype(np.float64)
    return np.where(np.isinf(depth_m), 0, (disparity - low) / max(high - low, 1e-12))


def _gradient(
    truth: Float64[np.ndarray, "t h w"], found: Float64[np.ndarray, "t h w"], known: Bool[np.ndarray, "t h w"]
) -> float:
    change, changed = np.diff(truth, axis=0), np.diff(found, axis=0)
    later = np.where(known, truth, np.nan)[1:]
    limit = STATIC_CHANGE * (np.nanmax(later, axis=(1, 2)) - np.nanmin(later, axis=(1, 2)))
    counts = known[1:] & known[:-1] & (np.abs(change) < limit[:, None, None])
    return _share(changed - change, change, counts)


def _share(error: np.ndarray, of: np.ndarray, where: Bool[np.ndarray, "t h w"]) -> float:
    return 100 * float(np.abs(error[where]).sum() / max(np.abs(of[where]).sum(), 1e-12))


def luma(frames: UInt8[np.ndarray, "t h w 3"]) -> UInt8[np.ndarray, "t h w"]:
    """Return the luma of frames."""
    return np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2YCrCb)[..., 0] for frame in frames]).astype(np.uint8)


def psnr(found: np.ndarray, expected: np.ndarray) -> float:
    """Return the peak signal to noise ratio of grey levels, in dB."""
    error = np.mean(
        [np.square(one.astype(np.int32) - other).mean() for one, other in zip(found, expected, strict=True)]
    )
    return 10 * math.log10(255**2 / max(float(error), 1e-9))


def member_kib(record: ShardRecord) -> Mapping[str, float]:
    """Return KiB a frame of images, depth, differences, and of all else that the tar holds."""
    frames = 1024 * record.num_frames
    sizes = {kind: size for kind, (_, size) in record.kinds.items()}
    parts = {
        "rgb": sizes.get("rgb.jpg", 0) + sizes.get("rgb.mp4", 0),
        "depth": sizes["depth.zst"],
        "diff": sizes.get("diff.zst", 0),
    }
    parts["rest"] = record.tar_bytes - sum(parts.values())
    return {"all": record.tar_bytes / frames} | {name: size / frames for name, size in parts.items()}
