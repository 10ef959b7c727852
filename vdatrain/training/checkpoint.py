"""A run's checkpoints: what they hold; written in the background, the latest kept.

    file              content
    last.pt           the newest state, whole: what a run is resumed from
    step-NUMBER.pt    the states before it, `keep` of them
    best.pt           weights and averages alone, of the evaluation with the lowest absrel (of metres: loss)
    next.pt           a whole state about to be renamed to last.pt

A state, as `vdatrain.training.state.snapshot` takes it, is a dictionary of tensors, numbers and strings:

    version                     2: AdamW's state is by parameter name; it was by number in 1, which lacks this entry
    model, average              weights and their moving averages, by parameter name; average is empty without `ema`
    optimiser, scaler, meter    state of AdamW, of the fp16 loss scaler, and of the figures not logged yet
    step, position              steps done; position in the order of windows at which the next one begins
    evaluated, best             the last step that was evaluated; the lowest absrel, or loss, so far
    first                       each data set's likewise at the first evaluation; missing in older states
    shown                       frames shown of each data set; missing in older states
    config, versions            the options, without secrets; versions of torch and others
    data                        the data sets trained on, `init`'s included: licence, citation, commercial use

A schedule or generator state is not among them: rates follow from `step`, random numbers from seed, step and rank.
"""

import logging
import os
import re
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

from vdaprep.errors import DataError, OutputError
from vdatrain.models import tensor_files
from vdatrain.run_dir import flush_log

_log = logging.getLogger(__name__)

LAST_FILE, BEST_FILE = "last.pt", "best.pt"
VERSION = 2
"""Of the states that are written; those of version 1 are read, too."""
_NEXT_FILE = "next.pt"
_EARLIER = re.compile(r"step-(\d+)\.pt")
_PARTS = {
    "model": dict, "average": dict, "optimiser": dict, "scaler": dict, "meter": dict, "config": dict,
    "step": int, "position": int, "evaluated": int, "best": float,
}  # fmt: skip
"""What a run needs to go on, and of which type."""
_BEST_PARTS = (
    "model",
    "average",
    "step",
    "config",
    "versions",
    "data",
)  # what is needed to use it, not to go on with it


class CheckpointManager:
    """Writes checkpoints in a thread of its own, one at a time.

    Args:
        folder: the run's.
        earlier: checkpoints to keep before the last.
        last_step: the step of the last.pt that is there; None if there is none, or a damaged one.
    """

    def __init__(self, folder: Path, *, earlier: int, last_step: int | None) -> None:
        self._folder = folder
        self._earlier = earlier
        self._last_step = last_step
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoints")
        self._writing: Future[None] | None = None

    def __enter__(self) -> "CheckpointManager":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown()

    def save(self, state: Mapping[str, Any], *, is_best: bool) -> None:
        """Begin to write a state, which must not change; waits for, and raises as, the last."""
        self.flush()
        self._writing = self._thread.submit(self._write, state, is_best)

    def check(self) -> None:
        """Raise OutputError if a checkpoint could not be written, without waiting."""
        if self._writing is not None and self._writing.done():
            self.flush()

    def flush(self) -> None:
        """Wait until everything is on the disk; raises OutputError if it could not be written."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def _write(self, state: Mapping[str, Any], is_best: bool) -> None:
        try:
            self._write_files(state, is_best)
        except OutputError as error:
            raise OutputError(f"{str(error).rstrip('.')}; the run then goes on with --resume.") from error

    def _write_files(self, state: Mapping[str, Any], is_best: bool) -> None:
        flush_log(self._folder)
        if is_best:
            tensor_files.save(self._folder / BEST_FILE, {name: state[name] for name in _BEST_PARTS if name in state})
        last, new = self._folder / LAST_FILE, self._folder / _NEXT_FILE
        tensor_files.save(new, state)
        if self._earlier and self._last_step is not None and self._last_step != state["step"]:
            _give_second_name(last, self._folder / f"step-{self._last_step:06d}.pt")
        new.replace(last)
        self._last_step = state["step"]
        for path in _earlier_files(self._folder)[self._earlier :]:
            path.unlink()


def candidates(folder: Path) -> list[Path]:
    """Return the checkpoints that a run can be resumed from, newest first, whole or not."""
    last = folder / LAST_FILE
    return [*([last] if last.exists() else []), *_earlier_files(folder)]


def load_newest(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """Read the newest whole checkpoint, warning of others; None if there is none at all.

    Raises DataError if there are some and none is whole.
    """
    damaged: list[str] = []
    for path in candidates(folder):
        try:
            content = _whole_state(path)
        except DataError as error:
            damaged.append(str(error))
            continue
        for sentence in damaged:
            _log.warning(f"{sentence.rstrip('.')}; the run goes on from {path.name}, step {content['step']}.")
        return path, content
    if damaged:
        raise DataError(f"{damaged[0].rstrip('.')}, nor is any before it; begin the run again elsewhere.")
    return None


def _whole_state(path: Path) -> dict[str, Any]:
    """Read a state; raises DataError for a damaged one, and for weights alone (best.pt)."""
    content = tensor_files.load(path)
    lost = [name for name, kind in _PARTS.items() if type(content.get(name)) is not kind]
    if content.get("version", 1) not in (1, VERSION):
        raise DataError(f"{path}: is of a version that is not known here; go on with the release that wrote it.")
    if lost:
        raise DataError(f"{path}: is no whole state of a run, it lacks {', '.join(lost)}.")
    return content


def _earlier_files(folder: Path) -> list[Path]:
    """Return the numbered checkpoints, newest first."""
    found = [(int(match[1]), path) for path in folder.iterdir() if (match := _EARLIER.fullmatch(path.name))]
    return [path for _, path in sorted(found, reverse=True)]


def _give_second_name(path: Path, name: Path) -> None:
    """Hard-link a file, so that at every moment at least one of the two names exists."""
    if not path.exists():
        return
    name.unlink(missing_ok=True)
    try:
        os.link(path, name)
    except OSError:  # a file system without hard links: for a moment there is no last.pt, only the one before it
        path.replace(name)
