"""The command `vdatrain compare`."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from vdatrain.console import console, errors

EXAMPLE = "vdatrain compare runs/basic runs/conv --report report.html"


def command(
    runs: Annotated[list[Path], typer.Argument(help="Folders of finished runs.", metavar="RUN...")],
    report: Annotated[Path | None, typer.Option(help="Write an HTML page.", metavar="FILE.html")] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the table as Markdown.")] = False,
) -> None:
    """Print data set x variant with absrel, delta1 and TAE, the best in bold."""
    from vdatrain import compare as comparison

    found = [comparison.read_run(folder) for folder in runs]
    rows = comparison.compare(found)
    if markdown:
        sys.stdout.write(comparison.markdown_table(rows) + "\n")
    else:
        console.print(comparison.terminal_table(rows))
    console.print(comparison.verdict(rows), highlight=False)
    if report is not None:
        from vdatrain.report import write_report

        write_report(report, found, rows)
        errors.print(f"{report}: the comparison as a page")
