"""The best weights have the lowest error on average, and have not forgotten a data set."""

import math
from dataclasses import replace

import pytest

from vdatrain.evaluation.evaluate import Evaluation
from vdatrain.objectives.metrics import ClipMetrics
from vdatrain.training.selection import SELECTED_BY, BestSelection


def evaluation(**absrel: float) -> Evaluation:
    metrics = {
        name: ClipMetrics(absrel=value, delta1=0.5, rmse=1.0, tae=None, tae_share=0.0) for name, value in absrel.items()
    }
    return Evaluation(metrics, dict.fromkeys(metrics, 1.0), dict.fromkeys(metrics, 1), {}, {})


@pytest.mark.parametrize(
    ("then", "share", "is_best", "said"),
    [
        pytest.param({"a": 0.2, "b": 0.1}, 0.1, True, "", id="better, and none worse"),
        pytest.param({"a": 0.1, "b": 0.11}, 0.1, True, "", id="as much worse as is allowed"),
        pytest.param({"a": 0.1, "b": 0.12}, 0.1, False, "b (0.1000 to 0.1200), more than --forget 0.1", id="forgotten"),
        pytest.param({"a": 0.1, "b": 0.12}, 0.0, True, "", id="no guard"),
        pytest.param({"a": 0.3, "b": 0.2}, 0.1, False, "", id="worse on average, which needs no sentence"),
        pytest.param({"a": math.nan, "b": 0.2}, 0.1, False, "", id="not a number"),
    ],
)
def test_weights_are_refused_that_forgot_a_data_set(
    then: dict[str, float], share: float, is_best: bool, said: str
) -> None:
    selection = BestSelection(share, math.inf)
    assert selection.take(evaluation(a=0.3, b=0.1)) == (True, "")
    best, refused = selection.take(evaluation(**then))
    assert (best, said in refused, bool(refused)) == (is_best, True, bool(said))
    assert selection.best == pytest.approx(sum(then.values()) / 2 if is_best else 0.2)
    assert selection.first == {"a": 0.3, "b": 0.1}


def test_metres_are_chosen_by_the_loss_which_takes_too_near_for_as_wrong_as_too_far() -> None:
    selection = BestSelection(0.1, math.inf, SELECTED_BY["metric"])
    for absrel, loss, is_best in ((0.82, 3.0, True), (1.07, 0.5, True), (0.5, 0.6, False)):
        found = evaluation(a=absrel)
        assert selection.take(replace(found, losses={"a": loss})) == (is_best, "")
    assert selection.best == 0.5


def test_a_single_data_set_has_nothing_to_forget() -> None:
    selection = BestSelection(0.1, math.inf)
    selection.take(evaluation(a=0.3))
    assert selection.take(evaluation(a=0.29)) == (True, "")
