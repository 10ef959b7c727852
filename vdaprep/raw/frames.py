"""Types of raw data: trajectories, cameras, frames; and scaling of frames."""

import functools
import operator
import uuid
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, cast, overload

import cv2
import numpy as np
from jaxtyping import Float32, Float64, UInt8

from vdaprep.errors import FrameError
from vdaprep.raw.tree import Location
from vdaprep.shards.cameras import are_rigid, scale_intrinsics
from vdaprep.shards.records import Rejection


@dataclass(frozen=True, slots=True)
class FrameFiles:
    """The files of one frame; None where the raw tree has no such file."""

    frame_id: int
    """The frame's number."""
    rgb: Location | None
    """Its image."""
    depth: Location | None
    """Its depth map."""


class _ByIndex:
    """Frames by index or slice."""

    ids: Sequence[int]
    """The frames' numbers, ascending."""

    def __len__(self) -> int:
        return len(self.ids)

    @overload
    def __getitem__(self, index: int) -> FrameFiles: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[FrameFiles, ...]: ...
    def __getitem__(self, index: int | slice) -> FrameFiles | tuple[FrameFiles, ...]:
        if isinstance(index, slice):
            return tuple(self[i] for i in range(*index.indices(len(self))))
        return self._frame(range(len(self))[index])

    def _frame(self, index: int) -> FrameFiles:
        raise NotImplementedError


class Frames(_ByIndex, Sequence[FrameFiles]):
    """The frames of a trajectory in order of their numbers, made when they are asked for.

    As objects, a million frames would take a gigabyte; here they take what `Numbered` does.
    """

    def __init__(
        self, rgb: Mapping[int, Location], depth: Mapping[int, Location], make: Callable[..., FrameFiles] = FrameFiles
    ) -> None:
        """Pair images and depth maps by number; a frame that has only one of them counts too."""
        self.rgb, self.depth = rgb, depth
        self._make = make
        same = len(rgb) == len(depth) and all(map(operator.eq, rgb, depth))
        self.ids = array("q", rgb if same else sorted(rgb.keys() | depth.keys()))

    def made_by(self, make: Callable[..., FrameFiles]) -> "Frames":
        """Return the same frames, of another class."""
        return Frames(self.rgb, self.depth, make)

    def _frame(self, index: int) -> FrameFiles:
        number = self.ids[index]
        return self._make(number, self.rgb.get(number), self.depth.get(number))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and tuple(self) == tuple(cast(Sequence[FrameFiles], other))

    def __hash__(self) -> int:
        return hash(tuple(self.ids))

    @functools.cached_property
    def listing(self) -> str:
        """A name that no other listing has, in any process."""
        return uuid.uuid4().hex

    def __reduce__(self) -> tuple[type, tuple[tuple[FrameFiles, ...]]]:
        return tuple, (tuple(self),)  # for another process, which has no other use for the list of all files


_GLANCED_AT = 8  # frames from the first on that a source may look at to know a trajectory
_CARRIED_WHOLE = 1000  # frames of a trajectory that are no burden to another process


class SomeFrames(_ByIndex):  # no Sequence, as it does not have all items
    """All frames of a long trajectory by number, the files of some: what one task reads.

    A frame whose files were left behind is a LookupError.
    """

    def __init__(self, ids: Sequence[int], files: Mapping[int, FrameFiles], listing: str) -> None:
        """Keep the files of frames by their indices; `listing` names the list that they are of."""
        self.ids, self.listing = ids, listing
        self._files = files

    def _frame(self, index: int) -> FrameFiles:
        return self._files[index]

    def __iter__(self) -> Iterator[FrameFiles]:
        """Yield the frames whose files are here."""
        return iter(self._files.values())


