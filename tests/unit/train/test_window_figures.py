"""Figures of windows as lines: they come back, average to the evaluation's, and a damaged file is named."""

from pathlib import Path

import pytest

from vdaprep.errors import DataError, VdakitError
from vdaprep.shards.dataset import open_shards
from vdatrain.device import Precision, choose_device
from vdatrain.evaluation.evaluate import evaluate_clips, plan_evaluation
from vdatrain.evaluation.windows import WINDOWS_FILE, WindowFigures, read_windows, write_windows
from vdatrain.inference.predictor import Predictor
from vdatrain.models import variants

WINDOWS = [
    WindowFigures("alpha", "alpha-walk-00-000000", 0, 0.1, 0.9, 1.5, None, 0.25),
    WindowFigures("beta", "beta-walk-00-000000", 8, None, None, None, None, 0.5),
]


def test_lines_come_back(tmp_path: Path) -> None:
    write_windows(tmp_path, WINDOWS)
    assert read_windows(tmp_path) == WINDOWS


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda text: "", "ends early, after 0 lines"),
        (lambda text: text[:-1], "ends early, after 2 lines"),
        (lambda text: text[:-20] + "\n", "line 2: is not valid JSON"),
        (lambda text: text.replace("0.1", "NaN"), "line 1: is not valid JSON"),
        (lambda text: text.replace("0.1", "-1"), "line 1: absrel is -1"),
        (lambda text: text.replace('"beta"', '"../beta"'), "line 2: dataset "),
        (lambda text: text.replace('"first": 8, ', ""), "line 2: first is missing"),
        (None, "is missing; evaluate the weights again"),
    ],
)  # fmt: skip
def test_a_damaged_file_is_named(tmp_path: Path, change, sentence: str) -> None:
    path = tmp_path / WINDOWS_FILE
    write_windows(tmp_path, WINDOWS)
    if change is None:
        path.unlink()
    else:
        path.write_text(change(path.read_text()))
    with pytest.raises(VdakitError) as caught:
        read_windows(tmp_path)
    assert str(caught.value).startswith(f"{path}")
    assert sentence in str(caught.value)


def test_windows_average_to_the_evaluation(toy_shards: Path) -> None:
    predictor = Predictor(variants.build("basic", encoder="tiny"), Precision(choose_device("cpu")), size=28)
    clips = open_shards(toy_shards).clips(split="train")
    plan = plan_evaluation(predictor, frames=4, workers=0)
    evaluation = evaluate_clips(predictor.model, clips, plan, precision=predictor.precision)
    assert len(evaluation.by_window) == sum(evaluation.windows.values())
    assert {window.clip for window in evaluation.by_window} == {clip.key for clip in clips if clip.num_frames >= 4}
    for dataset, metrics in evaluation.metrics.items():
        windows = [window for window in evaluation.by_window if window.dataset == dataset]
        for name in ("absrel", "delta1", "tae"):
            values = [value for window in windows if (value := getattr(window, name)) is not None]
            expected = getattr(metrics, name)
            assert (sum(values) / len(values) if values else None) == (expected and pytest.approx(expected))
    assert [window.tae is None for window in evaluation.by_window if window.dataset == "beta"] == [True] * 5


def test_a_data_error_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / WINDOWS_FILE).mkdir()
    with pytest.raises(DataError, match=r"windows.jsonl: cannot be read \(Is a directory\)"):
        read_windows(tmp_path)
