"""Asking a user before raw data is deleted."""

import sys

import typer

from vdaprep.console import errors
from vdaprep.consume import Consumption
from vdaprep.errors import UsageError, VdakitError
from vdaprep.sizes import human_bytes

_SHOWN = 40


def ask(consumption: Consumption, *, yes: bool) -> None:
    """Show what may be deleted and ask, unless `yes` was said.

    Raises UsageError where nobody can be asked, VdakitError if the answer is no.
    """
    lines = list(consumption.lines())
    for line in lines[:_SHOWN]:
        errors.print(line, markup=False)
    if len(lines) > _SHOWN:
        errors.print(f"and {len(lines) - _SHOWN} more")
    if yes or not consumption.items:
        return
    size = human_bytes(sum(item.bytes for item in consumption.items))
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UsageError(f"--consume: would delete {size} of raw data below {consumption.root}; say --yes to allow it.")
    if not typer.confirm(f"Delete {size} of raw data, each part when its shards were read back?", err=True):
        raise VdakitError("nothing was done; without --consume raw data stays.")
