"""The README keeps its word: its code runs, its commands exist."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_top_level_holds_nothing_else() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    top = {name.split("/")[0] for name in tracked.splitlines()}
    allowed = {"pyproject.toml", "README.md", "LICENSE", "Makefile", "vdaprep", "vdatrain", "tests", "manifests"}
    assert {name for name in top - allowed if not name.startswith(".")} == set()


def test_the_two_commands_and_the_three_commands_stand_there() -> None:
    for command in (
        "make demo",
        "make test",
        "vdaprep convert tartanair --out shards/",
        "vdaprep inspect shard-0001.tar",
        "vdatrain run --shards shards/ --variant conv",
    ):
        assert f"\n{command}" in README


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # webdataset leaves its tars open
def test_the_python_example_runs(raw, vdaprep, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    vdaprep("convert", "tartanair", "--raw", raw.root, "--out", "shards", "--workers", 1)
    [example] = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(compile(example, "README.md", "exec"), {})  # the README's own code, no one else's
    assert capsys.readouterr().out.count(" m\n") == 2
