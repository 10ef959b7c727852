"""A benchmark's table: what was measured beside what others have published."""

import csv
import html
import io
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from vdaprep.storage.atomic import write_text
from vdatrain.evaluation.benchmark.protocols import TAE_SCENES, BenchmarkSet, Protocol
from vdatrain.evaluation.benchmark.published import PUBLISHED, PUBLISHED_METRIC, PublishedRow
from vdatrain.evaluation.benchmark.results import SceneResult
from vdatrain.evaluation.benchmark.scenes import Remark

ARROWS = {"absrel": "↓", "delta1": "↑", "tae": "↓"}
TITLES = {"tae": "TAE"}
_HEADINGS = {"title": "set", "rmse": "rmse m", "tae": "TAE", "tae_share": "share of pixels that TAE compares"}
DIFFERS = ("missing scene", "missing frames", "pairing", "pass", "size", "packing")
"""Kinds of remarks for which a figure is marked: it is not of the data that the protocol names."""
_PUBLISHED_UNDER = ("vda", "vda-legacy")
_DRAWS = 1.96  # standard deviations that 95 of 100 choices lie within


@dataclass(frozen=True)
class SetSummary:
    """The figures of a set."""

    key: str
    """Key of the set."""
    title: str
    """Name in tables."""
    scenes: int
    """Scenes that were measured."""
    scenes_expected: int
    """Scenes that the protocol has."""
    frames: int
    """Frames that were predicted."""
    absrel: float | None
    """Over the scenes, as the protocol weights them; None without a pixel of known depth, as delta1 and rmse."""
    delta1: float | None
    """Likewise."""
    rmse: float | None
    """Likewise, metres."""
    tae: float | None
    """Mean over the scenes that have it; None if none has."""
    tae_share: float
    """Share of pixels that it compares, over those scenes."""
    seconds_per_500_frames: float
    """What predicting and measuring took."""


@dataclass(frozen=True)
class Row:
    """A line of the table."""

    model: str
    """The model."""
    source: str
    """Where its figures are from."""
    cells: Mapping[tuple[str, str], float | None]
    """By key of the set and metric; without those that there are not."""
    marks: Mapping[str, str] = field(default_factory=dict[str, str])
    """By key of the set: why its figures cannot be taken as they stand."""


@dataclass(frozen=True)
class Table:
    """The table of a benchmark."""

    protocol: Protocol
    """The protocol."""
    columns: tuple[tuple[str, str], ...]
    """Key of the set and metric."""
    rows: tuple[Row, ...]
    """Published ones first, ours last."""
    summaries: tuple[SetSummary, ...]
    """Ours by set."""

    def title_of(self, column: tuple[str, str]) -> str:
        """Return the heading of a column."""
        key, metric = column
        title = next(item.title for item in self.protocol.sets if item.key == key)
        name = "" if metric == "tae" and title.endswith("TAE") else f" {TITLES.get(metric, metric)}"
        return f"{title}{name} {ARROWS[metric]}"

    def notes(self) -> list[str]:
        """Return a sentence for each mark, in the order of their numbers."""
        return list(dict.fromkeys(mark for row in self.rows for mark in row.marks.values()))

    def foot(self) -> list[str]:
        """Return what stands below the table: sentences of marks by number, then those of sets."""
        marks = [f"[{number}] {mark}" for number, mark in enumerate(self.notes(), 1)]
        return [*marks, *(f"{item.title}: {item.note}" for item in self.protocol.sets if item.note)]

    def text_of(self, row: Row, column: tuple[str, str]) -> str:
        """Return a cell as text, with the number of its mark."""
        value = row.cells.get(column)
        if value is None:
            return "-"
        mark = row.marks.get(column[0])
        return f"{value:.3f}" if mark is None else f"{value:.3f} [{self.notes().index(mark) + 1}]"


