"""What the intervals of an arm's averages say, in a sentence.

Nothing but the intervals decides: a change is seen if its interval does not reach 0; that there is none of a size is
seen if the interval ends before that size; everything else is not known.
"""

from collections.abc import Mapping, Sequence

from vdatrain.evaluation.files import AVERAGE, METRICS
from vdatrain.evaluation.study.results import Difference, Estimate, Verdict

TITLES = {"tae": "TAE"}
TOLERATED_PERCENT = 1.0
"""By how much absrel may be higher for it to count as no loss."""
_UNNOTICED_PERCENT = 2.0  # changes of TAE below that are called none


def verdicts_of(differences: Sequence[Difference], arms: Sequence[str]) -> list[Verdict]:
    """Return a sentence for each arm that has differences on average."""
    found: dict[str, dict[str, Estimate]] = {}
    for item in differences:
        if item.dataset == AVERAGE:
            found.setdefault(item.arm, {})[item.metric] = item.percent
    return [Verdict(arm, sentence_of(found[arm])) for arm in arms if arm in found]


def sentence_of(percent: Mapping[str, Estimate]) -> str:
    """Say what changes of TAE and absrel against the baseline, in percent, show.

    percent: by metric; one that is missing is left out.
    """
    parts = [f"{TITLES.get(name, name)} {shown(percent[name])}" for name in ("tae", "absrel") if name in percent]
    said = [judge(percent[name]) for name, judge in (("tae", _flicker), ("absrel", _accuracy)) if name in percent]
    return f"{', '.join(parts)}: {', '.join(said)}"


def shown(change: Estimate) -> str:
    """Write a change in percent with its interval: `-7.4 % [-11.2, -3.5]`."""
    if change.low is None or change.high is None:
        return f"{change.value:+.1f} % [?]"
    return f"{change.value:+.1f} % [{change.low:+.1f}, {change.high:+.1f}]"


def is_better(metric: str, change: Estimate) -> bool | None:
    """Whether an interval shows that a metric became better, or worse; None if neither."""
    if change.low is None or change.high is None or change.low <= 0 <= change.high:
        return None
    return (change.value > 0) == (METRICS[metric] > 0)


def _flicker(change: Estimate) -> str:
    if change.low is None or change.high is None:
        return "too few runs to say anything of flicker"
    if change.high < 0:
        return "fewer flickers"
    if change.low > 0:
        return "more flickers"
    if max(-change.low, change.high) <= _UNNOTICED_PERCENT:
        return f"as many flickers, within {_UNNOTICED_PERCENT:g} %"
    return "no change of flicker seen, nor excluded"


def _accuracy(change: Estimate) -> str:
    if change.low is None or change.high is None:
        return "too few runs to say anything of accuracy"
    if change.high < 0:
        return "more accurate"
    if change.low > 0:
        return "less accurate"
    if change.high <= TOLERATED_PERCENT:
        return "no loss seen"
    return f"a loss of up to {change.high:.1f} % not excluded"
