"""The command line of vdaprep: options in, sentences out; all work is done elsewhere."""

import sys

import typer

from vdaprep import commands
from vdaprep.console import errors
from vdaprep.errors import VdakitError
from vdaprep.signals import Interrupted, handled

app = typer.Typer(
    help="Turn raw depth videos into small WebDataset shards.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for _name in commands.names():
    app.command(_name, epilog=f"Example: {commands.load(_name).EXAMPLE}")(commands.load(_name).command)


def main() -> None:
    """Run the command line; a user's error is one sentence on stderr and exit 1 or 2, a signal one and 130 or 143."""
    try:
        with handled():
            app()
    except VdakitError as error:
        errors.print(f"vdaprep: {error}", markup=False)
        sys.exit(error.exit_code)
    except MemoryError:
        errors.print("vdaprep: memory ran out; run the same command again, with fewer --workers if it has them.")
        sys.exit(1)
    except Interrupted as stop:
        errors.print(f"vdaprep: {stop}")
        sys.exit(stop.exit_code)
