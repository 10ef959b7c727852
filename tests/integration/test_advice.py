"""What sentences advise exists: each option that one names is an option of a command that can end with it."""

import ast
import re
from pathlib import Path

import pytest

from vdaprep.cli.group import command_files, typer_command

ROOT = Path(__file__).parents[2]
_OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*[a-z0-9]")
_COMMAND = re.compile(r"\b(vdaprep|vdatrain) ([a-z]+)\b")

OF_OTHERS = {
    ("vdaprep/cli/options.py", "--no"): "the beginning of many",
    ("vdaprep/raw/archives/sniff.py", "--out"): "zip joins the pieces of an archive",
    ("vdaprep/raw/archives/zips.py", "--out"): "zip joins the pieces of an archive",
    ("vdaprep/sources/evaluation/scannet.py", "--export"): "ScanNet's exporter's",
    ("vdatrain/distributed/ranks.py", "--nproc-per-node"): "torchrun's",
    ("vdatrain/training/recipes/__init__.py", "--profile"): "vdaprep convert's",
    ("vdatrain/run_dir.py", "--no-optional-locks"): "git's",
    ("vdatrain/run_dir.py", "--porcelain"): "git's",
    ("vdatrain/run_dir.py", "--untracked-files"): "git's",
}
"""Options of other programs, by the module that names them."""
COMMANDS_OF = {
    "vdaprep/conversion": ("vdaprep convert", "vdaprep plan", "vdaprep repair"),
    "vdaprep/sources": ("vdaprep convert", "vdaprep plan", "vdaprep repair"),
    "vdaprep/raw": ("vdaprep convert", "vdaprep plan", "vdaprep repair"),
    "vdaprep/workers": ("vdaprep convert", "vdaprep repair"),
    "vdaprep/synthetic": ("vdaprep sample",),
    "vdaprep/analysis/preview.py": ("vdaprep inspect",),
    "vdaprep/analysis/export.py": ("vdaprep export",),
    "vdaprep/storage/cache.py": ("vdatrain run", "vdatrain eval"),
    "vdaprep/storage": ("vdaprep convert", "vdatrain run"),
    "vdaprep/cli": ("vdaprep convert", "vdaprep plan", "vdaprep repair", "vdaprep verify", "vdaprep inspect",
                    "vdaprep sample", "vdaprep stats"),
    "vdatrain/inference/export.py": ("vdatrain export",),
    "vdatrain/inference/labelling": ("vdatrain label",),
    "vdatrain/inference": ("vdatrain infer", "vdatrain eval"),
    "vdatrain/evaluation/compare.py": ("vdatrain run",),
    "vdatrain/cli/label.py": ("vdatrain label", "vdatrain run"),
    "vdatrain/cli/study.py": ("vdatrain study",),
    "vdatrain/training/study": ("vdatrain study",),
    "vdatrain/evaluation/study": ("vdatrain study",),
    "vdatrain/evaluation/benchmark": ("vdatrain benchmark",),
    "vdatrain/cli/benchmark.py": ("vdatrain benchmark",),
    "vdatrain/training/planning/planner.py": ("vdatrain plan", "vdatrain run"),
    "vdatrain": ("vdatrain run", "vdatrain eval", "vdatrain infer", "vdatrain plan", "vdatrain compare"),
}  # fmt: skip
"""Which commands end with the sentences of a module; the first entry that fits."""


def options_of(command: str) -> set[str]:
    program, name = command.split()
    found = typer_command(f"{program}.cli", name).params
    return {"--help", *(text for item in found for text in (*item.opts, *item.secondary_opts))}


def texts(path: Path) -> list[str]:
    """Return the strings of a module but its docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    below = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    found = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return [str(node.value) for node in found if id(node) not in below]


def modules() -> list[str]:
    files = [path for package in ("vdaprep", "vdatrain") for path in (ROOT / package).rglob("*.py")]
    return sorted(path.relative_to(ROOT).as_posix() for path in files)


@pytest.fixture(scope="module")
def known() -> dict[str, set[str]]:
    """The options of each command."""
    names = [f"{program} {name}" for program in ("vdaprep", "vdatrain") for name in command_files(f"{program}.cli")]
    return {name: options_of(name) | {"--version"} for name in names}


def test_options_that_are_advised_exist(known: dict[str, set[str]]) -> None:
    wrong: list[str] = []
    for module in modules():
        commands = next((names for place, names in COMMANDS_OF.items() if module.startswith(place)), tuple(known))
        options = {option for name in commands for option in known[name]}
        for text in texts(ROOT / module):
            here = options | (known["vdaprep convert"] if "convert" in text or "--diffs" in text else set())
            named = {*_OPTION.findall(text)} - here
            wrong += [f"{module}: {option}" for option in named if (module, option) not in OF_OTHERS]
    assert wrong == []


def test_commands_that_are_advised_exist(known: dict[str, set[str]]) -> None:
    said = {
        " ".join(found) for module in modules() for text in texts(ROOT / module) for found in _COMMAND.findall(text)
    }
    verbs = {"is", "broke", "wrote", "comparison"}  # "another vdaprep is writing there"
    assert {name for name in said if name not in known and name.split()[1] not in verbs} == set()
    assert {"vdaprep repair", "vdatrain run"} <= said


@pytest.mark.parametrize("sentence", ["convert it again", "try --precision fp32 or", "make room, then"])
def test_advice_that_was_wrong_is_gone(sentence: str) -> None:
    assert [module for module in modules() if sentence in " ".join(texts(ROOT / module))] == []
