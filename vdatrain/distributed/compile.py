"""A model's forward pass, compiled where that works."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from vdatrain.data.batch import Batch
from vdatrain.device import is_out_of_memory

MAX_GRAPHS = 64
"""Kinds of input that each have a compiled graph of their own: shapes of a batch, times patterns of attention in time.

torch stops at 8, and then computes without compiled graphs, without an error: fewer than `--attention chunk` with
`--images-per-clip` draws in windows of 32 frames.
"""


class CompiledForward:
    """Calls a model, with `compiled` through torch.compile until that fails, logged once.

    Where batches have several `shapes`, it is compiled for each when that first comes.

    The model itself, its parameters' names and its modes are left as they are. It may be wrapped for several ranks.
    """

    def __init__(self, model: nn.Module, *, compiled: bool, warn: Callable[[str], None], shapes: int = 1) -> None:
        self._model = model
        self._compiled = _compile(model, shapes=shapes) if compiled else None
        self._warn = warn

    def __call__(self, batch: Batch) -> Tensor:
        """Return the model's disparity for a batch, [b, t, h, w], with its graph."""
        inputs = (batch.frames, batch.differences, batch.diff_valid)
        if self._compiled is not None:
            try:
                return self._compiled(*inputs)
            except _failures() as error:
                self._fall_back(error)
        return self._model(*inputs)

    def joining(self, wanted: bool) -> AbstractContextManager[object]:
        """Return the context of a pass: gradients are averaged over the ranks if `wanted`.

        Without it they are added up locally; those of a sharded model are averaged in every pass.
        """
        if wanted or not isinstance(self._model, DistributedDataParallel):
            return nullcontext()
        return self._model.no_sync()

    def warm_up(self, compute_gradient: Callable[[], object]) -> None:
        """Compile now, by a forward and backward pass whose gradients are discarded.

        The backward graph compiles on first use, and what fails there is no exception of torch.compile's own; where
        torch.compile is not the cause, the first step raises it again.
        """
        if self._compiled is None:
            return
        try:
            compute_gradient()
        except (RuntimeError, OSError, ImportError, AssertionError) as error:
            if is_out_of_memory(error):
                raise
            self._fall_back(error)
        self._model.zero_grad(set_to_none=True)

    def _fall_back(self, error: Exception) -> None:
        self._compiled = None
        reason = " ".join(str(error).partition("\n\n")[0].split()) or type(error).__name__
        self._warn(f"--compile: torch.compile failed ({reason}); the run goes on without it.")


def _compile(model: nn.Module, *, shapes: int) -> Callable[..., Tensor]:
    """Compile a model, each shape of batches by itself where there are several."""
    import torch._dynamo as dynamo  # takes a while

    limit = "recompile_limit" if hasattr(dynamo.config, "recompile_limit") else "cache_size_limit"  # until torch 2.6
    setattr(dynamo.config, limit, max(MAX_GRAPHS * shapes, getattr(dynamo.config, limit)))
    return torch.compile(model) if shapes == 1 else torch.compile(model, dynamic=False)


def _failures() -> type[Exception]:
    """Return the base of what torch.compile raises; importing it takes a while."""
    from torch._dynamo.exc import TorchDynamoException

    return TorchDynamoException
