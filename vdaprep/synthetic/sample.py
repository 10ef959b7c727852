"""Render a small data set of synthetic scenes into the exact raw layout of a real one."""

import gzip
import io
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import IO, cast

import numpy as np
from jaxtyping import Float64

from vdaprep.errors import UsageError
from vdaprep.raw.frames import Frame, RgbImage
from vdaprep.shards.pictures.stress import IMAGE_KINDS, SCENE_KINDS, Kinds, Stress
from vdaprep.sources import _manifest
from vdaprep.synthetic import layouts
from vdaprep.synthetic.render import render_frame
from vdaprep.synthetic.scene import crossed, make_scene, shaken
from vdaprep.synthetic.world import Scene

_DOS_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest date that a zip can hold: equal samples are equal bytes


@dataclass(frozen=True)
class SampleSpec:
    """How much to render."""

    trajectories: int = 8
    """Number of trajectories."""
    frames: int = 32
    """Frames of each."""
    width: int = 320
    """Pixels."""
    height: int = 240
    """Pixels."""
    seed: int = 0
    """What the scenes are drawn from."""
    stress: tuple[Kinds, ...] = ()
    """What trajectories are put under: each in its turn one of these, with strengths and times of its own."""
    splits: str = "default"
    """The split set of which the last quarter has names that are held out."""
    own_worlds: bool = False
    """Whether data sets of equal seeds show different worlds."""

    def __post_init__(self) -> None:
        if min(self.trajectories, self.frames) < 1 or min(self.width, self.height) < 28:
            raise UsageError("a sample needs at least one trajectory, one frame and 28x28 pixels.")


PRESETS: Mapping[str, SampleSpec] = MappingProxyType(
    {"study": SampleSpec(60, 32, 160, 120, splits="study", own_worlds=True)},
)
"""Samples of fixed sizes: `study` is for comparing models, with enough held-out scenes for an interval."""
STRESS_KINDS = (*IMAGE_KINDS, *SCENE_KINDS)
"""All kinds of stress that can be rendered."""


def preset(name: str, dataset: str) -> SampleSpec:
    """Return a preset, with no more trajectories than the data set names and a split set of its.

    Raises UsageError if there is no such preset, or the data set has no samples.
    """
    if name not in PRESETS:
        raise UsageError(f"--preset {name}: there is no such preset; known: {', '.join(PRESETS)}.")
    spec, layout = PRESETS[name], layouts.load(dataset)
    return replace(
        spec,
        trajectories=min(spec.trajectories, layout.MAX_TRAJECTORIES),
        splits=spec.splits if spec.splits in _manifest.load(dataset).splits else "default",
    )


def write_sample(
    dataset: str, *, out: Path, spec: SampleSpec, archives: bool, on_frame: Callable[[], None]
) -> dict[str, Kinds]:
    """Render a sample of `dataset` below `out`, packed or not; returns each trajectory's stress.

    Raises UsageError if `out` holds anything already, or the data set has no such split set or not as many names.
    """
    if out.exists() and any(out.iterdir()):
        raise UsageError(f"{out}: is not empty; choose another --out, or delete it first.")
    layout = layouts.load(dataset)
    if spec.trajectories > layout.MAX_TRAJECTORIES:
        raise UsageError(
            f"--trajectories {spec.trajectories}: a sample of {dataset} has {layout.MAX_TRAJECTORIES} at most."
        )
    facts = _manifest.load(dataset)
    globs = [glob for globs in facts.split_set(spec.splits).values() for glob in globs]
    held_out = [glob for glob in globs if not _manifest.matches(glob, facts.exclude)]  # which convert would leave out
    names = layout.trajectory_names(spec.trajectories, held_out=held_out)
    worlds = _worlds(spec, dataset, {name: layout.scene_name(name) for name in names})
    stress = _stress_of(spec, names)
    files = (
        file
        for name in names
        for file in layout.encode_files(
            name, _render(layout, spec, stress=stress[name], world=worlds[name], on_frame=on_frame)
        )
    )
    if archives:
        _pack(out, files, layout.archives_of)
    else:
        unpack(out, files)
    return {name: one.kinds for name, one in stress.items()}


