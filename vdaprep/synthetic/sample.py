"""Render a small data set of synthetic scenes into the exact raw layout of a real one."""

import gzip
import io
import tarfile
import zipfile
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

import numpy as np

from vdaprep import sources
from vdaprep.errors import UsageError
from vdaprep.raw.frames import Frame, RgbImage
from vdaprep.sources import _manifest
from vdaprep.synthetic.render import render_frame
from vdaprep.synthetic.scene import make_scene
from vdaprep.synthetic.world import Scene

_DOS_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest date that a zip can hold: equal samples are equal bytes


@dataclass(frozen=True)
class SampleSpec:
    """How much to render: trajectories of `frames` frames of `width` x `height` pixels, scenes drawn from `seed`."""

    trajectories: int = 8
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
    held_out = [glob for globs in _manifest.load(dataset).splits["default"].values() for glob in globs]
    names = source.sample_names(spec.trajectories, held_out=held_out)
    worlds = list(dict.fromkeys(source.sample_world(name) for name in names))
    files = (
        file
        for name in names
        for file in source.sample_files(
            name, _render(source, spec, world=worlds.index(source.sample_world(name)), on_frame=on_frame)
        )
    )
    if archives:
        _pack(out, files, source.sample_archives)
    else:
        _unpack(out, files)
    return names


def _render(
    source: sources.Source, spec: SampleSpec, *, world: int, on_frame: Callable[[], None]
) -> Iterator[tuple[Frame, ...]]:
    intrinsics = source.sample_intrinsics(width=spec.width, height=spec.height)
    fx, fy, cx, cy = intrinsics.tolist()
    camera = _Camera(spec.width, spec.height, (fx, fy, cx, cy))
    scene = make_scene(spec.seed * 1000 + world)
    for number in range(spec.frames):
        yield tuple(_frame(scene, number, camera, right_m) for right_m in source.SAMPLE_CAMERAS_M)
        on_frame()


@dataclass(frozen=True)
class _Camera:
    """A camera's size in pixels and its fx, fy, cx, cy."""

    width: int
    height: int
    intrinsics: tuple[float, float, float, float]


def _frame(scene: Scene, number: int, camera: _Camera, right_m: float) -> Frame:
    seen = render_frame(
        scene,
        frame=number,
        width=camera.width,
        height=camera.height,
        intrinsics=camera.intrinsics,
        right_m=right_m,
    )
    return Frame(number, RgbImage(seen.rgb), seen.depth_m, np.array(camera.intrinsics), seen.camera_to_world)


def _unpack(out: Path, files: Iterable[tuple[str, bytes]]) -> None:
    for path, data in files:
        target = out / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)


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
