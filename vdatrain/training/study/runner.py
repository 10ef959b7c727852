"""Runs of a study in processes of their own, one run each, several at a time."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import torch

from vdaprep.errors import UsageError, VdakitError, WorkerError
from vdaprep.storage import locks
from vdaprep.storage.atomic import write_text
from vdatrain.config import TrainConfig
from vdatrain.device import choose_device
from vdatrain.distributed.preemption import StopRequest
from vdatrain.run_dir import owned
from vdatrain.training.study.plan import PlannedRun, steps_logged
from vdatrain.training.study.worker import DIVERGED, FAILED, FINISHED, OUTCOME_FILE, STOPPED

_POLL_S = 0.2
_REPORT_S = 2.0  # between two looks at logs
_LEAVES_S = 60.0  # that a run has to leave its folder whose study was killed
_ENDS_S = 120.0  # that processes have to save a checkpoint
_TAIL_BYTES = 2000  # of what a process wrote on stderr before it died
_LOCK_FILE = ".vdatrain-study-lock"


@dataclass(frozen=True)
class RunEvent:
    """Something that happened to a run."""

    run: PlannedRun
    """The run."""
    kind: str
    """`begun`, `going` or a state of `worker`."""
    step: int
    """Steps done."""
    sentence: str = ""
    """Why it did not finish."""

    @property
    def is_last(self) -> bool:
        """Whether nothing more happens to the run."""
        return self.kind not in ("begun", "going")


def study_lock(folder: Path) -> AbstractContextManager[None]:
    """Return the only right to write a study's folder; raises UsageError if another has it."""
    return locks.owned(
        folder,
        name=_LOCK_FILE,
        sentence=lambda holder: (
            f"{folder}: another vdatrain study is at work there ({holder}); wait for it, or choose another --out."
        ),
    )


def default_jobs(config: TrainConfig) -> int:
    """Return how many runs are trained at a time: one a GPU, or one."""
    device = choose_device(config.device)
    return max(1, torch.cuda.device_count()) if device.type == "cuda" and device.index is None else 1


def train_runs(
    runs: Sequence[PlannedRun],
    *,
    jobs: int,
    stop: StopRequest,
    on_event: Callable[[RunEvent], None] = lambda event: None,
) -> str | None:
    """Train runs in their order, each in a process, `jobs` at a time.

    Args:
        runs: what is left to do.
        jobs: processes at a time; with several GPUs each takes the next one.
        stop: when to let them save and leave.
        on_event: called as runs begin, go on and end.

    Returns:
        What asked to stop before all were over; None if nothing did. A run that diverged is over.

    Raises:
        VdakitError: a run failed, or its process died; the others have saved and left.
        KeyboardInterrupt: after Ctrl-C, likewise.
    """
    waiting = list(runs)
    free = list(range(jobs))
    active: list[_Process] = []
    with stop.watching(), _all_ended(active):
        reported = time.monotonic()
        while (waiting or active) and stop.reason is None:
            while waiting and free:
                active.append(_Process.start(waiting.pop(0), slot=free.pop(0), jobs=jobs))
                on_event(RunEvent(active[-1].run, "begun", active[-1].run.steps_done))
            for process in [one for one in active if one.is_over()]:
                active.remove(process)
                free.append(process.slot)
                on_event(_ended(process))
            if time.monotonic() - reported >= _REPORT_S:
                reported = time.monotonic()
                for process in active:
                    on_event(RunEvent(process.run, "going", steps_logged(process.run.folder)))
            time.sleep(_POLL_S)
    if stop.by_keyboard:
        raise KeyboardInterrupt
    return stop.reason if waiting or active else None


