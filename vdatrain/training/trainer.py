"""Training: `train` and the loop in it."""

import logging
import math
import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import torch

from vdaprep.errors import DataError, VdakitError
from vdaprep.shards.dataset import as_paths
from vdaprep.shards.names import DATASET_FILE
from vdaprep.shards.reader import Clip
from vdaprep.shards.records import DataTerms
from vdaprep.storage.atomic import check_output_folder
from vdatrain.config import NO_SPLIT, TrainConfig
from vdatrain.data.buckets import largest_view
from vdatrain.data.loader import TrainLoader, fingerprint_of, open_shards_of
from vdatrain.data.sampler import WindowShape
from vdatrain.device import Precision, choose_device, is_out_of_memory, oom_advice, peak_memory_bytes, reset_peak_memory
from vdatrain.distributed.preemption import StopRequest
from vdatrain.distributed.ranks import Ranks, process_group
from vdatrain.evaluation.evaluate import Evaluation, EvaluationPlan, alignment_of, evaluate_clips
from vdatrain.evaluation.files import Protocol, write_evaluation
from vdatrain.models import tensor_files
from vdatrain.models.layers.temporal import set_attention
from vdatrain.models.loading import chunk_of, whole_model
from vdatrain.models.variants import cells_per_patch
from vdatrain.run_dir import is_own, log, owned
from vdatrain.training.callbacks import Callback
from vdatrain.training.checkpoint import BEST_FILE, LAST_FILE, CheckpointManager
from vdatrain.training.mixture import LOG_EVERY
from vdatrain.training.planning.planner import Utilisation, utilisation
from vdatrain.training.state import TrainState, averaged_model, load_state, new_state, places_of, snapshot
from vdatrain.training.step import accumulate_gradient, train_step
from vdatrain.training.trackers import start_tracking

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainResult:
    """How a run ended."""

    folder: Path
    """The run's folder: config.json, log.jsonl, checkpoints and evaluation.json."""
    step: int
    """Steps done."""
    stopped: str | None = None
    """What asked the run to stop before its last step, such as `after SIGTERM`; None at the last step."""
    evaluated_step: int | None = None
    """The step of the weights that were evaluated at the end; None without held-out clips, or if it was stopped."""
    evaluation: Evaluation | None = None
    """Of these, `config.final` says which, on all held-out windows; None as above."""
    data: tuple[DataTerms, ...] = ()
    """The data sets that were trained on, and their licences."""


def train(
    config: TrainConfig,
    *,
    out: str | Path,
    resume: bool = False,
    callbacks: Sequence[Callback] = (),
    stop: StopRequest | None = None,
    ranks: Ranks | None = None,
) -> TrainResult:
    """Train to `config.steps`; resumable at any step, bit for bit on one device.

    While it trains, SIGTERM, Ctrl-C (where this is the main thread) or `stop` let the step end, save a checkpoint, and
    return; after Ctrl-C KeyboardInterrupt is raised instead.

    Args:
        config: the options; where the run is resumed, as it began but for what is `CHANGEABLE`.
        out: folder of the run, which only the first rank reads and writes.
        resume: go on from the newest checkpoint in `out` that is whole, or from the beginning if there is none yet;
            processes that torchrun started again (`--max-restarts`) go on so with the run that they began.
        callbacks: called while the run trains.
        stop: when to stop early, for a time limit.
        ranks: the processes that train together, if they have met already; otherwise those that a launcher such as
            torchrun started, or this one alone.

    Returns:
        The evaluation of the best weights, or of the last step's, or why the run stopped early.

    Raises:
        UsageError: another process trains in `out`, it is or lies in the folder of a data set, it holds a run and
            `resume` is not given, or there are options that do not fit the run, the ranks or the shards.
        DataError: shards or a checkpoint cannot be read, or the shards are not those that the run began with.
        OutputError: `out` cannot be written.
        VdakitError: out of memory, or MAX_SKIPPED steps in a row had no finite gradient.
    """
    with ExitStack() as stack:
        ranks = ranks or stack.enter_context(process_group())
        device = choose_device(config.device, alone=ranks.world == 1)
        if device.index is not None:
            stack.enter_context(torch.cuda.device(device))
        precision = Precision(device, config.precision)
        if ranks.is_first:
            check_output_folder(Path(out), inputs=[*_datasets_in(config.shards), *_datasets_in(config.images)])
            stack.enter_context(owned(Path(out)))
        resume = ranks.broadcast_from_rank0(resume or (ranks.is_first and is_own(Path(out))))
        state = (load_state if resume else new_state)(config, Path(out), precision=precision, ranks=ranks)
        if ranks.is_first:
            callbacks = (*callbacks, stack.enter_context(start_tracking(config, state.folder, step=state.step)))
        return train_state(state, callbacks=callbacks, stop=stop)


