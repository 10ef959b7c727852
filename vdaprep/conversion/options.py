"""Options of a conversion: as users give them, as they decide bytes, as records keep them."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from vdaprep.conversion.encode.profiles import (
    DIFF_STEP,
    PROFILES,
    Diffs,
    Encoding,
    ProfileName,
    Rgb,
    interpolated,
    parse_rgb,
)
from vdaprep.errors import ShardError, UsageError
from vdaprep.raw.frames import Pairing, SourceOptions
from vdaprep.shards.cameras import parse_intrinsics
from vdaprep.shards.canonical import SCHEMA_VERSION, canonical_json, parse_json
from vdaprep.shards.metadata import DepthSpec, DiffSpec
from vdaprep.shards.names import MAX_CLIP_FRAMES
from vdaprep.sources import _manifest
from vdaprep.sources._manifest import Manifest

Purpose = Literal["training", "benchmark"]


@dataclass(frozen=True)
class Settings:
    """The options of a conversion that decide the bytes of a trajectory's frames and shards."""

    short_side: int | None = 540
    """Pixels that larger images are scaled down to; None keeps their size."""
    clip_frames: int = 64
    """Upper bound of the frames of a clip."""
    frames_per_shard: int = 1024
    """Upper bound of the frames of a shard."""
    rgb: Rgb = PROFILES["standard"].rgb
    """Code of frames; those that are JPEG already, and of the right size, are kept as they are unless it is video."""
    depth_error: float = PROFILES["standard"].depth_error
    """Upper bound of the relative error of depth, where it is not stored exactly."""
    interpolate: bool = False
    """Code all depth within that bound by interpolation, also what could be stored exactly."""
    diffs: Diffs = "stored"
    """Whether frame differences are stored, taken from decoded frames when read, or not there."""
    diff_scale: int = 4
    """Pixels averaged, each way, for frame differences."""
    source: SourceOptions = field(default_factory=SourceOptions)
    """What the user says about the raw data."""
    frame_stride: int = 1
    """Every how many-th frame is taken, by the frames' numbers; differences are to the last one taken."""
    first_frames: int | None = None
    """Whole frames of a trajectory that are taken at most, from the first on; None: all."""
    schema: int = SCHEMA_VERSION
    """Version of the format; 1 continues or repairs what an earlier release began."""

    def __post_init__(self) -> None:
        _expect(self.short_side is None or self.short_side >= 14, "--short-side", "at least 14 pixels, or native")
        _expect(1 <= self.clip_frames <= MAX_CLIP_FRAMES, "--clip-frames", f"1 to {MAX_CLIP_FRAMES}")
        _expect(self.frames_per_shard >= 1, "--frames-per-shard", "at least 1")
        _expect(8e-5 <= self.depth_error <= 0.1, "--depth-error", "0.00008 to 0.1, which 16-bit codes can hold")
        _expect(1 <= self.frame_stride <= 1000, "--frame-stride", "1 to 1000")
        _expect(self.first_frames is None or self.first_frames >= 1, "--first-frames", "at least 1")
        unit_m = self.source.depth_unit_m
        _expect(unit_m is None or 0 < unit_m < 1000, "--depth-unit", "metres of a unit, for example 0.001")
        _expect(1 <= self.diff_scale <= 64, "--diff-scale", "1 to 64")
        if self.schema == 1 and (self.interpolate or self.rgb.codec != "jpeg" or self.diffs == "decoded"):
            raise UsageError("--profile v1: has JPEG frames, depth code by code, and stored differences or none.")

    def encoding(self, facts: Manifest) -> Encoding:
        """Return what decides the bytes of a frame of a data set."""
        spec = facts.depth_spec(relative_error=self.depth_error, unit_m=self.source.depth_unit_m)
        if self.schema == 1 and not spec.is_metric:
            raise UsageError(f"--profile v1: has no relative disparity, which {facts.title} have; leave it out.")
        diffs = self.diffs if spec.is_metric else "none"  # of single frames
        return Encoding(
            depth=self._depth(spec),
            short_side=self.short_side,
            rgb=self.rgb,
            diff=None if diffs == "none" else DiffSpec(self.diff_scale, DIFF_STEP, diffs),
            schema=self.schema,
        )

    def with_profile(self, name: str) -> "Settings":
        """Return these settings as a profile has them; differences that are left out stay so."""
        profile = PROFILES[name]
        return replace(
            self,
            rgb=profile.rgb,
            depth_error=profile.depth_error,
            interpolate=profile.interpolate,
            diffs=self.diffs if self.diffs == "none" else profile.diffs,
            schema=1 if name == "v1" else SCHEMA_VERSION,
        )

    def follows(self, name: str) -> bool:
        """Return whether these settings are as a profile has them."""
        return self == self.with_profile(name)

    def _depth(self, spec: DepthSpec) -> DepthSpec:
        if self.schema == 1:
            return spec
        if not self.interpolate:
            return replace(spec, packing="nibbles")
        return interpolated(spec, self.depth_error)


