"""ScanNet v2: `.sens` recordings as published, or what SensReader exports of them.

Both have the same files (a `.sens` is listed as an archive of them). Colour and depth show the same view, so colour is
scaled down to the grid of the depth maps, whose intrinsics count. Where tracking was lost a pose is of infinities: the
frame is kept, without a pose, as benchmarks count it.
"""

import functools
import re
from dataclasses import replace

import numpy as np
from jaxtyping import Float32, Float64

from vdaprep.errors import FrameError
from vdaprep.raw.frames import Cameras, FrameFiles, RgbImage, SourceOptions, Trajectory
from vdaprep.raw.images import parse_pgm16
from vdaprep.raw.png import parse_png16
from vdaprep.raw.tree import Location, Reader, Tree
from vdaprep.sources import _manifest
from vdaprep.sources._images import integer_depth, parse_image
from vdaprep.sources._rows import read_rows
from vdaprep.sources._slots import DIGITS, Folder, Found, gather, trajectory_of

EXPECTED = (
    "SCAN.sens, or SCAN/{color/0.jpg,depth/0.png,pose/0.txt,intrinsic/intrinsic_depth.txt} as SensReader exports it"
)

_FOLDER = re.compile(r"^(?:(?P<root>(?:.*/)?(?P<scan>[^/]+?)(?:\.(?i:sens))?)/)?(?P<kind>color|depth|pose|intrinsic)$")
_FRAMES = {
    "color": re.compile(rf"({DIGITS})\.(?i:jpe?g|png)$"),
    "depth": re.compile(rf"({DIGITS})\.(?i:png|pgm)$"),
    "pose": re.compile(rf"({DIGITS})\.(?i:txt)$"),
    "intrinsic": None,
}
_KINDS = {"color": "rgb"}
_TABLES = {"intrinsic_depth.txt": "intrinsic"}
_NEAR = 0.1  # how far a principal point may be from the middle of images that it is of, in their size


def named_by_place(archive: str, first: str) -> tuple[str, ...] | None:
    """Return the scan that a `.sens` is of; other archives may hold any."""
    name = archive.partition("?")[0].rpartition("/")[2]
    return (name[: -len(".sens")],) if name.lower().endswith(".sens") else None


def find_trajectories(tree: Tree, options: SourceOptions) -> Found:
    """List scans by their names, `scene0707_00`, with all their frames."""
    claims, others = gather(tree, functools.partial(_folder, top=tree.root.resolve().name))
    scans = (item for item in claims if item.has("rgb") or (item.has("depth") and item.has("pose")))
    return Found(tuple(trajectory_of(item, more=("pose",)) for item in scans), tuple(others))


def _folder(path: str, *, top: str) -> Folder | None:
    match = _FOLDER.match(path)
    if match is None:
        return None
    kind = match["kind"]
    tables = _TABLES if kind == "intrinsic" else {}
    return Folder((match["scan"] or top, "v2"), match["root"] or "", _KINDS.get(kind, kind), _FRAMES[kind], tables)


# ------------------------------------------------------------------------------------------------------------ cameras


def read_cameras(trajectory: Trajectory, reader: Reader, options: SourceOptions) -> Cameras:
    """Read the intrinsics of depth, unless `options` has some, and the pose of every frame.

    A copy without any poses has none; where others have theirs, a missing one is a problem.
    """
    count = len(trajectory.frames)
    problems: dict[int, str] = {}
    size = None
    if options.intrinsics is not None:
        intrinsics = np.array(options.intrinsics, np.float64)
    else:
        try:
            intrinsics = _read_intrinsics(trajectory, reader)
            size = _known_size(intrinsics)
        except FrameError as error:
            intrinsics = np.full(4, np.nan)
            problems = dict.fromkeys(range(count), f"has no intrinsics: {error}")
    poses, without = _read_poses(trajectory, reader, problems)
    said = options.intrinsics is not None
    return Cameras(np.tile(intrinsics, (count, 1)), poses, problems, size=size, said=said, without_pose=without)


def _read_intrinsics(trajectory: Trajectory, reader: Reader) -> Float64[np.ndarray, "4"]:
    location = trajectory.shared.get("intrinsic")
    if location is None:
        raise FrameError(
            f"{trajectory.name}/intrinsic/intrinsic_depth.txt",
            "is missing; get it with SensReader's --export_intrinsics, or say --intrinsics fx,fy,cx,cy",
        )
    matrix = _read_matrix(reader.read(location), location)
    return matrix[[0, 1, 0, 1], [0, 1, 2, 2]]


def _known_size(intrinsics: Float64[np.ndarray, "4"]) -> tuple[int, int] | None:
    """Return the published size of depth maps, if a camera is of such; None for another one."""
    width, height = _manifest.load("scannet").version("test")["size"]
    off = np.abs(intrinsics[2:] / (width, height) - 0.5)
    return (width, height) if (off < _NEAR).all() else None


def _read_poses(
    trajectory: Trajectory, reader: Reader, problems: dict[int, str]
) -> tuple[Float64[np.ndarray, "n 4 4"] | None, frozenset[int]]:
    """Return poses, and the frames whose tracking was lost; adds to `problems`."""
    found = {index: trajectory.shared.get(str(number)) for index, number in enumerate(trajectory.frame_ids)}
    if not any(found.values()):
        return None, frozenset()
    poses = np.full((len(found), 4, 4), np.nan)
    lost: set[int] = set()
    for index, location in found.items():
        if location is None:
            name = f"pose/{trajectory.frame_ids[index]}.txt"
            problems.setdefault(index, f"has no pose: {name} is missing, though other frames have theirs")
            continue
        try:
            poses[index] = _read_matrix(reader.read(location), location)
        except FrameError as error:
            problems.setdefault(index, f"has no pose: {error}")
            continue
        if not np.isfinite(poses[index]).all():
            lost.add(index)
    return poses, frozenset(lost)


def _read_matrix(data: bytes, location: Location) -> Float64[np.ndarray, "4 4"]:
    rows = [row.words for row in read_rows(data, location)]
    if [len(row) for row in rows] != [4] * 4:
        found = sum(map(len, rows))
        raise FrameError(str(location), f"has {found} numbers in {len(rows)} rows, expected 4 rows of 4")
    try:
        return np.array(rows, dtype=np.str_).astype(np.float64)
    except ValueError as error:
        raise FrameError(str(location), "holds something else than numbers, expected 4 rows of 4 numbers") from error


# ------------------------------------------------------------------------------------------------------------- frames


def read_rgb(files: FrameFiles, reader: Reader) -> RgbImage:
    """Read `color/0.jpg`, to be scaled to the depth map's size if it is larger."""
    if files.rgb is None:
        raise FrameError(str(files.depth), "has no image beside it in color")
    return replace(parse_image(reader.read(files.rgb), files.rgb), covers_depth=True)


def read_depth(files: FrameFiles, reader: Reader) -> Float32[np.ndarray, "h w"]:
    """Read `depth/0.png` or `.pgm`: millimetres; 0 and 65535 are unknown."""
    if files.depth is None:
        raise FrameError(str(files.rgb), "has no depth map beside it in depth")
    data = reader.read(files.depth)
    parse = parse_pgm16 if files.depth.member.lower().endswith(".pgm") else parse_png16
    return integer_depth("scannet", greatest="unknown").take(parse(data, files.depth))
