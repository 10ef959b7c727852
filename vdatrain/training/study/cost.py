"""What an arm takes: parameters, arithmetic, time, memory, bytes of differences."""

import json
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from vdaprep.errors import DataError
from vdaprep.shards.dataset import open_shards
from vdaprep.shards.names import record_name
from vdaprep.shards.records import ShardRecord
from vdaprep.storage.atomic import write_text
from vdaprep.storage.cache import CachedTar
from vdaprep.storage.documents import DocumentError, parse_json
from vdaprep.storage.limits import MAX_SMALL_DOCUMENT_BYTES, LimitError
from vdaprep.storage.paths import read_bytes
from vdatrain.config import TrainConfig
from vdatrain.device import Precision, choose_device
from vdatrain.evaluation.files import EvaluatedModel
from vdatrain.evaluation.study.results import Cost
from vdatrain.models import variants
from vdatrain.models.flops import gflop_per_frame
from vdatrain.models.loading import build_from_config
from vdatrain.training.planning.memory import Inputs

TIMES_FILE = "times.json"
"""In a study's folder: milliseconds a frame by arm, as they were measured once."""
_ROUNDS = 5
_MOST_GFLOP_ON_CPU = 2000.0  # of a window; more takes minutes


def costs_of(
    configs: Mapping[str, TrainConfig], runs: Mapping[str, Sequence[EvaluatedModel]], *, out: Path
) -> dict[str, Cost]:
    """Return the cost of each arm that has a finished run.

    Args:
        configs: a configuration of each arm.
        runs: the arm's finished runs, whose logs have seconds and bytes.
        out: the study's folder, where measured times are kept.

    Raises:
        OutputError: the times cannot be written.
        ShardError: a shard's record cannot be read.
    """
    finished = {name: config for name, config in configs.items() if runs.get(name)}
    times = _kept_times(out / TIMES_FILE)
    if finished.keys() - times.keys():
        times = _ms_per_frame(finished)
        write_text(out / TIMES_FILE, json.dumps(times, indent=2) + "\n")
    stored = _difference_bytes(next(iter(configs.values())))
    return {name: _cost(config, runs[name], ms=times.get(name), stored=stored) for name, config in finished.items()}


def _cost(config: TrainConfig, runs: Sequence[EvaluatedModel], *, ms: float | None, stored: int) -> Cost:
    with torch.device("meta"):
        model = build_from_config(config)
    sizes = {name: value.numel() for name, value in model.named_parameters()}
    own = variants.own_prefixes(config.variant)
    lines = [line for run in runs for line in run.log]
    steps = [line["step_s"] for line in lines if "step_s" in line]
    memory = [line["memory_bytes"] for line in lines if "memory_bytes" in line]
    return Cost(
        parameters=sum(sizes.values()),
        own_parameters=sum(size for name, size in sizes.items() if name.startswith(own)) if own else 0,
        gflop_per_frame=gflop_per_frame(model, size=config.size),
        ms_per_frame=ms,
        step_s=statistics.median(steps) if steps else None,
        memory_bytes=max(memory) if memory else None,
        difference_bytes=stored if _needs_stored(config) else 0,
    )


def _needs_stored(config: TrainConfig) -> bool:
    """Whether an arm would do worse without differences in the shards."""
    return variants.uses_differences(config.variant) and config.differences not in ("zeros", "decoded")


def _kept_times(path: Path) -> dict[str, float]:
    """Return what was measured before; nothing where there is none, or a damaged file."""
    try:
        document = parse_json(path.read_bytes(), where=str(path), limit=MAX_SMALL_DOCUMENT_BYTES)
        return {name: document.number(name, 0, 1e12) for name in document.values}
    except (OSError, DataError, DocumentError, LimitError):
        return {}


@torch.no_grad()
def _ms_per_frame(configs: Mapping[str, TrainConfig]) -> dict[str, float]:
    """Time forward passes of a window, arm after arm, in several rounds; the least of each."""
    models: dict[str, tuple[torch.nn.Module, Inputs, Precision]] = {}
    for name, config in configs.items():
        precision = Precision(choose_device(config.device), config.precision)
        with torch.device("meta"):
            gflop = gflop_per_frame(build_from_config(config), size=config.size) * config.frames
        if precision.device.type == "cuda" or gflop < _MOST_GFLOP_ON_CPU:
            model = build_from_config(config).to(precision.device).eval()
            models[name] = (model, Inputs.of(config, device=str(precision.device)), precision)
    best = dict.fromkeys(models, float("inf"))
    for number in range(_ROUNDS + 1):
        for name, (model, inputs, precision) in models.items():
            _wait_for(precision.device)
            before = time.perf_counter()
            with precision.autocast():
                model(inputs.frames[:1], inputs.differences[:1], inputs.diff_valid[:1])
            _wait_for(precision.device)
            if number:  # the first round warms up
                best[name] = min(best[name], time.perf_counter() - before)
    return {name: 1000 * seconds / configs[name].frames for name, seconds in best.items()}


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _difference_bytes(config: TrainConfig) -> int:
    """Return the bytes of stored differences in the training split's shards."""
    total = 0
    for clip in open_shards(config.shards).clips(split=config.train_split).first_of_shards():
        assert not isinstance(clip.tar, CachedTar)
        path = clip.tar.with_name(record_name(clip.tar.name))
        total += ShardRecord.from_bytes(read_bytes(path), where=str(path)).kinds.get("diff.zst", (0, 0))[1]
    return total
