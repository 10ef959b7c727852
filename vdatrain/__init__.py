"""Train and evaluate Video Depth Anything's variants on shards; disparity of videos.

    loader = vdatrain.train_loader("shards", frames=16, size=252, batch=2)
    model = vdatrain.build_model("conv", encoder="vits")
    vdatrain.load_weights(model, "video_depth_anything_vits.pth")
    predictor = vdatrain.load_predictor("runs/conv/best.pt", device="cuda")
    disparity = predictor.predict_video("clip.mp4").disparity
    metrics = vdatrain.evaluate(predictor, "shards", split="val")
    vdatrain.train(vdatrain.TrainConfig(shards="shards", variant="conv"), out="runs/conv")

config, device, run_dir   what decides a run, where it computes, the folder that it writes
objectives     alignment, losses and metrics
data           from shards to batches on the device
models         layers, variants, weights in and out
distributed    processes that train together
training       the trainer, its checkpoints and its memory planner
evaluation     metrics on held-out clips, runs compared
inference      disparity of videos, export
cli            the program `vdatrain`

A name is imported when it is first used. torch is in the extra `train`; without it a name that needs it raises
`MissingExtraError`.
"""

import importlib
from typing import TYPE_CHECKING, Any

from vdaprep.errors import DataError, MissingExtraError, ShardError, UsageError, VdakitError

if TYPE_CHECKING:
    from vdatrain.config import TrainConfig
    from vdatrain.data.batch import Batch
    from vdatrain.data.dataset import ShardDataset
    from vdatrain.data.loader import EvalLoader, TrainLoader, eval_loader, train_loader
    from vdatrain.evaluation.evaluate import Evaluation, evaluate
    from vdatrain.inference.loading import load_predictor
    from vdatrain.inference.predictor import PredictedVideo, Predictor
    from vdatrain.models.variants import build as build_model
    from vdatrain.models.variants import names as list_variants
    from vdatrain.models.weights import LoadReport, load_weights
    from vdatrain.objectives.metrics import ClipMetrics
    from vdatrain.training.callbacks import Callback
    from vdatrain.training.trainer import TrainResult, train

    __version__: str

__all__ = [
    "Batch",
    "Callback",
    "ClipMetrics",
    "DataError",
    "EvalLoader",
    "Evaluation",
    "LoadReport",
    "MissingExtraError",
    "PredictedVideo",
    "Predictor",
    "ShardDataset",
    "ShardError",
    "TrainConfig",
    "TrainLoader",
    "TrainResult",
    "UsageError",
    "VdakitError",
    "__version__",
    "build_model",
    "eval_loader",
    "evaluate",
    "list_variants",
    "load_predictor",
    "load_weights",
    "train",
    "train_loader",
]

_LAZY = {
    "Batch": "vdatrain.data.batch:Batch",
    "Callback": "vdatrain.training.callbacks:Callback",
    "ClipMetrics": "vdatrain.objectives.metrics:ClipMetrics",
    "EvalLoader": "vdatrain.data.loader:EvalLoader",
    "Evaluation": "vdatrain.evaluation.evaluate:Evaluation",
    "LoadReport": "vdatrain.models.weights:LoadReport",
    "PredictedVideo": "vdatrain.inference.predictor:PredictedVideo",
    "Predictor": "vdatrain.inference.predictor:Predictor",
    "ShardDataset": "vdatrain.data.dataset:ShardDataset",
    "TrainConfig": "vdatrain.config:TrainConfig",
    "TrainLoader": "vdatrain.data.loader:TrainLoader",
    "TrainResult": "vdatrain.training.trainer:TrainResult",
    "build_model": "vdatrain.models.variants:build",
    "eval_loader": "vdatrain.data.loader:eval_loader",
    "evaluate": "vdatrain.evaluation.evaluate:evaluate",
    "list_variants": "vdatrain.models.variants:names",
    "load_predictor": "vdatrain.inference.loading:load_predictor",
    "load_weights": "vdatrain.models.weights:load_weights",
    "train": "vdatrain.training.trainer:train",
    "train_loader": "vdatrain.data.loader:train_loader",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return importlib.import_module("importlib.metadata").version("vdakit")  # takes as long as all of the rest
    if name not in _LAZY:
        raise AttributeError(f"module 'vdatrain' has no attribute {name!r}")
    module, _, attribute = _LAZY[name].partition(":")
    try:
        value = getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        missing = MissingExtraError.of(f"vdatrain.{name} needs", error)
        if missing is None:
            raise
        raise missing from error
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
