"""What training reads of converted data sets; see `vdaprep.shards.dataset`."""

from pathlib import Path

from vdaprep.shards.dataset import open_shards
from vdaprep.shards.reader import Clip as StoredClip
from vdaprep.storage.cache import ShardCache

__all__ = ["StoredClip", "fingerprint", "read_index", "splits_of"]


def read_index(shards: Path | str, *, split: str, cache: ShardCache | None = None) -> tuple[StoredClip, ...]:
    """List the clips of a split of every data set under `shards`; raises as `open_shards` and its `clips` do."""
    return open_shards(shards, cache=cache).clips(split=split)


def fingerprint(shards: Path | str) -> str:
    """Return a SHA-256 of what the data sets under `shards` are."""
    return open_shards(shards).fingerprint


def splits_of(shards: Path | str) -> set[str]:
    """Return the splits that the data sets under `shards` have."""
    return set(open_shards(shards).splits)
