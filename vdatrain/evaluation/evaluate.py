"""Measure a model on a split's windows: metrics by data set, averages, pictures."""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from vdaprep.errors import DataError
from vdaprep.shards.dataset import open_shards
from vdaprep.shards.reader import Clip
from vdaprep.units import spread_evenly
from vdatrain.config import DifferencesName
from vdatrain.data.altered.differences import foreign_window
from vdatrain.data.altered.stress import StressPlan
from vdatrain.data.batch import Batch
from vdatrain.data.decode import decode_depth
from vdatrain.data.loader import EvalLoader, eval_order
from vdatrain.data.sampler import SubsetSampler, Window, WindowShape, partition
from vdatrain.data.samples import Sample
from vdatrain.device import Precision
from vdatrain.distributed.ranks import Ranks
from vdatrain.evaluation.windows import WINDOW_METRICS, WindowFigures
from vdatrain.inference.predictor import Predictor
from vdatrain.models.canonical import in_metres, is_metric
from vdatrain.models.layers.difference import CELLS_PER_PATCH
from vdatrain.objectives.alignment import fit_scale_shift
from vdatrain.objectives.losses import video_loss
from vdatrain.objectives.metric import metric_loss
from vdatrain.objectives.metrics import MIN_DISPARITY, Alignment, ClipMetrics, clip_metrics, mean_metrics

WINDOWS_SHOWN = 4  # as pictures, each time during a training
STILLS_PER_WINDOW = 4
_COLUMNS = (*(field.name for field in fields(ClipMetrics)), "loss")  # of a window's row


@dataclass(frozen=True)
class EvaluationPlan:
    """Which windows are evaluated, at which size, and by whom."""

    shape: WindowShape
    """Frames of a window and their stride."""
    size: int
    """Pixels of the short side that the model sees."""
    windows: int = 0
    """At most so many windows, evenly spread over all; 0: all."""
    workers: int = 0
    """Threads that read ahead."""
    stall_timeout_s: int | float = 300
    """Seconds that reading a window may take; 0: no limit."""
    differences: DifferencesName = "both"
    """Which differences the model is shown, as `TrainConfig.differences` says."""
    ranks: Ranks = Ranks()
    """The processes that divide the windows among themselves; each calls `evaluate_clips`."""
    stress: StressPlan = StressPlan()
    """What disturbs the images."""
    cells: int = CELLS_PER_PATCH
    """Rows and columns of differences that the model takes a patch."""

    def order(self, clips: Sequence[Clip]) -> Sequence[Window]:
        """Return the windows of `clips` in the order in which they are evaluated."""
        return eval_order(clips, self.shape, windows=self.windows)


@dataclass(frozen=True)
class Gallery:
    """A window of a data set as pictures: frames, true and predicted disparity."""

    frames: UInt8[np.ndarray, "t h w 3"]
    """RGB."""
    truth: UInt8[np.ndarray, "t h w"]
    """Disparity, 1 to 255 over the clip's range; 0 for sky, and where it is unknown."""
    prediction: UInt8[np.ndarray, "t h w"]
    """On the same scale, fitted to the truth by least squares over the window's pixels that metrics are taken of."""
    known: Bool[np.ndarray, "t h w"]
    """Where the truth is known."""
    disparity_range: Float64[np.ndarray, "2"] = field(default_factory=lambda: np.zeros(2))
    """Least and greatest 1/m of the clip, of 0 and 255; zeros of a gallery that does not say."""

    def stills(self, count: int = STILLS_PER_WINDOW) -> "Gallery":
        """Return at most `count` of the frames, spread evenly."""
        chosen = spread_evenly(len(self.frames), count)
        return replace(
            self,
            frames=self.frames[chosen],
            truth=self.truth[chosen],
            prediction=self.prediction[chosen],
            known=self.known[chosen],
        )


@dataclass(frozen=True)
class Evaluation:
    """The metrics of a model by data set, with some of its predictions as pictures."""

    metrics: Mapping[str, ClipMetrics]
    """The mean over a data set's windows."""
    losses: Mapping[str, float]
    """The training loss, likewise."""
    windows: Mapping[str, int]
    """How many windows each data set has."""
    galleries: Mapping[str, Gallery]
    """A window of each data set."""
    stills: Mapping[str, Gallery]
    """A few frames of a few windows, by a name that says which; the same ones whenever the same is evaluated."""
    by_window: Sequence[WindowFigures] = ()
    """Of each window, in their order."""

    def average(self) -> dict[str, float | None]:
        """Return the mean of every figure over the data sets, each of equal weight.

        Returns:
            By name: the fields of `ClipMetrics`, and `loss`; TAE over the data sets that have it, None if none has.
        """
        rows = [{**asdict(self.metrics[name]), "loss": self.losses[name]} for name in self.metrics]
        figures: dict[str, float | None] = {}
        for key in rows[0]:
            values = [row[key] for row in rows if row[key] is not None]
            figures[key] = sum(values) / len(values) if values else None
        return figures

    def to_json(self) -> dict[str, Any]:
        """Return the figures as `vdatrain eval --json` prints them: `datasets`, and their `average`."""
        return {
            "datasets": {
                name: {**asdict(metrics), "loss": self.losses[name], "windows": self.windows[name]}
                for name, metrics in self.metrics.items()
            },
            "average": self.average(),
        }


