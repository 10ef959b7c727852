"""MPI-Sintel: PNG frames of a pass, depth in .dpt, a binary .cam a frame; folders or zips.

    .dpt   float32 202021.25, int32 width, int32 height, float32 depth row by row: metres along z
    .cam   float32 202021.25, 9 float64 intrinsics, 12 float64 [R|t] world-to-camera; both row by row

All little endian, OpenCV axes.
"""

import functools
import re
import struct

import numpy as np
from jaxtyping import Float32, Float64

from vdaprep.errors import FrameError, UsageError
from vdaprep.raw.frames import Cameras, FrameFiles, RgbImage, SourceOptions, Trajectory
from vdaprep.raw.images import check_size, wrong_kind
from vdaprep.raw.png import parse_png
from vdaprep.raw.tree import Location, Reader, Tree
from vdaprep.sources import _manifest
from vdaprep.sources._cameras import by_frame, invert_poses, known_size, parse_each
from vdaprep.sources._slots import DIGITS, Folder, Found, gather, trajectory_of

EXPECTED = (
    "training/{clean,final}/alley_1/frame_0001.png, training/depth/alley_1/frame_0001.dpt and "
    "training/camdata_left/alley_1/frame_0001.cam, in folders or in zip files"
)

TAG = struct.pack("<f", 202021.25)
_DEPTH_HEADER = struct.Struct("<4xii")
_CAMERA = struct.Struct("<4x21d")
_FOLDER = re.compile(r"^(?:(?P<root>.*)/)?(?P<kind>clean|final|depth|camdata_left)/(?P<name>[^/]+)$")
_TEST = re.compile(r"(?:^|/)test$")  # of the whole download: sequences without depth
_ENDINGS = {"depth": "dpt", "pose": "cam", "rgb": "png"}
_FRAMES = {kind: re.compile(rf"frame_({DIGITS})\.(?i:{ending})$") for kind, ending in _ENDINGS.items()}
_DEPTH_ARCHIVE = "MPI-Sintel-depth-training-20150305.zip"


def find_trajectories(tree: Tree, options: SourceOptions) -> Found:
    """List the sequences, such as `alley_1`, with the images of one pass.

    Raises UsageError if the tree has images of other passes only.
    """
    wanted = _manifest.load("sintel").render_pass(options.render_pass)
    passes: set[str] = set()
    claims, others = gather(tree, functools.partial(_folder, wanted=wanted, passes=passes))
    if passes and wanted not in passes:
        there = " and ".join(sorted(passes))
        raise UsageError(f"--pass {wanted}: {tree.root} has images of the pass {there} only; say --pass {there}.")
    usable = [item for item in claims if item.has("rgb", "depth")]
    return Found(tuple(trajectory_of(item, more=("pose",)) for item in usable), tuple(others))


def _folder(path: str, *, wanted: str, passes: set[str]) -> Folder | None:
    """Tell what a folder holds; adds the pass of its images to `passes`."""
    match = _FOLDER.match(path)
    if match is None or _TEST.search(match["root"] or ""):
        return None
    if match["kind"] in ("clean", "final"):
        passes.add(match["kind"])
    kind = {"depth": "depth", "camdata_left": "pose", wanted: "rgb"}.get(match["kind"])
    return None if kind is None else Folder((match["name"], wanted), match["root"] or "", kind, _FRAMES[kind])


# ------------------------------------------------------------------------------------------------------------ cameras


def read_cameras(trajectory: Trajectory, reader: Reader, options: SourceOptions) -> Cameras:
    """Read the .cam of every frame; `options` may have other intrinsics."""
    count = len(trajectory.frames)
    found, problems = parse_each(trajectory, reader, parse_cam, missing=functools.partial(_missing, trajectory.name))
    poses = invert_poses(by_frame({index: pose for index, (_, pose) in found.items()}, count=count, shape=(4, 4)))
    if options.intrinsics is not None:
        return Cameras(np.tile(np.array(options.intrinsics, np.float64), (count, 1)), poses, problems, said=True)
    intrinsics = by_frame({index: values for index, (values, _) in found.items()}, count=count, shape=(4,))
    return Cameras(intrinsics, poses, problems, size=known_size(intrinsics, _manifest.load("sintel").versions))


def _missing(trajectory: str, frame_id: int) -> str:
    return f"camdata_left/{trajectory}/frame_{frame_id:04d}.cam is missing; it is in {_DEPTH_ARCHIVE}"


def parse_cam(data: bytes, location: Location) -> tuple[Float64[np.ndarray, "4"], Float64[np.ndarray, "4 4"]]:
    """Return fx, fy, cx, cy in pixels, and world-to-camera; raises FrameError for no .cam."""
    _expect_tag(data, location, "a .cam of MPI-Sintel")
    if len(data) != _CAMERA.size:
        raise FrameError(str(location), f"has {len(data)} bytes, expected {_CAMERA.size} of a .cam; get it again")
    numbers = np.array(_CAMERA.unpack(data))
    matrix, extrinsic = numbers[:9].reshape(3, 3), np.eye(4)
    extrinsic[:3] = numbers[9:].reshape(3, 4)
    (fx, skew, cx), (below, fy, cy), last = matrix
    if (skew, below, *last) != (0, 0, 0, 0, 1):
        raise FrameError(str(location), "its first nine numbers are no intrinsics, expected fx 0 cx, 0 fy cy and 0 0 1")
    return np.array([fx, fy, cx, cy]), extrinsic


# ------------------------------------------------------------------------------------------------------------- frames


def read_rgb(files: FrameFiles, reader: Reader) -> RgbImage:
    """Read `frame_0001.png` of the pass."""
    if files.rgb is None:
        raise FrameError(str(files.depth), "has no image of the same number in this pass, see --pass")
    return RgbImage(parse_png(reader.read(files.rgb), files.rgb))


def read_depth(files: FrameFiles, reader: Reader) -> Float32[np.ndarray, "h w"]:
    """Read `frame_0001.dpt`.

    From the far end of the depth code on it is sky; what is not positive is unknown.
    """
    if files.depth is None:
        raise FrameError(str(files.rgb), f"has no depth map of the same number; they are in {_DEPTH_ARCHIVE}")
    depth_m = parse_dpt(reader.read(files.depth), files.depth)
    far_m = _manifest.load("sintel").depth["far_m"]
    with np.errstate(invalid="ignore"):
        depth_m[~(depth_m > 0)] = np.nan
        depth_m[depth_m >= far_m] = np.inf
    return depth_m


def parse_dpt(data: bytes, location: Location) -> Float32[np.ndarray, "h w"]:
    """Decode a .dpt; raises FrameError if it is none, or is cut short or padded."""
    _expect_tag(data, location, "a .dpt of MPI-Sintel")
    if len(data) < _DEPTH_HEADER.size:
        raise FrameError(str(location), f"the .dpt is cut short after {len(data)} bytes; get it again")
    width, height = _DEPTH_HEADER.unpack_from(data)
    check_size(width, height, location)
    expected = _DEPTH_HEADER.size + 4 * width * height
    if len(data) != expected:
        size = f"{width}x{height} pixels"
        raise FrameError(str(location), f"has {len(data)} bytes, expected {expected} of a .dpt of {size}; get it again")
    return np.frombuffer(data, "<f4", offset=_DEPTH_HEADER.size).reshape(height, width).astype(np.float32)


def _expect_tag(data: bytes, location: Location, expected: str) -> None:
    if data[:4] == TAG[::-1]:
        raise FrameError(str(location), f"is {expected} with its bytes in big-endian order, expected little-endian")
    if data[:4] != TAG:
        raise wrong_kind(expected, data, location)
