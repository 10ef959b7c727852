"""Converted data sets by folder or URL: which shards and clips they have.

A path stands for shards in four ways, one rule for every reader:

    OUT                              all data sets one folder below
    OUT/DATASET                      the folder that holds a `dataset.json`
    OUT/DATASET/SPLIT                the shards of one split
    OUT/DATASET/SPLIT/shard-0001.tar one shard

`open_shards` takes what was finished and is listed, `find_shards` every shard there is, for `verify` to judge.
"""

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from vdaprep.errors import DataError, ShardError
from vdaprep.shards.index import ClipIndex, ShardClips
from vdaprep.shards.names import DATASET_FILE, record_name
from vdaprep.shards.reader import Clip, record_bytes
from vdaprep.shards.records import DatasetRecord, DataTerms, ShardRecord, ShardSummary
from vdaprep.storage.cache import CachedTar, ShardCache
from vdaprep.storage.paths import (
    RemotePath,
    StoragePath,
    document_bytes,
    is_file,
    list_files,
    list_folders,
    open_paths,
    read_bytes,
    size_of,
    sort_paths,
)

TARS, RECORDS = "shard-*.tar", "shard-*.json"
_REQUESTS = 16  # that a server is sent at a time

Paths = str | StoragePath | Iterable[str | StoragePath]
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class _Shard:
    """A shard that a data set lists; `record_sha256` is None without a `dataset.json`."""

    tar: StoragePath
    split: str
    dataset: str
    bytes: int
    sha256: str
    record_sha256: str | None
    evaluation_max_m: float
    terms: tuple[DataTerms, ...]

    def through(self, cache: ShardCache) -> CachedTar:
        return CachedTar(cache, self.tar, self.bytes, self.sha256)


class ShardCollection:
    """The shards of one or more converted data sets; got from `open_shards`."""

    def __init__(
        self,
        shown: str,
        shards: Sequence[_Shard],
        *,
        fingerprint: str,
        records: Mapping[str, DatasetRecord],
        cache: ShardCache | None,
    ) -> None:
        self._shown = shown
        self._shards = tuple(shards)
        self._cache = cache
        self.fingerprint = fingerprint
        """SHA-256 of what the data sets are: of every `dataset.json`."""
        self.records = records
        """What `dataset.json` says of each data set: its options, and what was left out."""

    def __repr__(self) -> str:
        return f"<ShardCollection {self._shown}: {len(self._shards)} shards of {', '.join(self.datasets)}>"

    @property
    def datasets(self) -> tuple[str, ...]:
        """Names of the data sets, sorted."""
        return tuple(sorted({shard.dataset for shard in self._shards}))

    def terms(
        self, *, split: str | None = None, takes: Callable[[str], bool] = lambda dataset: True
    ) -> tuple[DataTerms, ...]:
        """Return the terms of the data sets and of teachers that labelled them, sorted by name.

        Of those only that have a split, and whose name `takes` takes.
        """
        chosen = [shard for shard in self._shards if split in (None, shard.split) and takes(shard.dataset)]
        found = {terms for shard in chosen for terms in shard.terms}
        return tuple(sorted(found, key=lambda terms: (terms.dataset, terms.licence, terms.citation)))

    @property
    def splits(self) -> tuple[str, ...]:
        """Splits that have shards, sorted."""
        return tuple(sorted({shard.split for shard in self._shards}))

    @property
    def tars(self) -> tuple[StoragePath, ...]:
        """Paths of the shards, in order."""
        return tuple(shard.tar for shard in self._shards)

    def clips(self, *, split: str | None = None, dataset: str | None = None) -> ClipIndex:
        """List clips, in the order of the data sets' folders and of the shards in `dataset.json`.

        The records of the shards are read; no tar is opened, only its size is compared.

        Args:
            split: Only of this split; None: of all.
            dataset: Only of this data set; None: of all.

        Returns:
            The clips, a sequence; none of them is read yet.

        Raises:
            DataError: There is no such clip.
            ShardError: A record or a shard is missing, cut short or not the one that `dataset.json` names.
        """
        chosen = [s for s in self._shards if split in (None, s.split) and dataset in (None, s.dataset)]
        cache = self._cache
        fitting = cache.choose([shard.through(cache) for shard in self._shards]) if cache else set[str]()

        def clips_of(shard: _Shard) -> ShardClips:
            return _clips_of(shard, shard.through(cache) if cache and shard.sha256 in fitting else shard.tar)

        clips = ClipIndex(_each(clips_of, chosen))
        if not clips:
            of = "" if dataset is None else f" of data set {dataset!r}"
            in_split = "" if split is None else f" in split {split!r}"
            found = self.splits if dataset is None else self.datasets
            raise DataError(
                f"{self._shown}: no data set here has clips{of}{in_split}, found {', '.join(found) or 'none at all'}."
            )
        return clips


