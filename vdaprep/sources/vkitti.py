"""Virtual KITTI 2.0.3 and 1.3.1: JPEG or PNG frames, 16-bit PNG depth in centimetres, cameras in text tables."""

import functools
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64, UInt16

from vdaprep.errors import FrameError, UsageError
from vdaprep.raw.frames import Cameras, Frame, FrameFiles, RgbImage, SourceOptions, Trajectory, pair_files
from vdaprep.raw.images import encode_png16, parse_jpeg, parse_png, parse_png16, parse_table
from vdaprep.raw.tree import Location, Reader, Tree
from vdaprep.shards import codec
from vdaprep.shards.cameras import is_rigid
from vdaprep.sources import _manifest

EXPECTED = (
    "Scene01/clone/frames/rgb/Camera_0/rgb_00000.jpg (2.0.3) or vkitti_1.3.1_rgb/0001/clone/00000.png (1.3.1), "
    "in folders or in tar files"
)
SAMPLE_CAMERAS_M = (0.0, 0.532725)

_V2, _V1 = "2.0.3", "1.3.1"
_FILES = {
    _V2: re.compile(
        r"^(?:.*/)?(?P<scene>Scene\d\d)/(?P<variant>[^/]+)/(?:(?P<table>intrinsic|extrinsic)\.(?i:txt)|"
        r"frames/(?P<kind>(?P<image>rgb)|depth)/Camera_(?P<camera>\d)/(?P=kind)_(?P<frame>\d+)\.(?i:(?(image)jpe?g|png)))$"
    ),
    _V1: re.compile(
        r"^(?:.*/)?vkitti_1\.3\.1_(?:(?P<table>extrinsic)sgt/|(?P<kind>rgb|depth)(?:gt)?/)"
        r"(?P<scene>\d{4})(?(table)_|/)(?P<variant>[^/]+)(?(table)\.(?i:txt)|/(?P<frame>\d+)\.(?i:png))$"
    ),
}
_TEXT_ARCHIVES = {_V2: "vkitti_2.0.3_textgt.tar.gz", _V1: "vkitti_1.3.1_extrinsicsgt.tar.gz"}
_COLUMNS = {"intrinsic": 4, "extrinsic": 16}
_SKY_CM = 65535


def find_trajectories(tree: Tree, options: SourceOptions) -> list[Trajectory]:
    """List trajectories `Scene01/clone` (2.0.3) and `0001/clone` (1.3.1) of the camera that `options` names.

    Every frame that has a file is listed. Raises UsageError if no version, or nothing in the tree, has that camera.
    """
    if options.camera >= len(SAMPLE_CAMERAS_M):
        raise UsageError(f"--camera {options.camera}: Virtual KITTI has cameras 0 and 1.")
    found: defaultdict[tuple[str, str], dict[str, dict[int, Location]]] = defaultdict(lambda: {"rgb": {}, "depth": {}})
    tables: defaultdict[tuple[str, str], dict[str, Location]] = defaultdict(dict)
    cameras: set[int] = set()
    for key, part, location in _known_files(tree):
        if part["table"]:
            tables[key].setdefault(part["table"], location)
            continue
        camera = int(part.get("camera", 0))
        cameras.add(camera)
        if camera == options.camera:
            found[key][part["kind"]].setdefault(int(part["frame"]), location)
    if cameras and not found:
        there = " and ".join(map(str, sorted(cameras)))
        raise UsageError(f"--camera {options.camera}: {tree.root} has frames of camera {there} only.")
    return [_trajectory(name, layout, files, tables[name, layout]) for (name, layout), files in sorted(found.items())]


def _known_files(tree: Tree) -> Iterator[tuple[tuple[str, str], dict[str, str], Location]]:
    """Go through the files of both layouts: the trajectory's name and layout, what else the path says, the file."""
    for layout, pattern in _FILES.items():
        for path, location in tree.files.items():
            match = pattern.match(path)
            if match is not None:
                part = match.groupdict()
                yield (f"{part['scene']}/{part['variant']}", layout), part, location


def _trajectory(
    name: str, layout: str, files: Mapping[str, Mapping[int, Location]], tables: Mapping[str, Location]
) -> Trajectory:
    frames = pair_files(files["rgb"], files["depth"])
    return Trajectory(name, layout, frames, tables)


# ------------------------------------------------------------------------------------------------------------ cameras