def _worlds(spec: SampleSpec, dataset: str, scenes: Mapping[str, str]) -> dict[str, int]:
    """Return the seed of each trajectory's world, given its scene; equal scenes show one."""
    first = (zlib.crc32(dataset.encode()) + spec.seed if spec.own_worlds else spec.seed) * 1000
    different = list(dict.fromkeys(scenes.values()))
    return {name: first + different.index(scene) for name, scene in scenes.items()}


def _stress_of(spec: SampleSpec, names: list[str]) -> dict[str, Stress]:
    """Give trajectories the alternatives in turn, so that each split has about as many of each."""
    kinds = spec.stress or ((),)
    first = int(np.random.default_rng(spec.seed).integers(len(kinds)))
    return {name: Stress(kinds[(first + i) % len(kinds)], spec.seed, name) for i, name in enumerate(names)}


def unpack(out: Path, files: Iterable[tuple[str, bytes]]) -> None:
    """Write files, given by their paths below `out`."""
    for path, data in files:
        target = out / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)


def _render(
    layout: layouts.Layout, spec: SampleSpec, *, stress: Stress, world: int, on_frame: Callable[[], None]
) -> Iterator[tuple[Frame, ...]]:
    size = (spec.width, spec.height)
    intrinsics = layout.intrinsics(width=spec.width, height=spec.height)
    made = make_scene(world)
    if "objects" in stress.kinds:
        made = crossed(made, stress.generator("objects"), frames=spec.frames)
    if "shake" in stress.kinds:
        made = shaken(made, stress.generator("shake"))
    for number in range(spec.frames):
        shot: list[Frame] = []
        for camera, right_m in enumerate(layout.CAMERAS_M):
            frame = render_as_frame(made, number, size=size, intrinsics=intrinsics, right_m=right_m)
            frame = layout.in_weather(stress.name, frame)
            pixels = stress.apply(frame.rgb.pixels, frame=number, camera=camera)
            shot.append(replace(frame, rgb=RgbImage(pixels)))
        yield tuple(shot)
        on_frame()


def render_as_frame(
    scene: Scene, number: int, *, size: tuple[int, int], intrinsics: Float64[np.ndarray, "4"], right_m: float = 0.0
) -> Frame:
    """Render frame `number` of a scene, `size` (width, height), as a source reads it."""
    fx, fy, cx, cy = intrinsics.tolist()
    width, height = size
    seen = render_frame(scene, frame=number, width=width, height=height, intrinsics=(fx, fy, cx, cy), right_m=right_m)
    return Frame(number, RgbImage(seen.rgb), seen.depth_m, intrinsics, seen.camera_to_world)


def _pack(out: Path, files: Iterable[tuple[str, bytes]], archives_of: Callable[[str], list[str]]) -> None:
    """Write every file into its archives; equal files give equal archives."""
    with ExitStack() as stack:
        opened: dict[str, Callable[[str, bytes], None]] = {}
        for path, data in files:
            for name in archives_of(path):
                if name not in opened:
                    (out / name).parent.mkdir(parents=True, exist_ok=True)
                    opened[name] = stack.enter_context(_open_archive(out / name))
                opened[name](path, data)


@contextmanager
def _open_archive(path: Path) -> Generator[Callable[[str, bytes], None]]:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            yield lambda name, data: archive.writestr(zipfile.ZipInfo(name, _DOS_EPOCH), data, zipfile.ZIP_DEFLATED)
        return
    with ExitStack() as stack:
        file: IO[bytes] = stack.enter_context(path.open("wb"))
        if path.name.endswith(".tar.gz"):
            packed = gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0, compresslevel=6)
            file = cast(IO[bytes], stack.enter_context(packed))
        tar = stack.enter_context(tarfile.open(fileobj=file, mode="w"))
        yield lambda name, data: _add(tar, name, data)


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))