@dataclass(frozen=True)
class Trajectory:
    """One camera's path: its frames, and the files that these share."""

    name: str
    """Its name in the data set, as ENV/LEVEL/P000."""
    layout: str
    """How its files are named: a version or size, as the source calls it."""
    frames: Sequence[FrameFiles] | SomeFrames
    """Its frames, in order of their numbers."""
    shared: Mapping[str, Location] = field(default_factory=dict[str, Location])
    """Files of all frames, such as poses and intrinsics, by what they are."""
    problems: tuple[Rejection, ...] = ()
    """Files that claim a place which another one has."""
    unused: tuple[Location, ...] = ()
    """All such files, copies of what is shared, and depth maps that no image belongs to."""
    times_us: Sequence[int] = ()
    """When each frame's image was taken, in microseconds, where files are named by time; empty elsewhere."""

    @functools.cached_property
    def frame_ids(self) -> Sequence[int]:
        """The frames' numbers, ascending."""
        frames = self.frames
        return frames.ids if isinstance(frames, Frames | SomeFrames) else tuple(frame.frame_id for frame in frames)

    @property
    def listing(self) -> str | None:
        """The name of its list of frames, which no other trajectory has; None if it has no name."""
        return self.frames.listing if isinstance(self.frames, Frames | SomeFrames) else None

    def with_files_of(self, indices: Iterable[int]) -> "Trajectory":
        """Return it with the files of these frames alone, if it is long.

        Those by which it is judged as a whole come along.
        """
        frames = self.frames
        if not isinstance(frames, Frames) or len(frames) <= _CARRIED_WHOLE:
            return self
        kept = {*range(_GLANCED_AT), *spread(len(frames)), *indices}
        files = {index: frames[index] for index in sorted(kept)}
        return replace(self, frames=SomeFrames(frames.ids, files, frames.listing), problems=(), unused=())

    def count_without(self, kind: Literal["rgb", "depth"]) -> int:
        """Return how many frames lack an image (`rgb`) or a depth map (`depth`)."""
        frames = self.frames
        if isinstance(frames, Frames):
            return len(frames) - len(frames.rgb if kind == "rgb" else frames.depth)
        return sum(getattr(frame, kind) is None for frame in frames)


