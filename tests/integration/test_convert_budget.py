"""`vdaprep convert --budget`: chooses what `plan` would, keeps to it, and goes on with it."""

import json
from pathlib import Path

import pytest

from tests.conftest import RawTree, Run, tree_bytes
from vdaprep.shards.names import PLAN_FILE
from vdaprep.shards.records import DatasetRecord


def converted(folder: Path) -> DatasetRecord:
    path = folder / "tartanair" / "dataset.json"
    return DatasetRecord.from_bytes(path.read_bytes(), where=str(path))


OWN = ("--depth-error", 0.001)  # no profile's, so that the budget does not begin with another profile


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*.*") if path.is_file())


@pytest.mark.slow
def test_a_budget_chooses_settings_that_hold_and_later_runs_go_on_with_them(
    raw: RawTree, vdaprep: Run, tmp_path: Path
) -> None:
    convert = ("convert", "tartanair", "--raw", raw.root, "--workers", 1, "--frames-per-shard", 7, *OWN)
    assert vdaprep(*convert, "--out", tmp_path / "free").code == 0
    budget = int(0.85 * size(tmp_path / "free"))
    planned = vdaprep("plan", *convert[1:], "--out", tmp_path / "out", "--budget", budget, "--json")
    result = vdaprep(*convert, "--out", tmp_path / "out", "--budget", budget)
    assert result.code == 0
    assert "as asked: " in result.err
    [line] = [line for line in result.err.splitlines() if line.startswith("--budget chose: ")]
    assert size(tmp_path / "out") <= budget
    options = converted(tmp_path / "out").options
    assert options["rgb"] in ("jpeg:90", "jpeg:85", "jpeg:80", "jpeg:75")
    assert f"--rgb {options['rgb']}" in line
    assert options["rgb"] in json.loads(planned.out)["command"]

    done = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*.*")}
    (tmp_path / "out" / "tartanair" / "dataset.json").unlink()
    (tmp_path / "out" / "tartanair" / "train" / "shard-0001.json").unlink()
    again = vdaprep(*convert, "--out", tmp_path / "out", "--budget", budget)
    assert again.code == 0
    assert again.err == f"{tmp_path}/out/tartanair: goes on with the settings that were chosen when it was begun\n"
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*.*")} == done


@pytest.mark.slow
def test_a_budget_chooses_what_is_consumed_and_later_runs_go_on_without_raw_data(
    raw: RawTree, vdaprep: Run, tmp_path: Path
) -> None:
    convert = ("convert", "tartanair", "--raw", raw.root, "--workers", 1, "--frames-per-shard", 7, *OWN)
    assert vdaprep(*convert, "--out", tmp_path / "free").code == 0
    budget, before = int(0.8 * size(tmp_path / "free")), tree_bytes(raw.root)
    assert vdaprep(*convert, "--out", tmp_path / "clean", "--budget", budget).code == 0
    taken = sorted(name for names in converted(tmp_path / "clean").splits.values() for name in names)
    assert 0 < len(taken) < len(raw.frames), "nothing but trajectories was left to save"

    consuming = (*convert, "--out", tmp_path / "out", "--budget", budget, "--consume")
    asked = vdaprep(*consuming)
    assert (asked.code, tree_bytes(raw.root)) == (2, before)
    chosen, shown = (asked.err.index(words) for words in ("--budget chose: ", ": will be deleted, "))
    assert chosen < shown, "the choice is shown before the question"
    result = vdaprep(*consuming, "--yes")
    assert result.code == 0
    gone = [line for line in result.err.splitlines() if line.endswith(" freed; its shards were read back.")]
    assert [line.partition(": deleted, ")[0] for line in gone] == [str(raw.root / name) for name in taken]
    assert result.err.endswith(" of raw data freed\n")
    rest = {path: data for path, data in before.items() if not path.startswith(tuple(taken))}
    assert tree_bytes(raw.root) == rest
    shards = tree_bytes(tmp_path / "out")
    plan = shards.pop(f"tartanair/{PLAN_FILE}")
    assert shards == tree_bytes(tmp_path / "clean")

    again = vdaprep(*consuming, "--yes")
    assert again.code == 0
    assert "goes on with the settings that were chosen when it was begun" in again.err
    assert tree_bytes(raw.root) == rest
    assert tree_bytes(tmp_path / "out") == shards | {f"tartanair/{PLAN_FILE}": plan}


@pytest.mark.slow
def test_a_budget_that_nothing_fits(raw: RawTree, vdaprep: Run, tmp_path: Path) -> None:
    convert = ("convert", "tartanair", "--raw", raw.root, "--out", tmp_path / "out", "--workers", 1)
    result = vdaprep(*convert, "--budget", "10kB")
    assert result.code == 2
    assert "--budget: 10000 bytes are too few: " in result.err
    assert not (tmp_path / "out").exists()
    result = vdaprep(*convert, "--budget", "much")
    assert (result.code, result.err) == (
        2,
        "vdaprep: --budget much: expected a size, for example 5GB, 500MB or 2GiB.\n",
    )
