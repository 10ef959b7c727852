"""What holds for every raw data set, through the command line; and that a new one is two files."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from vdaprep.synthetic import layouts

ROOT = Path(__file__).parents[2]
SMALL = ("--trajectories", 2, "--frames", 4, "--size", "64x48")
NAMES = layouts.names()


def shards(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_packed_and_mixed_samples_convert_to_the_same_bytes(name: str, vdaprep, tmp_path: Path) -> None:
    assert vdaprep("sample", name, "--out", tmp_path / "loose", *SMALL).code == 0
    assert vdaprep("sample", name, "--out", tmp_path / "packed", *SMALL, "--archives").code == 0
    # One trajectory unpacked, everything in archives beside it.
    shutil.copytree(tmp_path / "packed", tmp_path / "mixed")
    first = next(path for path in sorted((tmp_path / "loose").rglob("*")) if path.is_file()).relative_to(
        tmp_path / "loose"
    )
    shutil.copytree(tmp_path / "loose" / first.parent, tmp_path / "mixed" / first.parent, dirs_exist_ok=True)
    for raw in ("loose", "packed", "mixed"):
        result = vdaprep("convert", name, "--raw", tmp_path / raw, "--out", tmp_path / f"{raw}-out", "--workers", 1)
        assert result.code == 0
        assert result.err == "" if raw != "mixed" else "files that lie beside it; those are used" in result.err
    found, mixed = shards(tmp_path / "loose-out"), shards(tmp_path / "mixed-out")
    assert found == shards(tmp_path / "packed-out")
    assert found.pop(f"{name}/dataset.json") != mixed.pop(f"{name}/dataset.json")  # it lists what is there twice
    assert found == mixed
    assert vdaprep("verify", tmp_path / "loose-out", "--deep", "--geometry").code == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_wrong_data_set_is_recognised(name: str, vdaprep, tmp_path: Path) -> None:
    vdaprep("sample", name, "--out", tmp_path / "raw", *SMALL)
    for other in NAMES:
        if other == name:
            continue
        result = vdaprep("convert", other, "--raw", tmp_path / "raw", "--out", tmp_path / "out", "--workers", 1)
        assert result.code == 1
        assert f"it looks like {name}" in result.err
        assert f"vdaprep sample {other} --out raw/{other}" in result.err


TOY_SOURCE = '''
"""A toy: everything of TartanAir under another name."""

from vdaprep.sources.training.tartanair import *  # noqa: F403
'''
TOY_MANIFEST = """
title = "Toy"
home = "https://example.org"
licence = "none"
versions = []
[depth]
kind = "log"
near_m = 0.5
far_m = 50.0
evaluation_max_m = 20.0
[splits.default]
val = ["abandonedfactory/Easy/P011"]
"""


@pytest.mark.slow
def test_a_new_data_set_is_one_module_and_one_manifest(raw, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    for folder in ("vdaprep", "manifests"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "vdaprep" / "sources" / "training" / "toy_set.py").write_text(TOY_SOURCE)
    (copy / "manifests" / "toy-set.toml").write_text(TOY_MANIFEST)

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        code = "import vdaprep.cli; vdaprep.cli.main()"
        return subprocess.run(
            [sys.executable, "-c", code, *map(str, arguments)],
            env={**os.environ, "PYTHONPATH": str(copy)}, cwd=copy, capture_output=True, text=True, check=False,
        )  # fmt: skip

    listed = run("datasets")
    assert "toy-set: Toy; licence: none; https://example.org; no samples" in listed.stdout.partition("measure on:")[0]
    sample = run("sample", "toy-set", "--out", tmp_path / "sample")
    assert (sample.returncode, sample.stdout) == (2, "")
    assert "toy-set has no samples, only real data; there are samples of custom, " in sample.stderr
    converted = run("convert", "toy-set", "--raw", raw.root, "--out", tmp_path / "out", "--workers", 2)
    assert (converted.returncode, converted.stderr) == (0, "")
    assert run("verify", tmp_path / "out", "--deep").returncode == 0
    assert (tmp_path / "out" / "toy-set" / "val" / "shard-0001.tar").is_file()
    unknown = run("convert", "toys", "--out", tmp_path / "out")
    assert "known: " in unknown.stderr
    assert "toy-set" in unknown.stderr
