"""A run and its folder: begun, resumed, logged, its weights kept."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vdaprep.schema import DataError, UsageError
from vdatrain import checkpoint, variants
from vdatrain.config import Config, from_mapping
from vdatrain.files import write_text
from vdatrain.index import fingerprint
from vdatrain.layers.dpt import TemporalDPTHead
from vdatrain.layers.temporal import PUBLISHED_FRAMES
from vdatrain.optim import AveragedWeights, make_optimiser, parameter_groups
from vdatrain.precision import Precision
from vdatrain.recipes import recipe
from vdatrain.weights import PUBLISHED_ENCODER, LoadReport, fetch_encoder, load_into, read_weights

CONFIG_FILE, LOG_FILE = "config.json", "log.jsonl"
LAST_FILE, BEST_FILE = "last.pt", "best.pt"


@dataclass
class Run:
    """A run under way: what a checkpoint holds, and what it was started with.

    loaded: what became of the weights that it was begun with; None if there were none, or when it is resumed.
    """

    config: Config
    folder: Path
    precision: Precision
    data: str
    model: nn.Module
    optimiser: torch.optim.AdamW
    scaler: torch.amp.GradScaler
    average: AveragedWeights | None
    loaded: LoadReport | None = None
    step: int = 0
    best: float = math.inf
    skipped: int = 0
    figures: dict[str, list[Tensor]] = field(default_factory=dict[str, list[Tensor]])

    @property
    def position(self) -> int:
        """The position in the stream at which the next step begins."""
        return self.step * self.config.batch * self.config.accumulate


def build_model(config: Config) -> nn.Module:
    """Build the variant with weights drawn from the configuration's seed; `initialise` then reads what `init` names."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        max_frames = max(PUBLISHED_FRAMES, config.frames)
        model = variants.build(config.variant, encoder=config.encoder, max_frames=max_frames)
    for module in model.modules():
        if isinstance(module, TemporalDPTHead):
            module.recompute_fine = config.recompute_head
    return model


def initialise(model: nn.Module, config: Config) -> LoadReport | None:
    """Load what `init` names: a file, DINOv2's encoder from the hub, or, returning None, nothing.

    Raises DataError if it cannot be had or does not fit the model but for the variant's own parts.
    """
    if config.init == "none":
        return None
    published = config.init == PUBLISHED_ENCODER
    weights = fetch_encoder(config.encoder) if published else read_weights(Path(config.init))
    return load_into(model, weights, may_miss=variants.own_prefixes(config.variant))


def start(config: Config, folder: Path, *, precision: Precision) -> Run:
    """Begin a run in a new folder; raises UsageError if a run is there already."""
    if (folder / CONFIG_FILE).exists():
        raise UsageError(f"{folder}: holds a run; give --resume to go on with it, or another --out.")
    run = _make_run(config, folder, precision, init=initialise)
    facts = {"config": config.to_json(), "data": run.data, "torch": torch.__version__}
    write_text(folder / CONFIG_FILE, json.dumps(facts, indent=2) + "\n")
    return run


def resume(folder: Path, *, precision: Precision) -> Run:
    """Go on with a run from its last checkpoint; raises DataError if there is none, or if the shards have changed."""
    facts = _read_facts(folder)
    run = _make_run(stored_config(folder), folder, precision, init=lambda model, config: None)
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
        raise DataError(
            f"{path}: holds weights but no configuration; expected last.pt or best.pt of `vdatrain run`, "
            "or, to infer with bare weights, --encoder."
        )
    config = from_mapping(state["config"], where=str(path))
    model = build_model(config)
    checkpoint.load_weights(model, {**state["model"], **state["average"]}, where=str(path))
    return model, config


def keep(run: Run, *, score: float | None) -> None:
    """Write `last.pt`, and `best.pt` if `score` (lower is better) is better than any before."""
    if score is not None and score < run.best:
        run.best = score
        checkpoint.save(run.folder / BEST_FILE, _state(run))
    checkpoint.save(run.folder / LAST_FILE, _state(run))


def log(run: Run, figures: Mapping[str, Any]) -> None:
    """Add a line to the run's log."""
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
    write_text(path, "".join(kept))


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


def _make_run(
    config: Config, folder: Path, precision: Precision, *, init: Callable[[nn.Module, Config], LoadReport | None]
) -> Run:
    shards = Path(config.shards)
    data = fingerprint(shards)  # before the model: a folder without shards is said at once
    model = build_model(config)
    loaded = init(model, config)
    model.to(precision.device)
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
        loaded=loaded,
    )


def _read_facts(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG_FILE
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"{folder}: holds no run to resume; leave --resume out to begin one.") from error
    except ValueError as error:
        raise DataError(f"{path}: is damaged ({error}); begin the run anew elsewhere.") from error
