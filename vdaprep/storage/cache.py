"""A bounded folder of whole shards, shared by processes; least recently used go first.

    vdatrain-SHA256.entry   what is noted of a shard; locked while that changes, touched when the shard is used
    vdatrain-SHA256.part    what has come of it so far
    vdatrain-SHA256.tar     the shard; its lock is shared by those who read it

No file with another name is ever counted, written or deleted.
"""

import errno
import functools
import hashlib
import json
import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

from vdaprep.errors import ShardError, UsageError
from vdaprep.storage.documents import DocumentError, parse_json
from vdaprep.storage.limits import LimitError
from vdaprep.storage.locks import locked, try_lock
from vdaprep.storage.paths import StoragePath, read_range, stream
from vdaprep.units import format_bytes, parse_bytes

_OWN = re.compile(r"^vdatrain-([0-9a-f]{64})\.(?:entry|part|tar)$")
_log = logging.getLogger(__name__)

_ACCOUNTS = "vdatrain-cache.lock"  # locked while room is made
_MAX_ENTRY_BYTES = 1 << 12
_TOUCH_S = 5.0  # last uses are known to within this
_TRIES = 3  # admissions before a shard that others keep driving out is read where it lies


@dataclass(frozen=True)
class _Facts:
    """What is noted of a shard: its bytes, and its file's time of change, 0 before it is whole."""

    bytes: int
    mtime_ns: int = 0


@dataclass(frozen=True)
class _Entry:
    """A shard that is there or under way, of which `to_come` bytes are not on the disk yet."""

    sha256: str
    bytes: int
    used_ns: int
    is_whole: bool
    to_come: int = 0


def free_bytes(folder: Path) -> int:
    """Return the bytes that may still be written to a folder's disk."""
    return shutil.disk_usage(folder).free


