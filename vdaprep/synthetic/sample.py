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
from jaxtyping import Float64

from vdaprep.errors import UsageError
from vdaprep.raw.frames import Frame, RgbImage
from vdaprep.sources import _manifest
from vdaprep.synthetic import layouts
from vdaprep.synthetic.render import render_frame
from vdaprep.synthetic.scene import make_scene
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

    def __post_init__(self) -> None:
        if min(self.trajectories, self.frames) < 1 or min(self.width, self.height) < 28:
            raise UsageError("a sample needs at least one trajectory, one frame and 28x28 pixels.")


def write_sample(
    dataset: str, *, out: Path, spec: SampleSpec, archives: bool, on_frame: Callable[[], None]
) -> list[str]:
    """Render a sample of `dataset` below `out`, packed or not; returns its trajectories.

    Raises UsageError if `out` holds anything already.
    """
    if out.exists() and any(out.iterdir()):
        raise UsageError(f"{out}: is not empty; choose another --out, or delete it first.")
    layout = layouts.load(dataset)
    held_out = [glob for globs in _manifest.load(dataset).splits["default"].values() for glob in globs]
    names = layout.trajectory_names(spec.trajectories, held_out=held_out)
    scenes = list(dict.fromkeys(layout.scene_name(name) for name in names))
    files = (
        file
        for name in names
        for file in layout.encode_files(
            name, _render(layout, spec, scene=scenes.index(layout.scene_name(name)), on_frame=on_frame)
        )
    )
    if archives:
        _pack(out, files, layout.archives_of)
    else:
        unpack(out, files)
    return names


def unpack(out: Path, files: Iterable[tuple[str, bytes]]) -> None:
    """Write files, given by their paths below `out`."""
    for path, data in files:
        target = out / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)


def _render(
    layout: layouts.Layout, spec: SampleSpec, *, scene: int, on_frame: Callable[[], None]
) -> Iterator[tuple[Frame, ...]]:
    intrinsics = layout.intrinsics(width=spec.width, height=spec.height)
    made = make_scene(spec.seed * 1000 + scene)
    for number in range(spec.frames):
        yield tuple(
            render_as_frame(made, number, size=(spec.width, spec.height), intrinsics=intrinsics, right_m=right_m)
            for right_m in layout.CAMERAS_M
        )
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
