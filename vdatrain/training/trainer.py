"""The training loop: batches in, weights, figures and evaluations out."""

import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field

import torch

from vdaprep.errors import VdakitError
from vdatrain.data.index import StoredClip
from vdatrain.data.prefetch import DevicePrefetcher
from vdatrain.data.sampler import WindowShape
from vdatrain.device import is_out_of_memory, oom_advice, peak_memory_bytes
from vdatrain.evaluation.evaluate import Evaluation, EvaluationPlan, evaluate_clips, write_evaluation
from vdatrain.models import tensor_files
from vdatrain.models.loading import whole_model
from vdatrain.run_dir import log
from vdatrain.training.checkpoint import BEST_FILE, CheckpointManager
from vdatrain.training.loaders import held_out_clips, open_feed
from vdatrain.training.planner import utilisation
from vdatrain.training.preemption import Stopped, StopRequest
from vdatrain.training.state import TrainState, averaged_model, snapshot
from vdatrain.training.step import accumulate_gradient, take_step


@dataclass(frozen=True)
class TrainCallbacks:
    """Who is told of every logged step and of every evaluation, in numbers that are on the host already.

    Both are called between steps, so nothing in here can make the device wait; what they raise ends the run.
    """

    on_step: Callable[[int, Mapping[str, int | float]], None] = lambda step, figures: None
    on_evaluation: Callable[[int, Evaluation], None] = lambda step, evaluation: None


def combine_callbacks(*listeners: TrainCallbacks) -> TrainCallbacks:
    """Return a listener that tells all of `listeners`, in their order."""

    def on_step(step: int, figures: Mapping[str, int | float]) -> None:
        for listener in listeners:
            listener.on_step(step, figures)

    def on_evaluation(step: int, evaluation: Evaluation) -> None:
        for listener in listeners:
            listener.on_evaluation(step, evaluation)

    return TrainCallbacks(on_step, on_evaluation)


SELECTED_BY = "absrel"  # the average over the data sets decides which weights are the best; lower is better


def train(
    run: TrainState, listener: TrainCallbacks, *, stop: StopRequest | None = None
) -> tuple[int, Evaluation] | None:
    """Train to the last step; returns the best weights' step and evaluation, None without held-out clips.

    Where `stop` asks for it the run is saved between two steps, then it raises Stopped, or KeyboardInterrupt after
    Ctrl-C. Raises VdakitError if memory runs out, if the gradient stays not finite, if a shard cannot be read or a
    checkpoint not written.
    """
    stop = stop or StopRequest()
    devices = [run.precision.device] if run.precision.device.type == "cuda" else []
    with (
        torch.random.fork_rng(devices=devices),
        stop.watching(),
        CheckpointManager(run.folder, earlier=run.config.keep, last_step=run.last_step) as keeper,
        closing(open_feed(run)) as feed,
    ):
        training = _Training(run, listener, stop, keeper, held_out_clips(run.config), feed)
        try:
            training.go()
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise oom_advice(run.config, step=run.step, device=run.precision.device) from error
    return _evaluate_best(run, training.held_out)


class _Asked(Exception):
    """The run was asked to leave."""


@dataclass
class _Interval:
    """Since when the next line of the log counts."""

    step: int
    waited: float
    began: float = field(default_factory=time.perf_counter)


