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
    """Return the device of a name; a GPU then computes convolutions of float32 as such.

    Args:
        name: `cpu`, `cuda` or `cuda:N`; None: the GPU if there is one.
        alone: whether this is the only process; of several, each has the GPU of its local rank.

    Raises:
        UsageError: the name is none of these, or there is no such GPU.
    """
    device = default_device() if name is None else _named_device(name, alone=alone)
    if device.type == "cuda":
        torch.backends.cudnn.allow_tf32 = False  # torch's default for convolutions alone: ten bits, whatever is said
    return device


def _named_device(name: str, *, alone: bool) -> torch.device:
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


def reset_peak_memory(device: torch.device) -> None:
    """Let `peak_memory_bytes` begin anew on a GPU; a process's own peak cannot."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory_bytes(device: torch.device) -> int:
    """Return the most that tensors took on a GPU, or, on a CPU, this process in memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak  # kibibytes but on macOS


_SHORT_OF_MEMORY = (
    "can't allocate memory",  # torch's allocator for the CPU
    "CUDA error: out of memory",  # the driver: page-locked memory, a context, a library's workspace
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)
"""What plain RuntimeErrors for lack of memory say."""


def is_out_of_memory(error: Exception) -> bool:
    """Say whether torch ran out of memory, on a GPU or on the host."""
    if not isinstance(error, RuntimeError):
        return False
    return isinstance(error, torch.OutOfMemoryError) or any(sign in str(error) for sign in _SHORT_OF_MEMORY)


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
