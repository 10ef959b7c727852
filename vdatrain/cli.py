"""The command line of vdatrain: options in, sentences out; all work is done elsewhere."""

import sys

import typer

from vdaprep.schema import VdakitError
from vdatrain import commands
from vdatrain.console import errors, warn
from vdatrain.launch import speaks

_INTERRUPTED = 130

app = typer.Typer(
    help="Train Video Depth Anything variants on shards, and compare them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for _name in commands.names():
    app.command(_name, epilog=f"Example: {commands.load(_name).EXAMPLE}")(commands.load(_name).command)


def main() -> None:
    """Run the command line; a user's error is one sentence on stderr and exit 1 or 2, Ctrl-C one and 130."""
    try:
        app()
    except SystemExit as exit_:  # which is all that typer leaves of a KeyboardInterrupt
        if exit_.code == _INTERRUPTED and speaks():
            errors.print("vdatrain: stopped; a run goes on from its last checkpoint with --resume.")
        raise
    except VdakitError as error:
        if error.exit_code or speaks():
            warn(str(error))
        sys.exit(error.exit_code)
