"""TartanAir: PNG frames, depth in npy (v1) or PNGs (v2), poses as text; folders or zips."""

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
from jaxtyping import Float32, Float64

from vdaprep.errors import FrameError
from vdaprep.raw.arrays import parse_npy
from vdaprep.raw.frames import Cameras, FrameFiles, RgbImage, SourceOptions, Trajectory
from vdaprep.raw.png import parse_png, parse_png_floats
from vdaprep.raw.tree import Location, Reader, Tree
from vdaprep.shards.cameras import poses_from_quaternions
from vdaprep.sources import _manifest
from vdaprep.sources._rows import frame_rows
from vdaprep.sources._slots import DIGITS, Folder, Found, gather, trajectory_of

EXPECTED = (
    "ENV/{Easy,Hard}/P000/image_left/000000_left.png (v1) or "
    "ENV/Data_{easy,hard}/P000/image_lcam_front/000000_lcam_front.png (v2), in folders or in zip files"
)


@dataclass(frozen=True)
class Layout:
    """How a version names its files."""

    version: str
    """Its name in the manifest."""
    levels: str
    """Folders between environment and trajectory, as a pattern."""
    camera: str
    """The camera that is read."""
    depth: str
    """The ending of depth maps."""
    dataset: str = "tartanair"
    """The data set whose manifest it is in."""
    digits: int = 3
    """Digits of a trajectory's number."""

    @functools.cached_property
    def folder(self) -> re.Pattern[str]:
        """Match a folder: root, env, level, number, and its frames' kind."""
        return re.compile(
            rf"^(?:(?:(?P<root>.*)/)?(?P<env>[^/]+)/)?(?P<level>{self.levels})/(?P<number>P\d{{{self.digits}}})"
            rf"(?:/(?P<kind>image|depth)_{self.camera})?$"
        )

    @functools.cached_property
    def frames(self) -> dict[str, re.Pattern[str]]:
        """Match the names of images and of depth maps."""
        return {
            "rgb": re.compile(rf"({DIGITS})_{self.camera}\.(?i:png)$"),
            "depth": re.compile(rf"({DIGITS})_{self.camera}_depth\.(?i:{self.depth})$"),
        }


_LAYOUTS = {
    "v1": Layout(version="1", levels="Easy|Hard", camera="left", depth="npy"),
    "v2": Layout(version="2", levels="Data_easy|Data_hard", camera="lcam_front", depth="png"),
}
GROUND = {
    "ground": Layout(
        version="1", levels="Data_omni|Data_diff|Data_anymal", camera="lcam_front", depth="png", dataset="tartanground",
        digits=4,
    )
}  # fmt: skip
"""The layout of TartanGround, which has TartanAir v2's files."""
_ALL = _LAYOUTS | GROUND
_LEVELS = "|".join(layout.levels for layout in _LAYOUTS.values())
_PLACE = re.compile(
    rf"(?:(?:^|/)(?P<env>[^/]+)/(?P<level>{_LEVELS})/|(?:^|/)(?P<flat_env>[^/]+)_(?P<flat_level>{_LEVELS})_)"
    rf"(?:[^/]*?(?P<number>P\d{{3}})(?!\d))?[^/]*\.(?i:zip)$"
)
_INSIDE = re.compile(rf"(?:^|/)([^/]+)/({_LEVELS})/P\d{{3}}/")
_UNIT = 0.1  # how far the length of a quaternion may be from 1
_SKY_M = 1000.0  # the sky is huge but finite: about 10,000 m and more
# Columns of a pose line: x forward, y right, z down to x right, y down, z forward.
_NED_TO_OPENCV = [1, 2, 0, 4, 5, 3, 6]


def find_trajectories(tree: Tree, options: SourceOptions) -> Found:
    """List trajectories `ENV/LEVEL/P000`, wherever they begin, with all their frames."""
    return find_in(tree, _LAYOUTS)


def find_in(tree: Tree, layouts: Mapping[str, Layout]) -> Found:
    """List the trajectories of some layouts."""
    claims, others = gather(tree, functools.partial(_folder, top=tree.root.resolve().name, layouts=layouts))
    return Found(tuple(trajectory_of(item) for item in claims if item.has("rgb", "depth")), tuple(others))


def named_by_place(archive: str, first: str) -> Sequence[str] | None:
    """Return the trajectories' names by `ENV/LEVEL/` or `ENV_LEVEL_` of a zip, or None.

    Also None if `first`, the archive's first member where that is known, is of another env or level.
    """
    match = _PLACE.search(archive)
    if match is None:
        return None
    env, level, number = match["env"] or match["flat_env"], match["level"] or match["flat_level"], match["number"]
    inside = _INSIDE.search(first)
    if first and (inside is None or inside.groups() != (env, level)):
        return None
    return [f"{env}/{level}/{number}"] if number else _numbered(env, level)


@functools.lru_cache(maxsize=64)
def _numbered(env: str, level: str) -> Sequence[str]:
    return [f"{env}/{level}/P{number:03d}" for number in range(1000)]


def _folder(path: str, *, top: str, layouts: Mapping[str, Layout]) -> Folder | None:
    for layout, facts in layouts.items():
        if match := facts.folder.match(path):
            name = f"{match['env'] or top}/{match['level']}/{match['number']}"
            kind = {"image": "rgb", "depth": "depth"}.get(match["kind"] or "", "")
            tables = {} if kind else {f"pose_{facts.camera}.txt": "pose"}
            return Folder((name, layout), match["root"] or "", kind, facts.frames.get(kind), tables)
    return None