def _datasets_in(shards: str) -> list[Path]:
    """Return this machine's folders of data sets, to which a run must add nothing."""
    places = [place for place in as_paths(shards) if isinstance(place, Path)] if shards else []
    above = [folder for place in places for folder in place.absolute().parents[:2]]  # of a split, of a shard
    below = [file.parent for place in places for depth in ("", "*/") for file in place.glob(f"{depth}{DATASET_FILE}")]
    return [*below, *(folder for folder in above if (folder / DATASET_FILE).is_file())]


def train_state(
    state: TrainState, *, callbacks: Sequence[Callback] = (), stop: StopRequest | None = None
) -> TrainResult:
    """Train from where `state` stands to the last step; otherwise as `train`."""
    stop = stop or StopRequest()
    reset_peak_memory(state.precision.device)  # another run of this process may have had a greater one
    devices = [state.precision.device] if state.precision.device.type == "cuda" else []
    with (
        torch.random.fork_rng(devices=devices),
        stop.watching(),
        CheckpointManager(state.folder, earlier=state.config.keep, last_step=state.last_step) as checkpoints,
        open_loader(state) as loader,
    ):
        callbacks = callbacks if state.ranks.is_first else ()
        for callback in callbacks:
            callback.on_start(state.config, state.step, state.loaded)
        training = _Training(state, loader, checkpoints, held_out_clips(state.config), callbacks, stop)
        try:
            stopped = training.run()
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise oom_advice(state.config, step=state.step, device=state.precision.device) from error
    if stopped is not None:
        return TrainResult(state.folder, state.step, stopped=stopped, data=state.data)
    return _evaluate_final(state, training.held_out, callbacks)


def held_out_clips(config: TrainConfig) -> Sequence[Clip]:
    """Return the clips that a run is evaluated on; none without such a split, or if so wanted."""
    if config.eval_split == NO_SPLIT:
        return ()
    shards = open_shards_of(config)
    return shards.clips(split=config.eval_split) if config.eval_split in shards.splits else ()


def open_loader(state: TrainState) -> TrainLoader:
    """Return the loader of a run's windows from its position on; to be closed.

    All ranks have to call it. Raises DataError where this one would read other shards than the first, or where the
    variant needs frame differences and there are none.
    """
    _expect_the_same_shards(state)
    loader = TrainLoader(
        state.config,
        rank=state.ranks.rank,
        world_size=state.ranks.world,
        start=state.position,
        block=state.block,
        device=state.precision.device,
        on_skip=_logger.warning,
    )
    state.mixture.expected, state.images.expected = loader.expected_shares, loader.expected_image_shares
    if not state.resumed and state.ranks.is_first:
        log(state.folder, state.step, loader.summary())
    return loader


def _expect_the_same_shards(state: TrainState) -> None:
    """Raise DataError if `shards` here are not what the first rank finds there."""
    if state.ranks.world == 1:
        return
    mine = fingerprint_of(state.config)
    if state.ranks.broadcast_from_rank0(mine) != mine:
        raise DataError(
            f"{places_of(state.config)}: are other shards on {socket.gethostname()} than rank 0 has on its "
            "machine; copy the same ones to all machines, or give a folder or URL that all of them share."
        )


class _StopHere(Exception):
    """The run was asked to stop."""


@dataclass
class _Interval:
    """The steps that the next line of the log is about."""

    step: int
    """Steps done at its beginning."""
    waited_s: float
    """Seconds that the loader had kept steps waiting by then."""
    frames: int
    """Frames that it had shown."""
    pixels: int
    """Their pixels."""
    began: float = field(default_factory=time.perf_counter)
    """When it began; evaluations are taken out."""


