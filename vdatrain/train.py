"""The training loop: a configuration to a folder with weights, a log and the last evaluation."""

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vdaprep.schema import DataError, UsageError, VdakitError
from vdatrain import checkpoint, variants
from vdatrain.batch import Batch, make_batch
from vdatrain.config import Config, from_mapping
from vdatrain.evaluate import Evaluation, EvaluationPlan, evaluate, write_evaluation
from vdatrain.index import StoredClip, fingerprint, read_index, splits_of
from vdatrain.layers.temporal import PUBLISHED_FRAMES
from vdatrain.losses import VideoLoss, video_loss
from vdatrain.optim import AveragedWeights, gradient_norm, make_optimiser, parameter_groups, rate_factor, set_rates
from vdatrain.precision import Precision
from vdatrain.recipes import recipe
from vdatrain.stream import Sample, stream_batches
from vdatrain.views import Augmentation, draw_views
from vdatrain.windows import Share, TrainingOrder, WindowShape

CONFIG_FILE, LOG_FILE = "config.json", "log.jsonl"
LAST_FILE, BEST_FILE = "last.pt", "best.pt"
SELECTED_BY = "absrel"  # the average over the data sets decides which weights are the best; lower is better
_MAX_SKIPPED = 20  # steps without a finite gradient, in a row, before a run gives up


@dataclass(frozen=True)
class Listener:
    """Who is told of a run: of every logged step and of every evaluation."""

    on_step: Callable[[int, Mapping[str, float]], None] = lambda step, figures: None
    on_evaluation: Callable[[int, Evaluation], None] = lambda step, evaluation: None


@dataclass
class Run:
    """A run under way: what a checkpoint holds, and what it was started with."""

    config: Config
    folder: Path
    precision: Precision
    data: str
    model: nn.Module
    optimiser: torch.optim.AdamW
    scaler: torch.amp.GradScaler
    average: AveragedWeights | None
    step: int = 0
    best: float = math.inf
    skipped: int = 0
    figures: dict[str, list[Tensor]] = field(default_factory=dict[str, list[Tensor]])

    @property
    def position(self) -> int:
        """The position in the stream at which the next step begins."""
        return self.step * self.config.batch * self.config.accumulate


def build_model(config: Config) -> nn.Module:
    """Build the variant with weights drawn from the configuration's seed, or read from `init`.

    Raises DataError if the file does not fit the model but for the variant's own parts.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        max_frames = max(PUBLISHED_FRAMES, config.frames)
        model = variants.build(config.variant, encoder=config.encoder, max_frames=max_frames)
    if config.init != "none":
        state = checkpoint.load(Path(config.init))
        weights = {**state["model"], **state.get("average", {})}
        own = variants.own_prefixes(config.variant)
        checkpoint.load_weights(model, weights, where=config.init, may_miss=own)
    return model


def start(config: Config, folder: Path, *, precision: Precision) -> Run:
    """Begin a run in a new folder; raises UsageError if a run is there already."""
    if (folder / CONFIG_FILE).exists():
        raise UsageError(f"{folder}: holds a run; give --resume to go on with it, or another --out.")
    run = _make_run(config, folder, precision)
    folder.mkdir(parents=True, exist_ok=True)
    facts = {"config": config.to_json(), "data": run.data, "torch": torch.__version__}
    (folder / CONFIG_FILE).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    return run


def resume(folder: Path, *, precision: Precision) -> Run:
    """Go on with a run from its last checkpoint; raises DataError if there is none, or if the shards have changed."""
    facts = _read_facts(folder)
    run = _make_run(stored_config(folder), folder, precision)
    if run.data != facts["data"]:
        raise DataError(f"{run.config.shards}: are not the shards that {folder} began with; train anew on these.")
    state = checkpoint.load(folder / LAST_FILE)
    checkpoint.load_weights(run.model, state["model"], where=str(folder / LAST_FILE))
    run.optimiser.load_state_dict(state["optimiser"])
    run.scaler.load_state_dict(state["scaler"])
    if run.average is not None:
        run.average.load_state_dict(state["average"])
    run.step, run.best, run.skipped = state["step"], state["best"], state["skipped"]
    _forget_log_after(folder / LOG_FILE, run.step)
    return run


def stored_config(folder: Path) -> Config:
    """Return the configuration that a run began with; raises DataError if there is no run."""
    return from_mapping(_read_facts(folder)["config"], where=str(folder / CONFIG_FILE))


def load_model(path: Path) -> tuple[nn.Module, Config]:
    """Build the model of a run's checkpoint with its averaged weights; raises DataError if the file is none."""
    state = checkpoint.load(path)
    if "config" not in state:
        raise DataError(f"{path}: holds weights but no configuration; expected last.pt or best.pt of `vdatrain run`.")
    config = from_mapping({**state["config"], "init": "none"}, where=str(path))
    model = build_model(config)
    checkpoint.load_weights(model, {**state["model"], **state["average"]}, where=str(path))
    return model, config


