"""Plotly figures of a page: curves, differences with intervals, TAE against absrel.

Names are escaped, since Plotly reads some HTML in texts. Each trace says in `meta` of which arm it is, as a number.
"""

import html
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from vdaprep.units import spread_evenly
from vdatrain.evaluation.compare import title_of
from vdatrain.evaluation.files import AVERAGE, METRICS
from vdatrain.evaluation.report.content import Chart, Difference, Line, Page, Score

# Paul Tol's "bright" scheme: told apart by colour-blind eyes, and on white as on black.
COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#999999")
_DASHES = ("solid", "dash", "dot", "dashdot")
_SYMBOLS = ("circle", "square", "diamond", "cross")
MAX_POINTS = 400  # of a line
_MAX_TEXT = 100
_BAND = 0.2  # opacity
_HEADROOM, _ROW = 90, 20  # pixels: what a forest plot needs beside its rows, and a row
Points = Sequence[tuple[float, float]]


def style_of(arm: int) -> dict[str, str]:
    """Return an arm's colour, dash and symbol: colours first, then other dashes and symbols."""
    turn = arm // len(COLOURS) % len(_DASHES)
    return {"colour": COLOURS[arm % len(COLOURS)], "dash": _DASHES[turn], "symbol": _SYMBOLS[turn]}


def curves(page: Page) -> list[dict[str, Any]]:
    """Return a figure a chart: each arm's mean over its runs and a band from least to greatest."""
    return [_curves(chart, page) for chart in page.charts]


def forest(page: Page) -> list[dict[str, Any]]:
    """Return a figure a metric: every arm's difference to the baseline, by data set."""
    found: list[dict[str, Any]] = []
    for metric, sign in METRICS.items():
        differences = [item for item in page.differences if item.metric == metric]
        if differences:
            found.append(
                _forest(page, differences, f"{title_of(metric)} ({'higher' if sign > 0 else 'lower'} is better)")
            )
    return found


def scores(page: Page) -> list[dict[str, Any]]:
    """Return a figure a data set, the average first: TAE against absrel of runs and means."""
    names = sorted({score.dataset for score in page.scores}, key=lambda name: (name != AVERAGE, name))
    return [_scores([score for score in page.scores if score.dataset == name], name, page) for name in names]


# ------------------------------------------------------------------------------------------------------------- curves


def _curves(chart: Chart, page: Page) -> dict[str, Any]:
    figure = _figure(chart.title, [trace for arm in page.arms for trace in _curve(chart, arm, page)], x="step", y="")
    figure["layout"] |= {"hovermode": "x unified", "hoverdistance": -1}
    if limits := _later_values([point for line in chart.lines for point in line.points]):
        figure["layout"]["yaxis"] |= {"range": limits}
    return figure


def _later_values(points: Points) -> list[float] | None:
    """Return the range of values after a tenth of the steps, None if it is most of the whole.

    What an untrained model has is so high that it would hide how the others end.
    """
    steps, values = [step for step, _ in points], [value for _, value in points]
    later = [value for step, value in points if step > min(steps) + 0.1 * (max(steps) - min(steps))]
    if not later or max(later) - min(later) > 0.5 * (max(values) - min(values)) or max(later) == min(later):
        return None
    margin = 0.06 * (max(later) - min(later))
    return [min(later) - margin, max(later) + margin]


def _curve(chart: Chart, arm: str, page: Page) -> Iterator[go.Scatter]:
    lines = [line for line in chart.lines if line.arm == arm and line.points]
    if not lines:
        return
    shared = _shared_steps(lines)
    if len(lines) == 1 or not shared:
        for line in lines:
            points = [line.points[i] for i in spread_evenly(len(line.points), MAX_POINTS)]
            label = arm if len(lines) == 1 else f"{arm}, {line.run}"
            yield _line(points, page.arms.index(arm), name=label, hovertemplate="%{y:.4g}")
        return
    values = [dict(line.points) for line in lines]
    at = [[found[step] for found in values] for step in shared]
    low, high = [min(row) for row in at], [max(row) for row in at]
    yield from _band(shared, low, high, page.arms.index(arm))
    yield _line(
        [(step, math.fsum(row) / len(row)) for step, row in zip(shared, at, strict=True)],
        page.arms.index(arm),
        name=f"{arm}, mean of {len(lines)}",
        customdata=list(zip(low, high, strict=True)),
        hovertemplate="%{y:.4g} (%{customdata[0]:.4g} to %{customdata[1]:.4g})",
    )


def _shared_steps(lines: Sequence[Line]) -> list[float]:
    """Return the steps that all runs have, at most MAX_POINTS of them."""
    steps = sorted(set.intersection(*({step for step, _ in line.points} for line in lines)))
    return [steps[i] for i in spread_evenly(len(steps), MAX_POINTS)]


def _line(points: Points, arm: int, *, name: str, **more: Any) -> go.Scatter:
    style = style_of(arm)
    return go.Scatter(
        x=[step for step, _ in points],
        y=[value for _, value in points],
        name=_plain(name),
        mode="lines+markers" if len(points) < 20 else "lines",
        line={"color": style["colour"], "dash": style["dash"], "width": 2},
        marker={"symbol": style["symbol"], "size": 6},
        meta={"arm": arm},
        **more,
    )