def read_cameras(trajectory: Trajectory, reader: Reader, options: SourceOptions) -> Cameras:
    """Read the poses, and the intrinsics: from intrinsic.txt, 1.3.1's only camera, or `options`."""
    camera = options.camera if trajectory.layout == _V2 else None
    poses, problems = _read_poses(trajectory, reader, camera)
    count = len(trajectory.frames)
    if options.intrinsics is not None:
        return Cameras(np.tile(np.array(options.intrinsics, np.float64), (count, 1)), poses, problems)
    if trajectory.layout == _V1:
        version = _version(_V1)
        width, height = version["size"]
        return Cameras(np.tile(np.array(version["intrinsics"]), (count, 1)), poses, problems, size=(width, height))
    intrinsics, missing = _read_table(trajectory, "intrinsic", reader, camera)
    for index in range(count):
        if index not in missing and not (intrinsics[index, :2] > 0).all():
            location = trajectory.shared["intrinsic"]
            missing[index] = f"has no usable camera: its focal lengths in {location} are not positive"
    return Cameras(intrinsics, poses, problems | missing)


def _version(name: str) -> Mapping[str, Any]:
    return next(version for version in _manifest.load("vkitti").versions if version["name"] == name)


def _read_poses(
    trajectory: Trajectory, reader: Reader, camera: int | None
) -> tuple[Float64[np.ndarray, "n 4 4"], dict[int, str]]:
    rows, problems = _read_table(trajectory, "extrinsic", reader, camera)
    poses = np.full((len(rows), 4, 4), np.nan)
    for index, row in enumerate(rows):
        if index in problems:
            continue
        pose = pose_from_row(row)
        if pose is None:
            location = trajectory.shared["extrinsic"]
            problems[index] = f"has no usable pose: its row in {location} is not a rotation and a position"
        else:
            poses[index] = pose
    return poses, problems


def pose_from_row(row: Float64[np.ndarray, "16"]) -> Float64[np.ndarray, "4 4"] | None:
    """Turn a row-major world-to-camera matrix (OpenCV axes) into camera_to_world; None if it is not rigid."""
    world_to_camera = row.reshape(4, 4)
    return np.linalg.inv(world_to_camera) if is_rigid(world_to_camera) else None


def _read_table(
    trajectory: Trajectory, kind: str, reader: Reader, camera: int | None
) -> tuple[Float64[np.ndarray, "n k"], dict[int, str]]:
    """Read each frame's row of a table, nan where there is none; `camera` None: the table has no column for it."""
    count = len(trajectory.frames)
    values = np.full((count, _COLUMNS[kind]), np.nan)
    location = trajectory.shared.get(kind)
    if location is None:
        reason = f"the {kind} table of {trajectory.name} is missing; it is in {_TEXT_ARCHIVES[trajectory.layout]}"
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
    """Parse a table whose first columns, called `names`, are whole numbers that a row is found by.

    Returns the rows by those numbers, and what to say of lines that are no rows. Raises FrameError without a header.
    """
    lines = parse_table(data, location, columns=columns)
    header = data.split(b"\n", 1)[0].decode("ascii").split()
    if tuple(header[: len(names)]) != names:
        found, expected = " ".join(header)[:40], " ".join(names)
        raise FrameError(str(location), f"begins with {found!r}, expected the header '{expected} ...'")
    rows: defaultdict[tuple[int, ...], list[list[float]]] = defaultdict(list)
    odd: list[int] = []
    for number, line in enumerate(lines[1:], start=2):
        if line is None or any(not value.is_integer() for value in line[: len(names)]):
            odd.append(number)
        else:
            rows[tuple(int(value) for value in line[: len(names)])].append(line[len(names) :])
    return rows, f"; its line {odd[0]} is not {columns} numbers" if odd else ""


# ------------------------------------------------------------------------------------------------------------- frames


def read_rgb(files: FrameFiles, reader: Reader) -> RgbImage:
    """Read the image; a JPEG keeps its bytes, to be passed on."""
    if files.rgb is None:
        raise FrameError(str(files.depth), "has no image of the same number")
    data = reader.read(files.rgb)
    if files.rgb.member.lower().endswith(".png"):
        return RgbImage(parse_png(data, files.rgb))
    return parse_jpeg(data, files.rgb)


def read_depth(files: FrameFiles, reader: Reader) -> Float32[np.ndarray, "h w"]:
    """Read the depth map: centimetres, 65535 is sky, 0 unknown."""
    if files.depth is None:
        raise FrameError(str(files.rgb), "has no depth map of the same number")
    return _metres().take(parse_png16(reader.read(files.depth), files.depth))


@functools.cache
def _metres() -> Float32[np.ndarray, "65536"]:
    table = (np.arange(65536) / 100).astype(np.float32)
    table[0], table[_SKY_CM] = np.nan, np.inf
    return table


# ------------------------------------------------------------------------------------------------------------ samples


@dataclass(frozen=True)
class _Look:
    """A variant's weather: colours times `tint`, behind a veil of grey that thickens with depth."""

    tint: tuple[float, float, float] = (1.0, 1.0, 1.0)
    veil_per_m: float = 0.0


