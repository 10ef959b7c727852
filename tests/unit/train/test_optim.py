"""Parameter groups, the schedule, the averaged weights."""

import math

import pytest
import torch
from torch import nn

from vdaprep.errors import UsageError
from vdatrain.config import PRESETS, Preset
from vdatrain.distributed.fsdp import full_state
from vdatrain.models import variants
from vdatrain.training.optim import (
    AveragedWeights,
    gradient_norm,
    make_optimiser,
    moments_by_name,
    parameter_groups,
    rate_factor,
    set_rates,
    step_where,
)


@pytest.mark.parametrize("variant", variants.names())
@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_groups_hold_every_trainable_parameter_once(variant: str, preset: str) -> None:
    model = variants.build(variant, encoder="tiny")
    if preset == "adapter" and not variants.own_prefixes(variant):
        with pytest.raises(UsageError, match="nothing is left to train"):
            parameter_groups(model, PRESETS[preset], lr=None, weight_decay=0.1)
        return
    groups = parameter_groups(model, PRESETS[preset], lr=None, weight_decay=0.1)
    grouped = [id(parameter) for group in groups for parameter in group["params"]]
    trainable = {id(parameter): name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == set(trainable)
    if preset == "paper":
        assert not any(name.startswith("pretrained.") for name in trainable.values())
    if preset == "adapter":
        assert all(name.startswith(variants.own_prefixes(variant)) for name in trainable.values())


def test_norms_biases_and_positions_do_not_decay() -> None:
    model = variants.build("conv", encoder="tiny")
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for group in parameter_groups(model, PRESETS["scratch"], lr=None, weight_decay=0.1):
        for parameter in group["params"]:
            name = names[id(parameter)]
            plain = parameter.ndim == 1 or name.endswith(("pos_embed", "cls_token"))
            assert group["weight_decay"] == (0.0 if plain else 0.1), name


def test_lr_replaces_the_greatest_rate_and_scales_the_others() -> None:
    rates = PRESETS["finetune"]
    assert rates.rate_of("branch.x", lr=None) == 1e-4
    assert rates.rate_of("branch.x", lr=1e-3) == pytest.approx(1e-3)
    assert rates.rate_of("pretrained.x", lr=1e-3) == pytest.approx(1e-5)


def test_the_rate_rises_and_falls() -> None:
    factors = [rate_factor(step, warmup=10, steps=100) for step in range(100)]
    assert factors[0] == 0.1
    assert max(factors) == factors[9] == 1
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert rate_factor(100, warmup=10, steps=100) == pytest.approx(0.05)
    assert rate_factor(0, warmup=0, steps=5) == 1


def test_rates_follow_their_peaks() -> None:
    model = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)})
    groups = parameter_groups(model, Preset("", (("a.", 1e-2), ("", 1e-3))), lr=None, weight_decay=0.0)
    optimiser = make_optimiser(groups, device=torch.device("cpu"))
    set_rates(optimiser, 0.5)
    assert sorted(group["lr"] for group in optimiser.param_groups) == [5e-4, 5e-3]


def test_the_average_is_the_formula_and_can_be_swapped() -> None:
    model = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(1.0)
    average = AveragedWeights(model, decay=0.5)
    with torch.no_grad():
        model.weight.fill_(3.0)
    average.update(model, step=0)  # decay 1 / 10 in the beginning
    assert average.state_dict()["weight"].item() == pytest.approx(0.1 * 1 + 0.9 * 3)
    average.update(model, step=1000)
    assert average.state_dict()["weight"].item() == pytest.approx(0.5 * 2.8 + 0.5 * 3)
    average.swap(model)
    assert model.weight.item() == pytest.approx(2.9)
    average.swap(model)
    assert model.weight.item() == 3.0


