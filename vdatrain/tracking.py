"""Where a run's figures and pictures are followed from outside: TensorBoard, W&B, both or neither."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType

from vdaprep.schema import UsageError
from vdatrain.config import TENSORBOARD, WANDB, Config
from vdatrain.evaluate import Evaluation
from vdatrain.listener import Listener
from vdatrain.pictures import comparison_sheet
from vdatrain.trackers import Pictures, Scalars, TensorBoard, Tracker, TrackerError, WeightsAndBiases


class Tracking:
    """The trackers of a run; one that fails is said once and left out from then on, the run goes on.

    To be created on the first rank only, as the run itself is about to begin.
    """

    def __init__(self, trackers: Sequence[Tracker], *, warn: Callable[[str], None]) -> None:
        self._trackers = list(trackers)
        self._warn = warn

    def __enter__(self) -> "Tracking":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def listener(self) -> Listener:
        """Return what the run tells its progress to."""
        return Listener(on_step=self._on_step, on_evaluation=self._on_evaluation)

    def close(self) -> None:
        """Write out what is pending; to be called once."""
        self._each(lambda tracker: tracker.close())
        self._trackers.clear()

    def _on_step(self, step: int, figures: Scalars) -> None:
        named = {f"train/{name}": value for name, value in figures.items()}
        self._each(lambda tracker: tracker.add(step, named, {}))

    def _on_evaluation(self, step: int, evaluation: Evaluation) -> None:
        if not self._trackers:
            return
        scalars, pictures = evaluation_scalars(evaluation), _sheets(evaluation)
        self._each(lambda tracker: tracker.add(step, scalars, pictures))

    def _each(self, tell: Callable[[Tracker], None]) -> None:
        for tracker in tuple(self._trackers):
            try:
                tell(tracker)
            except (OSError, *tracker.failures) as error:
                self._trackers.remove(tracker)
                with contextlib.suppress(OSError, *tracker.failures):
                    tracker.close()
                reason = " ".join(str(error).split()) or type(error).__name__
                self._warn(f"--track {tracker.name} is off from here on ({reason}); the run and its log go on.")


def start_tracking(config: Config, folder: Path, *, step: int, warn: Callable[[str], None]) -> Tracking:
    """Begin, or at a `step` above 0 continue, what `config.track` names; what is kept lies in the run's folder.

    Raises UsageError if a tracker is not installed, or has no key for its server; one whose server or disk does not
    answer is left out with a warning.
    """
    starters: dict[str, Callable[[], Tracker]] = {
        TENSORBOARD: lambda: TensorBoard(folder, step=step),
        WANDB: lambda: WeightsAndBiases(folder, options=config.to_json()),
    }
    trackers: list[Tracker] = []
    for name in config.trackers:
        try:
            trackers.append(starters[name]())
        except ImportError as error:
            raise UsageError(
                f"--track {name}: is not installed ({error}); `pip install {name}`, or leave {name} out."
            ) from error
        except (OSError, TrackerError) as error:
            warn(f"--track {name} is off ({error}); the run and its log go on.")
    return Tracking(trackers, warn=warn)


def evaluation_scalars(evaluation: Evaluation) -> dict[str, int | float]:
    """Return every figure of an evaluation as `held_out_METRIC/DATASET`, but those that do not exist, as a TAE may."""
    rows: dict[str, Mapping[str, int | float | None]] = {
        name: {**asdict(metrics), "loss": evaluation.losses[name]} for name, metrics in evaluation.metrics.items()
    }
    rows["average"] = evaluation.average()
    return {
        f"held_out_{metric}/{dataset}": value
        for dataset, row in rows.items()
        for metric, value in row.items()
        if value is not None
    }


def _sheets(evaluation: Evaluation) -> Pictures:
    return {f"held_out/{name}": comparison_sheet(gallery) for name, gallery in evaluation.stills.items()}
