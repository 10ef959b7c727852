"""7-Scenes: rooms by a Kinect; colour, depth and pose of a frame lie side by side.

Colour and depth are taken to be on one grid with the intrinsics that the authors give, as all do that evaluate on it.
"""

import functools
import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float32, Float64

from vdaprep.errors import FrameError
from vdaprep.raw.frames import Cameras, FrameFiles, RgbImage, SourceOptions, Trajectory
from vdaprep.raw.png import parse_png16
from vdaprep.raw.tree import Location, Reader, Tree
from vdaprep.sources import _manifest
from vdaprep.sources._cameras import by_frame, parse_each
from vdaprep.sources._images import integer_depth, parse_image
from vdaprep.sources._rows import read_rows
from vdaprep.sources._slots import DIGITS, Folder, Found, gather, trajectory_of

EXPECTED = (
    "SCENE/seq-01/frame-000000.{color.png or color.jpg,depth.png,pose.txt} of chess, fire, heads, office, pumpkin, "
    "redkitchen and stairs, in folders, in SCENE.zip, or in SCENE/seq-01.zip, as unpacking SCENE.zip leaves them"
)

_SCENES = "chess|fire|heads|office|pumpkin|redkitchen|stairs"  # others that use this layout have other cameras
_FOLDER = re.compile(rf"^(?:(?P<root>.*)/)?(?P<scene>{_SCENES})/(?P<sequence>seq-\d\d)$")
_ARCHIVE = re.compile(r"(?:^|/)(?:(?P<folder>[^/]+)/)?(?P<sequence>seq-\d\d)\.(?i:zip)$")
_FRAMES = {
    "rgb": re.compile(rf"frame-({DIGITS})\.color\.(?i:png|jpe?g)$"),
    "depth": re.compile(rf"frame-({DIGITS})\.depth\.(?i:png)$"),
    "pose": re.compile(rf"frame-({DIGITS})\.pose\.(?i:txt)$"),
}


def find_trajectories(tree: Tree, options: SourceOptions) -> Found:
    """List trajectories `SCENE/seq-01`, with all their frames."""
    top = tree.root.resolve().name
    claims, others = gather(
        tree, functools.partial(_folder, top=top), below=functools.cache(functools.partial(_below, top=top))
    )
    found = (trajectory_of(item, more=("pose",)) for item in claims if item.has("rgb", "depth"))
    return Found(tuple(found), tuple(others))


def _folder(path: str, *, top: str) -> Folder | None:
    match = _FOLDER.match(path if "/" in path else f"{top}/{path}")
    if match is None:
        return None
    trajectory, root = (f"{match['scene']}/{match['sequence']}", "7-scenes"), match["root"] or ""
    first, *others = (Folder(trajectory, root, kind, pattern) for kind, pattern in _FRAMES.items())
    return replace(first, beside=tuple(others))


def _below(archive: str, *, top: str) -> str:
    """Return the scene that `SCENE/seq-01.zip` lies in, whose paths begin with `seq-01`."""
    match = _ARCHIVE.search(archive)
    return "" if match is None else f"{match['folder'] or top}/"


def named_by_place(archive: str, first: str) -> Sequence[str] | None:
    """Return the trajectory's name by an archive `SCENE/seq-01.zip`, or None.

    Also None if `first`, the archive's first member where that is known, is not of that sequence.
    """
    match = _ARCHIVE.search(archive)
    if match is None or match["folder"] is None or (first and first.split("/")[0] != match["sequence"]):
        return None
    return [f"{match['folder']}/{match['sequence']}"]


# ------------------------------------------------------------------------------------------------------------ cameras


def read_cameras(trajectory: Trajectory, reader: Reader, options: SourceOptions) -> Cameras:
    """Read `frame-000000.pose.txt` of each frame, and the authors' intrinsics."""
    facts = _manifest.load("seven-scenes").versions[0]
    count, said = len(trajectory.frames), options.intrinsics is not None
    intrinsics = np.tile(np.array(options.intrinsics or facts["intrinsics"], np.float64), (count, 1))
    missing = "frame-{:06d}.pose.txt is missing".format
    found, problems = parse_each(trajectory, reader, _read_pose, missing=missing, what="pose")
    poses = by_frame(found, count=count, shape=(4, 4))
    size = None if said else (facts["size"][0], facts["size"][1])
    return Cameras(intrinsics, poses, problems, size=size, said=said)


def _read_pose(data: bytes, location: Location) -> Float64[np.ndarray, "4 4"]:
    """Parse camera_to_world: four rows of four numbers, metres, OpenCV axes."""
    rows = [row.numbers(4) for row in read_rows(data, location)]
    numbers = [row for row in rows if row is not None]
    if len(rows) != 4 or len(numbers) != 4:
        raise FrameError(str(location), f"is {len(rows)} rows, expected 4 of 4 numbers; get the file again")
    return np.array(numbers)


# ------------------------------------------------------------------------------------------------------------- frames


def read_rgb(files: FrameFiles, reader: Reader) -> RgbImage:
    """Read `frame-000000.color.png` or `.jpg`; a JPEG is passed on as it is."""
    if files.rgb is None:
        raise FrameError(str(files.depth), "has no image color.png or color.jpg beside it")
    return parse_image(reader.read(files.rgb), files.rgb)


def read_depth(files: FrameFiles, reader: Reader) -> Float32[np.ndarray, "h w"]:
    """Read `frame-000000.depth.png`: millimetres, 0 and 65535 unknown."""
    if files.depth is None:
        raise FrameError(str(files.rgb), "has no depth map depth.png beside it")
    return integer_depth("seven-scenes", greatest="unknown").take(parse_png16(reader.read(files.depth), files.depth))
