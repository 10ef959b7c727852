"""NYU Depth V2: raw frames of a Kinect, and two ready-made forms of them.

raw           SCENE/r-TIME-COUNT.ppm and d-TIME-COUNT.pgm of 11 bits, the low byte first; paired by time
projected     SCENE/rgb/0000.jpg and depth/0000.png, metres times 6000, as published evaluations of video depth have it
synchronised  SCENE/rgb_00000.jpg and sync_depth_00000.png, millimetres

Raw depth is projected into the colour camera with the constants of the authors' toolbox, colour is freed of its
distortion, as both others were. Unlike the toolbox, depth is not interpolated, and is that along the axis of the
colour camera; as there, what is nearer than 0.71 m (raw 600) or farther than 10 m is unknown.
"""

import functools
import re
from collections import Counter
from dataclasses import replace

import cv2
import numpy as np
from jaxtyping import Float32, Float64, UInt8, UInt16

from vdaprep.errors import FrameError
from vdaprep.raw.frames import Cameras, FrameFiles, RgbImage, SourceOptions, Trajectory
from vdaprep.raw.images import parse_jpeg, parse_pgm16, parse_ppm
from vdaprep.raw.png import parse_png16
from vdaprep.raw.tree import Location, Reader, Tree
from vdaprep.sources import _manifest
from vdaprep.sources._images import integer_depth
from vdaprep.sources._slots import DIGITS, Folder, Found, gather, trajectory_of
from vdaprep.sources._timed import TIME, paired, time_us

EXPECTED = (
    "SCENE/{r-TIME-COUNT.ppm,d-TIME-COUNT.pgm} as published, SCENE/{rgb/0000.jpg,depth/0000.png} (metres times 6000) "
    "or SCENE/{rgb_00000.jpg,sync_depth_00000.png} (millimetres)"
)

RAW, PROJECTED, SYNCHRONISED = "raw", "projected", "synchronised"
_FOLDER = re.compile(r"^(?:(?P<root>(?:.*/)?(?P<scene>[^/]+))/)?(?P<kind>rgb|depth)$")
_FRAMES = {
    (RAW, "rgb"): re.compile(rf"r-({TIME})-\d+\.(?i:ppm)$"),
    (RAW, "depth"): re.compile(rf"d-({TIME})-\d+\.(?i:pgm)$"),
    (SYNCHRONISED, "rgb"): re.compile(rf"rgb_({DIGITS})\.(?i:jpe?g)$"),
    (SYNCHRONISED, "depth"): re.compile(rf"sync_depth_({DIGITS})\.(?i:png)$"),
    (PROJECTED, "rgb"): re.compile(rf"[^\W\d]*[_-]?({DIGITS})\.(?i:jpe?g)$"),
    (PROJECTED, "depth"): re.compile(rf"[^\W\d]*[_-]?({DIGITS})\.(?i:png)$"),
}
_UNITS_OF_MM = 6  # the manifest's unit is a sixth of a millimetre
_NEAREST, _FARTHEST_RAW = 600, 2047  # of raw depth
_NEAREST_M, _MAX_M = 0.71, 10.0


def find_trajectories(tree: Tree, options: SourceOptions) -> Found:
    """List scenes, `basement_0001a`; in trees of several forms of one, `raw/basement_0001a`.

    Raw frames are numbered by the periods of the camera, so that a gap shows.
    """
    claims, others = gather(tree, functools.partial(_folder, top=tree.root.resolve().name))
    found: list[Trajectory] = []
    for item in claims:
        if item.has("rgb") and item.has("depth"):
            one = trajectory_of(item)
            found.append(paired(one, tree.files, options.pairing) if one.layout == RAW else one)
    if max(Counter(one.name for one in found).values(), default=0) > 1:
        found = sorted((replace(one, name=f"{one.layout}/{one.name}") for one in found), key=lambda one: one.name)
    return Found(tuple(found), tuple(others))


def _folder(path: str, *, top: str) -> Folder:
    if match := _FOLDER.match(path):
        kind = match["kind"]
        return Folder((match["scene"] or top, PROJECTED), match["root"] or "", kind, _FRAMES[PROJECTED, kind])
    scene = path.rpartition("/")[2] or top
    first, *others = (
        Folder((scene, layout), path, kind, pattern, number=time_us if layout == RAW else int)
        for (layout, kind), pattern in _FRAMES.items()
        if layout != PROJECTED
    )
    return replace(first, beside=tuple(others))


