"""The state of a run: begun, resumed from a checkpoint, and copied for one."""

import logging
import math
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_map_only

from vdaprep.errors import DataError, UsageError
from vdaprep.shards.dataset import ShardCollection, open_shards
from vdaprep.shards.records import DataTerms
from vdaprep.storage.urls import redact
from vdatrain.config import NO_SPLIT, PRESETS, TrainConfig, from_stored
from vdatrain.data.buckets import count_shapes
from vdatrain.data.loader import fingerprint_of, open_images_of
from vdatrain.data.sampler import DistributedPositions
from vdatrain.data.terms import check_weights, terms_of_run, union
from vdatrain.device import Precision
from vdatrain.distributed.compile import CompiledForward
from vdatrain.distributed.fsdp import full_state, shard, spread_moments, whole
from vdatrain.distributed.launch import torchrun_agent
from vdatrain.distributed.ranks import Ranks
from vdatrain.models.layers.encoder import Encoder
from vdatrain.models.loading import build_from_config, initialise, whole_model
from vdatrain.models.weights import LoadReport, Weights, load_weights, of_run
from vdatrain.objectives.losses import ExtraTerms
from vdatrain.run_dir import CONFIG_FILE, forget_log_after, git_state, read_facts, stored_config, versions, write_facts
from vdatrain.training.checkpoint import LAST_FILE, VERSION, load_newest
from vdatrain.training.mixture import MixtureMeter
from vdatrain.training.monitor import StepMonitor
from vdatrain.training.optim import AveragedWeights, make_optimiser, moments_by_name, parameter_groups, rate_factor
from vdatrain.training.selection import SELECTED_BY, BestSelection

_log = logging.getLogger(__name__)


@dataclass
class TrainState:
    """A run under way: what a checkpoint holds, and what it was begun with."""

    config: TrainConfig
    """The options."""
    folder: Path
    """The run's folder."""
    precision: Precision
    """The device, and the numbers that it computes in."""
    model: nn.Module
    """The model that learns."""
    forward: CompiledForward
    """Its forward pass, perhaps compiled, perhaps wrapped for several ranks."""
    optimiser: torch.optim.AdamW
    """The optimiser of the parameters that learn."""
    scaler: torch.amp.GradScaler
    """The loss scaler; it does nothing but for fp16."""
    average: AveragedWeights | None
    """The moving average of the weights; None without `ema`."""
    ranks: Ranks = field(default_factory=Ranks)
    """The processes that train together."""
    monitor: StepMonitor = field(default_factory=StepMonitor)
    """Figures of the steps since the last line of the log."""
    mixture: MixtureMeter = field(default_factory=lambda: MixtureMeter({}))
    """Frames of each data set that were shown."""
    images: MixtureMeter = field(default_factory=lambda: MixtureMeter({}))
    """The same of single frames from shards of their own."""
    step: int = 0
    """Steps done."""
    position: int = 0
    """Position in the order of windows at which the next step begins."""
    block: int = 0
    """Windows of a batch of all ranks when the run began, which batches of different shapes are laid out by."""
    evaluated: int = -1
    """The last step that was evaluated, -1 before any."""
    selection: BestSelection = field(default_factory=lambda: BestSelection(0, math.inf))
    """Which weights were the best so far."""
    last_step: int | None = None
    """The step of the folder's last.pt; None if there is none, or a damaged one."""
    resumed: bool = False
    """Whether the run was resumed from a checkpoint, so that its log has a beginning."""
    data: tuple[DataTerms, ...] = ()
    """The data sets that it was trained on, those of the weights in `config.init` included, as far as they say."""
    loaded: LoadReport | None = None
    """What became of the weights in `config.init`; None if there were none, or where the run was resumed."""

    @property
    def share(self) -> DistributedPositions:
        """The positions that this rank reads from the next step on."""
        return DistributedPositions(
            batch=self.config.batch, rank=self.ranks.rank, world=self.ranks.world, start=self.position
        )

    @property
    def trained(self) -> list[nn.Parameter]:
        """The parameters that learn, in the optimiser's order."""
        return [parameter for group in self.optimiser.param_groups for parameter in group["params"]]


# ---------------------------------------------------------------------------------------------------- begin and resume


def new_state(config: TrainConfig, folder: Path, *, precision: Precision, ranks: Ranks = Ranks()) -> TrainState:  # noqa: B008 - frozen
    """Begin a run in a new folder, which only the first rank reads and writes.

    Raises UsageError if a run is there already.
    """
    if ranks.is_first and (folder / CONFIG_FILE).exists():
        raise UsageError(f"{folder}: holds a run; give --resume to go on with it, or another --out.")
    shards = open_shards(config.shards)  # before the model: a folder without shards is said at once
    _expect_eval_split(config, shards)
    data = fingerprint_of(config)
    run = _begin(config, folder, precision, ranks, terms=_terms(config))
    if ranks.is_first:
        made_by = {"versions": versions(), "git": git_state(Path()), "agent": torchrun_agent()}
        write_facts(folder, {"config": config.to_json(), "data": data, **made_by})
    return run


