"""The command line of vdaprep: options in, sentences out; all work is done elsewhere.

convert, recode, plan, repair, verify, inspect, stats, export, datasets, sample   the commands
group       programs whose commands are modules, imported when invoked; vdatrain's too
options     options made from dataclasses; vdatrain's too
views       what is printed, and how it is laid out

A command's module has `EXAMPLE`, a command line that works, and `command`, the function that typer runs.
"""

import sys

from vdaprep.cli.group import exits, make_app
from vdaprep.cli.views.output import errors
from vdaprep.errors import origin_of
from vdaprep.workers.signals import Interrupted, handled

app = make_app(__name__, help="Turn raw depth videos into small WebDataset shards.")


def main() -> None:
    """Run vdaprep; Ctrl-C and SIGTERM end it with a sentence and exit 130 or 143."""
    with exits("vdaprep"):
        try:
            with handled():
                app()
        except (Interrupted, Exception) as error:
            stop = origin_of(error, Interrupted)
            if stop is None:
                raise
            errors.print(f"vdaprep: {stop}")
            sys.exit(stop.exit_code)
