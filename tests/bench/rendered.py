"""Rendered frames as a TartanAir download has them, and the shards made from them."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from vdaprep.conversion.convert import convert_plan
from vdaprep.conversion.options import Selection, Settings
from vdaprep.conversion.plan import ConversionPlan, make_plan
from vdaprep.raw.frames import Frame, RgbImage
from vdaprep.storage.output import LocalOutput
from vdaprep.synthetic import layouts
from vdaprep.synthetic.sample import render_as_frame, unpack
from vdaprep.synthetic.scene import make_scene
from vdaprep.workers.local import LocalExecutor

DATASET = "tartanair"
# Rendered surfaces are smoother than real ones: with this noise, PNG and depth members are as large as those of real
# 640x480 frames.
GREY_NOISE = 1.0
DEPTH_NOISE = 0.0004  # relative


@dataclass(frozen=True)
class Scale:
    """How much a bench does; `rounds` is how often each figure is taken, `peers`: whether other libraries take part."""

    width: int = 640
    height: int = 480
    frames: int = 64
    window: int = 32
    rounds: int = 7
    converted_frames: int = 3072
    stream_windows: int = 10
    peers: bool = True
    step_size: int = 112
    step_frames: int = 8
    steps: int = 24
    loss_shape: tuple[int, int, int, int] = (2, 16, 392, 392)
    variant_encoders: tuple[str, ...] = ("vits", "vitb")
    variant_size: int = 154
    variant_rounds: int = 5
    gpu_encoder: str = "vits"
    gpu_size: int = 518
    gpu_steps: int = 20
    matrix_side: int = 8192
    indexed_frames: tuple[int, ...] = (10_000, 100_000, 1_000_000)
    ordered_frames: int = 100_000_000
    benchmark_frames: int = 4
    benchmark_lengths: tuple[int, ...] = (100, 500)


QUICK = Scale(
    width=64,
    height=48,
    frames=8,
    window=4,
    rounds=2,
    converted_frames=16,
    stream_windows=3,
    peers=False,
    step_size=28,
    step_frames=2,
    steps=2,
    loss_shape=(1, 2, 28, 28),
    variant_encoders=("tiny",),
    variant_size=28,
    variant_rounds=1,
    gpu_encoder="tiny",
    gpu_size=28,
    gpu_steps=2,
    matrix_side=64,
    indexed_frames=(1_000,),
    ordered_frames=10_000,
    benchmark_frames=2,
    benchmark_lengths=(4, 24),
)


class Rendered:
    """A folder with one trajectory, raw and as shards; both are made when first asked for.

    Args:
        folder: Where they are made.
        scale: Their size.
        noisy: Whether they have the noise of real frames, or are smooth as those of `vdaprep sample`.
        data: A folder of real frames for tables that measure on these, too.
    """

    def __init__(self, folder: Path, scale: Scale, *, noisy: bool = True, data: Path | None = None) -> None:
        self._folder = folder
        self._noisy = noisy
        self.scale = scale
        self.data = data

    @property
    def note(self) -> str:
        """Say in a caption what the figures were taken on."""
        return f"Rendered frames of {self.scale.width}x{self.scale.height} with a little noise"

    @cached_property
    def raw(self) -> Path:
        root = self._folder / "raw"
        layout = layouts.load(DATASET)
        [name] = layout.trajectory_names(1, held_out=())
        unpack(root, layout.encode_files(name, ((frame,) for frame in _frames(self.scale, noisy=self._noisy))))
        return root

    @cached_property
    def plan(self) -> ConversionPlan:
        return make_plan(DATASET, raw=self.raw, settings=Settings(), selection=Selection())

    @cached_property
    def raw_files(self) -> list[tuple[Path, Path]]:
        """The image and the depth map of every frame."""
        [shard] = self.plan.shards
        frames = [frame for clip in shard.clips for frame in clip.trajectory.frames[clip.start : clip.stop]]
        return [(self.raw / str(frame.rgb), self.raw / str(frame.depth)) for frame in frames]

    @property
    def poses(self) -> Path:
        """The file of the camera's poses."""
        [path] = self.raw.rglob("pose_*.txt")
        return path

    @cached_property
    def shards(self) -> Path:
        out = self._folder / "shards"
        convert_plan(self.plan, output=LocalOutput(out / self.plan.dataset), executor=LocalExecutor(1))
        return out


def _frames(scale: Scale, *, noisy: bool) -> Iterator[Frame]:
    size = scale.width, scale.height
    intrinsics = layouts.load(DATASET).intrinsics(width=scale.width, height=scale.height)
    scene = make_scene(0)
    rng = np.random.default_rng(0)
    for number in range(scale.frames):
        seen = render_as_frame(scene, number, size=size, intrinsics=intrinsics)
        if not noisy:
            yield seen
            continue
        pixels = seen.rgb.pixels
        rgb = np.rint(pixels + rng.normal(0, GREY_NOISE, pixels.shape)).clip(0, 255).astype(np.uint8)
        depth_m = (seen.depth_m * rng.normal(1, DEPTH_NOISE, seen.depth_m.shape)).astype(np.float32)
        yield replace(seen, rgb=RgbImage(rgb), depth_m=depth_m)
