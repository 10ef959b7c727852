"""Render a small data set of synthetic scenes into the exact raw layout of a real one."""

import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from vdaprep import manifest, sources
from vdaprep.errors import UsageError
from vdaprep.frames import Frame, RgbImage
from vdaprep.render import render_frame
from vdaprep.scene import make_scene

_DOS_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest date that a zip can hold: equal samples are equal bytes


@dataclass(frozen=True)
class SampleSpec:
    """How much to render: trajectories of `frames` frames of `width` x `height` pixels, scenes drawn from `seed`."""

    trajectories: int = 4
    frames: int = 32
    width: int = 320
    height: int = 240
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.trajectories, self.frames) < 1 or min(self.width, self.height) < 28:
            raise UsageError("a sample needs at least one trajectory, one frame and 28x28 pixels.")


def write_sample(
    dataset: str, *, out: Path, spec: SampleSpec, archives: bool, on_frame: Callable[[], None]
) -> list[str]:
    """Render a sample of `dataset` below `out`, unpacked or in the archives of the download; returns its trajectories.

    Raises UsageError if `out` holds anything already.
    """
    if out.exists() and any(out.iterdir()):
        raise UsageError(f"{out}: is not empty; choose another --out, or delete it first.")
    source = sources.load(dataset)
    held_out = [glob for globs in manifest.load(dataset).splits["default"].values() for glob in globs]
    names = source.sample_names(spec.trajectories, held_out=held_out)
    for number, name in enumerate(names):
        frames = _render(dataset, spec, scene_seed=spec.seed * 1000 + number, on_frame=on_frame)
        files = source.sample_files(name, frames)
        if archives:
            _pack(out, files, source.sample_archives)
        else:
            _unpack(out, files)
    return names


def _render(dataset: str, spec: SampleSpec, *, scene_seed: int, on_frame: Callable[[], None]) -> Iterator[Frame]:
    intrinsics = sources.load(dataset).sample_intrinsics(width=spec.width, height=spec.height)
    fx, fy, cx, cy = intrinsics.tolist()
    scene = make_scene(scene_seed)
    for number in range(spec.frames):
        seen = render_frame(scene, frame=number, width=spec.width, height=spec.height, intrinsics=(fx, fy, cx, cy))
        yield Frame(number, RgbImage(seen.rgb), seen.depth_m, intrinsics, seen.camera_to_world)
        on_frame()


def _unpack(out: Path, files: Iterable[tuple[str, bytes]]) -> None:
    for path, data in files:
        target = out / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)


def _pack(out: Path, files: Iterable[tuple[str, bytes]], archives_of: Callable[[str], list[str]]) -> None:
    for path, data in files:
        for name in archives_of(path):
            archive = out / name
            archive.parent.mkdir(parents=True, exist_ok=True)
            with zipfile.ZipFile(archive, "a", zipfile.ZIP_DEFLATED) as file:
                file.writestr(zipfile.ZipInfo(path, _DOS_EPOCH), data, zipfile.ZIP_DEFLATED)
