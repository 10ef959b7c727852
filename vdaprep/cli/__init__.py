"""The command line of vdaprep: options in, sentences out; all work is done elsewhere."""

import importlib
import pkgutil
import sys
from collections.abc import Callable
from typing import Protocol, cast, runtime_checkable

import typer

from vdaprep.cli.output import errors
from vdaprep.errors import VdakitError
from vdaprep.workers.signals import Interrupted, handled

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


app = typer.Typer(
    help="Turn raw depth videos into small WebDataset shards.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for _name in names():
    app.command(_name, epilog=f"Example: {load(_name).EXAMPLE}")(load(_name).command)


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
