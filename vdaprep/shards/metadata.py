"""A clip's metadata: frames, cameras, how depth and differences are coded."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from jaxtyping import Float64

from vdaprep.errors import ShardError
from vdaprep.shards.cameras import are_rigid
from vdaprep.shards.canonical import SCHEMA_VERSION, canonical_json, check_version, contract, parse_json
from vdaprep.shards.names import MAX_CLIP_FRAMES
from vdaprep.storage.documents import Fields, name_problem, path_problem, shown
from vdaprep.storage.limits import MAX_FRAME_PIXELS, MAX_SMALL_DOCUMENT_BYTES, check_pixels

MAX_CODE = 65534  # of a depth that is known; see `depth_codes`
_DEPTH_KINDS = ("linear", "half", "log", "relative")
PACKINGS = ("bytes", "nibbles", "sparse", "interpolation")
"""How codes of depth become bytes; `codec` has a module for each but the first two, which are `codec.depth`'s.

Version 1 knows `bytes` only.
"""
RGB_CODECS = ("jpeg", "h264", "av1")
GROUP_FRAMES = 8
"""Frames of a group of video, unless the clip ends before."""
_NEW_FIELDS = ("rgb", "packing", "steps", "origin", "teacher_disparity")
# of version 2, in clips, their depth and their differences
MAX_STEPS = 99
_MAX_NUMBER = 2**63 - 1  # frames may be numbered by time stamps
_MIN_METRES, _MAX_METRES = 1e-12, 1e12  # of float32 even when a code counts 65534 of them


@dataclass(frozen=True)
class DepthSpec:
    """How depth codes become metres; `depth_codes` has the tables."""

    kind: str
    """`linear` (integers), `half` (half floats), `log` (even in log depth), or `relative`: no metres, but a teacher's
    disparity, known up to scale and shift, even between the clip's least and greatest."""
    relative_error: float
    """Bound of the relative error of every decoded pixel; of kind `relative`, of disparity as a share of its range;
    0: exact."""
    unit_m: float | None = None
    """Metres a unit, of `linear` and `half`."""
    near_m: float | None = None
    """Nearest depth in metres, of `log`."""
    far_m: float | None = None
    """Farthest depth in metres, of `log`; beyond is sky."""
    packing: str = "bytes"
    """How codes become bytes: `bytes`, `nibbles`, `sparse` (without loss) or `interpolation`."""
    steps: int = 1
    """Codes within the error's bound: an odd number, above 1 for packing `interpolation` only, of the kinds `log` and
    `relative`."""

    def __post_init__(self) -> None:
        for name, value, known in [("kind", self.kind, _DEPTH_KINDS), ("packing", self.packing, PACKINGS)]:
            if value not in known:
                raise ShardError(f"depth {name} {value!r} is not one of {', '.join(known)}.")
        lossy = self.packing == "interpolation"
        if (
            not (1 <= self.steps <= MAX_STEPS and self.steps % 2)
            or lossy != (self.steps > 1)
            or lossy > (self.kind in ("log", "relative"))
        ):
            raise ShardError(f"depth of kind {self.kind!r}, packing {self.packing!r} cannot have {self.steps} steps.")
        if self.kind == "log":
            ok = self.near_m is not None and self.far_m is not None and 0 < self.near_m < self.far_m < math.inf
            ok = ok and 0 < self.relative_error < 1
        elif self.kind == "relative":
            ok = (self.unit_m, self.near_m, self.far_m) == (None, None, None) and 0 <= self.relative_error < 1
        else:
            ok = self.unit_m is not None and 0 < self.unit_m < math.inf and self.relative_error >= 0
        if not ok:
            raise ShardError(f"depth of kind {self.kind!r} has impossible settings: {self.to_json()}.")
        if self.kind == "log" and self.log_codes > MAX_CODE:
            raise ShardError(
                f"depth of kind 'log' from {self.near_m:g} to {self.far_m:g} m with an error of "
                f"{self.relative_error:g} takes {self.log_codes} codes, expected at most {MAX_CODE}."
            )

    @property
    def is_metric(self) -> bool:
        """Whether codes become metres; false of kind `relative`."""
        return self.kind != "relative"

    @property
    def log_step(self) -> float:
        """Width of a code of kind `log`, in log(metres): 0.999 * 2 log(1 + error) / steps."""
        return 0.999 * 2 * math.log1p(self.relative_error) / self.steps

    @property
    def log_codes(self) -> int:
        """How many codes kind `log` takes from `near_m` to `far_m`."""
        assert self.near_m is not None
        assert self.far_m is not None
        return 1 + math.ceil(min(1e9, math.log(self.far_m / self.near_m) / self.log_step))

    def to_json(self, *, version: int = SCHEMA_VERSION) -> dict[str, Any]:
        """Return the fields that this kind has in a version."""
        values = {name: getattr(self, name) for name in _field_names(DepthSpec, version)}
        return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True)
