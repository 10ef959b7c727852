"""KITTI with annotated depth: laser points in 16-bit PNGs, raw drives, calibration.

Depth maps are sparse, some 16 % of the pixels, and there are none of the first and last five frames of a drive: those
images are no part of it. Poses are made of the GPS and IMU's (oxts), where those are there; `_oxts` has the formulas.
"""

import functools
import logging
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float32, Float64

from vdaprep.errors import FrameError, UsageError
from vdaprep.raw.frames import Cameras, FrameFiles, RgbImage, SourceOptions, Trajectory
from vdaprep.raw.png import parse_png16
from vdaprep.raw.tree import Reader, Tree
from vdaprep.shards.records import Rejection
from vdaprep.sources import _manifest
from vdaprep.sources._images import integer_depth, parse_image
from vdaprep.sources._slots import Folder, Found, gather, trajectory_of
from vdaprep.sources.evaluation import _oxts

EXPECTED = (
    "val/DRIVE_sync/proj_depth/groundtruth/image_02/0000000005.png of data_depth_annotated.zip, "
    "DATE/DRIVE_sync/image_02/data/0000000005.png of the raw drives and DATE/calib_cam_to_cam.txt of DATE_calib.zip, "
    "in folders or in zip files"
)

_DRIVE = r"(?P<drive>(?P<date>\d{4}_\d\d_\d\d)_drive_\d{4}_sync)"
_DEPTH = re.compile(
    rf"^(?:(?P<root>.*)/)?(?P<split>train|val)/{_DRIVE}/proj_depth/groundtruth/image_0(?P<camera>[23])$"
)
_RGB = re.compile(rf"^(?:(?P<root>.*)/)?{_DRIVE}/image_0(?P<camera>[23])/data$")
_OXTS = re.compile(rf"^(?:(?P<root>.*)/)?{_DRIVE}/oxts/data$")
_CALIBRATION = re.compile(r"^(?:.*/)?(?P<date>\d{4}_\d\d_\d\d)/calib_(?P<key>cam_to_cam|imu_to_velo|velo_to_cam)\.txt$")
_PLACE = re.compile(rf"(?:^|/){_DRIVE}\.(?i:zip)$")
_DIGITS = "0?([0-9]{1,9})"
_FRAMES = {
    kind: re.compile(rf"{_DIGITS}\.(?i:{ending})$")
    for kind, ending in (("rgb", "png|jpe?g"), ("depth", "png"), ("pose", "txt"))
}
_CAMERAS = {0: "2", 1: "3"}
_WITHOUT_DEPTH = 5  # frames at either end of a drive
_NO_RETURN = 65535  # depth of 256 m, which no laser of KITTI reaches

_log = logging.getLogger("vdaprep")


def find_trajectories(tree: Tree, options: SourceOptions) -> Found:
    """List the drives, from their first depth map to their last.

    Their names are such as `val/2011_09_26_drive_0002_sync`.

    Raises UsageError for a camera that there is not.
    """
    if options.camera not in _CAMERAS:
        raise UsageError(f"--camera {options.camera}: KITTI has cameras 0 (image_02) and 1 (image_03).")
    drives = _look_through(tree, camera=_CAMERAS[options.camera])
    claims, others = gather(tree, functools.partial(_folder, drives=drives, camera=_CAMERAS[options.camera]))
    found = [trajectory_of(item, more=("pose",)) for item in claims if item.has("rgb", "depth")]
    found = [replace(item, problems=(*item.problems, *drives[_drive_of(item)].problems(item.name))) for item in found]
    return _with_calibration(found, tree, others)


def named_by_place(archive: str, first: str) -> Sequence[str] | None:
    """Return the names of a raw drive by that of its zip, or None."""
    match = _PLACE.search(archive)
    if match is None or (first and match["drive"] not in first):
        return None
    return [f"{split}/{match['drive']}" for split in ("train", "val")]


def _drive_of(trajectory: Trajectory) -> str:
    return trajectory.name.rpartition("/")[2]


# -------------------------------------------------------------------------------------------------------------- drives


