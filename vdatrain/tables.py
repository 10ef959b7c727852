"""The figures of an evaluation as a table for the terminal."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table

if TYPE_CHECKING:
    from vdatrain.evaluate import Evaluation
    from vdatrain.evaluate_long import LongEvaluation


def evaluation_table(evaluation: "Evaluation | LongEvaluation") -> Table:
    """Lay the figures out; whole trajectories are counted as such and have no training loss."""
    figures: dict[str, Mapping[str, Any]] = evaluation.to_json()["datasets"]
    rows = {**figures, "average": evaluation.average()}
    counted = "trajectories" if all("trajectories" in row for row in figures.values()) else "windows"
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    loss = ("loss ↓",) if counted == "windows" else ()
    for title in ("data set", counted, "absrel ↓", "delta1 ↑", "rmse m ↓", "TAE ↓", "compared", *loss):
        table.add_column(title, justify="left" if title == "data set" else "right", no_wrap=True)
    for name, row in rows.items():
        table.add_row(
            name,
            str(row.get(counted, "")),
            *(f"{row[key]:.4f}" for key in ("absrel", "delta1", "rmse")),
            "no poses" if row["tae"] is None else f"{row['tae']:.4f}",
            f"{row['tae_share']:.1%}",
            *(f"{row['loss']:.4f}" for _ in loss),
        )
    return table
