"""What became of each raw file: used, left out, known and not needed, not recognised."""

import fnmatch
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vdaprep.conversion.clips import taken
from vdaprep.conversion.options import Settings
from vdaprep.conversion.plan import ConversionPlan, RawData
from vdaprep.raw.frames import Trajectory
from vdaprep.raw.tree import Location
from vdaprep.shards.records import Rejection
from vdaprep.sources import _manifest
from vdaprep.storage.urls import is_url
from vdaprep.units import format_bytes

EXAMPLES = 3
"""How many of the files that are alike are named."""
_BESIDE_ANY_DATA = (
    "*/.ds_store", "*/._*", "*/__macosx/*", "*/thumbs.db", "*/ehthumbs.db", "*/desktop.ini", "*/.directory",
    "*/.spotlight-v100/*", "*/.trashes/*", "*/.fseventsd/*", "*/@eadir/*", "*/$recycle.bin/*",
    "*/system volume information/*",
    "*/.git/*", "*/.gitignore", "*/.gitattributes", "*/.gitkeep", "*/.keep", "*/.nfs*",
    "*/readme", "*/readme.*", "*/licen[cs]e", "*/licen[cs]e.*", "*/citation.*", "*/changelog", "*/changelog.*",
    "*/md5", "*/md5sum*", "*/*.md5", "*/sha*sum*", "*/*.sha1", "*/*.sha256", "*/checksum*.txt",
)  # fmt: skip
"""What systems and publishers put beside any data: globs of lower-case paths that begin with `/`."""


@dataclass(frozen=True)
class Account:
    """Every file of a raw tree, by what became of it, and the frames that were planned."""

    found: int
    """All files, those in archives one by one."""
    used: int
    """Images, depth maps and tables of the trajectories that are converted."""
    left_out: int
    """Those of trajectories that are not converted."""
    repeated: int
    """Second files for what another one is used for, each named among the rejected inputs, tables aside; and depth maps
    that were taken at no image's time."""
    not_needed: int
    """Of kinds that the data set is known to have and that are not converted, such as flow, and `.DS_Store`."""
    not_recognised: int
    """All others."""
    not_recognised_bytes: int
    """Bytes of these, as far as they are known: those of files behind URLs are not."""
    examples: tuple[str, ...]
    """Some of what was not recognised."""
    unopened: int
    """Archives that were not opened, as they hold nothing that is selected."""
    passed_over: tuple[str, ...]
    """Folders of shards in the raw data that were not looked into."""
    frames: int
    """Frames of the trajectories that are converted."""
    without_depth: int
    """Of these, images without a depth map."""
    without_image: int
    """Of these, depth maps without an image."""
    missing_frames: int
    """Numbers between a trajectory's first frame and its last that have no file."""

    def to_json(self) -> dict[str, Any]:
        """Return the account as JSON has it."""
        return {**asdict(self), "examples": list(self.examples), "passed_over": list(self.passed_over)}

    def lines(self) -> list[str]:
        """Return the account as sentences."""
        parts = [f"{self.used:,} used"]
        others = (
            (self.left_out, "of trajectories that are not converted"),
            (self.repeated, "repeated or without a counterpart"),
            (self.not_needed, "known and not needed"),
        )
        parts += [f"{count:,} {what}" for count, what in others if count]
        lines = [f"{self.found:,} files found: {', '.join(parts)}, {self.not_recognised:,} not recognised"]
        if self.unopened:
            lines[0] += f"; {self.unopened:,} archives hold nothing of it and were not opened"
        if self.passed_over:
            lines[0] += "; the output folder is passed over"
        problems = (
            (self.without_depth, "have no depth map"),
            (self.without_image, "have no image"),
            (self.missing_frames, "more are missing between the others"),
        )
        if frames := [f"{count:,} {what}" for count, what in problems if count]:
            lines.append(f"of {self.frames:,} frames {', '.join(frames)}")
        return [*lines, *self.complaints()]

    def complaints(self) -> list[str]:
        """Return what --strict does not take."""
        if not self.not_recognised:
            return []
        size = f" ({format_bytes(self.not_recognised_bytes)})" if self.not_recognised_bytes else ""
        count = f"{self.not_recognised:,} of {self.found:,}"
        return [f"{count} files{size} are none of the data set's, for example {', '.join(self.examples)}"]


