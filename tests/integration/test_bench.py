"""`python -m tests.bench`: every table comes out with numbers in it; how fast anything is, is not tested."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from vdaprep.shards import codec

ROOT = Path(__file__).parents[2]
# What stands in the first column of each table.
ROWS = {
    "a": ("read, PNG decode", "depth pack", "tar, hash", "all of it", "frames/s", "depth.zst", "raw files"),
    "b": (f"{codec.ZSTD_LEVEL} (ours)", "6", "19"),
    "c": ("stream, 0 workers", "stream, 2 workers", "raw PNG + npy, 2 workers", "webdataset, our bytes"),
    "d": ("wait", "encoder", "branch", "loss", "backward", "step without wait"),
    "e": ("plain L1", "spatial", "temporal", "video_loss"),
    "j": ("JPEG 95", "h264 16, 8 a group", "av1 20, 8 a group", "1/2"),
    "k": ("bytes 0.05 %", "nibbles 0.22 %", "interpolation 0.22 %"),
    "n": ("kitti, tiny at 28", "sintel, tiny at 28", "bonn of 24 frames, tiny at 28"),
    "l": ("v1", "tiny, av1", "LeRobot, FFV1 gray12", "cvdpack, quantised", "rendered 64x48, tiny"),
}


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COLUMNS": "130", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "tests.bench", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_every_table_has_numbers() -> None:
    result = bench("--quick")
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    for letter, rows in ROWS.items():
        assert f"({letter}) " in result.stdout
        for row in rows:
            found = re.search(rf"^│ {re.escape(row)} +│(.*)│$", result.stdout, re.MULTILINE)
            assert found, row
            assert re.search(r"\d", found[1]), row
    assert not re.search(r"\bnan\b", result.stdout)


def test_only_prints_the_tables_that_were_asked_for() -> None:
    result = bench("--quick", "--only", "b")
    assert result.returncode == 0, result.stderr
    assert re.findall(r"^\((.)\) ", result.stdout, re.MULTILINE) == ["b"]


def test_a_table_that_is_not_there_is_a_usage_error() -> None:
    result = bench("--only", "z")
    assert result.returncode == 2
    assert "no table z; choose from a,b,c,d,e" in result.stderr


@pytest.mark.slow
def test_without_a_gpu_it_says_so() -> None:
    result = bench("--gpu")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == "There is no GPU here, so there is nothing to measure.\n"