def read_cameras(trajectory: Trajectory, reader: Reader, options: SourceOptions) -> Cameras:
    """Return the toolbox's intrinsics of colour, or those of `options`; there are no poses."""
    count = len(trajectory.frames)
    if options.intrinsics is not None:
        return Cameras(np.tile(np.array(options.intrinsics, np.float64), (count, 1)), None, said=True)
    version = _manifest.load("nyuv2").version(RAW)
    width, height = version["size"]
    return Cameras(np.tile(np.array(version["intrinsics"], np.float64), (count, 1)), None, size=(width, height))


# ------------------------------------------------------------------------------------------------------------- frames


def read_rgb(files: FrameFiles, reader: Reader) -> RgbImage:
    """Read the image; raw ones are freed of their distortion, JPEGs passed on."""
    if files.rgb is None:
        raise FrameError(str(files.depth), "has no image of the same number")
    data = reader.read(files.rgb)
    if not _is_raw(files.rgb):
        return parse_jpeg(data, files.rgb)
    pixels = parse_ppm(data, files.rgb)
    _expect_size(pixels, files.rgb)
    return RgbImage(undistort_colour(pixels))


def read_depth(files: FrameFiles, reader: Reader) -> Float32[np.ndarray, "h w"]:
    """Read the depth map in its form's unit.

    0, 65535 and what the unit of shards cannot hold are unknown.
    """
    if files.depth is None:
        raise FrameError(str(files.rgb), "has no depth map taken with it")
    data = reader.read(files.depth)
    metres = integer_depth("nyuv2", greatest="unknown")
    if _is_raw(files.depth):
        depth_m = project_depth(_raw_metres(parse_pgm16(data, files.depth).byteswap(), files.depth))
        return metres.take(np.rint(np.nan_to_num(depth_m) / unit_m()).astype(np.intp))
    is_mm = files.depth.member.rpartition("/")[2].startswith("sync_depth_")
    values = parse_png16(data, files.depth).astype(np.intp) * (_UNITS_OF_MM if is_mm else 1)
    _expect_range(values[values > 0] * unit_m(), files.depth, unit="mm" if is_mm else "m/6000")
    return metres.take(values, mode="clip")


def _is_raw(location: Location) -> bool:
    return location.member.lower().endswith((".ppm", ".pgm"))


def _expect_size(values: UInt8[np.ndarray, "h w 3"] | UInt16[np.ndarray, "h w"], location: Location) -> None:
    width, height = _manifest.load("nyuv2").version(RAW)["size"]
    if values.shape[:2] != (height, width):
        found = f"{values.shape[1]}x{values.shape[0]}"
        raise FrameError(str(location), f"is {found} pixels, expected {width}x{height}, which the calibration is of")


def _expect_range(known_m: Float64[np.ndarray, " n"], location: Location, *, unit: str) -> None:
    """Refuse depth in the other form's unit, in which rooms are too near or too far."""
    median_m = float(np.median(known_m)) if len(known_m) else _MAX_M
    if not _NEAREST_M <= median_m <= _MAX_M:
        raise FrameError(
            str(location),
            f"has a median depth of {median_m:.2f} m in units of {unit}, expected {_NEAREST_M} to {_MAX_M:g} m: "
            "that is not its unit; m/6000 are read from SCENE/depth/0000.png, mm from SCENE/sync_depth_00000.png",
        )


def unit_m() -> float:
    """Return the metres of a unit of depth in shards."""
    return _manifest.load("nyuv2").depth["unit_m"]


# ---------------------------------------------------------------------------------------------------------- projection

