"""Where the commands print: results on stdout, everything else on stderr."""

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table

from vdatrain.distributed.launch import rank_prefix

if TYPE_CHECKING:
    from vdatrain.evaluation.evaluate import Evaluation
    from vdatrain.evaluation.long import LongEvaluation


console = Console()
errors = Console(stderr=True, soft_wrap=True, highlight=False)


def warn(sentence: str) -> None:
    """Say on stderr what went wrong although the command goes on."""
    errors.print(f"vdatrain{rank_prefix()}: {sentence}", markup=False)


class _ToStderr(logging.Handler):
    """Prints what the library logs as the command's own sentences; one that ends all ranks needs no rank's number."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record."""
        if record.levelno < logging.CRITICAL:
            warn(record.getMessage())
            return
        errors.show_cursor()  # a progress bar may have hidden it
        errors.print(f"vdatrain: {record.getMessage()}", markup=False)


def print_log() -> None:
    """Let warnings of the library appear on stderr, once however often this is called."""
    logger = logging.getLogger("vdatrain")
    if not any(isinstance(handler, _ToStderr) for handler in logger.handlers):
        logger.addHandler(_ToStderr())
        logger.propagate = False


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
