"""Tars and records are whole, equal for equal clips, or not there."""

import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from vdaprep.errors import ShardError
from vdaprep.shards import reader, writer
from vdaprep.shards.metadata import ClipMeta, DepthSpec, DiffSpec
from vdaprep.shards.records import ShardRecord
from vdaprep.shards.tar import split_members
from vdaprep.shards.writer import EncodedClip
from vdaprep.storage.output import LocalOutput
from vdaprep.storage.paths import opened


def clip(number: int, *, frames: int = 3) -> EncodedClip:
    meta = ClipMeta(
        dataset="toy",
        split="train",
        trajectory=f"t{number}",
        frame_ids=tuple(range(frames)),
        height=8,
        width=8,
        intrinsics=((1.0, 1.0, 0.0, 0.0),) * frames,
        camera_to_world=None,
        depth=DepthSpec("linear", 0.0, unit_m=0.01),
        disparity_min=0.0,
        disparity_max=0.0,
        diff=DiffSpec(4, 2),
        diff_valid=(False,) * frames,
    )
    members = tuple(
        (("rgb.jpg", bytes([number, i]) * 300), ("depth.zst", b"d" * (i + 1)), ("diff.zst", b"")) for i in range(frames)
    )
    return EncodedClip(f"toy-t{number}-000000", meta, members, clamped_near=number)


def write(path: Path, clips: Iterator[EncodedClip] | list[EncodedClip]) -> ShardRecord:
    return writer.write_shard(LocalOutput(path.parent), path.name, clips, options={"a": 1}, plan="p", rejected=[])


def test_a_shard_is_plain_ustar_and_its_record_says_where_everything_is(tmp_path: Path) -> None:
    tar = tmp_path / "shard-0001.tar"
    record = write(tar, [clip(0), clip(1, frames=2)])
    assert reader.read_record(tar) == record
    reader.check_tar(tar, record)
    assert tar.stat().st_size % 10240 == 0
    with tarfile.open(tar) as archive:
        infos = archive.getmembers()
    assert all((i.mtime, i.uid, i.gid, i.mode, i.uname) == (0, 0, 0, 0o644, "") for i in infos)
    assert [i.name for i in infos[:5]] == [
        "toy-t0-000000.json",
        "toy-t0-000000.f000.rgb.jpg",
        "toy-t0-000000.f000.depth.zst",
        "toy-t0-000000.f000.diff.zst",
        "toy-t0-000000.f001.rgb.jpg",
    ]
    offsets = {i.name: i.offset for i in infos}
    for entry in record.clips:
        assert entry.offset == offsets[f"{entry.key}.json"]
        assert entry.frame_offsets == tuple(offsets[f"{entry.key}.f{n:03d}.rgb.jpg"] for n in range(entry.frames))
    assert record.kinds["rgb.jpg"] == [5, 5 * 600]
    assert record.clamped_near == 1


def test_a_window_is_one_range_that_its_checksums_cover(tmp_path: Path) -> None:
    tar = tmp_path / "shard-0001.tar"
    record = write(tar, [clip(0), clip(1)])
    data = tar.read_bytes()
    for entry in record.clips:
        start, stop = entry.meta_range()
        entry.check_meta(data[start:stop], where="t")
        start, stop = entry.frame_range(1, 2)
        entry.check_frames(data[start:stop], first=1, count=2, where="t")
        names = [member.name for member in split_members(data[start:stop], where="t")]
        assert names == [
            f"{entry.key}.f{n:03d}.{kind}" for n in (1, 2) for kind in ("rgb.jpg", "depth.zst", "diff.zst")
        ]


def test_equal_clips_are_equal_bytes(tmp_path: Path) -> None:
    paths = [tmp_path / name / "shard-0001.tar" for name in "ab"]
    for path in paths:
        write(path, [clip(0), clip(1)])
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert reader.read_record(paths[0]) == reader.read_record(paths[1])


def test_an_error_while_encoding_leaves_nothing(tmp_path: Path) -> None:
    def breaks() -> Iterator[EncodedClip]:
        yield clip(0)
        raise RuntimeError("out of luck")

    with pytest.raises(RuntimeError, match="out of luck"):
        write(tmp_path / "shard-0001.tar", breaks())
    assert list(tmp_path.iterdir()) == []


def test_leftovers_of_dead_runs_go_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "shard-0001.tar.0123abcd.vdaprep-tmp").write_bytes(b"half")
    mine = {"notes.tmp", "a.vdaprep-tmp", "shard-0001.tar.0123abcd.vdaprep-tmp.bak"}
    for name in mine:
        (tmp_path / "train" / name).write_bytes(b"mine")
    with LocalOutput(tmp_path).lock():
        pass
    assert {path.name for path in (tmp_path / "train").iterdir()} == mine


def test_damage_is_named(tmp_path: Path) -> None:
    tar = tmp_path / "shard-0001.tar"
    record = write(tar, [clip(0)])
    whole = tar.read_bytes()
    tar.write_bytes(whole[:-512])
    with pytest.raises(ShardError, match=r"shard-0001.tar: has \d+ bytes, its record says 20480; the shard is cut"):
        reader.check_tar(tar, record)
    tar.write_bytes(whole.replace(b"ddd", b"dcd"))
    with pytest.raises(ShardError, match=r"its SHA-256 is not the one in its record; the shard is damaged"):
        reader.check_tar(tar, record)
    tar.unlink()
    with pytest.raises(ShardError, match="is missing, though its record is there"):
        reader.check_tar(tar, record)
    (tmp_path / "shard-0001.json").unlink()
    with pytest.raises(ShardError, match=r"has no record shard-0001.json beside it, so it was never finished"):
        reader.read_record(tar)


def test_one_pass_sums_up_all_and_does_not_go_back(tmp_path: Path) -> None:
    tar = tmp_path / "shard-0001.tar"
    record = write(tar, [clip(0), clip(1)])
    data = tar.read_bytes()
    second = record.clips[1]
    with opened(tar) as file:
        reading = reader.TarPass(tar, file)
        assert reading.read(*second.meta_range()) == data[slice(*second.meta_range())]
        reading.go_to(0)
        with pytest.raises(ShardError, match=r"shard-0001.tar: two clips of the record share byte 0\."):
            reading.read(0, 512)
        assert reading.read(len(data) - 5, len(data) + 5) == bytes(5)
        assert reading.sha256() == record.tar_sha256
        reader.check_sum(reading, record)
