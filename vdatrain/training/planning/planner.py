"""Whether a training step fits a device's memory, its time, and what to change."""

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch

from vdaprep.errors import UsageError
from vdatrain.config import PATCH_PX, PRESETS, TrainConfig
from vdatrain.device import TYPES, Precision, choose_device
from vdatrain.models.loading import build_from_config
from vdatrain.training.optim import make_optimiser, parameter_groups
from vdatrain.training.planning.memory import Footprint, Inputs, footprint, forward_backward

RESERVED_ON_GPU = 0.08
"""Fraction of a GPU's memory left to the driver, to kernels' workspaces and to fragmentation."""
RESERVED_ON_CPU = 0.25
"""Fraction of a machine's memory left to the system, other processes and the page cache."""
SMALLEST_SIZE, FEWEST_FRAMES = 196, 8  # nothing smaller is proposed
_MATRIX_SIDE = {"cuda": 4096, "cpu": 1024}
_STEPS_MEASURED = 2
_BATCH_TOLERANCE = 100  # of so many one may be missing

Measure = Callable[[TrainConfig], Footprint]


@dataclass(frozen=True)
class Room:
    """The memory of a device."""

    total: int
    """All of it, in bytes."""
    on_gpu: bool
    """Whether the device is a GPU."""
    ranks: int = 1
    """How many such devices a model with `shard_model` is spread over."""

    @property
    def limit(self) -> int:
        """The bytes that a step may take."""
        return round(self.total * (1 - (RESERVED_ON_GPU if self.on_gpu else RESERVED_ON_CPU)))


@dataclass(frozen=True)
class Change:
    """A configuration that fits, in place of one that does not."""

    options: str
    """The options to give."""
    config: TrainConfig
    """The configuration with them."""
    takes: Footprint
    """What a step takes then."""


@dataclass(frozen=True)
class Measured:
    """What training steps took on a GPU."""

    peak_bytes: int
    """The most memory at a time."""
    step_s: float
    """Seconds of the last step."""


@dataclass(frozen=True)
class StepPlan:
    """Whether a training step fits, and how long it takes."""

    config: TrainConfig
    """The configuration."""
    room: Room
    """The device."""
    takes: Footprint
    """Memory and arithmetic of a step."""
    largest_batch: int
    """The most windows at a time that fit, the rest of the configuration unchanged; 0 if `takes` does not fit."""
    change: Change | None = None
    """What to change where it does not fit; None where it fits, or nothing smaller would."""
    flops_per_s: float | None = None
    """Speed of large matrix products on the device here; None for the memory of another GPU."""

    @property
    def fits(self) -> bool:
        """Whether the step fits."""
        return self.takes.total <= self.room.limit


def plan_step(
    config: TrainConfig,
    *,
    memory_bytes: int | None = None,
    ranks: int | None = None,
    on_try: Callable[[TrainConfig], None] = lambda config: None,
) -> StepPlan:
    """Plan a training step.

    Args:
        config: the configuration.
        memory_bytes: memory of another GPU to plan for; None: that of `config.device`, here.
        ranks: processes that a model with `shard_model` is spread over; None: the GPUs here.
        on_try: called with each configuration whose step is about to be counted, which takes seconds.

    Returns:
        The plan; its memory is found without computing anything.

    Raises:
        UsageError: `ranks` that do not go together with the configuration, or a device that is not here.
    """
    world = _ranks(config, ranks)
    if memory_bytes is None:
        device = choose_device(config.device)
        room, flops_per_s = room_of(device, ranks=world), attainable_flops(Precision(device, config.precision))
    else:
        room, flops_per_s = Room(memory_bytes, on_gpu=True, ranks=world), None

    def measure(tried: TrainConfig) -> Footprint:
        on_try(tried)
        return footprint(tried, on_gpu=room.on_gpu, ranks=world)

    takes = measure(config)
    if takes.total <= room.limit:
        most = largest_batch(config, room, measure=measure)
        return StepPlan(config, room, takes, most, flops_per_s=flops_per_s)
    change = change_to_fit(config, room, measure=measure)
    return StepPlan(config, room, takes, 0, change=change, flops_per_s=flops_per_s)


def _ranks(config: TrainConfig, ranks: int | None) -> int:
    if not config.shard_model:
        if ranks is not None:
            raise UsageError(
                f"--ranks {ranks}: each holds all of the model without --shard-model; give that too, or no --ranks."
            )
        return 1
    found = torch.cuda.device_count() if ranks is None else ranks
    if found < 2:
        raise UsageError(
            f"--shard-model: spreads the model over 2 ranks or more, found {found}; say how many with --ranks."
        )
    return found


def room_of(device: torch.device, *, ranks: int = 1) -> Room:
    """Return the memory of a device, or of each of `ranks` alike."""
    if device.type == "cuda":
        return Room(torch.cuda.get_device_properties(device).total_memory, on_gpu=True, ranks=ranks)
    return Room(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), on_gpu=False, ranks=ranks)


