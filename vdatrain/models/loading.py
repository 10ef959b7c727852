"""The weights of a run, to use them: its model with the averages of its weights, where it has any."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vdaprep.errors import DataError
from vdatrain.config import TrainConfig, from_mapping
from vdatrain.models import tensor_files, variants
from vdatrain.models.layers.dpt import TemporalDPTHead
from vdatrain.models.layers.encoder import Encoder
from vdatrain.models.layers.temporal import PUBLISHED_FRAMES
from vdatrain.models.weights import PUBLISHED_ENCODER, LoadReport, Weights, fetch_encoder, load_into, read_weights


def build_model(config: TrainConfig) -> nn.Module:
    """Build the variant with weights drawn from the configuration's seed; `initialise` then reads what `init` names."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        max_frames = max(PUBLISHED_FRAMES, config.frames)
        model = variants.build(config.variant, encoder=config.encoder, max_frames=max_frames)
    for module in model.modules():
        if isinstance(module, TemporalDPTHead):
            module.recompute_fine = config.recompute in ("head", "all")
        if isinstance(module, Encoder):
            module.recompute = config.recompute in ("encoder", "all")
    return model


def initialise(model: nn.Module, config: TrainConfig) -> LoadReport | None:
    """Load what `init` names: a file, DINOv2's encoder from the hub, or, returning None, nothing.

    Raises DataError if it cannot be had or does not fit the model but for the variant's own parts.
    """
    if config.init == "none":
        return None
    published = config.init == PUBLISHED_ENCODER
    weights = fetch_encoder(config.encoder) if published else read_weights(Path(config.init))
    return load_into(model, weights, may_miss=variants.own_prefixes(config.variant))


def load_model(path: Path) -> tuple[nn.Module, TrainConfig]:
    """Build the model of a run's checkpoint with its averaged weights; raises DataError if the file is none."""
    state = tensor_files.load(path)
    if "config" not in state:
        raise DataError(
            f"{path}: holds weights but no configuration; expected last.pt or best.pt of `vdatrain run`, "
            "or, to infer with bare weights, --encoder."
        )
    config = from_mapping(state["config"], where=str(path))
    model = build_model(config)
    load_averaged(model, state, where=str(path))
    return model, config


def whole_model(config: TrainConfig, state: Mapping[str, Any], *, where: str) -> nn.Module:
    """Build a model that no rank shares, on the CPU, with the averaged weights of a run's state."""
    with torch.device("meta"):
        model = build_model(config)
    model.to_empty(device="cpu")
    load_averaged(model, state, where=where)
    return model


def load_averaged(model: nn.Module, state: Mapping[str, Any], *, where: str) -> None:
    """Copy a checkpoint's weights, the averaged ones where there are any, into a model; raises as `load_into`."""
    load_into(model, Weights(where, "weights of a run", {**state["model"], **state["average"]}))
