"""A step of the optimiser, from batches to changed weights, without waiting for the device."""

import numpy as np
import torch
from torch import Tensor

from vdatrain.data.batch import Batch
from vdatrain.data.prefetch import DevicePrefetcher
from vdatrain.objectives.losses import VideoLoss, video_loss
from vdatrain.training.optim import gradient_norm, rate_factor, set_rates, step_where
from vdatrain.training.state import TrainState


def take_step(run: TrainState, feed: DevicePrefetcher) -> None:
    """Take a step and count it: gradients of `accumulate` batches, clipped, applied where they are finite.

    Until the weights change nothing of the run has: an error before that leaves it as it was. The schedule counts all
    steps, so that a run always ends; what is skipped moves neither the weights, the optimiser's moments and counts nor
    the averages.
    """
    config = run.config
    _seed(run)
    set_rates(run.optimiser, rate_factor(run.step, warmup=config.warmup, steps=config.steps))
    run.optimiser.zero_grad(set_to_none=True)
    losses: list[Tensor] = []
    keys: list[str] = []
    for number in range(config.accumulate):
        if number:
            feed.prepare()
        batch = feed.take()
        losses.append(accumulate_gradient(run, batch, joining=number == config.accumulate - 1))
        keys += batch.keys + (batch.images.keys if batch.images is not None else ())
    norm = _apply(run)
    run.meter.add(torch.cat([torch.stack(losses).mean(0), norm[None]]), keys)
    run.step += 1
    run.position = run.share.start_after(config.accumulate)


def accumulate_gradient(run: TrainState, batch: Batch, *, joining: bool = False) -> Tensor:
    """Add a batch's share of the gradient; returns its total, spatial and temporal loss.

    joining: the last of a step; what has been added up becomes the mean over the ranks.

    Images add theirs to the total, which is all spatial: a single frame has no change. They weigh, together, as much as
    the windows' frames do.
    """
    loss = _add_gradient(run, batch, joining=joining and batch.images is None)
    total = loss.total.detach()
    if batch.images is not None:
        stills = _add_gradient(run, batch.images, joining=joining)
        total = total + stills.total.detach()
    return torch.stack([total, loss.spatial.detach(), loss.temporal.detach()])


def _add_gradient(run: TrainState, batch: Batch, *, joining: bool) -> VideoLoss:
    with run.forward.joining(joining):
        loss = _loss(run, batch)
        run.scaler.scale(loss.total / run.config.accumulate).backward()
    return loss


def _loss(run: TrainState, batch: Batch) -> VideoLoss:
    with run.precision.autocast():
        prediction = run.forward(batch)
    return video_loss(prediction, batch.disparity, batch.mask, run.ranks.mean)


def _apply(run: TrainState) -> Tensor:
    """Update weights and averages if the gradient is finite; returns its norm before clipping."""
    run.scaler.unscale_(run.optimiser)
    norm = gradient_norm(run.trained, clip=run.config.clip)
    finite = norm.isfinite()
    step_where(run.optimiser, finite)
    run.scaler.update()
    if run.average is not None:
        run.average.update(run.model, step=run.step, taken=finite)
    return norm


def _seed(run: TrainState) -> None:
    """Let whatever a model draws, such as dropout, be a function of seed, step and rank: there is no state to store."""
    # The spawn key keeps this stream apart from those of the order of windows and of the views.
    sequence = np.random.SeedSequence([run.config.seed, run.step, run.ranks.rank], spawn_key=(2,))
    torch.manual_seed(int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1)))
