"""Shards that are made in the raw data: passed over whatever way leads to them, and never taken for raw data."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import RawTree, Run, make_shards, tree_bytes
from tests.unit.prep.consuming import ALL
from vdaprep.conversion.consume import survey
from vdaprep.conversion.options import Settings
from vdaprep.conversion.saved_plan import prepare
from vdaprep.storage.output import LocalOutput

Place = Callable[[Path], str]  # of a folder that holds raw/; what --out is

OUTPUTS: dict[str, Place] = {
    "absolute": lambda at: str(at / "raw" / "shards"),
    "relative": lambda at: "shards",
    "with a turn": lambda at: "./abandonedfactory/../shards/",
    "the raw folder itself": lambda at: ".",
    "deep, beside frames": lambda at: "abandonedfactory/Easy/P000",
    "through a link to the raw folder": lambda at: link(at / "same", "raw") + "/shards",
    "through a link in the raw folder to one outside": lambda at: link(at / "raw" / "shards", made(at / "elsewhere")),
    "outside, and a link in the raw folder leads there": lambda at: (
        link(at / "raw" / "more", made(at / "elsewhere")),
        str(at / "elsewhere"),
    )[1],
    "outside, and a link leads to its shards": lambda at: (
        link(at / "raw" / "more", made(at / "elsewhere" / "tartanair" / "train")),
        str(at / "elsewhere"),
    )[1],
    "outside, and a link leads to one shard": lambda at: (
        link(at / "raw" / "more.tar", at / "elsewhere" / "tartanair" / "train" / "shard-0001.tar"),
        str(at / "elsewhere"),
    )[1],
}


def made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


def link(path: Path, target: Path | str) -> str:
    path.symlink_to(target)
    return str(path)


@pytest.mark.slow
@pytest.mark.parametrize("name", OUTPUTS)
def test_shards_in_the_raw_data_are_no_raw_data(
    name: str, raw: RawTree, toy_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With shards there the same is found, planned and consumed as without; a file of theirs never is."""
    before = prepare("tartanair", raw=str(raw.root), settings=Settings(), selection=ALL, output=LocalOutput(tmp_path))
    monkeypatch.chdir(raw.root)
    out = OUTPUTS[name](tmp_path)
    shutil.copytree(toy_shards, out, dirs_exist_ok=True)
    for unfinished in (".vdaprep-lock", ".vdaprep-lock-1-of-2", "train/shard-0002.tar.0123abcd.vdaprep-tmp"):
        Path(out, "tartanair", unfinished).touch()
    output = LocalOutput(Path(out, "tartanair"))
    after = prepare("tartanair", raw=".", settings=Settings(), selection=ALL, output=output)
    assert after.found is not None
    assert before.found is not None
    assert after.plan.shards == before.plan.shards
    assert after.plan.rejected == ()
    assert set(after.found.files) == set(before.found.files)
    assert after.found.passed_over
    consumption = survey(after)
    assert {file.path for item in consumption.items for file in (*item.files, *item.tables)} == set(before.found.files)


@pytest.mark.slow
def test_convert_into_the_raw_data_and_what_follows(raw: RawTree, vdaprep: Run, tmp_path: Path) -> None:
    make_shards("tartanair", raw=raw.root, out=tmp_path / "clean")
    expected = tree_bytes(tmp_path / "clean" / "tartanair")
    folder = raw.root / "shards" / "tartanair"
    for command in ("convert", "plan", "convert --strict", "repair", "convert --consume --yes"):
        word, *more = command.split()
        if word == "repair":
            (folder / "train" / "shard-0001.json").unlink()
        common = ("tartanair", "--raw", raw.root, "--out", raw.root / "shards", "--workers", "1")
        result = vdaprep(word, *common, *more)
        assert result.code == 0, result.err
        assert ("the output folder is passed over" in result.out) == (word != "repair" and command != "convert")
        assert {path: data for path, data in tree_bytes(folder).items() if path != "plan.json"} == expected
    assert [path for path in tree_bytes(raw.root) if not path.startswith("shards/")] == []


@pytest.mark.slow
def test_shards_of_another_data_set_beside_it_are_passed_over_too(raw: RawTree, vdaprep: Run, toy_shards: Path) -> None:
    other = raw.root / "shards" / "vkitti"
    shutil.copytree(toy_shards / "tartanair", other)
    out = raw.root / "shards"
    result = vdaprep("plan", "tartanair", "--raw", raw.root, "--out", out, "--workers", "1", "--json")
    found = json.loads(result.out)["account"]
    assert (found["passed_over"], found["not_recognised"]) == (["shards/vkitti"], 0)


@pytest.mark.parametrize("command", ["convert", "convert --consume --yes", "convert --budget 1GB", "plan", "repair"])
def test_raw_data_where_shards_would_go_is_not_passed_over(
    command: str, raw: RawTree, vdaprep: Run, tmp_path: Path
) -> None:
    """RAW/tartanair holds the download, and OUT is RAW: nothing of it may be left out without a word, or be deleted."""
    root = tmp_path / "all"
    root.mkdir()
    raw.root.rename(root / "tartanair")
    before = tree_bytes(root)
    word, *more = command.split()
    result = vdaprep(word, "tartanair", "--raw", root, "--out", root, "--workers", "1", *more)
    assert (result.code, "lies in the raw data" in result.err, "choose another --out" in result.err) == (2, True, True)
    assert tree_bytes(root) == before
