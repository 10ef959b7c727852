"""What a training step holds in memory at its fullest, part by part, found without computing anything."""

import gc
import weakref
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from vdatrain.config import PRESETS, TrainConfig
from vdatrain.device import Precision
from vdatrain.distributed.fsdp import gathered_bytes, kept_bytes
from vdatrain.models.layers.difference import CELLS_PER_PATCH
from vdatrain.models.layers.encoder import patch_grid
from vdatrain.models.loading import build_from_config
from vdatrain.objectives.losses import video_loss
from vdatrain.training.optim import parameter_groups

WEIGHTS, OPTIMISER, AVERAGE, BATCH, GATHERED = "weights", "optimiser", "averaged weights", "batch", "gathered blocks"
ENCODER, BRANCH, HEAD, LOSS, GRADIENTS, BACKWARD = "encoder", "branch", "head", "loss", "gradients", "backward"
MODULES: Mapping[str, str] = {"pretrained": ENCODER, "branch": BRANCH, "head": HEAD}
# What CUDA's autocast computes in float32, of the functions that the variants call.
FULL_PRECISION_ON_GPU = (F.layer_norm, F.group_norm, F.interpolate, torch.sum, Tensor.sum)


@dataclass(frozen=True)
class Footprint:
    """What lies in a rank's memory at a step's fullest moment, in bytes, and the arithmetic of the step.

    parts: the first four all the time, gathered blocks only where the model is spread over ranks; of the others what is
    left, at that moment, of what each of them made.
    """

    parts: Mapping[str, int]
    flops: int

    @property
    def total(self) -> int:
        """All of it, in bytes."""
        return sum(self.parts.values())


def footprint(config: TrainConfig, *, on_gpu: bool, ranks: int = 1) -> Footprint:
    """Go through a step forward and back on tensors that have shapes but no numbers, and keep account of their bytes.

    on_gpu: with the types that autocast chooses there. Not seen is what kernels use inside themselves, and what the
    allocator cannot give out again; what `recompute` takes is overestimated by a few per cent. Takes as long for any
    size of batch.

    ranks: that share the model, where the configuration has `shard_model`. Then weights, moments, averages and
    gradients are exactly those that the first rank keeps of them. The gathered blocks are an estimate: the most weights
    that are whole at a time, as if they were so at the fullest moment, and as much again for their gradients, which are
    whole until their block is through. Not seen is what is fetched ahead of its use, and what the ranks hand round.
    """
    ranks = ranks if config.shard_model else 1
    with torch.device("meta"):
        model = build_from_config(config)
    parameter_groups(model, PRESETS[config.preset], lr=None, weight_decay=0.0)
    autocast = partial(_autocast, config.precision, on_gpu=on_gpu)
    with FakeTensorMode(), _quick_collection():
        _give_shapes(model)
        batch = Inputs.of(config)
        # What is recomputed on fake tensors ends in cycles of references; on real ones it does not.
        tidy_up = (lambda: None) if config.recompute == "none" else gc.collect
        ledger = Ledger(before_new_peak=tidy_up, kept=partial(kept_bytes, ranks=ranks))
        with FlopCounterMode(display=False) as counter, ledger, ledger.watching(model):
            for _ in range(min(2, config.accumulate)):  # the second meets the gradients of the first
                go_through(model.train(), batch, autocast=autocast, begin=ledger.begin)
    kept = {parameter: kept_bytes(parameter, ranks=ranks) for parameter in model.parameters()}
    learnt = sum(size for parameter, size in kept.items() if parameter.requires_grad)
    always = {
        WEIGHTS: sum(kept.values()) + _bytes(model.buffers()),
        OPTIMISER: 2 * learnt,  # AdamW's two moments
        AVERAGE: learnt if config.ema else 0,
        BATCH: batch.bytes,
        GATHERED: 2 * gathered_bytes(model) if ranks > 1 else 0,
    }
    rounds = config.accumulate / min(2, config.accumulate)
    return Footprint({**always, **ledger.fullest}, round(counter.get_total_flops() * rounds))


@dataclass(frozen=True)
class Inputs:
    """The tensors that a training step is shown, all zeros but for the masks."""

    frames: Tensor
    differences: Tensor
    diff_valid: Tensor
    disparity: Tensor
    mask: Tensor

    @classmethod
    def of(cls, config: TrainConfig, *, device: str = "cpu") -> "Inputs":
        """Return a batch of the size that the configuration asks for."""
        B, T, side = config.batch, config.frames, config.size
        rows, columns = (CELLS_PER_PATCH * cells for cells in patch_grid(side, side))
        return cls(
            torch.zeros(B, T, 3, side, side, device=device),
            torch.zeros(B, T, 3, rows, columns, device=device),
            torch.ones(B, T, dtype=torch.bool, device=device),
            torch.zeros(B, T, side, side, device=device),
            torch.ones(B, T, side, side, dtype=torch.bool, device=device),
        )

    @property
    def bytes(self) -> int:
        """What they take, in bytes."""
        return _bytes((self.frames, self.differences, self.diff_valid, self.disparity, self.mask))


