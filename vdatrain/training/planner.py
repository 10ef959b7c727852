"""Which training fits into a device's memory, how long a step takes, what to change where it does not fit."""

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch

from vdatrain.config import TrainConfig, preset
from vdatrain.device import TYPES, Precision
from vdatrain.models.layers.encoder import PATCH_SIZE
from vdatrain.models.loading import build_from_config
from vdatrain.training.memory import Footprint, Inputs, footprint, go_through
from vdatrain.training.optim import make_optimiser, parameter_groups

# Shares of a device's memory that a step is not given: on a GPU to the driver, to kernels' own needs and to fragments;
# on a CPU to the system, to the processes that read and to the page cache that they read through.
RESERVED_ON_GPU, RESERVED_ON_CPU = 0.08, 0.25
SMALLEST_SIZE, FEWEST_FRAMES = 196, 8  # what is proposed at least
_MATRIX_SIDE = {"cuda": 4096, "cpu": 1024}
_STEPS_MEASURED = 2
_BATCH_TOLERANCE = 100  # of so many one may be missing

Measure = Callable[[TrainConfig], Footprint]


@dataclass(frozen=True)
class Room:
    """The memory of a device, in bytes: all of it, and what of that a step may take.

    ranks: how many such devices share a model that is spread over them.
    """

    total: int
    on_gpu: bool
    ranks: int = 1

    @property
    def limit(self) -> int:
        """What a step may take."""
        return round(self.total * (1 - (RESERVED_ON_GPU if self.on_gpu else RESERVED_ON_CPU)))


@dataclass(frozen=True)
class Change:
    """What a configuration is changed to so that it fits: the options to give, and what it takes then."""

    options: str
    config: TrainConfig
    takes: Footprint


def room_of(device: torch.device, *, ranks: int = 1) -> Room:
    """Return the memory that a device has, each of so many alike."""
    if device.type == "cuda":
        return Room(torch.cuda.get_device_properties(device).total_memory, on_gpu=True, ranks=ranks)
    return Room(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), on_gpu=False, ranks=ranks)


def largest_batch(config: TrainConfig, room: Room, *, measure: Measure | None = None) -> int:
    """Return the most windows at a time that fit, 0 if not even one does; above a hundred to 1 %."""
    measure = measure or (lambda changed: footprint(changed, on_gpu=room.on_gpu, ranks=room.ranks))

    def takes(batch: int) -> int:
        return measure(replace(config, batch=batch)).total

    one, two = takes(1), takes(2)
    if one > room.limit:
        return 0
    fits, grows = 1, max(1, two - one)
    too_many: int | None = None
    while too_many is None or too_many - fits > max(1, fits // _BATCH_TOLERANCE):
        batch = max(fits + 1, 1 + (room.limit - one) // grows)  # all but a straight line
        if too_many is not None and batch >= too_many:
            batch = (fits + too_many) // 2
        size = takes(batch)
        grows = max(1, (size - one) // (batch - 1))
        fits, too_many = (batch, too_many) if size <= room.limit else (fits, batch)
    return fits


def change_to_fit(config: TrainConfig, room: Room, *, measure: Measure | None = None) -> Change | None:
    """Return the first that fits of changes that add up, those first that alter least what is learnt; None if none."""
    measure = measure or (lambda changed: footprint(changed, on_gpu=room.on_gpu, ranks=room.ranks))
    changes = list(_changes(config))
    found: Change | None = None
    low, high = 0, len(changes)
    while low < high:  # each takes less than the one before
        middle = (low + high) // 2
        takes = measure(changes[middle])
        if takes.total <= room.limit:
            found, high = Change(_options(config, changes[middle]), changes[middle], takes), middle
        else:
            low = middle + 1
    return found


def _changes(config: TrainConfig) -> Iterator[TrainConfig]:
    """Yield ever smaller configurations: the same windows a step one at a time, then shorter numbers, then less kept.

    Only then smaller frames and shorter windows, a quarter less each time.
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
            size = max(SMALLEST_SIZE, config.size * 3 // 4 // PATCH_SIZE * PATCH_SIZE)
            config = replace(config, size=size)
            yield config
        if config.frames > FEWEST_FRAMES:
            config = replace(config, frames=max(FEWEST_FRAMES, config.frames * 3 // 4))
            yield config


def _options(before: TrainConfig, after: TrainConfig) -> str:
    old, new = before.to_json(), after.to_json()
    return " ".join(f"--{name.replace('_', '-')} {value}" for name, value in new.items() if old[name] != value)


# --------------------------------------------------------------------------------------------------------------- time


def attainable_flops(precision: Precision, *, side: int | None = None, rounds: int = 5) -> float:
    """Return the operations a second that a product of two large square matrices reaches, the best of some rounds."""
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


@dataclass(frozen=True)
class Measured:
    """What steps took that were really made on a GPU: bytes at the peak, seconds of the last of them."""

    peak_bytes: int
    step_s: float


def measure_steps(config: TrainConfig, precision: Precision) -> Measured:
    """Make some training steps on zeros; raises torch.OutOfMemoryError where they do not fit. On a GPU only."""
    device = precision.device
    model = build_from_config(config).to(device).train()
    groups = parameter_groups(model, preset(config.preset), lr=None, weight_decay=config.weight_decay)
    optimiser, batch = make_optimiser(groups, device=device), Inputs.of(config, device=str(device))
    average = [parameter.detach().clone() for parameter in model.parameters() if parameter.requires_grad]
    torch.cuda.reset_peak_memory_stats(device)
    seconds = 0.0
    for _ in range(_STEPS_MEASURED):
        _wait_for(device)
        before = time.perf_counter()
        for _ in range(config.accumulate):
            go_through(model, batch, autocast=precision.autocast)
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
    """The operations of a rank's step, those that are recomputed not counted, and those a second that can be had."""

    step_flops: int | float
    attainable: float

    def of(self, step_s: float) -> float:
        """Return the model FLOPs utilisation of steps of so many seconds: 1 would be one large matrix product."""
        return self.step_flops / (step_s * self.attainable)


def utilisation(config: TrainConfig, precision: Precision) -> Utilisation:
    """Count a step on tensors without numbers; time matrix products on the device. Takes seconds."""
    windows = replace(config, recompute="none", accumulate=1)
    shown = [windows]
    if config.images_per_clip:
        shown.append(replace(windows, frames=1, batch=config.batch * config.images_per_clip))
    flops = sum(footprint(part, on_gpu=precision.device.type == "cuda").flops for part in shown)
    return Utilisation(flops * config.accumulate, attainable_flops(precision))