def open_shards(path: Paths, *, cache: ShardCache | None = None) -> ShardCollection:
    """Open converted data sets for reading; needs no torch.

    Args:
        path: A folder of data sets, the folder of one, of one of its splits, or a shard; its URL; or several of these,
            with commas between in a text, or as a list.
        cache: Through which as many shards as fit are read.

    Returns:
        The shards that the data sets list.

    Raises:
        DataError: There is no finished data set.
        ShardError: A `dataset.json`, or the record of a single shard, is missing or damaged.
    """
    places = as_paths(path)
    found = [item for place in places for item in _datasets_at(place)]
    if len(places) > 1:  # then the order is that of one folder that holds the same
        found.sort(key=lambda item: item.folder.name)
    digest = hashlib.sha256()
    for item in found:
        digest.update(item.data)
    shards = [shard for item in found for shard in item.shards()]
    shown = ", ".join(map(str, places))
    records = {record.dataset: record for record in (item.record() for item in found if isinstance(item, _Dataset))}
    return ShardCollection(shown, shards, fingerprint=digest.hexdigest(), records=records, cache=cache)


def as_paths(path: Paths) -> list[StoragePath]:
    """Return one or more paths and URLs as StoragePaths; a text is split as `open_paths` does."""
    if isinstance(path, RemotePath):
        return [path]
    several = [path] if isinstance(path, str | Path) else path
    return [each for item in several for each in ([item] if isinstance(item, RemotePath) else open_paths(item))]


# ----------------------------------------------------------------------------------------------------------- data sets


@dataclass(frozen=True)
class _Dataset:
    """A data set, or a part of it: the bytes of its `dataset.json`, and which of its shards."""

    folder: StoragePath
    data: bytes
    split: str | None = None
    name: str | None = None

    def record(self) -> DatasetRecord:
        return DatasetRecord.from_bytes(self.data, where=str(self.folder / DATASET_FILE))

    def shards(self) -> list[_Shard]:
        record = self.record()
        terms = (record.terms, *record.teacher_terms)
        limit_m = float(record.source.get("evaluation_max_m", math.inf))
        return [
            _Shard(
                self.folder / item.split / item.name, item.split, record.dataset, item.bytes, item.sha256,
                record_sha256=item.record_sha256, evaluation_max_m=limit_m, terms=terms,
            )
            for item in record.shards if self._has(item)
        ]  # fmt: skip

    def _has(self, item: ShardSummary) -> bool:
        return self.split in (None, item.split) and self.name in (None, item.name)


@dataclass(frozen=True)
class _LoneShard:
    """A shard that no `dataset.json` lists: the bytes of its record."""

    folder: StoragePath
    tar: StoragePath
    data: bytes

    def shards(self) -> list[_Shard]:
        record = ShardRecord.from_bytes(self.data, where=str(self.tar.with_name(record_name(self.tar.name))))
        dataset = Clip("", self.tar, record.clips[0]).meta.dataset if record.clips else ""
        return [
            _Shard(
                self.tar, self.tar.parent.name, dataset, record.tar_bytes, record.tar_sha256,
                record_sha256=None, evaluation_max_m=math.inf, terms=(DataTerms(dataset, "", "", None),),
            )
        ]  # fmt: skip


def _datasets_at(place: StoragePath) -> Sequence[_Dataset | _LoneShard]:
    if place.suffix == ".tar":
        return [_tar_at(place.resolve() if isinstance(place, Path) else place)]
    if isinstance(place, Path):
        return _local_datasets(place)
    try:
        here = _dataset_bytes(place)
        folders = [place] if here is not None else list_folders(place)
        contents = [here] if here is not None else _each(_dataset_bytes, folders)
    except OSError as error:
        raise DataError(f"{place}: cannot be read ({error.strerror}).") from error
    found = [_Dataset(folder, data) for folder, data in zip(folders, contents, strict=True) if data is not None]
    found = found or _split_at(place)
    if not found:
        raise DataError(
            f"{place}: found no {DATASET_FILE}, neither here nor in a folder below, which many servers do not list; "
            "give the URL of each data set's folder, separated by commas."
        )
    return found


def _dataset_bytes(folder: StoragePath) -> bytes | None:
    try:
        return document_bytes(folder / DATASET_FILE)
    except FileNotFoundError:
        return None


