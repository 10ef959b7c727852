"""Statistics against what the frames were made of."""

import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.conftest import toy_frame
from vdaprep.analysis import stats
from vdaprep.analysis.plots import write_picture
from vdaprep.analysis.stats import DatasetStats, Spread, gather, motion
from vdaprep.errors import MissingExtraError, ShardError
from vdaprep.shards.dataset import find_shards

LENGTHS = (13, 6, 7)  # of the toy data


def look(path: Path, *, read_all: bool = True) -> tuple[DatasetStats, int]:
    seen: list[int] = []
    [found] = gather(find_shards(path), read_all=read_all, on_frame=lambda: seen.append(1))
    return found, len(seen)


def test_depth_motion_and_sizes_are_those_of_the_frames(toy_shards: Path) -> None:
    found, seen = look(toy_shards)
    frames = [[toy_frame(i, n) for n in range(count)] for i, count in enumerate(LENGTHS)]
    depth_m = np.stack([frame.depth_m for items in frames for frame in items])
    known = depth_m[np.isfinite(depth_m)]
    assert seen == found.frames_read == found.frames == sum(LENGTHS)
    for percentile, metres in found.percentiles_m().items():
        assert metres == pytest.approx(np.percentile(known, percentile), rel=0.01)
    assert found.unknown / found.pixels == pytest.approx(np.isnan(depth_m).mean())
    assert found.sky / found.pixels == pytest.approx(np.isinf(depth_m).mean())
    spreads = found.spreads()
    assert spreads["rotations_deg"] is not None
    assert spreads["rotations_deg"].median == pytest.approx(np.degrees(0.02))
    assert spreads["translations_m"] is not None
    assert spreads["translations_m"].maximum == pytest.approx(np.hypot(0.1, 0.2))
    assert len(found.translations_m) == sum(LENGTHS) - len(LENGTHS)
    assert sorted(found.near_m) == pytest.approx([1.5, 1.5, 1.5], rel=1e-3)
    assert found.sizes == {"64x48": 3}
    assert sorted(found.clip_lengths) == sorted(LENGTHS)
    assert sum(found.bytes_by_kind.values()) == found.bytes == sum(t.stat().st_size for t in find_shards(toy_shards))


def test_differences_are_in_grey_levels(toy_shards: Path) -> None:
    found, _ = look(toy_shards)
    expected = [
        np.abs(_quarter(toy_frame(i, n)) - _quarter(toy_frame(i, n - 1))).mean()
        for i, count in enumerate(LENGTHS) for n in range(1, count)
    ]  # fmt: skip
    assert sorted(found.differences) == pytest.approx(sorted(expected), abs=0.6)  # they are stored in steps of 2


def _quarter(frame) -> np.ndarray:
    return frame.rgb.pixels.astype(np.float32).reshape(12, 4, 16, 4, 3).mean(axis=(1, 3))


def test_a_sample_is_even_and_says_how_large_it_is(toy_shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, _ = look(toy_shards)
    monkeypatch.setattr(stats, "CAP", 9)
    found, seen = look(toy_shards, read_all=False)
    assert seen == found.frames_read == 9
    assert (found.frames, found.bytes, found.clip_lengths) == (whole.frames, whole.bytes, whole.clip_lengths)
    assert len(found.near_m) == 3  # frames of every clip
    assert found.percentiles_m()[50] == pytest.approx(whole.percentiles_m()[50], rel=0.05)
    assert look(toy_shards)[1] == sum(LENGTHS)


def test_motion_of_known_steps() -> None:
    poses = np.tile(np.eye(4), (3, 1, 1))
    small = 1e-6
    poses[1, :2, :2] = [[np.cos(small), -np.sin(small)], [np.sin(small), np.cos(small)]]
    poses[2, :3, :3] = np.diag([-1, -1, 1]) @ poses[1, :3, :3]
    poses[1:, :3, 3] = [[3, 4, 0], [3, 4, 2]]
    translations_m, rotations_deg = motion(poses)
    assert translations_m == pytest.approx([5, 2])
    assert rotations_deg == pytest.approx([np.degrees(small), 180], rel=1e-6)
    assert all(part.size == 0 for part in motion(poses[:1]))


def test_spreads_of_nothing_and_of_much() -> None:
    assert Spread.of([]) is None
    assert Spread.of([float(i) for i in range(101)]) == Spread(5.0, 50.0, 95.0, 100.0, 50.0)


def test_a_damaged_shard_is_a_sentence(toy_shards: Path, tmp_path: Path) -> None:
    tar = find_shards(toy_shards)[0]
    copy = tmp_path / tar.name
    data = bytearray(tar.read_bytes())
    data[:100] = bytes(100)
    copy.write_bytes(data)
    copy.with_suffix(".json").write_bytes(tar.with_suffix(".json").read_bytes())
    with pytest.raises(ShardError, match=r"metadata of clip .* differs from its checksum"):
        look(tmp_path)


@pytest.mark.slow
def test_the_command_prints_draws_and_gives_json(toy_shards: Path, tmp_path: Path, vdaprep) -> None:
    plot = tmp_path / "new" / "plot.png"
    shown = vdaprep("stats", toy_shards, "--plot", plot)
    assert shown.code == 0
    for text in ("tartanair", "depth, median, m", "camera, degrees a frame", "26 of 26 frames", "64x48"):
        assert text in shown.out
    image = cv2.imread(str(plot))
    assert image is not None
    assert image.shape[1] > 1000
    assert [path.name for path in plot.parent.iterdir()] == ["plot.png"]
    [found] = json.loads(vdaprep("stats", toy_shards, "--json").out)
    assert found["dataset"] == "tartanair"
    assert (found["clips"], found["frames"], found["frames_read"]) == (3, 26, 26)
    assert found["depth_percentiles_m"]["50"] > 0
    assert found["differences"]["p5"] <= found["differences"]["median"] <= found["differences"]["maximum"]
    refused = vdaprep("stats", toy_shards, "--plot", "plot.pdf")
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert vdaprep("stats", tmp_path / "nothing").code == 1


def _drawn(path: Path, *found: DatasetStats) -> np.ndarray:
    write_picture(found, path)
    return cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)


@pytest.mark.slow
def test_the_picture_shows_a_data_set_each_and_bears_having_nothing_to_show(tmp_path: Path) -> None:
    bare = DatasetStats("bare", shards=1, frames=4, bytes=4000, clip_lengths=[4], pixels=10, unknown=10)
    bare.bytes_by_kind.update({"rgb.jpg": 4000})
    lively = DatasetStats("lively", shards=1, frames=4, bytes=4000, clip_lengths=[4], pixels=10)
    lively.depth_counts[2000:2100] = 5
    lively.differences = lively.translations_m = lively.rotations_deg = [1.0, 2.0, 2.5]
    alone, both = _drawn(tmp_path / "a.png", bare), _drawn(tmp_path / "b.png", bare, lively)
    assert alone.shape == both.shape
    amber = [np.abs(picture.astype(int) - (230, 159, 0)).sum(axis=2) < 30 for picture in (alone, both)]
    assert not amber[0].any()
    assert amber[1].any()  # the second data set's colour
    assert "matplotlib.pyplot" not in sys.modules


def test_without_matplotlib_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match=r"charts need matplotlib, .* pip install 'vdakit\[plot\]'"):
        write_picture([], tmp_path / "a.png")