def largest_batch(config: TrainConfig, room: Room, *, measure: Measure | None = None) -> int:
    """Return the most windows that fit, 0 if none does; above a hundred, to within 1 %."""
    measure = measure or (lambda changed: footprint(changed, on_gpu=room.on_gpu, ranks=room.ranks))

    def takes(batch: int) -> int:
        return measure(replace(config, batch=batch)).total

    one, two = takes(1), takes(2)
    if one > room.limit:
        return 0
    fits, grows = 1, max(1, two - one)
    too_many: int | None = None
    while too_many is None or too_many - fits > max(1, fits // _BATCH_TOLERANCE):
        batch = max(fits + 1, 1 + (room.limit - one) // grows)  # memory is nearly linear in the batch
        if too_many is not None and batch >= too_many:
            batch = (fits + too_many) // 2
        size = takes(batch)
        grows = max(1, (size - one) // (batch - 1))
        fits, too_many = (batch, too_many) if size <= room.limit else (fits, batch)
    return fits


def change_to_fit(config: TrainConfig, room: Room, *, measure: Measure | None = None) -> Change | None:
    """Return the first of ever smaller configurations that fits; None if none does."""
    measure = measure or (lambda changed: footprint(changed, on_gpu=room.on_gpu, ranks=room.ranks))
    changes = list(_changes(config))
    found: Change | None = None
    low, high = 0, len(changes)
    while low < high:  # each takes less than the one before
        middle = (low + high) // 2
        takes = measure(changes[middle])
        if takes.total <= room.limit:
            found, high = Change(changed_options(config, changes[middle]), changes[middle], takes), middle
        else:
            low = middle + 1
    return found


def _changes(config: TrainConfig) -> Iterator[TrainConfig]:
    """Yield ever smaller configurations, those first that change least of what is learnt.

    The windows of a step one at a time, then bf16, then recomputation; then smaller frames and shorter windows, by a
    quarter each time.
    """
    if config.batch > 1:
        config = replace(config, batch=1, accumulate=config.accumulate * config.batch)
        yield config
    if config.precision == "fp32":
        config = replace(config, precision="bf16")
        yield config
    for parts in ("head", "all"):
        if config.recompute not in (parts, "all"):
            config = replace(config, recompute="all" if config.recompute == "encoder" else parts)
            yield config
    while config.size > SMALLEST_SIZE or config.frames > FEWEST_FRAMES:
        if config.size > SMALLEST_SIZE:
            size = max(SMALLEST_SIZE, config.size * 3 // 4 // PATCH_PX * PATCH_PX)
            config = replace(config, size=size)
            yield config
        if config.frames > FEWEST_FRAMES:
            config = replace(config, frames=max(FEWEST_FRAMES, config.frames * 3 // 4))
            yield config


def changed_options(before: TrainConfig, after: TrainConfig) -> str:
    """Return the options that make `after` of `before`, as the command line has them."""
    old, new = before.to_json(), after.to_json()
    return " ".join(f"--{name.replace('_', '-')} {value}" for name, value in new.items() if old[name] != value)


# --------------------------------------------------------------------------------------------------------------- time


def attainable_flops(precision: Precision, *, side: int | None = None, rounds: int = 5) -> float:
    """Return the operations per second of a large matrix product, the best of some."""
    side = side or _MATRIX_SIDE[precision.device.type]
    left, right = (torch.randn(side, side, device=precision.device, dtype=TYPES[precision.name]) for _ in range(2))
    best = float("inf")
    for _ in range(rounds + 1):
        _wait_for(precision.device)
        before = time.perf_counter()
        torch.mm(left, right)
        _wait_for(precision.device)
        best = min(best, time.perf_counter() - before)
    return 2 * side**3 / best


def measure_steps(config: TrainConfig, precision: Precision) -> Measured:
    """Take training steps on zeros, on a GPU; raises torch.OutOfMemoryError."""
    device = precision.device
    model = build_from_config(config).to(device).train()
    groups = parameter_groups(model, PRESETS[config.preset], lr=None, weight_decay=config.weight_decay)
    optimiser, batch = make_optimiser(groups, device=device), Inputs.of(config, device=str(device))
    average = [parameter.detach().clone() for parameter in model.parameters() if parameter.requires_grad]
    torch.cuda.reset_peak_memory_stats(device)
    seconds = 0.0
    for _ in range(_STEPS_MEASURED):
        _wait_for(device)
        before = time.perf_counter()
        for _ in range(config.accumulate):
            forward_backward(model, batch, autocast=precision.autocast)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        _wait_for(device)
        seconds = time.perf_counter() - before
    del average
    return Measured(torch.cuda.max_memory_allocated(device), seconds)


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@dataclass(frozen=True)
class Utilisation:
    """The model FLOPs utilisation (MFU) of a rank's steps."""

    step_flops: int | float
    """Operations of a step, without those of recomputation."""
    attainable: float
    """Operations per second of a large matrix product."""

    def of(self, step_s: float) -> float:
        """Return the utilisation by steps of `step_s` seconds; a large matrix product would have 1."""
        return self.step_flops / (step_s * self.attainable)


def utilisation(config: TrainConfig, precision: Precision) -> Utilisation:
    """Count a step's operations, and time matrix products on the device; takes seconds."""
    once = replace(config, recompute="none", accumulate=1)
    flops = footprint(once, on_gpu=precision.device.type == "cuda").flops
    return Utilisation(flops * config.accumulate, attainable_flops(precision))
