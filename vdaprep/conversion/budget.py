"""Choose settings that make a conversion fit a number of bytes, the least harmful first.

The order: a smaller `--profile`, a smaller `--short-side`, a lower quality of `--rgb`, a coarser `--diff-scale`, a
larger `--frame-stride`, fewer trajectories. A ladder is left as soon as a rung of it fits; what saves nothing is not
kept. Probe frames are chosen by the plan alone, so the same data and options lead to the same choice.
"""

import glob
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from vdaprep.conversion.encode.profiles import PROFILES
from vdaprep.conversion.options import ConversionOptions, Selection, Settings
from vdaprep.conversion.plan import ConversionPlan, RawData
from vdaprep.conversion.predict import Prediction, predict
from vdaprep.conversion.probes import Prober
from vdaprep.errors import UsageError
from vdaprep.shards.codec import missing_encoder
from vdaprep.units import format_bytes, spread_evenly
from vdaprep.workers.progress import OnProgress, ProgressEvent, ignore

_SHORT_SIDES = (518, 476, 434, 392, 350)  # whole patches of 14 pixels; 518 is what training crops
_SMALLER = {"standard": ("small", "tiny"), "small": ("tiny",)}  # profiles
_QUALITIES = {"jpeg": (90, 85, 80, 75), "h264": (18, 20, 22, 24), "av1": (24, 28, 32)}
_DIFF_SCALES = (6, 8)
_STRIDES = (2, 3, 4)
_WINDOW_FRAMES = 32  # what training wants of a trajectory; a stride that leaves less is not tried
_WORTH = 0.99  # a change that leaves more than this share of the bytes saves nothing


@dataclass(frozen=True)
class Step:
    """A change of options that was tried."""

    change: str
    """The option and its value."""
    prediction: Prediction
    """What it would make."""
    fits: bool
    """Whether that is within the budget."""
    kept: bool
    """Whether it saves enough to be kept."""

    def __str__(self) -> str:
        size = format_bytes(self.prediction.bytes)
        verdict = "fits" if self.fits else "too much" if self.kept else "saves nothing, left as it was"
        return f"{self.change}: {size}, {format_bytes(self.prediction.upper_bytes)} at most: {verdict}"


@dataclass(frozen=True)
class Budget:
    """The bytes that a data set's folder may have in the end."""

    bytes: int
    """Upper bound."""
    workers: int = 1
    """Processes of the conversion."""
    on_step: Callable[[Step], None] = lambda step: None
    """Called after each step of the search."""


@dataclass(frozen=True)
class Choice:
    """Options that fit, and how they were found."""

    plan: ConversionPlan
    """The plan to carry out, with its settings."""
    selection: Selection
    """Its trajectories."""
    prediction: Prediction
    """What it will make."""
    changes: tuple[str, ...] = ()
    """The changes that it consists of."""
    steps: tuple[Step, ...] = ()
    """All changes that were tried, in order."""


def choose(
    raw: RawData,
    options: ConversionOptions,
    *,
    prober: Prober,
    budget: int | None,
    workers: int = 1,
    on_progress: OnProgress = ignore,
) -> Choice:
    """Predict what options lead to, or with a budget in bytes choose options that fit it.

    Every step of the search is reported as `notice`, and a profile that cannot be tried. Raises what `fit` does.
    """
    settings, selection = options.settings(), options.selection()
    if budget is None:
        plan = raw.plan(settings, selection)
        return Choice(plan, selection, predict(plan, prober, workers=workers))
    for name in _smaller(settings):
        if missing := missing_encoder(PROFILES[name].rgb.codec):
            on_progress(ProgressEvent("notice", f"--profile {name} is not tried: {missing}"))
    limit = Budget(budget, workers, on_step=lambda step: on_progress(ProgressEvent("notice", str(step))))
    return fit(raw, settings=settings, selection=selection, budget=limit, prober=prober)


