"""Predictors of checkpoints and of published weights."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from vdaprep.errors import DataError, UsageError
from vdatrain.config import PRECISIONS, parse_attention
from vdatrain.device import Precision, choose_device
from vdatrain.inference.predictor import Predictor
from vdatrain.models import published, tensor_files, variants
from vdatrain.models.layers.temporal import set_attention
from vdatrain.models.loading import load_model
from vdatrain.models.variants.basic import VideoDepth
from vdatrain.models.weights import load_weights, read_weights


def load_predictor(  # noqa: PLR0913 - the public face, all keywords
    path: Path | str,
    *,
    encoder: str | None = None,
    metric: bool | None = None,
    device: str | None = None,
    size: int | None = None,
    precision: str | None = None,
    attention: str | None = None,
) -> Predictor:
    """Load a trained model to predict with.

    Args:
        path: `best.pt` or `last.pt` of a run, whose averaged weights are taken; or, with `encoder`, weights of the
            published model in any form that `load_weights` reads; or published weights by name, such as "vda-small".
        encoder: Of weights without a configuration: "vits", "vitb", "vitl" or "tiny".
        metric: Whether those weights predict depth in metres, as `metric_video_depth_anything_vits.pth` does; None: as
            the name of the file says. Of a run it must be what the run learned.
        device: "cpu", "cuda" or "cuda:1"; None takes the GPU if there is one.
        size: Pixels of the short side that the model sees; None: as trained, 518 for published weights.
        precision: "fp32", "bf16" or "fp16"; None: as trained, "fp32" for published weights.
        attention: Frames that a frame sees: "full" (all of its window), "causal" (none after it) or "chunk:8" (those
            up to the last of its own 8, which a stream then takes at a time); None: as trained.

    Returns:
        The model in eval mode on the device.

    Raises:
        DataError: The file is missing, damaged, does not fit or has no head.
        UsageError: The encoder, the device or the precision is unknown, the size too small, or `metric` is not what a
            run learned.
    """
    if (known := published.named(path)) is not None:
        path = published.fetch(known.name).path
        encoder = encoder or known.encoder
    path = Path(path)
    if precision is not None and precision not in PRECISIONS:
        raise UsageError(f"--precision {precision}: expected one of {', '.join(PRECISIONS)}.")
    where = choose_device(device)
    chunk = None if attention is None else parse_attention(attention)
    if encoder is None:
        model, config, step, _ = load_model(path)
        _expect_task(path, metric, found=config.task == "metric")
        predictor = Predictor(
            model.eval(),
            Precision(torch.device("cpu"), config.precision),
            config.size,
            num_frames=config.frames,
            stride=config.stride,
            differences=config.differences,
            origin={"config": config.to_json(), "step": step},
        )
    else:
        model = _published_model(path, encoder, metric=metric).eval()
        origin = {"weights": _weights_facts(path, encoder, metric=model.metric)}
        predictor = Predictor(model, Precision(torch.device("cpu")), origin=origin)
    if attention is not None:
        set_attention(predictor.model, chunk)
    return replace(
        predictor,
        chunk=chunk,
        model=predictor.model.to(where),
        precision=Precision(where, precision or predictor.precision.name),
        size=predictor.size if size is None else size,
    )


def _published_model(path: Path, encoder: str, *, metric: bool | None) -> VideoDepth:
    model = variants.build("basic", encoder=encoder)
    found = read_weights(path, metric=metric)
    if "head." in found.lacks:
        raise DataError(f"{path}: holds {found.kind}, without the head that makes depth of its features; train first.")
    _expect_task(path, metric, found=found.metric)
    load_weights(model, found)
    return model


def _expect_task(path: Path, asked: bool | None, *, found: bool) -> None:
    """Raise UsageError unless a run learned what is asked for."""
    if asked is None or asked == found:
        return
    learned, wanted = ("depth in metres", "relative disparity")[:: 1 if found else -1]
    option = "--metric" if asked else "--no-metric"
    raise UsageError(
        f"{option}: {path} is of a run that learned {learned}; leave it out, or give a checkpoint of {wanted}."
    )


def _weights_facts(path: Path, encoder: str, *, metric: bool) -> dict[str, Any]:
    digest = tensor_files.sha256_of(path)
    return {"name": path.stem, "file": path.name, "sha256": digest, "encoder": encoder, "metric": metric}