def train(run: Run, listener: Listener) -> tuple[int, Evaluation] | None:
    """Train to the last step; returns the best weights' step and evaluation, None without held-out clips."""
    config = run.config
    batches = _batches(run)
    held_out = _held_out(config)
    if run.step == 0:
        _log(run, {"parameters": sum(parameter.numel() for parameter in run.model.parameters())})
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


# --------------------------------------------------------------------------------------------------------- beginning


def _make_run(config: Config, folder: Path, precision: Precision) -> Run:
    shards = Path(config.shards)
    data = fingerprint(shards)  # before the model: a folder without shards is said at once
    model = build_model(config).to(precision.device)
    groups = parameter_groups(model, recipe(config.preset), lr=config.lr, weight_decay=config.weight_decay)
    return Run(
        config=config,
        folder=folder,
        precision=precision,
        data=data,
        model=model,
        optimiser=make_optimiser(groups, device=precision.device),
        scaler=precision.scaler(),
        average=AveragedWeights(model, decay=config.ema) if config.ema else None,
    )


def _read_facts(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG_FILE
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"{folder}: holds no run to resume; leave --resume out to begin one.") from error
    except ValueError as error:
        raise DataError(f"{path}: is damaged ({error}); begin the run anew elsewhere.") from error


def _held_out(config: Config) -> tuple[StoredClip, ...]:
    shards = Path(config.shards)
    return read_index(shards, split=config.eval_split) if config.eval_split in splits_of(shards) else ()


def _batches(run: Run) -> Iterator[list[Sample]]:
    config = run.config
    clips = read_index(Path(config.shards), split=config.train_split)
    shape = WindowShape(config.frames, config.stride)
    order = TrainingOrder(tuple(clip.num_frames for clip in clips), shape, seed=config.seed)
    _log(run, {"clips": len(clips), "clips_too_short": order.clips_left_out, "windows": order.windows_per_epoch})
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
    _log(run, figures)
    listener.on_step(run.step, figures)


def _evaluate_and_keep(run: Run, clips: tuple[StoredClip, ...], listener: Listener) -> None:
    """Evaluate the averaged weights on some windows, log it, and write the checkpoints."""
    evaluation = None
    if clips:
        evaluation = _evaluate_average(run, clips, windows=run.config.eval_windows)
        _log(run, {"evaluation": evaluation.to_json()})
        listener.on_evaluation(run.step, evaluation)
    score = math.inf if evaluation is None else evaluation.average()[SELECTED_BY]
    state = _state(run)
    if score is not None and score < run.best:
        state["best"] = run.best = score
        checkpoint.save(run.folder / BEST_FILE, state)
    checkpoint.save(run.folder / LAST_FILE, state)


def _state(run: Run) -> dict[str, Any]:
    return {
        "model": run.model.state_dict(),
        "average": {} if run.average is None else run.average.state_dict(),
        "optimiser": run.optimiser.state_dict(),
        "scaler": run.scaler.state_dict(),
        "step": run.step,
        "best": run.best,
        "skipped": run.skipped,
        "config": run.config.to_json(),
    }


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


def _log(run: Run, figures: Mapping[str, Any]) -> None:
    with (run.folder / LOG_FILE).open("a", encoding="utf-8") as file:
        file.write(json.dumps({"step": run.step, **figures}) + "\n")


def _forget_log_after(path: Path, step: int) -> None:
    """Drop the lines of steps that the checkpoint does not know of, and a line that was cut short."""
    kept: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except ValueError:
            break
    path.write_text("".join(kept), encoding="utf-8")
