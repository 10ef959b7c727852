"""A folder of shards to the clips that lie in it."""

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path

from vdaprep.schema import (
    DATASET_FILE,
    ClipEntry,
    DataError,
    DatasetRecord,
    ShardError,
    ShardRecord,
    ShardSummary,
    record_name,
)


@dataclass(frozen=True)
class StoredClip:
    """A clip on the disk: the data set it is of, its tar, its place in it, the depth up to which it is evaluated."""

    dataset: str
    tar: Path
    entry: ClipEntry
    evaluation_max_m: float = math.inf

    @property
    def num_frames(self) -> int:
        """Frames that the clip has."""
        return self.entry.frames


def read_index(shards: Path, *, split: str) -> tuple[StoredClip, ...]:
    """List the clips of a split of every data set under `shards`, which may itself be one data set's folder.

    The order is that of the folders' names and of the shards in `dataset.json`. No tar is opened, only its size is
    compared. Raises DataError where there is no finished data set or none with this split, ShardError where a record
    or a tar is missing, cut short or not the one that `dataset.json` names.
    """
    records = {folder: _read_dataset(folder) for folder in _dataset_folders(shards)}
    clips = tuple(
        clip
        for folder, record in records.items()
        for summary in record.shards
        if summary.split == split
        for clip in _read_shard(folder / split, summary, record)
    )
    if not clips:
        found = sorted({summary.split for record in records.values() for summary in record.shards})
        raise DataError(
            f"{shards}: no data set here has clips in split {split!r}, found {', '.join(found) or 'none at all'}."
        )
    return clips


def fingerprint(shards: Path) -> str:
    """Return a SHA-256 of what the data sets under `shards` are: of every `dataset.json`."""
    digest = hashlib.sha256()
    for folder in _dataset_folders(shards):
        digest.update((folder / DATASET_FILE).read_bytes())
    return digest.hexdigest()


def splits_of(shards: Path) -> set[str]:
    """Return the splits that the data sets under `shards` have."""
    return {summary.split for folder in _dataset_folders(shards) for summary in _read_dataset(folder).shards}


def _dataset_folders(shards: Path) -> list[Path]:
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


def _read_dataset(folder: Path) -> DatasetRecord:
    path = folder / DATASET_FILE
    return DatasetRecord.from_bytes(path.read_bytes(), where=str(path))


def _read_shard(folder: Path, summary: ShardSummary, dataset: DatasetRecord) -> list[StoredClip]:
    tar = folder / summary.name
    path = tar.with_name(record_name(tar.name))
    for file in (path, tar):
        if not file.is_file():
            raise ShardError(f"{file}: is missing, though {DATASET_FILE} lists its shard; convert it again.")
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != summary.record_sha256:
        raise ShardError(f"{path}: is not the record that {DATASET_FILE} lists; convert it again.")
    record = ShardRecord.from_bytes(data, where=str(path))
    size = tar.stat().st_size
    if size != record.tar_bytes:
        raise ShardError(
            f"{tar}: has {size} bytes, its record says {record.tar_bytes}; the shard is cut or damaged, "
            "convert it again."
        )
    limit_m = float(dataset.source.get("evaluation_max_m", math.inf))
    return [StoredClip(dataset.dataset, tar, entry, limit_m) for entry in record.clips]
