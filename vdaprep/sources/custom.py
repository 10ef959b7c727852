"""Anyone's own RGB-D videos, one folder each, in the layout that `vdaprep export` writes."""

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64

from vdaprep.errors import FrameError, UsageError
from vdaprep.raw.arrays import parse_npy, parse_table
from vdaprep.raw.frames import Cameras, FrameFiles, RgbImage, SourceOptions, Trajectory
from vdaprep.raw.images import parse_jpeg
from vdaprep.raw.png import parse_png, parse_png16
from vdaprep.raw.tree import Location, Reader, Tree

EXPECTED = (
    "NAME/rgb/000000.png or .jpg with NAME/depth/000000.npy (metres) or .png (16 bits, with --depth-unit), "
    "NAME/intrinsics.txt (fx fy cx cy) and, if known, NAME/camera_to_world.txt (16 numbers a frame)"
)

_FILE = re.compile(
    r"^(?:(?P<name>.+)/)?(?:rgb/(?P<rgb>\d+)\.(?i:png|jpe?g)|depth/(?P<depth>\d+)\.(?i:npy|png)|"
    r"(?P<table>camera_to_world|intrinsics)\.(?i:txt))$"
)
_UNFINISHED = re.compile(r"\.vdaprep-tmp\b")  # what an export left that died
_BEYOND_CODE = 65535


@dataclass(frozen=True)
class _Files(FrameFiles):
    """A frame's files, and the metres of a unit of its depth map if that is a PNG."""

    depth_unit_m: float | None = None


def find_trajectories(tree: Tree, options: SourceOptions) -> list[Trajectory]:
    """List the folders that hold `rgb`, by their paths below the root; every frame that has a file is listed.

    Raises UsageError if there is depth in PNG without a unit, or a unit without depth in PNG.
    """
    found: defaultdict[str, dict[str, dict[int, Location]]] = defaultdict(lambda: {"rgb": {}, "depth": {}})
    tables: defaultdict[str, dict[str, Location]] = defaultdict(dict)
    for path, location in tree.files.items():
        match = _FILE.match(path)
        if match is None or _UNFINISHED.search(match["name"] or ""):
            continue
        name = match["name"] or tree.root.resolve().name
        if match["table"]:
            tables[name].setdefault(match["table"], location)
            continue
        kind = "rgb" if match["rgb"] else "depth"
        _check_unit(location, kind, options.depth_unit_m)
        found[name][kind].setdefault(int(match[kind]), location)
    return [
        _trajectory(name, files, tables[name], options.depth_unit_m)
        for name, files in sorted(found.items())
        if files["rgb"]
    ]


def _check_unit(location: Location, kind: str, unit_m: int | float | None) -> None:
    if kind == "depth" and _is_png(location) != (unit_m is not None):
        advice = "say with --depth-unit how many metres a unit is, for example 0.001"
        if unit_m is not None:
            advice = "its metres need no --depth-unit; convert depth in npy and in PNG apart, each from its own --raw"
        raise UsageError(f"{location}: {advice}.")


def _trajectory(
    name: str, files: dict[str, dict[int, Location]], tables: Mapping[str, Location], unit_m: int | float | None
) -> Trajectory:
    rgb, depth = files["rgb"], files["depth"]
    unit_m = None if unit_m is None else float(unit_m)
    frames = tuple(_Files(i, rgb.get(i), depth.get(i), unit_m) for i in sorted(rgb.keys() | depth.keys()))
    return Trajectory(name, "custom", frames, tables)


def read_cameras(trajectory: Trajectory, reader: Reader, options: SourceOptions) -> Cameras:
    """Read `intrinsics.txt` (one line, or one a frame) unless `options` has intrinsics, and `camera_to_world.txt`.

    Lines belong to frames in order of their numbers.
    """
    count = len(trajectory.frames)
    problems: dict[int, str] = {}
    if options.intrinsics is not None:
        intrinsics = np.tile(np.array(options.intrinsics, np.float64), (count, 1))
    else:
        intrinsics = _read_intrinsics(trajectory, reader, problems)
    poses = _read_poses(trajectory, reader, problems)
    return Cameras(intrinsics, poses, problems, pose_file=trajectory.shared.get("camera_to_world"))


def _read_intrinsics(trajectory: Trajectory, reader: Reader, problems: dict[int, str]) -> Float64[np.ndarray, "n 4"]:
    count = len(trajectory.frames)
    location = trajectory.shared.get("intrinsics")
    if location is None:
        advice = "intrinsics.txt is missing; write one, fx fy cx cy, or say --intrinsics fx,fy,cx,cy"
        problems.update(dict.fromkeys(range(count), f"has no intrinsics: {advice}"))
        return np.full((count, 4), np.nan)
    table = _read_table(location, reader, columns=4, what="intrinsics", problems=problems, allowed=(1, count))
    result = np.repeat(table, count, axis=0) if len(table) == 1 else table
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
    table = _read_table(location, reader, columns=16, what="pose", problems=problems, allowed=(count,))
    return table.reshape(count, 4, 4)


def _read_table(
    location: Location,
    reader: Reader,
    *,
    columns: int,
    what: str,
    problems: dict[int, str],
    allowed: tuple[int, ...],
) -> Float64[np.ndarray, "rows columns"]:
    """Read rows of numbers, as many as `allowed` has, the frames last; what is missing is nan, and a problem."""
    frames = allowed[-1]
    nothing = np.full((frames, columns), np.nan)
    try:
        lines = parse_table(reader.read(location), location, columns=columns)
    except FrameError as error:
        problems.update(dict.fromkeys(range(frames), f"has no {what}: {error}"))
        return nothing
    if len(lines) not in allowed:
        expected = " or ".join(map(str, allowed))
        reason = f"has no {what}: {location} has {len(lines)} lines, expected {expected}"
        problems.update(dict.fromkeys(range(frames), reason))
        return nothing
    bad = f"of {location} is not {columns} numbers"
    for index, line in enumerate(lines):
        if line is None:
            hit = range(frames) if len(lines) == 1 else [index]
            problems.update(dict.fromkeys(hit, f"has no usable {what}: line {index + 1} {bad}"))
    return np.array([[np.nan] * columns if line is None else line for line in lines])


def read_rgb(files: FrameFiles, reader: Reader) -> RgbImage:
    """Read `rgb/000000.png` or `.jpg`; a JPEG is passed on as it is."""
    if files.rgb is None:
        raise FrameError(str(files.depth), "has no image beside it in rgb")
    data = reader.read(files.rgb)
    return RgbImage(parse_png(data, files.rgb)) if _is_png(files.rgb) else parse_jpeg(data, files.rgb)


def read_depth(files: FrameFiles, reader: Reader) -> Float32[np.ndarray, "h w"]:
    """Read `depth/000000.npy`, metres: inf is sky, nan and what is not positive is unknown; or `.png`, 16 bits.

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
