"""From figures of windows to what a study says: means, paired differences, sentences, tables."""

import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from vdaprep.errors import DataError, UsageError
from vdatrain.evaluation.files import AVERAGE, METRICS, EvaluatedModel, Protocol
from vdatrain.evaluation.study import statistics
from vdatrain.evaluation.study.collect import Findings, FinishedRun, find, read_runs
from vdatrain.evaluation.study.results import Arm, Cost, Estimate, Stressed, StudyResults, StudyRun, Verdict
from vdatrain.evaluation.study.tables import EARLIER, to_csv, to_markdown, write_tables
from vdatrain.evaluation.study.verdicts import sentence_of, verdicts_of
from vdatrain.evaluation.windows import WindowFigures, write_windows

PLACES = {"alpha": ("a1", "a2", "a2", "a3"), "beta": ("b1", "b2")}
"""The scene of each window, by data set; a clip a window."""


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "RESAMPLINGS", 200)


def made_up(arm: str, seed: int, *, factor: float = 1.0, tae_of_beta: bool = True) -> FinishedRun:
    """A run whose absrel is 0.1 on scene 1, 0.2 on scene 2 ..., plus 0.01 a seed, times `factor`."""
    windows = [
        WindowFigures(
            dataset, f"{dataset}-{number}", 0,
            absrel=factor * (int(scene[1]) / 10 + seed / 100 + number / 1000), delta1=0.9, rmse=1.0,
            tae=None if dataset == "beta" and not tae_of_beta else factor * (1 + seed / 10 + number / 7), loss=0.1,
        )
        for dataset, scenes in PLACES.items()
        for number, scene in enumerate(scenes)
    ]  # fmt: skip
    model = EvaluatedModel(
        folder=Path(arm, f"seed-{seed}"),
        name=arm,
        facts={"encoder": "tiny"},
        protocol=Protocol("val", 28, 4),
        data={"alpha": "0" * 64},
        shards=None,
        figures={name: dict.fromkeys(METRICS, 0.5) for name in (*PLACES, AVERAGE)},
        identity=f"{arm} {seed}",
    )
    return FinishedRun(arm, seed, model, windows)


SCENES = {f"{name}-{number}": scene for name, scenes in PLACES.items() for number, scene in enumerate(scenes)}


def findings(*runs: FinishedRun) -> Findings:
    return find(runs, SCENES, baseline="basic")


def test_figures_are_means_over_windows_data_sets_and_seeds() -> None:
    found = findings(made_up("basic", 0), made_up("basic", 2))
    assert found.scenes == {"alpha": 3, "beta": 2}
    of = {(figure.dataset, figure.metric): figure for figure in found.figures}
    alpha = [(0.1 + 0.201 + 0.202 + 0.303) / 4 + seed / 100 for seed in (0, 2)]
    beta = [(0.1 + 0.201) / 2 + seed / 100 for seed in (0, 2)]
    assert of["alpha", "absrel"].by_seed == pytest.approx(dict(zip((0, 2), alpha, strict=True)))
    assert of["alpha", "absrel"].mean == pytest.approx(sum(alpha) / 2)
    assert of["alpha", "absrel"].deviation == pytest.approx((alpha[1] - alpha[0]) / 2**0.5)
    assert of[AVERAGE, "absrel"].mean == pytest.approx((sum(alpha) + sum(beta)) / 4)
    assert found.differences == []


def test_a_model_that_is_a_tenth_better_everywhere_is_so_without_doubt() -> None:
    found = findings(*(made_up(arm, seed, factor=f) for arm, f in (("basic", 1), ("conv", 0.9)) for seed in (0, 1, 2)))
    of = {(item.dataset, item.metric): item for item in found.differences}
    assert of.keys() == {(name, metric) for name in (*PLACES, AVERAGE) for metric in METRICS}
    for item in (of["alpha", "absrel"], of["beta", "tae"], of[AVERAGE, "tae"]):
        assert (item.percent.value, item.percent.low, item.percent.high) == pytest.approx((-10, -10, -10))
        assert item.by_seed_percent == pytest.approx(dict.fromkeys((0, 1, 2), -10))
        assert item.seeds_needed == 2
    assert of[AVERAGE, "delta1"].absolute == Estimate(0.0, 0.0, 0.0)
    assert (of["alpha", "absrel"].scenes, of[AVERAGE, "absrel"].scenes) == (3, 5)


def test_seeds_are_paired_those_of_one_arm_alone_left_out() -> None:
    runs = [made_up("basic", 0), made_up("basic", 1), made_up("conv", 1, factor=1.5), made_up("conv", 7, factor=9)]
    found = findings(*runs)
    [item] = [item for item in found.differences if (item.dataset, item.metric) == (AVERAGE, "tae")]
    assert item.by_seed_percent == pytest.approx({1: 50})
    assert item.percent.value == pytest.approx(50)
    [figure] = [one for one in found.figures if (one.dataset, one.arm, one.metric) == (AVERAGE, "conv", "tae")]
    assert list(figure.by_seed) == [1, 7]


