"""Whatever is wrong with shards is made right from raw data, and nothing else is touched."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.conftest import tree_bytes
from vdaprep.analysis.verify import verify
from vdaprep.conversion import consume
from vdaprep.conversion.convert import convert_plan
from vdaprep.conversion.encode.profiles import Rgb
from vdaprep.conversion.options import Selection, Settings, options_of, settings_of
from vdaprep.conversion.plan import make_plan
from vdaprep.conversion.saved_plan import prepare
from vdaprep.shards.names import PLAN_FILE
from vdaprep.shards.records import DatasetRecord, ShardRecord
from vdaprep.storage.output import LocalOutput
from vdaprep.workers.local import LocalExecutor

SETTINGS = Settings(short_side=15, clip_frames=3, frames_per_shard=6, rgb=Rgb("jpeg", 90), depth_error=0.001)
FIRST, SECOND, HELD_OUT = "train/shard-0001", "train/shard-0002", "val/shard-0001"


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A raw tree with a damaged frame, and its shards: four of them, one with a rejection."""
    from tests.conftest import write_raw

    folder = tmp_path_factory.mktemp("repair")
    lengths = {"abandonedfactory/Easy/P000": 13, "abandonedfactory/Easy/P001": 4, "abandonedfactory/Easy/P011": 5}
    tree = write_raw(folder / "raw", lengths=lengths)
    image = tree.root / "abandonedfactory" / "Easy" / "P000" / "image_left" / "000004_left.png"
    image.write_bytes(image.read_bytes()[:-9])
    plan = make_plan("tartanair", raw=tree.root, settings=SETTINGS, selection=Selection())
    output = LocalOutput(folder / "shards" / "tartanair")
    convert_plan(plan, output=output, executor=LocalExecutor(1))
    return folder


@pytest.fixture
def out(clean: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(clean / "shards", tmp_path / "shards"))


def times(out: Path) -> dict[str, int]:
    return {str(path.relative_to(out / "tartanair")): path.stat().st_mtime_ns for path in out.rglob("*.*")}


def flip(path: Path, position: int, bit: int = 0) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1 << bit
    path.write_bytes(data)


def flip_tar(folder: Path) -> None:
    flip(folder / f"{SECOND}.tar", 4000)


def flip_record(folder: Path) -> None:
    path = folder / f"{FIRST}.json"
    flip(path, path.read_bytes().index(b"clamped_near") + 14)


def flip_dataset(folder: Path) -> None:
    flip(folder / "dataset.json", 40)


def cut(folder: Path) -> None:
    path = folder / f"{HELD_OUT}.tar"
    path.write_bytes(path.read_bytes()[:1024])


def drop_tar(folder: Path) -> None:
    (folder / f"{SECOND}.tar").unlink()


def drop_record(folder: Path) -> None:
    (folder / f"{HELD_OUT}.json").unlink()


def drop_folder(folder: Path) -> None:
    shutil.rmtree(folder / "val")


def drop_dataset(folder: Path) -> None:
    (folder / "dataset.json").unlink()


def swap_records(folder: Path) -> None:
    swap(folder / f"{FIRST}.json", folder / f"{SECOND}.json")


def swap_splits(folder: Path) -> None:
    for suffix in (".tar", ".json"):
        swap(folder / f"{FIRST}{suffix}", folder / f"{HELD_OUT}{suffix}")


def swap(first: Path, second: Path) -> None:
    data = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(data)


def leave_rest(folder: Path) -> None:
    (folder / "train" / "shard-0002.tar.0123abcd.vdaprep-tmp").write_bytes(b"half")


def everything(folder: Path) -> None:
    for harm in (flip_tar, flip_record, flip_dataset, cut, leave_rest):
        harm(folder)


HARM: dict[Callable[[Path], None], set[str]] = {
    flip_tar: {SECOND},
    flip_record: {FIRST},
    flip_dataset: set(),
    cut: {HELD_OUT},
    drop_tar: {SECOND},
    drop_record: {HELD_OUT},
    drop_folder: {HELD_OUT},
    drop_dataset: set(),
    swap_records: {FIRST, SECOND},
    swap_splits: {FIRST, HELD_OUT},
    leave_rest: set(),
    everything: {FIRST, SECOND, HELD_OUT},
}
REWRITES_DATASET = (flip_dataset, drop_dataset, everything)


