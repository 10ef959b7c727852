"""The names of shards, of the clips in them, of the members of clips."""

import hashlib
import re

from vdaprep.errors import ShardError
from vdaprep.shards.canonical import SCHEMA_VERSION

DATASET_FILE = "dataset.json"
PLAN_FILE = "plan.json"
FINISHED_FILES = ("*/shard-*.tar", "*/shard-*.json", DATASET_FILE)  # of a data set's folder
FRAME_KINDS = ("rgb.jpg", "depth.zst", "diff.zst")  # members of a frame, in their order
MAX_CLIP_FRAMES = 1000  # frame numbers in member names have three digits
MAX_KEY_LENGTH = 80  # a USTAR name has 100 bytes, the longest member ending 15
_MEMBER = re.compile(
    r"^(?P<key>[a-z0-9_-]+)\.(?:(?P<meta>json)|f(?P<frame>\d{3})\.(?P<kind>rgb\.jpg|depth\.zst|diff\.zst))$"
)


def clip_key(dataset: str, trajectory: str, first_frame: int) -> str:
    """Name a clip `{dataset}-{trajectory}-{first frame}`: lower case, `[a-z0-9_-]`, at most 80 characters.

    A longer name keeps its start and ends in eight hexadecimal digits of the full name's SHA-256.
    """
    name = re.sub(r"[^a-z0-9_]+", "-", f"{dataset}/{trajectory}".lower()).strip("-")
    room = MAX_KEY_LENGTH - 1 - 6
    if len(name) > room:
        name = f"{name[: room - 9]}-{hashlib.sha256(f'{dataset}/{trajectory}'.encode()).hexdigest()[:8]}"
    return f"{name}-{first_frame:06d}"


def member_name(key: str, frame: int | None, kind: str) -> str:
    """Name a member: `kind` is `json` (frame None), `rgb.jpg`, `depth.zst` or `diff.zst`."""
    return f"{key}.{kind}" if frame is None else f"{key}.f{frame:03d}.{kind}"


def member_kind(name: str) -> tuple[str, int | None, str]:
    """Split a member's name into (key, frame or None, kind); raises ShardError for a name outside the contract."""
    match = _MEMBER.match(name)
    if match is None:
        raise ShardError(f"member {name!r}: not a name of schema version {SCHEMA_VERSION}.")
    if match["meta"]:
        return match["key"], None, "json"
    return match["key"], int(match["frame"]), match["kind"]


def shard_name(number: int) -> str:
    """Name the shard `number` (from 1)."""
    return f"shard-{number:04d}.tar"


def record_name(tar_name: str) -> str:
    """Name the record that stands beside a shard's tar."""
    return tar_name.removesuffix(".tar") + ".json"