@dataclass(frozen=True)
class ShardCache:
    """A folder of whole shards, whose size has a bound.

    A value: any number of processes and threads may use one like it at the same time. What else lies in the folder is
    left alone and not counted.
    """

    folder: Path
    """Where the shards lie."""
    size: int
    """Most bytes that they take."""
    floor: int
    """Bytes of the disk that stay free."""
    wait_s: int | float = 300
    """Longest wait for a process that locks an entry while nothing of it arrives."""
    free: Callable[[Path], int] = free_bytes
    """Tells the bytes that may still be written, as `free_bytes`."""

    def prepare(self) -> None:
        """Make the folder, or bring it within bounds; raises UsageError if it can be no cache."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with locked(self.folder / _ACCOUNTS, wait_s=self.wait_s):
                self._make_room(0, _list_entries(self.folder))
        except OSError as error:
            raise UsageError(
                f"--cache {self.folder}: cannot be used ({error.strerror}); expected a folder on a local disk."
            ) from error

    def choose(self, shards: Sequence["CachedTar"]) -> set[str]:
        """Return the SHA-256 of the shards that fit together, taken in turn; warns if not all.

        Windows are drawn from all shards at once, so that those without room would only drive each other out.
        """
        room = self.size
        chosen: set[str] = set()
        for shard in shards:
            if shard.sha256 not in chosen and shard.size <= room:
                chosen.add(shard.sha256)
                room -= shard.size
        left_out = sum(shard.sha256 not in chosen for shard in shards)
        if left_out:
            _warn_once(
                f"--cache-size {format_bytes(self.size)}: has no room for {left_out} of {len(shards)} shards, "
                f"{format_bytes(sum(shard.size for shard in shards))} in all; those are read by range."
            )
        return chosen

    def read(self, shard: "CachedTar", start: int, stop: int) -> bytes | None:
        """Return bytes of a shard; None unless it is there as it was admitted."""
        try:
            with _path_of(self.folder, shard.sha256, "tar").open("rb") as file:
                if not try_lock(file, shared=True) or not self._is_whole(shard, os.fstat(file.fileno())):
                    return None
                self._touch(shard)
                return os.pread(file.fileno(), stop - start, start)
        except FileNotFoundError:
            return None

    def admit(self, shard: "CachedTar") -> bool:
        """Have a shard in the cache, brought by any process; False if there is no room.

        Raises OSError where the source cannot be read or another process stands in the way for too long, ShardError
        where what came is not what `dataset.json` lists. Whatever it raises, nothing is left behind.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        tar, part, entry = (_path_of(self.folder, shard.sha256, suffix) for suffix in ("tar", "part", "entry"))
        with locked(entry, wait_s=self.wait_s, progress=part) as file:
            if tar.exists() and self._is_whole(shard, tar.stat()):
                return True
            tar.unlink(missing_ok=True)
            admitted = False
            try:
                admitted = self._reserve(shard, file) and self._bring(shard, file)
            finally:
                if not admitted:
                    _remove(self.folder, shard.sha256)
        return admitted

    def drop(self, shard: "CachedTar") -> None:
        """Forget a shard whose bytes are not right; others that read it just now may finish."""
        entry, part = (_path_of(self.folder, shard.sha256, suffix) for suffix in ("entry", "part"))
        with locked(entry, wait_s=self.wait_s, progress=part):
            _remove(self.folder, shard.sha256)

    def _is_whole(self, shard: "CachedTar", found: os.stat_result) -> bool:
        facts = _read_facts(self.folder, shard.sha256)
        return (facts.bytes, facts.mtime_ns, found.st_size) == (shard.size, found.st_mtime_ns, shard.size)

    def _touch(self, shard: "CachedTar") -> None:
        entry = _path_of(self.folder, shard.sha256, "entry")
        if time.time() - entry.stat().st_mtime > _TOUCH_S:
            os.utime(entry)

    # --------------------------------------------------------------------------------------------------------- room

    def _reserve(self, shard: "CachedTar", entry: BinaryIO) -> bool:
        """Note that a shard is to come once there is room for it; False if there is none to be made."""
        with locked(self.folder / _ACCOUNTS, wait_s=self.wait_s):
            others = [found for found in _list_entries(self.folder) if found.sha256 != shard.sha256]
            staying = [found for found in others if not found.is_whole]
            leaving = sum(found.bytes for found in others if found.is_whole)
            fits = self._has_room(shard.size, staying, freed=leaving) and self._make_room(shard.size, others)
            if fits:
                _note(entry, _Facts(shard.size))
        return fits or self._is_full()

    def _make_room(self, size: int, entries: Sequence[_Entry]) -> bool:
        """Delete entries from the first on until `size` bytes fit; False if those in use do not."""
        staying = list(entries)
        for entry in entries:
            if self._has_room(size, staying):
                return True
            if entry.is_whole and _evict(self.folder, entry):
                staying.remove(entry)
        return self._has_room(size, staying)

    def _has_room(self, size: int, entries: Sequence[_Entry], *, freed: int = 0) -> bool:
        used = sum(entry.bytes for entry in entries)
        free = self.free(self.folder) + freed - sum(entry.to_come for entry in entries)
        return used + size <= self.size and free - size >= self.floor

    def _is_full(self) -> bool:
        _warn_once(
            f"--cache {self.folder}: has no room for more shards within {format_bytes(self.size)}, "
            f"{format_bytes(self.floor)} of the disk left free; the others are read by range."
        )
        return False

    # ------------------------------------------------------------------------------------------------------ admission

    def _bring(self, shard: "CachedTar", entry: BinaryIO) -> bool:
        part = _path_of(self.folder, shard.sha256, "part")
        digest = hashlib.sha256()
        with part.open("wb", buffering=0) as file:
            for piece in stream(shard.source, shard.size):
                digest.update(piece)
                if not self._write(file.write, piece):
                    return self._is_full()
            if digest.hexdigest() != shard.sha256:
                raise ShardError(
                    f"{shard}: the {file.tell()} bytes that came have another SHA-256 than the {shard.size} that "
                    "dataset.json lists; the shard is damaged or of another conversion: copy it there again."
                )
            os.fsync(file.fileno())
        _note(entry, _Facts(shard.size, part.stat().st_mtime_ns))
        part.rename(_path_of(self.folder, shard.sha256, "tar"))
        return True

    def _write(self, write: Callable[[bytes], int], piece: bytes) -> bool:
        """Write a piece; False if the disk has no room for it, be it that others fill it."""
        try:
            return self.free(self.folder) - len(piece) >= self.floor and write(piece) == len(piece)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                return False
            raise


