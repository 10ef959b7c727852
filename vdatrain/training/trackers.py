"""Where a run's figures and pictures are followed from outside: TensorBoard, W&B, both or neither."""

import contextlib
import importlib
import os
import secrets
import sys
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, runtime_checkable

import cv2
import numpy as np
from jaxtyping import UInt8

from vdaprep.errors import UsageError
from vdaprep.storage.atomic import write_text
from vdaprep.storage.urls import redact
from vdatrain.config import TENSORBOARD, WANDB, TrainConfig
from vdatrain.evaluation.evaluate import Evaluation
from vdatrain.evaluation.figures import comparison_sheet
from vdatrain.training.trainer import TrainCallbacks

TENSORBOARD_FOLDER = "tensorboard"
WANDB_ID_FILE = "wandb-id.txt"
_FINISH_TIMEOUT_S = 120.0  # how long W&B may hold up the end of a run whose network has gone

Scalars = Mapping[str, int | float]
Pictures = Mapping[str, UInt8[np.ndarray, "h w 3"]]


class TrackerError(Exception):
    """A tracker that cannot begin, through nobody's mistake."""


@runtime_checkable
class Tracker(Protocol):
    """A place that figures and pictures of a step go to.

    Both methods may raise OSError and what `failures` lists, after which it is closed and not called again.
    """

    name: str
    failures: tuple[type[Exception], ...]

    def add(self, step: int, scalars: Scalars, pictures: Pictures) -> None:
        """Note figures and pictures by name; returns when they are handed over."""
        ...

    def close(self) -> None:
        """Hand over what is pending and end."""
        ...


class TensorBoard:
    """An event file in the run's folder, written by this thread: an error is raised where it can be dealt with.

    A run that goes on adds a file, which says that later steps of the files before it never happened.
    """

    name = "tensorboard"
    failures: tuple[type[Exception], ...] = ()

    def __init__(self, folder: Path, *, step: int) -> None:
        event_pb2: Any = importlib.import_module("tensorboard.compat.proto.event_pb2")  # made by protoc: no types
        summary_pb2: Any = importlib.import_module("tensorboard.compat.proto.summary_pb2")
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._event, self._summary = event_pb2.Event, summary_pb2.Summary
        folder = folder / TENSORBOARD_FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        resumed = any(folder.iterdir())
        # TensorBoard reads a folder's files in the order of their names.
        path = folder / f"events.out.tfevents.{time.time_ns() // 1000:016d}.{os.getpid()}"
        self._file = path.open("xb")
        self._records = RecordWriter(self._file)
        self._write(file_version="brain.Event:2")
        if resumed:
            started = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            self._write(step=step + 1 if step else 0, session_log=started)  # step 0 is evaluated again
        self._file.flush()

    def add(self, step: int, scalars: Scalars, pictures: Pictures) -> None:
        """Note figures and pictures and flush them to the file."""
        value = self._summary.Value
        values = [value(tag=name, simple_value=number) for name, number in scalars.items()]
        for name, pixels in pictures.items():
            height, width, _ = pixels.shape
            image = self._summary.Image(
                height=height, width=width, colorspace=3, encoded_image_string=encode_png(pixels)
            )
            values.append(value(tag=name, image=image))
        self._write(step=step, summary=self._summary(value=values))
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write(self, **content: Any) -> None:
        self._records.write(self._event(wall_time=time.time(), **content).SerializeToString())


class WeightsAndBiases:
    """A run of W&B whose id the run's folder keeps, so that a resumed one goes on under it.

    Where it goes is W&B's own business (WANDB_MODE, WANDB_PROJECT, WANDB_ENTITY, `wandb login`). Figures are plotted
    over `step`, not over W&B's count of calls: a resumed run may go over steps again.
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
        """Hand figures and pictures to W&B's own process."""
        images = {name: self._image(pixels) for name, pixels in pictures.items()}
        self._run.log({"step": step, **scalars, **images})

    def close(self) -> None:
        """Let W&B's process finish."""
        self._run.finish()


@contextlib.contextmanager
def _discreet_command_line() -> Generator[None]:
    """While it lasts, show whoever takes down the command line, as W&B does, no password or token of a URL in it."""
    real = sys.argv
    sys.argv = [redact(word) for word in real]
    try:
        yield
    finally:
        sys.argv = real


def encode_png(pixels: UInt8[np.ndarray, "h w 3"]) -> bytes:
    """Return the pixels as a PNG file."""
    done, data = cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
    assert done
    return data.tobytes()


def _stored_id(folder: Path) -> str:
    """Return the id under which W&B knows the run; one that W&B has not been told of gets one."""
    path = folder / WANDB_ID_FILE
    with contextlib.suppress(FileNotFoundError):
        return path.read_text(encoding="utf-8").strip()
    identity = secrets.token_hex(4)
    write_text(path, identity + "\n")
    return identity


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

    def listener(self) -> TrainCallbacks:
        """Return what the run tells its progress to."""
        return TrainCallbacks(on_step=self._on_step, on_evaluation=self._on_evaluation)

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


def start_tracking(config: TrainConfig, folder: Path, *, step: int, warn: Callable[[str], None]) -> Tracking:
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