def _local_datasets(place: Path) -> list[_Dataset]:
    if not place.is_dir():
        raise DataError(f"{place}: is no folder; looked for shards there, which `vdaprep convert` makes.")
    candidates = [place, *sorted(path for path in place.iterdir() if path.is_dir())]
    for folder in candidates:
        if not (folder / DATASET_FILE).is_file() and any(folder.glob("*/shard-*")):
            raise DataError(
                f"{folder}: has shards but no {DATASET_FILE}, so the conversion has not finished; "
                "run `vdaprep convert` again, it continues."
            )
    folders = [folder for folder in candidates if (folder / DATASET_FILE).is_file()]
    found = [_Dataset(folder, read_bytes(folder / DATASET_FILE)) for folder in folders]
    found = found or _split_at(place.resolve())
    if not found:
        raise DataError(
            f"{place}: found no {DATASET_FILE}, neither here nor one folder below; `vdaprep convert` makes it."
        )
    return found


def _split_at(place: StoragePath) -> list[_Dataset]:
    """Take a folder as a split of the data set that it lies in, if that lists such a split."""
    try:
        data = _dataset_bytes(place.parent)
    except OSError:
        return []
    found = [] if data is None else [_Dataset(place.parent, data, split=place.name)]
    return [item for item in found if item.shards()]


def _tar_at(tar: StoragePath) -> _Dataset | _LoneShard:
    folder = tar.parent.parent
    try:
        data = _dataset_bytes(folder)
    except OSError as error:
        raise DataError(f"{folder}: cannot be read ({error.strerror}).") from error
    if data is not None and (found := _Dataset(folder, data, split=tar.parent.name, name=tar.name)).shards():
        return found
    if not is_file(tar):
        raise ShardError(f"{tar}: there is no such shard; vdaprep convert makes them.")
    return _LoneShard(folder, tar, record_bytes(tar))


# -------------------------------------------------------------------------------------------------------------- shards


def _clips_of(shard: _Shard, tar: StoragePath | CachedTar) -> ShardClips:
    path = shard.tar.with_name(record_name(shard.tar.name))
    data = _listed(path, lambda: document_bytes(path))
    if shard.record_sha256 not in (None, hashlib.sha256(data).hexdigest()):
        raise ShardError(f"{path}: is not the record that {DATASET_FILE} lists; vdaprep repair makes it again.")
    record = ShardRecord.from_bytes(data, where=str(path))
    size = _listed(shard.tar, lambda: size_of(shard.tar))
    if size not in (record.tar_bytes, None):
        raise ShardError(
            f"{shard.tar}: has {size} bytes, its record says {record.tar_bytes}; the shard is cut or damaged, "
            "vdaprep repair makes it again."
        )
    return ShardClips.of(record.clips, dataset=shard.dataset, tar=tar, evaluation_max_m=shard.evaluation_max_m)


def _listed(file: StoragePath, read: Callable[[], Result]) -> Result:
    try:
        return read()
    except FileNotFoundError as error:
        raise ShardError(
            f"{file}: is missing, though {DATASET_FILE} lists its shard; vdaprep repair makes it again."
        ) from error
    except OSError as error:
        raise ShardError(f"{file}: cannot be read ({error.strerror}).") from error


def _each(read: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """Read items in order, many at a time: of a server, each takes a round trip."""
    with ThreadPoolExecutor(_REQUESTS) as pool:
        return list(pool.map(read, items))


# ------------------------------------------------------------------------------------------ whatever there is of shards


def find_shards(path: Paths) -> list[StoragePath]:
    """List the tars that paths stand for, finished or not: shards, and all below folders.

    A tar whose record alone is there is listed too, each tar once. Raises ShardError for a path without shards.
    """
    return list(dict.fromkeys(tar for place in as_paths(path) for tar in find_in(place)[0]))


def find_in(place: StoragePath) -> tuple[list[StoragePath], list[StoragePath]]:
    """Return the tars and the data sets' folders that a path stands for; ShardError if none."""
    if place.suffix == ".tar":
        found = [file for file in (place, place.with_name(record_name(place.name))) if is_file(file)]
    else:
        found = list_files(place, TARS, RECORDS, DATASET_FILE)
    if not found:
        raise ShardError(f"{place}: there are no shards here; vdaprep convert makes them.")
    folders = [file.parent for file in found if file.name == DATASET_FILE]
    # The split is the name of the folder, so there must be one.
    tars = [tar.resolve() if isinstance(tar, Path) and tar.parent.name in ("", "..") else tar for tar in tars_of(found)]
    return tars, folders


def tars_of(files: Iterable[StoragePath]) -> list[StoragePath]:
    """List the tars among files, and those whose records are, sorted."""
    names = ((file, file.name.removesuffix(".json") + ".tar") for file in files if file.name != DATASET_FILE)
    return sort_paths({file if file.suffix == ".tar" else file.with_name(name) for file, name in names})
