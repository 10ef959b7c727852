"""The page and the tables of a comparison, made of names that come from outside."""

import html.parser
import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from vdaprep.errors import DataError
from vdatrain.evaluation.compare import compare, markdown_table, verdict
from vdatrain.evaluation.files import AVERAGE, EvaluatedModel, Protocol
from vdatrain.evaluation.report.comparison import comparison_page, write_report
from vdatrain.evaluation.report.page import page_data
from vdatrain.evaluation.report.study import study_page, write_study_report
from vdatrain.evaluation.study.results import (
    Arm,
    Difference,
    EarlierRow,
    Estimate,
    Figure,
    StudyResults,
    StudyRun,
    Verdict,
)

HOSTILE = "<script>alert('x')|\"&"
FIGURES = {"absrel": 0.1, "delta1": 0.9, "tae": None}
TAGS = {
    *(
        "meta",
        "title",
        "style",
        "h1",
        "h2",
        "p",
        "table",
        "tr",
        "th",
        "td",
        "b",
        "div",
        "section",
        "noscript",
        "script",
    ),
    *("label", "select", "option", "button", "input", "output", "html"),
}


class Reader(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)
        if tag not in ("meta", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
def runs(tmp_path: Path) -> list[EvaluatedModel]:
    """Two runs of variants, on data sets and in folders of which each name is hostile."""
    found: list[EvaluatedModel] = []
    for number, variant in enumerate((HOSTILE, "conv")):
        folder = tmp_path / f"{number}{HOSTILE}"
        folder.mkdir()
        moving = np.random.default_rng(number).integers(0, 255, (3, 28, 42)).astype(np.uint8)
        np.savez(
            folder / f"gallery-{HOSTILE}.npz",
            frames=np.repeat(moving[..., None], 3, axis=-1), truth=moving, prediction=moving, known=moving > 0,
        )  # fmt: skip
        facts = {"encoder": HOSTILE, "steps": 2, "step": 2, "seed": 0}
        figures = {HOSTILE: {**FIGURES, "absrel": 0.1 + number}, AVERAGE: {**FIGURES, "absrel": 0.1 + number}}
        log = (
            {"step": 1, "total": 0.5, "waiting": 0.1},
            {"step": 2, "total": 0.4, "waiting": 0.1},
            {"step": 2, "evaluation": {**FIGURES, "loss": 0.3}},
        )
        found.append(
            EvaluatedModel(
                folder, variant, facts, Protocol("val", 28, 3), {HOSTILE: "0"}, None, figures, str(number), log
            )
        )
    return found


def test_names_from_outside_are_text_on_the_page(runs: list[EvaluatedModel], tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    write_report(path, runs, compare(runs))
    reader = Reader()
    reader.feed(path.read_text(encoding="utf-8"))
    assert set(reader.tags) == TAGS
    assert reader.open == []
    assert reader.tags.count("script") == 3
    assert reader.text.count(HOSTILE) > 10
    data = json.loads(re.search('id="data">(.*?)</script>', path.read_text(), re.DOTALL)[1])
    assert [arm["name"] for arm in data["arms"]] == [HOSTILE, "conv"]
    assert [chart["title"] for chart in data["charts"]["curves"]] == [
        "training loss", "held-out loss", "held-out absrel", "held-out delta1", "share of time waiting for data",
    ]  # fmt: skip
    assert data["charts"]["scores"] == []  # the TAE has no points


def test_names_from_outside_cannot_break_a_markdown_table(runs: list[EvaluatedModel]) -> None:
    lines = markdown_table(compare(runs)).splitlines()
    assert {line.count("|") for line in lines} == {7}
    assert "<" not in "".join(lines)


@pytest.mark.parametrize(
    ("metric", "first", "second", "said"),
    [
        ("absrel", 0.1, 0.1, "absrel equal"),
        ("absrel", 0.1, 0.12, "absrel 20.0% worse"),
        ("absrel", 0.1, 0.05, "absrel 50.0% better"),
        ("absrel", 0.1, 0.10001, "absrel less than 0.1% worse"),
        ("absrel", 0.1, 0.09999, "absrel less than 0.1% better"),
        ("absrel", 0.0, 0.0, "absrel equal"),
        ("absrel", 0.0, 0.1, "nothing in common"),
        ("absrel", None, 0.1, "nothing in common"),
        ("delta1", 0.8, 0.8, "delta1 equal"),
        ("delta1", 0.8, 0.6, "delta1 25.0% worse"),
        ("delta1", 0.8, 1.0, "delta1 25.0% better"),
        ("tae", 2.0, 2.0, "TAE equal"),
        ("tae", 2.0, 2.0001, "TAE less than 0.1% worse"),
    ],
)
def test_the_verdict_calls_equal_what_is(
    metric: str, first: float | None, second: float | None, said: str, runs: list[EvaluatedModel]
) -> None:
    none = dict.fromkeys(FIGURES)
    models = [
        replace(run, name=name, figures={data: {**none, metric: value} for data in run.figures})
        for run, name, value in zip(runs, ("a", "b"), (first, second), strict=True)
    ]
    assert verdict(compare(models)).startswith(f"b against a: {said}. With a single run")


@pytest.mark.parametrize(
    ("base", "other", "expected"),
    [
        ({0: 1.0}, {0: 1.25}, (25.0, math.nan, math.nan)),  # a single run tells nothing of others
        ({0: 1.0, 1: 1.0}, {0: 1.1, 1: 1.3}, (20.0, 20 - 12.706 * 10, 20 + 12.706 * 10)),  # Student's, one degree
        ({0: 1.0, 1: 2.0, 2: 4.0}, {0: 1.1, 1: 2.2, 2: 4.4}, (10.0, 10.0, 10.0)),  # the same in every pair
        ({0: 1.0, 1: 2.0, 5: 9.0}, {0: 1.1, 1: 2.2, 7: 1.0}, (10.0, 10.0, 10.0)),  # only seeds that both have
        ({0: 1.0, 1: 3.0}, {2: 1.0, 3: 1.0}, (-50.0, math.nan, math.nan)),  # no pair
    ],
)
def test_differences_are_paired_by_seed(
    base: dict[int, float], other: dict[int, float], expected: tuple[float, ...], runs: list[EvaluatedModel]
) -> None:
    models = [
        replace(
            runs[0], name=name, facts={"seed": seed}, log=(), folder=runs[0].folder / "none",
            figures={AVERAGE: {"absrel": value, "delta1": 0.0, "tae": None}},
        )
        for name, values in (("a", base), ("b", other))
        for seed, value in values.items()
    ]  # fmt: skip
    [found] = comparison_page(models, compare(models)).differences
    assert (found.dataset, found.arm, found.metric) == (AVERAGE, "b", "absrel")
    ends = [math.nan if end is None else end for end in (found.low, found.high)]
    assert [found.percent, *ends] == pytest.approx(expected, rel=1e-3, nan_ok=True)


def test_a_long_curve_shows_logged_values_and_leaves_out_a_high_beginning(
    runs: list[EvaluatedModel],
) -> None:
    log = [{"step": step, "total": 100.0 if step < 50 else 1 + step / 1e4} for step in range(5000)]
    models = [replace(runs[0], log=log)]
    figure = page_data(comparison_page(models, compare(models)))["charts"]["curves"][0]
    [line] = figure["data"]
    assert len(line["x"]) == 400
    assert all(log[int(step)]["total"] == value for step, value in zip(line["x"], line["y"], strict=True))
    low, high = figure["layout"]["yaxis"]["range"]
    assert 0.9 < low < high < 1.6


# -------------------------------------------------------------------------------------------------------------- study


def study_results() -> StudyResults:
    """What a study found of the runs, in which the second arm's second run diverged."""

    def run(seed: int, state: Literal["finished", "diverged"], folder: str) -> StudyRun:
        return StudyRun(seed, folder, state, None if state == "finished" else HOSTILE)

    names = ["a", HOSTILE]
    percent = Estimate(-7.4, -11.2, -3.5)
    return StudyResults(
        baseline="a",
        seeds=[0, 1],
        options={},
        scenes={"toy": 3},
        arms=[
            Arm(HOSTILE, "conv", {"differences": HOSTILE}, [run(0, "finished", "b0"), run(1, "diverged", "b1")], None),
            Arm("a", "basic", {}, [run(0, "finished", "a0"), run(1, "finished", "a1")], None),
        ],
        figures=[
            Figure(dataset, name, "tae", 2.0 - number, None, {0: 2.0 - number})
            for dataset in ("toy", AVERAGE)
            for number, name in enumerate(names)
        ],
        differences=[
            Difference(dataset, HOSTILE, "tae", percent, percent, percent, {0: -7.4}, 3, 5)
            for dataset in ("toy", AVERAGE)
        ],
        verdicts=[Verdict(HOSTILE, "fewer flickers")],
        earlier=[EarlierRow("conv", AVERAGE, {"absrel": 0.14045, "tae": 0.70086})],
        remarks=[f"{HOSTILE}, seed 1, diverged."],
    )


def write_run(folder: Path, *, loss: float) -> None:
    """Write what a page reads of a run's folder."""
    folder.mkdir()
    row = {"absrel": loss, "delta1": 0.9, "tae": 10 * loss}
    document = {
        "datasets": {"toy": row}, "average": row, "config": {"variant": "basic", "encoder": "tiny", "seed": 0},
        "step": 2, "protocol": {"split": "val", "size": 28, "frames": 3, "stride": 1}, "data": {"toy": "ab" * 32},
    }  # fmt: skip
    (folder / "evaluation.json").write_text(json.dumps(document))
    (folder / "log.jsonl").write_text("".join(f'{{"step": {step}, "total": {loss * step}}}\n' for step in (1, 2)))
    levels = np.full((3, 28, 42), 100 * loss, np.uint8)
    frames, known = np.zeros((3, 28, 42, 3), np.uint8), np.ones(levels.shape, bool)
    np.savez(folder / "gallery-toy.npz", frames=frames, truth=levels, prediction=levels, known=known)


def test_the_page_of_a_study_has_what_study_json_has(tmp_path: Path) -> None:
    results = study_results()
    for name, loss in (("a0", 0.1), ("a1", 0.3), ("b0", 0.5)):
        write_run(tmp_path / name, loss=loss)
    write_study_report(tmp_path / "report.html", results, folder=tmp_path)
    text = (tmp_path / "report.html").read_text()
    reader = Reader()
    reader.feed(text)
    assert set(reader.tags) <= TAGS
    assert f"{HOSTILE}: fewer flickers" in reader.text
    assert f"diverged: {HOSTILE}" in reader.text
    data = json.loads(re.search('id="data">(.*?)</script>', text, re.DOTALL)[1])
    assert [arm["name"] for arm in data["arms"]] == ["a", HOSTILE]  # the baseline first
    [figure] = data["charts"]["forest"]
    [trace] = figure["data"]
    assert trace["x"] == [item.percent.value for item in results.differences]
    assert trace["error_x"]["array"] == pytest.approx([-3.5 + 7.4] * 2)
    assert trace["error_x"]["arrayminus"] == pytest.approx([-7.4 + 11.2] * 2)
    *_, mean, other = data["charts"]["curves"][0]["data"]
    assert mean["y"] == pytest.approx([0.2, 0.4])  # of both seeds of the first arm
    assert other["y"] == [0.5, 1.0]  # the run that diverged is left out
    assert [[item["arm"] for item in clip["predictions"]] for clip in data["clips"]] == [[0, 1]]


@pytest.mark.parametrize(("others", "title"), [("", "nothing"), ("bcde", "b, c, d, e"), ("bcdef", "5 arms")])
def test_a_title_names_a_few_arms(others: str, title: str, tmp_path: Path) -> None:
    results = study_results()
    arms = [replace(results.arms[0], name=name, runs=()) for name in f"{others}a"]
    assert study_page(replace(results, arms=arms), folder=tmp_path).title == f"{title} against a"


@pytest.mark.parametrize(("names", "title"), [("ab", "a against b"), ("abcdef", "5 arms against a")])
def test_so_does_the_title_of_a_comparison(names: str, title: str, runs: list[EvaluatedModel]) -> None:
    models = [replace(runs[0], name=name, log=(), folder=runs[0].folder / "none") for name in names]
    assert comparison_page(models, compare(models)).title == title


def test_a_study_without_the_run_of_an_arm_names_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="a0/evaluation.json: is missing"):
        write_study_report(tmp_path / "report.html", study_results(), folder=tmp_path)
    assert list(tmp_path.glob("*.html")) == []