@dataclass
class _Training:
    """The training loop of a run."""

    state: TrainState
    loader: TrainLoader
    checkpoints: CheckpointManager
    held_out: Sequence[Clip]
    callbacks: Sequence[Callback]
    stop: StopRequest

    def __post_init__(self) -> None:
        state = self.state
        on_gpu = state.precision.device.type == "cuda"
        self._utilisation: Utilisation | None = utilisation(state.config, state.precision) if on_gpu else None
        self._interval = self._interval_from_here()
        self._saved: tuple[int, int] | None = None  # of the checkpoint just written: the step, and the last evaluated

    def _interval_from_here(self) -> _Interval:
        loader = self.loader
        return _Interval(self.state.step, loader.waited_s, loader.shown_frames, loader.shown_pixels)

    def run(self) -> str | None:
        """Train to the last step; returns what asked to stop before that, if anything did."""
        state, config = self.state, self.state.config
        if not state.resumed:
            self._log({"parameters": sum(parameter.numel() for parameter in state.model.parameters())})
        try:
            self._evaluate_or_save()
            state.model.train()
            if state.step < config.steps:
                state.forward.warm_up(lambda: accumulate_gradient(state, self.loader.peek()))
            while state.step < config.steps:
                self._train_step()
                if state.step % config.log_every == 0 or state.step == config.steps:
                    self._report()
                if state.step % LOG_EVERY == 0 or state.step == config.steps:
                    self._report_mixture()
                self._evaluate_or_save()
        except _StopHere:
            return self._save_and_stop()
        self.checkpoints.flush()
        return None

    def _train_step(self) -> None:
        state = self.state
        try:
            train_step(state, self.loader)
            if state.step < state.config.steps:
                self.loader.prepare()  # while the device is still at work, and before the host waits for it
        except VdakitError as error:
            # A signal may have ended what the loader reads through, too; other ranks would wait for this one's step.
            if self.stop.reason is None or state.ranks.world > 1:
                raise
            raise _StopHere from error
        for callback in self.callbacks:
            callback.on_advance(state.step)

    def _evaluate_or_save(self) -> None:
        """Evaluate or save where it is due; raises _StopHere where any rank was asked to stop."""
        state, config = self.state, self.state.config
        self.checkpoints.check()
        self._stop_if_asked()
        if (state.step % config.eval_every == 0 or state.step == config.steps) and state.evaluated < state.step:
            self._evaluate()
        elif config.save_every and state.step % config.save_every == 0:
            self._save()

    def _stop_if_asked(self) -> None:
        if self.state.ranks.any_rank(self.stop.reason is not None):
            raise _StopHere

    def _save_and_stop(self) -> str:
        """Save what is not saved; returns what asked to stop, or raises KeyboardInterrupt."""
        if self._saved != (self.state.step, self.state.evaluated):
            self._save()
        self.checkpoints.flush()
        if self.stop.by_keyboard:
            raise KeyboardInterrupt
        return self.stop.reason or "as another rank was asked to"

    def _report(self) -> None:
        """Log the steps since the last line and pass them on; frames/s are of all ranks."""
        state, interval = self.state, self._interval
        state.monitor.settle(state.ranks)
        seconds = time.perf_counter() - interval.began
        step_s = seconds / (state.step - interval.step)
        figures = {
            **state.monitor.take(),
            "lr": max(group["lr"] for group in state.optimiser.param_groups),
            "frames_per_s": state.ranks.world * (self.loader.shown_frames - interval.frames) / seconds,
            "waiting": (self.loader.waited_s - interval.waited_s) / seconds,
            "step_s": step_s,
            "memory_bytes": peak_memory_bytes(state.precision.device),
            **({} if self._utilisation is None else {"mfu": self._utilisation.of(step_s) * self._fullness()}),
        }
        self._log(figures)
        for callback in self.callbacks:
            callback.on_step(state.step, figures)
        self._interval = self._interval_from_here()

    def _fullness(self) -> float:
        """Return the interval's pixels over those of the largest shape, of which MFU is counted."""
        config = self.state.config
        most = (self.state.step - self._interval.step) * config.frames_per_step * math.prod(largest_view(config))
        return (self.loader.shown_pixels - self._interval.pixels) / most

    def _report_mixture(self) -> None:
        """Log the share of each data set; at the end name those that gave too little."""
        state = self.state
        state.mixture.settle(state.ranks)
        self._log({"mix": state.mixture.shares()})
        if state.config.images:
            state.images.settle(state.ranks)
            self._log({"image_mix": state.images.shares()})
        if state.step == state.config.steps and state.ranks.is_first:
            for sentence in state.mixture.sentences():
                _logger.warning(f"{state.folder}: {sentence}")

    def _evaluate(self) -> None:
        """Evaluate the averaged weights on some held-out windows, log that, and save."""
        state = self.state
        before = time.perf_counter()
        is_best = False
        if self.held_out:
            plan = _evaluation_plan(state, windows=state.config.eval_windows)
            counter = _WindowCounter(self.callbacks, state.step, plan, self.held_out)

            def on_window() -> None:
                self._stop_if_asked()
                counter()

            with averaged_model(state) as model:
                set_attention(model, chunk_of(state.config))  # whatever the last step drew
                evaluation = evaluate_clips(model, self.held_out, plan, precision=state.precision, on_window=on_window)
            is_best, refused = state.selection.take(evaluation)
            if refused and state.ranks.is_first:
                _logger.warning(f"{state.folder}: step {state.step}: {refused}.")
            self._log({"evaluation": evaluation.to_json()})
            for callback in self.callbacks:
                callback.on_evaluation(state.step, evaluation)
        state.evaluated = state.step
        self._save(is_best=is_best)
        self._interval.began += time.perf_counter() - before

    def _save(self, *, is_best: bool = False) -> None:
        content = snapshot(self.state)
        if content is not None:
            self.checkpoints.save(content, is_best=is_best)
        self._saved = (self.state.step, self.state.evaluated)
        for callback in self.callbacks:
            callback.on_checkpoint(self.state.step, self.state.folder / LAST_FILE)

    def _log(self, figures: Mapping[str, object]) -> None:
        if self.state.ranks.is_first:
            log(self.state.folder, self.state.step, figures)