def predict_profiles(raw: RawData, choice: Choice, prober: Prober) -> dict[str, Prediction | None]:
    """Predict what each profile makes of a choice's frames at its size.

    None where the installed PyAV lacks the encoder. A profile that the choice follows has the choice's own prediction.
    """
    found: dict[str, Prediction | None] = {}
    for name in ("standard", *_SMALLER["standard"]):
        settings = choice.plan.settings.with_profile(name)
        if settings == choice.plan.settings:
            found[name] = choice.prediction
        elif missing_encoder(settings.rgb.codec):
            found[name] = None
        else:
            plan = raw.plan(settings, choice.selection)
            found[name] = predict(plan, prober, workers=choice.prediction.workers)
    return found


def fit(raw: RawData, *, settings: Settings, selection: Selection, budget: Budget, prober: Prober) -> Choice:
    """Lower settings until the prediction with its margin of error is within the budget.

    Raises UsageError, saying what the least would be, if nothing is; DataError if no probe frame can be used.
    """
    search = _Search(raw, selection, budget, prober)
    search.start(settings)
    for ladder in _LADDERS:
        for change, trial in ladder(search.choice) if not search.fits else ():
            search.attempt(change, trial)
            if search.fits:
                break
    if not search.fits:
        search.drop_trajectories()
    return replace(search.choice, changes=tuple(search.changes.values()), steps=tuple(search.steps))


class _Search:
    """The best choice so far, and the steps that were tried."""

    choice: Choice

    def __init__(self, raw: RawData, selection: Selection, budget: Budget, prober: Prober) -> None:
        self._raw = raw
        self._selection = selection
        self._budget = budget
        self._prober = prober
        self.steps: list[Step] = []
        self.changes: dict[str, str] = {}  # by option

    @property
    def fits(self) -> bool:
        """Whether the choice is within the budget."""
        return self._within(self.choice.prediction)

    def start(self, settings: Settings) -> None:
        """Begin with the settings that were asked for."""
        self.choice = self._make(settings, self._selection)
        self._note("as asked", self.choice.prediction, kept=True)

    def attempt(self, change: str, settings: Settings) -> None:
        """Try other settings, and keep them if they save anything."""
        trial = self._make(settings, self._selection)
        kept = trial.prediction.bytes <= _WORTH * self.choice.prediction.bytes
        self._note(change, trial.prediction, kept=kept)
        if kept:
            self.choice = trial
            self.changes[change.split()[0]] = change

    def drop_trajectories(self) -> None:
        """Take the most trajectories that fit, at least one a split; UsageError if none do."""
        splits = self.choice.plan.splits
        total = sum(map(len, splits.values()))
        settings = self.choice.plan.settings
        low, high = len(splits), total - 1
        best = self._take(settings, low, total) if low < total else self.choice
        if not self._within(best.prediction):
            least = best.prediction.upper_bytes
            raise UsageError(
                f"--budget: {self._budget.bytes} bytes are too few: even {_few(best.plan.splits)} with "
                f"{_in_words(settings)} need up to {least} bytes ({format_bytes(least)}); give that much or more."
            )
        while low < high:
            middle = (low + high + 1) // 2
            trial = self._take(settings, middle, total)
            if self._within(trial.prediction):
                low, best = middle, trial
            else:
                high = middle - 1
        self.choice = best
        self.changes["--select"] = f"{sum(map(len, best.plan.splits.values()))} of {total} trajectories"

    def _take(self, settings: Settings, count: int, total: int) -> Choice:
        names = spread(self.choice.plan.splits, count)
        choice = self._make(settings, replace(self._selection, select=tuple(glob.escape(name) for name in names)))
        self._note(f"{len(names)} of {total} trajectories", choice.prediction, kept=True)
        return choice

    def _make(self, settings: Settings, selection: Selection) -> Choice:
        plan = self._raw.plan(settings, selection)
        return Choice(plan, selection, predict(plan, self._prober, workers=self._budget.workers))

    def _within(self, prediction: Prediction) -> bool:
        return prediction.upper_bytes <= self._budget.bytes

    def _note(self, change: str, prediction: Prediction, *, kept: bool) -> None:
        step = Step(change, prediction, fits=kept and self._within(prediction), kept=kept)
        self.steps.append(step)
        self._budget.on_step(step)