def make_table(
    protocol: Protocol, results: Sequence[SceneResult], remarks: Sequence[Remark], *, model: str, metric: bool
) -> Table:
    """Lay a benchmark out.

    Args:
        protocol: The protocol, with the sets that were measured.
        results: Those of its scenes.
        remarks: The ledger.
        model: What the table calls the model.
        metric: Whether its weights are metric, so that it stands beside metric models.

    Returns:
        The table.
    """
    summaries = [summary_of(item, _of(item, results), weighting=protocol.weighting) for item in protocol.sets]
    columns = [
        (item.key, name)
        for item in protocol.sets
        for name in (("tae",) if item.measures == "tae" else ("absrel", "delta1"))
    ]
    ours = Row(
        model,
        "measured here",
        {(item.key, name): getattr(item, name) for item in summaries for name in ("absrel", "delta1", "tae")},
        _marks(protocol, results, remarks),
    )
    published = _published(metric=metric) if protocol.name in _PUBLISHED_UNDER else []
    rows = [_within(row, columns) for row in published if not row.cells or row.cells.keys() & set(columns)]
    return Table(protocol, tuple(columns), (*rows, ours), tuple(summaries))


def _within(row: Row, columns: Sequence[tuple[str, str]]) -> Row:
    """Return a row with the figures of some columns, and their marks."""
    cells = {column: row.cells[column] for column in columns if column in row.cells}
    return replace(row, cells=cells, marks={key: mark for key, mark in row.marks.items() if (key, "absrel") in cells})


def summary_of(item: BenchmarkSet, results: Sequence[SceneResult], *, weighting: str) -> SetSummary:
    """Return a set's figures from its scenes'; a scene without a pixel of known depth has none."""
    figures = [result.figures for result in results]
    pairs = sum(found.pairs for found in figures)
    shares = math.fsum(found.tae_share * found.pairs for found in figures)
    if weighting == "pixels":
        weighted = {name: _pixel_mean(name, results) for name in ("absrel", "delta1")}
        squares = [found.pixels * found.pixel_rmse**2 for found in figures if found.pixel_rmse is not None]
        pixels = sum(found.pixels for found in figures)
        weighted["rmse"] = math.sqrt(math.fsum(squares) / pixels) if pixels else None
    else:
        weighted = {name: _mean(name, results) for name in ("absrel", "delta1", "rmse")}
    frames = sum(found.frames for found in figures)
    return SetSummary(
        key=item.key,
        title=item.title,
        scenes=len(results),
        scenes_expected=len(item.scenes),
        frames=frames,
        **weighted,
        tae=_mean("tae", results),
        tae_share=shares / pairs if pairs else 0.0,
        seconds_per_500_frames=500 * math.fsum(result.seconds for result in results) / frames if frames else 0.0,
    )


def _of(item: BenchmarkSet, results: Sequence[SceneResult]) -> list[SceneResult]:
    return [result for result in results if result.key == item.key]


def _mean(name: str, results: Sequence[SceneResult]) -> float | None:
    values = [value for result in results if (value := getattr(result.figures, name)) is not None]
    return math.fsum(values) / len(values) if values else None


def _pixel_mean(name: str, results: Sequence[SceneResult]) -> float | None:
    pairs = [(result.figures.pixels, getattr(result.figures, f"pixel_{name}")) for result in results]
    pixels = sum(count for count, value in pairs if value is not None)
    return math.fsum(count * value for count, value in pairs if value is not None) / pixels if pixels else None


def _marks(protocol: Protocol, results: Sequence[SceneResult], remarks: Sequence[Remark]) -> dict[str, str]:
    marks: dict[str, str] = {}
    for item in protocol.sets:
        kinds = [kind for kind in DIFFERS if any((note.key, note.kind) == (item.key, kind) for note in remarks)]
        found = [f"not the protocol's data, see the ledger: {', '.join(kinds)}"] if kinds else []
        if item.faults.scenes_unknown and (spread := _spread(_of(item, results))) is not None:
            found.append(f"the mean of any {TAE_SCENES} of these scenes lies within ± {spread:.3f} of it (95 %)")
        if found:
            marks[item.key] = "; ".join(found)
    return marks


