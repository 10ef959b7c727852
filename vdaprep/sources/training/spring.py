"""Spring: PNG frames, disparity in HDF5 at twice the size, tables of cameras.

The left camera is read. Disparity is in pixels of the images, though it has four values for each of their pixels, of
which the upper left one is taken; depth along z is focal length x 0.065 m / disparity. A disparity that is 0 or not
finite is sky or unknown, which the files do not tell apart: it is unknown. Needs h5py (extra `h5`).
"""

import importlib
import io
import re
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64

from vdaprep.errors import FrameError, MissingExtraError
from vdaprep.raw.frames import Cameras, FrameFiles, Frames, RgbImage, SourceOptions, Trajectory
from vdaprep.raw.images import check_size
from vdaprep.raw.png import parse_png
from vdaprep.raw.tree import Location, Reader, Tree
from vdaprep.sources import _manifest
from vdaprep.sources._cameras import invert_poses, known_size
from vdaprep.sources._rows import frame_rows, read_rows
from vdaprep.sources._slots import DIGITS, Claims, Folder, Found, gather, trajectory_of

EXPECTED = (
    "train/0001/{frame_left/frame_left_0001.png,disp1_left/disp1_left_0001.dsp5,cam_data/intrinsics.txt}, in folders "
    "or in zip files"
)

BASELINE_M = 0.065
_FOLDER = re.compile(r"^(?:(?P<root>.*)/)?(?P<name>\d{4})/(?P<kind>frame_left|disp1_left|cam_data)$")
_TEST = re.compile(r"(?:^|/)test$")  # sequences without depth
_KINDS = {"frame_left": ("rgb", "png"), "disp1_left": ("depth", "dsp5")}
_FRAMES = {name: re.compile(rf"{name}_({DIGITS})\.(?i:{ending})$") for name, (_, ending) in _KINDS.items()}
_TABLES = {"intrinsics.txt": "intrinsics", "extrinsics.txt": "extrinsics"}
_CAMERAS_ARCHIVE = "train_cam_data.zip"
_HDF5 = b"\x89HDF\r\n\x1a\n"
_DATA_SET = "disparity"


@dataclass(frozen=True)
class _Files(FrameFiles):
    """A frame's files, and the table that its focal length is in."""

    intrinsics: Location | None = None


def find_trajectories(tree: Tree, options: SourceOptions) -> Found:
    """List the training sequences, such as `0005`; those of the test set have no depth."""
    claims, others = gather(tree, _folder)
    return Found(tuple(_trajectory(item) for item in claims if item.has("rgb", "depth")), tuple(others))


def _folder(path: str) -> Folder | None:
    match = _FOLDER.match(path)
    if match is None or _TEST.search(match["root"] or ""):
        return None
    trajectory, root = (match["name"], "train"), match["root"] or ""
    if match["kind"] == "cam_data":
        return Folder(trajectory, root, tables=_TABLES)
    return Folder(trajectory, root, _KINDS[match["kind"]][0], _FRAMES[match["kind"]])


def _trajectory(claims: Claims) -> Trajectory:
    found = trajectory_of(claims)
    assert isinstance(found.frames, Frames)  # they come from trajectory_of
    make = partial(_Files, intrinsics=found.shared.get("intrinsics"))
    return replace(found, frames=found.frames.made_by(make))


# ------------------------------------------------------------------------------------------------------------ cameras


def read_cameras(trajectory: Trajectory, reader: Reader, options: SourceOptions) -> Cameras:
    """Read the row of each frame; the first is frame 1; `options` may have other intrinsics."""
    problems: dict[int, str] = {}
    rows = _table(trajectory, reader, "extrinsics", 16, problems)
    poses = invert_poses(rows.reshape(-1, 4, 4))
    intrinsics = _table(trajectory, reader, "intrinsics", 4, problems)
    for index, (fx, fy, *_) in enumerate(intrinsics):
        if index not in problems and not (fx > 0 and fy > 0):
            location = trajectory.shared["intrinsics"]
            problems[index] = f"has no usable camera: its focal lengths in {location} are not positive"
    pose_file = trajectory.shared.get("extrinsics")
    if options.intrinsics is not None:
        intrinsics[:] = options.intrinsics
        return Cameras(intrinsics, poses, problems, pose_file=pose_file, said=True)
    size = known_size(intrinsics, _manifest.load("spring").versions)
    return Cameras(intrinsics, poses, problems, size=size, pose_file=pose_file)


