"""Intervals of paired differences: made-up studies, whose true difference is known, say how often they hold it."""

import math

import numpy as np
import pytest

from vdatrain.evaluation.study import statistics
from vdatrain.evaluation.study.results import Estimate
from vdatrain.evaluation.study.statistics import PairedScenes

STUDIES = 300
TRUE = 0.5

# Standard deviations of what a seed, a scene and a run on a scene add: which of them decides.
SPREADS = {
    "seeds": (1.0, 0.0, 0.0),
    "seeds most": (1.0, 0.3, 0.3),
    "all alike": (1.0, 1.0, 1.0),
    "scenes": (0.0, 1.0, 0.0),
    "neither": (0.0, 0.0, 1.0),
}


def made_up(
    rng: np.random.Generator, spread: tuple[float, float, float], *, seeds: int = 3, scenes: int = 20
) -> PairedScenes:
    """Draw a study of the true difference TRUE, on scenes of which some are ten times as hard as others."""
    of_seed, of_scene, rest = spread
    shape = (seeds, scenes)
    added = of_seed * rng.standard_normal((seeds, 1)) + of_scene * rng.standard_normal(scenes)
    baseline = np.broadcast_to(np.linspace(1, 10, scenes), shape)
    return PairedScenes.of_one_dataset(baseline + TRUE + added + rest * rng.standard_normal(shape), baseline.copy())


def students_of_seeds(pairs: PairedScenes) -> Estimate:
    means = (pairs.model - pairs.baseline).mean(1)
    half = statistics.student_quantile(0.975, len(means) - 1) * means.std(ddof=1) / math.sqrt(len(means))
    return Estimate(means.mean(), means.mean() - half, means.mean() + half)


def holds(found: Estimate) -> bool:
    assert found.low is not None
    assert found.high is not None
    return found.low <= TRUE <= found.high


@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize("which", SPREADS)
def test_95_of_100_intervals_hold_the_truth(which: str, seeds: int) -> None:
    rng = np.random.default_rng(seeds)
    held = [holds(statistics.difference(made_up(rng, SPREADS[which], seeds=seeds))) for _ in range(STUDIES)]
    assert 0.92 <= np.mean(held) <= (1.0 if which == "neither" else 0.98)


def test_why_neither_a_bootstrap_nor_the_seeds_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """With three seeds the one is too narrow where seeds decide, the other wherever scenes do."""
    monkeypatch.setattr(statistics, "RESAMPLINGS", 400)
    rng = np.random.default_rng(0)
    of_seeds = [made_up(rng, SPREADS["seeds most"]) for _ in range(STUDIES)]
    of_scenes = [made_up(rng, SPREADS["scenes"]) for _ in range(STUDIES)]
    assert np.mean([holds(statistics.bootstrap_difference(pairs)) for pairs in of_seeds]) < 0.85
    assert np.mean([holds(students_of_seeds(pairs)) for pairs in of_scenes]) < 0.05


def test_a_percentage_holds_the_truth_over_data_sets_that_count_the_same() -> None:
    """Runs are better or worse on all data sets at once, and harder scenes change more."""
    rng = np.random.default_rng(0)
    datasets = np.repeat([0, 1, 2], [12, 6, 9])
    hard = np.linspace(1, 4, 27)
    held: list[bool] = []
    for _ in range(STUDIES):
        baseline = hard * (1 + 0.05 * rng.standard_normal((4, 1)) + 0.2 * rng.standard_normal(27))
        factor = 0.9 + 0.03 * rng.standard_normal((4, 1)) + 0.04 * rng.standard_normal(27)
        model = baseline * (factor + 0.02 * rng.standard_normal((4, 27)))
        found = statistics.percent(PairedScenes(model, baseline, np.ones(27), datasets))
        assert found.low is not None
        assert found.high is not None
        held.append(found.low <= -10 <= found.high)
    assert 0.92 <= np.mean(held) <= 0.98


