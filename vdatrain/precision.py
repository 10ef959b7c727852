"""The device that computes, and how finely."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch

TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Precision:
    """A device and the type that matrix products and convolutions are computed in there: fp32, bf16 or fp16."""

    device: torch.device
    name: str = "fp32"

    def autocast(self) -> AbstractContextManager[object]:
        """Return the context that a forward pass runs in."""
        if self.name == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=TYPES[self.name])

    def scaler(self) -> torch.amp.GradScaler:
        """Return what keeps small fp16 gradients from vanishing; it does nothing at other precisions."""
        return torch.amp.GradScaler(self.device.type, enabled=self.name == "fp16")


def default_device() -> torch.device:
    """Return the GPU if there is one, the CPU if not."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
