"""The command line of vdatrain: options in, sentences out; all work is done elsewhere."""

import importlib
import pkgutil
import sys
from collections.abc import Callable
from typing import Protocol, cast, runtime_checkable

import typer

from vdaprep.errors import VdakitError
from vdatrain.cli.output import errors, print_log, warn
from vdatrain.distributed.launch import is_main_process

_SHARED = {"options", "output", "progress"}


@runtime_checkable
class Command(Protocol):
    """What a command's module provides."""

    EXAMPLE: str
    command: Callable[..., None]


def names() -> list[str]:
    """List the commands, sorted."""
    return sorted({module.name for module in pkgutil.iter_modules(__path__)} - _SHARED)


def load(name: str) -> Command:
    """Import the command `name`."""
    return cast(Command, importlib.import_module(f"{__name__}.{name}"))


_INTERRUPTED = 130

app = typer.Typer(
    help="Train Video Depth Anything variants on shards, and compare them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for _name in names():
    app.command(_name, epilog=f"Example: {load(_name).EXAMPLE}")(load(_name).command)


def main() -> None:
    """Run the command line; a user's error is one sentence on stderr and exit 1 or 2, Ctrl-C one and 130."""
    print_log()
    try:
        app()
    except SystemExit as exit_:  # which is all that typer leaves of a KeyboardInterrupt
        if exit_.code == _INTERRUPTED and is_main_process():
            errors.print("vdatrain: stopped; a run goes on from its last checkpoint with --resume.")
        raise
    except VdakitError as error:
        if error.exit_code or is_main_process():
            warn(str(error))
        sys.exit(error.exit_code)
