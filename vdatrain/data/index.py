"""A folder of shards, or its URL, to the clips that lie in it."""

import hashlib
import itertools
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from vdaprep.errors import DataError, ShardError
from vdaprep.shards.names import DATASET_FILE, record_name
from vdaprep.shards.records import ClipEntry, DatasetRecord, ShardRecord, ShardSummary
from vdaprep.storage.cache import CachedTar, ShardCache
from vdaprep.storage.paths import StoragePath, list_folders, open_paths, read_range, size_of

_REQUESTS = 16  # that a server is sent at a time

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class StoredClip:
    """A clip in a tar: the data set it is of, its tar, its place in it, the depth up to which it is evaluated."""

    dataset: str
    tar: StoragePath | CachedTar
    entry: ClipEntry
    evaluation_max_m: float = math.inf

    @property
    def num_frames(self) -> int:
        """Frames that the clip has."""
        return self.entry.frames

    def read(self, start: int, stop: int) -> bytes:
        """Return the tar's bytes from `start` to `stop`, fewer only where it ends; they are not checked.

        Those of a cache are, and if they are wrong the shard is fetched once more. Raises ShardError, naming the tar
        and the clip, where they cannot be read: of a server, after several tries.
        """
        try:
            if not isinstance(self.tar, CachedTar):
                return read_range(self.tar, start, stop)
            data = self.tar.read_range(start, stop)
            if self.entry.is_whole(data, start=start, stop=stop):
                return data
            self.tar.refetch()
            return self.tar.read_range(start, stop)
        except OSError as error:
            raise ShardError(f"{self.tar}: cannot be read for clip {self.entry.key} ({error.strerror}).") from error


def read_index(shards: Path | str, *, split: str, cache: ShardCache | None = None) -> tuple[StoredClip, ...]:
    """List the clips of a split of every data set under `shards`, which may itself be one data set's folder.

    `shards` is a folder, a URL, or URLs separated by commas; with a cache, as many shards as fit are read through it.
    The order is that of the folders' names and of the shards in `dataset.json`. No tar is opened, only its size is
    compared. Raises DataError where there is no finished data set or none with this split, ShardError where a record
    or a tar is missing, cut short or not the one that `dataset.json` names.
    """
    listed = _list_shards(shards)
    fitting = cache.choose([shard.through(cache) for shard in listed]) if cache else set[str]()

    def clips_of(shard: _Shard) -> list[StoredClip]:
        return _read_shard(shard, shard.through(cache) if cache and shard.summary.sha256 in fitting else shard.tar)

    wanted = [shard for shard in listed if shard.summary.split == split]
    clips = tuple(itertools.chain.from_iterable(_each(clips_of, wanted)))
    if not clips:
        found = sorted({shard.summary.split for shard in listed})
        raise DataError(
            f"{_shown(shards)}: no data set here has clips in split {split!r}, "
            f"found {', '.join(found) or 'none at all'}."
        )
    return clips


def fingerprint(shards: Path | str) -> str:
    """Return a SHA-256 of what the data sets under `shards` are: of every `dataset.json`."""
    digest = hashlib.sha256()
    for _, data in _datasets(shards):
        digest.update(data)
    return digest.hexdigest()


def splits_of(shards: Path | str) -> set[str]:
    """Return the splits that the data sets under `shards` have."""
    return {shard.summary.split for shard in _list_shards(shards)}


# ----------------------------------------------------------------------------------------------------------- data sets


@dataclass(frozen=True)
class _Shard:
    """A shard that a data set lists, in the folder of its split."""

    folder: StoragePath
    summary: ShardSummary
    dataset: DatasetRecord

    @property
    def tar(self) -> StoragePath:
        return self.folder / self.summary.name

    @property
    def record(self) -> StoragePath:
        return self.folder / record_name(self.summary.name)

    def through(self, cache: ShardCache) -> CachedTar:
        return CachedTar(cache, self.tar, self.summary.bytes, self.summary.sha256)


