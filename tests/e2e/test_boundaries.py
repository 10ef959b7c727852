"""What must not be imported where."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ALLOWED = {"vdaprep.schema", "vdaprep.codec"}
LOADED = "import {module}, sys; sys.exit('torch' in sys.modules)"


def loads_torch(module: str, path: Path) -> bool:
    environment = {**os.environ, "PYTHONPATH": str(path)}
    return (
        subprocess.run([sys.executable, "-c", LOADED.format(module=module)], env=environment, check=False).returncode
        == 1
    )


def modules(package: str) -> list[str]:
    files = sorted((ROOT / package).rglob("*.py"))
    return [".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for file in files]


def test_no_module_of_vdaprep_imports_torch() -> None:
    assert len(modules("vdaprep")) > 10
    assert not loads_torch(", ".join(modules("vdaprep")), ROOT)


def test_the_test_above_would_notice(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("")
    (tmp_path / "guilty.py").write_text("def f():\n    pass\nimport torch\n")
    (tmp_path / "innocent.py").write_text("def f():\n    import torch\n")
    assert loads_torch("guilty", tmp_path)
    assert not loads_torch("innocent", tmp_path)


def imported(file: Path) -> set[str]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == "vdaprep":
            found |= {f"vdaprep.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


@pytest.mark.parametrize("file", sorted((ROOT / "vdatrain").rglob("*.py")), ids=lambda file: file.stem)
def test_vdatrain_imports_only_the_contract(file: Path) -> None:
    assert {name for name in imported(file) if name.split(".")[0] == "vdaprep"} <= ALLOWED


def test_imports_are_seen(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(
        "from vdaprep import codec, convert\nfrom vdaprep.plan import x\nimport vdaprep.cli\n"
    )
    assert imported(tmp_path / "a.py") == {"vdaprep.codec", "vdaprep.convert", "vdaprep.plan", "vdaprep.cli"}
