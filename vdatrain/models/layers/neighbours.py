"""Each frame's neighbours in time, in a clip or in what a stream remembers."""

import torch
from jaxtyping import Bool, Num
from torch import Tensor, nn


class Neighbours(nn.Module):
    """Looks up the frames at some distances before and after each frame.

    Where there is none, or a difference between is not valid (frames that do not follow one another), it is the frame
    itself: the difference of the two is then zero.

    Args:
        distances: in frames, 1 being the next.
    """

    past_only = False
    """No frame has a later one."""

    def __init__(self, *distances: int) -> None:
        super().__init__()
        self.distances = distances
        self.is_streaming = False
        self._kept: tuple[Tensor, Tensor] | None = None

    def remember(self, num_frames: int | None) -> None:
        """Begin a stream, in which each call shows the next frames, or end it with None."""
        self.is_streaming = num_frames is not None
        self._kept = None

    def forward(
        self, values: Num[Tensor, "b t ..."], diff_valid: Bool[Tensor, "b t"]
    ) -> tuple[list[Num[Tensor, "b t ..."]], list[Num[Tensor, "b t ..."]]]:
        """Return the values of earlier and of later frames, by distance.

        diff_valid: whether each frame follows the one before it.
        """
        own = values
        if self.is_streaming:
            values, diff_valid = self._recall(values, diff_valid)
        # Frames follow one another where the number of breaks up to them is the same.
        breaks = (~diff_valid).cumsum(1)
        earlier = [_before(values, breaks, distance)[:, -own.shape[1] :] for distance in self.distances]
        if self.is_streaming or self.past_only:
            return earlier, [own] * len(earlier)
        turned = values.flip(1), breaks.flip(1)
        return earlier, [_before(*turned, distance).flip(1) for distance in self.distances]

    def _recall(
        self, values: Num[Tensor, "b n ..."], diff_valid: Bool[Tensor, "b n"]
    ) -> tuple[Num[Tensor, "b t ..."], Bool[Tensor, "b t"]]:
        """Add frames to those that are remembered; returns all, these last."""
        if self._kept is not None:
            values = torch.cat([self._kept[0], values], dim=1)
            diff_valid = torch.cat([self._kept[1], diff_valid], dim=1)
        most = max(self.distances)
        self._kept = values[:, -most:], diff_valid[:, -most:]
        return values, diff_valid


def _before(values: Num[Tensor, "b t ..."], breaks: Num[Tensor, "b t"], distance: int) -> Num[Tensor, "b t ..."]:
    """Return each frame's value `distance` frames before, its own where the clip breaks."""
    if distance >= values.shape[1]:
        return values
    joined = breaks[:, distance:] == breaks[:, :-distance]
    joined = joined.reshape(*joined.shape, *[1] * (values.ndim - 2))
    found = torch.where(joined, values[:, :-distance], values[:, distance:])
    return torch.cat([values[:, :distance], found], dim=1)
