"""Frames of a folder of images, in the order of the numbers in their names."""

import io
import re
import struct
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate, pairwise
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps, ImageSequence, UnidentifiedImageError
from PIL.ExifTags import Base as ExifTag

from vdaprep.errors import DataError
from vdaprep.shards.pictures.header import read_header
from vdaprep.storage.limits import MAX_FRAME_PIXELS, LimitError, check_pixels
from vdatrain.inference.video import DEFAULT_FPS, Remarks, Video, VideoFrame, checked, some

IMAGE_SUFFIXES = (
    *(".avif", ".bmp", ".gif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm"),
    *(".png", ".ppm", ".tif", ".tiff", ".webp"),
)
_SHOWN = 3  # names in a sentence
_MILLISECOND = Fraction(1, 1000)
_NUMBER = re.compile(r"([0-9]+)")
_DECIMAL = re.compile(r"[0-9]+\.[0-9]+")


def open_folder(folder: Path) -> Video:
    """Open a folder of images; raises DataError if it is not clear which are the frames.

    Numbers in names count as numbers: 2 comes before 10. What is no image is left out and named.
    """
    remarks = Remarks(str(folder))
    paths = _in_order(images_of(folder, remarks), folder, remarks)
    return _video_of(_usable(paths, remarks), where=folder, remarks=remarks)


def open_image(path: Path) -> Video | None:
    """Open one image as a video, also one that moves; None if it is no image read here."""
    remarks = Remarks(str(path))
    found = _examine(path)
    if found is None or (found.count > 1 and found.format != "WEBP"):
        return None
    if found.count > 1:
        return Video(
            lambda: checked(_read_animation(path, remarks), where=str(path)),
            num_frames=found.count,
            time_base=_MILLISECOND,
            remarks=remarks,
        )
    return _video_of({path: 0}, where=path, remarks=remarks)


# ---------------------------------------------------------------------------------------------------------- the files


def images_of(folder: Path, remarks: Remarks) -> list[Path]:
    """Return a folder's images by their endings, sorted; others are named, hidden files ignored."""
    shown = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    folders = [path for path in shown if path.is_dir()]
    named = [path for path in shown if path not in folders and path.suffix.lower() in IMAGE_SUFFIXES]
    images = [path for path in named if path.is_file()]
    if not images:
        inside = [path.name for path in folders if _has_images(path)]
        hint = f" Its folders have some ({some(inside)}): give one of them." if inside else ""
        raise DataError(f"{folder}: has no images; looked for files that end in {', '.join(IMAGE_SUFFIXES)}.{hint}")
    if folders:
        remarks.add(f"its folders are not looked into ({some([path.name for path in folders])}).")
    if others := [path.name for path in shown if path not in folders and path not in named]:
        remarks.add(f"{len(others)} of its files are no images by their endings and left out ({some(others)}).")
    for path in named:
        if not path.is_file():
            what = "a link that leads nowhere" if path.is_symlink() else "no file"
            remarks.add(f"{path.name} is {what}; it is left out.", lost=True)
    return images


def _has_images(folder: Path) -> bool:
    try:
        return any(path.suffix.lower() in IMAGE_SUFFIXES and path.name[0] != "." for path in folder.iterdir())
    except OSError:
        return False


@dataclass(frozen=True)
class _Name:
    """A file name taken apart at its numbers."""

    texts: tuple[str, ...]
    """What stands between the numbers, without the ending, in lower case."""
    numbers: tuple[int, ...]
    """The numbers."""

    @classmethod
    def of(cls, path: Path) -> "_Name":
        parts = _NUMBER.split(path.stem)
        return cls(tuple(part.casefold() for part in parts[::2]), tuple(int(part) for part in parts[1::2]))

    def key(self) -> tuple[tuple[str | int, ...], ...]:
        """Return what the name is sorted by: text, number, text, and so on."""
        pairs: list[tuple[str | int, ...]] = [*zip(self.texts, self.numbers, strict=False)]
        return (*pairs, (self.texts[-1],))


