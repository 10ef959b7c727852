"""The weights of a run, to use them: its model with the averages of its weights, where it has any."""

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vdaprep.schema import DataError
from vdatrain import checkpoint
from vdatrain import run as runs
from vdatrain.config import Config, from_mapping
from vdatrain.sharding import whole
from vdatrain.weights import Weights, load_into


def load_model(path: Path) -> tuple[nn.Module, Config]:
    """Build the model of a run's checkpoint with its averaged weights; raises DataError if the file is none."""
    state = checkpoint.load(path)
    if "config" not in state:
        raise DataError(
            f"{path}: holds weights but no configuration; expected last.pt or best.pt of `vdatrain run`, "
            "or, to infer with bare weights, --encoder."
        )
    config = from_mapping(state["config"], where=str(path))
    model = runs.build_model(config)
    load_averaged(model, state, where=str(path))
    return model, config


@contextmanager
def averaged_model(run: runs.Run) -> Generator[nn.Module]:
    """Lend the run's model with its averaged weights; where it is sharded, a copy that each rank has all of."""
    if run.config.shard_model:
        average = run.average.state_dict() if run.average is not None else {}
        parts = {"model": run.model.state_dict(), "average": average}
        state = {part: {name: whole(value) for name, value in values.items()} for part, values in parts.items()}
        yield whole_model(run.config, state, where=str(run.folder)).to(run.precision.device)
    elif run.average is None:
        yield run.model
    else:
        run.average.swap(run.model)
        try:
            yield run.model
        finally:
            run.average.swap(run.model)


def whole_model(config: Config, state: Mapping[str, Any], *, where: str) -> nn.Module:
    """Build a model that no rank shares, on the CPU, with the averaged weights of a run's state."""
    with torch.device("meta"):
        model = runs.build_model(config)
    model.to_empty(device="cpu")
    load_averaged(model, state, where=where)
    return model


def load_averaged(model: nn.Module, state: Mapping[str, Any], *, where: str) -> None:
    """Copy a checkpoint's weights, the averaged ones where there are any, into a model; raises as `load_into`."""
    load_into(model, Weights(where, "weights of a run", {**state["model"], **state["average"]}))
