"""The encoder's features of a video, each frame encoded once for all windows that show it.

The encoder sees one frame at a time, so windows that share frames share their features. Without, a third of its work on
a long video would be to encode frames again, and nearly half on one of 50 frames.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Float32
from torch import Tensor

from vdatrain.inference.long_video import KEY_FRAMES, WINDOW_FRAMES
from vdatrain.models.layers.encoder import Encoder

_ENCODED_AT_ONCE = 8  # frames: their activations take a gigabyte of a large encoder at the published size


class WindowFeatures:
    """Encodes successive windows; keeps the features of frames that the next one begins with."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._device = encoder.pos_embed.device
        self._kept: dict[int, int] = {}  # by identity: a frame's place in `_levels`
        self._levels: tuple[Tensor, ...] = ()
        self._alive: tuple[object, ...] = ()  # whose identities no other frame can have meanwhile

    def of(
        self, window: Sequence[object], frames: Sequence[Float32[Tensor, "3 h w"]]
    ) -> tuple[Float[Tensor, "n p c"], ...]:
        """Return the features of a window's frames.

        Args:
            window: The frames; the same object is the same frame.
            frames: What the encoder sees of each.
        """
        places = dict(self._kept)
        new: list[Tensor] = []
        for frame, pixels in zip(window, frames, strict=True):
            if id(frame) not in places:
                places[id(frame)] = len(places)
                new.append(pixels)
        parts = [self._levels] if self._levels else []
        for first in range(0, len(new), _ENCODED_AT_ONCE):
            frames_at_once = torch.stack(new[first : first + _ENCODED_AT_ONCE])
            parts.append(self._encoder(frames_at_once.to(self._device)))
        levels = tuple(torch.cat(level) for level in zip(*parts, strict=True))
        shown = [places[id(frame)] for frame in window]
        self._keep([window[number] for number in KEY_FRAMES if len(window) == WINDOW_FRAMES], places, levels)
        if shown == list(range(len(levels[0]))):
            return levels
        return tuple(level[shown] for level in levels)

    def _keep(self, frames: Sequence[object], places: dict[int, int], levels: Sequence[Tensor]) -> None:
        distinct = {id(frame): frame for frame in frames}
        self._levels = tuple(level[[places[key] for key in distinct]] for level in levels) if distinct else ()
        self._kept = {key: place for place, key in enumerate(distinct)}
        self._alive = tuple(distinct.values())
