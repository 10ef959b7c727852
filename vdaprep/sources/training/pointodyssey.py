"""PointOdyssey 1.2: JPEG frames, 16-bit PNG depth, cameras of a sequence in an npz.

`anno.npz` also holds the tracks of thousands of points, so it may be larger than memory: only the two arrays of the
cameras are read. Some sequences have no such file; then nothing but `--intrinsics` says what their camera is.
"""

import functools
import re

import numpy as np
from jaxtyping import Float32

from vdaprep.errors import FrameError
from vdaprep.raw.arrays import parse_npz
from vdaprep.raw.frames import Cameras, FrameFiles, RgbImage, SourceOptions, Trajectory
from vdaprep.raw.images import parse_jpeg
from vdaprep.raw.png import parse_png16
from vdaprep.raw.tree import Reader, Tree
from vdaprep.sources._cameras import invert_poses
from vdaprep.sources._images import integer_depth
from vdaprep.sources._rows import rows_of_frames
from vdaprep.sources._slots import DIGITS, Folder, Found, gather, trajectory_of

EXPECTED = (
    "train/SEQUENCE/{rgbs/rgb_00000.jpg,depths/depth_00000.png,anno.npz}, in folders or in train.tar.gz, val.tar.gz, "
    "whole or in parts"
)

_FOLDER = re.compile(
    r"^(?:(?:(?P<root>.*)/)?(?P<split>train|val|test|sample)/)?(?P<sequence>[^/]+)(?:/(?P<kind>rgbs|depths))?$"
)
_FRAMES = {
    "rgb": re.compile(rf"rgb_({DIGITS})\.(?i:jpe?g)$"),
    "depth": re.compile(rf"depth_({DIGITS})\.(?i:png)$"),
}
_KINDS = {"rgbs": "rgb", "depths": "depth"}
_ANNO = "anno.npz"
_SHAPES = {"intrinsics": (3, 3), "extrinsics": (4, 4)}


def find_trajectories(tree: Tree, options: SourceOptions) -> Found:
    """List sequences as `train/kg`, wherever they begin, with all their frames."""
    claims, others = gather(tree, functools.partial(_folder, top=tree.root.resolve().name))
    return Found(tuple(trajectory_of(item) for item in claims if item.has("rgb", "depth")), tuple(others))


def _folder(path: str, *, top: str) -> Folder | None:
    match = _FOLDER.match(path)
    if match is None:
        return None
    trajectory = f"{match['split'] or top}/{match['sequence']}", "1.2"
    if match["kind"] is None:
        return Folder(trajectory, match["root"] or "", tables={_ANNO: "anno"})
    kind = _KINDS[match["kind"]]
    return Folder(trajectory, match["root"] or "", kind, _FRAMES[kind])


# ------------------------------------------------------------------------------------------------------------ cameras


def read_cameras(trajectory: Trajectory, reader: Reader, options: SourceOptions) -> Cameras:
    """Read `anno.npz`; without it there are no poses, and the intrinsics that `options` say."""
    count = len(trajectory.frames)
    said, location = options.intrinsics is not None, trajectory.shared.get("anno")
    intrinsics = np.tile(np.array(options.intrinsics or [np.nan] * 4, np.float64), (count, 1))
    if location is None:
        advice = f"{_ANNO} is missing, as in some sequences of the download; say --intrinsics fx,fy,cx,cy"
        problems = {} if said else dict.fromkeys(range(count), f"has no intrinsics: {advice}")
        return Cameras(intrinsics, None, problems, said=said)
    try:
        arrays = parse_npz(reader.open(location), location, _SHAPES)
        rows = list(rows_of_frames(len(arrays["extrinsics"]), trajectory.frame_ids, location))
        if len(arrays["intrinsics"]) != len(arrays["extrinsics"]):
            found = " and ".join(str(len(values)) for values in arrays.values())
            raise FrameError(str(location), f"has {found} intrinsics and extrinsics, expected as many; get it again")
    except FrameError as error:
        problems = dict.fromkeys(range(count), f"has no camera: {error}")
        return Cameras(intrinsics, np.full((count, 4, 4), np.nan), problems, pose_file=location, said=said)
    if not said:
        intrinsics = arrays["intrinsics"][rows][:, [0, 1, 0, 1], [0, 1, 2, 2]]
    return Cameras(intrinsics, invert_poses(arrays["extrinsics"][rows]), pose_file=location, said=said)


# ------------------------------------------------------------------------------------------------------------- frames


def read_rgb(files: FrameFiles, reader: Reader) -> RgbImage:
    """Read `rgbs/rgb_00000.jpg`, which keeps its bytes, to be passed on."""
    if files.rgb is None:
        raise FrameError(str(files.depth), "has no image of the same number in rgbs")
    return parse_jpeg(reader.read(files.rgb), files.rgb)


def read_depth(files: FrameFiles, reader: Reader) -> Float32[np.ndarray, "h w"]:
    """Read `depths/depth_00000.png`: 65535, for 1000 m and more, is background; 0 unknown."""
    if files.depth is None:
        raise FrameError(str(files.rgb), "has no depth map of the same number in depths")
    return integer_depth("pointodyssey", greatest="sky").take(parse_png16(reader.read(files.depth), files.depth))
