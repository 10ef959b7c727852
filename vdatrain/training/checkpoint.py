"""The checkpoints of a run: written while the training goes on, the latest few of them kept."""

import os
import re
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

from vdatrain.models import tensor_files
from vdatrain.run_dir import flush_log

LAST_FILE, BEST_FILE = "last.pt", "best.pt"
_NEXT_FILE = "next.pt"  # complete, and about to become last.pt
_EARLIER = re.compile(r"step-(\d+)\.pt")
_BEST_PARTS = ("model", "average", "step", "config", "versions")  # what is needed to use it, not to go on with it


class CheckpointManager:
    """Writes checkpoints in a thread of its own, one at a time.

    `last.pt` is the newest; the `earlier` ones before it stay as `step-NUMBER.pt`; `best.pt` holds weights alone.
    last_step: the step of the `last.pt` that is there, None if there is none or a damaged one.
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
        """Begin to write a state that nobody changes any more; waits for, and raises as, the one before."""
        self.flush()
        self._writing = self._thread.submit(self._write, state, is_best)

    def check(self) -> None:
        """Raise DataError if a checkpoint could not be written; waits for nothing."""
        if self._writing is not None and self._writing.done():
            self.flush()

    def flush(self) -> None:
        """Wait until everything is on the disk; raises DataError if it could not be written."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def _write(self, state: Mapping[str, Any], is_best: bool) -> None:
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
    """Return the checkpoints that a run can go on from, newest first, whole or not."""
    last = folder / LAST_FILE
    return [*([last] if last.exists() else []), *_earlier_files(folder)]


def _earlier_files(folder: Path) -> list[Path]:
    """Return the numbered checkpoints, newest first."""
    found = [(int(match[1]), path) for path in folder.iterdir() if (match := _EARLIER.fullmatch(path.name))]
    return [path for _, path in sorted(found, reverse=True)]


def _give_second_name(path: Path, name: Path) -> None:
    """Name a file a second time, so that it is there under one name or the other at every moment."""
    if not path.exists():
        return
    name.unlink(missing_ok=True)
    try:
        os.link(path, name)
    except OSError:  # a file system without hard links: for a moment there is no last.pt, which resuming knows of
        path.replace(name)
