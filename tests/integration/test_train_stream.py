"""`vdatrain run` and its stream: mixes, images beside clips, shards that cannot be read."""

import json
import shutil
from pathlib import Path

import pytest

from vdaprep.shards.dataset import open_shards

SMALL = (
    "--encoder", "tiny", "--frames", 3, "--size", 28, "--batch", 2, "--steps", 4, "--warmup", 1, "--ema", 0,
    "--log-every", 1, "--eval-every", 4, "--eval-windows", 1, "--workers", 2, "--track", "none", "--variant", "conv",
)  # fmt: skip


def losses(folder: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if "total" in line]


def refused(result, code: int, *sentence: str) -> None:
    assert result.code == code
    line = result.err.splitlines()[-1]  # warnings may stand before it
    assert line.startswith("vdatrain: ")
    for part in sentence:
        assert part in line


@pytest.fixture
def shards(toy_shards: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(toy_shards, tmp_path / "shards"))


@pytest.mark.slow
def test_images_beside_the_clips_add_their_spatial_loss(vdatrain, shards: Path, tmp_path: Path) -> None:
    for name, options in [("with", ("--images-per-clip", 2)), ("without", ())]:
        result = vdatrain("run", "--shards", shards, "--out", tmp_path / name, *SMALL, *options)
        assert result.code == 0, result.err
    alone, beside = losses(tmp_path / "without"), losses(tmp_path / "with")
    for line in alone:
        assert line["total"] == pytest.approx(line["spatial"] + 10 * line["temporal"], rel=1e-4)
    for line in beside:
        assert line["total"] > (line["spatial"] + 10 * line["temporal"]) * 1.01
    assert beside[0]["spatial"] == alone[0]["spatial"]
    assert beside[-1]["spatial"] != alone[-1]["spatial"]


def test_a_mix_changes_the_length_of_an_epoch(vdatrain, shards: Path, tmp_path: Path) -> None:
    result = vdatrain("run", "--shards", shards, "--out", tmp_path / "run", *SMALL, "--mix", "tartanair=3")
    assert result.code == 0, result.err
    windows = sum(clip.num_frames // 3 for clip in open_shards(shards).clips(split="train"))
    first = json.loads((tmp_path / "run" / "log.jsonl").read_text().splitlines()[0])
    assert first["windows"] == 3 * windows


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--mix", "tartanair"), "--mix tartanair: 'tartanair' is not understood"),
        (("--mix", "kitti=2"), "--mix kitti=2: the shards have tartanair only"),
        (("--mix", "tartanair=0"), "no window is left to train on"),
        (("--skip-bad", -1), "--skip-bad -1: expected 0 or more"),
        (("--stall-timeout", -1), "--stall-timeout -1.0: expected 0 or more"),
        (("--images-per-clip", -1), "--images-per-clip -1: expected 0 or more"),
    ],
)
def test_options_that_cannot_be_are_sentences(vdatrain, shards: Path, tmp_path: Path, options, sentence: str) -> None:
    refused(vdatrain("run", "--shards", shards, "--out", tmp_path / "run", *SMALL, *options), 2, sentence)


@pytest.mark.slow
def test_a_bad_shard_stops_the_run_or_is_passed_by(vdatrain, shards: Path, tmp_path: Path) -> None:
    clip = open_shards(shards).clips(split="train")[0]
    data = bytearray(clip.tar.read_bytes())
    data[sum(clip.entry.frame_range(1, 1)) // 2] ^= 1
    clip.tar.write_bytes(data)
    train = ("run", "--shards", shards, *SMALL, "--steps", 12)
    refused(vdatrain(*train, "--out", tmp_path / "a"), 1, str(clip.tar), clip.entry.key, "differs from its checksum")
    result = vdatrain(*train, "--out", tmp_path / "b", "--skip-bad", 99)
    assert result.code == 0, result.err
    said = [line for line in result.err.splitlines() if "Another window takes its place" in line]
    assert said
    assert "(1 of at most 99)." in said[0]
    assert len(losses(tmp_path / "b")) == 12
    refused(vdatrain(*train, "--out", tmp_path / "c", "--skip-bad", 1), 1, "one more than --skip-bad 1 lets pass")
