"""Who may import whom, and what must not be imported at all: DESIGN section 1."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("vdaprep", "vdatrain")

PREP = ("errors", "units", "storage", "shards", "raw", "sources")
"""Each imports those before it."""
TRAIN = ("distributed.launch", "config", "device", "run_dir", "objectives", "models", "data", "distributed")
"""Likewise, above `vdaprep.{errors, units, storage, shards}`."""
MAY_IMPORT = {
    **{f"vdaprep.{name}": {f"vdaprep.{lower}" for lower in PREP[:i]} for i, name in enumerate(PREP)},
    "vdaprep.workers": {"vdaprep.errors"},
    "vdaprep.analysis": {f"vdaprep.{name}" for name in PREP[:4]},
    "vdaprep.synthetic": {f"vdaprep.{name}" for name in PREP},
    "vdaprep.conversion": {f"vdaprep.{name}" for name in (*PREP, "analysis", "workers")},
    "vdaprep.cli": {f"vdaprep.{name}" for name in (*PREP, "analysis", "workers", "conversion", "synthetic")},
}
BELOW_TRAIN = {f"vdaprep.{name}" for name in PREP[:4]}
MAY_IMPORT |= {
    f"vdatrain.{name}": BELOW_TRAIN | {f"vdatrain.{lower}" for lower in TRAIN[:i]} for i, name in enumerate(TRAIN)
}
_ALL_BUT_CLI = BELOW_TRAIN | {f"vdatrain.{name}" for name in TRAIN}
MAY_IMPORT["vdatrain.inference"] = _ALL_BUT_CLI
MAY_IMPORT["vdatrain.evaluation"] = _ALL_BUT_CLI | {"vdatrain.inference"}
MAY_IMPORT["vdatrain.training"] = _ALL_BUT_CLI | {"vdatrain.inference", "vdatrain.evaluation"}
MAY_IMPORT["vdatrain.cli"] = MAY_IMPORT["vdatrain.training"] | {"vdatrain.training", "vdaprep.cli"}

LOADED = "import {module}, sys; sys.exit('torch' in sys.modules)"


def modules(root: Path = ROOT) -> dict[str, Path]:
    """Find every module by its dotted name."""
    files = sorted(file for package in PACKAGES for file in (root / package).rglob("*.py"))
    return {".".join(file.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): file for file in files}


def imports(known: dict[str, Path]) -> dict[str, set[str]]:
    """Read, of every module, which modules of ours it imports, inside functions too."""
    found: dict[str, set[str]] = {}
    for name, file in known.items():
        nodes = list(ast.walk(ast.parse(file.read_text(encoding="utf-8"))))
        plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
        of = [
            (node.module or "", alias.name)
            for node in nodes
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        ]
        named = {f"{module}.{item}" if f"{module}.{item}" in known else module for module, item in of}
        found[name] = {item for item in plain | named if item.split(".")[0] in PACKAGES and item != name}
    return found


def layer(module: str) -> str:
    """Return which row of the table a module is of; the packages themselves are of none."""
    return "vdatrain.distributed.launch" if module == "vdatrain.distributed.launch" else ".".join(module.split(".")[:2])


def upward(found: dict[str, set[str]]) -> list[str]:
    """List the imports that the table does not allow."""
    pairs = [(module, item) for module, items in found.items() for item in sorted(items)]
    return [
        f"{module} imports {item}"
        for module, item in pairs
        if layer(module) in MAY_IMPORT and layer(item) not in {layer(module), *MAY_IMPORT[layer(module)]}
    ]


def circles(found: dict[str, set[str]]) -> list[str]:
    """List the modules that import themselves by way of others, packages' faces (which import lazily) aside."""

    def reached(module: str) -> set[str]:
        seen: set[str] = set()
        waiting = [module]
        while waiting:
            new = found.get(waiting.pop(), set()) - seen
            seen |= new
            waiting += new
        return seen

    return [module for module in found if "." in module and module in reached(module)]


def loads_torch(modules: Iterable[str], path: Path) -> bool:
    command = [sys.executable, "-c", LOADED.format(module=", ".join(modules))]
    return subprocess.run(command, env={**os.environ, "PYTHONPATH": str(path)}, check=False).returncode == 1


def test_imports_go_one_way() -> None:
    found = imports(modules())
    assert len(found) > 100
    assert upward(found) == []
    assert circles(found) == []


def test_every_package_has_its_row() -> None:
    with_rows = {layer(module) for module in modules() if module.count(".") and not module.endswith("__main__")}
    assert with_rows == set(MAY_IMPORT)


def test_a_folder_can_be_taken_in_at_a_glance() -> None:
    folders = {file.parent for file in modules().values()}
    entries = {folder: [item.name for item in folder.iterdir() if item.name != "__pycache__"] for folder in folders}
    assert {str(folder): len(names) for folder, names in entries.items() if len(names) > 14} == {}


def test_no_module_of_vdaprep_imports_torch() -> None:
    assert not loads_torch([name for name in modules() if name.startswith("vdaprep.")], ROOT)


def test_terminals_are_for_the_command_line() -> None:
    """`typer` and `rich` are imported in cli/ only (ruff's T20 forbids print)."""
    for name, file in modules().items():
        if name.split(".")[1:2] != ["cli"]:
            tree = ast.parse(file.read_text(encoding="utf-8"))
            found = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
            found |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
            assert not {"typer", "rich", "click"} & {item.split(".")[0] for item in found}, name


def test_the_tests_above_would_notice(tmp_path: Path) -> None:
    for name, text in {
        "vdaprep/errors.py": "import vdaprep.units",
        "vdaprep/units.py": "def f():\n    from vdaprep import errors",
        "vdaprep/raw/tree.py": "from vdaprep.errors import X",
        "vdatrain/data/a.py": "from vdaprep.conversion import plan",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    found = imports(modules(tmp_path))
    assert upward(found) == ["vdaprep.errors imports vdaprep.units", "vdatrain.data.a imports vdaprep.conversion"]
    assert circles(found) == ["vdaprep.errors", "vdaprep.units"]
    (tmp_path / "torch.py").write_text("")
    (tmp_path / "guilty.py").write_text("def f():\n    pass\nimport torch\n")
    (tmp_path / "innocent.py").write_text("def f():\n    import torch\n")
    assert loads_torch(["guilty"], tmp_path)
    assert not loads_torch(["innocent"], tmp_path)
