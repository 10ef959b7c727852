"""Statistics of a frame's differences: how much moves, where, and how the exposure changes."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from vdatrain.models.layers.difference import CELLS_PER_PATCH

QUANTILES = (0.1, 0.5, 0.9, 0.99)
GRID = CELLS_PER_PATCH  # rows and columns: a frame of any size splits into them without a rest
_OF_ONE = 3 + 1 + 1 + len(QUANTILES) + GRID**2


class MotionStatistics(nn.Module):
    """Describes each frame's past difference, and its future one; nothing in it learns.

    Of each: its mean, by colour, which is the change of exposure; whether it is valid; and of its absolute value once
    that mean is subtracted the mean, QUANTILES over patches, and means over a GRID x GRID of the frame.
    """

    count = 2 * _OF_ONE
    """Numbers that describe a frame."""

    def forward(self, pairs: Float[Tensor, "b t 8 dh dw"]) -> Float[Tensor, "b t s"]:
        """Return the numbers of each frame, zeros where a difference is not valid."""
        both = pairs.float().unflatten(2, (2, -1)).flatten(0, 2)
        colours, flag = both[:, :3], both[:, 3:, 0, 0]
        exposure = colours.mean(dim=(2, 3))
        motion = (colours - exposure[:, :, None, None]).abs().mean(dim=1, keepdim=True)
        patches = F.avg_pool2d(motion, CELLS_PER_PATCH).flatten(1).sort(dim=1).values
        places = [round(quantile * (patches.shape[1] - 1)) for quantile in QUANTILES]
        quantiles = torch.stack([patches[:, place] for place in places], dim=1)
        rows, columns = (side // GRID for side in motion.shape[-2:])
        grid = F.avg_pool2d(motion, (rows, columns)).flatten(1)
        numbers = torch.cat([exposure, flag, grid.mean(dim=1, keepdim=True), quantiles, grid], dim=1)
        return numbers.unflatten(0, (*pairs.shape[:2], 2)).flatten(2)
