"""MVS-Synth: PNG frames, half-float EXR depth, a camera JSON a frame; 540 to 1080.

Lengths are in units of 0.1 m. Extrinsics are world-to-camera with det(R) = -1: the camera's axes are OpenCV's, the
world is left-handed; mirroring the world's y makes it right-handed and leaves relative poses as they are.
"""

import functools
import logging
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

import numpy as np
from jaxtyping import Float32, Float64

from vdaprep.errors import FrameError
from vdaprep.raw.exr import parse_exr
from vdaprep.raw.frames import Cameras, FrameFiles, RgbImage, SourceOptions, Trajectory
from vdaprep.raw.png import parse_png, png_size
from vdaprep.raw.tree import Location, Reader, Tree
from vdaprep.shards.cameras import is_rigid
from vdaprep.sources import _manifest
from vdaprep.sources._cameras import by_frame, known_size, parse_each
from vdaprep.sources._slots import DIGITS, Claims, Folder, Found, gather, trajectory_of
from vdaprep.storage.documents import DocumentError, parse_json
from vdaprep.storage.limits import MAX_SMALL_DOCUMENT_BYTES, LimitError

EXPECTED = (
    "GTAV_{540,720,1080}/0000/{images/0000.png,depths/0000.exr,poses/0000.json}, in folders or in GTAV_540.tar.gz"
)

_FOLDER = re.compile(r"^(?:(?:(?P<root>.*)/)?(?P<size>[^/]+)/)?(?P<number>\d{4})/(?P<kind>images|depths|poses)$")
_KINDS = {"images": ("rgb", "png"), "depths": ("depth", "exr"), "poses": ("pose", "json")}
_FRAMES = {kind: re.compile(rf"({DIGITS})\.(?i:{ending})$") for kind, ending in _KINDS.values()}
INTRINSICS = ("f_x", "f_y", "c_x", "c_y")
_MIRROR = np.diag([1.0, -1.0, 1.0, 1.0])  # the world's y
_NEAR_PX = 2.0  # how far a principal point may be from the middle of images that it is of
_HUGE = 1e9  # no length and no focal length comes near

_log = logging.getLogger("vdaprep")


def find_trajectories(tree: Tree, options: SourceOptions) -> Found:
    """List trajectories `0000`; in trees of several sizes, `GTAV_540/0000`."""
    claims, others = gather(tree, functools.partial(_folder, top=tree.root.resolve().name))
    usable = [item for item in claims if item.has("rgb", "depth")]
    several = len({item.name.rpartition("/")[2] for item in usable}) < len(usable)
    return Found(tuple(_trajectory(item, several=several) for item in usable), tuple(others))


def _folder(path: str, *, top: str) -> Folder | None:
    match = _FOLDER.match(path)
    if match is None:
        return None
    kind, _ = _KINDS[match["kind"]]
    return Folder((f"{match['size'] or top}/{match['number']}", "GTAV"), match["root"] or "", kind, _FRAMES[kind])


def _trajectory(claims: Claims, *, several: bool) -> Trajectory:
    found = trajectory_of(claims, more=("pose",))
    return found if several else replace(found, name=found.name.rpartition("/")[2])


# ------------------------------------------------------------------------------------------------------------ cameras


def read_cameras(trajectory: Trajectory, reader: Reader, options: SourceOptions) -> Cameras:
    """Read the JSON of every frame; `options` may have other intrinsics."""
    count = len(trajectory.frames)
    parse = functools.partial(_read_camera, said=options.intrinsics)
    missing = "poses/{:04d}.json is missing".format
    found, problems = parse_each(trajectory, reader, parse, missing=missing)
    intrinsics = by_frame({index: values for index, (values, _) in found.items()}, count=count, shape=(4,))
    poses = by_frame({index: pose for index, (_, pose) in found.items()}, count=count, shape=(4, 4))
    if options.intrinsics is not None:
        return Cameras(intrinsics, poses, problems, said=True)
    if _centre_old_copy(intrinsics, trajectory, reader):
        return Cameras(intrinsics, poses, problems, candidates=_OF_OLD_COPY)
    return Cameras(intrinsics, poses, problems, size=known_size(intrinsics, _manifest.load("mvs-synth").versions))


def _read_camera(
    data: bytes, location: Location, *, said: tuple[float, float, float, float] | None
) -> tuple[Float64[np.ndarray, "4"], Float64[np.ndarray, "4 4"]]:
    camera = _parse_camera(data, location)
    return np.array(_read_intrinsics(camera, location) if said is None else said), _read_pose(camera, location)


def _parse_camera(data: bytes, location: Location) -> dict[str, Any]:
    try:
        return dict(parse_json(data, where=str(location), limit=MAX_SMALL_DOCUMENT_BYTES).values)
    except (DocumentError, LimitError) as error:
        raise FrameError(str(location), error.reason.rstrip(".")) from error


def _read_intrinsics(camera: Mapping[str, Any], location: Location) -> Float64[np.ndarray, "4"]:
    values = np.array([_numbers(camera, key, (), location) for key in INTRINSICS])
    if values[:2].min() <= 0:
        raise FrameError(str(location), f"f_x, f_y are {values[0]:g}, {values[1]:g}, expected positive numbers")
    return values


