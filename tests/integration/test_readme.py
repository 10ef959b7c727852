"""The README keeps its word: its code runs, its commands exist."""

import re
import subprocess
from pathlib import Path

import pytest

from vdaprep import sources
from vdaprep.cli.group import command_files

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [(program, name) for program in ("vdaprep", "vdatrain") for name in command_files(f"{program}.cli")]
OPTION = re.compile(r"--[a-z][a-z-]*")


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
def test_the_python_examples_run(raw, tmp_path: Path, monkeypatch, capsys) -> None:
    """One after the other, as a reader runs them; the training is cut short."""
    here = tmp_path / "here"
    (here / "raw").mkdir(parents=True)
    (here / "raw" / "tartanair").symlink_to(raw.root)
    monkeypatch.chdir(here)
    examples = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    known: dict[str, object] = {}
    for example in examples:
        shorter = example.replace("steps=200", "steps=1").replace("size=112", "size=28")
        exec(compile(shorter, "README.md", "exec"), known)  # the README's own code, no one else's
    printed = capsys.readouterr().out
    assert len(examples) == 2
    assert printed.startswith("(3, 48, 64, 3) float32")
    assert printed.count(" m\n") == 2


def test_every_option_exists(vdaprep, vdatrain) -> None:
    """Those of other programs, `torchrun` and the like, aside."""
    others = {"--torch-backend", "--nproc-per-node", "--max-restarts", "--logdir", "--install-completion"}
    helps = [(vdaprep if program == "vdaprep" else vdatrain)(name, "-h").out for program, name in COMMANDS]
    known = {option for text in helps for option in OPTION.findall(text)} | others
    assert set(OPTION.findall(README)) - known == set()


def test_links_lead_somewhere() -> None:
    for name in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / name).is_file(), name


def test_every_data_set_stands_there() -> None:
    rows = [line.split("|")[1] for line in README.splitlines() if line.startswith("| `")]
    told = {name for row in rows for name in re.findall("`([a-z0-9-]+)`", row)}
    assert set(sources.names()) - told == set()
