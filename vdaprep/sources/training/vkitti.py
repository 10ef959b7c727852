"""Virtual KITTI 2.0.3 and 1.3.1: JPEG or PNG, 16-bit PNG depth in cm, text tables."""

import functools
import re
from collections import defaultdict

import numpy as np
from jaxtyping import Float32, Float64

from vdaprep.errors import FrameError, UsageError
from vdaprep.raw.frames import Cameras, FrameFiles, RgbImage, SourceOptions, Trajectory
from vdaprep.raw.png import parse_png16
from vdaprep.raw.tree import Location, Reader, Tree
from vdaprep.sources import _manifest
from vdaprep.sources._cameras import invert_poses
from vdaprep.sources._images import integer_depth, parse_image
from vdaprep.sources._rows import read_rows
from vdaprep.sources._slots import DIGITS, Folder, Found, gather, trajectory_of

EXPECTED = (
    "Scene01/clone/frames/rgb/Camera_0/rgb_00000.jpg (2.0.3) or vkitti_1.3.1_rgb/0001/clone/00000.png (1.3.1), "
    "in folders or in tar files"
)

V2, V1 = "2.0.3", "1.3.1"
_CAMERAS = 2
_FOLDERS = {
    V2: re.compile(
        r"^(?:(?P<root>.*)/)?(?P<scene>Scene\d\d)/(?P<variant>[^/]+)(?:/frames/(?P<kind>rgb|depth)/Camera_(?P<camera>\d))?$"
    ),
    V1: re.compile(
        r"^(?:(?P<root>.*)/)?vkitti_1\.3\.1_(?P<kind>rgb|depth)(?:gt)?/(?P<scene>\d{4})/(?P<variant>[^/]+)$"
    ),
}
_TABLE_OF_V1 = re.compile(
    r"^(?:(?P<root>.*)/)?vkitti_1\.3\.1_extrinsicsgt/(?P<scene>\d{4})_(?P<variant>[^/]+)\.(?i:txt)$"
)
_FRAMES = {
    (V2, "rgb"): re.compile(rf"rgb_({DIGITS})\.(?i:jpe?g)$"),
    (V2, "depth"): re.compile(rf"depth_({DIGITS})\.(?i:png)$"),
    (V1, "rgb"): re.compile(rf"({DIGITS})\.(?i:png)$"),
    (V1, "depth"): re.compile(rf"({DIGITS})\.(?i:png)$"),
}
TEXT_ARCHIVES = {V2: "vkitti_2.0.3_textgt.tar.gz", V1: "vkitti_1.3.1_extrinsicsgt.tar.gz"}
_TABLES = {"intrinsic.txt": "intrinsic", "extrinsic.txt": "extrinsic"}
_COLUMNS = {"intrinsic": 4, "extrinsic": 16}
SKY_CM = 65535
_NEAR_PX = 2.0  # intrinsics that are as near as this to the manifest's are of images of its size


def find_trajectories(tree: Tree, options: SourceOptions) -> Found:
    """List trajectories `Scene01/clone` (2.0.3), `0001/clone` (1.3.1) of a camera.

    Every frame that has a file is listed. Raises UsageError if no version, or nothing in the tree, has that camera.
    """
    if options.camera >= _CAMERAS:
        raise UsageError(f"--camera {options.camera}: Virtual KITTI has cameras 0 and 1.")
    cameras: set[int] = set()
    claims, others = gather(tree, functools.partial(_folder, camera=options.camera, cameras=cameras), _table_of_v1)
    found = tuple(trajectory_of(item) for item in claims if item.has("rgb", "depth"))
    if cameras and not found:
        there = " and ".join(map(str, sorted(cameras)))
        raise UsageError(f"--camera {options.camera}: {tree.root} has frames of camera {there} only.")
    return Found(found, tuple(others))


def _folder(path: str, *, camera: int, cameras: set[int]) -> Folder | None:
    """Tell what a folder of either layout holds; adds its frames' camera to `cameras`."""
    for layout, pattern in _FOLDERS.items():
        if match := pattern.match(path):
            part = match.groupdict()
            trajectory, root = (f"{part['scene']}/{part['variant']}", layout), part["root"] or ""
            if part["kind"] is None:
                return Folder(trajectory, root, tables=_TABLES)
            cameras.add(found := int(part.get("camera", 0)))
            return Folder(trajectory, root, part["kind"], _FRAMES[layout, part["kind"]]) if found == camera else None
    return None


def _table_of_v1(path: str) -> tuple[Folder, str] | None:
    match = _TABLE_OF_V1.match(path)
    return match and (Folder((f"{match['scene']}/{match['variant']}", V1), match["root"] or ""), "extrinsic")


# ------------------------------------------------------------------------------------------------------------ cameras


