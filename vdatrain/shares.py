"""The positions of a stream that fall to a rank."""

import dataclasses
import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from vdaprep.schema import UsageError


@dataclass(frozen=True)
class Share:
    """A rank's part of the global batches that follow one another from position `start` on.

    A global batch is `batch * world` positions; the rank reads every `world`-th of them, from `rank` on. So the order
    of the global batches is the same for every number of ranks that has the same `batch * world`.
    """

    batch: int
    rank: int = 0
    world: int = 1
    start: int = 0

    def __post_init__(self) -> None:
        if self.batch < 1 or self.start < 0 or not 0 <= self.rank < self.world:
            raise UsageError(
                f"a batch of {self.batch} windows from position {self.start} on for rank {self.rank} "
                f"of {self.world} cannot be."
            )

    def start_after(self, batches: int) -> int:
        """Return the position to resume from after so many batches: the stream's whole state but for the seed."""
        return self.start + batches * self.batch * self.world

    def of_images(self, per_clip: int) -> "Share":
        """Return the share in an order of images, so many beside each window of this one."""
        return dataclasses.replace(self, batch=self.batch * per_clip, start=self.start * per_clip)

    def positions(self, *, total: int | None) -> Iterator[int]:
        """Yield the rank's positions, batch after batch.

        Ends before `total`, unless that is None; then only the last batch of a rank can be short, and a rank can have
        one batch fewer than another.
        """
        positions = itertools.count(self.start + self.rank, self.world)
        return positions if total is None else itertools.takewhile(lambda position: position < total, positions)
