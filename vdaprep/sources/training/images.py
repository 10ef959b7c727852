"""Photographs, each a clip of one frame, with a teacher's disparity or none.

A photograph's name is its path without the ending, and without a last folder `images` or `rgb`. Its disparity has the
same name: `NAME.disparity.png`, `.npy` or `.exr` beside it, `NAME.npy` or `.exr`, or any of these endings in a folder
`disparity` in place of `images`. Either all photographs have one or none.

Pixels: turned as Exif says; 16 bits cut to the upper 8; grey becomes three equal colours; alpha is left out; CMYK, 32
bits a colour and files of several pictures are refused. Disparity is of the photograph as it is shown, greater where it
is nearer, in any scale and with any shift; 0 is farthest; nan, infinite and negative numbers are unknown. Depth in its
place would be taken for disparity: nothing tells them apart. Of a photograph and a map of other size and the same
aspect the larger is scaled down to the smaller, photographs by areas, maps by nearest pixels.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import cv2
import numpy as np
from jaxtyping import Float, Float32, UInt8

from vdaprep.errors import FrameError
from vdaprep.raw.arrays import parse_npy
from vdaprep.raw.exr import Expected, parse_exr
from vdaprep.raw.frames import Cameras, FrameFiles, RgbImage, SourceOptions, Trajectory
from vdaprep.raw.images import decode_image, parse_jpeg, wrong_kind
from vdaprep.raw.png import parse_png, parse_png16
from vdaprep.raw.tree import Location, Reader, Tree
from vdaprep.raw.walking import is_of_system
from vdaprep.shards.pictures.header import ImageHeader, read_header
from vdaprep.shards.records import Rejection
from vdaprep.sources._slots import Found
from vdaprep.storage.limits import LimitError

EXPECTED = (
    "photographs (.jpg, .png, .webp, .tif) in any folders or archives and, for all of them or for none, a teacher's "
    "disparity, near being greater: NAME.disparity.png (16 bits), .npy or .exr beside NAME.jpg, or disparity/NAME.png "
    "beside images/NAME.jpg"
)

_PHOTOGRAPH = re.compile(r"(?P<name>.+)\.(?i:jpe?g|png|webp|tiff?)")
_BESIDE = re.compile(r"(?P<name>.+?)(?:\.disparity\.(?i:png|npy|exr)|\.(?i:npy|exr))")
_IN_FOLDER = re.compile(r"(?:(?P<above>.+)/)?disparity/(?P<stem>[^/]+?)(?:\.disparity)?\.(?i:png|npy|exr)")
_PLACE = re.compile(r"(?:^|(?<=/))(?:images|rgb)/(?=[^/]+$)")
_DISPARITY = Expected("", "disparity")
_MAGICS = (b"\xff\xd8\xff", b"\x89PNG", b"RIFF", b"II*\0", b"MM\0*")
_WITHOUT_COLOURS = ("F", "I", "CMYK")  # of TIFFs


def find_trajectories(tree: Tree, options: SourceOptions) -> Found:
    """List photographs by name, each a trajectory of one frame."""
    slots: defaultdict[str, _Files] = defaultdict(_Files)
    others: list[str] = []
    for path, location in tree.files.items():
        found = None if is_of_system(path) else _slot_of(path)
        if found is None:
            others.append(path)
        else:
            name, kind = found
            getattr(slots[name], kind).append(location)
    trajectories = tuple(_trajectory(name, slots[name]) for name in sorted(slots))
    if not any(files.rgb for files in slots.values()):
        return Found((), tuple(tree.files))
    return Found(trajectories, tuple(others), refusal=_refusal(trajectories))


@dataclass
class _Files:
    """The files of one name."""

    rgb: list[Location] = field(default_factory=list[Location])
    depth: list[Location] = field(default_factory=list[Location])


def _slot_of(path: str) -> tuple[str, str] | None:
    """Return the name and the kind of a file; None if it is neither photograph nor map."""
    if match := _IN_FOLDER.fullmatch(path):
        return f"{match['above']}/{match['stem']}" if match["above"] else match["stem"], "depth"
    if path.split("/")[-2:-1] == ["disparity"]:
        return None  # such as a coloured picture of a map
    if match := _BESIDE.fullmatch(path):
        return _PLACE.sub("", match["name"]), "depth"
    match = _PHOTOGRAPH.fullmatch(path)
    return None if match is None else (_PLACE.sub("", match["name"]), "rgb")


def _trajectory(name: str, files: _Files) -> Trajectory:
    """Return a photograph; of several files of a kind the first by name is taken."""
    problems: list[Rejection] = []
    unused: list[Location] = []
    for what, found in (("photograph", files.rgb), ("disparity map", files.depth)):
        found.sort(key=str)
        for other in found[1:]:
            advice = "; if it is a disparity map, call it NAME.disparity.png" if what == "photograph" else ""
            problems.append(Rejection(str(other), f"is a second {what} of {name}; {found[0]} is used{advice}"))
            unused.append(other)
    frame = FrameFiles(0, next(iter(files.rgb), None), next(iter(files.depth), None))
    return Trajectory(name, "images", (frame,), {}, tuple(problems), tuple(unused))


def _refusal(found: Sequence[Trajectory]) -> str:
    """Say what is wrong if some photographs have a map and others none; empty if nothing is."""
    frames = [item.frames[0] for item in found]
    photographs = [frame for frame in frames if frame.rgb is not None]
    without = [frame for frame in photographs if frame.depth is None]
    lone = [frame for frame in frames if frame.rgb is None]
    if not without or (len(without) == len(photographs) and not lone):
        return ""
    unmatched = f"; {len(lone)} maps have no photograph of their name, the first {lone[0].depth}" if lone else ""
    return (
        f"{len(without)} of {len(photographs)} photographs have no disparity map, the first {without[0].rgb}"
        f"{unmatched}; give all of them one (NAME.disparity.png beside NAME.jpg, or "
        "disparity/NAME.png beside images/NAME.jpg), or "
        "keep those without, and all maps without a photograph, in a folder of their own"
    )


# ------------------------------------------------------------------------------------------------------------ cameras


def read_cameras(trajectory: Trajectory, reader: Reader, options: SourceOptions) -> Cameras:
    """Return the intrinsics of `options`, or none: photographs may say their own."""
    said = options.intrinsics is not None
    intrinsics = np.array([options.intrinsics or [np.nan] * 4], np.float64)
    return Cameras(intrinsics, None, said=said, is_known=said)


# ------------------------------------------------------------------------------------------------------------- frames


def read_rgb(files: FrameFiles, reader: Reader) -> RgbImage:
    """Read a photograph as it is shown; the bytes of a JPEG that is not turned are passed on."""
    if files.rgb is None:
        raise FrameError(str(files.depth), "has no photograph of its name")
    data = reader.read(files.rgb)
    header = _header(data, files.rgb)
    return replace(_PARSERS[header.kind](data, files.rgb, header), any_size=True, intrinsics=header.intrinsics)


def _header(data: bytes, location: Location) -> ImageHeader:
    try:
        header = read_header(data)
    except LimitError as error:
        raise FrameError(str(location), error.reason.rstrip(".")) from error
    if header is None and data.startswith(_MAGICS):
        reason = "its header is damaged, or says what cannot be read, as 16 bits a colour in a TIFF; save it as PNG"
        raise FrameError(str(location), reason)
    if header is None:
        raise wrong_kind("a JPEG, PNG, WebP or TIFF", data, location)
    if header.pictures > 1:
        raise FrameError(str(location), f"has {header.pictures} pictures, expected one")
    return header


def _of_jpeg(data: bytes, location: Location, header: ImageHeader) -> RgbImage:
    image = parse_jpeg(data, location)
    return image if header.orientation == 1 else RgbImage(_shown(data, location))


def _of_png(data: bytes, location: Location, header: ImageHeader) -> RgbImage:
    pixels = parse_png(data, location)
    return RgbImage(pixels if header.orientation == 1 else _shown(data, location))


def _of_other(data: bytes, location: Location, header: ImageHeader) -> RgbImage:
    if header.mode in _WITHOUT_COLOURS:
        raise FrameError(str(location), f"is a {header.kind} of {header.mode} pixels, expected grey or RGB")
    return RgbImage(_shown(data, location))


_PARSERS: dict[str, Callable[[bytes, Location, ImageHeader], RgbImage]] = {
    "JPEG": _of_jpeg,
    "PNG": _of_png,
    "WEBP": _of_other,
    "TIFF": _of_other,
}


def _shown(data: bytes, location: Location) -> UInt8[np.ndarray, "h w 3"]:
    """Decode an image that was found whole, turned as Exif says."""
    return decode_image(data, location, cv2.IMREAD_COLOR_RGB, turned=True)


def read_depth(files: FrameFiles, reader: Reader) -> Float32[np.ndarray, "h w"] | None:
    """Read a photograph's disparity as 1 / disparity, inf where that is 0; None without one."""
    if files.depth is None:
        return None
    disparity = _read_disparity(reader.read(files.depth), files.depth).astype(np.float32)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(np.isfinite(disparity) & (disparity >= 0), 1 / disparity, np.float32(np.nan))


def _read_disparity(data: bytes, location: Location) -> Float[np.ndarray, "h w"]:
    ending = location.member.rpartition(".")[2].lower()
    if ending == "npy":
        return parse_npy(data, location)
    if ending == "exr":
        return parse_exr(data, location, _DISPARITY)
    return parse_png16(data, location).astype(np.float32)
