"""The command `vdatrain compare`."""

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from vdaprep.cli.views.output import console, errors, make_table, show, visible
from vdaprep.errors import UsageError
from vdaprep.storage.atomic import check_output
from vdatrain.evaluation import compare as comparison
from vdatrain.evaluation.compare import Cell, Row

EXAMPLE = "vdatrain compare runs/basic runs/conv --report report.html"


def command(
    runs: Annotated[list[Path], typer.Argument(help="Folders of finished runs, or of eval --out.", metavar="RUN...")],
    report: Annotated[Path | None, typer.Option(help="Write an HTML page.", metavar="FILE.html")] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the table as Markdown.")] = False,
) -> None:
    """Print data set x model with absrel, delta1 and TAE, the best in bold."""
    if report is not None:
        if report.suffix.lower() not in (".html", ".htm"):
            raise UsageError(f"--report {report}: expected a file name that ends in .html.")
        check_output(report)
        importlib.import_module("vdatrain.evaluation.report.comparison")  # what is not installed is said first
    found = comparison.read_evaluations(runs)
    rows = comparison.compare(found)
    if markdown:
        show([*comparison.markdown_table(rows).splitlines(), ""])
    else:
        show([_table(rows)])
    console.print(comparison.verdict(rows))
    if report is not None:
        from vdatrain.evaluation.report.comparison import write_report

        write_report(report, found, rows)
        errors.print(f"{report}: the comparison as a page")


def _table(rows: Sequence[Row]) -> Table:
    """Lay the comparison out for a terminal, the best of each data set in bold."""
    table = make_table(*comparison.heading(), texts=2)
    for row in rows:
        table.add_row(row.dataset, row.variant, str(row.runs), *map(_styled, comparison.cells_of(row)))
    return table


def _styled(cell: Cell | None) -> Text:
    return Text("-" if cell is None else visible(str(cell)), style="bold" if cell and cell.best else "")
