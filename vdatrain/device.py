"""The device that computes, its memory, and the numbers that it computes in."""

import resource
import sys
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch

from vdaprep.errors import UsageError, VdakitError
from vdatrain.config import TrainConfig

TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Precision:
    """A device and the numbers that matrix products and convolutions are computed in there."""

    device: torch.device
    """The device."""
    name: str = "fp32"
    """fp32, bf16 or fp16."""

    def autocast(self) -> AbstractContextManager[object]:
        """Return the context that a forward pass runs in."""
        if self.name == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=TYPES[self.name])

    def scaler(self) -> torch.amp.GradScaler:
        """Return the loss scaler for small fp16 gradients; it does nothing at other precisions."""
        return torch.amp.GradScaler(self.device.type, enabled=self.name == "fp16")


def default_device() -> torch.device:
    """Return the GPU if there is one, the CPU if not."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def choose_device(name: str | None, *, alone: bool = True) -> torch.device:
    """Return the device of a name.

    Args:
        name: `cpu`, `cuda` or `cuda:N`; None: the GPU if there is one.
        alone: whether this is the only process; of several, each has the GPU of its local rank.

    Raises:
        UsageError: the name is none of these, or there is no such GPU.
    """
    if name is None:
        return default_device()
    kind, _, number = name.partition(":")
    if name != "cpu" and not (kind == "cuda" and (number.isdecimal() or name == "cuda")):
        raise UsageError(f"--device {name}: expected cpu, cuda or cuda:N.")
    if kind == "cuda" and not torch.cuda.is_available():
        raise UsageError(f"--device {name}: torch finds no GPU here; give --device cpu, or leave it out.")
    if number and not alone:
        raise UsageError(f"--device {name}: each of several processes has a GPU of its own; give --device cuda.")
    if number and int(number) >= torch.cuda.device_count():
        raise UsageError(f"--device {name}: there is no such GPU; the last is cuda:{torch.cuda.device_count() - 1}.")
    return torch.device(name)


def peak_memory_bytes(device: torch.device) -> int:
    """Return the most that tensors took on a GPU, or, on a CPU, this process in memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak  # kibibytes but on macOS


_ON_THE_HOST = "can't allocate memory"  # what torch's allocator for the CPU says, in a plain RuntimeError


def is_out_of_memory(error: Exception) -> bool:
    """Say whether torch ran out of memory, on a GPU or on the host."""
    return isinstance(error, RuntimeError) and (isinstance(error, torch.OutOfMemoryError) or _ON_THE_HOST in str(error))


def oom_advice(config: TrainConfig, *, step: int, device: torch.device) -> VdakitError:
    """Return the sentence to end with: what was asked for, and what can be less."""
    where = _size_of(device) if device.type == "cuda" else "memory"
    return VdakitError(
        f"out of {where} in step {step} with --batch {config.batch} --frames {config.frames} --size {config.size}: "
        f"try {', '.join(_remedies(config))}; `vdatrain plan` says what fits."
    )


def _size_of(device: torch.device) -> str:
    total = torch.cuda.get_device_properties(device).total_memory
    return f"the {total / 2**30:.0f} GiB of {torch.cuda.get_device_name(device)}"


def _remedies(config: TrainConfig) -> list[str]:
    remedies: list[str] = []
    if config.precision == "fp32":
        remedies.append("--precision bf16")
    if config.batch > 1:
        fewer = config.batch // 2
        remedies.append(f"--batch {fewer} --accumulate {config.accumulate * config.batch // fewer}")
    if config.recompute != "all":
        remedies.append("--recompute all")
    return [*remedies, "a smaller --size", "fewer --frames"]
