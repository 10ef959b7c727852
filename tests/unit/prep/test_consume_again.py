"""Conversions that delete their raw data, interrupted, run again and damaged: they end as ones that keep it."""

import contextlib
import json
import shutil
from pathlib import Path

import pytest

from tests.conftest import tree_bytes
from tests.unit.prep.consuming import (
    EASY,
    on_shard,
    pack,
    plain,
    prepared,
    run,
    same,
)
from vdaprep.analysis.verify import verify
from vdaprep.conversion import consume
from vdaprep.conversion.consume import FileState
from vdaprep.conversion.convert import convert_plan
from vdaprep.conversion.options import Selection, Settings
from vdaprep.conversion.saved_plan import LostTrajectory
from vdaprep.errors import DataError, ShardError, UsageError
from vdaprep.shards.names import PLAN_FILE
from vdaprep.storage.output import LocalOutput
from vdaprep.workers.local import LocalExecutor
from vdaprep.workers.progress import OnProgress


class StopError(Exception):
    pass


def stop_after(count: int) -> OnProgress:
    left = [count]

    def stop() -> None:
        left[0] -= 1
        if left[0] == 0:
            raise StopError

    return on_shard(stop)


@pytest.mark.slow
@pytest.mark.parametrize("packed", [False, True])
def test_a_run_goes_on_though_raw_data_is_gone(packed: bool, raw, tmp_path: Path) -> None:
    clean = plain(raw.root, tmp_path / "clean")
    root = pack(raw.root, tmp_path / "zips") if packed else raw.root
    whole = len(tree_bytes(root))
    with pytest.raises(StopError):
        run(root, tmp_path / "out", on_progress=stop_after(4))
    assert packed or len(tree_bytes(root)) < whole
    with pytest.raises(StopError):
        run(root, tmp_path / "out", on_progress=stop_after(5))
    # Also without --consume: what is finished is taken over, what is not finds its frames.
    ready = prepared(root, tmp_path / "out")
    assert packed or any(isinstance(clip.trajectory, LostTrajectory) for s in ready.plan.shards for clip in s.clips)
    convert_plan(ready.plan, output=LocalOutput(tmp_path / "out/tartanair"), executor=LocalExecutor(1))
    same(tmp_path / "out", clean)
    _, said = run(root, tmp_path / "out")
    assert tree_bytes(root) == {}
    assert "freed" in said[-1]
    same(tmp_path / "out", clean)
    # All is done and nothing is left: again, with and without.
    _, said = run(root, tmp_path / "out")
    ready = prepared(root, tmp_path / "out")
    convert_plan(ready.plan, output=LocalOutput(tmp_path / "out/tartanair"), executor=LocalExecutor(1))
    same(tmp_path / "out", clean)
    shutil.rmtree(root)
    prepared(root, tmp_path / "out")


def test_what_is_left_of_a_deletion_that_was_cut_short_goes_too(raw, tmp_path: Path, monkeypatch) -> None:
    clean = plain(raw.root, tmp_path / "clean")
    deleted: list[str] = []
    real = consume.delete

    def die_midway(root: Path, file: FileState) -> bool:
        if len(deleted) == 7:
            raise StopError
        deleted.append(str(file))
        return real(root, file)

    monkeypatch.setattr(consume, "delete", die_midway)
    with pytest.raises(StopError):
        run(raw.root, tmp_path / "out")
    monkeypatch.undo()
    assert tree_bytes(raw.root)
    run(raw.root, tmp_path / "out")
    assert tree_bytes(raw.root) == {}
    same(tmp_path / "out", clean)


@pytest.mark.slow
@pytest.mark.parametrize(("left", "kept"), [(0, []), (1, ["image_left.zip.001"]), (4, ["depth_left.zip.001"])])
def test_archives_in_parts_go_whole_and_what_an_interruption_leaves_of_one_is_kept(
    left: int, kept: list[str], raw, tmp_path: Path, monkeypatch
) -> None:
    clean = plain(raw.root, tmp_path / "clean")
    zips = pack(raw.root, tmp_path / "zips")
    for path in list(zips.rglob("*.zip")):
        data = path.read_bytes()
        size = len(data) // 3 + 1
        for number in range(3):
            path.with_name(f"{path.name}.00{number + 1}").write_bytes(data[number * size :][:size])
        path.unlink()
    assert len(tree_bytes(zips)) == 6
    real = consume.delete

    def die_midway(root: Path, file: FileState) -> bool:
        if left and len(tree_bytes(zips)) == left:
            raise StopError
        return real(root, file)

    with monkeypatch.context() as patch, pytest.raises(StopError) if left else contextlib.nullcontext():
        patch.setattr(consume, "delete", die_midway)
        run(zips, tmp_path / "out")
    assert len(tree_bytes(zips)) == left
    run(zips, tmp_path / "out")
    same(tmp_path / "out", clean)
    assert [name.rpartition("/")[2] for name in tree_bytes(zips)] == kept


