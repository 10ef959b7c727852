"""A process that trains one run of a study: `python -m vdatrain.training.study.worker`.

A line of JSON on stdin says what to train; one on stdout, how it ended. When stdin ends, the process that started it is
gone, or wants it to stop: the run saves a checkpoint and leaves, as after SIGTERM.
"""

import json
import logging
import os
import signal
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from vdaprep.errors import DivergedError, VdakitError
from vdatrain.config import TrainConfig
from vdatrain.run_dir import CONFIG_FILE

OUTCOME_FILE = "outcome.json"
"""In a run's folder: how a run ended that will not be tried again."""
FINISHED, STOPPED, DIVERGED, FAILED = "finished", "stopped", "diverged", "failed"


def train_one(job: Mapping[str, Any]) -> dict[str, str]:
    """Train or go on with a run; returns its `state`, and a `sentence` if it did not finish."""
    from vdatrain.training.trainer import train

    config, folder = TrainConfig(**job["config"]), Path(job["folder"])
    try:
        result = train(config, out=folder, resume=(folder / CONFIG_FILE).exists())
    except DivergedError as error:
        return {"state": DIVERGED, "sentence": str(error)}
    except VdakitError as error:
        return {"state": FAILED, "sentence": str(error)}
    if result.stopped is not None:
        return {"state": STOPPED, "sentence": result.stopped}
    return {"state": FINISHED, "sentence": ""}


def _stop_with_stdin() -> None:
    """Ask the run to stop once nobody holds the other end."""
    while os.read(0, 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def main() -> None:
    """Do the job that stdin names."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    job = bytearray()
    while not job.endswith(b"\n"):
        piece = os.read(0, 1 << 16)
        if not piece:
            return
        job += piece
    threading.Thread(target=_stop_with_stdin, daemon=True).start()
    outcome = train_one(json.loads(job))
    with suppress(BrokenPipeError):  # the study was killed
        os.write(1, json.dumps(outcome).encode() + b"\n")


if __name__ == "__main__":
    main()
