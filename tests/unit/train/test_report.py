"""The page and the tables of a comparison, made of names that come from outside."""

import html.parser
import json
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vdatrain.evaluation.compare import compare, markdown_table, verdict
from vdatrain.evaluation.files import AVERAGE, EvaluatedModel, Protocol
from vdatrain.evaluation.report.comparison import comparison_page, write_report
from vdatrain.evaluation.report.page import page_data

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
