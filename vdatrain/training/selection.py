"""Which weights of a run are the best: the lowest error on average, and none forgotten."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from vdatrain.config import TaskName
from vdatrain.evaluation.evaluate import Evaluation

SELECTED_BY: Mapping[TaskName, str] = {"relative": "absrel", "metric": "loss"}
"""The figure that decides, by the task: its average over the data sets; lower is better.

Without a fit to the truth absrel favours what is too near: depth of 0 has 1, ten times the true depth has 9. The loss
of metres takes logarithms, to which too near is as wrong as too far.
"""


@dataclass
class BestSelection:
    """Decides at each evaluation of a run whether its weights are the best so far.

    A fine-tuning may improve the average by giving up what the weights knew of one data set. So, where there are
    several, weights are refused that are worse on any of them than the run's first evaluation by more than a share.
    """

    allowed_share: float
    """Share by which a data set may be worse than at first; 0: any."""
    best: float
    """The lowest average so far, of weights that were not refused."""
    by: str = SELECTED_BY["relative"]
    """The figure that decides."""
    first: dict[str, float] = field(default_factory=dict)
    """Each data set's value at the run's first evaluation."""

    def take(self, evaluation: Evaluation) -> tuple[bool, str]:
        """Take an evaluation into account.

        Returns:
            Whether its weights are the best so far; why not, where they would be by their average: else empty.
        """
        found = {name: figures.get(self.by) for name, figures in evaluation.to_json()["datasets"].items()}
        values = {name: value for name, value in found.items() if value is not None}
        if not self.first:
            self.first = values
        score = evaluation.average()[self.by]
        if score is None or not score < self.best:  # nan is not lower
            return False, ""
        forgotten = self._forgotten(values)
        if forgotten:
            return False, (
                f"{self.by} is {score:.4f} on average, lower than any before, but worse than at first on "
                f"{', '.join(forgotten)}, more than --forget {self.allowed_share:g} allows: best.pt is left as it was"
            )
        self.best = score
        return True, ""

    def _forgotten(self, values: Mapping[str, float]) -> list[str]:
        """Return the data sets that are worse than is allowed, each with both values."""
        if not self.allowed_share or len(values) < 2:
            return []
        return [
            f"{name} ({self.first[name]:.4f} to {value:.4f})"
            for name, value in values.items()
            if name in self.first and value > self.first[name] * (1 + self.allowed_share)
        ]