def _in_order(paths: Sequence[Path], folder: Path, remarks: Remarks) -> list[Path]:
    """Sort images by the numbers in their names; raises DataError if two have the same ones."""
    names = {path: _Name.of(path) for path in paths}
    same: defaultdict[_Name, list[str]] = defaultdict(list)
    for path, name in names.items():
        same[name].append(path.name)
    twice = [found for found in same.values() if len(found) > 1]
    if twice:
        more = f", and so have {len(twice) - 1} others" if len(twice) > 1 else ""
        raise DataError(
            f"{folder}: {' and '.join(sorted(twice[0])[:_SHOWN])} have one number{more}; keep one file a frame there."
        )
    ordered = sorted(paths, key=lambda path: names[path].key())
    forms = Counter(name.texts for name in names.values())
    if len(forms) > 1:
        remarks.add(
            f"names its images in {len(forms)} forms; they are taken in the order "
            f"{ordered[0].name} ... {ordered[-1].name}: by text, and within a text by number."
        )
    elif all(len(name.numbers) > 1 for name in names.values()) and _reads_otherwise(ordered):
        remarks.add(
            f"has names with several numbers; they are taken by the first number, then by the next, "
            f"{ordered[0].name} ... {ordered[-1].name}, not as decimal fractions."
        )
    return ordered


def _reads_otherwise(ordered: Sequence[Path]) -> bool:
    """Tell whether names would be in another order with points as decimal points."""
    found = [_DECIMAL.findall(path.stem) for path in ordered]
    values = [[float(text) for text in texts] for texts in found]
    return values != sorted(values)


def _numbers(paths: Sequence[Path], remarks: Remarks) -> list[int]:
    """Number images in succession, leaving one out at more than the usual step in names."""
    names = [_Name.of(path) for path in paths]
    alike = len({(name.texts, len(name.numbers)) for name in names}) == 1
    columns = list(zip(*(name.numbers for name in names), strict=True)) if alike else []
    varying = [column for column in columns if len(set(column)) > 1]
    if len(varying) != 1:
        return list(range(len(paths)))
    steps = [after - before for before, after in pairwise(varying[0])]
    counts = Counter(steps)
    usual = min(steps, key=lambda step: (-counts[step], step))
    gaps = [place for place, step in enumerate(steps) if step > usual]
    if gaps:
        places = f"{len(gaps)} places, first" if len(gaps) > 1 else "1 place,"
        where = f"{paths[gaps[0]].name} and {paths[gaps[0] + 1].name}"
        remarks.add(f"leaves numbers out in {places} between {where}; frames are taken as they follow.")
    return list(accumulate((1 if step <= usual else 2 for step in steps), initial=0))


# ---------------------------------------------------------------------------------------------------------- the images


@dataclass(frozen=True)
class _Header:
    """What an image's header says."""

    size: tuple[int, int]
    """Width and height in pixels, as shown."""
    format: str
    """PIL's name of it."""
    count: int
    """Pictures: more than 1 of one that moves."""


_BROKEN = (
    *(UnidentifiedImageError, OSError, EOFError, struct.error),
    *(ValueError, SyntaxError, KeyError, IndexError, TypeError),
)
_SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that exchange width and height
_SEVERAL = ("AVIF", "GIF", "PNG", "WEBP")  # formats whose further pictures are those of a film


