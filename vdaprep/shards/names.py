"""The names of shards, of the clips in them, of the members of clips."""

import hashlib
import re
from collections.abc import Iterable

from vdaprep.errors import ShardError

DATASET_FILE = "dataset.json"
PLAN_FILE = "plan.json"
FINISHED_FILES = ("*/shard-*.tar", "*/shard-*.json", DATASET_FILE)  # of a data set's folder
_WRITTEN = re.compile(
    r"(?:[^/]+/shard-\d+\.(?:tar|json)|dataset\.json|plan\.json)(?:\.[0-9a-f]{8}\.vdaprep-tmp)?|\.vdaprep-lock.*"
)
FRAME_KINDS = ("rgb.jpg", "rgb.mp4", "depth.zst", "diff.zst")  # members of a frame, in their order
MAX_CLIP_FRAMES = 1000  # frame numbers in member names have three digits
MAX_KEY_LENGTH = 80  # a USTAR name has 100 bytes, the longest member ending 15
_MEMBER = re.compile(
    r"^(?P<key>[a-z0-9_-]+)\.(?:(?P<meta>json)|f(?P<frame>\d{3})\.(?P<kind>rgb\.jpg|rgb\.mp4|depth\.zst|diff\.zst))$"
)


_LOSES = re.compile(r"[^A-Za-z0-9_/-]|--|[/-]{2}|^[/-]|[/-]$")  # more than the case of letters, and `/` for `-`


def clip_key(dataset: str, trajectory: str, first_frame: int, *, alike: bool = False) -> str:
    """Name a clip `{dataset}-{trajectory}-{first frame}`: `[a-z0-9_-]`, at most 80.

    A name that is longer, or that loses more than the case of its letters and `/`, ends in eight hexadecimal digits of
    the full name's SHA-256; so does one that is `alike`: another trajectory's comes out the same (`find_alike`).
    """
    hashed = alike or _LOSES.search(trajectory) is not None
    return _key(dataset, trajectory, first_frame, hashed=hashed)


def clip_keys(dataset: str, trajectory: str, first_frame: int) -> set[str]:
    """Return the keys that a clip may have: with the hash or, as once, without."""
    return {_key(dataset, trajectory, first_frame, hashed=hashed) for hashed in (False, True)}


def _key(dataset: str, trajectory: str, first_frame: int, *, hashed: bool) -> str:
    full = f"{dataset}/{trajectory}"
    name = re.sub(r"[^a-z0-9_]+", "-", full.lower()).strip("-")
    number = f"{first_frame:06d}"
    room = MAX_KEY_LENGTH - 1 - len(number)
    if hashed or len(name) > room:
        name = f"{name[: room - 9]}-{hashlib.sha256(full.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"
    return f"{name}-{number}"


def find_alike(dataset: str, trajectories: Iterable[str]) -> frozenset[str]:
    """Return the trajectories whose clips would have the keys of another one's."""
    by_key: dict[str, list[str]] = {}
    for name in trajectories:
        by_key.setdefault(clip_key(dataset, name, 0), []).append(name)
    return frozenset(name for names in by_key.values() if len(names) > 1 for name in names)


def member_name(key: str, frame: int | None, kind: str) -> str:
    """Name a member: `kind` is `json` (frame None) or one of FRAME_KINDS."""
    return f"{key}.{kind}" if frame is None else f"{key}.f{frame:03d}.{kind}"


def member_kind(name: str) -> tuple[str, int | None, str]:
    """Split a member's name into (key, frame or None, kind); ShardError for any other."""
    match = _MEMBER.match(name)
    if match is None:
        raise ShardError(f"member {name!r}: not the name of a member of a clip.")
    if match["meta"]:
        return match["key"], None, "json"
    return match["key"], int(match["frame"]), match["kind"]


def is_written_by_conversion(path: str) -> bool:
    """Tell whether a path below a data set's folder is one that conversions write."""
    return _WRITTEN.fullmatch(path) is not None


def shard_name(number: int) -> str:
    """Name the shard `number` (from 1)."""
    return f"shard-{number:04d}.tar"


def record_name(tar_name: str) -> str:
    """Name the record that stands beside a shard's tar."""
    return tar_name.removesuffix(".tar") + ".json"
