"""Storage profiles: how frames, depth and differences are stored."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from vdaprep.errors import UsageError
from vdaprep.shards.canonical import SCHEMA_VERSION, contract
from vdaprep.shards.depth_codes import log_range
from vdaprep.shards.metadata import (
    GROUP_FRAMES,
    MAX_CODE,
    MAX_STEPS,
    DepthSpec,
    DiffSpec,
    RgbSpec,
    parse_depth_spec,
    parse_diff_spec,
)
from vdaprep.shards.records import version_of
from vdaprep.storage.documents import Document

DIFF_STEP = 2
INTERPOLATION_STEPS = (11, 5, 3)
"""Codes within the error's bound, of packing `interpolation`: the first with which 16-bit codes reach."""
Diffs = Literal["stored", "decoded", "none"]
ProfileName = Literal["standard", "small", "tiny", "v1"]


@dataclass(frozen=True)
class Rgb:
    """How frames are encoded: `jpeg:1` to 100, `h264:0` to 51 or `av1:0` to 63."""

    codec: str
    """`jpeg`, `h264` or `av1`."""
    quality: int
    """JPEG's quality; of video the constant rate factor, smaller being better."""

    def __post_init__(self) -> None:
        limits = {"jpeg": (1, 100), "h264": (0, 51), "av1": (0, 63)}
        if self.codec not in limits:
            raise UsageError(f"--rgb {self}: expected {_RGB_EXAMPLES}.")
        low, high = limits[self.codec]
        if not low <= self.quality <= high:
            raise UsageError(f"--rgb {self}: expected {low} to {high} behind {self.codec}.")

    def __str__(self) -> str:
        return f"{self.codec}:{self.quality}"

    @property
    def spec(self) -> RgbSpec:
        """How clips say that their frames are stored."""
        return RgbSpec() if self.codec == "jpeg" else RgbSpec(self.codec, GROUP_FRAMES)


_RGB_EXAMPLES = "jpeg:QUALITY, h264:CRF or av1:CRF, for example jpeg:95"


def parse_rgb(text: str) -> Rgb:
    """Return what `--rgb CODEC:NUMBER` says; raises UsageError."""
    codec, _, number = text.partition(":")
    if not (number.isascii() and number.isdigit() and len(number) < 4):
        raise UsageError(f"--rgb {text}: expected {_RGB_EXAMPLES}.")
    return Rgb(codec, int(number))


@dataclass(frozen=True)
class Profile:
    """A set of choices of how frames, depth and differences are stored."""

    rgb: Rgb
    """Frames."""
    depth_error: float
    """Bound of the relative error of depth, where it is not stored exactly."""
    interpolate: bool
    """Whether depth of every kind is coded within that bound by interpolation, instead of code by code."""
    diffs: Diffs
    """Differences: taken from raw frames and stored, taken from decoded frames when they are read, or none."""


PROFILES: Mapping[str, Profile] = {
    "standard": Profile(Rgb("jpeg", 95), 0.0005, interpolate=False, diffs="stored"),
    "small": Profile(Rgb("jpeg", 85), 0.0022, interpolate=True, diffs="decoded"),
    "tiny": Profile(Rgb("h264", 16), 0.0022, interpolate=True, diffs="decoded"),
    "v1": Profile(Rgb("jpeg", 95), 0.0005, interpolate=False, diffs="stored"),
}
"""The profiles; `v1` writes schema version 1, to continue or repair what an earlier release began."""


@dataclass(frozen=True)
class Encoding:
    """What decides the bytes of a frame."""

    depth: DepthSpec
    """Code of depth. With packing `nibbles` each clip takes what is smaller of that and `bytes`, and where all its
    depth is half floats kind `half`."""
    short_side: int | None = 540
    """Pixels that larger images are scaled down to; None keeps their size."""
    rgb: Rgb = Rgb("jpeg", 95)  # noqa: RUF009 - frozen, so it can be shared
    """Code of frames that are not JPEG already, or are to be video."""
    diff: DiffSpec | None = DiffSpec(4, DIFF_STEP)  # noqa: RUF009 - frozen, so it can be shared
    """Code of frame differences; None leaves them out."""
    schema: int = SCHEMA_VERSION
    """Version of the format."""

    def to_json(self) -> dict[str, Any]:
        """Return the settings as a shard's record holds them."""
        return {
            "depth": self.depth.to_json(version=self.schema),
            "short_side": self.short_side,
            "diff": None if self.diff is None else self.diff.to_json(version=self.schema),
            **({"jpeg_quality": self.rgb.quality} if self.schema == 1 else {"rgb": str(self.rgb)}),
        }

    @classmethod
    def of(cls, options: Mapping[str, Any], *, where: str) -> "Encoding":
        """Undo `to_json`; raises ShardError or UsageError for options of another program."""
        version = version_of(options)
        document = Document(options, where=where)
        with contract(where):
            diff = document.optional_mapping("diff")
            return cls(
                parse_depth_spec(document.mapping("depth"), version),
                document.optional_integer("short_side", 1, 2**31),
                Rgb("jpeg", document.integer("jpeg_quality", 1, 100))
                if version == 1
                else parse_rgb(document.text("rgb")),
                None if diff is None else parse_diff_spec(diff, version),
                version,
            )

    @property
    def diffs(self) -> Diffs:
        """Differences: stored, taken from decoded frames, or none."""
        if self.diff is None:
            return "none"
        return "stored" if self.diff.origin == "stored" else "decoded"

    @property
    def interpolate(self) -> bool:
        """Whether depth is coded by interpolation."""
        return self.depth.packing == "interpolation"

    @property
    def profile(self) -> str | None:
        """The profile that this is; None of a changed one."""
        for name, profile in PROFILES.items():
            same = (profile.rgb, profile.interpolate, profile.diffs) == (self.rgb, self.interpolate, self.diffs)
            error = self.depth.relative_error in (0, profile.depth_error)
            if same and error and (name == "v1") == (self.schema == 1):
                return name
        return None

    def __str__(self) -> str:
        return f"{self.rgb}, depth within {self.depth.relative_error:.2%}, differences {self.diffs}"


def interpolated(spec: DepthSpec, depth_error: float) -> DepthSpec:
    """Return how interpolation codes depth of a range; raises UsageError beyond 16 bits.

    Of kind `relative` the codes are as they were, and the error is one of the range of disparity.
    """
    if not spec.is_metric:
        bound = min(MAX_STEPS // 2, int(depth_error * (MAX_CODE - 1)))
        if bound < 1:
            raise UsageError(f"--depth-error {depth_error:g}: is finer than a code; take --profile standard.")
        return replace(spec, relative_error=depth_error, packing="interpolation", steps=1 + 2 * bound)
    near_m, far_m = log_range(spec)
    for steps in INTERPOLATION_STEPS:
        log_step = 2 * math.log1p(depth_error) / steps
        if math.log(far_m / near_m) / log_step < 0.99 * MAX_CODE:
            return DepthSpec("log", depth_error, None, near_m, far_m, "interpolation", steps)
    raise UsageError(
        f"--depth-error {depth_error:g}: is too fine for depth from {near_m:g} to {far_m:g} m in this profile; take a "
        "larger one, or --profile standard."
    )
