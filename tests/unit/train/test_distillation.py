"""The loss of single images: what a teacher labelled is trimmed and weighted, what is true is not."""

import numpy as np
import pytest
import torch

from vdatrain.objectives.distillation import image_loss
from vdatrain.objectives.losses import spatial_loss

Images = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def images(count: int = 2, *, seed: int = 0, valid: float = 1.0) -> Images:
    """Return predictions, targets and masks of single frames in float64."""
    generator = torch.Generator().manual_seed(seed)
    target = torch.rand((count, 1, 11, 18), generator=generator, dtype=torch.float64)
    prediction = target + 0.1 * torch.randn(target.shape, generator=generator, dtype=torch.float64)
    return prediction, target, torch.rand(target.shape, generator=generator) < valid


def every(given: Images, *, taught: bool) -> torch.Tensor:
    return torch.full((len(given[0]),), taught)


def test_numbers_by_hand() -> None:
    """Of eleven pixels in a row the one that is far off takes no part, nor do the pairs that it is of.

    The target is -5 to 5 about its median, mean deviation 30/11. The prediction is the same but at its end, 5 + 11, so
    its median stays and its mean deviation is 41/11. So the residuals are k (11/41 - 11/30), but for the end's.
    """
    target = torch.arange(-5.0, 6.0, dtype=torch.float64).view(1, 1, 1, 11)
    prediction = target.clone()
    prediction[..., -1] += 11
    factor = abs(11 / 41 - 11 / 30)
    kept = sum(range(1, 6)) + sum(range(1, 5))  # |k| of -5 to 4
    pairs = {1: 9 / 10, 2: 4 * 2 / 5, 4: 2 * 4 / 3, 8: 8 / 2}  # of kept pixels at each scale; the end is pixel 10
    expected = factor * (kept / 10 + 0.5 * sum(pairs.values()))
    given = (prediction, target, torch.ones_like(target, dtype=torch.bool))
    assert image_loss(*given, torch.tensor([True]), distill=0.5).item() == pytest.approx(0.5 * expected, rel=1e-12)


def slow_image_loss(prediction: np.ndarray, target: np.ndarray, mask: np.ndarray, taught: list[bool]) -> float:
    """Write the definition out, image by image; sums are over all, `distill` is 0.5."""
    residuals, kept = np.zeros_like(prediction), mask.copy()
    for i, valid in enumerate(mask):
        for sign, values in [(1, prediction[i]), (-1, target[i])]:
            known = np.sort(values[valid])
            centred = values[valid] - known[(len(known) - 1) // 2]
            residuals[i, valid] += sign * centred / np.abs(centred).mean()
        if taught[i]:
            largest = np.sort(np.abs(residuals[i, valid]))[: valid.sum() - valid.sum() // 10][-1]
            kept[i] &= np.abs(residuals[i]) <= largest
    weights = np.where(taught, 0.5, 1.0)
    total = (weights * (np.abs(residuals) * kept).sum((1, 2))).sum() / kept.sum()
    for step in (1, 2, 4, 8):
        r, m = residuals[:, ::step, ::step], kept[:, ::step, ::step]
        across = (np.abs(np.diff(r, axis=2)) * (m[:, :, 1:] & m[:, :, :-1])).sum((1, 2))
        down = (np.abs(np.diff(r, axis=1)) * (m[:, 1:] & m[:, :-1])).sum((1, 2))
        total += 0.5 * (weights * (across + down)).sum() / m.sum()
    return float(total)


@pytest.mark.parametrize("taught", [[True, True, True], [True, False, True], [False, False, False]])
@pytest.mark.parametrize("valid", [1.0, 0.4])
def test_it_is_its_definition(taught: list[bool], valid: float) -> None:
    given = images(3, valid=valid)
    expected = slow_image_loss(*(values[:, 0].numpy() for values in given), taught)
    assert image_loss(*given, torch.tensor(taught), distill=0.5).item() == pytest.approx(expected, rel=1e-12)


def test_images_with_truth_have_the_loss_of_frames() -> None:
    given = images(valid=0.7)
    found = image_loss(*given, every(given, taught=False), distill=0.5)
    assert found.item() == pytest.approx(spatial_loss(*given).item(), rel=1e-12)


def test_gradients_are_those_of_finite_differences() -> None:
    prediction, target, mask = images(valid=0.8, seed=3)
    taught = torch.tensor([True, False])
    assert torch.autograd.gradcheck(
        lambda values: image_loss(values, target, mask, taught, distill=0.5), prediction.requires_grad_(), eps=1e-7
    )


def test_what_is_left_out_has_no_say() -> None:
    """A prediction far off, to any amount, changes nothing but its image's mean deviation, which two can keep."""
    prediction, target, mask = images(1)
    highest, lowest = int(prediction.argmax()), int(prediction.argmin())
    losses = []
    for far in (2000.0, 3000.0):
        spoilt = prediction.flatten().clone()
        spoilt[highest] += far
        spoilt[lowest] -= 5100 - far
        losses.append(image_loss(spoilt.view_as(prediction), target, mask, torch.tensor([True]), distill=0.5))
    assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-9)


@pytest.mark.parametrize("taught", [True, False])
@pytest.mark.parametrize("case", ["nothing known", "one pixel known", "constant", "perfect"])
def test_where_there_is_nothing_to_learn_it_is_quiet(case: str, taught: bool) -> None:
    prediction, target, mask = images()
    if case == "perfect":
        prediction = 3 * target + 7
    elif case == "constant":
        prediction, target = torch.full_like(target, 4.0), torch.full_like(target, 2.0)
    else:
        mask = torch.zeros_like(mask)
        mask[:, :, 3, 4] = case == "one pixel known"
        target = torch.where(mask, target, torch.nan)
    prediction.requires_grad_()
    loss = image_loss(prediction, target, mask, every((prediction, target, mask), taught=taught), distill=0.5)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-9)
    assert prediction.grad is not None
    assert prediction.grad.isfinite().all()


def test_autocast_does_not_touch_it() -> None:
    given = tuple(values.float() if values.is_floating_point() else values for values in images())
    plain = image_loss(*given, every(given, taught=True), distill=0.5)
    with torch.autocast("cpu", torch.bfloat16):
        inside = image_loss(*given, every(given, taught=True), distill=0.5)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, plain)
