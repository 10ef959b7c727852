"""A training step's peak memory, part by part, and arithmetic, on fake tensors."""

import gc
import weakref
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
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
from vdatrain.data.buckets import largest_view
from vdatrain.device import Precision
from vdatrain.distributed.fsdp import gathered_bytes, kept_bytes
from vdatrain.models.canonical import is_metric
from vdatrain.models.layers.encoder import patch_grid
from vdatrain.models.loading import build_from_config
from vdatrain.models.variants import cells_per_patch
from vdatrain.objectives.losses import ExtraTerms, video_loss
from vdatrain.objectives.metric import metric_loss
from vdatrain.objectives.warping import Cameras
from vdatrain.training.optim import parameter_groups

WEIGHTS, OPTIMISER, AVERAGE, BATCH, GATHERED = "weights", "optimiser", "averaged weights", "batch", "gathered blocks"
ENCODER, BRANCH, HEAD, LOSS, GRADIENTS, BACKWARD = "encoder", "branch", "head", "loss", "gradients", "backward"
MODULES: Mapping[str, str] = {"pretrained": ENCODER, "branch": BRANCH, "head": HEAD}
"""The parts of a variant, by the names of its modules."""
FULL_PRECISION_ON_GPU = (F.layer_norm, F.group_norm, F.interpolate, torch.sum, Tensor.sum)
"""What CUDA's autocast computes in float32, of the functions that the variants call."""


@dataclass(frozen=True)
class Footprint:
    """Memory and arithmetic of a rank's training step."""

    parts: Mapping[str, int]
    """Bytes at the peak, by what they hold (weights, optimiser, averages, batch, gathered blocks) or by which part made
    them (encoder, branch, head, loss, gradients, backward)."""
    flops: int
    """Floating-point operations of the step."""

    @property
    def total(self) -> int:
        """All of it, in bytes."""
        return sum(self.parts.values())


def footprint(config: TrainConfig, *, on_gpu: bool, ranks: int = 1) -> Footprint:
    """Count the bytes of a step, run on fake tensors, which have shapes but no numbers.

    Not counted are workspaces inside kernels and the allocator's fragments; with `recompute` the peak is overestimated
    by a few per cent. The time that this takes does not depend on the batch.

    With `shard_model`, weights, moments, averages and gradients are exactly those of the first rank. Gathered blocks
    are an estimate: the most weights that are gathered at a time, as if at the peak, and as much again for their
    gradients. Not counted are blocks that are prefetched, and buffers of communication.

    Args:
        config: the configuration.
        on_gpu: use the types that autocast chooses on a GPU.
        ranks: processes that a model with `shard_model` is spread over.
    """
    ranks = ranks if config.shard_model else 1
    with torch.device("meta"):
        model = build_from_config(config)
    parameter_groups(model, PRESETS[config.preset], lr=None, weight_decay=0.0)
    autocast = partial(_autocast, config.precision, on_gpu=on_gpu)
    with FakeTensorMode(), _quick_collection():
        _give_shapes(model)
        batches = Inputs.of_step(config)
        # On fake tensors, unlike on real ones, recomputation leaves cycles of references.
        collect = (lambda: None) if config.recompute == "none" else gc.collect
        ledger = Ledger(before_new_peak=collect, kept=partial(kept_bytes, ranks=ranks))
        with FlopCounterMode(display=False) as counter, ledger, ledger.watching(model):
            for _ in range(min(2, config.accumulate)):  # the second meets the gradients of the first
                for batch in batches:
                    forward_backward(model.train(), batch, autocast=autocast, begin=ledger.begin)
    kept = {parameter: kept_bytes(parameter, ranks=ranks) for parameter in model.parameters()}
    learnt = sum(size for parameter, size in kept.items() if parameter.requires_grad)
    always = {
        WEIGHTS: sum(kept.values()) + _bytes(model.buffers()),
        OPTIMISER: 2 * learnt,  # AdamW's two moments
        AVERAGE: learnt if config.ema else 0,
        BATCH: sum(batch.bytes for batch in batches),
        GATHERED: 2 * gathered_bytes(model) if ranks > 1 else 0,
    }
    rounds = config.accumulate / min(2, config.accumulate)
    return Footprint({**always, **ledger.fullest}, round(counter.get_total_flops() * rounds))