def _examine(path: Path) -> _Header | None:
    """Read an image's header; None if it is no image.

    Raises LimitError if it is too large, DataError if unreadable.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of large pictures, for which there is a limit of our own
            with Image.open(path) as image:
                check_pixels(*image.size, where=str(path))
                # PIL has turned a TIFF already.
                turned = image.format != "TIFF" and image.getexif().get(ExifTag.Orientation) in _SIDEWAYS
                count = getattr(image, "n_frames", 1) if image.format in _SEVERAL else 1
                if image.format == "TIFF" and image.mode in ("F", "I"):
                    return None  # 32 bits a pixel are measurements, no picture
                width, height = image.size
                return _Header((height, width) if turned else (width, height), image.format or "", count)
    except Image.DecompressionBombError as error:
        raise LimitError(
            str(path), f"has more than {MAX_FRAME_PIXELS} pixels by its header; make it smaller, or leave it out."
        ) from error
    except PermissionError as error:
        raise DataError(f"{path}: may not be read; get the right to read it.") from error
    except _BROKEN:
        return None


def _usable(paths: Sequence[Path], remarks: Remarks) -> dict[Path, int]:
    """Return the images that can be frames, numbered; raises DataError for two sizes."""
    found: dict[Path, int] = {}
    first: tuple[Path, _Header] | None = None
    broken: list[str] = []
    for path, number in zip(paths, _numbers(paths, remarks), strict=True):
        header = _examine(path)
        if header is None:
            broken.append(path.name)
        elif header.count > 1:
            remarks.add(f"{path.name} has {header.count} pictures, it is left out: a frame is one picture.", lost=True)
        else:
            first = first or (path, header)
            if header.size != first[1].size:
                (width, height), (expected_width, expected_height) = header.size, first[1].size
                raise DataError(
                    f"{path}: is {width}x{height} pixels, the frames before it are {expected_width}x{expected_height}; "
                    "all must have one size."
                )
            found[path] = number
    _say_broken(broken, remarks)
    return found


def _say_broken(names: Sequence[str], remarks: Remarks) -> None:
    if names:
        what = "is no image" if len(names) == 1 else "are no images"
        remarks.add(f"{some(names)} {what} that can be read; left out.", lost=True)


def _video_of(numbers: Mapping[Path, int], *, where: Path, remarks: Remarks) -> Video:
    return Video(
        lambda: checked(_read_images(numbers, remarks), where=str(where)), num_frames=len(numbers), remarks=remarks
    )


def _read_images(numbers: Mapping[Path, int], remarks: Remarks) -> Iterator[tuple[str, VideoFrame]]:
    broken: list[str] = []
    for count, (path, number) in enumerate(numbers.items()):
        data = _bytes_of(path)
        picture = _read_image(path, data)
        if picture is None:
            broken.append(path.name)
        else:
            header = read_header(data)
            camera = None if header is None or header.focal_px is None else np.array(header.intrinsics)
            yield str(path), VideoFrame(number, picture, count / DEFAULT_FPS, camera)
    _say_broken(broken, remarks)


def _bytes_of(path: Path) -> bytes:
    """Return a file's content; nothing if it cannot be read."""
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _read_image(path: Path, data: bytes) -> UInt8[np.ndarray, "h w 3"] | None:
    """Decode an image to eight bits of RGB, turned as its metadata says; None if that fails."""
    try:
        if path.suffix.lower() == ".avif":  # of which OpenCV does not read the orientation
            with Image.open(io.BytesIO(data)) as image:
                return _rgb(image)
        found = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
    except (cv2.error, *_BROKEN):
        return None
    return None if found is None else cv2.cvtColor(found, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)


def _rgb(image: Image.Image) -> UInt8[np.ndarray, "h w 3"]:
    return np.asarray(ImageOps.exif_transpose(image).convert("RGB"), np.uint8)


def _read_animation(path: Path, remarks: Remarks) -> Iterator[tuple[str, VideoFrame]]:
    """Yield the pictures of a moving WebP, which FFmpeg does not read, with their times."""
    seconds = Fraction(0)
    with Image.open(path) as image:
        for number, picture in enumerate(ImageSequence.Iterator(image)):
            try:
                rgb = _rgb(picture)
            except _BROKEN:
                remarks.add(f"frame {number} cannot be decoded; what was read before it is there.", lost=True)
                return
            yield f"{path}, frame {number}", VideoFrame(number, rgb, seconds)
            seconds += max(int(picture.info.get("duration", 0)), 1) * _MILLISECOND
