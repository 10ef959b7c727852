"""Models as a run's configuration or its checkpoint describes them."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from vdaprep.errors import DataError, UsageError
from vdaprep.shards.records import DataTerms
from vdatrain.config import TrainConfig, from_stored
from vdatrain.models import published, tensor_files, variants
from vdatrain.models.canonical import TYPICAL_DEPTH_M
from vdatrain.models.layers.dpt import LAST_LAYER, TemporalDPTHead
from vdatrain.models.layers.encoder import Encoder
from vdatrain.models.layers.temporal import PUBLISHED_FRAMES, set_attention
from vdatrain.models.variants.basic import VideoDepth
from vdatrain.models.weights import (
    PUBLISHED_ENCODER,
    LoadReport,
    Weights,
    check_fit,
    fetch_encoder,
    load_weights,
    make_weights,
    of_run,
    read_weights,
)


def build_from_config(config: TrainConfig) -> VideoDepth:
    """Build a run's variant with weights drawn from its seed; `initialise` loads others."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        max_frames = max(PUBLISHED_FRAMES, config.frames)
        model = variants.build(config.variant, encoder=config.encoder, max_frames=max_frames)
    if config.differences in ("past", "zeros"):
        model.differences_shown = config.differences
    for module in model.modules():
        if isinstance(module, TemporalDPTHead):
            module.recompute_fine = config.recompute in ("head", "all")
        if isinstance(module, Encoder):
            module.recompute = config.recompute in ("encoder", "all")
    set_attention(model, chunk_of(config))
    if config.task == "metric":
        model.metric, model.canonical_focal_px = True, float(config.size)
    return model


def chunk_of(config: TrainConfig) -> int | None:
    """Return the chunk that a run's model is evaluated at: 1 if it is causal, else None."""
    return 1 if config.attention == "causal" else None


def initialise(model: nn.Module, config: TrainConfig) -> LoadReport | None:
    """Load the weights that `init` names; returns None where it names none.

    They are a file, published weights or DINOv2's encoder. Raises DataError if they cannot be read or fetched, do not
    fit the model but for the variant's own parts, or are metric where the run is not: near and far would swap;
    UsageError if published weights are of another encoder.
    """
    if config.init == "none":
        return None
    source = fetch_encoder(config.encoder) if config.init == PUBLISHED_ENCODER else _read(config.init, config.encoder)
    if config.task == "metric":
        assert isinstance(model, VideoDepth)  # as every variant is
        return _begin_metric(model, source, config)
    if source.metric:
        raise DataError(
            f"--init {config.init}: are metric weights, which predict depth in metres, and the run learns disparity; "
            'give --task metric, or begin with relative ones; if they are those, rename the file to lack "metric".'
        )
    return load_weights(model, source)


@torch.no_grad()
def _begin_metric(model: VideoDepth, source: Weights, config: TrainConfig) -> LoadReport:
    """Load weights into a model that learns metres; the last layer follows what they mean.

    Metric weights keep their output, of a run for another canonical camera in its units. Relative ones predict more for
    what is nearer and metric ones less: their last layer, 33 numbers, is drawn anew about a typical depth, which the
    small rates of a fine-tuning would take long to reach, and all else is kept.
    """
    last = model.get_submodule(LAST_LAYER)
    fresh = {name: value.clone() for name, value in last.state_dict().items()}
    report = load_weights(model, of_run(config, source))
    if not source.metric:
        last.load_state_dict({**fresh, "bias": torch.full_like(fresh["bias"], TYPICAL_DEPTH_M)})
        if LAST_LAYER in " ".join(report.matched):
            remark = "relative weights: the head's last layer begins anew, for depth in place of disparity"
            return replace(report, remark=remark)
    elif source.canonical_focal_px is not None:
        for parameter in last.parameters():
            parameter *= config.size / source.canonical_focal_px
    return report


def _read(name: str, encoder: str) -> Weights:
    """Read a file of weights, or published ones by their name."""
    if (known := published.named(name)) is None:
        return read_weights(Path(name))
    if known.encoder != encoder:
        raise UsageError(f"--init {name}: are weights of encoder {known.encoder}; give --encoder {known.encoder}.")
    fetched = published.fetch(name)
    return replace(read_weights(fetched.path), where=str(fetched), data=(known.terms,))


class LoadedRun(NamedTuple):
    """The model of a run's checkpoint."""

    model: nn.Module
    """With the averaged weights, on the CPU."""
    config: TrainConfig
    """The run's options."""
    step: int
    """The step that the weights are of."""
    data: tuple[DataTerms, ...] = ()
    """The data sets that they were trained on, as far as the checkpoint says."""


def load_model(path: Path) -> LoadedRun:
    """Build the model of a run's checkpoint; raises DataError for any other file."""
    state = tensor_files.load(path)
    if "config" not in state:
        raise DataError(
            f"{path}: holds weights but no configuration; expected last.pt or best.pt of `vdatrain run`; bare weights "
            "need --encoder, of a command that takes them."
        )
    step = state.get("step")
    if not isinstance(state["config"], dict) or type(step) is not int or step < 0:
        raise DataError(f"{path}: holds no configuration or step of a run, expected what `vdatrain run` wrote.")
    config = from_stored(state["config"], where=str(path))
    data = DataTerms.parse_all(state.get("data"), where=str(path))
    return LoadedRun(whole_model(config, state, where=str(path)), config, step, data)


def whole_model(config: TrainConfig, state: Mapping[str, Any], *, where: str) -> nn.Module:
    """Build a run's model on the CPU, unsharded, with the averaged weights of the run's state.

    It takes memory only once the weights are known to fit; raises DataError if they do not.
    """
    weights = of_run(config, _averaged(state, where=where))
    num_frames = max(PUBLISHED_FRAMES, config.frames)
    for name, tensor in weights.tensors.items():
        if name.endswith(".pe") and tensor.shape[1:2] != (num_frames,):
            raise DataError(
                f"{where}: {name} is {list(tensor.shape)}, expected {num_frames} frames as its configuration says; "
                "it was changed, or is of two runs."
            )
    with torch.device("meta"):
        model = build_from_config(config)
    check_fit(model, weights)
    model.to_empty(device="cpu")
    load_weights(model, weights, may_miss=())
    return model


def _averaged(state: Mapping[str, Any], *, where: str) -> Weights:
    """Return all weights of a checkpoint, averaged ones where there are any."""
    found = make_weights({part: state.get(part, {}) for part in ("model", "average")}, where=where)
    return replace(found, kind="weights of a run", lacks=())
