"""What `test_distributed.py` does as each rank: several trainings in one meeting of all ranks."""

import json
import math
import sys
from pathlib import Path

import torch
from torch import Tensor

from vdatrain import feeding, step, train
from vdatrain import run as runs
from vdatrain.config import Config
from vdatrain.distributed import JoinedRanks, Ranks, joined
from vdatrain.listener import Listener
from vdatrain.losses import VideoLoss
from vdatrain.precision import Precision
from vdatrain.stopping import Stop, Stopped


class StopAt(Stop):
    """Asks to leave once a step is done, on one rank alone."""

    def __init__(self, run: runs.Run, last: float) -> None:
        super().__init__()
        self._run, self._last = run, last

    @property
    def reason(self) -> str | None:
        return "as the test wants" if self._run.step >= self._last else None


def smooth_loss(prediction: Tensor, target: Tensor, mask: Tensor, mean=lambda values: values) -> VideoLoss:
    """Return mean squares over the valid pixels of all ranks.

    The real loss is made of absolute values: where one is about to change its sign, rounding changes the gradient by
    some 1e-3, and Adam's first steps look at little but signs. This one shows that nothing else differs.
    """
    squares = (torch.where(mask, prediction - target, 0) ** 2).sum()
    total = squares / mean(mask.sum().float())
    return VideoLoss(spatial=total, temporal=0 * total, total=total)


def work(ranks: Ranks, entry: dict) -> dict[str, object]:
    """Do a training; returns what this rank showed and where it ended."""
    real_batch, real_loss, shown = feeding.make_batch, step.video_loss, []

    def make_batch(samples, *arguments: object, **options: object) -> object:
        shown.extend((sample.window.position, sample.key) for sample in samples)
        return real_batch(samples, *arguments, **options)

    folder = Path(entry["folder"])
    if ranks.is_first:
        folder.mkdir(exist_ok=True)
    begin = runs.resume if (folder / "config.json").exists() and entry.get("resume") else runs.start
    run = begin(Config(**entry["options"]), folder, precision=Precision(torch.device("cpu")), ranks=ranks)
    last = entry.get("stop_at", math.inf) if ranks.rank == ranks.world - 1 else math.inf
    feeding.make_batch = make_batch
    step.video_loss = smooth_loss if entry.get("smooth") else real_loss
    try:
        train.train(run, Listener(), stop=StopAt(run, last))
    except Stopped as stopped:
        return {"shown": shown, "step": run.step, "said": str(stopped)}
    finally:
        feeding.make_batch, step.video_loss = real_batch, real_loss
    return {"shown": shown, "step": run.step}


def main(entries: list[dict]) -> None:
    with joined() as ranks:
        assert isinstance(ranks, JoinedRanks)
        for entry in entries:
            found = work(ranks, entry)
            ranks.settle()  # no question of one training is answered in the next
            sys.stdout.write(json.dumps({"name": Path(entry["folder"]).name, **found}) + "\n")
