"""What is read of shards: windows in physical units, whole clips, collections by folder, split, shard or list."""

import dataclasses
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import make_shards, toy_frame
from tests.strangers import packed
from vdaprep.conversion.options import Settings
from vdaprep.errors import DataError, ShardError, UsageError
from vdaprep.shards import reader
from vdaprep.shards.dataset import open_shards
from vdaprep.shards.reader import Clip, Frames

LENGTH = 13  # frames of the toy data's first clip


@pytest.fixture(scope="module")
def clip(toy_shards: Path) -> Clip:
    return open_shards(toy_shards).clips(split="train")[0]


@pytest.fixture(scope="module")
def whole(clip: Clip) -> Frames:
    return clip.read()


# ------------------------------------------------------------------------------------------------------------- windows


def test_frames_are_the_sources_in_physical_units(whole: Frames) -> None:
    sources = [toy_frame(0, number) for number in range(LENGTH)]
    depth_m = np.stack([frame.depth_m for frame in sources])
    known = np.isfinite(depth_m)
    assert np.abs(whole.depth_m[known] / depth_m[known] - 1).max() <= 0.0005
    assert np.array_equal(np.isnan(whole.depth_m), np.isnan(depth_m))
    assert np.array_equal(np.isinf(whole.depth_m), np.isinf(depth_m))
    rgb = np.stack([frame.rgb.pixels for frame in sources])
    assert np.abs(whole.rgb.astype(int) - rgb).mean() < 4
    small = rgb.astype(np.float32).reshape(LENGTH, 12, 4, 16, 4, 3).mean(axis=(2, 4)).transpose(0, 3, 1, 2)
    assert whole.differences is not None
    assert np.abs(whole.differences[1:] - np.diff(small, axis=0)).max() <= 1.01  # stored in steps of 2 grey levels
    assert whole.diff_valid.tolist() == [False] + [True] * (LENGTH - 1)
    assert whole.camera_to_world is not None
    assert np.allclose(whole.camera_to_world, [frame.camera_to_world for frame in sources])
    assert np.allclose(whole.intrinsics, [frame.intrinsics for frame in sources])
    assert whole.frame_ids.tolist() == list(range(LENGTH))
    assert len(whole) == LENGTH


@given(first=st.integers(0, LENGTH - 1), stride=st.integers(1, LENGTH), data=st.data())
def test_a_window_is_a_slice_of_the_clip(
    clip: Clip, whole: Frames, first: int, stride: int, data: st.DataObject
) -> None:
    most = len(range(first, LENGTH, stride))
    count = data.draw(st.none() | st.integers(1, most))
    found = clip.read(first, count, stride=stride)
    rows = slice(first, None if count is None else first + (count - 1) * stride + 1, stride)
    for name in ("rgb", "depth_m", "intrinsics", "camera_to_world", "frame_ids"):
        assert np.array_equal(getattr(found, name), getattr(whole, name)[rows], equal_nan=name == "depth_m")
    assert found.differences is not None
    assert whole.differences is not None
    for row, last in enumerate(range(LENGTH)[rows]):
        span = slice(last - stride + 1, last + 1)
        valid = span.start >= first and bool(whole.diff_valid[span].all())
        assert found.diff_valid[row] == valid
        expected = whole.differences[span].sum(axis=0) if valid else np.zeros_like(found.differences[row])
        assert np.array_equal(found.differences[row], expected)


@pytest.mark.parametrize(
    ("first", "count", "stride"), [(-1, 1, 1), (0, 0, 1), (0, LENGTH + 1, 1), (LENGTH, None, 1), (9, 3, 2), (0, 1, 0)]
)
def test_frames_that_a_clip_does_not_have_are_refused(clip: Clip, first: int, count: int | None, stride: int) -> None:
    with pytest.raises(UsageError, match=r"has frames 0 to 12; first=.* asks for others\.$"):
        clip.read(first, count, stride=stride)


@pytest.mark.parametrize(("piece", "reads"), [(8 << 20, 1), (1, LENGTH)])
def test_a_whole_clip_is_read_in_pieces(
    clip: Clip, whole: Frames, monkeypatch: pytest.MonkeyPatch, piece: int, reads: int
) -> None:
    monkeypatch.setattr(reader, "PIECE_BYTES", piece)
    ranges: list[tuple[int, int]] = []
    read_range = Clip.read_range
    monkeypatch.setattr(Clip, "read_range", lambda self, a, b: ranges.append((a, b)) or read_range(self, a, b))
    frames = list(clip.frames())
    assert len(ranges) == reads
    assert [frame.index for frame in frames] == list(range(LENGTH))
    assert np.array_equal(np.stack([frame.depth_m() for frame in frames]), whole.depth_m, equal_nan=True)
    assert [frame.index for frame in clip.frames(4, 3)] == [4, 5, 6]