class RgbSpec:
    """How frames are stored."""

    codec: str = "jpeg"
    """`jpeg`, one member a frame; `h264` or `av1`, one member a group of frames, in MP4."""
    group: int = 1
    """Frames of a group, each of which decodes alone; 1 for `jpeg`."""

    def __post_init__(self) -> None:
        if self.codec not in RGB_CODECS:
            raise ShardError(f"codec {self.codec!r} of frames is not one of {', '.join(RGB_CODECS)}.")
        if (self.codec == "jpeg") != (self.group == 1) or not 1 <= self.group <= 64:
            raise ShardError(f"frames of codec {self.codec!r} cannot lie in groups of {self.group}.")

    @property
    def kind(self) -> str:
        """Kind of the members that hold frames."""
        return "rgb.jpg" if self.codec == "jpeg" else "rgb.mp4"


@dataclass(frozen=True)
class DiffSpec:
    """How differences of frames are stored."""

    scale: int
    """They are averaged over `scale` x `scale` pixels."""
    step: int
    """Grey levels of a step; they are stored as whole steps, -127 to 127."""
    origin: str = "stored"
    """`stored` (taken from the raw frames), or `decoded`: taken from the stored frames by whoever reads them."""

    def __post_init__(self) -> None:
        if self.origin not in ("stored", "decoded"):
            raise ShardError(f"differences are {self.origin!r}, expected stored or decoded.")
        if self.scale < 1 or self.step < 1:
            raise ShardError(f"differences need a scale and a step of at least 1, found {self.scale} and {self.step}.")

    def to_json(self, *, version: int = SCHEMA_VERSION) -> dict[str, Any]:
        """Return the fields that a version has."""
        return {name: getattr(self, name) for name in _field_names(DiffSpec, version)}

    def size_of(self, height: int, width: int) -> tuple[int, int]:
        """Return (rows, columns) of the stored difference of a frame of `height` x `width` pixels."""
        half = self.scale // 2
        return max(1, (height + half) // self.scale), max(1, (width + half) // self.scale)


@dataclass(frozen=True)
class ClipMeta:
    """The metadata member of a clip of T frames."""

    dataset: str
    """Name of the data set."""
    split: str
    """Name of the split."""
    trajectory: str
    """Name of the trajectory that the clip is cut from."""
    frame_ids: tuple[int, ...]
    """T numbers of the frames in their trajectory."""
    height: int
    """Pixels of a stored frame."""
    width: int
    """Pixels of a stored frame."""
    intrinsics: tuple[tuple[float, ...], ...] | None
    """T x (fx, fy, cx, cy) in pixels of the stored size, pixel centres at integers; None where the camera is not
    known."""
    camera_to_world: tuple[tuple[tuple[float, ...], ...], ...] | None
    """T 4x4 matrices in metres, OpenCV axes; None where the data set has no poses."""
    depth: DepthSpec | None
    """How depth is coded; None of frames without labels, which have no depth members."""
    disparity_min: float
    """Least 1/m over the clip's known pixels that are not sky, of kind `relative` without unit; 0 if there is none."""
    disparity_max: float
    """Greatest of them; 0 if there is none."""
    diff: DiffSpec | None
    """How differences are coded, or taken from decoded frames; None without differences."""
    diff_valid: tuple[bool, ...]
    """T flags: whether the frame before it is known, and with it the difference. That of a clip's first frame can only
    be had where it is stored."""
    rgb: RgbSpec = RgbSpec()  # noqa: RUF009 - frozen, so it can be shared
    """How frames are stored."""
    source: Mapping[str, str] = field(default_factory=dict[str, str])
    """What the data set's module notes of the raw data, such as its layout."""
    teacher_disparity: tuple[float, float] | None = None
    """Least and greatest disparity of the clip as its teacher gave it, which are 0 and 1 here; of kind `relative`."""
    schema_version: int = SCHEMA_VERSION
    """Version of the format."""

    def __post_init__(self) -> None:
        count = len(self.frame_ids)
        for name, problem in [
            ("dataset", name_problem(self.dataset)),
            ("split", name_problem(self.split)),
            ("trajectory", path_problem(self.trajectory)),
        ]:
            if problem:
                raise ShardError(
                    f"clip metadata: {name} is {shown(getattr(self, name))}, expected a name: it {problem}."
                )
        for name, values in [
            ("intrinsics", self.intrinsics),
            ("camera_to_world", self.camera_to_world),
            ("diff_valid", self.diff_valid),
        ]:
            if values is not None and len(values) != count:
                raise ShardError(f"clip metadata: {name} has {len(values)} entries for {count} frames.")
        if not 1 <= count <= MAX_CLIP_FRAMES:
            raise ShardError(f"clip metadata: {count} frames, expected 1 to {MAX_CLIP_FRAMES}.")
        check_pixels(self.width, self.height)
        self._check_labels()
        if not 0 <= self.disparity_min <= self.disparity_max < math.inf:
            raise ShardError(f"clip metadata: disparity range {self.disparity_min} to {self.disparity_max} cannot be.")

    def _check_labels(self) -> None:
        """Expect what depth of a kind has, and no more."""
        found = self.teacher_disparity
        if (self.depth is not None and not self.depth.is_metric) != (found is not None):
            raise ShardError("clip metadata: teacher_disparity belongs to depth of kind 'relative', and to that alone.")
        if found is not None and not (len(found) == 2 and -math.inf < found[0] < found[1] < math.inf):
            raise ShardError(f"clip metadata: teacher_disparity {found} is no range.")
        if self.depth is None and (self.disparity_min, self.disparity_max) != (0, 0):
            raise ShardError("clip metadata: has a range of disparity, and no depth.")
        if self.depth is None and self.rgb.group > 1 and self.num_frames > 1 and self.stored_diff is None:
            raise ShardError("clip metadata: frames without depth are in groups of video, expected JPEG.")

    @property
    def num_frames(self) -> int:
        """T, the number of frames."""
        return len(self.frame_ids)

    @property
    def stored_diff(self) -> DiffSpec | None:
        """How stored differences are coded; None without, or if taken from decoded frames."""
        return self.diff if self.diff is not None and self.diff.origin == "stored" else None

    @property
    def is_metric(self) -> bool:
        """Whether there is depth in metres: not of kind `relative`, and not without labels."""
        return self.depth is not None and self.depth.is_metric

    def kinds_of(self, frame: int) -> tuple[str, ...]:
        """Return a frame's kinds of members, in order; a group lies with its first frame."""
        rgb = () if frame % self.rgb.group else (self.rgb.kind,)
        depth = () if self.depth is None else ("depth.zst",)
        return (*rgb, *depth) if self.stored_diff is None else (*rgb, *depth, "diff.zst")

    def intrinsics_of(self, frames: Sequence[int]) -> Float64[np.ndarray, "t 4"]:
        """Return fx, fy, cx, cy of frames, by number in the clip; nan where not known."""
        return np.full((len(frames), 4), np.nan) if self.intrinsics is None else np.array(self.intrinsics)[[*frames]]

    def to_bytes(self) -> bytes:
        """Serialise as the clip's `.json` member."""
        version = self.schema_version
        value = {name: getattr(self, name) for name in _field_names(ClipMeta, version)}  # asdict copies every number
        if self.teacher_disparity is None:
            value.pop("teacher_disparity", None)  # which clips of metres never had
        if self.depth is None:
            value["disparity_min"] = value["disparity_max"] = None
        value["depth"] = None if self.depth is None else self.depth.to_json(version=version)
        value["diff"] = None if self.diff is None else self.diff.to_json(version=version)
        if version > 1:
            value["rgb"] = dataclasses.asdict(self.rgb)
        return canonical_json(value)

    @classmethod
    def from_bytes(cls, data: bytes, *, where: str) -> "ClipMeta":
        """Parse the clip's `.json` member; raises ShardError naming `where` for what is not allowed."""
        document = parse_json(data, where=where, limit=MAX_SMALL_DOCUMENT_BYTES)
        version = check_version(document)
        with contract(where):
            document.expect_only(_field_names(cls, version))
            frame_ids = document.integers("frame_ids", 0, _MAX_NUMBER, at_most=MAX_CLIP_FRAMES)
            count = len(frame_ids)
            intrinsics = document.optional_numbers("intrinsics", (count, 4), at_most=_MAX_METRES)
            poses = document.optional_numbers("camera_to_world", (count, 4, 4), at_most=_MAX_METRES)
            if any(later <= earlier for earlier, later in pairwise(frame_ids)):
                document.fail("frame_ids", "do not ascend")
            if intrinsics is not None and not (intrinsics[:, :2] > 0).all():
                document.fail("intrinsics", "holds a focal length that is not positive")
            if poses is not None and not are_rigid(poses).all():
                document.fail("camera_to_world", "holds a pose that is not a rotation and a translation")
            if poses is not None and intrinsics is None:
                document.fail("intrinsics", "is missing, though there are poses, expected both or no poses")
            depth, diff = document.optional_mapping("depth"), document.optional_mapping("diff")
            teacher = document.optional_numbers("teacher_disparity", (2,)) if version > 1 else None
            rgb = document.mapping("rgb") if version > 1 else None
            return cls(
                dataset=document.text("dataset"),
                split=document.text("split"),
                trajectory=document.text("trajectory"),
                frame_ids=frame_ids,
                height=document.integer("height", 1, MAX_FRAME_PIXELS),
                width=document.integer("width", 1, MAX_FRAME_PIXELS),
                intrinsics=None if intrinsics is None else _rows(intrinsics),
                camera_to_world=None if poses is None else tuple(map(_rows, poses)),
                depth=None if depth is None else parse_depth_spec(depth, version),
                disparity_min=_disparity(document, "disparity_min", depth),
                disparity_max=_disparity(document, "disparity_max", depth),
                diff=None if diff is None else parse_diff_spec(diff, version),
                diff_valid=document.booleans("diff_valid", at_most=MAX_CLIP_FRAMES),
                rgb=RgbSpec() if rgb is None else RgbSpec(rgb.text("codec"), rgb.integer("group", 1, 64)),
                source=dict(document.mapping("source").all_texts()),
                teacher_disparity=None if teacher is None else (float(teacher[0]), float(teacher[1])),
                schema_version=version,
            )


def _disparity(document: Fields, name: str, depth: Fields | None) -> float:
    """Return an end of the range; 0 where there is no depth, so none is stored."""
    found = document.optional_number(name, 0.0, _MAX_METRES) if depth is None else None
    return found or 0.0 if depth is None else document.number(name, 0.0, _MAX_METRES)


def _field_names(kind: type[ClipMeta | DepthSpec | DiffSpec], version: int) -> list[str]:
    """Return the fields that a kind of document has in a version."""
    new = _NEW_FIELDS if version == 1 else ()
    return [item.name for item in dataclasses.fields(kind) if item.name not in new]


def parse_depth_spec(fields: Fields, version: int) -> DepthSpec:
    """Return what `DepthSpec.to_json` wrote; raises DocumentError or ShardError."""
    fields.expect_only(_field_names(DepthSpec, version))
    return DepthSpec(
        kind=fields.text("kind"),
        relative_error=fields.number("relative_error", 0.0, 1.0),
        unit_m=fields.optional_number("unit_m", _MIN_METRES, _MAX_METRES),
        near_m=fields.optional_number("near_m", _MIN_METRES, _MAX_METRES),
        far_m=fields.optional_number("far_m", _MIN_METRES, _MAX_METRES),
        packing="bytes" if version == 1 else fields.text("packing"),
        steps=1 if version == 1 else fields.integer("steps", 1, MAX_STEPS),
    )


def parse_diff_spec(fields: Fields, version: int) -> DiffSpec:
    """Return what `DiffSpec.to_json` wrote; raises DocumentError or ShardError."""
    fields.expect_only(_field_names(DiffSpec, version))
    origin = "stored" if version == 1 else fields.text("origin")
    return DiffSpec(fields.integer("scale", 1, 4096), fields.integer("step", 1, 255), origin)


def _rows(numbers: Float64[np.ndarray, "n m"]) -> tuple[tuple[float, ...], ...]:
    return tuple(map(tuple, numbers.tolist()))
