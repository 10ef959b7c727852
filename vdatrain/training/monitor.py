"""Step statistics on the device; many steps without finite gradients end a run."""

import itertools
import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from vdaprep.errors import DivergedError
from vdatrain.distributed.ranks import Ranks

FIGURES = ("total", "spatial", "temporal", "gradient_norm")
MAX_SKIPPED = 20  # steps in a row without a finite gradient before a run gives up
_NAMED = 8  # clips that the sentence names then


class StepMonitor:
    """Collects figures of steps on the device and copies them to the host all at once.

    A gradient norm that is not finite tells the host that the device skipped the step.
    """

    def __init__(self, extra: Iterable[str] = ()) -> None:
        """Collect FIGURES and those of extra terms of the loss, which come before the gradient norm."""
        *losses, norm = FIGURES
        self._names = (*losses, *extra, norm)
        self._waiting: list[tuple[Tensor, tuple[str, ...]]] = []
        self._rows: list[list[float]] = []
        self._suspects: list[str] = []  # clips of the latest steps, as long as those were skipped
        self._in_a_row = 0
        self.skipped = 0

    def add(self, figures: Float[Tensor, " figures"], keys: Iterable[str]) -> None:
        """Take a step's figures and its clips' keys, without waiting for the device."""
        self._waiting.append((figures, tuple(keys)))

    def settle(self, ranks: Ranks = Ranks()) -> None:  # noqa: B008 - it is frozen
        """Wait for the device and copy all figures, averaged over ranks, which all call this.

        Raises DivergedError on every rank, with the clips of all of them, if MAX_SKIPPED steps in a row had no finite
        gradient.
        """
        if not self._waiting:
            return
        rows = ranks.mean(torch.stack([figures for figures, _ in self._waiting])).tolist()
        for row, (_, keys) in zip(rows, self._waiting, strict=True):
            self._count(dict(zip(self._names, row, strict=True))["gradient_norm"], keys)
            self._rows.append(row)
            if self._in_a_row >= MAX_SKIPPED:  # on every rank alike, since all have the same means
                raise DivergedError(
                    f"the gradient was not finite for {self._in_a_row} steps in a row, with "
                    f"{_named(ranks.gather(self._suspects))}; try a lower --lr, or a finer --precision if there is one."
                )
        self._waiting.clear()

    def take(self) -> dict[str, int | float]:
        """Return each figure's mean over the steps settled since, and all steps skipped.

        Means are over finite values; nan where there is none.
        """
        columns = zip(*self._rows, strict=True)
        figures: dict[str, int | float] = {
            name: _mean(values) for name, values in zip(self._names, columns, strict=False)
        }
        self._rows.clear()
        return {**figures, "skipped": self.skipped}

    def state_dict(self) -> dict[str, Any]:
        """Return what was settled, for a checkpoint."""
        return {
            "rows": [list(row) for row in self._rows],
            "suspects": list(self._suspects),
            "in_a_row": self._in_a_row,
            "skipped": self.skipped,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self._rows = [list(row) for row in state["rows"]]
        self._suspects = list(state["suspects"])
        self._in_a_row, self.skipped = state["in_a_row"], state["skipped"]

    def _count(self, gradient_norm: float, keys: tuple[str, ...]) -> None:
        if math.isfinite(gradient_norm):
            self._in_a_row = 0
            self._suspects.clear()
            return
        self.skipped += 1
        self._in_a_row += 1
        self._suspects += keys


def _named(suspects: Iterable[list[str]]) -> str:
    """Name the clips of some ranks' steps, the latest first and each once."""
    latest = itertools.zip_longest(*(reversed(clips) for clips in suspects))
    clips = [clip for clip in dict.fromkeys(itertools.chain.from_iterable(latest)) if clip is not None]
    more = f" and {len(clips) - _NAMED} more clips" if len(clips) > _NAMED else ""
    return ", ".join(clips[:_NAMED]) + more


def _mean(values: Iterable[float]) -> float:
    finite = [value for value in values if math.isfinite(value)]
    return sum(finite) / len(finite) if finite else math.nan
