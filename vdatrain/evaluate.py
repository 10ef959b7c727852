"""The metrics of a model on the windows of a split: per data set, and averaged over them."""

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from vdaprep.schema import DataError
from vdatrain.align import fit_scale_shift
from vdatrain.batch import Batch, decode_depth, make_batch
from vdatrain.files import new_file, write_text
from vdatrain.index import StoredClip
from vdatrain.losses import video_loss
from vdatrain.metrics import ClipMetrics, clip_metrics, mean_metrics
from vdatrain.precision import Precision
from vdatrain.stream import Sample, stream_batches
from vdatrain.views import fit_view
from vdatrain.windows import EvaluationOrder, Excerpt, Share, WindowShape


@dataclass(frozen=True)
class EvaluationPlan:
    """What is evaluated: windows of `shape` with a short side of `size` pixels, at most `windows` of them (0: all)."""

    shape: WindowShape
    size: int
    windows: int = 0
    workers: int = 0

    def order(self, clips: Sequence[StoredClip]) -> EvaluationOrder | Excerpt:
        """Return the order in which the windows of `clips` are evaluated."""
        order = EvaluationOrder(tuple(clip.num_frames for clip in clips), self.shape)
        return Excerpt(order, self.windows) if self.windows else order


@dataclass(frozen=True)
class Gallery:
    """A window of a data set as pictures: frames, true and predicted disparity, 0 to 255 over the true range.

    Truth is 0 where it is unknown. The prediction is fitted to the truth by least squares over the window.
    """

    frames: UInt8[np.ndarray, "t h w 3"]
    truth: UInt8[np.ndarray, "t h w"]
    prediction: UInt8[np.ndarray, "t h w"]


@dataclass(frozen=True)
class Evaluation:
    """The metrics and the training loss of each data set, each the mean over its windows, and one gallery each."""

    metrics: Mapping[str, ClipMetrics]
    losses: Mapping[str, float]
    windows: Mapping[str, int]
    galleries: Mapping[str, Gallery]

    def average(self) -> dict[str, float | None]:
        """Return the mean of every figure over the data sets, each of equal weight; TAE over those that have it."""
        rows = [{**asdict(self.metrics[name]), "loss": self.losses[name]} for name in self.metrics]
        figures: dict[str, float | None] = {}
        for key in rows[0]:
            values = [row[key] for row in rows if row[key] is not None]
            figures[key] = sum(values) / len(values) if values else None
        return figures

    def to_json(self) -> dict[str, Any]:
        """Return the figures by data set, and their average."""
        return {
            "datasets": {
                name: {**asdict(metrics), "loss": self.losses[name], "windows": self.windows[name]}
                for name, metrics in self.metrics.items()
            },
            "average": self.average(),
        }


@torch.no_grad()
def evaluate(
    model: nn.Module,
    clips: Sequence[StoredClip],
    plan: EvaluationPlan,
    *,
    precision: Precision,
    on_window: Callable[[], None] = lambda: None,
) -> Evaluation:
    """Evaluate a model on windows of `clips`; it is put into eval mode and back.

    Raises ShardError as the stream does, DataError if no window has a pixel of known depth, VdakitError if the model
    predicts anything that is not finite.
    """
    order = plan.order(clips)
    limits = {clip.dataset: clip.evaluation_max_m for clip in clips}
    metrics: defaultdict[str, list[ClipMetrics]] = defaultdict(list)
    losses: defaultdict[str, list[float]] = defaultdict(list)
    galleries: dict[str, Gallery] = {}
    was_training = model.training
    model.eval()
    for [sample] in stream_batches(clips, order, share=Share(batch=1), workers=plan.workers):
        batch = make_batch([sample], [fit_view(sample.size, size=plan.size)], device=precision.device)
        with precision.autocast():
            prediction = model(batch.frames, batch.differences, batch.diff_valid)
        losses[sample.dataset].append(video_loss(prediction, batch.disparity, batch.mask).total.item())
        metrics[sample.dataset].append(_measure(prediction[0], sample, limits[sample.dataset]))
        if sample.dataset not in galleries:
            galleries[sample.dataset] = _picture(prediction, batch, sample)
        on_window()
    model.train(was_training)
    return Evaluation(
        metrics={name: mean_of(name, values) for name, values in sorted(metrics.items())},
        losses={name: sum(values) / len(values) for name, values in sorted(losses.items())},
        windows={name: len(values) for name, values in sorted(metrics.items())},
        galleries=galleries,
    )


def _measure(disparity: Float[Tensor, "t h w"], sample: Sample, max_depth_m: float) -> ClipMetrics:
    """Measure a prediction at the stored size, to which it is resized as published Video Depth Anything does."""
    device = disparity.device
    full = F.interpolate(disparity[None].float(), sample.size, mode="bilinear", align_corners=True)[0]
    poses = sample.camera_to_world
    return clip_metrics(
        full,
        decode_depth(sample.depth_planes.to(device), sample.depth),
        torch.from_numpy(sample.intrinsics).to(device),
        None if poses is None else torch.from_numpy(poses).to(device),
        max_depth_m=max_depth_m,
    )


def mean_of(dataset: str, values: Sequence[ClipMetrics]) -> ClipMetrics:
    """Return a data set's metrics from its clips'; raises DataError, naming it, as `mean_metrics` does."""
    try:
        return mean_metrics(values)
    except DataError as error:
        raise DataError(f"{dataset}: {error}") from error


def _picture(prediction: Float[Tensor, "1 t h w"], batch: Batch, sample: Sample) -> Gallery:
    truth, mask = batch.disparity, batch.mask
    scale, shift = fit_scale_shift(prediction.float().flatten(1), truth.flatten(1), mask.flatten(1))
    aligned = scale[:, None, None, None] * prediction + shift[:, None, None, None]
    height, width = prediction.shape[-2:]
    frames = F.interpolate(sample.rgb.permute(0, 3, 1, 2).float(), (height, width), mode="bilinear", antialias=True)
    return Gallery(
        frames=_bytes(frames.permute(0, 2, 3, 1)),
        truth=_bytes(255 * truth[0]),
        prediction=_bytes(255 * aligned[0]),
    )


def _bytes(values: Tensor) -> np.ndarray:
    return values.round().clamp(0, 255).to(torch.uint8).cpu().numpy()


# -------------------------------------------------------------------------------------------------------------- files


def write_evaluation(folder: Path, evaluation: Evaluation, *, facts: Mapping[str, Any]) -> None:
    """Write `evaluation.json`, the figures with `facts`, and one `gallery-DATASET.npz` a data set."""
    for name, gallery in evaluation.galleries.items():
        with new_file(folder / f"gallery-{name}.npz") as file:
            np.savez_compressed(file, frames=gallery.frames, truth=gallery.truth, prediction=gallery.prediction)
    write_text(folder / "evaluation.json", json.dumps({**evaluation.to_json(), **facts}, indent=2) + "\n")


def read_gallery(path: Path) -> Gallery:
    """Read a gallery that `write_evaluation` wrote; raises DataError if it is none."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return Gallery(arrays["frames"], arrays["truth"], arrays["prediction"])
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{path}: is no gallery that `vdatrain run` wrote ({error}).") from error