def _read_pose(camera: Mapping[str, Any], location: Location) -> Float64[np.ndarray, "4 4"]:
    extrinsic = _numbers(camera, "extrinsic", (4, 4), location)
    if is_rigid(extrinsic):
        raise FrameError(str(location), "extrinsic has det(R) = 1, expected -1, as MVS-Synth's world is left-handed")
    if not is_rigid(extrinsic @ _MIRROR):
        raise FrameError(str(location), "extrinsic is no rotation and translation with a last row of 0 0 0 1")
    return pose_from_extrinsic(extrinsic)


def _numbers(camera: Mapping[str, Any], key: str, shape: tuple[int, ...], location: Location) -> np.ndarray:
    """Return camera[key] as float64 of the given shape; raises FrameError naming the key."""
    if key not in camera:
        raise FrameError(str(location), f"lacks {key}, expected {', '.join(INTRINSICS)} and extrinsic")
    expected = "x".join(map(str, shape)) + " numbers" if shape else "a number"
    if not _holds_numbers(camera[key]):
        raise FrameError(str(location), f"{key} is not {expected}")
    try:
        values = np.array(camera[key], np.float64)
    except (ValueError, OverflowError) as error:
        raise FrameError(str(location), f"{key} is not {expected}") from error
    if values.shape != shape:
        found = "x".join(map(str, values.shape)) or "one number"
        raise FrameError(str(location), f"{key} is {found}, expected {expected}")
    if not (np.abs(values) < _HUGE).all():
        raise FrameError(str(location), f"{key} is not finite")
    return values


def _holds_numbers(value: Any) -> bool:
    """Tell whether JSON is numbers or lists of such; numpy would take true and texts."""
    if isinstance(value, list):
        return all(map(_holds_numbers, cast("list[Any]", value)))
    return type(value) in (int, float)


def pose_from_extrinsic(extrinsic: Float64[np.ndarray, "4 4"]) -> Float64[np.ndarray, "4 4"]:
    """Turn a raw world-to-camera matrix into camera_to_world in metres, the world right-handed."""
    pose = _MIRROR @ np.linalg.inv(extrinsic)
    pose[:3, 3] *= unit_m()
    return pose


def extrinsic_from_pose(camera_to_world: Float64[np.ndarray, "4 4"]) -> Float64[np.ndarray, "4 4"]:
    """Undo `pose_from_extrinsic`."""
    pose = camera_to_world.copy()
    pose[:3, 3] /= unit_m()
    extrinsic = np.linalg.inv(_MIRROR @ pose)
    extrinsic[3] = 0, 0, 0, 1
    return extrinsic


_OF_OLD_COPY = {"f_x as given": 1.0, "f_x times 810/1920": 810 / 1920, "f_x times 2 x 810/1920": 2 * 810 / 1920}


def _centre_old_copy(intrinsics: Float64[np.ndarray, "n 4"], trajectory: Trajectory, reader: Reader) -> bool:
    """Tell whether this is an old GTAV_540, whose c_x is put, in place, into the middle.

    They are 810 or 960 pixels wide, c_x is the middle of 810 or of 960 pixels, whatever the images are, and f_x is of
    1920, 960 or 810 pixels.
    """
    old = np.abs(intrinsics[:, 2] - 405) < _NEAR_PX
    if not (old | (np.abs(intrinsics[:, 2] - 480) < _NEAR_PX)).any():
        return False
    width = _image_width(trajectory, reader)
    if width not in (810, 960) or (width == 960 and not old.any()):
        return False
    other, of = (old, 810) if width == 960 else (~old, 960)
    if other.any():
        intrinsics[other, 2] *= width / of
        line = "%s: c_x is near %d in images %d pixels wide; multiplied by %d/%d."
        _log.warning(line, trajectory.name, of // 2, width, width, of)
    return True


def _image_width(trajectory: Trajectory, reader: Reader) -> int | None:
    """Return the first readable image's width; None if there is none."""
    for files in trajectory.frames:
        try:
            if files.rgb is not None:
                return png_size(reader.read(files.rgb), files.rgb)[0]
        except FrameError:
            continue
    return None


# ------------------------------------------------------------------------------------------------------------- frames


def read_rgb(files: FrameFiles, reader: Reader) -> RgbImage:
    """Read `images/0000.png`."""
    if files.rgb is None:
        raise FrameError(str(files.depth), "has no image beside it in images")
    return RgbImage(parse_png(reader.read(files.rgb), files.rgb))


def read_depth(files: FrameFiles, reader: Reader) -> Float32[np.ndarray, "h w"]:
    """Read `depths/0000.exr`: infinity is sky, nan and what is not positive is unknown.

    A half float comes out as the very float32 that depth codes of kind `half` decode to.
    """
    if files.depth is None:
        raise FrameError(str(files.rgb), "has no depth map beside it in depths")
    raw = parse_exr(reader.read(files.depth), files.depth)
    depth_m = (raw.astype(np.float64) * unit_m()).astype(np.float32)
    return np.where(depth_m > 0, depth_m, np.float32(np.nan))


def unit_m() -> float:
    """Return the metres of a raw unit of length."""
    return _manifest.load("mvs-synth").depth["unit_m"]
