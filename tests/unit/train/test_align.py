"""The closed-form fit against a solver, and where there is no answer."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vdatrain.objectives.alignment import ScaleShiftFit, fit_scale_shift


def noisy(*shape: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    prediction = torch.rand(shape, generator=generator, dtype=torch.float64)
    target = 3 * prediction - 1 + 0.1 * torch.randn(shape, generator=generator, dtype=torch.float64)
    return prediction, target, torch.rand(shape, generator=generator) < 0.6


@settings(max_examples=50, deadline=None)
@given(scale=st.floats(-100, 100), shift=st.floats(-100, 100))
def test_affine_is_recovered(scale: float, shift: float) -> None:
    prediction, _, mask = noisy(2, 50)
    found_scale, found_shift = fit_scale_shift(prediction, scale * prediction + shift, mask)
    torch.testing.assert_close(found_scale, torch.full_like(found_scale, scale), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found_shift, torch.full_like(found_shift, shift), rtol=1e-9, atol=1e-9)


def test_agrees_with_a_solver() -> None:
    prediction, target, mask = noisy(2, 3, 40)
    scale, shift = fit_scale_shift(prediction, target, mask)
    for index in [(0, 0), (1, 2)]:
        x = prediction[index][mask[index]]
        columns = torch.stack([x, torch.ones_like(x)], dim=-1)
        expected = torch.linalg.lstsq(columns, target[index][mask[index], None]).solution[:, 0]
        torch.testing.assert_close(torch.stack([scale[index], shift[index]]), expected)


def test_masked_values_may_be_anything() -> None:
    prediction, target, mask = noisy(2, 40)
    expected = fit_scale_shift(prediction, target, mask)
    found = fit_scale_shift(prediction.where(mask, torch.inf), target.where(mask, torch.nan), mask)
    torch.testing.assert_close(found, expected)


def test_float32_survives_a_large_offset() -> None:
    prediction, _, mask = noisy(1, 10_000)
    offset = (prediction + 100).float()
    scale, _ = fit_scale_shift(offset, 2 * offset + 1, mask)
    torch.testing.assert_close(scale, torch.full_like(scale, 2.0), rtol=1e-4, atol=0)


@pytest.mark.parametrize("value", [0.0, 0.3, -7e5])
def test_constant_prediction_gives_the_mean(value: float) -> None:
    _, target, mask = noisy(1, 1000)
    prediction = torch.full((1, 1000), value, requires_grad=True)
    scale, shift = fit_scale_shift(prediction, target, mask)
    assert scale.item() == 0
    assert shift.item() == pytest.approx(target[mask].mean().item(), rel=1e-5)
    assert torch.autograd.grad(scale + shift, prediction)[0].isfinite().all()


@pytest.mark.parametrize("valid", [0, 1])
def test_too_few_values(valid: int) -> None:
    prediction, target, mask = noisy(1, 10)
    prediction.requires_grad_()
    mask = torch.arange(10)[None] < valid
    scale, shift = fit_scale_shift(prediction, target, mask)
    assert scale.item() == 0
    assert shift.item() == (target[0, 0].item() if valid else 0)
    assert torch.autograd.grad(scale + shift, prediction)[0].isfinite().all()


def test_gradient() -> None:
    prediction, target, mask = noisy(2, 6)
    mask[:, :3] = True
    arguments = (prediction.requires_grad_(), target.requires_grad_())
    assert torch.autograd.gradcheck(lambda x, y: fit_scale_shift(x, y, mask), arguments)


@pytest.mark.parametrize("offset", [0.0, 1e6])
@pytest.mark.parametrize("pieces", [1, 7, 60])
def test_piece_by_piece(pieces: int, offset: float) -> None:
    prediction, target, mask = noisy(60, 50)
    fit = ScaleShiftFit()
    for part in zip(*(values.chunk(pieces) for values in (prediction + offset, target, mask)), strict=True):
        fit.add(*part)
    expected = fit_scale_shift((prediction + offset).flatten(), target.flatten(), mask.flatten())
    torch.testing.assert_close(fit.solve(), expected, rtol=1e-9, atol=1e-9)


def test_piece_by_piece_without_an_answer() -> None:
    constant, target, mask = torch.full((8,), 0.7, dtype=torch.float64), *noisy(8)[1:]
    fit = ScaleShiftFit()
    assert fit.solve() == (0, 0)
    for _ in range(3):
        fit.add(constant, target, mask)
    fit.add(constant * torch.nan, target, torch.zeros_like(mask))
    torch.testing.assert_close(fit.solve(), fit_scale_shift(constant, target, mask))