def test_archives_that_hold_more_go_though_one_went_before(raw, tmp_path: Path, monkeypatch) -> None:
    selection = Selection(select=("*/P00?",))
    clean = plain(raw.root, tmp_path / "clean", selection=selection)
    zips = pack(raw.root, tmp_path / "zips")
    real = consume.delete

    def one_only(root: Path, file: FileState) -> bool:
        if len(tree_bytes(zips)) == 1:
            raise StopError
        return real(root, file)

    monkeypatch.setattr(consume, "delete", one_only)
    with pytest.raises(StopError):
        run(zips, tmp_path / "out", selection=selection, unused=True)
    monkeypatch.undo()
    [left] = tree_bytes(zips)
    run(zips, tmp_path / "out", selection=selection)
    assert list(tree_bytes(zips)) == [left], "what allowed it is of that run only"
    run(zips, tmp_path / "out", selection=selection, unused=True)
    assert tree_bytes(zips) == {}
    same(tmp_path / "out", clean)


def test_raw_data_that_is_needed_and_gone_is_a_sentence(raw, tmp_path: Path) -> None:
    with pytest.raises(StopError):
        run(raw.root, tmp_path / "out", on_progress=stop_after(4))
    shutil.rmtree(raw.root / EASY / "P011")
    before = tree_bytes(raw.root)
    match = (
        rf"does not hold trajectory {EASY}/P011 as it did when the conversion began, so \d shards cannot be made: val/"
    )
    with pytest.raises(DataError, match=match):
        run(raw.root, tmp_path / "out")
    assert tree_bytes(raw.root) == before
    with pytest.raises(DataError, match=match):
        ready = prepared(raw.root, tmp_path / "out")
        output = LocalOutput(tmp_path / "out/tartanair")
        convert_plan(ready.plan, output=output, executor=LocalExecutor(1))


def test_other_options_than_those_of_the_saved_plan_are_refused(raw, tmp_path: Path) -> None:
    run(raw.root, tmp_path / "out")
    with pytest.raises(UsageError, match=r"plan.json: was made with clip_frames = 3; this run has clip_frames = 4"):
        prepared(raw.root, tmp_path / "out", settings=Settings(short_side=24, clip_frames=4, frames_per_shard=6))


def test_a_shard_that_does_not_read_back_keeps_its_raw_data(raw, tmp_path: Path) -> None:
    plain(raw.root, tmp_path / "out")
    tar = tmp_path / "out" / "tartanair" / "train" / "shard-0002.tar"
    data = bytearray(tar.read_bytes())
    data[3000] ^= 1
    tar.write_bytes(data)
    before = tree_bytes(raw.root)
    with pytest.raises(ShardError, match=r"shard-0002.tar: .* Found when it was read back; vdaprep repair makes it"):
        run(raw.root, tmp_path / "out")
    assert tree_bytes(raw.root) == before


def test_a_damaged_plan_is_noticed(raw, tmp_path: Path) -> None:
    run(raw.root, tmp_path / "out")
    path = tmp_path / "out" / "tartanair" / PLAN_FILE
    value = json.loads(path.read_bytes())
    value["shards"][0]["clips"][0][2] += 1
    path.write_text(json.dumps(value, sort_keys=True, separators=(",", ":")))
    [finding] = verify([tmp_path / "out"], deep=True, on_frames=lambda count: None).findings
    assert str(finding) == f"{path}: differs from the checksum that it holds; it was changed or damaged."
    with pytest.raises(ShardError, match=r"plan.json: differs from the checksum that it holds"):
        prepared(raw.root, tmp_path / "out")
