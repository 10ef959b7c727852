"""`vdaprep convert --budget`: chooses what `plan` would, keeps to it, and goes on with it."""

import json
from pathlib import Path

from tests.conftest import RawTree, Run
from vdaprep.schema import DatasetRecord


def converted(folder: Path) -> DatasetRecord:
    path = folder / "tartanair" / "dataset.json"
    return DatasetRecord.from_bytes(path.read_bytes(), where=str(path))


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*.*") if path.is_file())


def test_a_budget_chooses_settings_that_hold_and_later_runs_go_on_with_them(
    raw: RawTree, vdaprep: Run, tmp_path: Path
) -> None:
    convert = ("convert", "tartanair", "--raw", raw.root, "--workers", 1, "--frames-per-shard", 7)
    assert vdaprep(*convert, "--out", tmp_path / "free").code == 0
    budget = int(0.85 * size(tmp_path / "free"))
    planned = vdaprep("plan", *convert[1:], "--out", tmp_path / "out", "--budget", budget, "--json")
    result = vdaprep(*convert, "--out", tmp_path / "out", "--budget", budget)
    assert result.code == 0
    assert "as asked: " in result.err
    [line] = [line for line in result.err.splitlines() if line.startswith("--budget chose: ")]
    assert size(tmp_path / "out") <= budget
    options = converted(tmp_path / "out").options
    assert options["jpeg_quality"] < 95
    assert f"--jpeg-quality {options['jpeg_quality']}" in line
    assert str(options["jpeg_quality"]) in json.loads(planned.out)["command"]

    done = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*.*")}
    (tmp_path / "out" / "tartanair" / "dataset.json").unlink()
    (tmp_path / "out" / "tartanair" / "train" / "shard-0001.json").unlink()
    again = vdaprep(*convert, "--out", tmp_path / "out", "--budget", budget)
    assert again.code == 0
    assert again.err == f"{tmp_path}/out/tartanair: goes on with the settings that were chosen when it was begun\n"
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*.*")} == done


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
