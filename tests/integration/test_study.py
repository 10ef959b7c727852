"""`vdatrain study` with processes of its own: killed and gone on with, done twice, an arm that diverges."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Run, tree_bytes
from tests.integration.conftest import refused
from vdatrain.config import from_stored
from vdatrain.run_dir import read_facts
from vdatrain.training.study.worker import measure_stressed
from vdatrain.training.trainer import train

SMALL = (
    "--encoder", "tiny", "--frames", 3, "--size", 28, "--batch", 2, "--steps", 8, "--warmup", 1, "--ema", 0.5,
    "--log-every", 1, "--eval-every", 4, "--save-every", 1, "--workers", 0, "--device", "cpu",
)  # fmt: skip
PATIENCE_S = 240.0


def study(shards: Path, out: Path, variants: str, seeds: str, *more: object) -> tuple[object, ...]:
    return ("study", "--shards", shards, "--out", out, "--variants", variants, "--seeds", seeds, *SMALL, *more)


def log_of(folder: Path) -> list[dict[str, Any]]:
    path = folder / "log.jsonl"
    return [json.loads(line) for line in path.read_text().split("\n")[:-1]] if path.exists() else []


def losses(folder: Path) -> dict[int, float]:
    return {line["step"]: line["total"] for line in log_of(folder) if "total" in line}


def wait_for(condition: Any) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
def test_a_study_that_was_killed_goes_on(vdatrain: Run, toy_shards: Path, tmp_path: Path) -> None:
    """Two arms, two seeds. The processes that a killed study leaves behind save and end by themselves."""
    out = tmp_path / "study"
    first = out / "runs" / "basic" / "seed-0"
    command = [sys.executable, "-m", "vdatrain", *map(str, study(toy_shards, out, "basic,conv", "0,1", "--jobs", 2))]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True) as process:
        wait_for(lambda: losses(first) and losses(out / "runs" / "conv" / "seed-0"))
        os.kill(process.pid, signal.SIGKILL)
    wait_for(lambda: not list(out.rglob(".vdatrain-lock")))
    assert not (out / "runs" / "basic" / "seed-1").exists()
    assert not (out / "study.json").exists()

    result = vdatrain(*study(toy_shards, out, "basic,conv", "0,1", "--jobs", 2))
    assert result.code == 0, result.err
    assert "conv: TAE " in result.out
    assert "Two seeds: " in result.out
    assert "One held-out scene of tartanair: " in result.out
    folders = sorted(path.parent for path in out.rglob("evaluation.json"))
    assert [str(path.relative_to(out)) for path in folders] == [
        f"runs/{arm}/seed-{seed}" for arm in ("basic", "conv") for seed in (0, 1)
    ]
    assert [list(losses(folder)) for folder in folders] == [[*range(1, 9)]] * 4

    found = json.loads((out / "study.json").read_text())
    by_seed = {
        (figure["arm"], figure["metric"], seed): value
        for figure in found["figures"]
        if figure["dataset"] == "average"
        for seed, value in figure["by_seed"].items()
    }
    for folder in folders:
        evaluation = json.loads((folder / "evaluation.json").read_text())
        assert evaluation["step"] == 8
        for metric in ("absrel", "delta1", "tae"):
            key = (folder.parent.name, metric, folder.name.removeprefix("seed-"))
            assert by_seed[key] == pytest.approx(evaluation["average"][metric], rel=1e-12)

    whole = from_stored(read_facts(first)["config"], where="here")
    train(whole, out=tmp_path / "uninterrupted")
    assert losses(tmp_path / "uninterrupted") == losses(first)

    before = tree_bytes(out)
    again = vdatrain(*study(toy_shards, out, "basic,conv", "0,1"))
    assert (again.code, again.out) == (0, result.out)
    assert tree_bytes(out) == before


@pytest.mark.slow
def test_a_study_that_is_asked_to_stop_lets_its_runs_save(toy_shards: Path, tmp_path: Path) -> None:
    out = tmp_path / "study"
    first = out / "runs" / "basic" / "seed-0"
    words = study(toy_shards, out, "basic,conv", "0", "--jobs", 2, "--steps", 2000, "--log-every", 1)
    command = [sys.executable, "-m", "vdatrain", *map(str, words)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        wait_for(lambda: losses(first) and losses(out / "runs" / "conv" / "seed-0"))
        process.terminate()
        _, told = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, told
    assert "runs saved and left" in told
    assert "none is finished; the same command goes on" in told
    assert (first / "last.pt").exists()
    assert not list(out.rglob(".vdatrain-lock"))


@pytest.mark.slow
def test_an_arm_that_diverges_is_left_out_and_said(vdatrain: Run, toy_shards: Path, tmp_path: Path) -> None:
    out = tmp_path / "study"
    words = study(toy_shards, out, "basic,basic+lr=1e9", "0")
    result = vdatrain(*words)
    assert result.code == 0, result.err
    assert "basic+lr=1e9, seed 0, diverged and is left out: " in result.out
    found = json.loads((out / "study.json").read_text())
    assert [run["state"] for arm in found["arms"] for run in arm["runs"]] == ["finished", "diverged"]
    assert found["differences"] == []
    assert {figure["arm"] for figure in found["figures"]} == {"basic"}
    again = vdatrain(*words)
    assert (again.code, "begun" in again.err, again.out) == (0, False, result.out)


@pytest.mark.slow
def test_finished_models_are_measured_under_stress(vdatrain: Run, toy_shards: Path, tmp_path: Path) -> None:
    """On the windows and the weights of the run's own evaluation, without training again."""
    words = study(toy_shards, tmp_path / "study", "basic,conv", "0")
    assert vdatrain(*words).code == 0
    folder = tmp_path / "study" / "runs" / "conv" / "seed-0"
    trained = (folder / "last.pt").stat().st_mtime_ns
    under = vdatrain(*words, "--stress", "flicker1,noise+rain")
    assert under.code == 0, under.err
    assert "0 runs to train, 2 to measure under stress, " in under.err
    assert "conv, seed 0: finished" in under.err
    assert (folder / "last.pt").stat().st_mtime_ns == trained
    found = json.loads((tmp_path / "study" / "study.json").read_text())
    assert [item["kinds"] for item in found["stressed"]] == ["flicker1", "noise+rain"]
    flickering = {(one["arm"], one["metric"], one["dataset"]): one["mean"] for one in found["stressed"][0]["figures"]}
    still = {(one["arm"], one["metric"], one["dataset"]): one["mean"] for one in found["figures"]}
    assert flickering.keys() == still.keys()
    assert flickering["conv", "tae", "average"] != still["conv", "tae", "average"]
    assert "on average, on disturbed images" in under.out
    again = vdatrain(*words, "--stress", "flicker1,noise+rain")
    assert (again.out, "begun" in again.err) == (under.out, False)

    windows = (folder / "windows.jsonl").read_bytes()
    config = from_stored(read_facts(folder)["config"], where="here")
    measure_stressed(config, folder, [()])
    assert (folder / "windows.jsonl").read_bytes() == windows

    (folder / "windows-flicker1.jsonl").write_bytes(windows.splitlines(keepends=True)[0])
    damaged = vdatrain(*words, "--stress", "flicker1")
    assert damaged.code == 1
    assert "windows-flicker1.jsonl: is of other windows than windows.jsonl; delete" in damaged.err