def test_a_data_set_without_poses_counts_for_the_other_metrics() -> None:
    found = findings(*(made_up(arm, 0, tae_of_beta=False) for arm in ("basic", "conv")))
    assert ("beta", "tae") not in {(figure.dataset, figure.metric) for figure in found.figures}
    of = {(figure.dataset, figure.metric): figure.mean for figure in found.figures if figure.arm == "basic"}
    assert of[AVERAGE, "tae"] == of["alpha", "tae"]
    assert of[AVERAGE, "absrel"] != of["alpha", "absrel"]


def test_a_window_that_one_run_lacks_is_compared_in_none() -> None:
    lacking = made_up("conv", 0)
    windows = [replace(window, tae=None) if window.clip == "alpha-3" else window for window in lacking.windows]
    found = findings(made_up("basic", 0), replace(lacking, windows=windows))
    [item] = [item for item in found.differences if (item.dataset, item.metric) == ("alpha", "tae")]
    assert (item.scenes, item.percent.value) == (2, pytest.approx(0))


def test_without_a_baseline_there_are_figures_alone() -> None:
    found = findings(made_up("conv", 0), made_up("diff", 0))
    assert found.figures
    assert found.differences == []


# ----------------------------------------------------------------------------------------------------------- sentences

CASES: list[tuple[str, tuple[float, float, float], tuple[float, float, float], str]] = [
    ("the example", (-7.4, -11.2, -3.5), (0.2, -0.4, 0.9), "fewer flickers, no loss seen"),
    ("less of both", (-7.4, -11.2, -3.5), (-3, -5, -1), "fewer flickers, more accurate"),
    ("paid for", (-7.4, -11.2, -3.5), (3, 1, 5), "fewer flickers, less accurate"),
    ("perhaps paid for", (-7.4, -11.2, -3.5), (1, -1, 3), "fewer flickers, a loss of up to 3.0 % not excluded"),
    ("worse", (2, 0.1, 4), (0, -1, 1), "more flickers, no loss seen"),
    ("a clear null", (0.1, -1.9, 2.0), (0, -1, 1), "as many flickers, within 2 %, no loss seen"),
    (
        "too few",
        (-9, -20, 2),
        (0, -9, 9),
        "no change of flicker seen, nor excluded, a loss of up to 9.0 % not excluded",
    ),
    (
        "touches 0",
        (-3, -6, 0.0),
        (1, 0.0, 2),
        "no change of flicker seen, nor excluded, a loss of up to 2.0 % not excluded",
    ),
]


