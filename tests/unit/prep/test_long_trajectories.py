"""A trajectory of many shards: a task takes the files of its own frames along, and poses are read once a process."""

import pickle
from pathlib import Path

import pytest

from tests.conftest import make_shards, tree_bytes, write_raw
from vdaprep.conversion.options import Selection, Settings
from vdaprep.conversion.plan import make_plan
from vdaprep.raw import frames
from vdaprep.raw.frames import SomeFrames, spread
from vdaprep.sources.training import tartanair

NAME = "abandonedfactory/Easy/P000"
SMALL = Settings(clip_frames=5, frames_per_shard=10, frame_stride=2)


@pytest.fixture
def raw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(frames, "_CARRIED_WHOLE", 10)
    return write_raw(tmp_path / "raw", lengths={NAME: 60}).root


def test_a_task_takes_the_files_of_its_own_frames_along(raw: Path) -> None:
    plan = make_plan("tartanair", raw=raw, settings=SMALL, selection=Selection())
    for shard in plan.shards:
        sent = pickle.loads(pickle.dumps(shard))
        assert sent.fingerprint() == shard.fingerprint()
        for clip, here in zip(sent.clips, shard.clips, strict=True):
            there = clip.trajectory.frames
            assert isinstance(there, SomeFrames)
            assert (len(there), clip.before, [*clip.indices]) == (60, here.before, [*here.indices])
            needed = {*here.indices, *range(8), *spread(60)} | ({here.before} if here.before is not None else set())
            assert {files.frame_id for files in there} == needed
            assert [there[i] for i in sorted(needed)] == [here.trajectory.frames[i] for i in sorted(needed)]
            with pytest.raises(LookupError):
                there[next(i for i in range(60) if i not in needed)]
            assert clip.trajectory.listing == here.trajectory.listing


def test_a_short_trajectory_goes_whole(tmp_path: Path) -> None:
    raw = write_raw(tmp_path / "raw", lengths={NAME: 12}).root
    [shard] = make_plan("tartanair", raw=raw, settings=SMALL, selection=Selection()).shards
    sent = pickle.loads(pickle.dumps(shard))
    assert sent.clips[0].trajectory.frames == shard.clips[0].trajectory.frames


def test_poses_are_read_once_and_shards_are_the_same(raw: Path, tmp_path: Path, monkeypatch) -> None:
    """In a run: the next one lists the raw data again, and reads its poses again, which may be others by then."""
    read: list[str] = []
    poses = tartanair._read_poses
    monkeypatch.setattr(tartanair, "_read_poses", lambda *given: (read.append(given[0].name), poses(*given))[1])
    make_shards("tartanair", raw=raw, out=tmp_path / "one", settings=SMALL)
    assert read == [NAME]
    make_shards("tartanair", raw=raw, out=tmp_path / "two", settings=SMALL, workers=2)
    assert tree_bytes(tmp_path / "one") == tree_bytes(tmp_path / "two")
    table = raw / NAME / "pose_left.txt"
    table.write_text("\n".join(reversed(table.read_text(encoding="utf-8").splitlines())) + "\n", encoding="utf-8")
    make_shards("tartanair", raw=raw, out=tmp_path / "other", settings=SMALL)
    assert read == [NAME, NAME]
    assert tree_bytes(tmp_path / "one") != tree_bytes(tmp_path / "other")