def _expect_eval_split(config: TrainConfig, shards: ShardCollection) -> None:
    """Raise DataError for a split that was asked for by name and is not there."""
    if config.eval_split not in (*shards.splits, TrainConfig.eval_split, NO_SPLIT):
        raise DataError(
            f"{redact(config.shards)}: have no split {config.eval_split!r} to evaluate on, only "
            f"{', '.join(shards.splits)}; give one of these by --eval-split, or none to evaluate nothing."
        )


def load_state(config: TrainConfig, folder: Path, *, precision: Precision, ranks: Ranks = Ranks()) -> TrainState:  # noqa: B008 - frozen
    """Resume from the newest whole checkpoint, or begin where there is none yet.

    Only the first rank reads and writes the folder; there may be fewer or more ranks than before. Raises DataError if
    there is no run, if the shards have changed, or if no checkpoint is whole and of this run; UsageError if `config`
    differs from that of the run in more than `CHANGEABLE` says.
    """
    found = ranks.broadcast_from_rank0(_find_checkpoint(config, folder) if ranks.is_first else None)
    terms = _terms(config)
    if found is None:
        if ranks.is_first:
            forget_log_after(folder, -1, evaluated=-1)
        return _begin(config, folder, precision, ranks, terms=terms)
    name, state = found
    model = build_from_config(config)
    load_weights(model, of_run(config, Weights(name, "weights of a run", state["model"])), may_miss=())
    run = _make_run(config, folder, precision, model=model, ranks=ranks)
    try:
        _take_over(run, state, terms)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise DataError(f"{name}: holds no state that this run can go on from ({type(error).__name__}).") from error
    run.resumed = True
    run.last_step = run.step if Path(name).name == LAST_FILE else None
    if ranks.is_first:
        forget_log_after(folder, run.step, evaluated=run.evaluated)
    return run


def _find_checkpoint(config: TrainConfig, folder: Path) -> tuple[str, dict[str, Any]] | None:
    """Return name and content of the checkpoint to resume from; None: begin again."""
    facts = read_facts(folder)
    before = stored_config(folder)
    before.changed(config.options())
    if _fingerprint_again(config) != facts["data"]:
        raise DataError(f"{places_of(config)}: are not the shards that {folder} began with; begin a new run on these.")
    if facts["config"] != config.to_json():
        write_facts(folder, {**facts, "config": config.to_json()})
    found = load_newest(folder)
    if found is None:
        _log.warning(f"{folder}: holds no checkpoint yet, so the run begins again.")
        return None
    path, state = found
    _check_is_of(config, path, state)
    if config.steps > before.steps:
        now, then = (rate_factor(state["step"], warmup=run.warmup, steps=run.steps) for run in (config, before))
        _log.warning(
            f"{folder}: {before.steps} steps become {config.steps}, so the learning rate falls until step "
            f"{config.steps}: at step {state['step']} it is {now:.2f} of its peak, and would have been {then:.2f}."
        )
    return str(path), state


def _check_is_of(config: TrainConfig, path: Path, state: Mapping[str, Any]) -> None:
    """Raise DataError if a checkpoint is none of a run with this configuration."""
    differences = from_stored(state["config"], where=str(path)).refused_changes(config)
    if differences:
        raise DataError(
            f"{path}: is of another run than {path.with_name(CONFIG_FILE).name} beside it, which changes "
            f"{', '.join(differences)}; put the files of one run there, or begin it again elsewhere."
        )


def places_of(config: TrainConfig) -> str:
    """Name where a run's shards are, and those of its images, for messages."""
    return " and ".join(redact(place) for place in (config.shards, config.images) if place)


def _terms(config: TrainConfig) -> tuple[DataTerms, ...]:
    images = open_images_of(config) if config.images else None
    return terms_of_run(config, open_shards(config.shards), images)


def _fingerprint_again(config: TrainConfig) -> str:
    """Return the fingerprint of shards whose URL a run may have kept, as `fingerprint_of`."""
    try:
        return fingerprint_of(config)
    except DataError as error:
        kept = [place for place in (config.shards, config.images) if "://" in place and place == redact(place)]
        if not kept:
            raise
        raise DataError(
            f"{str(error).rstrip('.')}; a run keeps neither user, password nor query (?token=...) of --shards: "
            "if the URL had any, give it again."
        ) from error


