"""Dynamic Replica: PNG frames, half floats in 16-bit PNGs, cameras of a split in one list.

`frame_annotations_SPLIT.jgz` holds the cameras as PyTorch3D has them, which is not needed to read them. Its notes on
cameras (pytorch3d.org/docs/cameras) and the authors' loader (datasets/dynamic_stereo_datasets.py of
facebookresearch/dynamic_stereo) say:

* A point X of the world, a row, is at X R + T in the camera, whose x points left and y up. To have them right and down
  the first two columns of R and numbers of T change sign; then camera_to_world is R and -R T.
* In normalised device coordinates (NDC) x and y are 0 in the middle of the image, and 1 at its left and upper edges
  (`ndc_norm_image_bounds`) or as far from it as the nearer edges (`ndc_isotropic`). With s half of the image's sides,
  or twice half of the shorter one, the focal length is f s pixels and the principal point side / 2 - p s from the
  image's corner, so half a pixel less where pixel centres are at integers.
"""

import functools
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

import numpy as np
from jaxtyping import Float32, Float64

from vdaprep.errors import FrameError, UsageError
from vdaprep.raw.frames import Cameras, FrameFiles, RgbImage, SourceOptions, Trajectory
from vdaprep.raw.json_list import parse_gzipped_list
from vdaprep.raw.png import parse_png, parse_png16
from vdaprep.raw.tree import Location, Reader, Tree
from vdaprep.sources._slots import DIGITS, Folder, Found, gather, trajectory_of

EXPECTED = (
    "train/NAME_source_left/{images/NAME_source_left-0000.png,depths/NAME_source_left_0000.geometric.png} and "
    "train/frame_annotations_train.jgz, in folders or in train_000.zip"
)

_SPLITS = "train|valid|test"
_CAMERAS = {0: "left", 1: "right"}
_FOLDER = re.compile(
    r"^(?:(?P<root>.*)/)?(?P<folder>(?P<sequence>[^/]+)_source_(?P<camera>left|right))/(?P<kind>images|depths)$"
)
_SPLIT = re.compile(rf"(?:^|/)({_SPLITS})(?=/|$)")
_ARCHIVE = re.compile(rf"(?:^|/)({_SPLITS})_\d+\.(?i:zip)(?:\?.*)?$")
_KINDS = {"images": "rgb", "depths": "depth"}
_FRAMES = {
    "rgb": re.compile(rf".*-({DIGITS})\.(?i:png)$"),
    "depth": re.compile(rf".*_({DIGITS})\.geometric\.(?i:png)$"),
}
_ANNOTATIONS = re.compile(rf"(?:^|/)frame_annotations_(?P<split>{_SPLITS})\.jgz$")
_OF_PATH = re.compile(rf"-({DIGITS})\.png$")
_NAME = re.compile(r"(?:.*/)?(?P<sequence>[^/]+)_source_(?P<camera>left|right)$")


def find_trajectories(tree: Tree, options: SourceOptions) -> Found:
    """List the sequences of a camera, such as `train/009850-3_obj_source_left`.

    Raises UsageError for a camera that there is not.
    """
    if options.camera not in _CAMERAS:
        raise UsageError(f"--camera {options.camera}: Dynamic Replica has cameras 0 (left) and 1 (right).")
    folder_of = functools.partial(_folder, top=tree.root.resolve().name, camera=_CAMERAS[options.camera])
    claims, others = gather(tree, folder_of, below=_below)
    annotations = {path: tree.files[path] for path in others if _ANNOTATIONS.search(path)}
    found = [_with_annotations(trajectory_of(item), annotations) for item in claims if item.has("rgb", "depth")]
    used = {location for item in found for location in item.shared.values()}
    left = [path for path in others if annotations.get(path) not in used]
    return Found(tuple(found), tuple(left))