_SCENES = ("Scene02", "Scene01", "Scene06", "Scene18", "Scene20")
_LOOKS = {
    "clone": _Look(),
    "fog": _Look(veil_per_m=0.04),
    "morning": _Look(tint=(1.05, 0.95, 0.8)),
    "overcast": _Look(tint=(0.8, 0.8, 0.85)),
    "rain": _Look(tint=(0.65, 0.7, 0.8), veil_per_m=0.01),
    "sunset": _Look(tint=(1.1, 0.75, 0.55)),
}  # the angles are left out: they are other paths
_VEIL_GREY = 170.0
_TABLE_HEADERS = {
    "intrinsic": "frame cameraID K[0,0] K[1,1] K[0,2] K[1,2]",
    "extrinsic": "frame cameraID r1,1 r1,2 r1,3 t1 r2,1 r2,2 r2,3 t2 r3,1 r3,2 r3,3 t3 0 0 0 1",
}


def sample_names(count: int, *, held_out: Sequence[str]) -> list[str]:
    """Name `count` trajectories, two variants of a scene before the next; the last quarter matches `held_out`."""
    looks = list(_LOOKS)
    pairs = [looks[i : i + 2] for i in range(0, len(looks), 2)]
    names = [f"{scene}/{variant}" for pair in pairs for scene in _SCENES for variant in pair]
    if count > len(names):
        raise UsageError(f"--trajectories {count}: a sample of Virtual KITTI has {len(names)} at most.")
    held = [name for name in names if _manifest.matches(name, tuple(held_out))]
    training = [name for name in names if name not in held]
    of_held = min(len(held), max(count // 4, 1 if count > 1 else 0, count - len(training)))
    return training[: count - of_held] + held[:of_held]


def sample_world(trajectory: str) -> str:
    """The variants of a scene show the same world."""
    return trajectory.split("/")[0]


def sample_intrinsics(*, width: int, height: int) -> Float64[np.ndarray, "4"]:
    """Return a centred camera with Virtual KITTI's horizontal field of view."""
    known = _version(_V2)
    focal_px = known["intrinsics"][0] * width / known["size"][0]
    return np.array([focal_px, focal_px, (width - 1) / 2, (height - 1) / 2])


def sample_files(trajectory: str, shots: Iterable[tuple[Frame, ...]]) -> Iterator[tuple[str, bytes]]:
    """Write frames as Virtual KITTI 2.0.3 does, in the trajectory's weather, with rows of all cameras in each table."""
    lines = {kind: [header] for kind, header in _TABLE_HEADERS.items()}
    for index, shot in enumerate(shots):
        for camera, frame in enumerate(shot):
            yield f"{trajectory}/frames/rgb/Camera_{camera}/rgb_{index:05d}.jpg", _jpeg(trajectory, frame)
            yield (
                f"{trajectory}/frames/depth/Camera_{camera}/depth_{index:05d}.png",
                encode_png16(_centimetres(frame.depth_m)),
            )
            assert frame.camera_to_world is not None  # rendered frames have poses
            rows = {"intrinsic": frame.intrinsics, "extrinsic": np.linalg.inv(frame.camera_to_world).ravel()}
            for kind, row in rows.items():
                lines[kind].append(" ".join([f"{index} {camera}", *(f"{number:.17g}" for number in row.tolist())]))
    for kind, text in lines.items():
        yield f"{trajectory}/{kind}.txt", ("\n".join(text) + "\n").encode("ascii")


def _jpeg(trajectory: str, frame: Frame) -> bytes:
    look = _LOOKS[trajectory.split("/")[1]]
    depth_m = np.nan_to_num(frame.depth_m, nan=0.0, posinf=1000.0)[..., None]
    clear = np.exp(np.float32(-look.veil_per_m) * depth_m)
    colours = _VEIL_GREY + (frame.rgb.pixels * np.array(look.tint) - _VEIL_GREY) * clear
    return codec.encode_rgb(np.rint(colours).clip(0, 255).astype(np.uint8), quality=95)


def _centimetres(depth_m: Float32[np.ndarray, "h w"]) -> UInt16[np.ndarray, "h w"]:
    known_m = np.where(np.isnan(depth_m), 0, depth_m).astype(np.float64)
    return np.rint(np.minimum(known_m * 100, _SKY_CM)).astype(np.uint16)


def sample_archives(path: str) -> list[str]:
    """Name the archive that holds a file: those of images, depth maps and text tables."""
    kinds = [kind for kind in ("rgb", "depth") if f"/{kind}/" in path]
    return [f"vkitti_2.0.3_{kinds[0]}.tar" if kinds else _TEXT_ARCHIVES[_V2]]
