"""IRS: PNG frames of rooms, disparity in EXR; no poses, and cuts between paths.

The left camera is read. Disparity is in pixels of images of the published size, so that depth along z is 480 px x 0.1 m
/ disparity; what is not positive is unknown. `IRS_small`, every few-th frame of the other archives, is left out where a
scene is there as a whole.
"""

import functools
import re
from dataclasses import replace

import numpy as np
from jaxtyping import Float32

from vdaprep.errors import FrameError
from vdaprep.raw.exr import Expected, parse_exr
from vdaprep.raw.frames import Cameras, FrameFiles, RgbImage, SourceOptions, Trajectory
from vdaprep.raw.png import parse_png
from vdaprep.raw.tree import Reader, Tree
from vdaprep.sources import _manifest
from vdaprep.sources._slots import DIGITS, Folder, Found, gather, trajectory_of

EXPECTED = "Home/SCENE/{l_00001.png,d_00001.exr} of Home, Office, Restaurant and Store, in folders or in Home-1.tar.gz"

_CLASSES = "Home|Office|Restaurant|Store"
_FOLDER = re.compile(rf"^(?:(?P<root>.*)/)?(?P<name>(?:{_CLASSES})/[^/]+)$")
_SMALL = re.compile(r"(?:^|/)irs[^/]*small[^/]*(?:/|$)", re.IGNORECASE)
_FRAMES = {"rgb": re.compile(rf"l_({DIGITS})\.(?i:png)$"), "depth": re.compile(rf"d_({DIGITS})\.(?i:exr)$")}
_DISPARITY = Expected("G", "floats")


def find_trajectories(tree: Tree, options: SourceOptions) -> Found:
    """List the scenes, such as `Home/ArchVizInterior03Data_Dark`."""
    claims, others = gather(tree, functools.partial(_folder, whole=_scenes(tree)))
    return Found(tuple(trajectory_of(item) for item in claims if item.has("rgb", "depth")), tuple(others))


def _scenes(tree: Tree) -> frozenset[str]:
    """Return the scenes that are there outside IRS_small."""
    folders = {path.rpartition("/")[0] for path in tree.files}
    matches = [_FOLDER.match(folder) for folder in folders if not _SMALL.search(folder)]
    return frozenset(match["name"] for match in matches if match is not None)


def _folder(path: str, *, whole: frozenset[str]) -> Folder | None:
    match = _FOLDER.match(path)
    if match is None or (_SMALL.search(path) and match["name"] in whole):
        return None
    first, other = (Folder((match["name"], "1"), match["root"] or "", *frame) for frame in _FRAMES.items())
    return replace(first, beside=(other,))


# ------------------------------------------------------------------------------------------------------------ cameras


def read_cameras(trajectory: Trajectory, reader: Reader, options: SourceOptions) -> Cameras:
    """Return the published intrinsics, or those of `options`; there are no poses."""
    [facts] = _manifest.load("irs").versions
    said = options.intrinsics is not None
    intrinsics = np.tile(np.array(options.intrinsics or facts["intrinsics"], np.float64), (len(trajectory.frames), 1))
    return Cameras(intrinsics, None, size=None if said else (facts["size"][0], facts["size"][1]), said=said)


# ------------------------------------------------------------------------------------------------------------- frames


def read_rgb(files: FrameFiles, reader: Reader) -> RgbImage:
    """Read `l_00001.png`."""
    if files.rgb is None:
        raise FrameError(str(files.depth), "has no image l_ of the same number beside it")
    return RgbImage(parse_png(reader.read(files.rgb), files.rgb))


def read_depth(files: FrameFiles, reader: Reader) -> Float32[np.ndarray, "h w"]:
    """Read `d_00001.exr` as metres; FrameError for another size, whose pixels are others."""
    if files.depth is None:
        raise FrameError(str(files.rgb), "has no disparity d_ of the same number beside it")
    disparity_px = parse_exr(reader.read(files.depth), files.depth, _DISPARITY).astype(np.float64)
    [facts] = _manifest.load("irs").versions
    width, height = facts["size"]
    if disparity_px.shape != (height, width):
        found = f"{disparity_px.shape[1]}x{disparity_px.shape[0]}"
        raise FrameError(
            str(files.depth), f"is {found} pixels, expected {width}x{height}, in whose pixels disparity is"
        )
    known = np.isfinite(disparity_px) & (disparity_px > 0)
    depth_m = np.full(disparity_px.shape, np.nan)
    np.divide(facts["intrinsics"][0] * facts["baseline_m"], disparity_px, out=depth_m, where=known)
    return depth_m.astype(np.float32)