def _band(steps: Sequence[float], low: Sequence[float], high: Sequence[float], arm: int) -> Iterator[go.Scatter]:
    shade = f"rgba({', '.join(str(int(style_of(arm)['colour'][i : i + 2], 16)) for i in (1, 3, 5))}, {_BAND})"
    edge = {"x": list(steps), "mode": "lines", "line": {"width": 0}, "hoverinfo": "skip", "meta": {"arm": arm}}
    yield go.Scatter(**edge, y=list(low))
    yield go.Scatter(**edge, y=list(high), fill="tonexty", fillcolor=shade)


# ------------------------------------------------------------------------------------------- differences and scores


def _forest(page: Page, differences: Sequence[Difference], title: str) -> dict[str, Any]:
    datasets = sorted({item.dataset for item in differences}, key=lambda name: (name == AVERAGE, name))
    arms = [arm for arm in page.arms if any(item.arm == arm for item in differences)]
    place = {(name, arm): i * (len(arms) + 1) + j for i, name in enumerate(datasets) for j, arm in enumerate(arms)}
    by_arm: defaultdict[str, list[Difference]] = defaultdict(list)
    for item in differences:
        by_arm[item.arm].append(item)
    traces = [_intervals(by_arm[arm], [place[item.dataset, arm] for item in by_arm[arm]], arm, page) for arm in arms]
    rows = len(datasets) * (len(arms) + 1)
    figure = _figure(title, traces, x=f"difference to {page.baseline}, %", y="")
    figure["layout"] |= {"height": _HEADROOM + _ROW * rows}
    figure["layout"]["xaxis"] |= {"rangemode": "tozero", "zeroline": True}
    figure["layout"]["yaxis"] |= {
        "tickvals": [i * (len(arms) + 1) + (len(arms) - 1) / 2 for i in range(len(datasets))],
        "ticktext": [_plain(name) for name in datasets],
        "range": [rows - 1, -1],
        "showgrid": False,
        "zeroline": False,
    }
    return figure


def _intervals(differences: Sequence[Difference], places: Sequence[int], arm: str, page: Page) -> go.Scatter:
    style = style_of(page.arms.index(arm))
    return go.Scatter(
        x=[item.percent for item in differences],
        y=list(places),
        error_x={
            "type": "data",
            "symmetric": False,
            "array": [0 if item.high is None else item.high - item.percent for item in differences],
            "arrayminus": [0 if item.low is None else item.percent - item.low for item in differences],
            "color": style["colour"],
            "thickness": 2,
            "width": 5,
        },
        mode="markers",
        marker={"color": style["colour"], "symbol": style["symbol"], "size": 9},
        name=_plain(arm),
        meta={"arm": page.arms.index(arm)},
        customdata=[[_plain(item.dataset), _interval(item)] for item in differences],
        hovertemplate="%{customdata[0]}: %{x:+.2f} %%{customdata[1]}",
    )


def _interval(item: Difference) -> str:
    return "" if item.low is None or item.high is None else f" [{item.low:+.2f}, {item.high:+.2f}]"


def _scores(scores_: Sequence[Score], dataset: str, page: Page) -> dict[str, Any]:
    traces = [
        trace for arm in page.arms for trace in _cloud([score for score in scores_ if score.arm == arm], arm, page)
    ]
    return _figure(dataset, traces, x="absrel (lower is better)", y="TAE (lower is better)")


def _cloud(scores_: Sequence[Score], arm: str, page: Page) -> Iterator[go.Scatter]:
    """Yield an arm's runs, small and pale, and their mean."""
    if not scores_:
        return
    number, style = page.arms.index(arm), style_of(page.arms.index(arm))
    marker = {"color": style["colour"], "symbol": style["symbol"]}
    hover = "absrel %{x:.4f}, TAE %{y:.4f}"
    if len(scores_) > 1:
        yield go.Scatter(
            x=[score.absrel for score in scores_], y=[score.tae for score in scores_],
            mode="markers", marker={**marker, "size": 7, "opacity": 0.5}, meta={"arm": number},
            name=_plain(arm), text=[_plain(score.run) for score in scores_], hovertemplate=f"%{{text}}: {hover}",
        )  # fmt: skip
    yield go.Scatter(
        x=[math.fsum(score.absrel for score in scores_) / len(scores_)],
        y=[math.fsum(score.tae for score in scores_) / len(scores_)],
        mode="markers", marker={**marker, "size": 13}, meta={"arm": number},
        name=_plain(arm), hovertemplate=hover,
    )  # fmt: skip


# ------------------------------------------------------------------------------------------------------------ figures


def _figure(title: str, traces: Sequence[go.Scatter], *, x: str, y: str) -> dict[str, Any]:
    """Return a figure as JSON has it; the page adds colours of text and ground."""
    layout = {
        "showlegend": False,
        "hovermode": "closest",
        "margin": {"l": 8, "r": 12, "t": 28, "b": 8},
        "xaxis": {"title": {"text": _plain(x)}, "automargin": True},
        "yaxis": {"title": {"text": _plain(y)}, "automargin": True},
    }
    found: Mapping[str, Any] = go.Figure(list(traces), layout).to_plotly_json()
    return {
        "title": title,
        "data": found["data"],
        "layout": {k: v for k, v in found["layout"].items() if k != "template"},
    }


def _plain(text: str) -> str:
    """Return a text that Plotly, which reads tags and `%{x}`, shows as it is, cut if long."""
    short = text if len(text) <= _MAX_TEXT else f"{text[: _MAX_TEXT - 3]}..."
    return html.escape(short, quote=False).replace("%", "&#37;")