def _folder(path: str, *, top: str, camera: str) -> Folder | None:
    match = _FOLDER.match(path)
    if match is None or match["camera"] != camera:
        return None
    splits = _SPLIT.findall(f"{top}/{match['root'] or ''}")
    name = "/".join([*splits[-1:], match["folder"]])
    kind = _KINDS[match["kind"]]
    return Folder((name, "2"), match["root"] or "", kind, _FRAMES[kind])


def _below(archive: str) -> str:
    """Return the split that an archive's name says, as the authors' script unpacks it to."""
    match = _ARCHIVE.search(archive)
    return "" if match is None else f"{match[1]}/"


def _with_annotations(trajectory: Trajectory, annotations: Mapping[str, Location]) -> Trajectory:
    """Add the lists of its split, or all where its place does not say which that is."""
    split = trajectory.name.rpartition("/")[0]
    paths = [path for path in sorted(annotations) if split in ("", _split_of(path))]
    return replace(trajectory, shared={f"annotations {path}": annotations[path] for path in paths})


def _split_of(path: str) -> str:
    match = _ANNOTATIONS.search(path)
    assert match is not None  # it was found by that
    return match["split"]


# ------------------------------------------------------------------------------------------------------------ cameras


def read_cameras(trajectory: Trajectory, reader: Reader, options: SourceOptions) -> Cameras:
    """Read a sequence's cameras from its split's list; `options` may have other intrinsics."""
    match = _NAME.match(trajectory.name)
    assert match is not None  # it was made by `_folder`
    found, reason = _find_views(trajectory, reader, *match.groups())
    problems: dict[int, str] = {}
    values = np.full((len(trajectory.frames), _COLUMNS), np.nan)
    for index, frame_id in enumerate(trajectory.frame_ids):
        row = found.get(frame_id, reason)
        if isinstance(row, str):
            problems[index] = f"has no camera: {row}"
        else:
            values[index] = np.frombuffer(row)
    poses = values[:, 6:].reshape(-1, 4, 4)
    if options.intrinsics is not None:
        intrinsics = np.tile(np.array(options.intrinsics, np.float64), (len(values), 1))
        return Cameras(intrinsics, poses, problems, said=True)
    return Cameras(values[:, :4], poses, problems, size=_only_size(values[:, 4:6]))


_COLUMNS = 4 + 2 + 16  # fx, fy, cx, cy; width, height; camera_to_world
_View = bytes | str  # _COLUMNS numbers of 64 bits, or what is wrong


def _find_views(trajectory: Trajectory, reader: Reader, sequence: str, camera: str) -> tuple[Mapping[int, _View], str]:
    """Return a sequence's cameras by frame, and what to say of a frame that is not among them."""
    split = trajectory.name.rpartition("/")[0] or "train, valid or test"
    reason = f"frame_annotations_{split}.jgz is missing; it comes with the zips of its split"
    for location in trajectory.shared.values():
        try:
            views = _parse_annotations(reader.read(location), location, camera=camera)
        except FrameError as error:
            reason = str(error)
            continue
        if sequence in views:
            return views[sequence], f"{location} lists other frames of {sequence}, {camera}"
        reason = f"{location} does not list {sequence}, {camera}"
    return {}, reason


def _only_size(sizes: Float64[np.ndarray, "n 2"]) -> tuple[int, int] | None:
    """Return width and height if they are one, where they are known."""
    known = sizes[np.isfinite(sizes).all(axis=1)]
    return (int(known[0, 0]), int(known[0, 1])) if len(known) and (known == known[0]).all() else None


