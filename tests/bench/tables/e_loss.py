"""The loss alone, forward and backward."""

from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from rich.table import Table
from torch import Tensor

from tests.bench.rendered import Rendered
from tests.bench.timing import Work, milliseconds, new_table, ratio, take_turns
from tests.bench.training import wait_for
from vdatrain.device import default_device
from vdatrain.objectives.losses import spatial_loss, temporal_loss, video_loss

YARDSTICK = "plain L1"


def tables(rendered: Rendered, scratch: Path) -> Iterator[Table]:
    shape, device = rendered.scale.loss_shape, default_device()
    generator = torch.Generator().manual_seed(0)
    prediction, target = (torch.rand(shape, generator=generator).to(device) for _ in range(2))
    mask = (torch.rand(shape, generator=generator) < 0.9).to(device)  # a tenth is unknown
    losses: dict[str, Callable[[Tensor], Tensor]] = {
        YARDSTICK: lambda guess: (guess - target).abs().mean(),
        "spatial": lambda guess: spatial_loss(guess, target, mask),
        "temporal": lambda guess: temporal_loss(guess, target, mask),
        "video_loss": lambda guess: video_loss(guess, target, mask).total,
    }
    works = {name: _there_and_back(loss, prediction) for name, loss in losses.items()}
    taken = take_turns(works, rounds=rendered.scale.rounds)
    caption = (
        f"Forward and backward of float32 noise of {list(shape)} on {device.type}, threads: {torch.get_num_threads()}. "
        "The ratio is the median of the rounds' own."
    )
    table = new_table("(e) the loss alone", "loss", ("ms, min", "median", "x plain L1"), caption=caption)
    for name, timing in taken.items():
        table.add_row(name, *milliseconds(timing), f"{ratio(timing, taken[YARDSTICK]):.1f}")
    yield table


def _there_and_back(loss: Callable[[Tensor], Tensor], prediction: Tensor) -> Work:
    def run() -> None:
        guess = prediction.clone().requires_grad_()
        loss(guess).backward()
        wait_for(prediction.device)

    return run