@dataclass
class _Drive:
    """What there is of a drive."""

    split: str = ""
    """`train` or `val`, as the folder of its depth maps says; empty without any."""
    depth: tuple[int, int] | None = None
    """Numbers of its first and last depth map."""
    rgb: tuple[int, int] | None = None
    """Numbers of its first and last image."""

    @property
    def numbers(self) -> range | None:
        """Numbers of the frames between the first depth map and the last; None: all there are."""
        return None if self.depth is None else range(self.depth[0], self.depth[1] + 1)

    def problems(self, name: str) -> Iterator[Rejection]:
        """Say where more images than the known ones at either end lack depth maps."""
        if self.depth is None or self.rgb is None:
            return
        for where, missing in (
            (f"before its first depth map, {self.depth[0]}", self.depth[0] - self.rgb[0]),
            (f"after its last depth map, {self.depth[1]}", self.rgb[1] - self.depth[1]),
        ):
            if missing > _WITHOUT_DEPTH:
                reason = f"has {missing} frames {where}, expected {_WITHOUT_DEPTH}: depth maps are missing; left out"
                yield Rejection(name, reason)


def _look_through(tree: Tree, *, camera: str) -> dict[str, _Drive]:
    """Find which depth maps and images there are of each drive."""
    numbers: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
    splits: dict[str, str] = {}
    folders: dict[str, tuple[str, str] | None] = {}
    for path in tree.files:
        above, _, name = path.rpartition("/")
        if above not in folders:
            folders[above] = _kind_of(above, splits, camera=camera)
        kind = folders[above]
        if kind is not None and (match := _FRAMES[kind[0]].match(name)):
            numbers[kind].append(int(match[1]))
    drives: defaultdict[str, _Drive] = defaultdict(_Drive)
    for (kind, drive), found in numbers.items():
        setattr(drives[drive], kind, (min(found), max(found)))
        drives[drive].split = splits.get(drive, "")
    return dict(drives)


def _kind_of(path: str, splits: dict[str, str], *, camera: str) -> tuple[str, str] | None:
    """Return the kind of a folder's frames, and their drive, whose split is added to `splits`."""
    for kind, pattern in (("depth", _DEPTH), ("rgb", _RGB)):
        if (match := pattern.match(path)) and match["camera"] == camera:
            if kind == "depth":
                splits[match["drive"]] = max(match["split"], splits.get(match["drive"], ""))
            return kind, match["drive"]
    return None


def _folder(path: str, *, drives: Mapping[str, _Drive], camera: str) -> Folder | None:
    """Tell what a folder holds, as far as it is of a drive with images or depth maps."""
    for kind, pattern in (("depth", _DEPTH), ("rgb", _RGB), ("pose", _OXTS)):
        match = pattern.match(path)
        if match is None or match.groupdict().get("camera", camera) != camera or match["drive"] not in drives:
            continue
        drive = drives[match["drive"]]
        split = match["split"] if kind == "depth" else drive.split or _published_split(match["drive"])
        name = f"{split}/{match['drive']}"
        return Folder((name, "annotated"), match["root"] or "", kind, _FRAMES[kind], numbers=drive.numbers)
    return None


def _published_split(drive: str) -> str:
    return "val" if drive in _manifest.load("kitti").version("val")["drives"] else "train"


def _with_calibration(found: Iterable[Trajectory], tree: Tree, others: Sequence[str]) -> Found:
    """Give each drive the calibration of its date; a second file of a kind is left out."""
    tables: defaultdict[str, dict[str, str]] = defaultdict(dict)
    second: defaultdict[str, list[str]] = defaultdict(list)
    for path in sorted(others):
        if (match := _CALIBRATION.match(path)) and tables[match["date"]].setdefault(match["key"], path) != path:
            second[match["date"]].append(path)
    used: set[str] = set()
    trajectories: list[Trajectory] = []
    for item in found:
        date = _drive_of(item)[:10]
        shared = {key: tree.files[path] for key, path in tables[date].items()}
        left = second.pop(date, [])  # named once
        problems = [Rejection(path, f"is a second calibration of {date}; the first is used") for path in left]
        used.update(tables[date].values(), left)
        trajectories.append(
            replace(
                item,
                shared={**item.shared, **shared},
                problems=(*item.problems, *problems),
                unused=(*item.unused, *(tree.files[path] for path in left)),
            )
        )
    return Found(tuple(trajectories), tuple(path for path in others if path not in used))