def read_cameras(trajectory: Trajectory, reader: Reader, options: SourceOptions) -> Cameras:
    """Read the poses, and the intrinsics: from intrinsic.txt, 1.3.1's only camera, or `options`."""
    camera = options.camera if trajectory.layout == V2 else None
    poses, problems = _read_poses(trajectory, reader, camera)
    count, size = len(trajectory.frames), None
    version = _manifest.load("vkitti").version(trajectory.layout)
    known = np.array(version["intrinsics"])
    if options.intrinsics is not None:
        intrinsics = np.tile(np.array(options.intrinsics, np.float64), (count, 1))
    elif trajectory.layout == V1:
        intrinsics = np.tile(known, (count, 1))
    else:
        intrinsics, missing = _read_intrinsics(trajectory, reader, camera)
        problems |= missing
    if options.intrinsics is None and not (np.abs(intrinsics - known) > _NEAR_PX).any():  # nan is not far off
        size = version["size"][0], version["size"][1]
    pose_file, said = trajectory.shared.get("extrinsic"), options.intrinsics is not None
    return Cameras(intrinsics, poses, problems, size=size, pose_file=pose_file, said=said)


def _read_intrinsics(
    trajectory: Trajectory, reader: Reader, camera: int | None
) -> tuple[Float64[np.ndarray, "n 4"], dict[int, str]]:
    intrinsics, problems = _read_table(trajectory, "intrinsic", reader, camera)
    for index, row in enumerate(intrinsics):
        if index not in problems and not (row[:2] > 0).all():
            location = trajectory.shared["intrinsic"]
            problems[index] = f"has no usable camera: its focal lengths in {location} are not positive"
    return intrinsics, problems


def _read_poses(
    trajectory: Trajectory, reader: Reader, camera: int | None
) -> tuple[Float64[np.ndarray, "n 4 4"], dict[int, str]]:
    rows, problems = _read_table(trajectory, "extrinsic", reader, camera)
    return invert_poses(rows.reshape(-1, 4, 4)), problems


def _read_table(
    trajectory: Trajectory, kind: str, reader: Reader, camera: int | None
) -> tuple[Float64[np.ndarray, "n k"], dict[int, str]]:
    """Read each frame's row of a table, nan without; `camera` None: no such column."""
    count = len(trajectory.frames)
    values = np.full((count, _COLUMNS[kind]), np.nan)
    location = trajectory.shared.get(kind)
    if location is None:
        reason = f"the {kind} table of {trajectory.name} is missing; it is in {TEXT_ARCHIVES[trajectory.layout]}"
        return values, dict.fromkeys(range(count), f"has no camera: {reason}")
    names = ("frame",) if camera is None else ("frame", "cameraID")
    try:
        rows, hint = _parse_rows(reader.read(location), location, names, columns=len(names) + _COLUMNS[kind])
    except FrameError as error:
        return values, dict.fromkeys(range(count), f"has no camera: {error}")
    problems: dict[int, str] = {}
    for index, frame_id in enumerate(trajectory.frame_ids):
        found = rows.get((frame_id,) if camera is None else (frame_id, camera), [])
        if len(found) == 1:
            values[index] = found[0]
            continue
        who = f"frame {frame_id}" if camera is None else f"frame {frame_id} and camera {camera}"
        problems[index] = f"has no camera: {location} has {len(found) or 'no'} rows for {who}{'' if found else hint}"
    return values, problems


def _parse_rows(
    data: bytes, location: Location, names: tuple[str, ...], *, columns: int
) -> tuple[dict[tuple[int, ...], list[list[float]]], str]:
    """Parse a table whose first columns, `names`, are whole numbers that identify a row.

    Returns the rows by those numbers, and what to say of lines that are no rows. Raises FrameError without a header.
    """
    lines = read_rows(data, location)
    header = lines[0].words if lines else ()
    if header[: len(names)] != names:
        found, expected = " ".join(header)[:40], " ".join(names)
        raise FrameError(str(location), f"begins with {found!r}, expected the header '{expected} ...'")
    rows: defaultdict[tuple[int, ...], list[list[float]]] = defaultdict(list)
    odd: list[int] = []
    for row in lines[1:]:
        values = row.numbers(columns)
        if values is None or any(not value.is_integer() for value in values[: len(names)]):
            odd.append(row.line)
        else:
            rows[tuple(int(value) for value in values[: len(names)])].append(values[len(names) :])
    return rows, f"; its line {odd[0]} is not {columns} numbers" if odd else ""


# ------------------------------------------------------------------------------------------------------------- frames


def read_rgb(files: FrameFiles, reader: Reader) -> RgbImage:
    """Read the image; a JPEG keeps its bytes, to be passed on."""
    if files.rgb is None:
        raise FrameError(str(files.depth), "has no image of the same number")
    return parse_image(reader.read(files.rgb), files.rgb)


def read_depth(files: FrameFiles, reader: Reader) -> Float32[np.ndarray, "h w"]:
    """Read the depth map: centimetres, 65535 is sky, 0 unknown."""
    if files.depth is None:
        raise FrameError(str(files.rgb), "has no depth map of the same number")
    return integer_depth("vkitti", greatest="sky").take(parse_png16(reader.read(files.depth), files.depth))
