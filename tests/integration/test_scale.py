"""One conversion by several jobs: the same bytes as by one; and what machines that do not share a disk come to."""

import json
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Outcome, RawTree, Run, tree_bytes
from vdaprep.conversion.convert import Part
from vdaprep.errors import UsageError
from vdaprep.raw.archives import targz
from vdaprep.raw.tree import Reader, open_tree
from vdaprep.storage.output import LocalOutput

VDAPREP = (sys.executable, "-c", "from vdaprep.cli import main; main()")
OPTIONS = ("--frames-per-shard", "3", "--clip-frames", "3")


def succeeded(result: Outcome) -> None:
    assert (result.code, result.err) == (0, "")


def events(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


# -------------------------------------------------------------------------------------------------------------- parts


@pytest.mark.slow
def test_parts_that_run_at_once_and_are_finished_make_what_one_run_makes(
    raw: RawTree, vdaprep: Run, tmp_path: Path
) -> None:
    convert = ("convert", "tartanair", "--raw", str(raw.root), *OPTIONS, "--workers", "1")
    succeeded(vdaprep(*convert, "--out", tmp_path / "whole"))
    parts = ("convert", *convert[1:], "--out", str(tmp_path / "parts"), "--json")
    jobs = [
        subprocess.Popen([*VDAPREP, *parts, "--part", f"{i}/3"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for i in (1, 2, 3)
    ]
    names: list[str] = []
    for number, job in enumerate(jobs, start=1):
        out, err = job.communicate(timeout=300)
        assert (job.returncode, err) == (0, b"")
        told = events(out.decode())
        names += [event["name"] for event in told if event["event"] == "shard" and not event["earlier"]]
        assert told[-1]["part"] == f"{number}-of-3"
    assert len(names) == len(set(names))
    assert "tartanair/dataset.json" not in tree_bytes(tmp_path / "parts")
    result = vdaprep(*parts[:-1], "--finish")
    succeeded(result)
    assert "24 frames in 9 clips, 9 shards" in result.out
    assert tree_bytes(tmp_path / "parts") == tree_bytes(tmp_path / "whole")


@pytest.mark.slow
def test_finishing_too_early_names_what_is_missing(raw: RawTree, vdaprep: Run, tmp_path: Path) -> None:
    convert = ("convert", "tartanair", "--raw", raw.root, "--out", tmp_path, *OPTIONS, "--workers", 1)
    part = vdaprep(*convert, "--part", "2/2")
    succeeded(part)
    assert "part 2 of 2: 11 frames in 4 clips, 4 shards" in part.out
    assert "the same command with --finish" in part.out
    early = vdaprep(*convert, "--finish")
    assert (early.code, early.err.count("\n")) == (2, 1)
    assert f"{tmp_path}/tartanair: 5 of 9 shards are not there, the first train/shard-0001.tar; run the" in early.err
    succeeded(vdaprep(*convert))  # an ordinary run completes it as well
    succeeded(vdaprep(*convert, "--finish"))


def test_more_parts_than_shards_leave_some_idle(raw: RawTree, vdaprep: Run, tmp_path: Path) -> None:
    convert = ("convert", "tartanair", "--raw", raw.root, "--out", tmp_path, "--workers", 1)
    result = vdaprep(*convert, "--part", "7/7")
    succeeded(result)
    assert "part 7 of 7: 0 frames in 0 clips, 0 shards, 0 B" in result.out


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--part", "0/4"), "--part 0/4: expected i/n with i from 1 to n, for example 1/4."),
        (("--part", "5/4"), "--part 5/4: expected i/n with i from 1 to n, for example 1/4."),
        (("--part", "3"), "--part 3: expected i/n with i from 1 to n, for example 1/4."),
        (("--part", "a/b"), "--part a/b: expected i/n"),
        (("--part", "1/2", "--finish"), "--finish: completes what all parts have made; leave --part 1/2 out."),
        (("--ray-address", "here:1"), "--ray-address here:1: needs --executor ray, too."),
        (("--min-free", "much"), "--min-free much: expected a size, for example 5GB"),
    ],
)
def test_options_that_cannot_be(options: tuple[str, ...], sentence: str, raw, vdaprep: Run, tmp_path: Path) -> None:
    result = vdaprep("convert", "tartanair", "--raw", raw.root, "--out", tmp_path / "out", *options)
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert sentence in result.err
    assert not (tmp_path / "out").exists()


def test_nothing_is_finished_while_a_part_is_made(raw: RawTree, vdaprep: Run, tmp_path: Path) -> None:
    convert = ("convert", "tartanair", "--raw", raw.root, "--out", tmp_path, "--workers", 1)
    with LocalOutput(tmp_path / "tartanair").lock(part=str(Part(1, 2))):
        for options in (("--finish",), (), ("--part", "1/2")):
            result = vdaprep(*convert, *options)
            assert result.code == 2
            assert "another vdaprep is writing there; wait for it" in result.err
        succeeded(vdaprep(*convert, "--part", "2/2"))


def test_a_floor_that_leaves_no_room(raw: RawTree, vdaprep: Run, tmp_path: Path) -> None:
    convert = ("convert", "tartanair", "--raw", raw.root, "--out", tmp_path, "--workers", 1)
    result = vdaprep(*convert, "--min-free", "1000TB")
    assert (result.code, result.err.count("\n")) == (1, 1)
    assert "bytes are free there and --min-free keeps 1000000000000000; free some space" in result.err
    assert not list(tmp_path.rglob("*.tar"))
    succeeded(vdaprep(*convert, "--min-free", "1MB"))


# -------------------------------------------------------------------------------------------------------- seek points


def test_seek_points_can_be_carried_to_where_their_files_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.bin").write_bytes(bytes(range(256)) * 500)
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as file:
        file.add(tmp_path / "a.bin", "a.bin")
    (tmp_path / "a.bin").unlink()
    monkeypatch.setattr(targz, "_carried", {})
    monkeypatch.setattr(targz, "DamagedGzip", None)
    tree = open_tree(tmp_path / "a.tar.gz")
    made = targz.made_seek_points()
    for path in made.indexes:
        Path(path).unlink()
    with Reader(tree.root) as reader, pytest.raises(TypeError):  # it would be read slowly
        reader.read(tree.files["a.bin"])
    made()
    with Reader(tree.root) as reader:
        assert reader.read(tree.files["a.bin"]) == bytes(range(256)) * 500


def test_a_shard_that_cannot_be_seen_is_not_taken_for_made(
    raw: RawTree, vdaprep: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vdaprep.conversion import convert

    monkeypatch.setattr(convert, "_LOOKS_S", (0.0, 0.01))
    real = convert.encode_shard

    def elsewhere(task: Any, tick: Any) -> Any:
        result = real(task, tick)
        task.output.delete(task.shard.name)  # as if it lay on another machine
        return result

    monkeypatch.setattr(convert, "encode_shard", elsewhere)
    result = vdaprep("convert", "tartanair", "--raw", raw.root, "--out", tmp_path, "--workers", 1)
    assert result.code == 1
    assert "train/shard-0001.tar: was written with" in result.err
    assert "bytes but is not there, seen from here; processes on several machines need an --out" in result.err


def test_part_of() -> None:
    assert Part(2, 3).of(()) == ()
    with pytest.raises(UsageError):
        Part(4, 3)
