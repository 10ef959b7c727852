"""What the commands of vdatrain print beside what vdaprep.cli.output offers."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.table import Table

from vdaprep.cli.output import console, errors, make_table
from vdatrain.distributed.launch import rank_prefix

if TYPE_CHECKING:
    from vdatrain.evaluation.evaluate import Evaluation
    from vdatrain.evaluation.long import LongEvaluation

__all__ = ["console", "errors", "evaluation_table", "warn"]


def warn(sentence: str) -> None:
    """Say on stderr what went wrong although the command continues."""
    errors.print(f"vdatrain{rank_prefix()}: {sentence}")


def evaluation_table(evaluation: "Evaluation | LongEvaluation") -> Table:
    """Lay the figures out; whole trajectories are counted as such and have no training loss."""
    figures: dict[str, Mapping[str, Any]] = evaluation.to_json()["datasets"]
    rows = {**figures, "average": evaluation.average()}
    counted = "trajectories" if all("trajectories" in row for row in figures.values()) else "windows"
    loss = ("loss ↓",) if counted == "windows" else ()
    table = make_table("data set", counted, "absrel ↓", "delta1 ↑", "rmse m ↓", "TAE ↓", "compared", *loss)
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
