"""What a run takes of its machine."""

import resource
import sys

import torch


def peak_memory_bytes(device: torch.device) -> int:
    """Return the most that tensors took on a GPU so far, or the most that this process took in memory, as on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak  # kibibytes but on macOS
