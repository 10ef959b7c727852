"""The optimiser: parameter groups by name, learning-rate schedule, averaged weights."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from vdaprep.errors import UsageError
from vdatrain.config import Preset
from vdatrain.distributed.fsdp import part_like, whole

_NO_DECAY = ("pos_embed", "cls_token", "mask_token", "gamma", "bias")  # last parts of names; norms are 1-D as well
_FINAL_FACTOR = 0.05  # of the peak, where the cosine ends


def parameter_groups(
    model: nn.Module, preset: Preset, *, lr: float | None, weight_decay: float
) -> list[dict[str, object]]:
    """Freeze what the preset freezes and group the rest by learning rate and weight decay.

    Every trainable parameter is in exactly one group. Raises UsageError if nothing is left to train.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        rate = preset.rate_of(name, lr=lr)
        if rate == 0:
            parameter.requires_grad_(False)
        if not parameter.requires_grad:
            continue
        decays = parameter.ndim > 1 and name.rpartition(".")[2] not in _NO_DECAY
        groups.setdefault((rate, weight_decay if decays else 0.0), []).append(parameter)
    if not groups:
        raise UsageError(f"--preset: nothing is left to train ({preset.summary}); choose another preset or variant.")
    return [
        {"params": parameters, "lr": rate, "peak_lr": rate, "weight_decay": decay}
        for (rate, decay), parameters in groups.items()
    ]


def make_optimiser(groups: list[dict[str, object]], *, device: torch.device) -> torch.optim.AdamW:
    """Return AdamW, fused: `step_where` needs that, and on the CPU it is four times as fast.

    Raises RuntimeError, torch's own, where the device has no fused kernel.
    """
    return torch.optim.AdamW(groups, betas=(0.9, 0.999), fused=True)


def rate_factor(step: int, *, warmup: int, steps: int) -> float:
    """Return the fraction of the peak rate at a step: a linear rise, then a cosine to 5 %."""
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return _FINAL_FACTOR + (1 - _FINAL_FACTOR) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def set_rates(optimiser: torch.optim.Optimizer, factor: float) -> None:
    """Give every group `factor` times its peak learning rate."""
    for group in optimiser.param_groups:
        group["lr"] = group["peak_lr"] * factor


def step_where(optimiser: torch.optim.AdamW, wanted: Bool[Tensor, ""]) -> None:
    """Take the optimiser's step if `wanted`, a flag on the device, without waiting for it.

    A fused optimiser reads `found_inf` in its kernel, as torch.amp.GradScaler uses it: where that is 1 neither weights
    nor moments nor the count of steps change, whatever the gradients are.
    """
    optimiser.found_inf = (~wanted).to(torch.float32)  # pyright: ignore[reportAttributeAccessIssue]
    optimiser.step()
    del optimiser.found_inf  # pyright: ignore[reportAttributeAccessIssue]


def moments_by_name(state: Mapping[str, Any], model: nn.Module, optimiser: torch.optim.Optimizer) -> dict[str, Any]:
    """Return an optimiser's state by parameter name, as checkpoints have it since version 2.

    One of version 1 has it by number: first the parameters of the first group, then those of the next. Raises
    ValueError if it is of other parameters than those that learn.
    """
    name_of = {parameter: name for name, parameter in model.named_parameters()}
    names = [name_of[parameter] for group in optimiser.param_groups for parameter in group["params"]]
    moments, groups = state["state"], state["param_groups"]
    if moments and all(isinstance(key, int) for key in moments):
        groups = [{**group, "params": [names[number] for number in group["params"]]} for group in groups]
        moments = {names[number]: value for number, value in moments.items()}
    if moments.keys() != set(names):
        raise ValueError("the state is of other parameters")
    return {"state": moments, "param_groups": groups}


class AveragedWeights:
    """An exponential moving average of a model's trainable parameters.

    The decay at step s is min(decay, (1 + s) / (10 + s)): at first the average is over few steps, and so of weights
    that have learnt something.
    """

    def __init__(self, model: nn.Module, *, decay: float) -> None:
        self._decay = decay
        self._average = {
            name: parameter.detach().clone() for name, parameter in model.named_parameters() if parameter.requires_grad
        }

    @torch.no_grad()
    def update(self, model: nn.Module, *, step: int, taken: Bool[Tensor, ""] | None = None) -> None:
        """Move the average towards the weights, unless the step was not `taken` (on the device)."""
        weight = 1 - min(self._decay, (1 + step) / (10 + step))
        weight = weight if taken is None else taken * weight
        current = dict(model.named_parameters())
        for name, average in self._average.items():
            average.lerp_(current[name], weight)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the averages by parameter name."""
        return self._average

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore averages by parameter name; raises KeyError if one is missing."""
        for name, average in self._average.items():
            average.copy_(part_like(state[name], average))

    def swap(self, model: nn.Module) -> None:
        """Exchange the model's weights for the averages; a second call puts them back."""
        current = dict(model.named_parameters())
        with torch.no_grad():
            for name, average in self._average.items():
                kept = current[name].detach().clone()
                current[name].copy_(average)
                average.copy_(kept)


def gradient_norm(parameters: Iterable[nn.Parameter], *, clip: float) -> Tensor:
    """Clip gradients to a total norm of `clip` (0: leave them); return the norm before."""
    limit = clip if clip > 0 else math.inf
    return whole(nn.utils.clip_grad_norm_(list(parameters), limit))
