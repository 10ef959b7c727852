"""Finished shards that are damaged: flipped bits and cuts are found, and repair ends with the clean bytes."""

import random
import shutil
import tarfile
from pathlib import Path

import pytest

from tests.conftest import tree_bytes
from vdaprep.analysis.verify import check_folder
from vdaprep.analysis.verify_shard import check_shard
from vdaprep.conversion.convert import convert_plan
from vdaprep.conversion.options import Selection, Settings
from vdaprep.conversion.plan import make_plan
from vdaprep.storage.output import LocalOutput
from vdaprep.workers.local import LocalExecutor

ARGUMENTS = ("tartanair", "--workers", 1)
SETTINGS = Settings(short_side=15, clip_frames=3, frames_per_shard=6)
OPTIONS = ("--short-side", 15, "--clip-frames", 3, "--frames-per-shard", 6)


@pytest.fixture(scope="module")
def small(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A raw tree and its shards, small enough to be checked hundreds of times; a test may ask for a profile."""
    from tests.conftest import write_raw

    folder = tmp_path_factory.mktemp("small")
    tree = write_raw(folder / "raw", lengths={"abandonedfactory/Easy/P000": 10, "abandonedfactory/Easy/P011": 4})
    plan = make_plan(
        "tartanair",
        raw=tree.root,
        settings=SETTINGS.with_profile(getattr(request, "param", "standard")),
        selection=Selection(),
    )
    output = LocalOutput(folder / "shards" / "tartanair")
    convert_plan(plan, output=output, executor=LocalExecutor(1))
    return folder


@pytest.fixture
def out(small: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small / "shards", tmp_path / "shards"))


def problems(out: Path) -> list[str]:
    return [str(item) for item in check_folder(out / "tartanair", deep=True, on_frames=lambda count: None)[1]]


@pytest.mark.slow
@pytest.mark.parametrize("small", ["standard", "tiny"], indirect=True)
def test_two_hundred_flipped_bits(small: Path, out: Path, vdaprep) -> None:
    rng = random.Random(4)
    paths = sorted((out / "tartanair").glob("*/shard-*"))
    clean = tree_bytes(out)
    for turn in range(200):
        path = paths[turn % len(paths)]
        whole = path.read_bytes()
        position, bit = rng.randrange(len(whole)), rng.randrange(8)
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 1 << bit]) + whole[position + 1 :])
        checked = check_shard(path.with_suffix(".tar"), deep=True, on_frames=lambda count: None)
        assert checked.findings, f"bit {bit} of byte {position} of {path}"
        if turn % 20 == 7:
            result = vdaprep("repair", *ARGUMENTS, "--raw", small / "raw", "--out", out)
            assert (result.code, result.err) == (0, "")
            assert tree_bytes(out) == clean
        path.write_bytes(whole)
    assert problems(out) == []


@pytest.mark.slow
@pytest.mark.parametrize("with_record", [True, False])
def test_a_tar_cut_at_every_boundary_of_its_members(with_record: bool, small: Path, out: Path, vdaprep) -> None:
    tar = out / "tartanair" / "train" / "shard-0001.tar"
    record = tar.with_suffix(".json")
    whole, clean = tar.read_bytes(), tree_bytes(out)
    with tarfile.open(tar) as archive:
        members = archive.getmembers()
    boundaries = sorted(
        {0, *(item.offset for item in members), *(item.offset_data for item in members), len(whole) - 512}
    )
    assert len(boundaries) > 30
    if not with_record:
        record.unlink()
    for number, boundary in enumerate(boundaries):
        tar.write_bytes(whole[:boundary])
        found = check_shard(tar, deep=True, on_frames=lambda count: None).findings
        assert found, f"cut after {boundary} bytes"
        expected = "the shard is cut or damaged" if with_record else "it was never finished"
        assert expected in str(found[0])
        if number % 12:
            continue
        result = vdaprep("convert", *ARGUMENTS, "--raw", small / "raw", "--out", out, *OPTIONS)
        if with_record:  # finished shards are nothing that convert writes again
            assert result.code == 1
            assert f"shard-0001.tar: has {boundary} bytes, its record says {len(whole)}; vdaprep repair" in result.err
            assert vdaprep("repair", *ARGUMENTS, "--raw", small / "raw", "--out", out).code == 0
        else:
            assert result.code == 0
            record.unlink()
            clean_now = {**clean}
            clean_now.pop("tartanair/train/shard-0001.json")
            assert tree_bytes(out) == clean_now
            continue
        assert tree_bytes(out) == clean
    vdaprep("repair", *ARGUMENTS, "--raw", small / "raw", "--out", out)
    assert tree_bytes(out) == clean


def test_a_tar_that_goes_on_after_its_end(out: Path) -> None:
    tar = out / "tartanair" / "val" / "shard-0001.tar"
    for more in (b"\0", bytes(10240), tar.read_bytes()):
        whole = tar.read_bytes()
        tar.write_bytes(whole + more)
        assert any("the shard is cut or damaged" in line for line in problems(out))
        tar.write_bytes(whole)


def test_a_flipped_bit_in_a_record_stops_convert_and_is_repaired(small: Path, out: Path, vdaprep) -> None:
    clean = tree_bytes(out)
    record = out / "tartanair" / "train" / "shard-0002.json"
    data = bytearray(record.read_bytes())
    data[100] ^= 1
    record.write_bytes(data)
    result = vdaprep("convert", *ARGUMENTS, "--raw", small / "raw", "--out", out, *OPTIONS)
    assert result.code == 1
    assert "shard-0002.json: " in result.err
    assert "vdaprep repair tartanair makes it again." in result.err
    assert vdaprep("repair", *ARGUMENTS, "--raw", small / "raw", "--out", out).code == 0
    assert tree_bytes(out) == clean