@pytest.mark.slow
def test_a_study_that_is_stopped_before_a_run_ends_says_so(vdatrain: Run, toy_shards: Path, tmp_path: Path) -> None:
    result = vdatrain(*study(toy_shards, tmp_path / "study", "basic,conv", "0", "--time-limit", 1))
    assert (result.code, result.out) == (0, "")
    assert "runs saved and left at its time limit of 1 s, and none is finished; the same command goes on" in result.err


def test_a_dry_run_prints_the_plan_alone(vdatrain: Run, toy_shards: Path, tmp_path: Path) -> None:
    result = vdatrain(*study(toy_shards, tmp_path / "study", "basic,conv:zeros", "0,1,2", "--dry-run"))
    assert (result.code, result.out) == (0, "")
    assert "6 runs to train, 1 at a time: " in result.err
    assert "conv:zeros" in result.err
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize(
    ("variants", "more", "code", "sentence"),
    [
        ("basic", (), 2, "compares two arms or more"),
        ("basic,conv", ("--eval-split", "test"), 1, "have no split 'test' to measure on"),
        ("basic,conv", ("--jobs", 0), 2, "--jobs"),
        ("basic,nothing", (), 2, "variant 'nothing' is not known"),
        ("basic,conv+seed=3", (), 2, "has --seed of its own"),
    ],
)
def test_what_cannot_be_studied(
    vdatrain: Run, toy_shards: Path, tmp_path: Path, variants: str, more: tuple[object, ...], code: int, sentence: str
) -> None:
    result = vdatrain(*study(toy_shards, tmp_path / "study", variants, "0", *more))
    if "--jobs" in more:
        assert (result.code, sentence in result.err) == (code, True)
    else:
        refused(result, code, sentence)
    assert not (tmp_path / "study").exists()
