"""TODO"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from vdaprep.errors import UsageError
from vdaprep.raw.frames import SourceOptions
from vdaprep.shards.canonical import canonical_json, parse_json
from vdaprep.shards.metadata import DepthSpec, DiffSpec
from vdaprep.shards.names import MAX_CLIP_FRAMES
from vdaprep.sources import _manifest
from vdaprep.sources._manifest import Manifest

DIFF_STEP = 2


@dataclass(frozen=True)
class Encoding:
    """What decides the bytes of a frame: the stored size, the JPEG quality, the depth code, the differences."""

    depth: DepthSpec
    short_side: int | None = 540
    jpeg_quality: int = 95
    diff: DiffSpec | None = DiffSpec(4, DIFF_STEP)  # noqa: RUF009 - frozen, so it can be shared

    def to_json(self) -> dict[str, Any]:
        """Return the settings as a shard's record holds them."""
        return {**asdict(self), "depth": self.depth.to_json()}


@dataclass(frozen=True)
class Settings:
    """The options of a conversion that decide its bytes; None as `short_side` keeps the raw size.

    Of a trajectory every `frame_stride`-th frame is taken, by the frames' numbers; differences are to the last taken.
    """

    short_side: int | None = 540
    clip_frames: int = 64
    frames_per_shard: int = 1024
    jpeg_quality: int = 95
    depth_error: float = 0.0005
    diff_scale: int | None = 4
    source: SourceOptions = field(default_factory=SourceOptions)
    frame_stride: int = 1

    def __post_init__(self) -> None:
        _expect(self.short_side is None or self.short_side >= 14, "--short-side", "at least 14 pixels, or native")
        _expect(1 <= self.clip_frames <= MAX_CLIP_FRAMES, "--clip-frames", f"1 to {MAX_CLIP_FRAMES}")
        _expect(self.frames_per_shard >= 1, "--frames-per-shard", "at least 1")
        _expect(1 <= self.jpeg_quality <= 100, "--jpeg-quality", "1 to 100")
        _expect(8e-5 <= self.depth_error <= 0.1, "--depth-error", "0.00008 to 0.1, which 16-bit codes can hold")
        _expect(1 <= self.frame_stride <= 1000, "--frame-stride", "1 to 1000")
        unit_m = self.source.depth_unit_m
        _expect(unit_m is None or 0 < unit_m < 1000, "--depth-unit", "metres of a unit, for example 0.001")
        _expect(self.diff_scale is None or 1 <= self.diff_scale <= 64, "--diff-scale", "1 to 64")

    def encoding(self, facts: Manifest) -> Encoding:
        """Return what decides the bytes of a frame of a data set."""
        return Encoding(
            depth=facts.depth_spec(relative_error=self.depth_error, unit_m=self.source.depth_unit_m),
            short_side=self.short_side,
            jpeg_quality=self.jpeg_quality,
            diff=None if self.diff_scale is None else DiffSpec(self.diff_scale, DIFF_STEP),
        )


@dataclass(frozen=True)
class Selection:
    """Which trajectories are converted, and into which split each goes.

    `select`: globs of names (empty: all but those that the manifest excludes); `splits`: a split set of the manifest;
    `val`: globs that are held out instead of the split set's.
    """

    select: tuple[str, ...] = ()
    splits: str = "default"
    val: tuple[str, ...] = ()

    def takes(self, trajectory: str, facts: Manifest) -> bool:
        """Tell whether a trajectory is to be converted."""
        if self.select:
            return _manifest.matches(trajectory, self.select)
        return not _manifest.matches(trajectory, facts.exclude)

    def split_of(self, trajectory: str, facts: Manifest) -> str:
        """Return the split of a trajectory."""
        if self.val:
            return "val" if _manifest.matches(trajectory, self.val) else "train"
        return facts.split_of(trajectory, splits=self.splits)


def options_of(settings: Settings, selection: Selection, facts: Manifest) -> dict[str, Any]:
    """Return settings and selection as records hold them."""
    intrinsics = settings.source.intrinsics
    options = {
        **settings.encoding(facts).to_json(),
        "clip_frames": settings.clip_frames,
        "frames_per_shard": settings.frames_per_shard,
        "frame_stride": settings.frame_stride,
        "camera": settings.source.camera,
        "intrinsics": None if intrinsics is None else list(intrinsics),
        "depth_unit": settings.source.depth_unit_m,
        "select": list(selection.select),
        "splits": selection.splits,
        "val": list(selection.val),
    }
    return parse_json(canonical_json(options), where="options")  # as a record gives them back, to be compared


def settings_of(options: Mapping[str, Any], *, dataset: str) -> tuple[Settings, Selection]:
    """Undo `options_of`; raises UsageError for options that this program does not write."""
    try:
        depth, diff, intrinsics = options["depth"], options["diff"], options["intrinsics"]
        settings = Settings(
            **{name: options[name] for name in ("short_side", "clip_frames", "frames_per_shard", "jpeg_quality")},
            depth_error=depth["relative_error"] or Settings.depth_error,
            diff_scale=None if diff is None else diff["scale"],
            source=SourceOptions(
                camera=options["camera"],
                intrinsics=None if intrinsics is None else tuple(intrinsics),
                depth_unit_m=options["depth_unit"],
            ),
            frame_stride=options["frame_stride"],
        )
        selection = Selection(tuple(options["select"]), options["splits"], tuple(options["val"]))
    except (KeyError, TypeError) as error:
        raise UsageError(f"the options {dict(options)} are of another release of this program.") from error
    if options_of(settings, selection, _manifest.load(dataset)) != options:
        raise UsageError(f"the options {dict(options)} are of another release of this program.")
    return settings, selection


def _expect(condition: bool, option: str, expected: str) -> None:
    if not condition:
        raise UsageError(f"{option}: expected {expected}.")
