"""What every variant adds to `basic`: parameters, arithmetic and a training step's time."""

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from rich.table import Table
from torch import nn

from tests.bench.rendered import Rendered
from tests.bench.timing import milliseconds, new_table, ratio, take_turns
from tests.bench.training import build, one_thread
from vdatrain.config import TrainConfig
from vdatrain.models import variants
from vdatrain.models.flops import gflop_per_frame
from vdatrain.training.optim import make_optimiser
from vdatrain.training.planning.memory import Inputs, forward_backward

BASE = "basic"
FRAMES = 4


def tables(rendered: Rendered, scratch: Path) -> Iterator[Table]:
    for encoder in rendered.scale.variant_encoders:
        yield _table(encoder, rendered)


def _table(encoder: str, rendered: Rendered) -> Table:
    scale = rendered.scale
    config = TrainConfig(shards="-", frames=FRAMES, size=scale.variant_size, batch=1)
    models = {name: build(name, encoder=encoder, frames=FRAMES) for name in (BASE, *variants.names())}
    with one_thread():
        works = {name: _Step(model, replace(config, variant=name)) for name, model in models.items()}
        taken = take_turns(works, rounds=scale.variant_rounds, clock=time.process_time)
    caption = (
        f"encoder {encoder}, a clip of {FRAMES} frames of {config.size}x{config.size}, forward, loss, backward and "
        "AdamW in fp32 on 1 thread: seconds of the processor, since the machine has other work; "
        f"{scale.variant_rounds} rounds in turns, the ratio is the median of the rounds' own. At 518x518 the encoder's "
        "share is greater. GFLOP are of a forward pass of one frame of 518x518."
    )
    columns = ("own parameters", "% of basic's", "GFLOP/frame", "% more", "ms, min", "median", "step / basic")
    table = new_table(f"(o) variants, {encoder}", "variant", columns, caption=caption)
    base, operations = _parameters(models[BASE]), {name: _gflop(name, encoder) for name in models}
    for name, model in models.items():
        own = _parameters(model) - base
        more = 100 * (operations[name] / operations[BASE] - 1)
        shares = (f"{own:,}", f"{100 * own / base:.2f}", f"{operations[name]:.2f}", f"{more:.2f}")
        table.add_row(name, *shares, *milliseconds(taken[name]), f"{ratio(taken[name], taken[BASE]):.3f}")
    return table


class _Step:
    """A training step of a model on zeros, which take as long as images."""

    def __init__(self, model: nn.Module, config: TrainConfig) -> None:
        self._model, self._batch = model, Inputs.of(config)
        groups: list[dict[str, object]] = [
            {"params": [parameter for parameter in model.parameters() if parameter.requires_grad]}
        ]
        self._optimiser = make_optimiser(groups, device=torch.device("cpu"))

    def __call__(self) -> None:
        self._optimiser.zero_grad(set_to_none=True)
        forward_backward(self._model, self._batch)
        self._optimiser.step()


def _parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _gflop(name: str, encoder: str) -> float:
    with torch.device("meta"):
        return gflop_per_frame(variants.build(name, encoder=encoder), size=518)