class _WindowCounter:
    """Passes on to callbacks how far an evaluation is."""

    def __init__(self, callbacks: Sequence[Callback], step: int, plan: EvaluationPlan, clips: Sequence[Clip]) -> None:
        self._callbacks = callbacks
        self._step = step
        self._done, self._total = 0, -(-len(plan.order(clips)) // plan.ranks.world)

    def __call__(self) -> None:
        self._done += 1
        for callback in self._callbacks:
            callback.on_window(self._step, self._done, max(self._done, self._total))


def _evaluation_plan(state: TrainState, *, windows: int = 0) -> EvaluationPlan:
    config = state.config
    shape = WindowShape(config.frames, config.stride)
    return EvaluationPlan(
        shape,
        size=config.size,
        windows=windows,
        workers=config.workers,
        stall_timeout_s=config.stall_timeout,
        differences=config.differences,
        ranks=state.ranks,
        cells=cells_per_patch(config.variant),
    )


def _evaluate_final(state: TrainState, clips: Sequence[Clip], callbacks: Sequence[Callback]) -> TrainResult:
    """Evaluate the best or the last weights on every held-out window and write that beside them."""
    path = state.folder / (BEST_FILE if state.config.final == "best" else LAST_FILE)
    chosen = state.ranks.broadcast_from_rank0(
        tensor_files.load(path) if clips and state.ranks.is_first and path.is_file() else None
    )
    if chosen is None:
        return TrainResult(state.folder, state.step, data=state.data)
    model = whole_model(state.config, chosen, where=str(path)).to(state.precision.device)
    plan = _evaluation_plan(state)
    counter = _WindowCounter(callbacks, state.step, plan, clips)
    evaluation = evaluate_clips(model, clips, plan, precision=state.precision, on_window=counter)
    if state.ranks.is_first:
        config = state.config
        protocol = Protocol(config.eval_split, config.size, config.frames, config.stride, alignment_of(model))
        origin = {"step": chosen["step"], "config": config.to_json()}
        write_evaluation(state.folder, evaluation, protocol=protocol, clips=clips, origin=origin)
    return TrainResult(state.folder, state.step, evaluated_step=chosen["step"], evaluation=evaluation, data=state.data)
