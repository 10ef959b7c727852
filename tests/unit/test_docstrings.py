"""What docstrings are to be: short first lines, packages that list their modules, fields that are explained."""

import ast
import inspect
import itertools
import re
from pathlib import Path
from types import ModuleType

import pytest

import vdaprep
import vdatrain

ROOT = Path(__file__).parents[2]
MODULES = sorted(file for package in ("vdaprep", "vdatrain") for file in (ROOT / package).rglob("*.py"))
INITS = [file for file in MODULES if file.name == "__init__.py"]
SUMMARY = 90
ROW = re.compile(r"^(\w+(?:, \w+)*) {2,}\S", re.MULTILINE)
"""`name, name   what they are`: names, then two spaces or more."""


def docstring(file: Path) -> str:
    return ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""


def listed(text: str) -> list[str]:
    """Return the names at the beginning of rows of a package's docstring."""
    return [name for names in ROW.findall(text) for name in names.split(", ")]


def entries(folder: Path) -> list[str]:
    """Return the modules and packages in a folder, and not `__init__` and the like."""
    return sorted(
        item.stem for item in folder.iterdir() if (item.suffix == ".py" or item.is_dir()) and item.stem[:2] != "__"
    )


@pytest.mark.parametrize("init", INITS, ids=lambda file: ".".join(file.relative_to(ROOT).parent.parts))
def test_a_package_lists_its_modules(init: Path) -> None:
    """All but folders whose modules are found by listing them, to which a file is added and nothing else."""
    text = docstring(init)
    if "found by listing" not in text:
        assert sorted(listed(text)) == entries(init.parent)


def unexplained(tree: ast.Module) -> list[str]:
    """Return the fields of dataclasses and named tuples that no string follows; names with `_` aside."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and any(
            word in ast.unparse(item)
            for item in (*node.decorator_list, *node.bases)
            for word in ("dataclass", "NamedTuple")
        ):
            for field, after in itertools.zip_longest(node.body, node.body[1:]):
                if isinstance(field, ast.AnnAssign) and not (
                    isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
                ):
                    found.append(f"{node.name}.{ast.unparse(field.target)}")
    return [name for name in found if not re.search(r"(^|\.)_", name)]


def long_summaries(tree: ast.Module) -> list[str]:
    """Return the first lines of docstrings that have more than SUMMARY characters."""
    nodes = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    texts = [ast.get_docstring(node) or "" for node in ast.walk(tree) if isinstance(node, nodes)]
    return [line for text in texts for line in text.splitlines()[:1] if len(line) > SUMMARY]


def test_first_lines_are_short() -> None:
    found = {
        str(file.relative_to(ROOT)): long_summaries(ast.parse(file.read_text(encoding="utf-8"))) for file in MODULES
    }
    assert {file: lines for file, lines in found.items() if lines} == {}


def test_every_field_is_explained() -> None:
    found = {str(file.relative_to(ROOT)): unexplained(ast.parse(file.read_text(encoding="utf-8"))) for file in MODULES}
    assert {file: names for file, names in found.items() if names} == {}


def test_the_tests_above_would_notice() -> None:
    text = "A package.\n\na, b   two\nc      one\n    KEY.json   no module\nplain words, a sentence\n"
    assert listed(text) == ["a", "b", "c"]
    fields = '@dataclass(frozen=True)\nclass A:\n    x: int\n    """Its x."""\n    y: int = 0\n    _z: int = 0\n'
    assert unexplained(ast.parse(fields)) == ["A.y"]
    assert long_summaries(ast.parse(f'def f():\n    """{"a" * 90}"""\ndef g():\n    """{"b" * 91}"""')) == ["b" * 91]


@pytest.mark.parametrize("package", [vdaprep, vdatrain], ids=lambda package: package.__name__)
def test_public_functions_say_what_they_take_and_return(package: ModuleType) -> None:
    functions = [item for name in package.__all__ if inspect.isfunction(item := getattr(package, name))]
    for function in functions:
        text = inspect.getdoc(function) or ""
        named = [name for name in inspect.signature(function).parameters if f"    {name}: " not in text]
        assert (named, "Returns:" in text or "Return" in text.split()[0]) == ([], True), function
    assert len(functions) >= 6