def test_without_differences_there_are_none(raw, tmp_path: Path) -> None:
    make_shards("tartanair", raw=raw.root, out=tmp_path, settings=Settings(diffs="none"))
    frames = open_shards(tmp_path).clips()[0].read(count=2)
    assert frames.differences is None
    assert not frames.diff_valid.any()


# --------------------------------------------------------------------------------------------------------- collections


def test_a_collection_says_what_it_has(toy_shards: Path) -> None:
    shards = open_shards(toy_shards)
    assert (shards.datasets, shards.splits) == (("tartanair",), ("train", "val"))
    assert [clip.meta.trajectory[-4:] for clip in shards.clips()] == ["P000", "P001", "P011"]
    assert [clip.num_frames for clip in shards.clips(split="val")] == [7]
    assert shards.clips(dataset="tartanair") == shards.clips()
    assert "tartanair" in repr(shards)
    with pytest.raises(DataError, match=r"no data set here has clips in split 'test', found train, val\.$"):
        shards.clips(split="test")
    with pytest.raises(DataError, match=r"has clips of data set 'vkitti', found tartanair\.$"):
        shards.clips(dataset="vkitti")


def test_a_folder_a_split_a_shard_and_a_list_are_shards(toy_shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    every = open_shards(toy_shards)
    folder = toy_shards / "tartanair"
    train, val = (every.clips(split=split) for split in ("train", "val"))
    assert open_shards(folder).clips() == every.clips()
    assert open_shards(str(folder)).fingerprint == every.fingerprint
    assert open_shards(folder / "val").clips() == val
    assert open_shards(folder / "train" / "shard-0001.tar").clips() == train
    assert open_shards([folder / "val", folder / "train"]).clips(split="train") == train
    monkeypatch.chdir(folder / "val")
    assert open_shards("shard-0001.tar").clips() == val
    assert [clip.key for clip in open_shards(".").clips()] == [clip.key for clip in val]


def test_a_shard_needs_no_more_than_its_record(toy_shards: Path, tmp_path: Path) -> None:
    for name in ("shard-0001.tar", "shard-0001.json"):
        shutil.copy(toy_shards / "tartanair" / "val" / name, tmp_path / name)
    shards = open_shards(tmp_path / "shard-0001.tar")
    assert shards.datasets == ("tartanair",)
    [clip] = shards.clips()
    assert clip.read(count=1).rgb.shape == (1, 48, 64, 3)
    (tmp_path / "shard-0001.json").unlink()
    with pytest.raises(ShardError, match=r"has no record shard-0001\.json beside it"):
        open_shards(tmp_path / "shard-0001.tar")
    with pytest.raises(ShardError, match="there is no such shard"):
        open_shards(tmp_path / "shard-0002.tar")


@pytest.mark.parametrize("rgb", ["h264", "av1"])
def test_a_damaged_group_is_named_and_a_window_beside_it_reads(rgb: str, tmp_path: Path) -> None:
    """Of three frames the first two are a group; its checksum agrees with what is damaged in it."""
    stranger = packed(rgb, "interpolation")
    good = stranger.members["f000.rgb.mp4"]
    at = good.index(b"mdat") + 4
    stranger.members["f000.rgb.mp4"] = good[:at] + bytes(len(good) - at - 800) + good[-800:]
    clip = open_shards(stranger.write(tmp_path / "toy")).clips()[0]
    for first, count in ((0, 3), (0, 1), (1, 2)):
        with pytest.raises(ShardError, match=rf"clip {clip.key}, frames 0 to 1: .*vdaprep repair"):
            clip.read(first, count)
    assert abs(clip.read(2, 1).rgb.mean() - 80) < 2


def test_a_pipe_in_the_place_of_a_shard_is_refused_without_waiting(clip: Clip, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "shard-0001.tar")
    piped = dataclasses.replace(clip, tar=tmp_path / "shard-0001.tar")
    with pytest.raises(
        ShardError, match=rf"shard-0001.tar: cannot be read for clip {clip.key} \(is not a regular file"
    ):
        piped.read(0, 1)