@dataclass
class _Process:
    """A worker and what it trains."""

    run: PlannedRun
    slot: int
    popen: subprocess.Popen[bytes]
    log: IO[bytes]

    @classmethod
    def start(cls, run: PlannedRun, *, slot: int, jobs: int) -> "_Process":
        _wait_until_free(run.folder)
        config = replace(run.config, device=_device(run.config, slot))
        threads = str(max(1, (os.cpu_count() or 1) // jobs))
        environment = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, **os.environ}
        log = _errors_of(run).open("ab")
        popen = subprocess.Popen(
            [sys.executable, "-m", "vdatrain.training.study.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env=environment,
            bufsize=0,
            start_new_session=True,  # Ctrl-C is for this process, which lets them save
        )
        assert popen.stdin is not None
        job = {  # not an argument: shards may hold a password
            "config": config.options(),
            "folder": str(run.folder),
            "is_trained": run.is_over,
            "stress": run.stress_left,
        }
        with suppress(BrokenPipeError):  # it died at once, which its exit code tells
            popen.stdin.write(json.dumps(job).encode() + b"\n")
        return cls(run, slot, popen, log)

    def is_over(self) -> bool:
        return self.popen.poll() is not None

    def ask_to_stop(self) -> None:
        assert self.popen.stdin is not None
        self.popen.stdin.close()

    def close(self) -> bytes:
        """Wait until it is gone; returns what it said."""
        assert self.popen.stdin is not None
        assert self.popen.stdout is not None
        self.popen.stdin.close()  # which `ask_to_stop` may have done
        with self.popen.stdout, self.log:
            said = self.popen.stdout.read()
            self.popen.wait()
        path = _errors_of(self.run)
        if not path.stat().st_size:
            path.unlink()
        return said


def _errors_of(run: PlannedRun) -> Path:
    """Return where what a run's process writes on stderr is kept."""
    return run.folder.with_name(f"{run.folder.name}.err")


def _device(config: TrainConfig, slot: int) -> str | None:
    device = choose_device(config.device)
    if device.type != "cuda" or device.index is not None:
        return config.device
    return f"cuda:{slot % torch.cuda.device_count()}"


def _wait_until_free(folder: Path) -> None:
    """Wait for a killed study's process to leave its run; raises UsageError if it stays."""
    since = time.monotonic()
    folder.parent.mkdir(parents=True, exist_ok=True)
    while True:
        try:
            with owned(folder):
                return
        except UsageError:
            if time.monotonic() - since > _LEAVES_S:
                raise
            time.sleep(_POLL_S)


def _ended(process: _Process) -> RunEvent:
    """Note how a process ended; raises VdakitError if it failed."""
    run, outcome = process.run, _outcome(process)
    state, sentence = outcome["state"], outcome.get("sentence", "")
    if state == FAILED:
        raise VdakitError(f"{run.arm}, seed {run.config.seed}: {sentence}")
    if state == DIVERGED:
        write_text(run.folder / OUTCOME_FILE, json.dumps(outcome) + "\n")
    if state == STOPPED:
        raise WorkerError(
            f"{run.folder}: its process was stopped {sentence}, and not by the study; run the same command again, "
            "which goes on."
        )
    return RunEvent(run, state, run.config.steps if state == FINISHED else steps_logged(run.folder), sentence)


def _outcome(process: _Process) -> dict[str, Any]:
    try:
        return json.loads(process.close().splitlines()[-1])
    except (ValueError, IndexError):
        path = _errors_of(process.run)
        kept = path.read_bytes() if path.exists() else b""
        lines = kept[-_TAIL_BYTES:].decode("utf-8", "replace").strip().splitlines()
        said = f" after writing {lines[-1][:200]!r} to {path}" if lines else ""
        code = process.popen.returncode
        how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
        raise WorkerError(
            f"{process.run.folder}: its process ended {how}{said}; run the same command "
            "again, which goes on, with fewer --jobs if memory ran out."
        ) from None


@contextmanager
def _all_ended(active: list[_Process]) -> Generator[None]:
    """Let what still runs save and leave when the block ends, however it does."""
    try:
        yield
    finally:
        for process in active:
            process.ask_to_stop()
        deadline = time.monotonic() + _ENDS_S
        for process in active:
            while not process.is_over() and time.monotonic() < deadline:
                time.sleep(_POLL_S)
            if not process.is_over():
                process.popen.kill()
            process.close()
