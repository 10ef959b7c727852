"""A bounded folder of whole shards, shared by processes, the least recently used leaving first."""

import errno
import functools
import hashlib
import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from vdaprep.errors import ShardError, UsageError
from vdatrain.storage.entries import Entry, Facts, evict, list_entries, note, path_of, read_facts, remove
from vdatrain.storage.locks import locked, try_lock
from vdatrain.storage.places import StoragePath, read_range, stream

_log = logging.getLogger(__name__)

_ACCOUNTS = "vdatrain-cache.lock"  # locked while room is made
_TOUCH_S = 5.0  # last uses are known to within this
_TRIES = 3  # admissions before a shard that others keep driving out is read where it lies
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_SIZE = re.compile(r"^(\d+(?:\.\d+)?)\s*([KMGT]?)B?$", re.IGNORECASE)


def parse_size(text: str, *, option: str) -> int:
    """Return the bytes that a size like 20GB or 500MB stands for; raises UsageError, naming the option, for others."""
    match = _SIZE.match(text.strip())
    if match is None:
        raise UsageError(f"--{option} {text}: expected a size like 20GB or 500MB.")
    return round(float(match[1]) * _UNITS[match[2].upper()])


def free_bytes(folder: Path) -> int:
    """Return the bytes that may still be written to a folder's disk."""
    return shutil.disk_usage(folder).free


