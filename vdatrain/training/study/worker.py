"""A process that trains and measures one run of a study.

It is `python -m vdatrain.training.study.worker`.

A line of JSON on stdin says what to do; one on stdout, how it ended. When stdin ends, the process that started it is
gone, or wants it to stop: the run saves a checkpoint and leaves, as after SIGTERM.
"""

import json
import logging
import os
import signal
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from vdaprep.errors import DivergedError, VdakitError
from vdaprep.shards.pictures.stress import Kinds
from vdatrain.config import TrainConfig
from vdatrain.run_dir import CONFIG_FILE

OUTCOME_FILE = "outcome.json"
"""In a run's folder: how a run ended that will not be tried again."""
FINISHED, STOPPED, DIVERGED, FAILED = "finished", "stopped", "diverged", "failed"


def do_job(job: Mapping[str, Any]) -> dict[str, str]:
    """Do what is left of a run; returns its `state`, and a `sentence` if it did not finish.

    job: `config` and `folder` of the run, whether it `is_trained`, and the kinds of `stress` left to measure it under.
    """
    config, folder = TrainConfig(**job["config"]), Path(job["folder"])
    try:
        stopped = None if job["is_trained"] else _train(config, folder)
        if stopped is None:
            measure_stressed(config, folder, [tuple(kinds) for kinds in job["stress"]])
    except DivergedError as error:
        return {"state": DIVERGED, "sentence": str(error)}
    except VdakitError as error:
        return {"state": FAILED, "sentence": str(error)}
    return {"state": FINISHED if stopped is None else STOPPED, "sentence": stopped or ""}


def _train(config: TrainConfig, folder: Path) -> str | None:
    """Train or go on with a run; returns what stopped it."""
    from vdatrain.training.trainer import train

    return train(config, out=folder, resume=(folder / CONFIG_FILE).exists()).stopped


def measure_stressed(config: TrainConfig, folder: Path, stress: Sequence[Kinds]) -> None:
    """Measure a trained run under each stress, as its own evaluation does without.

    Of the same weights, on the same windows.
    """
    if not stress:
        return
    from vdatrain.data.altered.stress import StressPlan
    from vdatrain.data.loader import open_shards_of
    from vdatrain.evaluation.evaluate import evaluate_clips, plan_evaluation
    from vdatrain.evaluation.windows import write_windows
    from vdatrain.inference.loading import load_predictor

    clips = open_shards_of(config).clips(split=config.eval_split)
    predictor = load_predictor(folder / f"{config.final}.pt", device=config.device)
    plan = plan_evaluation(predictor, workers=config.workers, stall_timeout_s=config.stall_timeout)
    for kinds in stress:
        under = replace(plan, stress=StressPlan(kinds))
        found = evaluate_clips(predictor.model, clips, under, precision=predictor.precision)
        write_windows(folder, found.by_window, kinds=kinds)


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
    outcome = do_job(json.loads(job))
    with suppress(BrokenPipeError):  # the study was killed
        os.write(1, json.dumps(outcome).encode() + b"\n")


if __name__ == "__main__":
    main()
