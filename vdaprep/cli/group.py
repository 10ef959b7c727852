"""Programs whose commands are modules, imported when invoked; errors end as a sentence."""

import ast
import functools
import importlib
import importlib.metadata
import importlib.util
import inspect
import re
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, ClassVar, Protocol, cast, runtime_checkable

import typer
from typer.core import TyperCommand, TyperGroup

from vdaprep.cli.views.output import console, errors, flush_results, prepare_streams, print_log, set_verbosity
from vdaprep.errors import MissingExtraError, UsageError, VdakitError
from vdaprep.storage.atomic import system_sentence


@runtime_checkable
class Command(Protocol):
    """What a command's module provides."""

    EXAMPLE: str
    command: Callable[..., None]


def command_files(package: str) -> dict[str, Path]:
    """Find the modules of a package that are commands, by name, without importing them."""
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.submodule_search_locations
    files = sorted(Path(spec.submodule_search_locations[0]).glob("[a-z]*.py"))
    return {file.stem: file for file in files if "\nEXAMPLE = " in file.read_text(encoding="utf-8")}


def load_command(package: str, name: str) -> Command:
    """Import a command."""
    return cast(Command, importlib.import_module(f"{package}.{name}"))


class _Listed(TyperCommand):
    """A command of which only the first line of its help is known, read from its file."""

    def __init__(self, name: str, file: Path) -> None:
        super().__init__(name)
        self._file = file

    def get_short_help_str(self, limit: int = 45) -> str:
        """Return the first line of the docstring of the module's function `command`."""
        functions = [
            item
            for item in ast.parse(self._file.read_text(encoding="utf-8")).body
            if isinstance(item, ast.FunctionDef) and item.name == "command"
        ]
        self.help = ast.get_docstring(functions[0])
        return super().get_short_help_str(limit=1000)  # lines that are too long are broken, not cut


class LazyGroup(TyperGroup):
    """The commands of a package; one is imported when it is invoked, and no other."""

    package: ClassVar[str]

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        listed = {name: _Listed(name, file) for name, file in command_files(self.package).items()}
        self.commands = cast("dict[str, Any]", listed)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Import the command that the arguments begin with; UsageError if one of them is empty."""
        for before, word in () if ctx.resilient_parsing else pairwise(args):
            if not word or re.fullmatch("--[a-z-]+=", word):
                raise UsageError(f"{word or before}: what follows is empty; give a value, or leave the option out.")
        name, command, rest = super().resolve_command(ctx, args)
        return name, None if command is None else typer_command(self.package, cast(str, name)), rest


def typer_command(package: str, name: str) -> Any:
    """Import a command and return it as typer's, with its example below its help."""
    module = load_command(package, name)
    alone = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    alone.command(name, epilog=f"Example: {module.EXAMPLE}")(_with_verbosity(module.command))
    return typer.main.get_command(alone)


_Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Also print what is done in detail.")]
_Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors and results only.")]


def _with_verbosity(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that every command has."""

    @functools.wraps(command)
    def run(*, verbose: bool, quiet: bool, **values: Any) -> None:
        _set_verbosity(verbose=verbose, quiet=quiet)
        command(**values)

    own = inspect.signature(command, eval_str=True).parameters.values()
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=kind)
        for name, kind in (("verbose", _Verbose), ("quiet", _Quiet))
    ]
    keywords = [item.replace(kind=inspect.Parameter.KEYWORD_ONLY) for item in own]
    vars(run)["__signature__"] = inspect.Signature([*keywords, *added])
    return run


def _set_verbosity(*, verbose: bool, quiet: bool) -> None:
    if verbose and quiet:
        raise UsageError("--verbose and --quiet exclude each other.")
    if verbose or quiet:
        set_verbosity(verbose=verbose, quiet=quiet)


def make_app(package: str, *, help: str) -> typer.Typer:
    """Make the program whose commands are the modules of a package."""
    program = package.partition(".")[0]

    def print_version(asked: bool) -> None:
        if asked:
            console.print(f"{program} {importlib.metadata.version('vdakit')}")
            raise typer.Exit

    app = typer.Typer(
        cls=type("Group", (LazyGroup,), {"package": package}),
        help=help,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["--help", "-h"]},
    )

    @app.callback()
    def options(
        version: Annotated[
            bool,
            typer.Option(
                "--version", help="Print the version.", is_eager=True, expose_value=False, callback=print_version
            ),
        ] = False,
        verbose: _Verbose = False,
        quiet: _Quiet = False,
    ) -> None:
        _set_verbosity(verbose=verbose, quiet=quiet)

    return app


@contextmanager
def exits(program: str, *, prefix: Callable[[], str] = str) -> Generator[None]:
    """End with a sentence on stderr for what a user can mend: exit 2 for a wrong call, else 1.

    Args:
        program: The name before the sentence.
        prefix: Returns what follows the name, such as a rank; empty for the process that speaks for all.
    """
    prepare_streams()
    print_log(program, prefix=prefix)
    try:
        try:
            if importlib.util.find_spec("fcntl") is None:
                raise UsageError("runs on Linux and macOS; on Windows use the Windows Subsystem for Linux.")
            yield
        finally:
            flush_results()
    except VdakitError as error:
        if error.exit_code or not prefix():
            errors.print(f"{program}{prefix()}: {error}")
        sys.exit(error.exit_code)
    except ModuleNotFoundError as error:
        found = MissingExtraError.of("needs", error)
        if found is None:
            raise
        errors.print(f"{program}: {found}")
        sys.exit(found.exit_code)
    except MemoryError:
        errors.print(f"{program}: memory ran out; run the same command again, with fewer --workers if it has them.")
        sys.exit(1)
    except OSError as error:
        errors.print(f"{program}{prefix()}: {system_sentence(error)}")
        sys.exit(1)
