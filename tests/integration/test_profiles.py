"""Storage profiles: what they promise, from the raw data and from other shards."""

import dataclasses
import json
import shutil
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest

from tests.conftest import tree_bytes
from vdaprep.conversion.api import convert_dataset
from vdaprep.conversion.options import ConversionOptions, RunOptions
from vdaprep.errors import ShardError
from vdaprep.shards import codec
from vdaprep.shards.dataset import open_shards
from vdaprep.shards.reader import Frames
from vdaprep.shards.records import DatasetRecord
from vdaprep.synthetic.sample import SampleSpec, write_sample
from vdatrain.inference.video_reader import read_trajectory

PROFILES = ("v1", "standard", "small", "tiny")
OPTIONS = ("--clip-frames", 11, "--frames-per-shard", 22)  # clips of 10 frames, groups of 8 and of 2


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("raw")
    write_sample("tartanair", out=folder, spec=SampleSpec(2, 30, 180, 135), archives=False, on_frame=lambda: None)
    return folder


@pytest.fixture(scope="module")
def converted(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One conversion a profile."""
    outs = {name: tmp_path_factory.mktemp(name) for name in PROFILES}
    for name, out in outs.items():
        options = ConversionOptions(raw=str(raw), profile=name, clip_frames=11, frames_per_shard=22)
        convert_dataset("tartanair", out=str(out), options=options, run=RunOptions(workers=2, check=False))
    return outs


def frames_of(out: Path) -> list[Frames]:
    return [clip.read() for clip in open_shards(out).clips()]


def weight(out: Path) -> int:
    return sum(len(data) for name, data in tree_bytes(out).items() if name.endswith(".tar"))


@pytest.mark.slow
def test_each_profile_is_whole_smaller_and_within_its_promise(converted, vdaprep) -> None:
    weights = [weight(converted[name]) for name in PROFILES]
    assert weights == sorted(weights, reverse=True)
    truth = frames_of(converted["v1"])
    for name in PROFILES:
        assert vdaprep("verify", converted[name], "--deep", "--geometry").code == 0
        for found, exact in zip(frames_of(converted[name]), truth, strict=True):
            assert np.array_equal(np.isnan(found.depth_m), np.isnan(exact.depth_m))
            assert np.array_equal(np.isinf(found.depth_m), np.isinf(exact.depth_m))
            known = np.isfinite(exact.depth_m)
            bound = 0.0005 if name in ("v1", "standard") else 0.0022 + 0.0005  # of two codes of the same depth
            assert np.abs(found.depth_m[known] / exact.depth_m[known] - 1).max() <= bound
            error = found.rgb.astype(np.float64) - exact.rgb
            assert 10 * np.log10(255**2 / max(1e-9, np.square(error).mean())) > 30
            assert found.differences is not None
            assert np.abs(found.differences - exact.differences)[1:].mean() < 3
            assert found.diff_valid[1:].all()
            np.testing.assert_array_equal(found.camera_to_world, exact.camera_to_world)


@pytest.mark.slow
@pytest.mark.parametrize("name", PROFILES)
def test_windows_are_cut_from_groups(name: str, converted) -> None:
    """A window that begins and ends within groups has the frames of the whole clip."""
    for clip in open_shards(converted[name]).clips()[:2]:
        whole = clip.read()
        for first, count, stride in ((0, 3, 1), (5, 5, 1), (7, 1, 1), (8, 2, 1), (1, 3, 3)):
            found = clip.read(first, count, stride=stride)
            rows = slice(first, first + (count - 1) * stride + 1, stride)
            np.testing.assert_array_equal(found.rgb, whole.rgb[rows])
            np.testing.assert_array_equal(found.depth_m, whole.depth_m[rows])
            if stride == 1:
                np.testing.assert_array_equal(found.differences[1:], whole.differences[rows][1:])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["standard", "small", "tiny"])
def test_workers_change_no_byte(name: str, converted, raw: Path, vdaprep, tmp_path: Path) -> None:
    options = ("--profile", name, *OPTIONS, "--workers", 1, "--no-check")
    assert vdaprep("convert", "tartanair", "--raw", raw, "--out", tmp_path, *options).code == 0
    assert tree_bytes(tmp_path) == tree_bytes(converted[name])
    assert vdaprep("convert", "tartanair", "--raw", raw, "--out", tmp_path, *options).code == 0  # goes on from there
    shard = next((tmp_path / "tartanair" / "train").glob("*.tar"))
    data = shard.read_bytes()
    shard.write_bytes(data[:5000] + b"damaged" + data[5007:])
    assert vdaprep("verify", tmp_path).code == 1
    assert vdaprep("repair", "tartanair", "--raw", raw, "--out", tmp_path).code == 0
    assert tree_bytes(tmp_path) == tree_bytes(converted[name])


@pytest.mark.slow
def test_another_encoder_is_told_when_a_shard_is_made_again(converted, raw: Path, vdaprep, tmp_path: Path) -> None:
    """As if another release of PyAV had made the shards: their bytes cannot be had again, their frames can."""
    out = tmp_path / "tartanair"
    shutil.copytree(converted["tiny"] / "tartanair", out)
    record = DatasetRecord.from_bytes((out / "dataset.json").read_bytes(), where="")
    first = dataclasses.replace(record.shards[0], sha256="ab" * 32)
    totals = {**record.totals, "encoders": {"h264": ["libx264 of PyAV 1.0"]}}
    old = dataclasses.replace(record, shards=(first, *record.shards[1:]), totals=totals)
    (out / "dataset.json").write_bytes(old.to_bytes())
    tar = out / first.split / first.name
    tar.write_bytes(tar.read_bytes()[:-20000])
    result = vdaprep("repair", "tartanair", "--raw", raw, "--out", tmp_path)
    assert result.code == 0, result.err
    assert f"{first.split}/{first.name}: not the same bytes as before, since the encoder is another" in result.err
    assert (out / "dataset.json").read_bytes() == record.to_bytes()
    assert vdaprep("verify", tmp_path, "--deep").code == 0


@pytest.mark.slow
def test_stats_tell_the_profile_and_what_others_would_take(converted, vdaprep) -> None:
    for name in PROFILES:
        [found] = json.loads(vdaprep("stats", converted[name], "--json").out)
        assert found["profile"] == name
        assert sum(found["kib_per_frame"].values()) == pytest.approx(found["bytes"] / found["frames"] / 1024)
        assert found["kib_per_frame"]["RGB"] > 1
        sizes = found["expected_bytes"]
        assert set(sizes) == (set() if name == "v1" else {"standard", "small", "tiny"} - {name})
        assert [*sizes] == sorted(sizes, key=lambda one: sizes[one], reverse=True)
    shown = vdaprep("stats", converted["standard"]).out
    assert "tartanair: expected of its frames in other profiles, an estimate: " in shown
    assert shown.count("KiB a frame: RGB") == 1


def test_a_preview_shows_differences_that_are_taken_from_decoded_frames(converted, vdaprep, tmp_path: Path) -> None:
    sheets: list[np.ndarray] = []
    for name in ("standard", "tiny"):
        shard = next((converted[name] / "tartanair" / "train").glob("*.tar"))
        assert vdaprep("inspect", shard, "--preview", tmp_path / f"{name}.png").code == 0
        sheets.append(iio.imread(tmp_path / f"{name}.png").astype(np.float64))
    stored, decoded = (sheet[-250:-50, 84 + 266 :] for sheet in sheets)  # the row of differences, but the first frame's
    assert sheets[0].shape == sheets[1].shape
    assert np.abs(stored - decoded).mean() < 5 < stored.std()


def test_a_group_of_video_is_decoded_once_for_a_trajectory(converted, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = open_shards(converted["tiny"]).clips()[0]
    groups: list[int] = []
    decode = codec.decode_planes
    monkeypatch.setattr(codec, "decode_planes", lambda *args, **options: groups.append(1) or decode(*args, **options))
    found = list(read_trajectory([clip]))
    assert (clip.num_frames, len(groups)) == (10, 2)
    monkeypatch.undo()
    whole = clip.read()
    assert [number for number, _, _ in found] == list(range(1, 1 + clip.num_frames))  # a gap is before the first
    for frame, (_, sample, row) in enumerate(found):
        np.testing.assert_array_equal(sample.rgb[row].numpy(), whole.rgb[frame])
        np.testing.assert_array_equal(sample.intrinsics[row], whole.intrinsics[frame])


def test_a_damaged_group_is_named_and_its_neighbours_read(converted, tmp_path: Path) -> None:
    out = tmp_path / "tartanair"
    for name, data in tree_bytes(converted["tiny"] / "tartanair").items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_bytes(data)
    clip = open_shards(out).clips()[0]
    start = clip.entry.frame_offsets[0]
    data = bytearray(Path(str(clip.tar)).read_bytes())
    data[start + 700] ^= 0xFF
    Path(str(clip.tar)).write_bytes(data)
    with pytest.raises(ShardError, match=f"frame 0 of clip {clip.key} differs from its checksum"):
        clip.read(3, 4)
    assert len(clip.read(8, 2)) == 2


RECODED = [  # from, to, further options, what is said
    ("v1", "standard", (), "nothing is lost"),
    ("v1", "small", (), "frames are jpeg:85 of jpeg:95; depth is within 0.22%"),
    ("standard", "tiny", (), "of the source; stored differences are left out, and taken from decoded frames."),
    ("standard", "standard", ("--diffs", "none"), "tartanair: stored differences are left out."),
    ("small", "tiny", (), "frames are h264:16 of jpeg:85."),
    (
        "standard",
        "tiny",
        ("--rgb", "jpeg:70", "--depth-error", 0.005),
        "within 0.50% of the shards', which is within 0.05%",
    ),
    ("tiny", "tiny", ("--rgb", "h264:24", "--diffs", "none"), "h264:16; differences of decoded frames are left out."),
]


@pytest.mark.slow
@pytest.mark.parametrize(("source", "profile", "options", "said"), RECODED)
def test_recoding(source: str, profile: str, options, said: str, converted, vdaprep, tmp_path: Path) -> None:
    result = vdaprep("recode", converted[source], "--out", tmp_path, "--profile", profile, *options, "--workers", 1)
    assert result.code == 0, result.err
    assert said in result.err
    assert "KiB a frame" in result.out
    assert weight(tmp_path) < weight(converted[source])
    assert vdaprep("verify", tmp_path, "--deep").code == 0
    for found, before in zip(frames_of(tmp_path), frames_of(converted[source]), strict=True):
        known = np.isfinite(before.depth_m)
        bound = 0 if profile == "standard" else 0.0051
        assert np.abs(found.depth_m[known] / before.depth_m[known] - 1).max() <= bound
        np.testing.assert_array_equal(found.frame_ids, before.frame_ids)
        if profile == "standard":
            np.testing.assert_array_equal(found.rgb, before.rgb)
            expected = None if "none" in options else before.differences
            np.testing.assert_array_equal(found.differences, expected)
    record = json.loads((tmp_path / "tartanair" / "dataset.json").read_bytes())
    assert record["options"]["recoded_from"]["depth"]["kind"] == "log"


def test_what_was_left_out_and_clamped_is_still_said(vdaprep, tmp_path: Path) -> None:
    """Depth of the raw frames: a corner too near for the code, one too far; one image cut short."""
    raw = tmp_path / "raw"
    write_sample("custom", out=raw, spec=SampleSpec(1, 6, 64, 48), archives=False, on_frame=lambda: None)
    for path in raw.rglob("depth/*.npy"):
        depth_m = np.load(path)
        depth_m[:2, :3], depth_m[:2, 3:5] = 0.01, 5000.0
        np.save(path, depth_m)
    image = next(raw.rglob("rgb/000003.*"))
    image.write_bytes(image.read_bytes()[:50])
    assert vdaprep("convert", "custom", "--raw", raw, "--out", tmp_path / "a", "--workers", 1).code == 0
    assert vdaprep("recode", tmp_path / "a", "--out", tmp_path / "b", "--workers", 1).code == 0
    before, after = (
        DatasetRecord.from_bytes((tmp_path / name / "custom" / "dataset.json").read_bytes(), where="") for name in "ab"
    )
    for name, pixels in (("clamped_near", 30), ("clamped_far", 20)):
        assert before.totals[name] == after.totals[name] == pixels
    assert before.rejected == after.rejected
    assert len(after.rejected) == 1
    assert vdaprep("verify", tmp_path / "b", "--deep").code == 0


UPWARD = [
    ("small", ("--profile", "standard"), "--rgb jpeg:95: the frames are jpeg:85; recoding cannot make them better"),
    ("tiny", ("--profile", "small"), "--rgb jpeg:85: the frames are h264:16; take h264 with 16 or more"),
    ("tiny", ("--profile", "tiny"), "dataset.json: these shards are stored so already"),
    ("small", ("--profile", "small", "--depth-error", 0.001), "depth is within 0.0022; it cannot get better"),
    ("small", ("--profile", "tiny", "--diffs", "stored"), "--diffs stored: these shards have decoded"),
    ("standard", ("--profile", "standard", "--depth-error", 0.01), "--profile standard: stores depth as it is"),
]


@pytest.mark.parametrize(("source", "options", "sentence"), UPWARD)
def test_nothing_is_made_better_than_it_is(source, options, sentence, converted, vdaprep, tmp_path: Path) -> None:
    result = vdaprep("recode", converted[source], "--out", tmp_path, *options)
    assert (result.code, sentence in result.err) == (2, True), result.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_recoding_into_itself_or_beside_other_shards_is_refused(converted, vdaprep, tmp_path: Path) -> None:
    assert vdaprep("recode", converted["standard"], "--out", converted["standard"]).code == 2
    assert vdaprep("recode", converted["standard"], "--out", tmp_path, "--profile", "small").code == 0
    made = tree_bytes(tmp_path)
    (tmp_path / "tartanair" / "dataset.json").unlink()
    assert vdaprep("recode", converted["standard"], "--out", tmp_path, "--profile", "small").code == 0  # goes on
    assert tree_bytes(tmp_path) == made
    shards = sorted(tmp_path.rglob("*.tar"))
    data = shards[0].read_bytes()
    shards[0].write_bytes(data[:5000] + b"damaged" + data[5007:])
    shards[1].with_suffix(".json").unlink()  # as of a run that was killed between a tar and its record
    shards[1].write_bytes(b"cut")
    found = vdaprep("verify", tmp_path, "--deep")
    assert (found.code, "repair" in found.out + found.err) == (1, False)
    assert "vdaprep recode makes it again" in found.out + found.err
    assert vdaprep("recode", converted["standard"], "--out", tmp_path, "--profile", "small").code == 0
    assert tree_bytes(tmp_path) == made
    result = vdaprep("recode", converted["standard"], "--out", tmp_path, "--profile", "tiny")
    assert result.code == 2
    assert "was made from other shards or with other options" in result.err
    assert "run that again" in vdaprep("repair", "tartanair", "--out", tmp_path).err