def test_moments_by_number_are_those_by_name() -> None:
    """Numbers run through the groups, whose order is not the model's; what does not learn has none."""
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1), nn.Linear(1, 1))
    model[2].requires_grad_(False)
    groups = [{"params": [model[1].weight, model[0].weight], "lr": 0.1}, {"params": [model[0].bias, model[1].bias]}]
    optimiser = make_optimiser(groups, device=torch.device("cpu"))
    model[1](model[0](torch.ones(1, 2))).sum().backward()
    optimiser.step()
    by_number = optimiser.state_dict()
    named = moments_by_name(by_number, model, optimiser)
    assert {name: value["exp_avg"].shape for name, value in named["state"].items()} == {
        name: value.shape for name, value in model.named_parameters() if not name.startswith("2.")
    }
    assert [group["params"] for group in named["param_groups"]] == [["1.weight", "0.weight"], ["0.bias", "1.bias"]]
    assert full_state(model, optimiser)[1]["param_groups"] == named["param_groups"]
    assert moments_by_name(named, model, optimiser) == named
    for other in ({**named["state"], "2.weight": {}}, {}, {"0.weight": named["state"]["0.weight"]}):
        with pytest.raises(ValueError, match="is of other parameters"):
            moments_by_name({**named, "state": other}, model, optimiser)


def test_taking_a_state_before_the_first_step_takes_no_step() -> None:
    model = nn.Linear(2, 3)
    optimiser = make_optimiser([{"params": list(model.parameters())}], device=torch.device("cpu"))
    assert full_state(model, optimiser)[1] == {}
    assert not optimiser.state


def test_gradients_are_clipped_to_a_norm() -> None:
    parameter = nn.Parameter(torch.zeros(2))
    parameter.grad = torch.tensor([3.0, 4.0])
    assert gradient_norm([parameter], clip=0.0).item() == 5
    assert gradient_norm([parameter], clip=1.0).item() == 5
    assert math.isclose(parameter.grad.norm().item(), 1, rel_tol=1e-5)


def test_a_step_that_is_not_wanted_changes_nothing() -> None:
    model = nn.Linear(2, 2)
    groups = parameter_groups(model, Preset("", (("", 1e-2),)), lr=None, weight_decay=0.1)
    optimiser = make_optimiser(groups, device=torch.device("cpu"))
    average = AveragedWeights(model, decay=0.5)

    def step(value: float, *, wanted: bool) -> tuple[list[torch.Tensor], float]:
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, value)
        step_where(optimiser, torch.tensor(wanted))
        average.update(model, step=9, taken=torch.tensor(wanted))
        moments = [item for values in optimiser.state.values() for item in values.values()]
        everything = [*model.parameters(), *moments, *average.state_dict().values()]
        return [item.detach().clone() for item in everything], float(optimiser.state[model.weight]["step"])

    first, _ = step(1.0, wanted=True)
    skipped, count = step(math.nan, wanted=False)
    assert count == 1
    assert all(torch.equal(before, after) for before, after in zip(first, skipped, strict=True))
    second, count = step(1.0, wanted=True)
    assert count == 2
    assert not any(torch.equal(before, after) for before, after in zip(first, second, strict=True) if before.ndim)
    assert all(item.isfinite().all() for item in second)


@pytest.mark.parametrize(
    ("preset", "encoder", "head", "branch"),
    [
        ("paper", 0.0, 1e-4, 1e-4),
        ("finetune", 1e-6, 1e-5, 1e-4),
        ("adapter", 0.0, 0.0, 1e-4),
        ("scratch", 3e-4, 3e-4, 3e-4),
    ],
)
def test_presets(preset: str, encoder: float, head: float, branch: float) -> None:
    model = variants.build("conv", encoder="tiny")
    groups = parameter_groups(model, PRESETS[preset], lr=None, weight_decay=0.1)
    rates = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    for name, parameter in model.named_parameters():
        expected = {"pretrained": encoder, "head": head, "branch": branch}[name.partition(".")[0]]
        idle = name == "pretrained.mask_token" or name.startswith("head.scratch.refinenet4.resConfUnit1.")
        assert rates.get(id(parameter), 0.0) == (0.0 if idle else expected), name