@dataclass(frozen=True)
class Cache:
    """A folder that holds at most `size` bytes of whole shards and leaves `floor` bytes of its disk free.

    A value: any number of processes and threads may use one like it at the same time. What else lies in the folder is
    left alone and not counted. `wait_s`: longest wait for a process that locks an entry without getting anywhere.
    `free`: as `free_bytes`.
    """

    folder: Path
    size: int
    floor: int
    wait_s: int | float = 300
    free: Callable[[Path], int] = free_bytes

    def prepare(self) -> None:
        """Make the folder, or bring what it holds within bounds; raises UsageError where it cannot be a cache."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with locked(self.folder / _ACCOUNTS, wait_s=self.wait_s):
                self._make_room(0, list_entries(self.folder))
        except OSError as error:
            raise UsageError(
                f"--cache {self.folder}: cannot be used ({error.strerror}); expected a folder on a local disk."
            ) from error

    def choose(self, shards: Sequence["CachedTar"]) -> set[str]:
        """Return the SHA-256 of the shards that fit together, taken in turn; says so if that is not all.

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
                f"--cache-size {_shown(self.size)}: has no room for {left_out} of {len(shards)} shards, "
                f"{_shown(sum(shard.size for shard in shards))} in all; those are read by range."
            )
        return chosen

    def read(self, shard: "CachedTar", start: int, stop: int) -> bytes | None:
        """Return bytes of a shard; None unless it is there as it was admitted."""
        try:
            with path_of(self.folder, shard.sha256, "tar").open("rb") as file:
                if not try_lock(file, shared=True) or not self._is_whole(shard, os.fstat(file.fileno())):
                    return None
                self._touch(shard)
                return os.pread(file.fileno(), stop - start, start)
        except FileNotFoundError:
            return None

    def admit(self, shard: "CachedTar") -> bool:
        """Have a shard in the cache, brought by this process or another; False if there is no room for it.

        Raises OSError where the source cannot be read or another process stands in the way for too long, ShardError
        where what came is not what `dataset.json` lists. Whatever it raises, nothing is left behind.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        tar, part, entry = (path_of(self.folder, shard.sha256, suffix) for suffix in ("tar", "part", "entry"))
        with locked(entry, wait_s=self.wait_s, progress=part) as file:
            if tar.exists() and self._is_whole(shard, tar.stat()):
                return True
            tar.unlink(missing_ok=True)
            admitted = False
            try:
                admitted = self._reserve(shard, file) and self._bring(shard, file)
            finally:
                if not admitted:
                    remove(self.folder, shard.sha256)
        return admitted

    def drop(self, shard: "CachedTar") -> None:
        """Forget a shard whose bytes are not right; others that read it just now may finish."""
        entry, part = (path_of(self.folder, shard.sha256, suffix) for suffix in ("entry", "part"))
        with locked(entry, wait_s=self.wait_s, progress=part):
            remove(self.folder, shard.sha256)

    def _is_whole(self, shard: "CachedTar", found: os.stat_result) -> bool:
        facts = read_facts(self.folder, shard.sha256)
        return (facts.bytes, facts.mtime_ns, found.st_size) == (shard.size, found.st_mtime_ns, shard.size)

    def _touch(self, shard: "CachedTar") -> None:
        entry = path_of(self.folder, shard.sha256, "entry")
        if time.time() - entry.stat().st_mtime > _TOUCH_S:
            os.utime(entry)

    # --------------------------------------------------------------------------------------------------------- room

    def _reserve(self, shard: "CachedTar", entry: BinaryIO) -> bool:
        """Note that a shard is to come once there is room for it; False if there is none to be made."""
        with locked(self.folder / _ACCOUNTS, wait_s=self.wait_s):
            others = [found for found in list_entries(self.folder) if found.sha256 != shard.sha256]
            staying = [found for found in others if not found.is_whole]
            leaving = sum(found.bytes for found in others if found.is_whole)
            fits = self._has_room(shard.size, staying, freed=leaving) and self._make_room(shard.size, others)
            if fits:
                note(entry, Facts(shard.size))
        return fits or self._is_full()

    def _make_room(self, size: int, entries: Sequence[Entry]) -> bool:
        """Let entries leave, from the first on, until `size` bytes fit; False if those in use are in the way."""
        staying = list(entries)
        for entry in entries:
            if self._has_room(size, staying):
                return True
            if entry.is_whole and evict(self.folder, entry):
                staying.remove(entry)
        return self._has_room(size, staying)

    def _has_room(self, size: int, entries: Sequence[Entry], *, freed: int = 0) -> bool:
        used = sum(entry.bytes for entry in entries)
        free = self.free(self.folder) + freed - sum(entry.to_come for entry in entries)
        return used + size <= self.size and free - size >= self.floor

    def _is_full(self) -> bool:
        _warn_once(
            f"--cache {self.folder}: has no room for more shards within {_shown(self.size)}, "
            f"{_shown(self.floor)} of the disk left free; the others are read by range."
        )
        return False

    # ------------------------------------------------------------------------------------------------------ admission

    def _bring(self, shard: "CachedTar", entry: BinaryIO) -> bool:
        part = path_of(self.folder, shard.sha256, "part")
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
        note(entry, Facts(shard.size, part.stat().st_mtime_ns))
        part.rename(path_of(self.folder, shard.sha256, "tar"))
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

    cache: Cache
    source: StoragePath
    size: int
    sha256: str

    def __str__(self) -> str:
        return str(self.source)

    def read_range(self, start: int, stop: int) -> bytes:
        """Return bytes as `places.read_range` does, of the source where the cache has no room; raises as `admit`."""
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


def open_cache(folder: str | None, *, size: str, free: str) -> Cache | None:
    """Return the cache of `--cache`, `--cache-size` and `--cache-free`, made if need be; None without a folder.

    Raises UsageError for sizes that are none, or a folder that cannot be used.
    """
    if folder is None:
        return None
    cache = Cache(Path(folder), parse_size(size, option="cache-size"), parse_size(free, option="cache-free"))
    cache.prepare()
    return cache


def _shown(size: int) -> str:
    """Write a size as the options take it."""
    unit = next((unit for unit in ("TB", "GB", "MB", "KB") if size >= _UNITS[unit[0]]), "B")
    return f"{size / _UNITS[unit.rstrip('B')]:.4g}{unit}"


@functools.cache
def _warn_once(sentence: str) -> None:
    _log.warning(sentence)