@pytest.mark.parametrize("harm", HARM, ids=lambda harm: harm.__name__)
def test_only_what_is_wrong_is_made_again(harm, clean: Path, out: Path, vdaprep) -> None:
    harm(out / "tartanair")
    before = times(out)
    result = vdaprep("repair", "tartanair", "--raw", clean / "raw", "--out", out, "--workers", 1)
    assert (result.code, result.err) == (0, "")
    assert tree_bytes(out) == tree_bytes(clean / "shards")
    changed = {name for name, time in times(out).items() if before.get(name) != time}
    written = {f"{name}{suffix}" for name in HARM[harm] for suffix in (".tar", ".json")}
    assert {name for name in changed if "." in name} == written | ({"dataset.json"} & changed)
    assert ("dataset.json" in changed) == (harm in REWRITES_DATASET)
    assert all(f"{name}.tar" in result.out for name in HARM[harm])
    if harm is not leave_rest:
        assert f"made again and read back: {'train' if FIRST in HARM[harm] else ''}" in result.out


def test_what_is_well_is_left_alone_and_needs_no_raw_data(out: Path, vdaprep) -> None:
    before = times(out)
    result = vdaprep("repair", "tartanair", "--out", out, "--raw", "nowhere")
    assert (result.code, result.err) == (0, "")
    assert "all is well, nothing was written" in result.out
    assert times(out) == before


def test_the_options_are_read_from_what_is_there(clean: Path, out: Path, vdaprep) -> None:
    arguments = ("repair", "tartanair", "--raw", clean / "raw", "--out", out, "--workers", 2)
    flip_tar(out / "tartanair")
    result = vdaprep(*arguments, "--rgb", "jpeg:95")
    assert result.code == 2
    assert "--rgb: the shards in " in result.err
    assert "were made with rgb = jpeg:90; leave the option out" in result.err
    result = vdaprep(*arguments, "--diffs", "none")
    assert "--diffs: the shards in " in result.err
    drop_dataset(out / "tartanair")
    assert vdaprep(*arguments, "--rgb", "jpeg:90", "--depth-error", 0.001).code == 0
    assert tree_bytes(out) == tree_bytes(clean / "shards")


def test_extra_shards_are_named_and_go_if_asked(clean: Path, out: Path, vdaprep) -> None:
    for suffix in (".tar", ".json"):
        shutil.copy(out / "tartanair" / f"{HELD_OUT}{suffix}", out / "tartanair" / "val" / f"shard-0002{suffix}")
    flip_tar(out / "tartanair")
    arguments = ("repair", "tartanair", "--raw", clean / "raw", "--out", out, "--workers", 1)
    result = vdaprep(*arguments)
    assert result.code == 1
    assert "val/shard-0002.tar: not part of this data set; --remove-extra deletes what does not belong" in result.err
    assert tree_bytes(out).keys() - tree_bytes(clean / "shards").keys() == {
        "tartanair/val/shard-0002.tar",
        "tartanair/val/shard-0002.json",
    }
    assert vdaprep(*arguments, "--remove-extra").code == 0
    assert tree_bytes(out) == tree_bytes(clean / "shards")


def test_files_of_others_stay(clean: Path, out: Path, vdaprep) -> None:
    flip_tar(out / "tartanair")
    mine = out / "tartanair" / "train" / "notes.txt"
    mine.write_text("mine")
    assert vdaprep("repair", "tartanair", "--raw", clean / "raw", "--out", out, "--workers", 1).code == 0
    assert mine.read_text() == "mine"


def test_without_raw_data_the_shards_are_named_and_nothing_is_touched(out: Path, vdaprep, tmp_path: Path) -> None:
    flip_tar(out / "tartanair")
    before = tree_bytes(out)
    result = vdaprep("repair", "tartanair", "--raw", tmp_path / "gone", "--out", out)
    assert result.code == 1
    assert f"cannot be repaired without raw data: {SECOND}.tar; {tmp_path / 'gone'}: there is no such folder" in (
        result.err
    )
    assert tree_bytes(out) == before


def test_other_raw_data_is_refused(clean: Path, out: Path, vdaprep, tmp_path: Path) -> None:
    flip_tar(out / "tartanair")
    before = tree_bytes(out)
    raw = shutil.copytree(clean / "raw", tmp_path / "raw")
    shutil.rmtree(raw / "abandonedfactory" / "Easy" / "P000")
    result = vdaprep("repair", "tartanair", "--raw", raw, "--out", out)
    assert result.code == 2
    assert "shard-0001.json: is whole, but was made from other frames than" in result.err
    assert tree_bytes(out) == before


def test_raw_data_whose_bytes_differ_is_noticed(clean: Path, out: Path, vdaprep, tmp_path: Path) -> None:
    flip_tar(out / "tartanair")
    raw = shutil.copytree(clean / "raw", tmp_path / "raw")
    for depth in (raw / "abandonedfactory" / "Easy" / "P000").rglob("*.npy"):
        np.save(depth, np.load(depth) * 1.1)
    result = vdaprep("repair", "tartanair", "--raw", raw, "--out", out, "--workers", 1)
    assert result.code == 1
    assert f"dataset.json: does not list what could be made again ({SECOND}.tar differ)" in result.err