# ------------------------------------------------------------------------------------------------------------- cameras


def read_cameras(trajectory: Trajectory, reader: Reader, options: SourceOptions) -> Cameras:
    """Read the intrinsics of the rectified camera, and poses where there are oxts."""
    count, date = len(trajectory.frames), _drive_of(trajectory)[:10]
    camera = _CAMERAS[options.camera]
    unknown = np.full((count, 4), np.nan)
    if "cam_to_cam" not in trajectory.shared:
        if options.intrinsics is not None:
            return Cameras(np.tile(np.array(options.intrinsics), (count, 1)), None, said=True)
        reason = f"has no camera: {date}/calib_cam_to_cam.txt is missing; it is in {date}_calib.zip"
        return Cameras(unknown, None, dict.fromkeys(range(count), reason))
    location = trajectory.shared["cam_to_cam"]
    try:
        rectified = _oxts.parse_rectified(reader.read(location), location, camera=camera)
    except FrameError as error:
        return Cameras(unknown, None, dict.fromkeys(range(count), f"has no usable camera: {error}"))
    poses, without = _read_poses(trajectory, reader, rectified.from_first)
    known = options.intrinsics or rectified.intrinsics
    return Cameras(
        np.tile(np.array(known, np.float64), (count, 1)),
        poses,
        size=rectified.size if options.intrinsics is None else None,
        said=options.intrinsics is not None,
        without_pose=without,
    )


def _read_poses(
    trajectory: Trajectory, reader: Reader, from_first: Float64[np.ndarray, "4 4"]
) -> tuple[Float64[np.ndarray, "n 4 4"] | None, frozenset[int]]:
    """Read the poses, and which frames have none.

    None without oxts and calibration of the IMU.
    """
    ids = trajectory.frame_ids
    places = {index: trajectory.shared.get(str(number)) for index, number in enumerate(ids)}
    if not any(places.values()):
        return None, frozenset()
    try:
        camera_to_imu = _oxts.camera_to_imu(
            from_first, {key: (reader.read(trajectory.shared[key]), trajectory.shared[key]) for key in _oxts.CHAIN}
        )
    except (KeyError, FrameError) as error:
        what = f"{error.args[0]} is missing" if isinstance(error, KeyError) else str(error)
        _log.warning("%s: has no poses, as the calibration of its IMU cannot be read (%s).", trajectory.name, what)
        return None, frozenset()
    rows: dict[int, np.ndarray] = {}
    problems: list[str] = []
    for index, location in places.items():
        try:
            if location is not None:
                rows[index] = _oxts.parse_oxts(reader.read(location), location)
        except FrameError as error:
            problems.append(str(error))
    if len(rows) < len(ids):
        more = f", for example {problems[0]}" if problems else ""
        _log.warning("%s: %d frames are kept without a pose%s.", trajectory.name, len(ids) - len(rows), more)
    if not rows:
        return None, frozenset()
    poses = np.full((len(ids), 4, 4), np.nan)
    poses[list(rows)] = _oxts.imu_to_world(np.array(list(rows.values()))) @ camera_to_imu
    return poses, frozenset(set(range(len(ids))) - rows.keys())


# -------------------------------------------------------------------------------------------------------------- frames


def read_rgb(files: FrameFiles, reader: Reader) -> RgbImage:
    """Read `image_02/data/0000000005.png`, or the JPEG to which many convert it."""
    if files.rgb is None:
        raise FrameError(str(files.depth), "has no image of the same number; those are in the raw drive's _sync.zip")
    return parse_image(reader.read(files.rgb), files.rgb)


def read_depth(files: FrameFiles, reader: Reader) -> Float32[np.ndarray, "h w"]:
    """Read `groundtruth/image_02/0000000005.png`: 1/256 m, 0 is unknown; there is no sky."""
    if files.depth is None:
        raise FrameError(str(files.rgb), "has no depth map of the same number; those are in data_depth_annotated.zip")
    units = parse_png16(reader.read(files.depth), files.depth)
    if units.max() == _NO_RETURN:
        raise FrameError(str(files.depth), "holds 65535, 256 m, which no laser point of KITTI has; get it again")
    return integer_depth("kitti", greatest="unknown").take(units)