class _Training:
    """A run from where it stands to its last step, and those who take part in it."""

    def __init__(
        self,
        run: TrainState,
        listener: TrainCallbacks,
        stop: StopRequest,
        keeper: CheckpointManager,
        held_out: tuple[StoredClip, ...],
        feed: DevicePrefetcher,
    ) -> None:
        self.held_out = held_out
        self._run, self._listener, self._stop, self._keeper, self._feed = run, listener, stop, keeper, feed
        self._utilisation = utilisation(run.config, run.precision) if run.precision.device.type == "cuda" else None
        self._interval = _Interval(run.step, feed.waited)
        self._saved: tuple[int, int] | None = None  # step and evaluation of the newest checkpoint, if it is ours

    def go(self) -> None:
        """Train to the last step, evaluating and saving on the way; raises as `train`."""
        run, config = self._run, self._run.config
        if not run.resumed:
            _log(run, {"parameters": sum(parameter.numel() for parameter in run.model.parameters())})
        try:
            self._between_steps()
            run.model.train()
            if run.step < config.steps:
                run.forward.try_out(lambda: accumulate_gradient(run, self._feed.peek()))
            while run.step < config.steps:
                self._step()
                self._between_steps()
        except _Asked:
            self._leave()
        self._keeper.flush()

    def _step(self) -> None:
        run = self._run
        try:
            take_step(run, self._feed)
            if run.step < run.config.steps:
                self._feed.prepare()  # while the device is still at work, and before the host waits for it
        except VdakitError as error:
            if (
                self._stop.reason is None or self._run.ranks.world > 1
            ):  # else it is the readers, which were asked to leave as well
                raise
            raise _Asked from error
        if run.step % run.config.log_every == 0 or run.step == run.config.steps:
            self._report()

    def _between_steps(self) -> None:
        """Evaluate and save where it is due; raises _Asked where it is to leave."""
        run, config = self._run, self._run.config
        self._keeper.check()
        if self._run.ranks.any_rank(self._stop.reason is not None):
            raise _Asked
        evaluating = (run.step % config.eval_every == 0 or run.step == config.steps) and run.evaluated < run.step
        if evaluating:
            self._evaluate()
        elif config.save_every and run.step % config.save_every == 0:
            self._save()

    def _leave(self) -> None:
        """Save, then raise Stopped or KeyboardInterrupt."""
        run, stop = self._run, self._stop
        if self._saved != (run.step, run.evaluated):
            self._save()
        self._keeper.flush()
        if stop.by_keyboard:
            raise KeyboardInterrupt
        raise Stopped(
            f"{run.folder}: saved and left {stop.reason or 'as another rank was asked to'}, "
            f"{run.step} of {run.config.steps} steps done; "
            f"vdatrain run --resume --out {run.folder} goes on."
        )

    def _report(self) -> None:
        """Log and tell what the steps since the last line measured; frames a second are those of all ranks."""
        run, config, interval = self._run, self._run.config, self._interval
        run.meter.settle(run.ranks)
        seconds = time.perf_counter() - interval.began
        step_s = seconds / (run.step - interval.step)
        figures = {
            **run.meter.take(),
            "lr": max(group["lr"] for group in run.optimiser.param_groups),
            "frames_per_s": run.ranks.world * config.frames_per_step / step_s,
            "waiting": (self._feed.waited - interval.waited) / seconds,
            "step_s": step_s,
            "memory_bytes": peak_memory_bytes(run.precision.device),
            **({} if self._utilisation is None else {"mfu": self._utilisation.of(step_s)}),
        }
        _log(run, figures)
        self._listener.on_step(run.step, figures)
        self._interval = _Interval(run.step, self._feed.waited)

    def _evaluate(self) -> None:
        """Evaluate the averaged weights on some windows, log it, and save."""
        run = self._run
        before = time.perf_counter()
        is_best = False
        if self.held_out:
            evaluation = self._evaluate_average()
            score = evaluation.average()[SELECTED_BY]
            is_best = score is not None and score < run.best
            run.best = score if is_best and score is not None else run.best
            _log(run, {"evaluation": evaluation.to_json()})
            self._listener.on_evaluation(run.step, evaluation)
        run.evaluated = run.step
        self._save(is_best=is_best)
        self._interval.began += time.perf_counter() - before

    def _evaluate_average(self) -> Evaluation:
        run, plan = self._run, _evaluation_plan(self._run, windows=self._run.config.eval_windows)
        with averaged_model(run) as model:
            return evaluate_clips(
                model, self.held_out, plan, precision=run.precision, on_window=self._interrupt_evaluation
            )

    def _interrupt_evaluation(self) -> None:
        if self._run.ranks.any_rank(self._stop.reason is not None):
            raise _Asked

    def _save(self, *, is_best: bool = False) -> None:
        state = snapshot(self._run)
        if state is not None:
            self._keeper.save(state, is_best=is_best)
        self._saved = (self._run.step, self._run.evaluated)


def _log(run: TrainState, figures: dict[str, object]) -> None:
    if run.ranks.is_first:
        log(run.folder, run.step, figures)


def _evaluation_plan(run: TrainState, *, windows: int = 0) -> EvaluationPlan:
    config = run.config
    shape = WindowShape(config.frames, config.stride)
    return EvaluationPlan(shape, size=config.size, windows=windows, workers=config.workers, ranks=run.ranks)


def _evaluate_best(run: TrainState, clips: tuple[StoredClip, ...]) -> tuple[int, Evaluation] | None:
    """Evaluate the best weights on every held-out window and write that beside them."""
    path = run.folder / BEST_FILE
    state = run.ranks.broadcast_from_rank0(
        tensor_files.load(path) if clips and run.ranks.is_first and path.is_file() else None
    )
    if state is None:
        return None
    model = whole_model(run.config, state, where=str(path)).to(run.precision.device)
    evaluation = evaluate_clips(model, clips, _evaluation_plan(run), precision=run.precision)
    if run.ranks.is_first:
        facts = {"step": state["step"], "split": run.config.eval_split, "config": run.config.to_json()}
        write_evaluation(run.folder, evaluation, facts=facts)
    return state["step"], evaluation