def _table(
    trajectory: Trajectory, reader: Reader, name: str, columns: int, problems: dict[int, str]
) -> Float64[np.ndarray, "n k"]:
    """Return each frame's row, nan without; what is wrong is added to `problems` by index."""
    count = len(trajectory.frames)
    values = np.full((count, columns), np.nan)
    location = trajectory.shared.get(name)
    if location is None:
        reason = f"{trajectory.name}/cam_data/{name}.txt is missing; it is in {_CAMERAS_ARCHIVE}"
    elif trajectory.frame_ids[0] < 1:
        reason = f"frame {trajectory.frame_ids[0]} is none of Spring, whose frames count from 1"
    else:
        numbers = [frame_id - 1 for frame_id in trajectory.frame_ids]
        try:
            values, lines = frame_rows(reader.read(location), location, columns=columns, frame_ids=numbers)
        except FrameError as error:
            reason = str(error)
        else:
            for index in np.flatnonzero(~np.isfinite(values).all(axis=1)).tolist():
                problems[index] = f"has no camera: line {lines[index]} of {location} is not {columns} numbers"
            return values
    problems.update(dict.fromkeys(range(count), f"has no camera: {reason}"))
    return values


# ------------------------------------------------------------------------------------------------------------- frames


def read_rgb(files: FrameFiles, reader: Reader) -> RgbImage:
    """Read `frame_left_0001.png`."""
    if files.rgb is None:
        raise FrameError(str(files.depth), "has no image of the same number in frame_left")
    return RgbImage(parse_png(reader.read(files.rgb), files.rgb))


def read_depth(files: FrameFiles, reader: Reader) -> Float32[np.ndarray, "h w"]:
    """Read `disp1_left_0001.dsp5` as metres; MissingExtraError without h5py."""
    if files.depth is None:
        raise FrameError(str(files.rgb), "has no disparity of the same number in disp1_left")
    disparity_px = parse_dsp5(reader.read(files.depth), files.depth)[::2, ::2].astype(np.float64)
    focal_px = _focal_px(files, reader)
    known = np.isfinite(disparity_px) & (disparity_px > 0)
    depth_m = np.full(disparity_px.shape, np.nan)
    np.divide(focal_px * BASELINE_M, disparity_px, out=depth_m, where=known)
    return depth_m.astype(np.float32)


def _focal_px(files: FrameFiles, reader: Reader) -> float:
    """Return a frame's focal length; whose row is whose is proven by `read_cameras`."""
    location = files.intrinsics if isinstance(files, _Files) else None
    if location is None:
        raise FrameError(str(files.depth), f"has no intrinsics, which are in {_CAMERAS_ARCHIVE}")
    rows = read_rows(reader.read(location), location)
    row = rows[files.frame_id - 1].numbers(4) if 1 <= files.frame_id <= len(rows) else None
    if row is None or not row[0] > 0:
        raise FrameError(str(files.depth), f"has no focal length: {location} has none for frame {files.frame_id}")
    return row[0]


def parse_dsp5(data: bytes, location: Location) -> Float32[np.ndarray, "h2 w2"]:
    """Return the disparity of an HDF5 file, in pixels of images of half its height and width.

    What is stored elsewhere, by a link or as an external or a virtual data set, is refused.

    Raises:
        MissingExtraError: h5py is not installed.
        FrameError: It is no such file, or has an odd or a huge size.
    """
    try:
        h5py: Any = importlib.import_module("h5py")  # it has no types
    except ModuleNotFoundError as error:
        raise MissingExtraError.of("Spring's disparity needs", error) or error from error
    if not data.startswith(_HDF5):
        raise FrameError(str(location), f"begins with {data[:8]!r}, expected HDF5; get it again")
    try:
        with h5py.File(io.BytesIO(data), "r") as file:
            link = file.get(_DATA_SET, getlink=True)
            found: Any = file[_DATA_SET] if isinstance(link, h5py.HardLink) else None
            if not isinstance(found, h5py.Dataset) or found.external or found.is_virtual:
                raise FrameError(str(location), f"has no data set {_DATA_SET!r} of its own")
            _expect_double(found.shape, found.dtype, location)
            for height, width in (found.shape, found.chunks or (1, 1)):
                check_size(width, height, location)
            return np.asarray(found[()], np.float32)
    except (OSError, KeyError, RuntimeError, ValueError, TypeError, OverflowError) as error:
        raise FrameError(str(location), f"is damaged HDF5 ({str(error)[:120]}); get it again") from error


def _expect_double(shape: tuple[int, ...], kind: np.dtype, location: Location) -> None:
    if len(shape) != 2 or shape[0] % 2 or shape[1] % 2 or not min(shape) or kind.kind != "f":
        sides = "x".join(map(str, shape))
        raise FrameError(
            str(location), f"{_DATA_SET} is {sides} of {kind}, expected floats, two rows and columns for each pixel's"
        )