@pytest.mark.parametrize(("tae", "absrel", "said"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_intervals_alone_decide_what_is_said(
    tae: tuple[float, float, float], absrel: tuple[float, float, float], said: str
) -> None:
    given = {"tae": Estimate(*map(float, tae)), "absrel": Estimate(*map(float, absrel))}
    sentence = sentence_of({**given, "delta1": Estimate(0.0, -1.0, 1.0)})
    assert sentence.endswith(f"]: {said}")


def test_the_sentence_shows_what_it_follows_from() -> None:
    given = {"absrel": Estimate(0.2, -0.4, 0.9), "tae": Estimate(-7.4, -11.2, -3.5)}
    assert sentence_of(given) == "TAE -7.4 % [-11.2, -3.5], absrel +0.2 % [-0.4, +0.9]: fewer flickers, no loss seen"
    assert sentence_of({"absrel": Estimate(2.0, None, None)}) == (
        "absrel +2.0 % [?]: too few runs to say anything of accuracy"
    )
    assert sentence_of({"tae": Estimate(2.0, None, None)}).endswith("too few runs to say anything of flicker")


def test_verdicts_are_of_averages_in_the_order_of_arms() -> None:
    runs = [made_up(arm, seed, factor=f) for arm, f in (("basic", 1), ("x", 1.1), ("conv", 0.9)) for seed in (0, 1)]
    verdicts = verdicts_of(findings(*runs).differences, ["basic", "conv", "x", "absent"])
    assert [item.arm for item in verdicts] == ["conv", "x"]
    assert verdicts[0].text.endswith("fewer flickers, more accurate")


# -------------------------------------------------------------------------------------------------------------- tables


def results(**changes: Any) -> StudyResults:
    """A study of two arms, one with a name that would break tables and pages."""
    arms = ("basic", "a|<b>")
    found = findings(*(made_up(arm, seed, factor=f) for arm, f in zip(arms, (1, 0.9), strict=True) for seed in (0, 1)))
    made = StudyResults(
        baseline="basic",
        seeds=[0, 1],
        options={"steps": 3},
        scenes=found.scenes,
        arms=[
            Arm(arm, "basic", {}, [StudyRun(0, f"runs/{arm}/seed-0", "finished")], Cost(7, 0, 0.5, 1.25, None, None, 0))
            for arm in arms
        ],
        figures=found.figures,
        differences=found.differences,
        verdicts=verdicts_of(found.differences, list(arms)),
        earlier=EARLIER,
        remarks=["<script>"],
    )
    return replace(made, **changes)


def test_markdown_has_the_earlier_studys_columns_and_escapes_names() -> None:
    text = to_markdown(results())
    assert "| data set | arm | seeds | absrel ↓ | delta1 ↑ | TAE ↓ |" in text
    assert "| average | a&#124;&lt;b&gt; | 2 | 0.1629 ± 0.0064 | 0.9000 ± 0.0000 | 1.0736 ± 0.0636 |" in text
    assert "| average | a&#124;&lt;b&gt; | 5 | -10.0 % [-10.0, -10.0] * | +0.0 % [+0.0, +0.0] |" in text
    assert "| average | conv | 0.14045 | 0.77571 | 0.70086 |" in text
    assert "<script>" not in text
    assert "<b>" not in text
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert all(line.endswith("|") for line in lines)
    assert text.startswith("* a&#124;&lt;b&gt; against basic: TAE -10.0 %")


def test_csv_has_a_line_a_figure() -> None:
    rows = list(csv.DictReader(io.StringIO(to_csv(results()))))
    assert len(rows) == 3 * 2 * 3
    [row] = [row for row in rows if (row["dataset"], row["arm"], row["metric"]) == (AVERAGE, "a|<b>", "tae")]
    assert (float(row["percent"]), float(row["low"]), float(row["seeds_needed"])) == pytest.approx((-10, -10, 2))
    assert [row["percent"] for row in rows if row["arm"] == "basic"] == [""] * 9


def test_figures_under_stress_stand_beside_the_others() -> None:
    noisy = findings(made_up("basic", 0), made_up("a|<b>", 0, factor=1.1))
    found = results(stressed=[Stressed("flash+noise", noisy.figures, noisy.differences)])
    rows = list(csv.DictReader(io.StringIO(to_csv(found))))
    assert [row["stress"] for row in rows] == ["none"] * 18 + ["flash+noise"] * 18
    [row] = [row for row in rows[18:] if (row["dataset"], row["arm"], row["metric"]) == (AVERAGE, "a|<b>", "tae")]
    assert float(row["percent"]) == pytest.approx(10)
    [line] = [line for line in to_markdown(found).splitlines() if line.startswith("| flash+noise | a&#124;&lt;b&gt; |")]
    assert line.count("+10.0 %") == 2
    assert "disturbed" not in to_markdown(results())


def test_json_has_the_same_figures(tmp_path: Path) -> None:
    write_tables(tmp_path, results())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["study.json", "table.csv", "table.md"]
    found = json.loads((tmp_path / "study.json").read_text())
    assert found["version"] == 1
    assert found["differences"][0]["percent"] == {
        "value": pytest.approx(-10),
        "low": pytest.approx(-10),
        "high": pytest.approx(-10),
    }
    assert found["arms"][0]["cost"]["ms_per_frame"] == 1.25
    assert len(found["figures"]) == 18


def test_tables_without_anything_to_compare() -> None:
    text = to_markdown(results(differences=[], verdicts=[], earlier=(), remarks=[]))
    assert "An earlier study" not in text
    assert text.startswith("| data set | arm |")


def test_a_verdict_is_a_value() -> None:
    assert results().verdicts == [Verdict("a|<b>", results().verdicts[0].text)]


# --------------------------------------------------------------------------------------------------------------- files


def write_run(folder: Path, run: FinishedRun, **changes: Any) -> tuple[str, int, Path]:
    figures = {"absrel": 0.5, "delta1": 0.5, "tae": 0.5}
    evaluation = {
        "datasets": dict.fromkeys(PLACES, figures), "average": figures, "step": 3,
        "config": {"variant": run.arm, "encoder": "tiny", "seed": run.seed},
        "protocol": {"split": "val", "size": 28, "frames": 4, "stride": 1}, "data": dict.fromkeys(PLACES, "0" * 64),
    }  # fmt: skip
    folder.mkdir(parents=True)
    (folder / "evaluation.json").write_text(json.dumps({**evaluation, **changes}))
    write_windows(folder, run.windows)
    return run.arm, run.seed, folder


def test_runs_are_read_from_their_folders(tmp_path: Path) -> None:
    runs = [made_up("basic", 0), made_up("conv", 0)]
    read = read_runs([write_run(tmp_path / run.arm, run) for run in runs])
    assert [(run.arm, run.seed, run.windows) for run in read] == [(run.arm, run.seed, run.windows) for run in runs]


def test_runs_that_were_evaluated_otherwise_do_not_compare(tmp_path: Path) -> None:
    first = write_run(tmp_path / "basic", made_up("basic", 0))
    protocol = {"split": "val", "size": 42, "frames": 4, "stride": 1}
    with pytest.raises(UsageError, match="different --size"):
        read_runs([first, write_run(tmp_path / "other", made_up("conv", 0), protocol=protocol)])
    fewer = replace(made_up("conv", 0), windows=made_up("conv", 0).windows[:-1])
    with pytest.raises(DataError, match=f"{tmp_path}/fewer: its figures are of other windows than those of"):
        read_runs([first, write_run(tmp_path / "fewer", fewer)])
