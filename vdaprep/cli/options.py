"""Options that several commands share: what to convert, and how."""

import functools
import inspect
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields, replace
from typing import TYPE_CHECKING, Annotated, Any, cast, get_type_hints

import typer

from vdaprep.errors import UsageError

if TYPE_CHECKING:
    from vdaprep.conversion.options import Selection, Settings


Dataset = Annotated[str, typer.Argument(help="The data set, for example tartanair.", show_default=False)]


@dataclass(frozen=True)
class ConversionOptions:
    """What `convert`, `plan` and `repair` are told of the raw data and of the shards to make."""

    raw: Annotated[
        str,
        typer.Option(
            help="Folder of the download, unpacked or not; or https:// or s3:// URLs of its archives, by commas.",
            show_default="raw/DATASET",
        ),
    ] = ""
    select: Annotated[
        list[str] | None, typer.Option(help="Take only trajectories that match; repeatable.", metavar="GLOB")
    ] = None
    splits: Annotated[str, typer.Option(help="Split set of the manifest.", metavar="NAME")] = "default"
    val: Annotated[
        list[str] | None, typer.Option(help="Hold these trajectories out instead; repeatable.", metavar="GLOB")
    ] = None
    intrinsics: Annotated[str | None, typer.Option(help="Camera of the raw frames, fx,fy,cx,cy in pixels.")] = None
    camera: Annotated[int, typer.Option(help="Camera, where a data set has several.", min=0)] = 0
    depth_unit: Annotated[
        float | None, typer.Option(help="Metres of a unit of 16-bit PNG depth, for custom.", show_default=False)
    ] = None
    short_side: Annotated[str, typer.Option(help="Scale down to this short side; native keeps.")] = "540"
    clip_frames: Annotated[int, typer.Option(help="Frames of a clip at most.")] = 64
    frames_per_shard: Annotated[int, typer.Option(help="Frames of a shard at most.")] = 1024
    jpeg_quality: Annotated[int, typer.Option(help="JPEG quality of the frames.")] = 95
    depth_error: Annotated[float, typer.Option(help="Relative error of depth at most, where it is not exact.")] = 0.0005
    diff_scale: Annotated[int, typer.Option(help="Pixels averaged, each way, for frame differences.")] = 4
    no_diffs: Annotated[bool, typer.Option("--no-diffs", help="Leave frame differences out.")] = False
    frame_stride: Annotated[int, typer.Option(help="Take every Nth frame; differences are to the last taken.")] = 1

    def raw_of(self, dataset: str) -> str:
        """Return where the raw data lies."""
        return self.raw or f"raw/{dataset}"

    def settings(self) -> "Settings":
        """Return what decides the bytes; raises UsageError for what cannot be."""
        from vdaprep.conversion.options import Settings
        from vdaprep.raw.frames import SourceOptions

        return Settings(
            short_side=None if self.short_side == "native" else _whole("--short-side", self.short_side),
            clip_frames=self.clip_frames,
            frames_per_shard=self.frames_per_shard,
            jpeg_quality=self.jpeg_quality,
            depth_error=self.depth_error,
            diff_scale=None if self.no_diffs else self.diff_scale,
            source=SourceOptions(
                camera=self.camera, intrinsics=_intrinsics(self.intrinsics), depth_unit_m=self.depth_unit
            ),
            frame_stride=self.frame_stride,
        )

    def selection(self) -> "Selection":
        """Return which trajectories are taken, and into which splits."""
        from vdaprep.conversion.options import Selection

        return Selection(select=tuple(self.select or ()), splits=self.splits, val=tuple(self.val or ()))

    def with_choice(self, settings: "Settings", selection: "Selection") -> "ConversionOptions":
        """Return the options with what a budget chose: size, quality, differences, stride and trajectories."""
        return replace(
            self,
            short_side="native" if settings.short_side is None else str(settings.short_side),
            jpeg_quality=settings.jpeg_quality,
            diff_scale=self.diff_scale if settings.diff_scale is None else settings.diff_scale,
            frame_stride=settings.frame_stride,
            select=list(selection.select) or None,
        )

    def arguments(self) -> list[str]:
        """Return the options that are not at their default, as a command line has them."""
        words: list[str] = []
        for item in fields(self):
            value, option = getattr(self, item.name), f"--{item.name.replace('_', '-')}"
            if value == item.default or value == []:
                continue
            if value is True:
                words.append(option)
            else:
                found = cast("list[str]", value) if isinstance(value, list) else [str(value)]
                words += [word for one in found for word in (option, one)]
        return words


def with_conversion_options(command: Callable[..., None]) -> Callable[..., None]:
    """Let a command that takes `conversion: ConversionOptions` be given its fields as options of their own."""
    own = inspect.signature(command).parameters
    hints = get_type_hints(ConversionOptions, include_extras=True)
    shared = [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if field.default is MISSING else field.default,
            annotation=hints[field.name],
        )
        for field in fields(ConversionOptions)
    ]

    @functools.wraps(command)
    def run(**given: Any) -> None:
        conversion = ConversionOptions(**{item.name: given.pop(item.name) for item in shared})
        command(**given, conversion=conversion)

    before = [item.replace(kind=inspect.Parameter.KEYWORD_ONLY) for item in own.values() if item.name != "conversion"]
    vars(run)["__signature__"] = inspect.Signature([*before, *shared])
    return run


def _whole(option: str, text: str) -> int:
    if not text.isdigit():
        raise UsageError(f"{option} {text}: expected a whole number, or native.")
    return int(text)


def _intrinsics(text: str | None) -> tuple[float, float, float, float] | None:
    if text is None:
        return None
    try:
        fx, fy, cx, cy = (float(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(f"--intrinsics {text}: expected four numbers fx,fy,cx,cy.") from error
    if not (0 < fx < 1e6 and 0 < fy < 1e6):
        raise UsageError(f"--intrinsics {text}: the focal lengths fx and fy must be positive.")
    return fx, fy, cx, cy
