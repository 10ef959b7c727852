"""The README keeps its word: its tree names every file with a sentence, its code runs, its commands exist."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def listed() -> dict[str, str]:
    """Read the tree: lines of a path and a sentence, folders by indentation."""
    [block] = re.findall(r"## The tree\n\n```\n(.*?)```", README, re.DOTALL)
    found: dict[str, str] = {}
    folders: list[str] = []
    for line in block.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        name, _, sentence = line.strip().partition(" ")
        folders = [*folders[:depth], name.rstrip("/")]
        if not name.endswith("/"):
            found["/".join(folders)] = sentence.strip()
    return found


def test_the_tree_names_every_file() -> None:
    tracked = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    files = {name for name in tracked if (ROOT / name).exists()}
    assert files - listed().keys() == set(), "files that the README's tree does not name"
    assert listed().keys() - files == set(), "names in the README's tree that are no files"


def test_every_file_has_a_sentence() -> None:
    assert [name for name, sentence in listed().items() if len(sentence) < 10] == []


def test_top_level_holds_nothing_else() -> None:
    allowed = {"pyproject.toml", "README.md", "LICENSE", "Makefile", "vdaprep", "vdatrain", "tests", "manifests"}
    assert {name.split("/")[0] for name in listed()} - allowed <= {".ci", ".gitignore", ".github"}


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
