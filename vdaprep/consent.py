"""Asking a user before raw data is deleted."""

import sys
from collections.abc import Sequence

import typer

from vdaprep.console import errors
from vdaprep.consume import Consumption
from vdaprep.errors import UsageError, VdakitError
from vdaprep.sizes import human_bytes

_SHOWN = 40  # of what goes and of what stays; whatever was not converted is shown all


def ask(consumption: Consumption, *, yes: bool) -> None:
    """Show what may be deleted and what stays, and ask, unless `yes` was said.

    Raises UsageError where nobody can be asked, VdakitError if the answer is no.
    """
    _show(list(consumption.going()), "go", limit=_SHOWN)
    _show(list(consumption.going_unused()), "go")
    _show(list(consumption.staying()), "stay", limit=_SHOWN)
    if yes or not consumption.items:
        return
    what = f"{human_bytes(sum(item.bytes for item in consumption.items))} of raw data"
    if any(item.unused for item in consumption.items):
        what = f"{what} (some of it not converted)"
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UsageError(f"--consume: would delete {what} below {consumption.root}; say --yes to allow it.")
    if not typer.confirm(f"Delete {what}, each part when its shards were read back?", err=True):
        raise VdakitError("nothing was done; without --consume raw data stays.")


def _show(lines: Sequence[str], verb: str, *, limit: int | None = None) -> None:
    for line in lines[:limit]:
        errors.print(line, markup=False)
    if more := len(lines) - len(lines[:limit]):
        errors.print(f"and {more} more {verb}")