@dataclass(frozen=True)
class CachedTar:
    """A shard that is read from a cache, which fetches it from `source` at its first use."""

    cache: ShardCache
    """The cache."""
    source: StoragePath
    """Where the shard is fetched from."""
    size: int
    """Its bytes."""
    sha256: str
    """Of its content, by its record."""

    def __str__(self) -> str:
        return str(self.source)

    def read_range(self, start: int, stop: int) -> bytes:
        """Return bytes as `paths.read_range`, from the source where the cache has no room."""
        for _ in range(_TRIES):
            data = self.cache.read(self, start, stop)
            if data is not None:
                return data
            if not self.cache.admit(self):
                break
        return read_range(self.source, start, stop)

    def refetch(self) -> None:
        """Have the next read fetch the shard again: the bytes were not right."""
        _log.warning(f"{self}: its copy in {self.cache.folder} is damaged, so it is fetched again.")
        self.cache.drop(self)


def open_cache(folder: str | None, *, size: str, free: str) -> ShardCache | None:
    """Return the cache of `--cache` and its options, made if need be; None without.

    Raises UsageError for sizes that are none, or a folder that cannot be used.
    """
    if folder is None:
        return None
    cache = ShardCache(Path(folder), parse_bytes(size, "--cache-size"), parse_bytes(free, "--cache-free"))
    cache.prepare()
    return cache


# -------------------------------------------------------------------------------------------------------------- entries


def _path_of(folder: Path, sha256: str, suffix: str) -> Path:
    """Name one of an entry's files: `suffix` is entry, part or tar."""
    return folder / f"vdatrain-{sha256}.{suffix}"


def _read_facts(folder: Path, sha256: str) -> _Facts:
    """Read what is noted of a shard, or facts that fit none."""
    path = _path_of(folder, sha256, "entry")
    try:
        with path.open("rb") as file:
            facts = parse_json(file.read(_MAX_ENTRY_BYTES + 1), where=str(path), limit=_MAX_ENTRY_BYTES)
        return _Facts(facts.integer("bytes", 0, 2**63), facts.integer("mtime_ns", 0, 2**63))
    except (FileNotFoundError, DocumentError, LimitError):
        return _Facts(0)


def _note(entry: BinaryIO, facts: _Facts) -> None:
    """Write facts to an entry that the caller has locked."""
    entry.seek(0)
    entry.truncate()
    entry.write(json.dumps(asdict(facts)).encode())
    entry.flush()


def _list_entries(folder: Path) -> list[_Entry]:
    """List entries, least recently used first, clearing away what dead processes left."""
    names = {match[1] for path in folder.iterdir() if (match := _OWN.match(path.name))}
    entries = [entry for name in names if (entry := _entry(folder, name))]
    staying = [entry for entry in entries if entry.is_whole or not _evict(folder, entry)]
    return sorted(staying, key=lambda entry: (entry.used_ns, entry.sha256))


def _evict(folder: Path, entry: _Entry) -> bool:
    """Delete an entry; False if a process reads it or brings it just now."""
    try:
        with locked(_path_of(folder, entry.sha256, "entry"), wait_s=0):
            tar = _path_of(folder, entry.sha256, "tar")
            if not tar.exists():
                _remove(folder, entry.sha256)
                return True
            with tar.open("r+b") as file:
                leaves = entry.is_whole and try_lock(file, shared=False)
                if leaves:
                    _remove(folder, entry.sha256)
                return leaves
    except TimeoutError:
        return False


def _remove(folder: Path, sha256: str) -> None:
    """Delete the files of an entry that the caller has locked."""
    for suffix in ("tar", "part", "entry"):
        _path_of(folder, sha256, suffix).unlink(missing_ok=True)


def _entry(folder: Path, sha256: str) -> _Entry | None:
    """Describe an entry; None if it has just left."""
    sizes: dict[str, int] = {}
    times: dict[str, int] = {}
    for suffix in ("tar", "part", "entry"):
        try:
            stat = _path_of(folder, sha256, suffix).stat()
        except FileNotFoundError:
            continue
        sizes[suffix], times[suffix] = stat.st_size, stat.st_mtime_ns
    if not sizes:
        return None
    used_ns = times["entry"] if "entry" in times else max(times.values())
    if "tar" in sizes:
        return _Entry(sha256, sizes["tar"], used_ns, is_whole=True)
    here = sizes.get("part", 0)
    promised = max(here, _read_facts(folder, sha256).bytes)
    return _Entry(sha256, promised, used_ns, is_whole=False, to_come=promised - here)


@functools.cache
def _warn_once(sentence: str) -> None:
    _log.warning(sentence)
