"""What to change where memory runs out."""

import torch

from vdaprep.schema import VdakitError
from vdatrain.config import Config

_ON_THE_HOST = "can't allocate memory"  # what torch's allocator for the CPU says, in a plain RuntimeError


def is_shortage(error: Exception) -> bool:
    """Say whether torch ran out of memory, on a GPU or on the host."""
    return isinstance(error, RuntimeError) and (isinstance(error, torch.OutOfMemoryError) or _ON_THE_HOST in str(error))


def shortage(config: Config, *, step: int, device: torch.device) -> VdakitError:
    """Return the sentence to end with: what was asked for and what of it can be less, the cheapest first."""
    where = _size_of(device) if device.type == "cuda" else "memory"
    return VdakitError(
        f"out of {where} in step {step} with --batch {config.batch} --frames {config.frames} --size {config.size}: "
        f"try {', '.join(_remedies(config))}; `vdatrain plan` says what fits."
    )


def _size_of(device: torch.device) -> str:
    total = torch.cuda.get_device_properties(device).total_memory
    return f"the {total / 2**30:.0f} GiB of {torch.cuda.get_device_name(device)}"


def _remedies(config: Config) -> list[str]:
    remedies: list[str] = []
    if config.precision == "fp32":
        remedies.append("--precision bf16")
    if config.batch > 1:
        fewer = config.batch // 2
        remedies.append(f"--batch {fewer} --accumulate {config.accumulate * config.batch // fewer}")
    if config.recompute != "all":
        remedies.append("--recompute all")
    return [*remedies, "a smaller --size", "fewer --frames"]