def _list_shards(shards: Path | str) -> list[_Shard]:
    records = [
        (folder, DatasetRecord.from_bytes(data, where=str(folder / DATASET_FILE))) for folder, data in _datasets(shards)
    ]
    return [_Shard(folder / summary.split, summary, record) for folder, record in records for summary in record.shards]


def _datasets(shards: Path | str) -> list[tuple[StoragePath, bytes]]:
    """Return the folders of the data sets, each with the bytes of its `dataset.json`."""
    places = open_paths(shards)
    found = list(itertools.chain.from_iterable(map(_datasets_at, places)))
    # Of several URLs the order shall be that of one folder that holds the same.
    return sorted(found, key=lambda item: item[0].name) if len(places) > 1 else found


def _datasets_at(place: StoragePath) -> list[tuple[StoragePath, bytes]]:
    if isinstance(place, Path):
        return [(folder, (folder / DATASET_FILE).read_bytes()) for folder in _local_folders(place)]
    try:
        here = _dataset_bytes(place)
        folders = [place] if here is not None else list_folders(place)
        contents = [here] if here is not None else _each(_dataset_bytes, folders)
    except OSError as error:
        raise DataError(f"{place}: cannot be read ({error.strerror}).") from error
    found = [(folder, data) for folder, data in zip(folders, contents, strict=True) if data is not None]
    if not found:
        raise DataError(
            f"{place}: found no {DATASET_FILE}, neither here nor in a folder below, which many servers do not list; "
            "give the URL of each data set's folder, separated by commas."
        )
    return found


def _dataset_bytes(folder: StoragePath) -> bytes | None:
    try:
        return (folder / DATASET_FILE).read_bytes()
    except FileNotFoundError:
        return None


def _local_folders(shards: Path) -> list[Path]:
    if not shards.is_dir():
        raise DataError(f"{shards}: is no folder; looked for shards there, which `vdaprep convert` makes.")
    candidates = [shards, *sorted(path for path in shards.iterdir() if path.is_dir())]
    for folder in candidates:
        if not (folder / DATASET_FILE).is_file() and any(folder.glob("*/shard-*")):
            raise DataError(
                f"{folder}: has shards but no {DATASET_FILE}, so the conversion has not finished; "
                "run `vdaprep convert` again, it continues."
            )
    folders = [folder for folder in candidates if (folder / DATASET_FILE).is_file()]
    if not folders:
        raise DataError(
            f"{shards}: found no {DATASET_FILE}, neither here nor one folder below; `vdaprep convert` makes it."
        )
    return folders


# -------------------------------------------------------------------------------------------------------------- shards


def _read_shard(shard: _Shard, tar: StoragePath | CachedTar) -> list[StoredClip]:
    where = str(shard.record)
    data = _listed(shard.record, lambda: shard.record.read_bytes())
    if hashlib.sha256(data).hexdigest() != shard.summary.record_sha256:
        raise ShardError(f"{where}: is not the record that {DATASET_FILE} lists; convert it again.")
    record = ShardRecord.from_bytes(data, where=where)
    size = _listed(shard.tar, lambda: size_of(shard.tar))
    if size not in (record.tar_bytes, None):
        raise ShardError(
            f"{shard.tar}: has {size} bytes, its record says {record.tar_bytes}; the shard is cut or damaged, "
            "convert it again."
        )
    limit_m = float(shard.dataset.source.get("evaluation_max_m", math.inf))
    return [StoredClip(shard.dataset.dataset, tar, entry, limit_m) for entry in record.clips]


def _listed(file: StoragePath, read: Callable[[], Result]) -> Result:
    try:
        return read()
    except FileNotFoundError as error:
        raise ShardError(f"{file}: is missing, though {DATASET_FILE} lists its shard; convert it again.") from error
    except OSError as error:
        raise ShardError(f"{file}: cannot be read ({error.strerror}).") from error


def _each(read: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """Read items in order, many at a time: of a server, each takes a round trip."""
    with ThreadPoolExecutor(_REQUESTS) as pool:
        return list(pool.map(read, items))


def _shown(shards: Path | str) -> str:
    return ", ".join(map(str, open_paths(shards)))