@dataclass(frozen=True)
class Selection:
    """Which trajectories are converted, and the split of each."""

    select: tuple[str, ...] = ()
    """Globs of the names of trajectories to convert; empty: all but those that the manifest excludes."""
    splits: str = "default"
    """Split set of the manifest."""
    val: tuple[str, ...] = ()
    """Globs of trajectories that form the split `val`, all others being `train`; empty: the split set decides."""

    def takes(self, trajectory: str, facts: Manifest) -> bool:
        """Return whether a trajectory is to be converted."""
        if not self.val and facts.split_of(trajectory, splits=self.splits) is None:
            return False
        if self.select:
            return _manifest.matches(trajectory, self.select)
        return not _manifest.matches(trajectory, facts.exclude)

    def split_of(self, trajectory: str, facts: Manifest) -> str:
        """Return the split of a trajectory."""
        if self.val:
            return "val" if _manifest.matches(trajectory, self.val) else "train"
        split = facts.split_of(trajectory, splits=self.splits)
        assert split is not None  # of what is taken
        return split


def _parse_short_side(text: str) -> int | None:
    if not (text.isdigit() or text == "native"):
        raise UsageError(f"--short-side {text}: expected a whole number, or native.")
    return None if text == "native" else int(text)


def _write_short_side(pixels: int | None) -> str:
    return "native" if pixels is None else str(pixels)


def _write_intrinsics(intrinsics: tuple[float, float, float, float]) -> str:
    return ",".join(map(str, intrinsics))


_SHORT_SIDE = {"parse": _parse_short_side, "write": _write_short_side}
RGB = {"parse": parse_rgb, "write": str, "metavar": "CODEC:N", "show_default": "the profile's"}
_INTRINSICS = {"parse": parse_intrinsics, "write": _write_intrinsics}


