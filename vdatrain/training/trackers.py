"""Trackers of a run's figures and pictures: TensorBoard, W&B, both or neither."""

import contextlib
import logging
import os
import secrets
import sys
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from vdaprep.errors import UsageError
from vdaprep.storage.atomic import write_text
from vdaprep.storage.urls import redact
from vdatrain.config import TENSORBOARD, WANDB, TrainConfig
from vdatrain.evaluation.evaluate import Evaluation
from vdatrain.evaluation.figures import comparison_sheet
from vdatrain.training.callbacks import Callback

_log = logging.getLogger(__name__)

TENSORBOARD_FOLDER = "tensorboard"
WANDB_ID_FILE = "wandb-id.txt"
_THREAD_S = 1.0  # until TensorBoard's thread has ended, after an error
_FINISH_TIMEOUT_S = 120.0  # how long W&B may hold up the end of a run whose network has gone

Scalars = Mapping[str, int | float]
Pictures = Mapping[str, UInt8[np.ndarray, "h w 3"]]


class TrackerError(Exception):
    """A tracker cannot begin although its options are right."""


@runtime_checkable
class Tracker(Protocol):
    """Where figures and pictures of a step are written.

    Both methods may raise OSError and what `failures` lists; the tracker is then closed and not called again.
    """

    name: str
    """As `--track` has it."""
    failures: tuple[type[Exception], ...]
    """What its methods raise, beside OSError, where it cannot write."""

    def add(self, step: int, scalars: Scalars, pictures: Pictures) -> None:
        """Write figures and pictures by name."""
        ...

    def close(self) -> None:
        """Write what is pending and end."""
        ...


class TensorBoard:
    """An event file in the run's folder; a resumed run's hides the steps it repeats."""

    name = "tensorboard"
    failures: tuple[type[Exception], ...] = ()

    def __init__(self, folder: Path, *, step: int) -> None:
        from torch.utils.tensorboard.writer import SummaryWriter

        folder = folder / TENSORBOARD_FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        repeated = (step + 1 if step else 0) if any(folder.iterdir()) else None  # step 0 is evaluated again
        others = set(threading.enumerate())
        self._writer = SummaryWriter(folder, purge_step=repeated)
        self._threads = set(threading.enumerate()) - others
        self._hook, threading.excepthook = threading.excepthook, self._print_traceback

    def add(self, step: int, scalars: Scalars, pictures: Pictures) -> None:
        """Write figures and pictures to the file."""
        for name, number in scalars.items():
            self._writer.add_scalar(name, number, step)
        for name, pixels in pictures.items():
            self._writer.add_image(name, pixels, step, dataformats="HWC")
        self._writer.flush()  # raises what its thread met, which therefore needs no traceback

    def close(self) -> None:
        """Close the file."""
        try:
            self._writer.close()
        finally:
            for thread in self._threads:
                thread.join(_THREAD_S)
            threading.excepthook = self._hook

    def _print_traceback(self, failed: threading.ExceptHookArgs) -> None:
        if failed.thread not in self._threads:
            self._hook(failed)


class WeightsAndBiases:
    """A run of W&B whose id is kept in the run's folder, so that a resumed run continues it.

    W&B's own settings decide where it is stored (WANDB_MODE, WANDB_PROJECT, WANDB_ENTITY, `wandb login`). Figures are
    plotted over `step`, not over W&B's count of calls: a resumed run may repeat steps.
    """

    name = "wandb"
    failures: tuple[type[Exception], ...]

    def __init__(self, folder: Path, *, options: Mapping[str, Any]) -> None:
        import wandb
        from wandb import errors
        from wandb.sdk.mailbox import HandleAbandonedError, MailboxClosedError

        self.failures = (wandb.Error, HandleAbandonedError, MailboxClosedError)
        self._image = wandb.Image
        offline = os.environ.get("WANDB_MODE") in ("offline", "dryrun", "disabled")
        quiet = wandb.Settings(console="off", silent=True, finish_timeout=_FINISH_TIMEOUT_S)
        try:
            with _discreet_command_line():
                self._run = wandb.init(
                    project=os.environ.get("WANDB_PROJECT", "vdatrain"),
                    name=folder.resolve().name,
                    id=_stored_id(folder),
                    dir=folder,
                    config=dict(options),
                    resume=None if offline else "allow",  # offline, only the id ties the parts together
                    settings=quiet,
                )
        except errors.CommError as error:
            raise TrackerError(f"W&B does not answer: {error}") from error
        except errors.UsageError as error:
            raise UsageError(
                f"--track wandb: {error}; `wandb login`, set WANDB_MODE=offline, or leave wandb out."
            ) from error
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def add(self, step: int, scalars: Scalars, pictures: Pictures) -> None:
        """Pass figures and pictures to W&B's own process."""
        images = {name: self._image(pixels) for name, pixels in pictures.items()}
        self._run.log({"step": step, **scalars, **images})

    def close(self) -> None:
        """Let W&B's process finish."""
        self._run.finish()


@contextlib.contextmanager
def _discreet_command_line() -> Generator[None]:
    """Redact URLs in the command line while the block runs, since W&B records it."""
    real = sys.argv
    sys.argv = [redact(word) for word in real]
    try:
        yield
    finally:
        sys.argv = real


def _stored_id(folder: Path) -> str:
    """Return the run's id at W&B, a new one if the folder has none."""
    path = folder / WANDB_ID_FILE
    with contextlib.suppress(FileNotFoundError):
        return path.read_text(encoding="utf-8").strip()
    identity = secrets.token_hex(4)
    write_text(path, identity + "\n")
    return identity


class Tracking(Callback):
    """The trackers of a run, on its first rank; one that fails is left out, with a warning."""

    def __init__(self, trackers: Sequence[Tracker], *, warn: Callable[[str], None]) -> None:
        self._trackers = list(trackers)
        self._warn = warn

    def __enter__(self) -> "Tracking":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Write what is pending; to be called once."""
        self._each(lambda tracker: tracker.close())
        self._trackers.clear()

    def on_step(self, step: int, figures: Scalars) -> None:
        """Write a step's figures."""
        named = {f"train/{name}": value for name, value in figures.items()}
        self._each(lambda tracker: tracker.add(step, named, {}))

    def on_evaluation(self, step: int, evaluation: Evaluation) -> None:
        """Write an evaluation's figures and pictures."""
        if not self._trackers:
            return
        scalars, pictures = evaluation_scalars(evaluation), _sheets(evaluation)
        self._each(lambda tracker: tracker.add(step, scalars, pictures))

    def _each(self, call: Callable[[Tracker], None]) -> None:
        for tracker in tuple(self._trackers):
            try:
                call(tracker)
            except (OSError, *tracker.failures) as error:
                self._trackers.remove(tracker)
                with contextlib.suppress(OSError, *tracker.failures):
                    tracker.close()
                reason = " ".join(str(error).split()) or type(error).__name__
                self._warn(f"--track {tracker.name} is off from here on ({reason}); the run and its log go on.")


def start_tracking(
    config: TrainConfig, folder: Path, *, step: int, warn: Callable[[str], None] = _log.warning
) -> Tracking:
    """Begin, or at a `step` above 0 continue, the trackers in `config.track`.

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
    """Return an evaluation's figures as `held_out_METRIC/DATASET`, those that exist."""
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
