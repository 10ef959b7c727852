"""What a variant costs: the arithmetic of a frame, counted without computing it."""

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from vdatrain.models.layers.difference import CELLS_PER_PATCH
from vdatrain.models.layers.encoder import patch_grid

COUNTED_FRAMES = 8  # attention over time grows with the clip, by 0.1 % from 8 frames to 32


def gflop_per_frame(model: nn.Module, *, size: int, num_frames: int = COUNTED_FRAMES) -> float:
    """Return the 10^9 operations that a forward pass takes per frame of `size` x `size` pixels.

    model: a variant, built on the device `meta`. A multiplication and an addition count as two; matrix products and
    convolutions are counted, as everywhere, the rest is not. Raises ValueError unless size splits into patches.
    """
    cells = getattr(model, "cells_per_patch", CELLS_PER_PATCH)
    rows, columns = (cells * side for side in patch_grid(size, size))
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        frames = torch.empty(1, num_frames, 3, size, size)
        differences = torch.empty(1, num_frames, 3, rows, columns)
        model(frames, differences, torch.ones(1, num_frames, dtype=torch.bool))
    return counter.get_total_flops() / num_frames / 1e9
