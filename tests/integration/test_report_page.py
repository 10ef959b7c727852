"""The page of `compare --report` in a browser: its figures, its player, its names; nothing but the file itself."""

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.browser import PROGRAM, Browser, browse
from vdaprep.shards.pictures.depth_colors import SKY_RGB, near_is_bright
from vdatrain.evaluation.compare import compare, read_evaluations
from vdatrain.evaluation.figures import ERROR_RANGE, error_map
from vdatrain.evaluation.files import METRICS
from vdatrain.evaluation.report.clips import FLICKER_RANGE
from vdatrain.evaluation.report.comparison import write_report

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="needs Chromium: Debian's package chromium")

HOSTILE = "<script>window.hostile = 1</script><img src=x onerror='window.hostile = 2'>%{x}&amp;"
ARMS = (HOSTILE, "basic")  # sorted, as the table has them
DATASETS = ("alpha", "beta")
FRAMES, HEIGHT, WIDTH = 6, 20, 36
STEPS = (0, 10, 20, 30)
Documents = dict[tuple[str, int], dict[str, Any]]


@pytest.fixture(scope="module")
def documents() -> Documents:
    """`evaluation.json` of two seeds of two arms."""
    rng = np.random.default_rng(0)
    found: Documents = {}
    for arm in ARMS:
        for seed in (0, 1):
            rows = {name: {metric: float(rng.uniform(0.1, 1)) for metric in METRICS} for name in DATASETS}
            average = {metric: math.fsum(row[metric] for row in rows.values()) / 2 for metric in METRICS}
            config = {"variant": arm, "encoder": "tiny", "steps": 30, "seed": seed}
            protocol = {"split": "val", "size": 28, "frames": FRAMES, "stride": 1}
            data = dict.fromkeys(DATASETS, "ab" * 32)
            found[arm, seed] = {
                "datasets": rows, "average": average, "config": config, "step": 30, "protocol": protocol, "data": data,
            }  # fmt: skip
    return found


def truth(dataset: str) -> np.ndarray:
    """Levels in which every frame, row and column differs; the first row is sky, the first column unknown."""
    t, y, x = np.indices((FRAMES, HEIGHT, WIDTH))
    levels = (20 * t + 5 * y + 3 * x + 40 * DATASETS.index(dataset)) % 250 + 1
    levels[:, 0] = 0
    return levels.astype(np.uint8)


def losses(arm: str, seed: int) -> list[float]:
    return [3 / (1 + step) + 0.1 * seed + 0.01 * ARMS.index(arm) for step in STEPS]


