"""The paper's table from raw data on: all five sets converted for it, and measured with weights of the Small model."""

import csv
import json
from pathlib import Path

import pytest
import torch

from tests.conftest import Run
from tests.raw_sets import NATIVE, write_set
from vdatrain.evaluation.benchmark.protocols import VDA
from vdatrain.models import variants

pytestmark = pytest.mark.slow

# A scene of each: Sintel's is the shortest there is, a drive of 67 frames is cut to the first.
SCENES = {
    "sintel": {"ambush_6": 20}, "kitti": {"2011_09_26_drive_0002_sync": 8}, "bonn": {"balloon2": 9},
    "scannet": {"scene0707_00": 14}, "nyuv2": {"basement_0001a": 8},
}  # fmt: skip


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.manual_seed(3)
    torch.save(variants.build("basic", encoder="vits").state_dict(), tmp_path / "vits.pth")
    return tmp_path / "vits.pth"


def test_from_raw_data_to_the_table(vdaprep: Run, vdatrain: Run, weights: Path, tmp_path: Path) -> None:
    for name, scenes in SCENES.items():
        size = (64, 48) if NATIVE[name] == (640, 480) else (NATIVE[name][0] // 8, NATIVE[name][1] // 8)
        raw = write_set(name, tmp_path / "raw", scenes, size=size if name != "nyuv2" else None)
        made = vdaprep("convert", name, "--for", "benchmark", "--raw", raw, "--out", tmp_path / "shards")
        assert made.code == 0, made.err
    out = tmp_path / "out"
    model = ("--checkpoint", weights, "--encoder", "vits", "--size", 28, "--name", "untrained")
    command = ("benchmark", *model, "--shards", tmp_path / "shards", "--out", out)

    missing = vdatrain(*command)
    assert missing.code == 1
    assert "kitti, 2011_09_26_drive_0002_sync: missing frames: has 8 of 67 frames" in missing.err
    assert "missing scene: no trajectory is it" in missing.err

    done = vdatrain(*command, "--allow-missing")
    assert done.code == 0, done.err
    assert "untrained" in done.out
    assert "VDA-L" in done.out
    made = json.loads((out / "table.json").read_text())
    assert {scene["key"]: scene["figures"]["frames"] for scene in made["scenes"]} == {
        "kitti": 8, "scannet": 14, "bonn": 9, "nyuv2": 8, "sintel": 20, "scannet-tae": 14,
    }  # fmt: skip
    for scene in made["scenes"]:
        assert 0 <= scene["figures"]["delta1"] <= 1
        assert scene["figures"]["pixels"] > 0
    ours = {(item["set"], item["metric"]): item for item in made["rows"][-1]["figures"]}
    assert set(ours) >= {(item.key, "absrel") for item in VDA.sets if item.measures == "depth"}
    assert ours["scannet-tae", "tae"]["value"] > 0
    assert all("missing scene" in item["mark"] for item in ours.values())
    lines = [json.loads(line) for line in (out / "scenes-0.jsonl").read_text().splitlines()]
    assert len(lines) == len(made["scenes"])
    assert sum(
        line["model"] == "untrained" for line in csv.DictReader((out / "table.csv").read_text().splitlines())
    ) == len(ours)
    assert "| untrained |" in (out / "table.md").read_text()
    ledger = json.loads((out / "ledger.json").read_text())
    assert sum(item["kind"] == "missing scene" for item in ledger) == sum(len(item.scenes) - 1 for item in VDA.sets)
