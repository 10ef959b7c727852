"""The training loop: batches in, weights, figures and evaluations out."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from vdaprep.schema import VdakitError
from vdatrain import checkpoint
from vdatrain.batch import Batch, make_batch
from vdatrain.config import Config
from vdatrain.evaluate import Evaluation, EvaluationPlan, evaluate, write_evaluation
from vdatrain.index import StoredClip, read_index, splits_of
from vdatrain.losses import VideoLoss, video_loss
from vdatrain.optim import gradient_norm, rate_factor, set_rates
from vdatrain.run import BEST_FILE, Run, keep, log
from vdatrain.stream import Sample, stream_batches
from vdatrain.views import Augmentation, draw_views
from vdatrain.windows import Share, TrainingOrder, WindowShape

SELECTED_BY = "absrel"  # the average over the data sets decides which weights are the best; lower is better
_MAX_SKIPPED = 20  # steps without a finite gradient, in a row, before a run gives up


@dataclass(frozen=True)
class Listener:
    """Who is told of a run: of every logged step and of every evaluation."""

    on_step: Callable[[int, Mapping[str, float]], None] = lambda step, figures: None
    on_evaluation: Callable[[int, Evaluation], None] = lambda step, evaluation: None


def train(run: Run, listener: Listener) -> tuple[int, Evaluation] | None:
    """Train to the last step; returns the best weights' step and evaluation, None without held-out clips."""
    config = run.config
    batches = _batches(run)
    held_out = _held_out(config)
    if run.step == 0:
        log(run, {"parameters": sum(parameter.numel() for parameter in run.model.parameters())})
        _evaluate_and_keep(run, held_out, listener)
    trained = [parameter for group in run.optimiser.param_groups for parameter in group["params"]]
    run.model.train()
    started = time.perf_counter()
    waited = 0.0
    while run.step < config.steps:
        waited += _step(run, batches, trained)
        run.step += 1
        if run.step % config.log_every == 0 or run.step == config.steps:
            _report(run, listener, seconds=time.perf_counter() - started, waited=waited)
            started, waited = time.perf_counter(), 0.0
        if run.step % config.eval_every == 0 or run.step == config.steps:
            _evaluate_and_keep(run, held_out, listener)
            started = time.perf_counter()
    return _evaluate_best(run, held_out)


def _held_out(config: Config) -> tuple[StoredClip, ...]:
    shards = Path(config.shards)
    return read_index(shards, split=config.eval_split) if config.eval_split in splits_of(shards) else ()


def _batches(run: Run) -> Iterator[list[Sample]]:
    config = run.config
    clips = read_index(Path(config.shards), split=config.train_split)
    shape = WindowShape(config.frames, config.stride)
    order = TrainingOrder(tuple(clip.num_frames for clip in clips), shape, seed=config.seed)
    log(run, {"clips": len(clips), "clips_too_short": order.clips_left_out, "windows": order.windows_per_epoch})
    share = Share(batch=config.batch, start=run.position)
    return stream_batches(clips, order, share=share, workers=config.workers)


# ------------------------------------------------------------------------------------------------------------- a step


def _step(run: Run, batches: Iterator[list[Sample]], trained: list[nn.Parameter]) -> float:
    """Take one optimiser step; returns the seconds spent waiting for data."""
    config = run.config
    set_rates(run.optimiser, rate_factor(run.step, warmup=config.warmup, steps=config.steps))
    waited = 0.0
    keys: list[str] = []
    for _ in range(config.accumulate):
        before = time.perf_counter()
        samples = next(batches)
        waited += time.perf_counter() - before
        batch = _show(run, samples)
        keys += batch.keys
        loss = _loss(run, batch)
        run.scaler.scale(loss.total / config.accumulate).backward()
        for name in ("total", "spatial", "temporal"):
            run.figures.setdefault(name, []).append(getattr(loss, name).detach())
    run.scaler.unscale_(run.optimiser)
    norm = gradient_norm(trained, clip=config.clip)
    run.figures.setdefault("gradient_norm", []).append(norm)
    _apply(run, finite=bool(norm.isfinite()), keys=keys)
    run.optimiser.zero_grad(set_to_none=True)
    return waited


def _show(run: Run, samples: list[Sample]) -> Batch:
    size = (run.config.size, run.config.size)
    views = draw_views(samples, size, augmentation=Augmentation(), seed=run.config.seed)
    return make_batch(samples, views, device=run.precision.device)


def _loss(run: Run, batch: Batch) -> VideoLoss:
    with run.precision.autocast():
        prediction = run.model(batch.frames, batch.differences, batch.diff_valid)
    return video_loss(prediction, batch.disparity, batch.mask)


def _apply(run: Run, *, finite: bool, keys: list[str]) -> None:
    """Update the weights, unless the gradient is not finite; raises VdakitError after too many such steps in a row."""
    run.skipped = 0 if finite else run.skipped + 1
    if run.skipped >= _MAX_SKIPPED:
        raise VdakitError(
            f"the gradient was not finite for {run.skipped} steps in a row, the last with {', '.join(keys)}; "
            "try a lower --lr or --precision fp32."
        )
    if finite:
        run.scaler.step(run.optimiser)
        if run.average is not None:
            run.average.update(run.model, step=run.step)
    run.scaler.update()


# ---------------------------------------------------------------------------------------------------- log and weights


def _report(run: Run, listener: Listener, *, seconds: float, waited: float) -> None:
    config = run.config
    figures = {name: torch.stack(values).mean().item() for name, values in run.figures.items()}
    steps = len(run.figures["gradient_norm"])
    run.figures.clear()
    figures["lr"] = max(group["lr"] for group in run.optimiser.param_groups)
    figures["frames_per_s"] = steps * config.batch * config.accumulate * config.frames / seconds
    figures["waiting"] = waited / seconds
    log(run, figures)
    listener.on_step(run.step, figures)


def _evaluate_and_keep(run: Run, clips: tuple[StoredClip, ...], listener: Listener) -> None:
    """Evaluate the averaged weights on some windows, log it, and write the checkpoints."""
    evaluation = None
    if clips:
        evaluation = _evaluate_average(run, clips, windows=run.config.eval_windows)
        log(run, {"evaluation": evaluation.to_json()})
        listener.on_evaluation(run.step, evaluation)
    keep(run, score=None if evaluation is None else evaluation.average()[SELECTED_BY])


def _evaluate_average(run: Run, clips: tuple[StoredClip, ...], *, windows: int) -> Evaluation:
    config = run.config
    shape = WindowShape(config.frames, config.stride)
    plan = EvaluationPlan(shape, size=config.size, windows=windows, workers=config.workers)
    if run.average is not None:
        run.average.swap(run.model)
    try:
        return evaluate(run.model, clips, plan, precision=run.precision)
    finally:
        if run.average is not None:
            run.average.swap(run.model)


def _evaluate_best(run: Run, clips: tuple[StoredClip, ...]) -> tuple[int, Evaluation] | None:
    """Evaluate the best weights on every held-out window and write that beside them."""
    if not clips or not (run.folder / BEST_FILE).is_file():
        return None
    config = run.config
    state = checkpoint.load(run.folder / BEST_FILE)
    checkpoint.load_weights(run.model, {**state["model"], **state["average"]}, where=str(run.folder / BEST_FILE))
    plan = EvaluationPlan(WindowShape(config.frames, config.stride), size=config.size, workers=config.workers)
    evaluation = evaluate(run.model, clips, plan, precision=run.precision)
    facts = {"step": state["step"], "split": config.eval_split, "config": config.to_json()}
    write_evaluation(run.folder, evaluation, facts=facts)
    return state["step"], evaluation