# -------------------------------------------------------------------------------------------------------------- ladders


Rungs = Iterator[tuple[str, Settings]]


def _short_sides(begun: Choice) -> Rungs:
    stored = max(min(size) for size in begun.prediction.sizes)
    for side in _SHORT_SIDES:
        if side < stored:
            yield f"--short-side {side}", replace(begun.plan.settings, short_side=side)


def _profiles(begun: Choice) -> Rungs:
    """Yield the smaller profiles, but for those whose encoder the installed PyAV lacks."""
    settings = begun.plan.settings
    for name in _smaller(settings):
        if missing_encoder(PROFILES[name].rgb.codec) is None:
            yield f"--profile {name}", settings.with_profile(name)


def _smaller(settings: Settings) -> tuple[str, ...]:
    """Return the profiles smaller than the one that settings follow, if they follow one."""
    return next((smaller for name, smaller in _SMALLER.items() if settings.follows(name)), ())


def _qualities(begun: Choice) -> Rungs:
    rgb = begun.plan.settings.rgb
    for quality in _QUALITIES[rgb.codec]:
        if (quality < rgb.quality) == (rgb.codec == "jpeg") and quality != rgb.quality:
            change = replace(rgb, quality=quality)
            yield f"--rgb {change}", replace(begun.plan.settings, rgb=change)


def _diff_scales(begun: Choice) -> Rungs:
    for scale in _DIFF_SCALES:
        if begun.plan.settings.diffs == "stored" and scale > begun.plan.settings.diff_scale:
            yield f"--diff-scale {scale}", replace(begun.plan.settings, diff_scale=scale)


def _strides(begun: Choice) -> Rungs:
    plan = begun.plan
    lengths: dict[str, int] = dict.fromkeys((name for names in plan.splits.values() for name in names), 0)
    for shard in plan.shards:
        for clip in shard.clips:
            lengths[clip.trajectory.name] += clip.num_frames
    typical = float(np.median(list(lengths.values())))
    for factor in _STRIDES:
        if typical / factor >= _WINDOW_FRAMES:
            stride = plan.settings.frame_stride * factor
            yield f"--frame-stride {stride}", replace(plan.settings, frame_stride=stride)


_LADDERS: tuple[Callable[[Choice], Rungs], ...] = (
    _profiles, _short_sides, _qualities, _diff_scales, _strides,
)  # fmt: skip


# --------------------------------------------------------------------------------------------------------- trajectories


def spread(splits: Mapping[str, Sequence[str]], count: int) -> list[str]:
    """Choose at most `count` trajectories: a share of each split, at least one, evenly spaced."""
    free, rest = count - len(splits), max(1, sum(map(len, splits.values())) - len(splits))
    chosen: list[str] = []
    for names in splits.values():
        share = 1 + free * (len(names) - 1) // rest
        chosen += [names[i] for i in spread_evenly(len(names), share)]
    return chosen


def _few(splits: Mapping[str, Sequence[str]]) -> str:
    count = sum(map(len, splits.values()))
    return f"{count} trajectories, one a split," if count > 1 else "one trajectory"


def _in_words(settings: Settings) -> str:
    """Name the settings that were lowered as options."""
    side = "native" if settings.short_side is None else settings.short_side
    parts = [f"--short-side {side}", f"--rgb {settings.rgb}", f"--depth-error {settings.depth_error:g}"]
    parts += [f"--diff-scale {settings.diff_scale}" if settings.diffs == "stored" else f"--diffs {settings.diffs}"]
    return " ".join([*parts, f"--frame-stride {settings.frame_stride}"])