def evaluate(
    model: nn.Module | Predictor,
    shards: Path | str,
    *,
    split: str = "val",
    frames: int | None = None,
    size: int | None = None,
    workers: int = 2,
) -> Evaluation:
    """Measure a model on the windows of a split, as `vdatrain eval` does.

    Args:
        model: A predictor, or a variant of the model, which is evaluated on its device in float32.
        shards: The folder that `vdaprep convert` wrote, or its URL; several with commas between.
        split: Which clips.
        frames: Of a window; None: as the predictor was trained, 32 for a bare model.
        size: Pixels of the short side; None: as the predictor was trained, 518 for a bare model.
        workers: Threads that read ahead.

    Returns:
        absrel, delta1, rmse in metres, TAE x 100 and the training loss, by data set and on average.

    Raises:
        DataError: There is no such split, or no window has a pixel of known depth.
        ShardError: A shard is missing or damaged.
        UsageError: The size or the number of frames is too small.
        VdakitError: The model predicts anything that is not finite.
    """
    predictor = model if isinstance(model, Predictor) else _bare_predictor(model)
    predictor = predictor if size is None else replace(predictor, size=size)
    plan = plan_evaluation(predictor, frames=frames, workers=workers)
    return evaluate_clips(predictor.model, open_shards(shards).clips(split=split), plan, precision=predictor.precision)


def plan_evaluation(
    predictor: Predictor,
    *,
    frames: int | None = None,
    stride: int | None = None,
    workers: int = 2,
    stall_timeout_s: int | float = 300,
) -> EvaluationPlan:
    """Return the plan to evaluate on all windows, with frames and stride as trained where None."""
    shape = WindowShape(
        predictor.num_frames if frames is None else frames, predictor.stride if stride is None else stride
    )
    return EvaluationPlan(
        shape,
        size=predictor.size,
        workers=workers,
        stall_timeout_s=stall_timeout_s,
        differences=predictor.differences,
        cells=predictor.cells_per_patch,
    )


def _bare_predictor(model: nn.Module) -> Predictor:
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    return Predictor(model, Precision(device))


@torch.no_grad()
def evaluate_clips(
    model: nn.Module,
    clips: Sequence[Clip],
    plan: EvaluationPlan,
    *,
    precision: Precision,
    on_window: Callable[[], None] = lambda: None,
) -> Evaluation:
    """Measure a model on windows of `clips`; it is set to eval mode meanwhile.

    All ranks get the same figures, to the last bit those of one rank alone; rank 0 gets the pictures. `on_window` is
    called equally often on all of them.

    Raises ShardError as the loader does, DataError if no window has a pixel of known depth, VdakitError if the model
    predicts anything that is not finite.
    """
    order = plan.order(clips)
    limits = {clip.dataset: clip.evaluation_max_m for clip in clips}
    places = [(clips[window.clip].dataset, clips[window.clip].key, window.first) for window in order]
    datasets = [dataset for dataset, _, _ in places]
    galleries: dict[str, Gallery] = {}
    stills: dict[str, Gallery] = {}
    shown = _windows_to_show(datasets)
    pictured = shown | {datasets.index(name) for name in set(datasets)}
    mine, most = partition(len(order), first_takes=pictured, rank=plan.ranks.rank, world=plan.ranks.world)
    rows = torch.zeros(len(order), len(_COLUMNS), dtype=torch.float64)
    was_training = model.training
    model.eval()
    is_shuffled = plan.differences == "shuffled"
    loader = EvalLoader(
        clips,
        SubsetSampler(order, mine),
        size=plan.size,
        workers=plan.workers,
        stall_timeout_s=plan.stall_timeout_s,
        device=precision.device,
        differences=plan.differences,
        foreign=[foreign_window(order, position) for position in mine] if is_shuffled else (),
        stress=plan.stress,
        cells=plan.cells,
    )
    for position, (sample, batch) in zip(mine, loader.with_samples(), strict=True):
        sample.expect_truth()
        if is_metric(model):
            sample.expect_metres()
        with precision.autocast():
            prediction = model(batch.frames, batch.differences, batch.diff_valid)
        prediction = in_metres(model, prediction, batch.intrinsics)
        loss = _loss(model, prediction, batch).item()
        measured = _measure(prediction[0], sample, max_depth_m=limits[sample.dataset], alignment=alignment_of(model))
        rows[position] = _row(measured, loss)
        if position in pictured:
            picture = _picture(prediction, batch, sample, limits[sample.dataset])
            galleries.setdefault(sample.dataset, picture)
            if position in shown:
                stills[f"{sample.key}-{sample.window.first:03d}"] = picture.stills()
        on_window()
    for _ in range(most - len(mine)):
        on_window()
    model.train(was_training)
    return _summary(plan.ranks.sum(rows), places, galleries, stills)