def read_cameras(trajectory: Trajectory, reader: Reader, options: SourceOptions) -> Cameras:
    """Read `pose_left.txt` (v1) or `pose_lcam_front.txt`, and the renderer's intrinsics."""
    count = len(trajectory.frames)
    known, size = own_camera(trajectory.layout)
    intrinsics = np.tile(np.asarray(options.intrinsics or known, np.float64), (count, 1))
    poses, problems = _read_poses(trajectory, reader)
    pose_file = trajectory.shared.get("pose")
    said = options.intrinsics is not None
    return Cameras(intrinsics, poses, problems, size=None if said else size, pose_file=pose_file, said=said)


def own_camera(layout: str) -> tuple[tuple[float, ...], tuple[int, int]]:
    """Return the renderer's fx, fy, cx, cy and image size (width, height), by layout."""
    facts = _manifest.load(_ALL[layout].dataset).version(_ALL[layout].version)
    width, height = facts["size"]
    return tuple(facts["intrinsics"]), (width, height)


def _read_poses(trajectory: Trajectory, reader: Reader) -> tuple[Float64[np.ndarray, "n 4 4"], dict[int, str]]:
    count = len(trajectory.frames)
    poses = np.full((count, 4, 4), np.nan)
    problems: dict[int, str] = {}
    location = trajectory.shared.get("pose")
    if location is None:
        name = f"pose_{_ALL[trajectory.layout].camera}.txt"
        return poses, dict.fromkeys(range(count), f"has no pose: {name} is missing")
    ids = trajectory.frame_ids
    try:
        rows, lines = frame_rows(reader.read(location), location, columns=7, frame_ids=ids)
    except FrameError as error:
        return poses, dict.fromkeys(range(count), f"has no pose: {error}")
    with np.errstate(over="ignore", invalid="ignore"):
        usable = np.abs(np.sqrt((rows[:, 3:] ** 2).sum(axis=1)) - 1) <= _UNIT  # false where there is nan
    for index in np.flatnonzero(~usable).tolist():
        problems[index] = f"has no usable pose: line {lines[index]} of {location} is not a position and a rotation"
    poses[usable] = poses_from_lines(rows[usable])
    return poses, problems


def poses_from_lines(lines: Float64[np.ndarray, "n 7"]) -> Float64[np.ndarray, "n 4 4"]:
    """Turn `tx ty tz qx qy qz qw` lines into camera_to_world in OpenCV axes.

    Theirs: camera-to-world, x forward, y right, z down.
    """
    return poses_from_quaternions(lines[:, _NED_TO_OPENCV])


def line_from_pose(camera_to_world: Float64[np.ndarray, "4 4"]) -> Float64[np.ndarray, "7"]:
    """Undo `poses_from_lines` for one, up to the quaternion's sign."""
    rotation = camera_to_world[:3, :3]
    # The largest component of the quaternion is the column of this matrix that is safe to divide by.
    xx, yy, zz = np.diag(rotation)
    skew = rotation - rotation.T
    outer = np.empty((4, 4))  # 4 q qT
    outer[:3, :3] = rotation + rotation.T + (1 - np.trace(rotation)) * np.eye(3)
    outer[3, :3] = outer[:3, 3] = skew[2, 1], skew[0, 2], skew[1, 0]
    outer[3, 3] = 1 + xx + yy + zz
    column = outer[:, int(np.argmax(np.diag(outer)))]
    opencv = np.concatenate([camera_to_world[:3, 3], column / np.linalg.norm(column)])
    line = np.empty(7)
    line[_NED_TO_OPENCV] = opencv
    return line


def read_rgb(files: FrameFiles, reader: Reader) -> RgbImage:
    """Read `000000_left.png` or `000000_lcam_front.png`."""
    if files.rgb is None:
        raise FrameError(str(files.depth), f"has no image beside it in {_beside(files.depth, 'image')}")
    return RgbImage(parse_png(reader.read(files.rgb), files.rgb))


def read_depth(files: FrameFiles, reader: Reader) -> Float32[np.ndarray, "h w"]:
    """Read `000000_left_depth.npy` or `000000_lcam_front_depth.png`.

    At 1000 m and more it is sky; nan, infinity and what is not positive is unknown.
    """
    if files.depth is None:
        raise FrameError(str(files.rgb), f"has no depth map beside it in {_beside(files.rgb, 'depth')}")
    parse = parse_npy if files.depth.member.lower().endswith(".npy") else parse_png_floats
    depth_m = parse(reader.read(files.depth), files.depth)
    nearest, farthest = depth_m.min(), depth_m.max()  # nan if there is any; then no comparison holds
    if nearest > 0 and farthest < _SKY_M:
        return depth_m
    depth_m = depth_m.copy()
    if not (nearest > 0 and farthest < np.inf):
        depth_m[~((depth_m > 0) & (depth_m < np.inf))] = np.nan
    np.copyto(depth_m, np.float32(np.inf), where=depth_m >= _SKY_M)
    return depth_m


def _beside(location: Location | None, kind: str) -> str:
    """Name the folder, of images or depth maps, in which a file's counterpart should lie."""
    assert location is not None  # a frame has at least one file
    return f"{kind}_{PurePosixPath(location.member).parent.name.partition('_')[2]}"