def spread(count: int) -> list[int]:
    """Return four frames of `count`, a twentieth of them apart, from the middle on."""
    step = max(1, min(count // 20, 5))
    return [index for index in range(count // 2, count // 2 + 4 * step, step) if index < count] or [0]


Pairing = Literal["time", "legacy-index"]
"""By the nearest time, or by place in sorted lists, as published evaluations do, which drifts."""


@dataclass(frozen=True)
class SourceOptions:
    """What a user may say about a raw data set."""

    camera: int = 0
    """Number of the camera to read."""
    intrinsics: tuple[float, float, float, float] | None = None
    """fx, fy, cx, cy in raw pixels; None: the data set's own."""
    depth_unit_m: float | None = None
    """Metres of a unit of integer depth, for data sets that do not define it."""
    pairing: Pairing = "time"
    """How images and depth maps that are named by time are paired."""
    render_pass: str = ""
    """The rendering of the images, for data sets that have several; empty: the first one."""


_MAX_PIXELS = 1e6  # of a focal length, and of a principal point from the corner
_MAX_METRES = 1e8  # of a position
_SAME_ASPECT = 0.01  # relative: sizes are rounded to whole pixels


@dataclass(frozen=True)
class Cameras:
    """The cameras of a trajectory of N frames, in raw pixels and metres, OpenCV axes.

    A pose that is not finite or not rigid, and intrinsics that are no camera's, become a problem of their frame,
    whichever source they are from.
    """

    intrinsics: Float64[np.ndarray, "n 4"]
    """fx, fy, cx, cy of each frame; nan where there is a problem."""
    camera_to_world: Float64[np.ndarray, "n 4 4"] | None
    """Poses, nan where there is a problem; None where the data set has no poses."""
    problems: Mapping[int, str] = field(default_factory=dict[int, str])
    """Why a frame's camera is unusable, by the frame's index."""
    size: tuple[int, int] | None = None
    """Width and height of the images that the intrinsics are for; None: whatever size the images have."""
    pose_file: Location | None = None
    """Where the poses were read, to be named in a problem."""
    said: bool = False
    """Whether the user said the intrinsics: their principal point may be anywhere."""
    candidates: Mapping[str, float] = field(default_factory=dict[str, float])
    """Factors of fx one of which is meant, by their names; which, depth and poses tell. Empty: fx is as it is."""
    without_pose: frozenset[int] = frozenset()
    """Indices of frames that are kept though their pose is not known, as where tracking was lost."""
    is_known: bool = True
    """Whether there are intrinsics; else those that an image says itself are taken, or none."""

    def __post_init__(self) -> None:
        positive = (self.intrinsics[:, :2] > 0).all(axis=1)
        usable = positive & (np.abs(self.intrinsics) < _MAX_PIXELS).all(axis=1)
        unusable = np.flatnonzero(~usable & self.is_known).tolist()
        bad = dict.fromkeys(unusable, "has no usable intrinsics: they are no camera's")
        if self.camera_to_world is not None:
            where = "" if self.pose_file is None else f" in {self.pose_file}"
            reason = f"has no usable pose: its matrix{where} is not a rotation and a translation"
            far = ~(np.abs(self.camera_to_world[:, :3, 3]) < _MAX_METRES).all(axis=1)
            unusable = np.flatnonzero(~are_rigid(self.camera_to_world) | far).tolist()
            bad |= {index: reason for index in unusable if index not in self.without_pose}
        object.__setattr__(self, "problems", bad | dict(self.problems))


@dataclass(frozen=True)
class RgbImage:
    """A decoded frame, and its own JPEG bytes if the source is a JPEG that can be passed on."""

    pixels: UInt8[np.ndarray, "h w 3"]
    """RGB, 8 bits."""
    jpeg: bytes | None = None
    """The source's own bytes, where they are a JPEG that can be stored as it is."""
    covers_depth: bool = False
    """Whether it shows the same view as its depth map on a finer grid, so that it is scaled down to that."""
    any_size: bool = False
    """Whether its depth map may have any size of its aspect: the larger of the two is scaled down to the smaller."""
    intrinsics: tuple[float, float, float, float] | None = None
    """fx, fy, cx, cy in pixels as the image itself says, nan if it does not; None: its trajectory's camera counts."""


@dataclass(frozen=True)
class Frame:
    """One usable frame: image, depth and camera."""

    frame_id: int
    """The frame's number."""
    rgb: RgbImage
    """Its image."""
    depth_m: Float32[np.ndarray, "h w"]
    """Metres along z, of a teacher 1 / disparity, without unit; nan unknown, as all is without labels, inf sky."""
    intrinsics: Float64[np.ndarray, "4"]
    """fx, fy, cx, cy in pixels of this size; nan where the camera is not known."""
    camera_to_world: Float64[np.ndarray, "4 4"] | None
    """The pose: metres, OpenCV axes; None where it is not known."""


def make_frame(
    files: FrameFiles, rgb: RgbImage, depth_m: Float32[np.ndarray, "_h _w"] | None, cameras: Cameras, index: int
) -> Frame:
    """Put a frame together; raises FrameError if its parts do not fit or its camera is unusable."""
    if depth_m is None:
        depth_m = np.full(rgb.pixels.shape[:2], np.nan, np.float32)
    rgb = _on_grid_of(depth_m, rgb)
    depth_m = _on_grid_of_image(rgb, depth_m)
    height, width = rgb.pixels.shape[:2]
    if depth_m.shape != (height, width):
        found, expected = _size(depth_m.shape), _size((height, width))
        raise FrameError(str(files.depth), f"the depth map is {found} pixels, the image is {expected}")
    if index in cameras.problems:
        raise FrameError(str(files.rgb), cameras.problems[index])
    intrinsics = cameras.intrinsics[index]
    if not cameras.is_known and rgb.intrinsics is not None:
        intrinsics = np.array(rgb.intrinsics)
    if cameras.size is not None and cameras.size != (width, height):
        intrinsics = _intrinsics_of_copy(intrinsics, cameras.size, (width, height), files)
    if not cameras.said and cameras.is_known:
        _expect_in_the_middle(intrinsics, (width, height), files)
    poses = None if index in cameras.without_pose else cameras.camera_to_world
    pose = None if poses is None else poses[index]
    return Frame(files.frame_id, rgb, depth_m, intrinsics, pose)


def _on_grid_of(depth_m: Float32[np.ndarray, "h w"], rgb: RgbImage) -> RgbImage:
    """Scale an image that covers its depth map down to that, if it has its aspect."""
    height, width = rgb.pixels.shape[:2]
    rows, columns = depth_m.shape
    x, y = columns / width, rows / height
    if not (rgb.covers_depth or rgb.any_size) or max(x, y) > 1 or x == y == 1 or abs(x / y - 1) > _SAME_ASPECT:
        return rgb
    pixels = cv2.resize(rgb.pixels, (columns, rows), interpolation=cv2.INTER_AREA)
    said = None if rgb.intrinsics is None else tuple(scale_intrinsics(np.array(rgb.intrinsics), x=x, y=y).tolist())
    return replace(rgb, pixels=pixels, jpeg=None, intrinsics=said)


def _on_grid_of_image(rgb: RgbImage, depth_m: Float32[np.ndarray, "_h _w"]) -> Float32[np.ndarray, "h w"]:
    """Scale a depth map of an image's aspect down to it by nearest pixels, if that is allowed."""
    height, width = rgb.pixels.shape[:2]
    rows, columns = depth_m.shape
    same_aspect = abs(columns * height / (width * rows) - 1) <= _SAME_ASPECT
    if not (rgb.any_size and same_aspect) or (rows, columns) == (height, width):
        return depth_m
    return depth_m[np.ix_(_centres(height, rows), _centres(width, columns))]


def _expect_in_the_middle(intrinsics: Float64[np.ndarray, "4"], size: tuple[int, int], files: FrameFiles) -> None:
    """Refuse intrinsics that are of another size, or of none.

    Their principal point lies outside the middle half of the image, or their focal length is below a tenth of its long
    side: wider than 157 degrees, which no pinhole camera is, so it is given in another unit than pixels.
    """
    fx, fy, cx, cy = intrinsics
    width, height = size
    if min(fx, fy) < max(width, height) / 10:
        raise FrameError(
            str(files.rgb),
            f"is {width}x{height} pixels, but its focal lengths are {fx:g}, {fy:g}: they look to be of another image "
            "size or in another unit than pixels; say what this camera is with --intrinsics fx,fy,cx,cy",
        )
    if not (width / 4 <= cx + 0.5 <= width * 3 / 4 and height / 4 <= cy + 0.5 <= height * 3 / 4):
        raise FrameError(
            str(files.rgb),
            f"is {width}x{height} pixels, but the principal point of its intrinsics is at {cx:g}, {cy:g}: they look "
            "to be of another image size; say what this camera is with --intrinsics fx,fy,cx,cy",
        )


def _intrinsics_of_copy(
    intrinsics: Float64[np.ndarray, "4"], known: tuple[int, int], found: tuple[int, int], files: FrameFiles
) -> Float64[np.ndarray, "4"]:
    """Scale a known camera's intrinsics to a resized copy, not to another aspect."""
    x, y = found[0] / known[0], found[1] / known[1]
    if abs(x / y - 1) > _SAME_ASPECT:
        raise FrameError(
            str(files.rgb),
            f"is {found[0]}x{found[1]} pixels, the data set's camera has {known[0]}x{known[1]}; "
            "say what this camera is with --intrinsics fx,fy,cx,cy",
        )
    return scale_intrinsics(intrinsics, x=x, y=y)


def fit_short_side(frame: Frame, short_side: int | None) -> Frame:
    """Scale a frame down to a short side of `short_side` pixels (None: as it is).

    RGB is averaged over areas, depth takes the nearest pixel, intrinsics follow with pixel centres at integers.
    """
    height, width = frame.depth_m.shape
    if short_side is None or min(height, width) <= short_side:
        return frame
    ratio = short_side / min(height, width)
    rows, columns = max(1, round(height * ratio)), max(1, round(width * ratio))
    pixels = cv2.resize(frame.rgb.pixels, (columns, rows), interpolation=cv2.INTER_AREA)
    nearest = np.ix_(_centres(rows, height), _centres(columns, width))
    intrinsics = scale_intrinsics(frame.intrinsics, x=columns / width, y=rows / height)
    return replace(frame, rgb=RgbImage(pixels), depth_m=frame.depth_m[nearest], intrinsics=intrinsics)


def _centres(count: int, source: int) -> np.ndarray:
    return ((np.arange(count) + 0.5) * source / count).astype(np.intp)


def _size(shape: Sequence[int]) -> str:
    return f"{shape[1]}x{shape[0]}" if len(shape) > 1 else "x".join(map(str, shape))