def take_account(raw: RawData, plan: ConversionPlan) -> Account:
    """Say of every file of a raw tree what became of it in a plan made of it."""
    names = {name for of_split in plan.splits.values() for name in of_split}
    planned = [item for item in raw.trajectories if item.name in names]
    unknown = locate_unknown(raw)
    root = None if is_url(raw.raw) else Path(raw.raw)
    tables = {location for item in planned for location in item.shared.values()}  # some are of several trajectories
    found, used = len(raw.files), sum(map(_count_frames_files, planned)) + len(tables)
    repeated = sum(len(item.unused) for item in raw.trajectories)
    return Account(
        found=found,
        used=used,
        left_out=found - used - repeated - len(raw.others),
        repeated=repeated,
        not_needed=len(raw.others) - len(unknown),
        not_recognised=len(unknown),
        not_recognised_bytes=sum(_size(location, root) for location in unknown),
        examples=tuple(map(str, unknown[:EXAMPLES])),
        unopened=raw.unopened,
        passed_over=raw.passed_over,
        frames=sum(len(item.frames) for item in planned),
        without_depth=sum(item.count_without("depth") for item in planned),
        without_image=sum(item.count_without("rgb") for item in planned),
        missing_frames=sum(_missing(item, plan.settings) for item in planned),
    )


def locate_unknown(raw: RawData) -> list[Location]:
    """List the paths of files that are of no trajectory and of no known kind."""
    globs = (*_BESIDE_ANY_DATA, *_manifest.load(raw.dataset).not_needed)
    known = re.compile("|".join(map(fnmatch.translate, globs)))
    unknown = {path for path in raw.others if not known.match(f"/{path.lower()}")}
    found = {path: location for path, location in raw.files.items() if path in unknown} if unknown else {}
    return [found[path] for path in sorted(unknown)]


def _count_frames_files(trajectory: Trajectory) -> int:
    lacking = trajectory.count_without("rgb") + trajectory.count_without("depth")
    return 2 * len(trajectory.frames) - lacking


def _size(location: Location, root: Path | None) -> int:
    if location.span is not None:
        return location.span.size
    try:
        return 0 if root is None else (root / location.member).stat().st_size
    except OSError:
        return 0


def _missing(trajectory: Trajectory, settings: Settings) -> int:
    stride = settings.frame_stride
    indices = taken(trajectory, stride=stride, first_frames=settings.first_frames)
    ids = trajectory.frame_ids
    first, last = ids[indices[0]], ids[indices[-1]]
    return (last - first) // stride + 1 - len(indices)


# ----------------------------------------------------------------------------------------------------- many of a kind


def grouped(rejected: Iterable[Rejection]) -> list[str]:
    """Return few sentences for many rejections, in their order.

    Files of one archive or folder with the same reason share a sentence. Where reasons differ in numbers only, EXAMPLES
    sentences are followed by the count of the others.
    """
    kinds: dict[tuple[str, str], dict[str, list[str]]] = {}
    for item in rejected:
        reasons = kinds.setdefault((_place(item.file), _NUMBER.sub("0", item.reason)), {})
        reasons.setdefault(item.reason, []).append(item.file)
    return [line for (place, _), reasons in kinds.items() for line in _sentences(place, reasons)]


_NUMBER = re.compile(r"\d+")


def _sentences(place: str, reasons: Mapping[str, list[str]]) -> Iterator[str]:
    for reason, files in itertools.islice(reasons.items(), EXAMPLES):
        more = ""
        if len(files) > 1:
            names = [file.removeprefix(place).lstrip(":/ ") for file in files[1:EXAMPLES]]
            dots = ", ..." if len(files) > EXAMPLES else ""
            more = f" and {len(files) - 1:,} more there ({', '.join(names)}{dots})"
        yield f"{files[0]}{more}: {reason}"
    others = [file for files in list(reasons.values())[EXAMPLES:] for file in files]
    if others:
        yield f"{place or 'there'}: {len(others):,} more like these, for example {others[0]}"


def _place(file: str) -> str:
    """Return the archive that a rejected file is in, or its folder."""
    archive, inside, _ = file.partition(": ")
    return archive if inside else file.rpartition("/")[0]
