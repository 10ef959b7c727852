"""`vdaprep plan` through its command line: what it says, what `--budget` chooses, and conversions that keep to it."""

import json
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import HEIGHT, WIDTH, decode_shards, toy_frame, write_raw
from vdaprep.conversion import predict
from vdaprep.shards.codec import video_groups
from vdaprep.shards.metadata import ClipMeta
from vdaprep.synthetic import layouts
from vdaprep.synthetic.sample import SampleSpec, unpack, write_sample

EASY = "abandonedfactory/Easy"


def weight(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def long_raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five trajectories, the last held out, long enough for a stride."""
    folder = tmp_path_factory.mktemp("long raw")  # a space, for shells to stumble over
    names = [f"{EASY}/P{i:03d}" for i in (0, 1, 2, 3, 11)]
    return write_raw(folder / "raw", lengths=dict.fromkeys(names, 66)).root


@pytest.mark.slow
def test_a_plan_is_shown_and_its_command_line_converts(raw, vdaprep, tmp_path: Path) -> None:
    out = tmp_path / "shards"
    options = ("--raw", raw.root, "--out", out, "--val", "*/P001", "--clip-frames", 5, "--workers", 2)
    shown = vdaprep("plan", "tartanair", *options)
    assert (shown.code, shown.err) == (0, "")
    assert not out.exists()
    said = ("train", "18", "val", "6", "rgb.jpg", "depth.zst", "diff.zst", "json", "tar headers", "frames of 24, each")
    for text in said:
        assert text in shown.out
    for text in ("standard error", "at the peak", "it fits", "with 2 workers", "standard (chosen)", "small", "tiny"):
        assert text in shown.out
    line = shown.out.strip().splitlines()[-1]
    assert line == (
        f"vdaprep convert tartanair --out {out} --raw {raw.root} --val '*/P001' --clip-frames 5 --workers 2"
    )
    assert vdaprep(*shlex.split(line)[1:]).code == 0
    listed = json.loads(vdaprep("plan", "tartanair", *options, "--json").out)
    assert listed["command"] == shlex.split(line)
    assert listed["disk"]["there"] == weight(out / "tartanair")
    profiles = listed["profiles"]
    assert [name for name, found in profiles.items() if found["chosen"]] == ["standard"]
    assert profiles["standard"]["bytes_by_kind"] == listed["bytes_by_kind"]
    assert vdaprep("convert", "tartanair", *options[:-2], "--profile", "small", "--out", tmp_path / "small").code == 0
    assert weight(tmp_path / "small" / "tartanair") == pytest.approx(profiles["small"]["bytes"], rel=0.05)
    made = json.loads((out / "tartanair" / "dataset.json").read_bytes())
    assert listed["options"] == made["options"]
    assert sum(split["clips"] for split in listed["splits"].values()) == made["totals"]["clips"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("share", "expected"),
    [
        (0.95, ["--profile"]),
        (0.2, ["--profile", "--frame-stride"]),
        (0.1, ["--frame-stride", "--select"]),
    ],
)
def test_a_budget_is_kept_by_the_command_that_it_prints(
    long_raw: Path, vdaprep, tmp_path: Path, share: float, expected: list[str]
) -> None:
    out = tmp_path / "my shards"
    options = ("tartanair", "--raw", long_raw, "--out", out, "--probes", 12, "--workers", 1)
    asked = json.loads(vdaprep("plan", *options, "--json").out)
    budget = round(share * asked["bytes"])
    shown = vdaprep("plan", *options, "--budget", f"{budget}B")
    assert shown.code == 0
    assert shown.out.startswith("chosen to fit: ")
    steps = shown.err.strip().splitlines()
    assert steps[0].startswith("as asked: ")
    assert steps[0].endswith(": too much")
    line = shown.out.strip().splitlines()[-1]
    assert [option for option in expected if option not in line] == []
    assert vdaprep(*shlex.split(line)[1:]).code == 0
    assert 0.5 * budget < weight(out / "tartanair") <= budget
    assert vdaprep("verify", out, "--deep").code == 0
    assert {path.parent.name for path in out.rglob("*.tar")} == {"train", "val"}
    again = vdaprep("plan", *options, "--budget", f"{budget}B")
    assert again.out.strip().splitlines()[-1] == line
    assert again.err == shown.err


@pytest.mark.slow
def test_a_profile_without_its_encoder_is_neither_predicted_nor_chosen(
    long_raw: Path, vdaprep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(name: str, mode: str) -> None:
        raise video_groups.UnknownCodecError("no such codec", name)

    monkeypatch.setattr(video_groups, "Codec", unknown)
    options = ("tartanair", "--raw", long_raw, "--out", tmp_path, "--probes", 4)
    shown = vdaprep("plan", *options)
    assert "tiny: not predicted, as the installed PyAV lacks the encoder" in shown.out
    listed = json.loads(vdaprep("plan", *options, "--json").out)
    assert (listed["profiles"]["tiny"], listed["profiles"]["small"]["chosen"]) == (None, False)
    budget = listed["profiles"]["small"]["upper_bytes"] // 2
    chosen = vdaprep("plan", *options, "--budget", f"{budget}B")
    assert chosen.code == 0
    assert "--profile tiny is not tried: PyAV" in chosen.err
    assert "--profile tiny:" not in chosen.err
    assert "--profile small" in chosen.out.splitlines()[-1]


@pytest.mark.slow
def test_bad_budgets_are_sentences(raw, vdaprep, tmp_path: Path) -> None:
    options = ("tartanair", "--raw", raw.root, "--out", tmp_path)
    for text in ("lots", "50 parsecs", "-3GB"):
        said = vdaprep("plan", *options, f"--budget={text}")
        assert (said.code, said.err.count("\n")) == (2, 1)
        assert f"--budget {text}: expected a size, for example 5GB" in said.err
    said = vdaprep("plan", *options, "--budget", "2KB")
    assert said.code == 2
    assert "--budget: 2000 bytes are too few: even 2 trajectories, one a split," in said.err.splitlines()[-1]


@pytest.mark.slow
def test_a_full_disk_is_foreseen(raw, vdaprep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(predict.shutil, "disk_usage", lambda path: usage._replace(free=60_000))
    said = vdaprep("plan", "tartanair", "--raw", raw.root, "--out", tmp_path / "not" / "yet")
    assert said.code == 0
    assert "it does not fit; --budget chooses settings that do, for example --budget 54KB" in said.out
    remote = vdaprep("plan", "tartanair", "--raw", raw.root, "--out", "s3://bucket/shards")
    assert "how much is free at s3://bucket/shards is not known" in remote.out


def test_nothing_to_plan_is_a_sentence(vdaprep, tmp_path: Path) -> None:
    said = vdaprep("plan", "tartanair", "--raw", tmp_path / "raw", "--out", tmp_path)
    assert (said.code, said.err.count("\n")) == (1, 1)
    assert "there is no such folder" in said.err


# ------------------------------------------------------------------------------------------------------------- strides


def clips(out: Path) -> list[tuple[ClipMeta, list[np.ndarray]]]:
    """Return the metadata and the differences of every clip."""
    return [(meta, values.get("diff.zst", [])) for _, meta, values in decode_shards(*sorted(out.rglob("*.tar")))]


def test_a_stride_takes_every_nth_frame_and_differences_to_the_last_taken(vdaprep, tmp_path: Path) -> None:
    raw = write_raw(tmp_path / "raw", lengths={f"{EASY}/P000": 26})
    for number in (9, 18, 19):  # 9 and 19 are between frames that are taken, 18 would be one of them
        (raw.root / f"{EASY}/P000/image_left/{number:06d}_left.png").unlink()
        (raw.root / f"{EASY}/P000/depth_left/{number:06d}_left_depth.npy").unlink()
    out = tmp_path / "out"
    options = ("--raw", raw.root, "--out", out, "--workers", 1, "--clip-frames", 5)
    said = vdaprep("convert", "tartanair", *options, "--frame-stride", 3)
    assert said.code == 0
    assert "has no files of frames 9 to 9" in said.err
    found = clips(out)
    assert [meta.frame_ids for meta, _ in found] == [(0, 3, 6), (12, 15), (21, 24)]
    assert [meta.diff_valid for meta, _ in found] == [(False, True, True), (False, True), (False, True)]
    for meta, differences in found:
        for i in range(1, meta.num_frames):
            now, before = (toy_frame(0, meta.frame_ids[k]).rgb.pixels.astype(np.float32) for k in (i, i - 1))
            expected = (now - before).reshape(HEIGHT // 4, 4, WIDTH // 4, 4, 3).mean(axis=(1, 3)).transpose(2, 0, 1)
            assert np.abs(2 * differences[i] - expected).max() <= 1.01
    assert vdaprep("verify", out, "--deep").code == 0
    refused = vdaprep("convert", "tartanair", *options)
    assert refused.code == 2
    assert "frame_stride = 3; this run has frame_stride = 1" in refused.err or "not in this run's plan" in refused.err
    assert vdaprep("convert", "tartanair", *options, "--frame-stride", 0).code == 2


def test_frames_a_stride_apart_are_warped_onto_each_other(vdaprep, tmp_path: Path) -> None:
    write_sample("tartanair", out=tmp_path / "raw", spec=SampleSpec(1, 12, 64, 48), archives=False, on_frame=lambda: 0)
    vdaprep("convert", "tartanair", "--raw", tmp_path / "raw", "--out", tmp_path, "--frame-stride", 3)
    said = vdaprep("verify", tmp_path / "tartanair", "--geometry")
    assert said.code == 0
    assert "4 frames, median warp error" in said.out


def test_a_clip_continues_the_one_before_at_its_stride(vdaprep, tmp_path: Path) -> None:
    raw = write_raw(tmp_path / "raw", lengths={f"{EASY}/P000": 16})
    vdaprep("convert", "tartanair", "--raw", raw.root, "--out", tmp_path, "--clip-frames", 4, "--frame-stride", 2)
    found = clips(tmp_path / "tartanair")
    assert [meta.frame_ids for meta, _ in found] == [(0, 2, 4, 6), (8, 10, 12, 14)]
    assert found[1][0].diff_valid == (True,) * 4


def test_an_export_with_a_stride_is_read_with_that_stride(vdaprep, tmp_path: Path) -> None:
    """Poses of `custom` are lines in order of the frames that there are, whichever of them are taken."""
    frames = [toy_frame(0, n) for n in range(12)]
    unpack(tmp_path / "raw", layouts.load("custom").encode_files("walk", ((frame,) for frame in frames)))
    vdaprep("convert", "custom", "--raw", tmp_path / "raw", "--out", tmp_path / "a", "--frame-stride", 4)
    [(meta, _)] = clips(tmp_path / "a")
    assert meta.frame_ids == (0, 4, 8)
    assert np.allclose(meta.camera_to_world, [frames[i].camera_to_world for i in meta.frame_ids])
    assert vdaprep("export", tmp_path / "a", "--out", tmp_path / "frames").code == 0
    vdaprep("convert", "custom", "--raw", tmp_path / "frames", "--out", tmp_path / "b", "--frame-stride", 4)
    [(again, _)] = clips(tmp_path / "b")
    assert (again.frame_ids, again.camera_to_world) == (meta.frame_ids, meta.camera_to_world)