@dataclass(frozen=True)
class ConversionOptions:
    """What is converted, and how: the options common to `plan`, `convert` and `repair`."""

    raw: str = field(default="", metadata={"show_default": "raw/DATASET"})
    """Folder of the download, unpacked or not; or https:// or s3:// URLs of its archives, by commas."""
    select: tuple[str, ...] = field(default=(), metadata={"metavar": "GLOB"})
    """Take only trajectories that match; repeatable."""
    splits: str = field(default="default", metadata={"metavar": "NAME"})
    """Split set of the manifest."""
    val: tuple[str, ...] = field(default=(), metadata={"metavar": "GLOB"})
    """Hold these trajectories out instead; repeatable."""
    intrinsics: tuple[float, float, float, float] | None = field(default=None, metadata=_INTRINSICS)
    """Camera of the raw frames, fx,fy,cx,cy in pixels."""
    camera: int = field(default=0, metadata={"min": 0})
    """Camera, where a data set has several."""
    depth_unit: float | None = None
    """Metres of a unit of 16-bit PNG depth, for custom."""
    render_pass: str = field(default="", metadata={"option": "--pass", "metavar": "NAME"})
    """Rendering of the images, for sintel: clean (default) or final."""
    pairing: Pairing = "time"
    """Depth of images by the nearest time, or by place in sorted lists, for bonn and tum."""
    short_side: int | None = field(default=540, metadata=_SHORT_SIDE)
    """Scale down to this short side; native keeps."""
    clip_frames: int = 64
    """Frames of a clip at most."""
    frames_per_shard: int = 1024
    """Frames of a shard at most."""
    profile: ProfileName = "standard"
    """How small: standard, small, tiny; v1 continues what an earlier release began."""
    rgb: Rgb | None = field(default=None, metadata=RGB)
    """Frames: jpeg:QUALITY, h264:CRF or av1:CRF."""
    depth_error: float | None = field(default=None, metadata={"show_default": "the profile's"})
    """Relative error of depth at most, where it is not exact."""
    diffs: Diffs | None = field(default=None, metadata={"show_default": "the profile's"})
    """Frame differences: stored, taken from decoded frames, or none."""
    diff_scale: int = 4
    """Pixels averaged, each way, for frame differences."""
    frame_stride: int = 1
    """Take every Nth frame; differences are to the last taken."""
    first_frames: int | None = field(default=None, metadata={"show_default": "all"})
    """Take so many frames of a trajectory at most."""
    purpose: Purpose = field(default="training", metadata={"option": "--for"})
    """benchmark keeps what vdatrain benchmark needs, in native size, without differences."""

    def raw_of(self, dataset: str) -> str:
        """Return the path or URLs of the raw data."""
        return self.raw or f"raw/{dataset}"

    def settings(self) -> Settings:
        """Return the options that decide bytes; raises UsageError for values out of range."""
        profile = PROFILES[self.profile]
        return Settings(
            short_side=self.short_side,
            clip_frames=self.clip_frames,
            frames_per_shard=self.frames_per_shard,
            rgb=self.rgb or profile.rgb,
            depth_error=profile.depth_error if self.depth_error is None else self.depth_error,
            interpolate=profile.interpolate,
            diffs=self.diffs or profile.diffs,
            diff_scale=self.diff_scale,
            schema=1 if self.profile == "v1" else SCHEMA_VERSION,
            source=SourceOptions(
                camera=self.camera,
                intrinsics=self.intrinsics,
                depth_unit_m=self.depth_unit,
                render_pass=self.render_pass,
                pairing=self.pairing,
            ),
            frame_stride=self.frame_stride,
            first_frames=self.first_frames,
        )

    def for_dataset(self, dataset: str) -> "ConversionOptions":
        """Return the options that the purpose stands for; raises UsageError if others were given."""
        if self.purpose == "training":
            return self
        facts = _manifest.load(dataset)
        if not facts.benchmark:
            raise UsageError(f"--for {self.purpose}: {facts.title} is in no benchmark; leave it out.")
        fixed = {"short_side": None, "diffs": "none", "frame_stride": 1, "first_frames": facts.benchmark["frames"]}
        for name, value in fixed.items():
            if getattr(self, name) not in (value, getattr(ConversionOptions, name, None), None):
                raise UsageError(f"--for {self.purpose}: sets --{name.replace('_', '-')}; leave one of them out.")
        select = self.select or tuple(facts.benchmark["select"])
        return replace(self, purpose="training", select=select, **fixed)

    def selection(self) -> Selection:
        """Return which trajectories are converted."""
        return Selection(select=self.select, splits=self.splits, val=self.val)

    def with_choice(self, settings: Settings, selection: Selection) -> "ConversionOptions":
        """Return the options with what a budget chose: size, quality, stride and the like."""
        return replace(
            self,
            short_side=settings.short_side,
            **_profile_and_changes(settings),
            diff_scale=settings.diff_scale,
            frame_stride=settings.frame_stride,
            select=selection.select,
        )


@dataclass(frozen=True)
class RunOptions:
    """How a conversion is carried out; nothing of it decides bytes."""

    workers: int = field(default=0, metadata={"min": 0, "show_default": "one a core"})
    """Processes that encode."""
    executor: Literal["local", "ray"] = "local"
    """Run on this machine, or on a Ray cluster."""
    ray_address: str = field(default="", metadata={"show_default": "the one that runs here"})
    """The Ray cluster, as HOST:PORT."""
    part: str = field(default="", metadata={"metavar": "i/n"})
    """Make only part i of n, beside other jobs; --finish comes last."""
    finish: bool = False
    """Complete what --part jobs have made."""
    min_free: str = field(default="0", metadata={"metavar": "SIZE"})
    """Leave this much of the disk free, for example 5GB."""
    budget: str = field(default="", metadata={"metavar": "SIZE"})
    """Choose settings, as plan --budget does, so that the shards take at most this."""
    consume: bool = False
    """Delete raw data as soon as all shards made of it were read back and found whole."""
    consume_unused: bool = False
    """With --consume: delete also archives that hold more than what is converted."""
    check: bool = True
    """Look at each trajectory as a whole in the end, and name those that look wrong."""
    strict: bool = False
    """Exit 1 if any frame was rejected."""
    break_lock: bool = False
    """Take the lock of an object store from a process that is known to be dead."""

    def __post_init__(self) -> None:
        if self.part and self.finish:
            raise UsageError(f"--finish: completes what all parts have made; leave --part {self.part} out.")
        if self.consume and (self.part or self.finish):
            raise UsageError("--consume: needs a whole conversion; leave --part and --finish out.")
        if self.consume_unused and not self.consume:
            raise UsageError("--consume-unused: needs --consume, too.")
        if self.ray_address and self.executor != "ray":
            raise UsageError(f"--ray-address {self.ray_address}: needs --executor ray, too.")