def alignment_of(model: nn.Module) -> Alignment:
    """Return how a model's predictions are fitted before they are measured: metric ones are not."""
    return "none" if is_metric(model) else "scale-shift"


def _loss(model: nn.Module, prediction: Float[Tensor, "1 t h w"], batch: Batch) -> Float[Tensor, ""]:
    if is_metric(model):
        return metric_loss(prediction, batch.disparity, batch.mask, batch.disparity_range).total
    return video_loss(prediction, batch.disparity, batch.mask).total


def _row(metrics: ClipMetrics, loss: float) -> Float64[Tensor, " columns"]:
    """Return the _COLUMNS of a window; one that it does not have is nan."""
    figures = {**asdict(metrics), "loss": loss}
    return torch.tensor(
        [math.nan if figures[name] is None else figures[name] for name in _COLUMNS], dtype=torch.float64
    )


def _summary(
    rows: Float64[Tensor, "windows columns"],
    places: Sequence[tuple[str, str, int]],
    galleries: Mapping[str, Gallery],
    stills: Mapping[str, Gallery],
) -> Evaluation:
    """Average the rows of windows, which are of a data set, a clip and from a frame on."""
    metrics: defaultdict[str, list[ClipMetrics]] = defaultdict(list)
    losses: defaultdict[str, list[float]] = defaultdict(list)
    by_window: list[WindowFigures] = []
    for (name, clip, first), row in zip(places, rows.tolist(), strict=True):
        figures = dict(zip(_COLUMNS, row, strict=True))
        finite = {key: figures[key] if math.isfinite(figures[key]) else None for key in WINDOW_METRICS}
        by_window.append(WindowFigures(name, clip, first, **finite))
        losses[name].append(figures.pop("loss"))
        figures.pop("tae")
        metrics[name].append(ClipMetrics(**figures, tae=finite["tae"]))
    return Evaluation(
        metrics={name: mean_of(name, values) for name, values in sorted(metrics.items())},
        losses={name: sum(values) / len(values) for name, values in sorted(losses.items())},
        windows={name: len(values) for name, values in sorted(metrics.items())},
        galleries=galleries,
        stills=stills,
        by_window=by_window,
    )


def _windows_to_show(datasets: Sequence[str]) -> frozenset[int]:
    """Return some WINDOWS_SHOWN positions, evenly spread, as many of each data set."""
    positions: defaultdict[str, list[int]] = defaultdict(list)
    for position, name in enumerate(datasets):
        positions[name].append(position)
    shown: set[int] = set()
    for found in positions.values():
        shown.update(found[i] for i in spread_evenly(len(found), max(1, WINDOWS_SHOWN // len(positions))))
    return frozenset(shown)


def _measure(
    disparity: Float[Tensor, "t h w"], sample: Sample, *, max_depth_m: float, alignment: Alignment
) -> ClipMetrics:
    """Measure a prediction, resized to the stored size as published VDA does."""
    device = disparity.device
    full = F.interpolate(disparity[None].float(), sample.size, mode="bilinear", align_corners=True)[0]
    poses = sample.camera_to_world
    return clip_metrics(
        full,
        decode_depth(sample.depth_bytes.to(device), sample.depth, size=sample.size),
        torch.from_numpy(sample.intrinsics).to(device),
        None if poses is None else torch.from_numpy(poses).to(device),
        max_depth_m=max_depth_m,
        alignment=alignment,
    )


def mean_of(dataset: str, values: Sequence[ClipMetrics]) -> ClipMetrics:
    """Return a data set's metrics from its clips'; raises DataError as `mean_metrics`."""
    try:
        return mean_metrics(values)
    except DataError as error:
        raise DataError(f"{dataset}: {error}") from error


def _picture(prediction: Float[Tensor, "1 t h w"], batch: Batch, sample: Sample, max_depth_m: float) -> Gallery:
    """Return a window as pictures, fitted over the pixels that `clip_metrics` fits over."""
    truth = batch.disparity
    true_disparity = sample.disparity_min + truth * (sample.disparity_max - sample.disparity_min)  # 1/m
    fitted = batch.mask & (truth > 0) & (true_disparity > 1 / max_depth_m)
    flat = [values.flatten(1) for values in (prediction.double().clamp(min=MIN_DISPARITY), truth.double(), fitted)]
    scale, shift = fit_scale_shift(*flat)
    aligned = scale[:, None, None, None] * prediction + shift[:, None, None, None]
    height, width = prediction.shape[-2:]
    frames = F.interpolate(sample.rgb.permute(0, 3, 1, 2).float(), (height, width), mode="bilinear", antialias=True)
    return Gallery(
        frames=_bytes(frames.permute(0, 2, 3, 1)),
        truth=_bytes(torch.where(truth[0] > 0, (255 * truth[0]).clamp(min=1), 0)),
        prediction=_bytes(255 * aligned[0]),
        known=batch.mask[0].cpu().numpy(),
        disparity_range=np.array([sample.disparity_min, sample.disparity_max], np.float64),
    )


def _bytes(values: Tensor) -> np.ndarray:
    return values.round().clamp(0, 255).to(torch.uint8).cpu().numpy()
