"""The command `vdatrain compare`."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.table import Table

from vdatrain.cli.output import console, errors
from vdatrain.evaluation.compare import Row, cells_of, heading


def terminal_table(rows: Sequence[Row]) -> Table:
    """Lay the comparison out for a terminal, the best of each data set in bold."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for number, title in enumerate(heading()):
        table.add_column(title, justify="left" if number < 2 else "right", no_wrap=True)
    for row in rows:
        cells = ["-" if cell is None else f"[bold]{cell}[/bold]" if cell.best else str(cell) for cell in cells_of(row)]
        table.add_row(row.dataset, row.variant, str(row.runs), *cells)
    return table


EXAMPLE = "vdatrain compare runs/basic runs/conv --report report.html"


def command(
    runs: Annotated[list[Path], typer.Argument(help="Folders of finished runs.", metavar="RUN...")],
    report: Annotated[Path | None, typer.Option(help="Write an HTML page.", metavar="FILE.html")] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the table as Markdown.")] = False,
) -> None:
    """Print data set x variant with absrel, delta1 and TAE, the best in bold."""
    from vdatrain.evaluation import compare as comparison

    found = [comparison.read_run(folder) for folder in runs]
    rows = comparison.compare(found)
    if markdown:
        sys.stdout.write(comparison.markdown_table(rows) + "\n")
    else:
        console.print(terminal_table(rows))
    console.print(comparison.verdict(rows), highlight=False)
    if report is not None:
        from vdatrain.evaluation.report import write_report

        write_report(report, found, rows)
        errors.print(f"{report}: the comparison as a page")
