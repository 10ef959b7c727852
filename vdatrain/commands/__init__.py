"""The commands of vdatrain: one module each, found by listing this folder.

A module `NAME.py` here has `command`, the function whose arguments are the options, and `EXAMPLE`, a line to try.
Modules that import torch are imported inside `command`: --help must be quick.
"""

import importlib
import pkgutil
from collections.abc import Callable
from typing import Protocol, cast, runtime_checkable


@runtime_checkable
class Command(Protocol):
    """What a command's module provides."""

    EXAMPLE: str
    command: Callable[..., None]


def names() -> list[str]:
    """List the commands, sorted."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def load(name: str) -> Command:
    """Import the command `name`."""
    return cast(Command, importlib.import_module(f"{__name__}.{name}"))
