"""ShardDataset: the windows of training as a torch dataset."""

import itertools
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch.utils.data import IterableDataset, get_worker_info

from vdaprep.shards.dataset import open_shards
from vdatrain.config import parse_mix
from vdatrain.data.sampler import DistributedPositions, WindowSampler, WindowShape, dataset_weights
from vdatrain.data.samples import Sample
from vdatrain.data.stream import check_state, stream_batches


class ShardDataset(IterableDataset[Sample]):
    """Endless windows in the order that `vdatrain run` trains on, decoded, not augmented.

    For a plain `torch.utils.data.DataLoader(dataset, batch_size=None, num_workers=n)`: its workers take turns, so that
    every position is read once and in order, for any number of them. Frames keep their stored size; `make_batch` and
    `sample_augmentations` make batches of samples.

    Args:
        shards: What `vdaprep convert` wrote: a folder, a URL, or several with commas between.
        frames: Frames per window (T).
        stride: Frames of a clip from one frame of a window to the next.
        seed: Seed of the order and of where windows begin.
        mix: How often each data set's windows occur in an epoch, as in `tartanair=1,vkitti=3`; empty: once each.
        split: Split of the shards.
        rank: Number of this process among those that train together.
        world_size: Number of those processes; each reads every `world_size`-th position.

    Raises:
        UsageError: an option that cannot be, or one that the shards leave no window for.
        DataError, ShardError: there are no finished shards.
    """

    def __init__(  # noqa: PLR0913 - the public face, keywords
        self,
        shards: Path | str,
        *,
        frames: int = 16,
        stride: int = 1,
        seed: int = 0,
        mix: str = "",
        split: str = "train",
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self._clips = open_shards(shards).clips(split=split)
        shape = WindowShape(frames, stride)
        weights = dataset_weights(self._clips, parse_mix(mix), shape)
        self._sampler = WindowSampler(self._clips.lengths, shape, seed=seed, weights=weights)
        self._positions = DistributedPositions(1, rank, world_size)

    @property
    def windows_per_epoch(self) -> int:
        """Windows of an epoch; position // this is the epoch."""
        return self._sampler.windows_per_epoch

    def __iter__(self) -> Iterator[Sample]:
        """Yield samples from the present position on.

        Raises:
            ShardError: a window cannot be read.
        """
        worker = get_worker_info()
        number, count = (worker.id, worker.num_workers) if worker else (0, 1)
        start, world = self._positions.start, self._positions.world
        share = DistributedPositions(1, self._positions.rank + number * world, world * count, start)
        with closing(stream_batches(self._clips, self._sampler, positions=share, workers=1)) as batches:
            for taken, [sample] in zip(itertools.count(1), batches, strict=False):
                self._positions = replace(self._positions, start=share.start_after(taken))
                yield sample

    def state_dict(self) -> dict[str, Any]:
        """Return the position and what has to be the same where it is loaded.

        The worker processes of a DataLoader advance copies. There, count: after n samples of this rank the position is
        that at which the dataset began, plus n * world_size.
        """
        return {"position": self._positions.start, **self._identity()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Let the next iteration begin at a state's position.

        Raises:
            DataError: the state is of other shards or of another seed.
        """
        check_state(state, self._identity())
        self._positions = replace(self._positions, start=state["position"])

    def _identity(self) -> dict[str, Any]:
        return {"seed": self._sampler.seed, "windows": self.windows_per_epoch}
