"""A step of the optimiser, from batches to updated weights, without waiting for the device."""

import numpy as np
import torch
from torch import Tensor

from vdatrain.data.batch import Batch, denormalise
from vdatrain.data.loader import TrainLoader
from vdatrain.models.canonical import in_metres, is_metric
from vdatrain.models.layers.temporal import set_attention
from vdatrain.objectives.distillation import image_loss
from vdatrain.objectives.losses import ExtraTerms, VideoLoss, video_loss
from vdatrain.objectives.metric import metric_loss
from vdatrain.objectives.warping import Cameras
from vdatrain.training.optim import gradient_norm, rate_factor, set_rates, step_where
from vdatrain.training.state import TrainState


def train_step(state: TrainState, loader: TrainLoader) -> None:
    """Take a step: gradients of `accumulate` batches, clipped, applied where finite.

    An error before the weights are updated leaves the state as it was. The schedule counts all steps, so that a state
    always ends; a skipped step changes neither the weights nor the averages nor the optimiser's moments and counts.
    """
    config = state.config
    _seed(state)
    if config.attention == "chunk":
        set_attention(state.model, draw_chunk(config.frames, seed=config.seed, step=state.step))
    set_rates(state.optimiser, rate_factor(state.step, warmup=config.warmup, steps=config.steps))
    state.optimiser.zero_grad(set_to_none=True)
    losses: list[Tensor] = []
    keys: list[str] = []
    for number in range(config.accumulate):
        if number:
            loader.prepare()
        batch = next(loader)
        state.mixture.add(batch.datasets, batch.frames.shape[1])
        if batch.images is not None:
            (state.images if config.images else state.mixture).add(batch.images.datasets, 1)
        losses.append(accumulate_gradient(state, batch, joining=number == config.accumulate - 1))
        keys += batch.keys + (batch.images.keys if batch.images is not None else ())
    norm = _apply(state)
    state.monitor.add(torch.cat([torch.stack(losses).mean(0), norm[None]]), keys)
    state.step += 1
    state.position = state.share.start_after(config.accumulate)


def draw_chunk(num_frames: int, *, seed: int, step: int) -> int | None:
    """Return the frames of a step's chunks, equal on all ranks: 1, 2, 4, ...; None: all."""
    sequence = np.random.SeedSequence([seed, step], spawn_key=(3,))
    sizes = [*(size for power in range(num_frames.bit_length()) if (size := 1 << power) < num_frames), None]
    return sizes[int(sequence.generate_state(1, np.uint64)[0] % len(sizes))]


def accumulate_gradient(state: TrainState, batch: Batch, *, joining: bool = False) -> Tensor:
    """Run a batch, adding to gradients; returns its total, spatial, temporal and extra losses.

    Single images add their spatial loss to the total; together they weigh as much as the windows, those that a teacher
    labelled `distill` as much. With `joining`, for the last batch of a step, the gradients added up so far become the
    mean over the ranks.
    """
    with state.forward.joining(joining and batch.images is None):
        loss = _loss(state, batch)
        _add_gradient(state, loss.total)
    figures = [loss.total, loss.spatial, loss.temporal, *loss.extra.values()]
    if batch.images is not None:
        with state.forward.joining(joining):
            beside = _image_loss(state, batch.images) if state.config.images else _loss(state, batch.images).total
            _add_gradient(state, beside)
        figures = [loss.total.detach() + beside.detach(), *figures[1:], *([beside] if state.config.images else [])]
    return torch.stack([figure.detach() for figure in figures])


def _add_gradient(state: TrainState, loss: Tensor) -> None:
    state.scaler.scale(loss / state.config.accumulate).backward()


def _image_loss(state: TrainState, batch: Batch) -> Tensor:
    """Return the loss of single images from shards of their own."""
    with state.precision.autocast():
        prediction = state.forward(batch)
    distill = state.config.distill
    return image_loss(prediction, batch.disparity, batch.mask, batch.taught, distill=distill, mean=state.ranks.mean)


def _loss(state: TrainState, batch: Batch) -> VideoLoss:
    with state.precision.autocast():
        prediction = state.forward(batch)
    config, cameras = state.config, None
    if batch.camera_to_world is not None:
        cameras = Cameras(batch.intrinsics, batch.camera_to_world, batch.disparity_range)
    extra = ExtraTerms.of(config, denormalise(batch.frames) if config.stability else None, cameras)
    if is_metric(state.model):
        disparity = in_metres(state.model, prediction, batch.intrinsics)
        return metric_loss(disparity, batch.disparity, batch.mask, batch.disparity_range, state.ranks.mean, extra)
    return video_loss(prediction, batch.disparity, batch.mask, state.ranks.mean, extra)


def _apply(state: TrainState) -> Tensor:
    """Update weights and averages if the gradient is finite; returns its norm before clipping."""
    state.scaler.unscale_(state.optimiser)
    norm = gradient_norm(state.trained, clip=state.config.clip)
    finite = norm.isfinite()
    step_where(state.optimiser, finite)
    state.scaler.update()
    if state.average is not None:
        state.average.update(state.model, step=state.step, taken=finite)
    return norm


def _seed(state: TrainState) -> None:
    """Seed a model's draws, such as dropout, by seed, step and rank, without a stored state."""
    # The spawn key keeps these numbers apart from those of the order of windows and of the augmentation.
    sequence = np.random.SeedSequence([state.config.seed, state.step, state.ranks.rank], spawn_key=(2,))
    torch.manual_seed(int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1)))
