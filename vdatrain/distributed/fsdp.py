"""Sharded training (FSDP2): weights, gradients and moments are divided over the ranks."""

import math
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from vdatrain.models.layers.dpt import TemporalDPTHead
from vdatrain.models.layers.encoder import Encoder


def shard(model: nn.Module, *, world: int, device: torch.device) -> None:
    """Shard every parameter over the ranks; a block's are gathered while it computes (FSDP2).

    The weights have to be the same on all ranks. Names and modes do not change; gradients become means over the ranks.
    """
    from torch.distributed.device_mesh import init_device_mesh  # with the rest, seconds that few need
    from torch.distributed.fsdp import fully_shard

    # The model's output is a view; torch warns of what changing it in place would do, which nothing does.
    warnings.filterwarnings("ignore", message=".*returned a view tensor", category=UserWarning)
    model.to(memory_format=torch.contiguous_format)  # fully_shard takes no other
    mesh = init_device_mesh(device.type, (world,))
    for block in blocks(model):
        fully_shard(block, mesh=mesh)


def blocks(model: nn.Module) -> Iterator[nn.Module]:
    """Yield the parts of a model whose weights are gathered together, inner ones first."""
    for module in model.modules():
        if isinstance(module, Encoder):
            yield from module.blocks
        if isinstance(module, TemporalDPTHead):
            yield from module.motion_modules
            yield module
    yield model


def kept_bytes(tensor: Tensor, *, ranks: int) -> int:
    """Return the bytes of a tensor, cut along its first axis, that the first rank keeps.

    The others keep as much, or less where the axis is shorter than all their parts: a row is never cut.
    """
    rows = max(1, tensor.shape[0] if tensor.ndim else 1)
    return math.ceil(rows / ranks) * (tensor.nbytes // rows)


def gathered_bytes(model: nn.Module) -> int:
    """Return the bytes of all weights that are whole at the same time, where they are most.

    Those are a block's, those of the parts around it and, throughout a step, those that are in no smaller part.
    """
    parts = list(blocks(model))
    own: list[int] = []
    counted: set[nn.Parameter] = set()
    for part in parts:
        mine = set(part.parameters()) - counted
        counted |= mine
        own.append(sum(parameter.nbytes for parameter in mine))
    around = [[part in set(outer.modules()) for outer in parts] for part in parts]
    return max(sum(size for size, holds in zip(own, row, strict=True) if holds) for row in around)


def whole(tensor: Tensor) -> Tensor:
    """Return the full tensor; all ranks have to call this for one that is sharded."""
    return tensor.full_tensor() if _is_spread(tensor) else tensor  # pyright: ignore[reportAttributeAccessIssue]


def part_like(tensor: Tensor, example: Tensor) -> Tensor:
    """Return a tensor that every rank has in full, sharded and laid out as `example`.

    A fused optimiser assumes, without a check, that weights and moments have the same layout.
    """
    if not _is_spread(example):
        return torch.empty_like(example, dtype=tensor.dtype, device=tensor.device).copy_(tensor)
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(example, DTensor)
    return distribute_tensor(tensor.contiguous().to(example.device), example.device_mesh, example.placements)


def _is_spread(tensor: Tensor) -> bool:
    """Say whether it is a DTensor, without importing what that is."""
    return hasattr(tensor, "full_tensor")


def full_state(model: nn.Module, optimiser: torch.optim.Optimizer) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return weights and the optimiser's state by parameter name, whole, on rank 0's host.

    All ranks have to call it, also those of DDP; the others get nothing. On the CPU the tensors are the model's own.
    """
    from torch.distributed.checkpoint import state_dict as checkpoint  # two seconds

    options = checkpoint.StateDictOptions(full_state_dict=True, cpu_offload=True)
    weights = checkpoint.get_model_state_dict(model, options=options)
    # Before the first step torch would take one to have a state, with gradients of zero; but that step would count.
    moments = checkpoint.get_optimizer_state_dict(model, optimiser, options=options) if optimiser.state else {}
    return weights, moments


def spread_moments(state: dict[str, Any], model: nn.Module, optimiser: torch.optim.Optimizer) -> None:
    """Give an optimiser a state that every rank has whole, laid out as its parameters are."""
    from torch.distributed.checkpoint import state_dict as checkpoint

    options = checkpoint.StateDictOptions(full_state_dict=True)
    checkpoint.set_optimizer_state_dict(model, optimiser, state, options=options)
    for parameter, moments in optimiser.state.items():
        for name, value in moments.items():
            if value.shape == parameter.shape:  # a fused optimiser assumes, without a check, one layout for both
                moments[name] = torch.empty_like(parameter).copy_(value)
