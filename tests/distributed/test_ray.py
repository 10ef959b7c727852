"""A conversion on a Ray cluster: the same bytes as on one machine, interrupted or not, and raw data that goes."""

import json
import os
import shutil
import socket
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.conftest import RawTree, Run, tree_bytes, write_raw
from vdaprep.shards.names import PLAN_FILE

pytestmark = pytest.mark.ray

OPTIONS = ("--frames-per-shard", "3", "--clip-frames", "3")
LENGTHS = {"abandonedfactory/Easy/P000": 13, "abandonedfactory/Easy/P001": 6, "abandonedfactory/Easy/P011": 5}


@dataclass(frozen=True)
class Told:
    """What came of `on_ray.py`: its folder, which the raw data and the shards lie beside, and what it found."""

    work: Path
    found: dict[str, Any]
    errors: str

    def events(self, name: str) -> list[dict[str, Any]]:
        """Return what a conversion printed."""
        return [json.loads(line) for line in (self.work / f"{name}.jsonl").read_text().splitlines()]

    def shards(self, name: str) -> dict[str, bytes]:
        """Return the files of an output, but for the plan that --consume leaves."""
        found = tree_bytes(self.work.parent / name)
        found.pop(f"tartanair/{PLAN_FILE}", None)
        return found


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Told:
    """Run all that is to be done on a cluster, which takes long to start."""
    folder = tmp_path_factory.mktemp("ray")
    raw = write_raw(folder / "raw", lengths=LENGTHS)
    shutil.copytree(raw.root, folder / "copy")
    with tarfile.open(folder / "all.tar.gz", "w:gz") as file:
        file.add(raw.root, ".")
    # Relative, which means something here only.
    plain = ["tartanair", "--raw", "all.tar.gz", *OPTIONS, "--out", "cluster"]
    consuming = ["tartanair", "--raw", "copy", *OPTIONS, "--out", "consuming", "--consume", "--yes"]
    work = folder / "work"
    work.mkdir()
    # Ray's own folder has a short path: those of sockets are, and TMPDIR may be long.
    environment = {name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "TMPDIR")}
    environment |= {"RAY_memory_monitor_refresh_ms": "0"}  # else Ray kills processes where others have taken the memory
    result = subprocess.run(
        [sys.executable, Path(__file__).with_name("on_ray.py"), work, json.dumps([plain, consuming])],
        cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, timeout=1800,
        check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-5000:]
    return Told(work, json.loads((work / "found.json").read_text()), result.stderr)


@pytest.fixture
def local(told: Told, vdaprep: Run, tmp_path: Path) -> dict[str, bytes]:
    """What one machine makes of the same raw data."""
    arguments = ("tartanair", "--raw", told.work.with_name("raw"), "--out", tmp_path, *OPTIONS, "--workers", 1)
    assert vdaprep("convert", *arguments).code == 0
    return tree_bytes(tmp_path)


def test_without_ray_there_is_a_sentence(
    raw: RawTree, vdaprep: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    result = vdaprep("convert", "tartanair", "--raw", raw.root, "--out", tmp_path, "--executor", "ray")
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert "--executor ray: Ray is not installed; pip install 'vdakit[ray]'." in result.err


def test_where_nothing_listens_is_a_sentence_at_once(
    raw: RawTree, vdaprep: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(shutdown=lambda: None))  # that cannot be asked to connect
    arguments = ("convert", "tartanair", "--raw", raw.root, "--out", tmp_path / "out", "--executor", "ray")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # but it does not listen
        result = vdaprep(*arguments, "--ray-address", f"127.0.0.1:{taken.getsockname()[1]}")
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert "--executor ray: no Ray cluster answers at 127.0.0.1:" in result.err
    assert "Connection refused); begin one with ray start, or name one with --ray-address;" in result.err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_without_a_cluster_there_is_a_sentence(told: Told) -> None:
    assert told.found["alone"] == 2
    assert "--executor ray: this machine is part of no Ray cluster" in told.errors
    assert [event["event"] for event in told.events("alone")] == ["error"]


@pytest.mark.slow
def test_processes_that_die_and_tasks_that_fail(told: Told) -> None:
    assert told.found["workers"] == 2
    assert told.found["deaths"] == {"results": 4, "frames": 20, "bytes_in": 40}
    said = told.found["always_deadly"]
    assert "work/deadly: the process that made it died 3 times (WorkerCrashedError: " in said
    assert told.found["failure"]["seconds"] < 300  # the other task takes an hour
    assert told.found["failure"]["other_ended"]


@pytest.mark.slow
def test_a_cluster_of_two_nodes_makes_the_same_bytes(told: Told, local: dict[str, bytes]) -> None:
    assert told.found["plain"] == {"code": 0, "nodes": 2}
    last = told.events("plain")[-1]
    assert (last["event"], last["frames"], last["new_frames"]) == ("done", 24, 24)
    assert told.shards("cluster") == local


@pytest.mark.slow
@pytest.mark.parametrize(("place", "code"), [(0, 130), (1, 143), (2, 130)])
def test_a_signal_ends_it_cleanly(place: int, code: int, told: Told) -> None:
    """At first nothing is under way yet; then a shard was made, and others are begun."""
    found = told.found["interruptions"][place]
    assert found["begun"]
    said = found["said"].splitlines()  # besides, its progress, and what Ray may have to say on a busy machine
    assert "vdaprep: stopped; run the same command again to go on: what is finished is kept." in said
    assert "Traceback" not in found["said"]
    assert found["code"] == code
    assert found["left"] == []
    assert found["others_ended"]
    if place:
        assert found["shards"] == ["train/shard-0001.json", "train/shard-0001.tar"]


@pytest.mark.slow
def test_raw_data_that_machines_do_not_see_is_a_sentence(told: Told) -> None:
    assert told.found["unshared"] == 1
    error = told.events("unshared")[-1]
    assert error["event"] == "error"
    assert "/copy: is not there, seen from " in error["message"]
    assert error["message"].endswith("need a --raw that all of them share: a network file system or a URL.")


@pytest.mark.slow
def test_raw_data_goes_when_shards_were_read_back(told: Told, local: dict[str, bytes]) -> None:
    """The conversion that was interrupted goes on with --consume; at first a bit of its finished shard is wrong."""
    assert told.found["damaged"] == {"code": 1, "raw_is_there": True}
    error = told.events("damaged")[-1]
    assert error["event"] == "error"
    assert "shard-0001.tar: " in error["message"]
    assert "Found when it was read back; vdaprep repair makes it again." in error["message"]

    assert told.found["consuming"] == 0
    assert told.shards("consuming") == local
    assert tree_bytes(told.work.with_name("copy")) == {}
    # What the damaged shard is not made of may have gone before.
    told_of = [*told.events("damaged"), *told.events("consuming")]
    notices = [event["message"] for event in told_of if event["event"] == "notice"]
    gone = [line for line in notices if line.endswith(" freed; its shards were read back.")]
    assert sorted(line.partition(": deleted, ")[0].rpartition("/copy/")[2] for line in gone) == sorted(LENGTHS)
    assert notices[-1].endswith(" of raw data freed")
    earlier = [event["name"] for event in told.events("consuming") if event["event"] == "shard" and event["earlier"]]
    assert "train/shard-0001.tar" in earlier
