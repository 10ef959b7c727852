"""Paired differences of two models over seeds and scenes, with intervals that hold.

A study sees a few seeds and some scenes, and asks about others: runs of new seeds, scenes that were not filmed. So both
count as drawn at random, and the difference d of two models, of run s on scene k, is taken for

    d[s, k] = mean + of the seed[s] + of the scene[k] + rest[s, k]

Its mean's variance is (seeds) + (scenes) - (rest), each estimated from the table's row means, column means and what
these leave; the interval is Student's with the degrees of freedom of that sum after Satterthwaite (Biometrics Bulletin
2, 1946). Of made-up studies it held the true difference in 93 to 99 of 100 with three seeds or five, whichever part was
the greatest, and in 88 to 99 with two. A bootstrap that draws seeds and scenes anew (Owen, Annals of Applied Statistics
1, 2007) is kept beside it: where seeds decide, three values drawn of three scatter less than seeds do, and it held the
difference in 75 of 100; Student's over seeds alone, or over scenes alone, in 0 to 95.
`tests/unit/train/test_study_statistics.py` counts it again.
"""

import math
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

from vdatrain.evaluation.study.results import Estimate

RESAMPLINGS = 10_000
VISIBLE_PERCENT = 2.0
"""The change that `seeds_needed` asks for."""
_POWER = 0.8
_MOST_SEEDS = 1000
_QUANTILE_POINTS = 20_001


@dataclass(frozen=True)
class PairedScenes:
    """A metric of two models on the same scenes, in runs of the same seeds.

    The mean of a data set is that of its scenes by weight; data sets count the same.
    """

    model: Float64[np.ndarray, "seeds scenes"]
    """The metric of one."""
    baseline: Float64[np.ndarray, "seeds scenes"]
    """And of the model that it is compared with."""
    weights: Float64[np.ndarray, " scenes"]
    """Of the scenes in their data sets, such as their windows."""
    datasets: Int64[np.ndarray, " scenes"]
    """Number of each scene's data set, from 0."""

    @classmethod
    def of_one_dataset(
        cls, model: Float64[np.ndarray, "seeds scenes"], baseline: Float64[np.ndarray, "seeds scenes"]
    ) -> "PairedScenes":
        """Pair scenes of one data set that count the same."""
        scenes = model.shape[1]
        return cls(model, baseline, np.ones(scenes), np.zeros(scenes, np.int64))

    @property
    def shares(self) -> Float64[np.ndarray, " scenes"]:
        """Share of each scene in the mean over data sets; their sum is 1."""
        totals = np.bincount(self.datasets, self.weights)
        return self.weights / totals[self.datasets] / len(totals)

    def groups(self) -> Iterator[Int64[np.ndarray, " members"]]:
        """Yield the numbers of each data set's scenes."""
        for number in np.unique(self.datasets):
            yield np.flatnonzero(self.datasets == number)


def weighted_mean(values: Float64[np.ndarray, "seeds scenes"], pairs: PairedScenes) -> Float64[np.ndarray, " seeds"]:
    """Return each seed's mean over scenes and data sets."""
    return values @ pairs.shares


def difference(pairs: PairedScenes) -> Estimate:
    """Return the mean of model less baseline, with its 95 % interval."""
    changes = pairs.model - pairs.baseline
    return _estimate(float(weighted_mean(changes, pairs).mean()), _parts(changes, pairs))


def percent(pairs: PairedScenes) -> Estimate:
    """Return how many percent the model's mean is above the baseline's, with its 95 % interval.

    The ratio of the means is not the mean of ratios: a scene with a small error counts little.
    """
    ratio, influence = _ratio(pairs)
    return _estimate(100 * (ratio - 1), _parts(influence, pairs))


def percent_by_seed(pairs: PairedScenes) -> Float64[np.ndarray, " seeds"]:
    """Return the same of each seed alone."""
    model, baseline = (weighted_mean(values, pairs) for values in (pairs.model, pairs.baseline))
    return 100 * (model / baseline - 1)


def bootstrap_difference(pairs: PairedScenes) -> Estimate:
    """Return `difference` with the interval that 95 % of resampled seeds and scenes lie in."""
    model, baseline = _resampled_means(pairs)
    return _percentiles(difference(pairs).value, model - baseline)


def bootstrap_percent(pairs: PairedScenes) -> Estimate:
    """Return `percent` with the interval that 95 % of resampled seeds and scenes lie in."""
    model, baseline = _resampled_means(pairs)
    return _percentiles(percent(pairs).value, 100 * (model / baseline - 1))


def seeds_needed(pairs: PairedScenes, *, visible_percent: float = VISIBLE_PERCENT) -> int | None:
    """Return with how many seeds such a change would be seen in four studies of five.

    On as many scenes; None where no number up to a thousand is enough, since scenes differ too much, or where a single
    seed tells nothing.
    """
    seeds = pairs.model.shape[0]
    if seeds < 2:
        return None
    found = _parts(_ratio(pairs)[1], pairs)
    rest = sum(value for value, _ in found.rest)
    of_seeds, of_scenes = max(found.of_seeds, rest) * seeds, max(0.0, sum(value for value, _ in found.of_scenes) - rest)
    scenes = sum(freedom for _, freedom in found.of_scenes) or math.inf

    def is_seen(count: int) -> bool:
        variance = of_seeds / count + of_scenes
        squares = (of_seeds / count) ** 2 / (count - 1) + of_scenes**2 / scenes
        freedom = variance**2 / squares if squares else math.inf
        reach = student_quantile(0.975, freedom) + student_quantile(_POWER, freedom)
        return reach * math.sqrt(variance) <= visible_percent

    count = bisect_left(range(2, _MOST_SEEDS + 1), True, key=is_seen) + 2
    return count if count <= _MOST_SEEDS else None