@dataclass(frozen=True)
class Inputs:
    """A batch of zeros, every pixel and difference valid."""

    frames: Tensor
    """Images, as the model takes them."""
    differences: Tensor
    """Differences of frames."""
    diff_valid: Tensor
    """Which of them are valid."""
    disparity: Tensor
    """The truth, normalised."""
    mask: Tensor
    """Which of its pixels are known."""
    disparity_range: Tensor
    """Of which disparities it is that."""
    extra: ExtraTerms | None
    """What is added to the published loss."""

    @classmethod
    def of(cls, config: TrainConfig, *, device: str = "cpu") -> "Inputs":
        """Return a batch of the configuration's size, the largest of its shapes."""
        B, T, (height, width) = config.batch, config.frames, largest_view(config)
        cells = cells_per_patch(config.variant)
        rows, columns = (cells * patches for patches in patch_grid(height, width))
        frames = torch.zeros(B, T, 3, height, width, device=device)
        cameras = Cameras(
            torch.ones(B, T, 4, device=device),
            torch.eye(4, device=device).expand(B, T, 4, 4),
            torch.ones(B, 2, device=device),
        )
        return cls(
            frames,
            torch.zeros(B, T, 3, rows, columns, device=device),
            torch.ones(B, T, dtype=torch.bool, device=device),
            torch.zeros(B, T, height, width, device=device),
            torch.ones(B, T, height, width, dtype=torch.bool, device=device),
            torch.ones(B, 2, device=device),
            ExtraTerms.of(config, frames, cameras),
        )

    @classmethod
    def of_step(cls, config: TrainConfig) -> list["Inputs"]:
        """Return what a step's forward passes take: windows, then the images beside them."""
        if not config.images_per_clip:
            return [cls.of(config)]
        images = replace(config, frames=1, batch=config.batch * config.images_per_clip, aspect="square")
        return [cls.of(config), cls.of(images)]

    @property
    def bytes(self) -> int:
        """The bytes of all of them."""
        return _bytes((self.frames, self.differences, self.diff_valid, self.disparity, self.mask))


def forward_backward(
    model: nn.Module,
    batch: Inputs,
    *,
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    begin: Callable[[str], None] = lambda part: None,
) -> None:
    """Run a pass as a training step does; `begin` is called before loss and backward."""
    with autocast():
        prediction = model(batch.frames, batch.differences, batch.diff_valid)
    begin(LOSS)
    if is_metric(model):
        loss = metric_loss(prediction, batch.disparity, batch.mask, batch.disparity_range, extra=batch.extra).total
    else:
        loss = video_loss(prediction, batch.disparity, batch.mask, extra=batch.extra).total
    begin(BACKWARD)
    loss.backward()


class Ledger(TorchDispatchMode):
    """Counts the bytes of tensors made while it is entered, by the part that made them.

    `alive` has those that exist now, `fullest` those at the peak. A tensor's storage counts once, however many views it
    has, until the last of them is freed.

    Args:
        before_new_peak: called in the backward pass before a new peak is noted.
        kept: returns the bytes that are kept of a gradient once it is complete.
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
        """Call the operation and note the storages that are new."""
        given = {_key(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and _key(leaf) not in given:
                storage = leaf.untyped_storage()
                self._note(storage, self.part, storage.nbytes())
        return result

    @contextmanager
    def watching(self, model: nn.Module) -> Generator[None]:
        """Follow which part of a variant runs, and count gradients as such, in the block."""
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
        """Count what is made from here on for `part`."""
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
    """Exempt what exists already from garbage collection while the block runs."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _key(tensor: Tensor) -> int:
    """Return the identity of a tensor's storage."""
    return tensor.untyped_storage()._cdata


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.untyped_storage().nbytes() for tensor in tensors)


# ------------------------------------------------------------------------------------------- tensors without numbers


def _give_shapes(model: nn.Module) -> None:
    """Turn a model built on the device `meta` into one of fake tensors on the CPU."""
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
    """Choose types on the CPU as autocast does there, or as it does on a GPU."""
    with Precision(torch.device("cpu"), precision).autocast(), _AsOnGpu() if on_gpu else nullcontext():
        yield


class _AsOnGpu(TorchFunctionMode):
    """Makes CPU autocast keep in float32 what CUDA autocast does; both lower the same functions."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func not in FULL_PRECISION_ON_GPU or not torch.is_autocast_enabled("cpu"):
            return func(*args, **kwargs)
        first, *others = args
        with torch.autocast("cpu", enabled=False):
            return func(first.float(), *others, **kwargs)
