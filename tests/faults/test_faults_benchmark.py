"""A benchmark that is killed while it measures goes on with the scenes that it has not, and ends in the same table."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.conftest import Run
from tests.faults.faults import PATIENCE_S
from tests.scenes import Shot, write_scenes
from vdatrain.models import variants

SCENES = ("balloon2", "crowd2", "crowd3", "synchronous")


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    torch.manual_seed(3)
    torch.save(variants.build("basic", encoder="tiny").state_dict(), tmp_path / "tiny.pth")
    write_scenes(tmp_path / "shards" / "bonn", [Shot(name, range(30)) for name in SCENES])
    given = ["--checkpoint", tmp_path / "tiny.pth", "--encoder", "tiny", "--size", 28, "--sets", "bonn"]
    return [*map(str, given), "--shards", str(tmp_path / "shards"), "--allow-missing", "--device", "cpu"]


def table_of(out: Path) -> dict[str, tuple[dict, float]]:
    made = json.loads((out / "table.json").read_text())
    return {scene["scene"]: (scene["figures"], scene["seconds"]) for scene in made["scenes"]}


def test_it_goes_on_after_a_kill(command: list[str], vdatrain: Run, tmp_path: Path) -> None:
    out, lines = tmp_path / "out", tmp_path / "out" / "scenes-0.jsonl"
    words = [sys.executable, "-m", "vdatrain", "benchmark", *command, "--out", str(out)]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + PATIENCE_S
        while not lines.exists() or b"\n" not in lines.read_bytes():
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.001)
        process.kill()
    kept = lines.read_bytes()
    kept = [json.loads(line) for line in kept[: kept.rfind(b"\n")].splitlines()]
    assert 1 <= len(kept) < len(SCENES)
    assert not (out / "table.json").exists()
    assert {path.name for path in out.iterdir()} == {"benchmark.json", "scenes-0.jsonl"}  # no scratch stays

    for folder in (out, tmp_path / "whole"):
        done = vdatrain("benchmark", *command, "--out", folder)
        assert done.code == 0, done.err
    resumed, whole = table_of(out), table_of(tmp_path / "whole")
    assert {name: figures for name, (figures, _) in resumed.items()} == {
        name: figures for name, (figures, _) in whole.items()
    }
    for line in kept:
        assert resumed[line["scene"]][1] == line["seconds"]  # which was not measured again
