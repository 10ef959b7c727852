"""Print the tables of `make bench`: times as minimum and median of several rounds, ratios within one run."""

import argparse
import importlib
import os
import pkgutil
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import cv2
from rich.console import Console

from tests.bench import tables
from tests.bench.rendered import QUICK, Rendered, Scale

LIBRARIES = ("numpy", "opencv-python-headless", "zstandard", "torch")


def main() -> None:
    """Choose the tables and print each as soon as it is there."""
    options = _options()
    console = Console(width=None if sys.stdout.isatty() else 140)
    if options.gpu and not options.quick and not _has_gpu():
        console.print("There is no GPU here, so there is nothing to measure.")
        return
    cv2.setNumThreads(1)
    console.print(_machine())
    with tempfile.TemporaryDirectory() as folder:
        rendered = Rendered(Path(folder), QUICK if options.quick else Scale(), data=options.data)
        for letter in options.only:
            for table in _load(letter).tables(rendered, Path(folder)):
                console.print(table, "")


def _options() -> argparse.Namespace:
    names = _names()
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench",
        description=__doc__,
        epilog=f"tables: {', '.join(names.values())}",
    )
    parser.add_argument("--only", metavar="a,c", type=lambda text: text.split(","), help="print these tables only")
    parser.add_argument("--quick", action="store_true", help="make everything tiny: to see that the bench works")
    parser.add_argument("--gpu", action="store_true", help="print the tables that need a GPU instead of the others")
    parser.add_argument("--data", type=Path, metavar="DIR", help="measure profiles on the real frames in DIR, too")
    options = parser.parse_args()
    known = [letter for letter, name in names.items() if name.endswith("gpu") == options.gpu]
    options.only = options.only or known
    unknown = [letter for letter in options.only if letter not in known]
    if unknown:
        parser.error(f"--only: there is no table {', '.join(unknown)}; choose from {','.join(known)}.")
    return options


def _names() -> dict[str, str]:
    """Find the tables by listing their folder; the letter before the underscore is what a user calls one."""
    found = sorted(module.name for module in pkgutil.iter_modules(tables.__path__))
    return {name.partition("_")[0]: name for name in found}


def _load(letter: str) -> ModuleType:
    """Import a table's module; not all of them, since torch takes seconds."""
    return importlib.import_module(f"{tables.__name__}.{_names()[letter]}")


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _machine() -> str:
    libraries = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    load = os.getloadavg()[0]
    return f"{os.cpu_count()} cores, load {load:.1f} before the first table; {libraries}\n"


if __name__ == "__main__":
    main()
