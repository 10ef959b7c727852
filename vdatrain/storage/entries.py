"""The entries of a cache's folder: what is in each, how they are told from other files, and how they leave.

    vdatrain-SHA256.entry   its Facts; locked while they change, touched when the shard is used
    vdatrain-SHA256.part    what has come of a shard so far
    vdatrain-SHA256.tar     the shard; its lock is shared by those who read it

No file with another name is ever counted, written or deleted.
"""

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

from vdatrain.storage.locks import locked, try_lock

_OWN = re.compile(r"^vdatrain-([0-9a-f]{64})\.(?:entry|part|tar)$")


@dataclass(frozen=True)
class Facts:
    """What is noted of a shard: its bytes, and its file's time of change, 0 before it is whole."""

    bytes: int
    mtime_ns: int = 0


@dataclass(frozen=True)
class Entry:
    """A shard that is there or under way, of which `to_come` bytes are not on the disk yet."""

    sha256: str
    bytes: int
    used_ns: int
    is_whole: bool
    to_come: int = 0


def path_of(folder: Path, sha256: str, suffix: str) -> Path:
    """Name one of an entry's files: `suffix` is entry, part or tar."""
    return folder / f"vdatrain-{sha256}.{suffix}"


def read_facts(folder: Path, sha256: str) -> Facts:
    """Read what is noted of a shard; facts that fit none where nothing is, or a process died while it wrote."""
    try:
        value = json.loads(path_of(folder, sha256, "entry").read_bytes())
        return Facts(int(value["bytes"]), int(value["mtime_ns"]))
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return Facts(0)


def note(entry: BinaryIO, facts: Facts) -> None:
    """Write facts to an entry that the caller has locked."""
    entry.truncate(0)
    entry.write(json.dumps(asdict(facts)).encode())
    entry.flush()


def list_entries(folder: Path) -> list[Entry]:
    """List the entries, least recently used first; what a process that died was about to bring is cleared away."""
    names = {match[1] for path in folder.iterdir() if (match := _OWN.match(path.name))}
    entries = [entry for name in names if (entry := _entry(folder, name))]
    staying = [entry for entry in entries if entry.is_whole or not evict(folder, entry)]
    return sorted(staying, key=lambda entry: (entry.used_ns, entry.sha256))


def evict(folder: Path, entry: Entry) -> bool:
    """Delete an entry; False if a process reads it or brings it just now."""
    try:
        with locked(path_of(folder, entry.sha256, "entry"), wait_s=0):
            tar = path_of(folder, entry.sha256, "tar")
            if not tar.exists():
                remove(folder, entry.sha256)
                return True
            with tar.open("r+b") as file:
                leaves = entry.is_whole and try_lock(file, shared=False)
                if leaves:
                    remove(folder, entry.sha256)
                return leaves
    except TimeoutError:
        return False


def remove(folder: Path, sha256: str) -> None:
    """Delete the files of an entry that the caller has locked."""
    for suffix in ("tar", "part", "entry"):
        path_of(folder, sha256, suffix).unlink(missing_ok=True)


def _entry(folder: Path, sha256: str) -> Entry | None:
    """Describe an entry; None if it has just left."""
    sizes, times = {}, {}
    for suffix in ("tar", "part", "entry"):
        try:
            stat = path_of(folder, sha256, suffix).stat()
        except FileNotFoundError:
            continue
        sizes[suffix], times[suffix] = stat.st_size, stat.st_mtime_ns
    if not sizes:
        return None
    used_ns = times["entry"] if "entry" in times else max(times.values())
    if "tar" in sizes:
        return Entry(sha256, sizes["tar"], used_ns, is_whole=True)
    here = sizes.get("part", 0)
    promised = max(here, read_facts(folder, sha256).bytes)
    return Entry(sha256, promised, used_ns, is_whole=False, to_come=promised - here)