def _spread(results: Sequence[SceneResult]) -> float | None:
    """Return how far the mean TAE of TAE_SCENES scenes by chance is from that of all; or None."""
    values = [value for result in results if (value := result.figures.tae) is not None]
    if len(values) <= TAE_SCENES:
        return None
    of_all = (len(values) - TAE_SCENES) / (len(values) - 1)  # drawn without putting back
    return _DRAWS * statistics.pstdev(values) * math.sqrt(of_all / TAE_SCENES)


def _published(*, metric: bool) -> list[Row]:
    if metric:
        return [
            Row(
                item.model,
                item.source,
                {**{(key, "delta1"): value for key, value in item.delta1.items()}, ("scannet-tae", "tae"): item.tae},
            )
            for item in PUBLISHED_METRIC
        ]
    return [Row(item.model, item.source, _cells(item), item.doubtful) for item in PUBLISHED]


def _cells(item: PublishedRow) -> dict[tuple[str, str], float | None]:
    found: dict[tuple[str, str], float | None] = {}
    for key, (absrel, delta1) in item.pairs.items():
        found |= {(key, "absrel"): absrel, (key, "delta1"): delta1}
    return found if item.tae is None else {**found, ("scannet-tae", "tae"): item.tae}


# -------------------------------------------------------------------------------------------------------------- files


def to_markdown(table: Table) -> str:
    """Return the table, the notes to it and ours in detail, as Markdown."""
    heading = ["model", *map(table.title_of, table.columns), "source"]
    lines = [heading, ["---", *["---:"] * len(table.columns), "---"]]
    for row in table.rows:
        cells = [table.text_of(row, column) for column in table.columns]
        lines.append([_escaped(row.model), *cells, _escaped(row.source)])
    notes = [f"{_escaped(note)}." for note in table.foot()]
    names = [item for item in SetSummary.__dataclass_fields__ if item != "key"]
    detail = [[_HEADINGS.get(name, name.replace("_", " ")) for name in names], ["---", *["---:"] * (len(names) - 1)]]
    detail += [[_shown(getattr(item, name)) for name in names] for item in table.summaries]
    parts = [
        f"Protocol `{table.protocol.name}`: {_escaped(table.protocol.title)}.", _pipes(lines), "\n".join(notes),
        _pipes(detail),
    ]  # fmt: skip
    return "\n\n".join(part for part in parts if part) + "\n"


def _pipes(lines: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _shown(value: str | int | float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def _escaped(text: str) -> str:
    """Return a name that cannot end a cell of Markdown or begin an element of HTML."""
    return " ".join(html.escape(text, quote=False).replace("|", "&#124;").split())


def to_csv(table: Table) -> str:
    """Return a line for each figure: model, set, metric, value, source, mark."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["protocol", "model", "set", "metric", "value", "source", "mark"])
    for row in table.rows:
        for (key, metric), value in row.cells.items():
            if value is not None:
                mark = row.marks.get(key, "")
                writer.writerow([table.protocol.name, row.model, key, metric, f"{value:.6g}", row.source, mark])
    return text.getvalue()


def to_json(table: Table, results: Sequence[SceneResult]) -> dict[str, Any]:
    """Return rows, ours by set, and every scene."""
    return {
        "protocol": table.protocol.name,
        "rows": [
            {
                "model": row.model,
                "source": row.source,
                "figures": [
                    {"set": key, "metric": metric, "value": value, "mark": row.marks.get(key)}
                    for (key, metric), value in row.cells.items()
                    if value is not None
                ],
            }
            for row in table.rows
        ],
        "sets": [asdict(item) for item in table.summaries],
        "scenes": [asdict(item) for item in results],
    }


def write_tables(folder: Path, table: Table, results: Sequence[SceneResult]) -> None:
    """Write table.md, table.csv and table.json; raises OutputError."""
    write_text(folder / "table.md", to_markdown(table))
    write_text(folder / "table.csv", to_csv(table))
    write_text(folder / "table.json", json.dumps(to_json(table, results), indent=2) + "\n")