@pytest.fixture(scope="module")
def page(documents: Documents, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    for (arm, seed), document in documents.items():
        run = folder / f"{ARMS.index(arm)}-{seed}"
        run.mkdir()
        (run / "evaluation.json").write_text(json.dumps(document))
        lines = [{"step": step, "total": loss} for step, loss in zip(STEPS, losses(arm, seed), strict=True)]
        lines += [{"step": step, "evaluation": {"average": document["average"]}} for step in STEPS]
        (run / "log.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
        for name in DATASETS:
            known = np.ones((FRAMES, HEIGHT, WIDTH), bool)
            known[:, :, 0] = False
            frames = np.full((FRAMES, HEIGHT, WIDTH, 3), (200, 100, 50), np.uint8)
            levels = truth(name)
            np.savez(
                run / f"gallery-{name}.npz",
                frames=frames, truth=levels, prediction=np.full_like(levels, 40 * seed + 60), known=known,
                disparity_range=np.array([0.1, 0.5]),
            )  # fmt: skip
    models = read_evaluations(sorted(folder.iterdir()))
    path = tmp_path_factory.mktemp("page") / "report.html"
    write_report(path, models, compare(models))
    return path


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browse(tmp_path_factory.mktemp("profile")) as started:
        yield started


@pytest.fixture
def shown(page: Path, browser: Browser) -> Iterator[Browser]:
    """The page, drawn; in the end it has complained of nothing and asked for nothing."""
    show(browser, page)
    yield browser
    assert browser.complaints == []
    assert browser.requests == [page.as_uri()]
    assert browser.evaluate("window.hostile") is None


def show(browser: Browser, page: Path, **window: Any) -> None:
    browser.open(page, **window)
    browser.wait_for("document.documentElement.dataset.ready === 'true'")
    browser.wait_for("document.getElementById('player').dataset.clip === '0'")


def traces(browser: Browser, kind: str) -> list[list[dict[str, Any]]]:
    """Return what Plotly has drawn: of each chart its traces."""
    chosen = "({x, y, meta, visible, error_x})"
    return browser.evaluate(
        f"[...document.querySelectorAll('#{kind} .chart')].map(chart => chart.data.map({chosen} => {chosen}))"
    )


def plot(browser: Browser) -> tuple[float, float, float, float]:
    """Return where the first chart of curves draws, after scrolling there: left, top, width, height."""
    return browser.evaluate(
        "(() => { const chart = document.querySelector('#curves .chart'); chart.scrollIntoView({block: 'center'});"
        "const {x, y, width, height} = chart.querySelector('.nsewdrag').getBoundingClientRect();"
        "return [x, y, width, height]; })()"
    )


def canvas(browser: Browser, panel: int, kind: str) -> np.ndarray:
    """Return the pixels of a panel's picture or of the strip below it (`.slice`)."""
    found = browser.evaluate(
        f"(() => {{ const canvas = document.querySelectorAll('.panel')[{panel}].querySelector('{kind} canvas');"
        "const {data, width, height} = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);"
        "return {data: [...data], width, height}; })()"
    )
    return np.array(found["data"], np.uint8).reshape(found["height"], found["width"], 4)[..., :3]


def mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


# ------------------------------------------------------------------------------------------------------------ figures


@pytest.mark.slow
def test_the_table_has_the_figures_of_the_files(shown: Browser, documents: Documents) -> None:
    rows = shown.evaluate(
        "[...document.querySelector('table').rows].map(row => [...row.cells].map(c => c.textContent))"
    )
    assert len(rows) == 1 + len(ARMS) * (len(DATASETS) + 1)
    for dataset, arm, runs, *cells in rows[1:]:
        found = [documents[arm, seed]["datasets"].get(dataset, documents[arm, seed]["average"]) for seed in (0, 1)]
        assert runs == "2"
        assert [cell.split(" ± ")[0] for cell in cells] == [
            f"{mean([row[metric] for row in found]):.4f}" for metric in METRICS
        ]


def test_a_curve_is_the_mean_of_the_logs_within_a_band(shown: Browser) -> None:
    loss, *_ = traces(shown, "curves")
    for number, arm in enumerate(ARMS):
        low, high, line = [trace for trace in loss if trace["meta"]["arm"] == number]
        runs = [losses(arm, seed) for seed in (0, 1)]
        assert line["x"] == low["x"] == list(STEPS)
        assert line["y"] == pytest.approx([mean(pair) for pair in zip(*runs, strict=True)])
        assert low["y"] == pytest.approx(runs[0])
        assert high["y"] == pytest.approx(runs[1])


def test_differences_and_scores_are_those_of_the_files(shown: Browser, documents: Documents) -> None:
    def means(arm: str, metric: str) -> list[float]:
        found = [[documents[arm, seed]["datasets"][name][metric] for seed in (0, 1)] for name in DATASETS]
        return [*map(mean, found), mean([documents[arm, seed]["average"][metric] for seed in (0, 1)])]

    for metric, [trace] in zip(METRICS, traces(shown, "forest"), strict=True):
        expected = [100 * (other / base - 1) for base, other in zip(*(means(arm, metric) for arm in ARMS), strict=True)]
        assert trace["x"] == pytest.approx(expected)
    average, *_ = traces(shown, "scores")
    runs, middle = [trace for trace in average if trace["meta"]["arm"] == 1]
    assert runs["y"] == [documents["basic", seed]["average"]["tae"] for seed in (0, 1)]
    assert middle["x"] == pytest.approx([means("basic", "absrel")[-1]])


def test_names_are_text_in_table_legend_captions_and_charts(shown: Browser) -> None:
    for place in ("h1", "td", "#legend", "figcaption"):
        texts = shown.evaluate(f"[...document.querySelectorAll('{place}')].map(item => item.textContent)")
        assert any(HOSTILE in text for text in texts), place
    assert shown.evaluate("document.querySelectorAll('img, td script, svg a').length") == 0
    x, y, width, height = plot(shown)
    shown.call("Input.dispatchMouseEvent", type="mouseMoved", x=x + 0.6 * width, y=y + 0.5 * height)
    shown.wait_for("document.querySelector('#curves .hoverlayer').textContent.includes('onerror')")
    assert "%{x}&amp;" in shown.evaluate("document.querySelector('#curves .hoverlayer').textContent")


def test_zooming_a_curve_zooms_all_and_an_arm_can_be_left_out(shown: Browser) -> None:
    x, y, width, height = plot(shown)
    shown.drag((x + width / 3, y + height / 2), (x + width * 2 / 3, y + height / 2))
    ranges = "[...document.querySelectorAll('#curves .chart')].map(chart => chart.layout.xaxis.range.map(Math.round))"
    shown.wait_for(f"new Set({ranges}.map(String)).size === 1")
    low, high = shown.evaluate(ranges)[0]
    assert 0 < low < high < 30
    shown.evaluate("document.querySelectorAll('#legend input')[1].click()")
    assert {trace["visible"] for trace in traces(shown, "curves")[0] if trace["meta"]["arm"] == 1} == {False}
    assert {trace.get("visible") for trace in traces(shown, "curves")[0] if trace["meta"]["arm"] == 0} == {None}
    assert shown.evaluate("document.querySelector('.pair[data-arm=\"1\"]').hidden") is True


# ------------------------------------------------------------------------------------------------------------- player


def test_pictures_and_strips_show_the_levels_of_the_clip(shown: Browser) -> None:
    set_slider(shown, "frame", 4)
    set_slider(shown, "row", 7)
    levels = truth("alpha")
    colours = [near_is_bright(levels[:, :, x]) for x in range(WIDTH)]
    picture, strip = canvas(shown, 1, ".view"), canvas(shown, 1, ".slice")
    assert picture.shape == (HEIGHT, WIDTH, 3)
    assert strip.shape == (FRAMES, WIDTH, 3)
    for x in range(1, WIDTH):
        assert np.array_equal(picture[1:, x], colours[x][4, 1:])
        assert np.array_equal(strip[:, x], colours[x][:, 7])
    assert np.all(picture[0, 1:] == SKY_RGB)
    assert {tuple(pixel) for pixel in picture[:, 0].tolist()} == {(104,) * 3, (168,) * 3}  # unknown: hatched
    assert np.abs(canvas(shown, 2, ".view").astype(int) - near_is_bright(np.full((1, 1), 60, np.uint8))[0, 0]).max() < 9


@pytest.mark.slow
@pytest.mark.parametrize(("measure", "range_"), [("error", ERROR_RANGE), ("flicker", FLICKER_RANGE)])
def test_beside_a_prediction_is_its_error_or_how_that_changed(measure: str, range_: float, shown: Browser) -> None:
    set_slider(shown, "frame", 4)
    choose(shown, "measure", measure)
    error = 60.0 - truth("alpha")[:, 1:, 1:]
    found = error if measure == "error" else np.diff(error, axis=0, prepend=error[:1])
    levels = (np.abs(found[4]) / range_ + 0.5).clip(0, 255).astype(np.uint8)
    assert len(np.unique(levels)) > (1 if measure == "flicker" else 20)
    assert np.array_equal(canvas(shown, 3, ".view")[1:, 1:], error_map(levels))
    assert shown.evaluate("document.querySelectorAll('.panel figcaption')[3].textContent").endswith(f": {measure}")


def set_slider(browser: Browser, name: str, value: int) -> None:
    change(browser, name, value, "input")


def choose(browser: Browser, name: str, value: object) -> None:
    change(browser, name, value, "change")


def change(browser: Browser, name: str, value: object, event: str) -> None:
    browser.evaluate(
        f"(() => {{ const input = document.getElementById('{name}'); input.value = {json.dumps(value)};"
        f"input.dispatchEvent(new Event('{event}')); }})()"
    )


def place(browser: Browser) -> tuple[int, int]:
    """Return the frame and the row that are shown, from 0."""
    texts = browser.evaluate("['frame', 'row'].map(name => document.getElementById(`${name}-number`).value)")
    frame, row = (int(text.split(" of ")[0]) - 1 for text in texts)
    return frame, row


@pytest.mark.slow
def test_keys_move_the_player(shown: Browser) -> None:
    shown.evaluate("document.getElementById('player').focus()")
    for key, expected in (
        ("ArrowRight", (1, 10)), ("ArrowRight", (2, 10)), ("ArrowLeft", (1, 10)), ("ArrowDown", (1, 11)),
        ("ArrowUp", (1, 10)), ("ArrowLeft", (0, 10)), ("ArrowLeft", (FRAMES - 1, 10)),
    ):  # fmt: skip
        shown.press(key)
        assert place(shown) == expected
    shown.press(" ")
    assert shown.evaluate("document.getElementById('play').textContent") == "Pause"
    shown.wait_for("document.getElementById('frame').value === '2'")
    shown.press(" ")
    stopped = place(shown)
    assert shown.evaluate("new Promise(resolve => setTimeout(resolve, 400))") is None
    assert place(shown) == stopped


def test_dragging_chooses_row_and_frame_and_another_clip_is_shown(shown: Browser) -> None:
    for view, expected in ((".view", (0, 15)), (".slice", (4, 15))):
        x, y, height = shown.evaluate(
            f"(() => {{ const view = document.querySelectorAll('.panel')[1].querySelector('{view}');"
            "view.scrollIntoView({block: 'center'}); const box = view.getBoundingClientRect();"
            "return [box.x + box.width / 2, box.y, box.height]; })()"
        )
        shown.drag((x, y + 0.1 * height), (x, y + 0.775 * height))
        assert place(shown) == expected
    choose(shown, "clip", 1)
    shown.wait_for("document.getElementById('player').dataset.clip === '1'")
    expected = near_is_bright(truth("beta")[0])
    assert np.array_equal(canvas(shown, 1, ".view")[1:, 1:], expected[1:, 1:])


# ------------------------------------------------------------------------------------------------------------ windows


@pytest.mark.slow
def test_a_phone_needs_no_scrolling_sideways(shown: Browser, page: Path) -> None:
    show(shown, page, width=375, height=812)
    assert shown.evaluate("document.documentElement.scrollWidth") == 375
    widths = shown.evaluate(
        "[...document.querySelectorAll('.chart svg, .panel')].map(item => item.getBoundingClientRect().right)"
    )
    assert max(widths) <= 375


@pytest.mark.slow
def test_colours_follow_the_system(shown: Browser, page: Path) -> None:
    colours = (
        "[getComputedStyle(document.body).backgroundColor, document.querySelector('.chart').layout.font.color,"
        "getComputedStyle(document.querySelector('.chart .xtitle')).fill]"
    )
    light = shown.evaluate(colours)
    features = [{"name": "prefers-color-scheme", "value": "dark"}]
    shown.call("Emulation.setEmulatedMedia", features=features)
    shown.wait_for(f"{colours}[2] !== '{light[2]}'")
    changed = shown.evaluate(colours)
    show(shown, page, dark=True)
    assert shown.evaluate(colours) == changed
    assert all(one != other for one, other in zip(light, changed, strict=True))


def test_the_browser_tells_what_a_page_does_wrong(browser: Browser, tmp_path: Path) -> None:
    """What the other tests find none of."""
    bad = tmp_path / "bad.html"
    bad.write_text(
        '<meta http-equiv="Content-Security-Policy" content="script-src \'unsafe-inline\'; img-src file:">'
        '<img src="missing.png"><script>console.error("one"); eval("1")</script>'
    )
    browser.open(bad)
    assert len(browser.requests) == 2
    assert any("one" in text for text in browser.complaints)
    assert any("unsafe-eval" in text for text in browser.complaints)