def snapshot(run: TrainState) -> dict[str, Any] | None:
    """Return the content of a checkpoint, copied to the host; waits for the device.

    All ranks have to call it, the first alone gets it; it is the same for any number of ranks, sharded or not.
    """
    run.monitor.settle(run.ranks)
    run.mixture.settle(run.ranks)
    if run.config.images:
        run.images.settle(run.ranks)
    weights, moments = full_state(run.model, run.optimiser)
    averages = {} if run.average is None else run.average.state_dict()
    place = "cpu" if run.ranks.is_first else "meta"
    state = {
        "version": VERSION,
        "model": weights,
        "average": {name: whole(value).to(place) for name, value in averages.items()},
        "optimiser": moments,
        "scaler": run.scaler.state_dict(),
        "meter": run.monitor.state_dict(),
        "step": run.step,
        "position": run.position,
        "block": run.block,
        "evaluated": run.evaluated,
        "best": run.selection.best,
        "first": dict(run.selection.first),
        "shown": dict(run.mixture.shown),
        **({"shown_images": dict(run.images.shown)} if run.config.images else {}),
        "config": run.config.to_json(),
        "versions": versions(),
        "data": [asdict(terms) for terms in run.data],
    }
    if not run.ranks.is_first:
        return None
    return tree_map_only(torch.Tensor, torch.clone, state) if run.precision.device.type == "cpu" else state


def _begin(
    config: TrainConfig, folder: Path, precision: Precision, ranks: Ranks, *, terms: tuple[DataTerms, ...]
) -> TrainState:
    model = build_from_config(config)
    loaded = initialise(model, config) if ranks.is_first else None
    check_weights(config, loaded.data if loaded else ())
    if ranks.world > 1:
        model.load_state_dict(ranks.broadcast_from_rank0(model.state_dict()))
    run = _make_run(config, folder, precision, model=model, ranks=ranks)
    run.loaded = loaded
    run.data = union(loaded.data if loaded else (), terms)
    return run


def _make_run(config: TrainConfig, folder: Path, precision: Precision, *, model: nn.Module, ranks: Ranks) -> TrainState:
    model.to(precision.device)
    if config.shard_model:
        if ranks.world == 1:
            raise UsageError(
                "--shard-model: there is one process alone; start several with torchrun, or give --no-shard-model."
            )
        shard(model, world=ranks.world, device=precision.device)
    groups = parameter_groups(model, PRESETS[config.preset], lr=config.lr, weight_decay=config.weight_decay)
    for module in model.modules():
        if isinstance(module, Encoder):
            module.frozen = not any(parameter.requires_grad for parameter in module.parameters())
    return TrainState(
        config=config,
        folder=folder,
        precision=precision,
        model=model,
        forward=CompiledForward(
            model if config.shard_model else ranks.wrap_ddp(model),
            compiled=config.compile,
            shapes=count_shapes(config),
            warn=_log.warning,
        ),
        optimiser=make_optimiser(groups, device=precision.device),
        scaler=precision.scaler(),
        average=AveragedWeights(model, decay=config.ema) if config.ema else None,
        selection=BestSelection(config.forget, math.inf, SELECTED_BY[config.task]),
        ranks=ranks,
        block=config.batch * ranks.world,
        monitor=StepMonitor((*ExtraTerms.names(config), *(["images"] if config.images else []))),
    )


def _take_over(run: TrainState, state: Mapping[str, Any], terms: tuple[DataTerms, ...]) -> None:
    if state["step"]:  # an optimiser that has not stepped has no state
        spread_moments(moments_by_name(state["optimiser"], run.model, run.optimiser), run.model, run.optimiser)
    run.scaler.load_state_dict(state["scaler"])
    run.monitor.load_state_dict(state["meter"])
    if run.average is not None:
        run.average.load_state_dict(state["average"])
    run.data = union(DataTerms.parse_all(state.get("data"), where=str(run.folder)), terms)
    run.step, run.position = state["step"], state["position"]
    run.block = int(state.get("block", run.block))
    run.evaluated, run.selection.best = state["evaluated"], state["best"]
    for meter, key in ((run.mixture, "shown"), (run.images, "shown_images")):
        meter.shown.update({str(name): int(count) for name, count in state.get(key, {}).items()})
    run.selection.first = {str(name): float(value) for name, value in state.get("first", {}).items()}


@contextmanager
def averaged_model(run: TrainState) -> Generator[nn.Module]:
    """Yield the run's model with averaged weights; if sharded, a whole copy on each rank."""
    if run.config.shard_model:
        average = run.average.state_dict() if run.average is not None else {}
        parts = {"model": run.model.state_dict(), "average": average}
        state = {part: {name: whole(value) for name, value in values.items()} for part, values in parts.items()}
        yield whole_model(run.config, state, where=str(run.folder)).to(run.precision.device)
    elif run.average is None:
        yield run.model
    else:
        run.average.swap(run.model)
        try:
            yield run.model
        finally:
            run.average.swap(run.model)
