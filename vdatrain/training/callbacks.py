"""What is called while a run trains."""

from collections.abc import Mapping
from pathlib import Path

from vdatrain.config import TrainConfig
from vdatrain.evaluation.evaluate import Evaluation
from vdatrain.models.weights import LoadReport


class Callback:
    """What is called while a run trains; override what is wanted.

    On the first rank alone, between steps and with numbers that are on the host already, so that no call makes the
    device wait. What a call raises ends the run.
    """

    def on_start(self, config: TrainConfig, step: int, loaded: LoadReport | None) -> None:
        """Called before the first step.

        Args:
            config: the run's.
            step: steps done already, more than 0 where the run is resumed.
            loaded: what became of the weights in `config.init`; None if there are none, or where the run is resumed.
        """

    def on_step(self, step: int, figures: Mapping[str, int | float]) -> None:
        """Called every `config.log_every` steps and after the last.

        Args:
            step: steps done.
            figures: means since the call before: losses (`total`, `spatial`, `temporal`), `gradient_norm`, `lr`,
                `frames_per_s`, `step_s`, `waiting` (share of the time waited for data), `memory_bytes` and, on a GPU,
                `mfu`; `skipped` counts the run's steps without a finite gradient.
        """

    def on_advance(self, step: int) -> None:
        """Called after every step, before `on_step` where that is due.

        Args:
            step: steps done.
        """

    def on_window(self, step: int, done: int, total: int) -> None:
        """Called after each window of an evaluation, the last one's, of the best weights, too.

        Args:
            step: steps done.
            done: windows evaluated so far, by this rank.
            total: windows that it evaluates in all.
        """

    def on_evaluation(self, step: int, evaluation: Evaluation) -> None:
        """Called after each evaluation on held-out clips, before its checkpoint."""

    def on_checkpoint(self, step: int, path: Path) -> None:
        """Called as a checkpoint is handed to the thread that writes it to `path`."""