@functools.lru_cache(maxsize=1)  # a list is of some 145,000 frames, each trajectory's among them
def _parse_annotations(data: bytes, location: Location, *, camera: str) -> Mapping[str, Mapping[int, _View]]:
    """Return the views of a camera by sequence and frame; raises FrameError for no such list."""
    views: defaultdict[str, dict[int, _View]] = defaultdict(dict)
    for entry in parse_gzipped_list(data, location):
        if entry.get("camera_name") != camera:
            continue
        sequence, number = entry.get("sequence_name"), entry.get("frame_number")
        if not isinstance(sequence, str) or type(number) is not int:
            raise FrameError(str(location), "an entry lacks sequence_name or frame_number, a text and a whole number")
        view = parse_view(entry, where=str(location))
        views[sequence][number] = f"{location} lists it twice" if number in views[sequence] else view
    return dict(views)


def parse_view(entry: Mapping[str, Any], *, where: str) -> _View:
    """Return the camera of an entry as numbers; or, as text, what is wrong with it."""
    try:
        image, viewpoint = entry["image"], entry["viewpoint"]
        of_path = _OF_PATH.search(image["path"])
        if of_path is None or int(of_path[1]) != entry["frame_number"]:
            return f"{where} gives frame {entry['frame_number']} the image {image['path']!r}"
        height, width = _numbers(image["size"], 2)
        intrinsics = _intrinsics(viewpoint, width=width, height=height)
        rotation = _numbers([number for row in viewpoint["R"] for number in row], 9)
        pose = _camera_to_world(np.reshape(rotation, (3, 3)), np.array(_numbers(viewpoint["T"], 3)))
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        return f"its viewpoint in {where} cannot be read ({type(error).__name__}: {str(error)[:80]})"
    return np.array([*intrinsics, width, height, *pose.ravel()]).tobytes()


def _numbers(values: Any, count: int) -> list[float]:
    found = cast("list[Any]", values) if isinstance(values, list) else []
    if len(found) != count or any(type(value) not in (int, float) for value in found):
        raise ValueError(f"expected {count} numbers")
    return [float(value) for value in found]


def _intrinsics(viewpoint: Mapping[str, Any], *, width: float, height: float) -> list[float]:
    """Turn NDC into fx, fy, cx, cy in pixels, whose centres are at integers."""
    (fx, fy), (px, py) = (_numbers(viewpoint[key], 2) for key in ("focal_length", "principal_point"))
    kind = viewpoint["intrinsics_format"]
    if kind not in ("ndc_norm_image_bounds", "ndc_isotropic"):
        raise ValueError(f"intrinsics_format is {kind!r}")
    x, y = (width / 2, height / 2) if kind == "ndc_norm_image_bounds" else (min(width, height) / 2,) * 2
    return [fx * x, fy * y, width / 2 - px * x - 0.5, height / 2 - py * y - 0.5]


def _camera_to_world(
    rotation: Float64[np.ndarray, "3 3"], translation: Float64[np.ndarray, "3"]
) -> Float64[np.ndarray, "4 4"]:
    """Turn PyTorch3D's R and T, world-to-camera for rows, into a pose with OpenCV's axes."""
    flip = np.array([-1.0, -1.0, 1.0])
    pose = np.eye(4)
    pose[:3, :3] = rotation * flip
    pose[:3, 3] = -pose[:3, :3] @ (translation * flip)
    return pose


# ------------------------------------------------------------------------------------------------------------- frames


def read_rgb(files: FrameFiles, reader: Reader) -> RgbImage:
    """Read `images/NAME_source_left-0000.png`."""
    if files.rgb is None:
        raise FrameError(str(files.depth), "has no image of the same number in images")
    return RgbImage(parse_png(reader.read(files.rgb), files.rgb))


def read_depth(files: FrameFiles, reader: Reader) -> Float32[np.ndarray, "h w"]:
    """Read `depths/NAME_source_left_0000.geometric.png`: metres, 0 and inf unknown."""
    if files.depth is None:
        raise FrameError(str(files.rgb), "has no depth map of the same number in depths")
    depth_m = parse_png16(reader.read(files.depth), files.depth).view(np.float16).astype(np.float32)
    return np.where(np.isfinite(depth_m) & (depth_m > 0), depth_m, np.float32(np.nan))
