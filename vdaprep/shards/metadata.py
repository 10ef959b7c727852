"""The metadata member of a clip: its frames, their cameras, how depth and differences are coded."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vdaprep.errors import ShardError
from vdaprep.shards.canonical import SCHEMA_VERSION, build, canonical_json, check_version, contract, parse_json
from vdaprep.shards.names import MAX_CLIP_FRAMES

_DEPTH_KINDS = ("linear", "half", "log")


@dataclass(frozen=True)
class DepthSpec:
    """How depth codes become metres; `depth_codes` has the tables."""

    kind: str
    """`linear` (integers), `half` (half floats) or `log` (even in log depth)."""
    relative_error: float
    """Bound of the relative error of every decoded pixel; 0: exact."""
    unit_m: float | None = None
    """Metres a unit, of `linear` and `half`."""
    near_m: float | None = None
    """Nearest depth in metres, of `log`."""
    far_m: float | None = None
    """Farthest depth in metres, of `log`; beyond is sky."""

    def __post_init__(self) -> None:
        if self.kind not in _DEPTH_KINDS:
            raise ShardError(f"depth kind {self.kind!r} is not one of {', '.join(_DEPTH_KINDS)}.")
        if self.kind == "log":
            ok = self.near_m is not None and self.far_m is not None and 0 < self.near_m < self.far_m < math.inf
            ok = ok and 0 < self.relative_error < 1
        else:
            ok = self.unit_m is not None and 0 < self.unit_m < math.inf and self.relative_error >= 0
        if not ok:
            raise ShardError(f"depth of kind {self.kind!r} has impossible settings: {self.to_json()}.")

    def to_json(self) -> dict[str, Any]:
        """Return the fields that this kind has."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value is not None}


@dataclass(frozen=True)
class DiffSpec:
    """How differences of frames are stored."""

    scale: int
    """They are averaged over `scale` x `scale` pixels."""
    step: int
    """Grey levels of a step; they are stored as whole steps, -127 to 127."""

    def __post_init__(self) -> None:
        if self.scale < 1 or self.step < 1:
            raise ShardError(f"differences need a scale and a step of at least 1, found {self.scale} and {self.step}.")

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
    intrinsics: tuple[tuple[float, ...], ...]
    """T x (fx, fy, cx, cy) in pixels of the stored size; pixel centres are at integers."""
    camera_to_world: tuple[tuple[tuple[float, ...], ...], ...] | None
    """T 4x4 matrices in metres, OpenCV axes; None where the data set has no poses."""
    depth: DepthSpec
    """How depth is coded."""
    disparity_min: float
    """Least 1/m over the clip's known pixels that are not sky; 0 if there is none."""
    disparity_max: float
    """Greatest 1/m of them; 0 if there is none."""
    diff: DiffSpec | None
    """How differences are coded; None without differences."""
    diff_valid: tuple[bool, ...]
    """T flags: whether a frame's difference to the frame before it is known."""
    source: Mapping[str, str] = field(default_factory=dict[str, str])
    """What the data set's module notes of the raw data, such as its layout."""
    schema_version: int = SCHEMA_VERSION
    """Version of the format."""

    def __post_init__(self) -> None:
        count = len(self.frame_ids)
        for name, values in [
            ("intrinsics", self.intrinsics),
            ("camera_to_world", self.camera_to_world),
            ("diff_valid", self.diff_valid),
        ]:
            if values is not None and len(values) != count:
                raise ShardError(f"clip metadata: {name} has {len(values)} entries for {count} frames.")
        if not 1 <= count <= MAX_CLIP_FRAMES or self.height < 1 or self.width < 1:
            raise ShardError(f"clip metadata: {count} frames of {self.width}x{self.height} pixels cannot be.")
        if not 0 <= self.disparity_min <= self.disparity_max < math.inf:
            raise ShardError(f"clip metadata: disparity range {self.disparity_min} to {self.disparity_max} cannot be.")

    @property
    def num_frames(self) -> int:
        """T, the number of frames."""
        return len(self.frame_ids)

    def to_bytes(self) -> bytes:
        """Serialise as the clip's `.json` member."""
        value = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}  # asdict copies every number
        value["depth"] = self.depth.to_json()
        value["diff"] = None if self.diff is None else dataclasses.asdict(self.diff)
        return canonical_json(value)

    @classmethod
    def from_bytes(cls, data: bytes, *, where: str) -> "ClipMeta":
        """Parse the clip's `.json` member; raises ShardError naming `where` for what is not allowed."""
        value = parse_json(data, where=where)
        check_version(value, where=where)
        poses = value.get("camera_to_world")
        with contract(f"{where}: clip metadata"):
            fields: dict[str, Any] = {
                **value,
                "frame_ids": tuple(int(i) for i in value["frame_ids"]),
                "intrinsics": _rows(value["intrinsics"], length=4),
                "camera_to_world": None if poses is None else tuple(_square(pose) for pose in poses),
                "depth": build(DepthSpec, value["depth"]),
                "diff": None if value["diff"] is None else build(DiffSpec, value["diff"]),
                "diff_valid": tuple(bool(flag) for flag in value["diff_valid"]),
            }
            return build(cls, fields)


def _rows(rows: Sequence[Sequence[Any]], *, length: int) -> tuple[tuple[float, ...], ...]:
    result = tuple(tuple(float(x) for x in row) for row in rows)
    if any(len(row) != length or not all(map(math.isfinite, row)) for row in result):
        raise ValueError(f"expected rows of {length} finite numbers")
    return result


def _square(rows: Sequence[Sequence[Any]]) -> tuple[tuple[float, ...], ...]:
    result = _rows(rows, length=4)
    if len(result) != 4:
        raise ValueError("a pose is not 4x4")
    return result