def test_means_are_those_of_an_evaluation() -> None:
    """A scene of two windows counts twice, a data set of more scenes no more than another."""
    model = np.array([[1.0, 4.0, 10.0]])
    pairs = PairedScenes(model, np.ones((1, 3)), np.array([2.0, 1.0, 5.0]), np.array([0, 0, 1]))
    assert pairs.shares.tolist() == pytest.approx([1 / 3, 1 / 6, 1 / 2])
    assert statistics.weighted_mean(model, pairs) == pytest.approx([(2.0 + 10.0) / 2])
    assert statistics.difference(pairs).value == pytest.approx(5.0)
    assert statistics.percent(pairs).value == pytest.approx(500.0)
    assert statistics.percent_by_seed(pairs) == pytest.approx([500.0])


@pytest.mark.parametrize(
    ("shape", "known"),
    [
        pytest.param((1, 1), False, id="one run on one scene tells nothing of its spread"),
        pytest.param((1, 4), True, id="one seed: scenes alone"),
        pytest.param((4, 1), True, id="one scene: seeds alone"),
    ],
)
def test_what_a_single_one_tells(shape: tuple[int, int], known: bool) -> None:
    model = np.random.default_rng(0).standard_normal(shape)
    found = statistics.difference(PairedScenes.of_one_dataset(model, np.zeros(shape)))
    assert (found.low is not None, found.high is not None) == (known, known)
    if known:
        values = model.ravel()
        half = statistics.student_quantile(0.975, 3) * values.std(ddof=1) / 2
        assert (found.low, found.high) == pytest.approx((values.mean() - half, values.mean() + half))


def test_equal_models_differ_by_nothing() -> None:
    values = np.random.default_rng(0).random((3, 5))
    assert statistics.percent(PairedScenes.of_one_dataset(values, values)) == Estimate(0.0, 0.0, 0.0)


def test_a_baseline_without_errors_has_no_percentage() -> None:
    found = statistics.percent(PairedScenes.of_one_dataset(np.ones((3, 2)), np.zeros((3, 2))))
    assert math.isnan(found.value)
    assert (found.low, found.high) == (None, None)


@pytest.mark.parametrize(
    ("probability", "freedom", "expected"),
    [(0.975, 1, 12.7062), (0.975, 2, 4.3027), (0.975, 2.5, 3.5747), (0.975, 4, 2.7764), (0.8, 10, 0.8791),
     (0.025, 9, -2.2622), (0.975, 1e9, 1.9600)],
)  # fmt: skip
def test_students_quantiles_are_those_of_tables(probability: float, freedom: float, expected: float) -> None:
    assert statistics.student_quantile(probability, freedom) == pytest.approx(expected, abs=5e-4)


def percent_spread(of_seed: float, of_scene: float) -> PairedScenes:
    """Return three seeds and 30 scenes whose means differ exactly so much, in percent."""
    seeds, scenes = np.array([-1.0, 0, 1]), np.linspace(-1, 1, 30)
    changes = of_seed * seeds[:, None] + of_scene * scenes / scenes.std(ddof=1)
    return PairedScenes.of_one_dataset(100 + changes, np.full((3, 30), 100.0))


@pytest.mark.parametrize(
    ("of_seed", "of_scene", "expected"),
    [
        pytest.param(0.5, 0.0, 3, id="seeds alike"),
        pytest.param(2.0, 0.0, 10, id="seeds differ by 2 %: (2.262 + 0.883) 2 / sqrt(10) < 2 first at ten"),
        pytest.param(0.1, 2.0, 2, id="scenes differ, but there are enough of them"),
        pytest.param(0.1, 6.0, None, id="scenes differ so much that seeds are of no help"),
    ],
)
def test_seeds_that_would_be_needed(of_seed: float, of_scene: float, expected: int | None) -> None:
    assert statistics.seeds_needed(percent_spread(of_seed, of_scene)) == expected


def test_one_seed_does_not_tell_how_many_are_needed() -> None:
    assert statistics.seeds_needed(PairedScenes.of_one_dataset(np.ones((1, 9)), np.ones((1, 9)))) is None
