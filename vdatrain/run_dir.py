"""A run's folder: config.json, log.jsonl, and the versions it was computed with."""

import json
import math
import os
import platform
import socket
import subprocess
from collections.abc import Mapping
from contextlib import AbstractContextManager
from importlib import metadata
from pathlib import Path
from typing import Any

from vdaprep.errors import DataError
from vdaprep.storage import locks
from vdaprep.storage.atomic import as_sentence, write_text
from vdaprep.storage.documents import DocumentError, parse_json
from vdaprep.storage.limits import MAX_SMALL_DOCUMENT_BYTES, LimitError
from vdatrain.config import MAX_STEPS, TrainConfig, from_stored
from vdatrain.distributed.launch import is_restarted, spans_machines, torchrun_agent

_PACKAGES = ("vdakit", "numpy", "timm", "webdataset", "opencv-python-headless", "zstandard")
_PATIENCE_S = 10


def versions() -> dict[str, str]:
    """Return the versions of Python, CUDA and the packages that figures depend on."""
    import torch  # takes seconds, and --help does without

    found = {"python": platform.python_version(), "platform": platform.platform(), "torch": str(torch.__version__)}
    found.update({name: version for name in _PACKAGES if (version := _version(name))})
    return {**found, **({"cuda": torch.version.cuda} if torch.version.cuda else {})}


def git_state(folder: Path) -> dict[str, str | bool] | None:
    """Return the work tree's commit and whether it was changed; None outside of any."""
    commit = _git(folder, "rev-parse", "HEAD")
    changes = _git(folder, "status", "--porcelain", "--untracked-files=no")
    if commit is None or changes is None:
        return None
    return {"commit": commit, "dirty": bool(changes)}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git(folder: Path, *arguments: str) -> str | None:
    """Return what git prints; None if it is not installed, fails, or takes too long."""
    try:
        done = subprocess.run(
            ["git", "--no-optional-locks", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            timeout=_PATIENCE_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


CONFIG_FILE, LOG_FILE = "config.json", "log.jsonl"
"""Names in the folder."""
_LOCK_FILE = ".vdatrain-lock"
_KEPT = "the run goes on from its last checkpoint with --resume"


def owned(folder: Path) -> AbstractContextManager[None]:
    """Return the only right to train in a folder while a block or its process lasts.

    Raises UsageError, saying which process trains there since when, and OutputError if nothing can be written there.
    """
    return locks.owned(
        folder,
        name=_LOCK_FILE,
        sentence=lambda holder: (
            f"{folder}: another vdatrain run is training there ({holder}); wait for it, or choose another --out."
        ),
    )


def read_facts(folder: Path) -> dict[str, Any]:
    """Return what `write_facts` wrote; raises DataError if there is no readable run."""
    path = folder / CONFIG_FILE
    try:
        facts = parse_json(path.read_bytes(), where=str(path), limit=MAX_SMALL_DOCUMENT_BYTES)
        facts.mapping("config")
        facts.text("data")
    except FileNotFoundError as error:
        if spans_machines():  # the first rank may be on another one than when the run began
            raise DataError(
                f"{folder}: holds no run to resume on {socket.gethostname()}, where rank 0 is now; give an --out that "
                "all machines share, or leave --resume out to begin a run."
            ) from error
        raise DataError(f"{folder}: holds no run to resume; leave --resume out to begin one.") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}).") from error
    except (DocumentError, LimitError) as error:
        raise DataError(f"{str(error).rstrip('.')}; begin the run again elsewhere.") from error
    return dict(facts.values)


def write_facts(folder: Path, facts: Mapping[str, Any]) -> None:
    """Write what a run is: `config`, fingerprint of its `data`, `versions`, `git`, `agent`."""
    write_text(folder / CONFIG_FILE, json.dumps(facts, indent=2) + "\n")


def is_own(folder: Path) -> bool:
    """Whether the torchrun agent that started this process again began the run in a folder.

    Its first processes were told to begin a run, and so are these; raises DataError if the run cannot be read.
    """
    if not is_restarted() or not (folder / CONFIG_FILE).exists():
        return False
    agent = torchrun_agent()
    return agent is not None and read_facts(folder).get("agent") == agent


def stored_config(folder: Path) -> TrainConfig:
    """Return the configuration of the run in a folder; raises DataError if there is none."""
    return from_stored(read_facts(folder)["config"], where=str(folder / CONFIG_FILE))


def log(folder: Path, step: int, figures: Mapping[str, Any]) -> None:
    """Append a line to the run's log; figures that are not finite become null."""
    line = {name: _or_null(value) for name, value in {"step": step, **figures}.items()}
    path = folder / LOG_FILE
    with as_sentence(path, kept=_KEPT), path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def flush_log(folder: Path) -> None:
    """Wait until the log is on the disk, as it has to be before a checkpoint of a later step is."""
    path = folder / LOG_FILE
    if path.exists():
        with as_sentence(path, kept=_KEPT), path.open("ab") as file:
            os.fsync(file.fileno())


def forget_log_after(folder: Path, step: int, *, evaluated: int) -> None:
    """Drop the log's lines that a resumed run is about to repeat, and one cut short."""
    path = folder / LOG_FILE
    kept: list[str] = []
    for line in _lines(path):
        try:
            value = parse_json(line.encode("utf-8"), where=str(path), limit=MAX_SMALL_DOCUMENT_BYTES)
            if value.integer("step", 0, MAX_STEPS) <= (evaluated if "evaluation" in value else step):
                kept.append(line + "\n")
        except (DocumentError, LimitError):
            break
    write_text(path, "".join(kept))


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}).") from error


def _or_null(value: object) -> object:
    return None if isinstance(value, float) and not math.isfinite(value) else value