def go_through(
    model: nn.Module,
    batch: Inputs,
    *,
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    begin: Callable[[str], None] = lambda part: None,
) -> None:
    """Go forward and back as a training step does; `begin` is told where the loss begins, and the way back."""
    with autocast():
        prediction = model(batch.frames, batch.differences, batch.diff_valid)
    begin(LOSS)
    loss = video_loss(prediction, batch.disparity, batch.mask).total
    begin(BACKWARD)
    loss.backward()


class Ledger(TorchDispatchMode):
    """Counts the bytes of the tensors that come and go while it is entered, by the part that made them.

    `alive` is what there is now, `fullest` what there was when it was most. A tensor's memory counts once, however many
    views it has, until the last of them is gone; what existed before is not counted. before_new_peak: called on the way
    back, before more is found alive than ever. kept: the bytes that stay of a gradient once there is all of it.
    """

    def __init__(
        self,
        *,
        before_new_peak: Callable[[], object] = lambda: None,
        kept: Callable[[Tensor], int] = lambda gradient: gradient.untyped_storage().nbytes(),
    ) -> None:
        super().__init__()
        self.part = ENCODER
        self._before_new_peak = before_new_peak
        self._kept = kept
        self.alive: Counter[str] = Counter()
        self.fullest: Counter[str] = Counter()
        self._storages: dict[int, tuple[weakref.ref[torch.UntypedStorage], str, int]] = {}

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """Do what was asked and note the memory that is new."""
        given = {_key(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and _key(leaf) not in given:
                storage = leaf.untyped_storage()
                self._note(storage, self.part, storage.nbytes())
        return result

    @contextmanager
    def watching(self, model: nn.Module) -> Generator[None]:
        """While it lasts, know which part of a variant is at work, and its gradients by their own name."""
        parts = [(getattr(model, name), part) for name, part in MODULES.items() if getattr(model, name) is not None]
        hooks = [module.register_forward_pre_hook(lambda *_, part=part: self.begin(part)) for module, part in parts]
        hooks += [
            parameter.register_post_accumulate_grad_hook(self._rename_gradient)
            for parameter in model.parameters()
            if parameter.requires_grad
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def begin(self, part: str) -> None:
        """Count what is made from here on as made by `part`."""
        self.part = part

    def _rename_gradient(self, parameter: Tensor) -> None:
        assert parameter.grad is not None
        self._forget(_key(parameter.grad))
        self._note(parameter.grad.untyped_storage(), GRADIENTS, self._kept(parameter.grad))

    def _note(self, storage: torch.UntypedStorage, part: str, size: int) -> None:
        key = storage._cdata
        if key in self._storages:
            return
        if self.part == BACKWARD and self.alive.total() + size > self.fullest.total():
            self._before_new_peak()
        self._storages[key] = weakref.ref(storage, lambda _: self._forget(key)), part, size
        self.alive[part] += size
        if self.alive.total() > self.fullest.total():
            self.fullest = self.alive.copy()

    def _forget(self, key: int) -> None:
        if key in self._storages:
            _, part, size = self._storages.pop(key)
            self.alive[part] -= size


@contextmanager
def _quick_collection() -> Generator[None]:
    """Let the collector of cycles look only at what is made in the meantime."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _key(tensor: Tensor) -> int:
    """Tell one piece of memory from another."""
    return tensor.untyped_storage()._cdata


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.untyped_storage().nbytes() for tensor in tensors)


# ------------------------------------------------------------------------------------------- tensors without numbers


def _give_shapes(model: nn.Module) -> None:
    """Turn a model built on the device `meta` into one on the CPU, in the fake tensor mode that is on."""
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            fake = nn.Parameter(_like(parameter), requires_grad=parameter.requires_grad)
            setattr(module, name, fake)
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, _like(buffer))


def _like(tensor: Tensor) -> Tensor:
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cpu")


@contextmanager
def _autocast(precision: str, *, on_gpu: bool) -> Generator[None]:
    """Choose types on the CPU as autocast would, or as it would on a GPU, whose list is another."""
    with Precision(torch.device("cpu"), precision).autocast(), _AsOnGpu() if on_gpu else nullcontext():
        yield


class _AsOnGpu(TorchFunctionMode):
    """Lets CPU autocast keep those functions in float32 that CUDA autocast keeps so; both agree on what they lower."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func not in FULL_PRECISION_ON_GPU or not torch.is_autocast_enabled("cpu"):
            return func(*args, **kwargs)
        first, *others = args
        with torch.autocast("cpu", enabled=False):
            return func(first.float(), *others, **kwargs)