# camera_params.m of the toolbox: fx, fy, cx, cy in pixels; k1, k2, p1, p2, k3.
COLOUR = (518.85790117450188, 519.46961112127485, 325.58244941119034, 253.73616633400465)
COLOUR_DISTORTION = (
    0.20796615318809061, -0.58613825163911781, 7.2231363135888329e-4, 1.0479627195765181e-3, 0.49856986684705107,
)  # fmt: skip
DEPTH = (582.62448167737955, 582.69103270988637, 313.04475870804731, 238.44389626620386)
DEPTH_DISTORTION = (
    -0.099897236553084481, 0.39065324602765344, 1.9290592870229277e-3, -1.9422022475975055e-3, -0.51031725053400578,
)  # fmt: skip
# There R = inv(reshape(-A, 3, 3)'), column by column, which is -A', and points are R x + (t_x, t_z, t_y). A point and
# its negative fall onto one pixel, so that is the rigid movement A' x - (t_x, t_z, t_y).
ROTATION = np.array([
    [0.99997798940829263, 0.0050518419386157446, 0.0043011152014118693],
    [-0.0050359919480810989, 0.99998051861143999, -0.0036879781309514218],
    [-0.0043196624923060242, 0.0036662365748484798, 0.99998394948385538],
]).T  # fmt: skip
TRANSLATION_M = -np.array([0.025031875059141302, -2.9342312935846411e-4, 6.6238747008330102e-4])
_DISPARITY = (351.3, 1092.5)  # metres are the first divided by the second less the raw value


def _raw_metres(raw: UInt16[np.ndarray, "h w"], location: Location) -> Float64[np.ndarray, "h w"]:
    """Turn a Kinect's raw depth into metres, nan unknown; raises FrameError if it is none."""
    _expect_size(raw, location)
    if raw.max() > _FARTHEST_RAW:
        reason = f"holds {raw.max()}, expected 11 bits, at most {_FARTHEST_RAW}, with the low byte first"
        raise FrameError(str(location), reason)
    return raw_metres().take(raw)


@functools.cache
def raw_metres() -> Float64[np.ndarray, "2048"]:
    """Return the metres of each raw value, nan unknown."""
    numerator, zero = _DISPARITY
    values = np.arange(_FARTHEST_RAW + 1)
    metres = numerator / (zero - values)
    return np.where((values >= _NEAREST) & (metres > 0) & (metres <= _MAX_M), metres, np.nan)


def project_depth(depth_m: Float64[np.ndarray, "h w"]) -> Float64[np.ndarray, "h w"]:
    """Project a depth map of the depth camera into the colour camera; nan is unknown in both.

    Each pixel falls onto the nearest one, the nearest depth hides others, and what nothing falls onto is unknown.
    """
    known = np.flatnonzero(np.isfinite(depth_m))
    points_m = _rays()[known] * depth_m.ravel()[known, None] + TRANSLATION_M
    fx, fy, cx, cy = COLOUR
    columns = np.rint(points_m[:, 0] / points_m[:, 2] * fx + cx).astype(np.intp)
    rows = np.rint(points_m[:, 1] / points_m[:, 2] * fy + cy).astype(np.intp)
    height, width = depth_m.shape
    inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    found = np.full(depth_m.size, np.inf)
    np.minimum.at(found, rows[inside] * width + columns[inside], points_m[inside, 2])
    return np.where(np.isinf(found), np.nan, found).reshape(height, width)


@functools.cache
def _rays() -> Float64[np.ndarray, "p 3"]:
    """Return the ray of each pixel of the depth camera, in axes of the colour camera."""
    width, height = _manifest.load("nyuv2").version(RAW)["size"]
    rows, columns = np.indices((height, width), np.float64)
    pixels = np.stack([columns.ravel(), rows.ravel()], axis=1)[:, None]
    criteria = (cv2.TERM_CRITERIA_COUNT + cv2.TERM_CRITERIA_EPS, 40, 1e-9)
    plane = cv2.undistortPoints(pixels, _matrix(DEPTH), np.array(DEPTH_DISTORTION), criteria=criteria)[:, 0]
    return np.column_stack([plane, np.ones(len(plane))]) @ ROTATION.T


def undistort_colour(pixels: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
    """Return a colour image as a camera without distortion would take it."""
    return cv2.remap(pixels, *_colour_maps(), interpolation=cv2.INTER_LINEAR).astype(np.uint8, copy=False)


@functools.cache
def _colour_maps() -> tuple[np.ndarray, np.ndarray]:
    matrix, size = _matrix(COLOUR), _manifest.load("nyuv2").version(RAW)["size"]
    return cv2.initUndistortRectifyMap(
        matrix, np.array(COLOUR_DISTORTION), np.eye(3), matrix, tuple(size), cv2.CV_32FC1
    )


def _matrix(camera: tuple[float, float, float, float]) -> Float64[np.ndarray, "3 3"]:
    fx, fy, cx, cy = camera
    return np.array([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]])