def options_of(settings: Settings, selection: Selection, facts: Manifest) -> dict[str, Any]:
    """Return settings and selection as records hold them."""
    intrinsics = settings.source.intrinsics
    render_pass, pairing = facts.render_pass(settings.source.render_pass), facts.pairing(settings.source.pairing)
    options = {
        **settings.encoding(facts).to_json(),
        "clip_frames": settings.clip_frames,
        "frames_per_shard": settings.frames_per_shard,
        "frame_stride": settings.frame_stride,
        **({} if settings.first_frames is None else {"first_frames": settings.first_frames}),
        "camera": settings.source.camera,
        "intrinsics": None if intrinsics is None else list(intrinsics),
        "depth_unit": settings.source.depth_unit_m,
        **({"pass": render_pass} if render_pass else {}),
        **({"pairing": pairing} if pairing else {}),
        "select": list(selection.select),
        "splits": selection.splits,
        "val": list(selection.val),
    }
    return dict(
        parse_json(canonical_json(options), where="options").values
    )  # as a record gives them back, to be compared


def settings_of(options: Mapping[str, Any], *, dataset: str) -> tuple[Settings, Selection]:
    """Undo `options_of`; raises UsageError for options that this program does not write."""
    if "recoded_from" in options:
        raise UsageError("these shards were made by vdaprep recode, from other shards; run that again.")
    try:
        encoding = Encoding.of(options, where="the options")
        intrinsics = options["intrinsics"]
        settings = Settings(
            short_side=encoding.short_side,
            clip_frames=options["clip_frames"],
            frames_per_shard=options["frames_per_shard"],
            rgb=encoding.rgb,
            depth_error=encoding.depth.relative_error or Settings.depth_error,
            interpolate=encoding.interpolate,
            diffs=encoding.diffs,
            diff_scale=Settings.diff_scale if encoding.diff is None else encoding.diff.scale,
            schema=encoding.schema,
            source=SourceOptions(
                camera=options["camera"],
                intrinsics=None if intrinsics is None else tuple(intrinsics),
                depth_unit_m=options["depth_unit"],
                render_pass=options.get("pass", ""),
                pairing=options.get("pairing", "time"),
            ),
            frame_stride=options["frame_stride"],
            first_frames=options.get("first_frames"),
        )
        selection = Selection(tuple(options["select"]), options["splits"], tuple(options["val"]))
    except (KeyError, TypeError, ShardError) as error:
        raise UsageError(f"the options {dict(options)} are of another release of this program.") from error
    if options_of(settings, selection, _manifest.load(dataset)) != options:
        raise UsageError(f"the options {dict(options)} are of another release of this program.")
    return settings, selection


def _profile_and_changes(settings: Settings) -> dict[str, Any]:
    """Return the profile, and the options beside it, that lead to these settings."""
    changes = {"rgb": settings.rgb, "depth_error": settings.depth_error, "diffs": settings.diffs}
    named = {
        name: {key: value for key, value in changes.items() if value != getattr(profile, key)}
        for name, profile in PROFILES.items()
        if profile.interpolate == settings.interpolate and (name == "v1") == (settings.schema == 1)
    }
    codec = settings.rgb.codec
    nearest = min(named, key=lambda name: (len(named[name]), PROFILES[name].rgb.codec != codec))
    return {"profile": nearest, **dict.fromkeys(changes), **named[nearest]}


def _expect(condition: bool, option: str, expected: str) -> None:
    if not condition:
        raise UsageError(f"{option}: expected {expected}.")