def test_after_consume_what_has_raw_data_is_made_anew_and_the_rest_is_named(
    clean: Path, vdaprep, tmp_path: Path
) -> None:
    raw = Path(shutil.copytree(clean / "raw", tmp_path / "raw"))
    output = LocalOutput(tmp_path / "shards" / "tartanair")
    ready = prepare("tartanair", raw=str(raw), settings=SETTINGS, selection=Selection(), output=output)
    consumer = consume.Consumer(consume.survey(ready), lambda sentence: None)
    run = {"output": output, "executor": LocalExecutor(1)}
    consume.convert_and_consume(ready.plan, consumer, **run)
    assert [path.name for path in (raw / "abandonedfactory" / "Easy").iterdir()] == ["P000"], "it has a rejection"
    arguments = ("repair", "tartanair", "--raw", raw, "--out", tmp_path / "shards", "--workers", 1)
    flip(output.folder / f"{FIRST}.tar", 5000)
    assert vdaprep(*arguments).code == 0
    found = tree_bytes(tmp_path / "shards")
    assert found.pop(f"tartanair/{PLAN_FILE}")
    assert found == tree_bytes(clean / "shards")
    flip(output.folder / f"{HELD_OUT}.tar", 5000)
    result = vdaprep(*arguments)
    assert result.code == 1
    assert f"so 1 shards cannot be made: {HELD_OUT}.tar; put the raw data back" in result.err
    assert (output.folder / f"{HELD_OUT}.json").is_file()


def test_a_record_of_another_data_set_or_of_other_options_is_refused(clean: Path, out: Path, vdaprep) -> None:
    path = out / "tartanair" / "dataset.json"
    record = DatasetRecord.from_bytes(path.read_bytes(), where="")
    path.write_bytes(dataclasses.replace(record, dataset="vkitti").to_bytes())
    arguments = ("repair", "tartanair", "--raw", clean / "raw", "--out", out)
    assert "dataset.json: is of vkitti, not of tartanair" in vdaprep(*arguments).err
    path.write_bytes(record.to_bytes())
    other = out / "tartanair" / f"{FIRST}.json"
    shard = ShardRecord.from_bytes(other.read_bytes(), where="")
    other.write_bytes(dataclasses.replace(shard, options={**shard.options, "rgb": "jpeg:1"}).to_bytes())
    result = vdaprep(*arguments)
    assert result.code == 2
    assert "shard-0001.json: was made with other options than" in result.err


@pytest.mark.slow
def test_frames_that_can_be_read_now_are_taken_in(clean: Path, out: Path, vdaprep, tmp_path: Path) -> None:
    from tests.conftest import toy_frame

    raw = Path(shutil.copytree(clean / "raw", tmp_path / "raw"))
    image = raw / "abandonedfactory" / "Easy" / "P000" / "image_left" / "000004_left.png"
    cv2.imwrite(str(image), toy_frame(0, 4).rgb.pixels[..., ::-1])
    arguments = ("repair", "tartanair", "--raw", raw, "--out", out, "--workers", 1)
    assert "all is well, nothing was written" in vdaprep(*arguments).out
    result = vdaprep(*arguments, "--retry-rejected")
    assert (result.code, result.err) == (0, "")
    assert "shard-0001.tar: lost 1 frames when it was made" in result.out
    fresh = tmp_path / "fresh"
    plan = make_plan("tartanair", raw=raw, settings=SETTINGS, selection=Selection())
    convert_plan(plan, output=LocalOutput(fresh / "tartanair"), executor=LocalExecutor(1))
    assert tree_bytes(out) == tree_bytes(fresh)


def test_options_go_round() -> None:
    from vdaprep.sources import _manifest

    selection = Selection(("a*", "b"), "default", ("c",))
    for settings in (SETTINGS, Settings(), Settings(short_side=None, diffs="none", frame_stride=3)):
        options = options_of(settings, selection, _manifest.load("tartanair"))
        assert settings_of(json.loads(json.dumps(options)), dataset="tartanair") == (settings, selection)


def test_two_writers_are_refused(clean: Path, out: Path, vdaprep) -> None:
    with LocalOutput(out / "tartanair").lock():
        result = vdaprep("repair", "tartanair", "--raw", clean / "raw", "--out", out)
    assert result.code == 2
    assert "another vdaprep is writing there" in result.err
    assert verify([out], deep=True, on_frames=lambda count: None).findings == ()