def student_quantile(probability: float, freedom: int | float) -> float:
    """Return the quantile of Student's distribution, for any degrees of freedom from 1 on.

    Of t = sqrt(freedom) tan(angle) the angle has the density cos(angle) ** (freedom - 1), which is summed up; from ten
    thousand degrees on they count as ten thousand, which changes the fourth digit.
    """
    freedom = min(freedom, 1e4)
    angles = np.linspace(-np.pi / 2, np.pi / 2, _QUANTILE_POINTS)
    density = np.cos(angles).clip(0) ** (freedom - 1)
    below = np.concatenate([[0.0], np.cumsum(density[1:] + density[:-1])])
    return float(math.sqrt(freedom) * np.tan(np.interp(probability, below / below[-1], angles)))


# ---------------------------------------------------------------------------------------------------------- variances


@dataclass(frozen=True)
class _Parts:
    """Parts of the variance of a mean, each with its degrees of freedom."""

    of_seeds: float
    """That seeds' means scatter; it has the rest in it. 0 of a single seed."""
    seeds_freedom: int
    """0 of a single seed."""
    of_scenes: tuple[tuple[float, int], ...]
    """That scenes' means scatter, of each data set with several; they have the rest in them."""
    rest: tuple[tuple[float, int], ...]
    """What is in both."""


def _ratio(pairs: PairedScenes) -> tuple[float, Float64[np.ndarray, "seeds scenes"]]:
    """Return model's mean / baseline's, and 100 times how each value moves it."""
    model, baseline = (float(weighted_mean(values, pairs).mean()) for values in (pairs.model, pairs.baseline))
    ratio = model / baseline if baseline else math.nan
    return ratio, 100 * (pairs.model - ratio * pairs.baseline) / (baseline or math.nan)


def _parts(values: Float64[np.ndarray, "seeds scenes"], pairs: PairedScenes) -> _Parts:
    seeds, shares = values.shape[0], pairs.shares
    of_scenes: list[tuple[float, int]] = []
    rest: list[tuple[float, int]] = []
    for group in pairs.groups():
        count = len(group)
        if count < 2:
            continue
        share, inside = shares[group], values[:, group]
        by_seed = inside @ share / share.sum()
        by_scene = inside.mean(0) - by_seed.mean()
        of_scenes.append((float((share * by_scene) ** 2 @ np.ones(count)) * count / (count - 1), count - 1))
        if seeds > 1:
            left = inside - inside.mean(0) - (by_seed - by_seed.mean())[:, None]
            freedom = (seeds - 1) * (count - 1)
            rest.append((float((left**2).sum() / freedom * (share**2).sum() / seeds), freedom))
    spread = float(weighted_mean(values, pairs).var(ddof=1)) / seeds if seeds > 1 else 0.0
    return _Parts(spread, seeds - 1, tuple(of_scenes), tuple(rest))


def _estimate(value: float, parts: _Parts) -> Estimate:
    known = [(parts.of_seeds, parts.seeds_freedom)] if parts.seeds_freedom else []
    known += parts.of_scenes
    if not known or not math.isfinite(value):
        return Estimate(value, None, None)
    scenes = sum(part for part, _ in parts.of_scenes)
    variance = parts.of_seeds + scenes - sum(part for part, _ in parts.rest)
    variance = max(variance, parts.of_seeds, scenes)
    squares = sum(part**2 / freedom for part, freedom in known)
    freedom = max(1.0, variance**2 / squares) if squares else 1.0
    half = student_quantile(0.975, freedom) * math.sqrt(variance)
    return Estimate(value, value - half, value + half)


# ---------------------------------------------------------------------------------------------------------- bootstrap


def _resampled_means(pairs: PairedScenes) -> tuple[Float64[np.ndarray, " draws"], Float64[np.ndarray, " draws"]]:
    """Return both models' means over resampled seeds and, of each data set, resampled scenes."""
    rng = np.random.default_rng(0)
    seeds = pairs.model.shape[0]
    runs = rng.multinomial(seeds, np.full(seeds, 1 / seeds), RESAMPLINGS) / seeds
    means = np.zeros((2, RESAMPLINGS))
    groups = list(pairs.groups())
    for group in groups:
        count = len(group)
        drawn = rng.multinomial(count, np.full(count, 1 / count), RESAMPLINGS) * pairs.weights[group]
        drawn /= drawn.sum(1, keepdims=True)
        for number, values in enumerate((pairs.model, pairs.baseline)):
            means[number] += ((runs @ values[:, group]) * drawn).sum(1) / len(groups)
    return means[0], means[1]


def _percentiles(value: float, drawn: Float64[np.ndarray, " draws"]) -> Estimate:
    low, high = np.quantile(drawn, [0.025, 0.975]).tolist()
    return Estimate(value, low, high) if math.isfinite(low + high) else Estimate(value, None, None)
