"""Anyone's own RGB-D videos, one folder each, in the layout that `vdaprep export` writes."""

import functools
import re
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float32, Float64

from vdaprep.errors import FrameError, UsageError
from vdaprep.raw.arrays import parse_npy
from vdaprep.raw.frames import Cameras, FrameFiles, Frames, RgbImage, SourceOptions, Trajectory
from vdaprep.raw.images import parse_jpeg
from vdaprep.raw.png import parse_png, parse_png16
from vdaprep.raw.tree import Location, Reader, Tree
from vdaprep.sources._rows import frame_rows
from vdaprep.sources._slots import DIGITS, Folder, Found, gather, trajectory_of

EXPECTED = (
    "NAME/rgb/000000.png or .jpg with NAME/depth/000000.npy (metres) or .png (16 bits, with --depth-unit), "
    "NAME/intrinsics.txt (fx fy cx cy) and, if known, NAME/camera_to_world.txt (16 numbers a frame)"
)

_FOLDER = re.compile(r"^(?:(?P<name>.+)/)?(?P<kind>rgb|depth)$")
_FRAMES = {
    "rgb": re.compile(rf"({DIGITS})\.(?i:png|jpe?g)$"),
    "depth": re.compile(rf"({DIGITS})\.(?i:npy|png)$"),
}
_TABLES = {"camera_to_world.txt": "camera_to_world", "intrinsics.txt": "intrinsics"}
_UNFINISHED = re.compile(r"\.vdaprep-tmp\b")  # what an export left that died
_BEYOND_CODE = 65535


@dataclass(frozen=True)
class _Files(FrameFiles):
    """A frame's files, and the metres of a unit of its depth map if that is a PNG."""

    depth_unit_m: float | None = None


def find_trajectories(tree: Tree, options: SourceOptions) -> Found:
    """List the folders that hold `rgb`, by paths below the root, with all their frames.

    Raises UsageError if there is depth in PNG without a unit, or a unit without depth in PNG.
    """
    claims, others = gather(tree, functools.partial(_folder, top=tree.root.resolve().name))
    unit_m = None if options.depth_unit_m is None else float(options.depth_unit_m)
    found = [_with_unit(trajectory_of(item), unit_m) for item in claims if item.has("rgb")]
    return Found(tuple(found), tuple(others))


def _folder(path: str, *, top: str) -> Folder | None:
    if _UNFINISHED.search(path):
        return None
    if match := _FOLDER.match(path):
        kind = match["kind"]
        return Folder((match["name"] or top, "custom"), "", kind, _FRAMES[kind])
    return Folder((path or top, "custom"), "", tables=_TABLES)


def _with_unit(found: Trajectory, unit_m: float | None) -> Trajectory:
    for files in found.frames:
        if files.depth is not None and _is_png(files.depth) != (unit_m is not None):
            advice = "say with --depth-unit how many metres a unit is, for example 0.001"
            if unit_m is not None:
                advice = (
                    "its metres need no --depth-unit; convert depth in npy and in PNG apart, each from its own --raw"
                )
            raise UsageError(f"{files.depth}: {advice}.")
    assert isinstance(found.frames, Frames)  # they come from trajectory_of
    return replace(found, frames=found.frames.made_by(functools.partial(_Files, depth_unit_m=unit_m)))


def read_cameras(trajectory: Trajectory, reader: Reader, options: SourceOptions) -> Cameras:
    """Read `intrinsics.txt` (one row, or one a frame), if needed, and poses."""
    count = len(trajectory.frames)
    problems: dict[int, str] = {}
    if options.intrinsics is not None:
        intrinsics = np.tile(np.array(options.intrinsics, np.float64), (count, 1))
    else:
        intrinsics = _read_intrinsics(trajectory, reader, problems)
    poses = _read_poses(trajectory, reader, problems)
    pose_file = trajectory.shared.get("camera_to_world")
    return Cameras(intrinsics, poses, problems, pose_file=pose_file, said=options.intrinsics is not None)


def _read_intrinsics(trajectory: Trajectory, reader: Reader, problems: dict[int, str]) -> Float64[np.ndarray, "n 4"]:
    count = len(trajectory.frames)
    location = trajectory.shared.get("intrinsics")
    if location is None:
        advice = "intrinsics.txt is missing; write one, fx fy cx cy, or say --intrinsics fx,fy,cx,cy"
        problems.update(dict.fromkeys(range(count), f"has no intrinsics: {advice}"))
        return np.full((count, 4), np.nan)
    result = _read_table(trajectory, location, reader, what="intrinsics", problems=problems)
    for index in np.flatnonzero(np.isfinite(result[:, 0]) & (result[:, :2].min(axis=1) <= 0)).tolist():
        problems[index] = f"has no usable intrinsics: a focal length in {location} is not positive"
    return result


def _read_poses(
    trajectory: Trajectory, reader: Reader, problems: dict[int, str]
) -> Float64[np.ndarray, "n 4 4"] | None:
    count = len(trajectory.frames)
    location = trajectory.shared.get("camera_to_world")
    if location is None:
        return None
    return _read_table(trajectory, location, reader, what="pose", problems=problems).reshape(count, 4, 4)


_COLUMNS = {"intrinsics": 4, "pose": 16}


def _read_table(
    trajectory: Trajectory, location: Location, reader: Reader, *, what: str, problems: dict[int, str]
) -> Float64[np.ndarray, "rows columns"]:
    """Read the row of each frame; one that is missing or unusable is nan, and a problem."""
    ids, columns = trajectory.frame_ids, _COLUMNS[what]
    try:
        data = reader.read(location)
        table, lines = frame_rows(data, location, columns=columns, frame_ids=ids, alike=what == "intrinsics")
    except FrameError as error:
        problems.update(dict.fromkeys(range(len(ids)), f"has no {what}: {error}"))
        return np.full((len(ids), columns), np.nan)
    for index in np.flatnonzero(np.isnan(table).any(axis=1)).tolist():
        problems[index] = f"has no usable {what}: line {lines[index]} of {location} is not {columns} numbers"
    return table


def read_rgb(files: FrameFiles, reader: Reader) -> RgbImage:
    """Read `rgb/000000.png` or `.jpg`; a JPEG is passed on as it is."""
    if files.rgb is None:
        raise FrameError(str(files.depth), "has no image beside it in rgb")
    data = reader.read(files.rgb)
    return RgbImage(parse_png(data, files.rgb)) if _is_png(files.rgb) else parse_jpeg(data, files.rgb)


def read_depth(files: FrameFiles, reader: Reader) -> Float32[np.ndarray, "h w"]:
    """Read `depth/000000.npy`, metres (inf sky, nan and <= 0 unknown), or 16-bit `.png`.

    There, 0 is unknown and 65535, farther than the integers go, is sky.
    """
    if files.depth is None:
        raise FrameError(str(files.rgb), "has no depth map beside it in depth")
    data = reader.read(files.depth)
    if not _is_png(files.depth):
        depth_m = parse_npy(data, files.depth)
        return np.where(depth_m > 0, depth_m, np.float32(np.nan))
    assert isinstance(files, _Files)  # they come from find_trajectories, which refuses PNGs without a unit
    assert files.depth_unit_m is not None
    units = parse_png16(data, files.depth)
    depth_m = (units * files.depth_unit_m).astype(np.float32)
    depth_m[units == 0] = np.nan
    depth_m[units == _BEYOND_CODE] = np.inf
    return depth_m


def _is_png(location: Location) -> bool:
    return location.member.lower().endswith(".png")
