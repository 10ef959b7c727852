"""A streaming model as a function of tensors alone, its memory an input and an output.

What `remember_frames` keeps inside the temporal modules is here an input and an output, of fixed sizes, so that a graph
of it (ONNX) needs no state. The first frame comes with caches of zeros and `seen` 0; each later one with what the call
before gave. With `seen` at most 31 the caches are full, and the oldest frame makes room.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from vdaprep.errors import UsageError
from vdatrain.models.layers.neighbours import Neighbours
from vdatrain.models.layers.temporal import PUBLISHED_FRAMES, FixedMemory, TemporalAttention, remember_frames

CACHED_FRAMES = PUBLISHED_FRAMES - 1
"""Frames before the present one that a stream remembers."""


class StreamStep(nn.Module):
    """A model's next frame of a stream.

    Args:
        model: a variant in eval mode that remembers nothing but what temporal attention does.
        window: what the model takes of a frame, by name, of which size and number the later ones are.

    Raises:
        UsageError: the variant remembers neighbouring frames besides.
    """

    def __init__(self, model: nn.Module, window: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.model = model
        self._given = len(window)
        self.eval()
        others = [layer for layer in model.modules() if isinstance(layer, Neighbours)]
        self._layers = [layer for layer in model.modules() if isinstance(layer, TemporalAttention)]
        if others:
            raise UsageError(
                "--stream: this variant remembers neighbouring frames besides what temporal attention does, which a "
                "graph has no caches for; export a variant such as basic or conv."
            )
        self.caches = self._empty(window)
        """The caches of a stream that has seen no frame, by name."""

    def _empty(self, window: Mapping[str, Tensor]) -> dict[str, Tensor]:
        with torch.no_grad(), remember_frames(self.model):
            self.model(*window.values())
            sizes = [layer.memory.sizes() for layer in self._layers if layer.memory is not None]
        empty = {
            f"{kind}_{number}": torch.zeros(sequences, CACHED_FRAMES, channels)
            for number, (sequences, channels) in enumerate(sizes)
            for kind in ("keys", "values")
        }
        return {"seen": torch.zeros((), dtype=torch.int64), **empty}

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Return the disparity [1, 1, h, w], then the caches for the next frame.

        tensors: what the model takes of the frame; then the caches, in the order of `caches`.
        """
        window, (seen, *caches) = tensors[: self._given], tensors[self._given :]
        pairs = zip(caches[::2], caches[1::2], strict=True)
        memories = [FixedMemory(keys, values, seen) for keys, values in pairs]
        try:
            for layer, memory in zip(self._layers, memories, strict=True):
                layer.memory = memory
            disparity = self.model(*window)
        finally:
            for layer in self._layers:
                layer.memory = None
        kept = [cache for memory in memories for cache in (memory.keys, memory.values)]
        return disparity, (seen + 1).clamp(max=CACHED_FRAMES), *kept
