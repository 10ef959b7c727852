"""The command line of vdatrain: options in, sentences out; all work is done elsewhere."""

import sys

import typer

from vdaprep.schema import VdakitError
from vdatrain import commands
from vdatrain.console import errors

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
    """Run the command line; a user's error is one sentence on stderr and exit 1 or 2."""
    try:
        app()
    except VdakitError as error:
        errors.print(f"vdatrain: {error}", markup=False)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        errors.print("vdatrain: stopped; a run goes on from its last checkpoint with --resume.")
        sys.exit(130)
