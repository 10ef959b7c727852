"""`vdatrain infer` and `vdatrain eval --long` through the command line."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import av
import cv2
import imageio.v3 as iio
import numpy as np
import pytest
import torch

from tests.models import lively
from tests.videos import picture, write_video
from vdatrain.config import TrainConfig
from vdatrain.inference.loading import load_predictor

VARIANTS = ("basic", "conv")
TENTHS = [n / 10 for n in range(8)]
VARIABLE = [0, 0.1, 0.5, 2, 3.3]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Checkpoints as a run leaves them, of models that look along time and at differences."""
    folder = tmp_path_factory.mktemp("checkpoints")
    paths: dict[str, Path] = {}
    for variant in VARIANTS:
        model = lively(variant)
        config = TrainConfig(shards="none", variant=variant, encoder="tiny", size=28).to_json()
        paths[variant] = folder / f"{variant}.pt"
        torch.save({"model": model.state_dict(), "average": {}, "config": config, "step": 3}, paths[variant])
    bare = torch.load(paths["basic"], weights_only=True)["model"]
    paths["bare"] = folder / "bare.pth"
    torch.save(bare, paths["bare"])
    return paths


@pytest.fixture(scope="module")
def movie(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """35 frames, so that there are two windows."""
    path = tmp_path_factory.mktemp("movie") / "movie.mp4"
    y, x = np.mgrid[:34, :46]
    frames = [np.stack([127 + 90 * np.sin((x + 2 * n) / 6), 4 * y, 3 * x + n], axis=-1) for n in range(35)]
    video = np.stack(frames).clip(0, 255).astype(np.uint8)
    iio.imwrite(path, video, plugin="pyav", codec="libx264", fps=10, out_pixel_format="yuv420p")
    return path


def disparity(path: Path) -> np.ndarray:
    with np.load(path) as arrays:
        return arrays["disparity"]


def refused(result, code: int, sentence: str) -> None:
    assert result.code == code
    [line] = result.err.splitlines()
    assert line.startswith("vdatrain: ")
    assert sentence in line


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("mode", [(), ("--stream",)], ids=["windows", "stream"])
def test_disparity_of_a_video(variant: str, mode, checkpoints, movie: Path, vdatrain, tmp_path: Path) -> None:
    out = tmp_path / "a.npz"
    result = vdatrain("infer", movie, "--checkpoint", checkpoints[variant], "--out", out, *mode)
    assert result.code == 0
    line = rf"{re.escape(str(out))}: 35 frames of 46x34, [\d.]+ frames/s, peak memory of the process \d+\.\d\d GB"
    assert re.fullmatch(line, " ".join(result.err.split()))
    found = disparity(out)
    assert (found.shape, found.dtype) == ((35, 34, 46), np.float32)
    assert found.min() >= 0
    assert found.std() > 1e-3


@pytest.mark.slow
def test_windows_and_stream_and_variants_differ(checkpoints, movie: Path, vdatrain, tmp_path: Path) -> None:
    found: list[np.ndarray] = []
    for variant, mode in [("basic", ()), ("basic", ("--stream",)), ("conv", ())]:
        out = tmp_path / "a.npz"
        assert vdatrain("infer", movie, "--checkpoint", checkpoints[variant], "--out", out, *mode).code == 0
        found.append(disparity(out))
    assert np.abs(found[0] - found[1]).max() > 1e-3
    assert np.abs(found[0] - found[2]).max() > 1e-3


@pytest.mark.slow
def test_weights_without_a_configuration(checkpoints, movie: Path, vdatrain, tmp_path: Path) -> None:
    small = ("--size", 28, "--out", tmp_path / "a.npz")
    assert vdatrain("infer", movie, "--checkpoint", checkpoints["bare"], "--encoder", "tiny", *small).code == 0
    assert vdatrain("infer", movie, "--checkpoint", checkpoints["basic"], "--out", tmp_path / "b.npz").code == 0
    assert np.array_equal(disparity(tmp_path / "a.npz"), disparity(tmp_path / "b.npz"))
    refused(vdatrain("infer", movie, "--checkpoint", checkpoints["bare"], *small), 1, "no configuration")
    encoder = {name.removeprefix("pretrained."): value for name, value in torch.load(checkpoints["bare"]).items()}
    torch.save({k: v for k, v in encoder.items() if not k.startswith("head.")}, tmp_path / "dino.pth")
    arguments = ("--checkpoint", tmp_path / "dino.pth", "--encoder", "tiny", *small)
    refused(vdatrain("infer", movie, *arguments), 1, "without the head that makes depth of its features")


@pytest.mark.slow
def test_all_kinds_of_output(checkpoints, movie: Path, vdatrain, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for number, frame in enumerate(iio.imread(movie, plugin="pyav")[:3]):
        cv2.imwrite(str(images / f"{number}.png"), frame[..., ::-1])
    for name, more in [("a.npz", ()), ("depth", ()), ("a.mp4", ()), ("b.mp4", ("--side-by-side",))]:
        arguments = ("infer", images, "--checkpoint", checkpoints["conv"], "--out", tmp_path / name)
        assert vdatrain(*arguments, *more).code == 0
    expected = disparity(tmp_path / "a.npz")
    scale = json.loads((tmp_path / "depth" / "disparity.json").read_text())["scale"]
    stored = [cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in sorted((tmp_path / "depth").glob("*.png"))]
    assert np.abs(scale * np.stack(stored) - expected).max() <= 0.51 * scale
    assert iio.imread(tmp_path / "a.mp4", plugin="pyav").shape == (3, 34, 46, 3)
    assert iio.imread(tmp_path / "b.mp4", plugin="pyav").shape == (3, 34, 92, 3)


@pytest.mark.slow
def test_a_single_picture_and_a_shard(checkpoints, movie: Path, toy_shards: Path, vdatrain, tmp_path: Path) -> None:
    picture = tmp_path / "one.png"
    iio.imwrite(picture, iio.imread(movie, index=0, plugin="pyav"))
    tar = toy_shards / "tartanair" / "val" / "shard-0001.tar"
    for source, shape in [(picture, (1, 34, 46)), (tar, (7, 48, 64))]:
        arguments = ("infer", source, "--checkpoint", checkpoints["conv"], "--out", tmp_path / "a.npz")
        assert vdatrain(*arguments).code == 0
        assert disparity(tmp_path / "a.npz").shape == shape


def test_what_is_refused(checkpoints, movie: Path, vdatrain, tmp_path: Path) -> None:
    known = ("--checkpoint", checkpoints["basic"], "--out", tmp_path / "a.npz")
    refused(vdatrain("infer", tmp_path / "no.mp4", *known), 1, "no.mp4: there is no such video")
    refused(vdatrain("infer", tmp_path, *known), 1, "has no images")
    refused(vdatrain("infer", movie, *known, "--size", 7), 2, "--size 7: expected the pixels of the short side")
    refused(vdatrain("infer", movie, *known, "--size", 1_000_000), 2, "short side, 14 to 8400")
    refused(vdatrain("infer", movie, *known, "--size", 8400), 2, "--size 8400: makes frames of")
    wrong = vdatrain("infer", movie, *known, "--precision", "fp8")
    assert wrong.code == 2
    assert "'fp8' is not one of 'fp32', 'bf16', 'fp16'" in wrong.err
    refused(vdatrain("infer", movie, *known, "--side-by-side"), 2, "a.npz is no .mp4")
    refused(vdatrain("infer", movie, *known[:2], "--out", tmp_path / "a.avi"), 2, ".avi is not known; expected .mp4")
    refused(
        vdatrain("infer", movie, "--checkpoint", tmp_path / "none.pt", *known[2:]), 1, "there is no such checkpoint"
    )
    assert not list(tmp_path.iterdir())


def cut_short(folder: Path) -> Path:
    """Write a film whose header promises 8 frames and which holds fewer."""
    path = write_video(folder / "cut.mp4", TENTHS, codec="mpeg4", options={"movflags": "faststart"})
    path.write_bytes(path.read_bytes()[:-20])
    return path


def numbered(folder: Path) -> Path:
    (folder / "images").mkdir()
    for name in ("1.png", "10.png", "2.png", "._1.png"):
        iio.imwrite(folder / "images" / name, picture(0), extension=".png")
    (folder / "images" / "3.png").symlink_to("nowhere.png")
    return folder / "images"


INPUTS = [
    ("variable rate", lambda f: write_video(f / "a.mp4", VARIABLE), VARIABLE, "", 0),
    ("begins late", lambda f: write_video(f / "a.mkv", [2 + t for t in VARIABLE]), [2 + t for t in VARIABLE], "", 0),
    ("a name with a colon", lambda f: write_video(f / "a.mp4", [0, 1]).rename(f / "c:d.mp4"), [0, 1], "", 0),
    ("cut short", cut_short, TENTHS[:7], "cut.mp4: ends early, after 7 of 8 frames", 1),
    ("numbers", numbered, [0, 1 / 24, 2 / 24], "3.png is a link that leads nowhere; it is left out.", 1),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "make", "seconds", "said", "strict"), INPUTS, ids=[row[0] for row in INPUTS])
def test_times_go_through(name, make, seconds, said: str, strict: int, checkpoints, vdatrain, tmp_path: Path) -> None:
    """The same times come out, in an array and in a film; what is missing is said, and fails with --strict only."""
    source = make(tmp_path)
    command = ("infer", source, "--checkpoint", checkpoints["basic"], "--out")
    result = vdatrain(*command, tmp_path / "out.npz")
    assert result.code == 0
    assert said in result.err
    with np.load(tmp_path / "out.npz") as arrays:
        assert (arrays["seconds"].dtype, len(arrays["disparity"])) == (np.float64, len(seconds))
        assert arrays["seconds"] == pytest.approx(seconds, abs=1e-9)
    assert vdatrain(*command, tmp_path / "out.mp4", "--side-by-side", "--strict").code == strict
    with av.open(tmp_path / "out.mp4") as film:
        assert [frame.time for frame in film.decode(video=0)] == pytest.approx(seconds, abs=1e-9)


@pytest.mark.slow
def test_metric_weights_give_metres(checkpoints, movie: Path, vdatrain, tmp_path: Path) -> None:
    bare = ("infer", movie, "--checkpoint", checkpoints["bare"], "--encoder", "tiny", "--size", 28, "--metric", "--out")
    assert vdatrain(*bare, tmp_path / "a.npz").code == 0
    assert vdatrain(*bare, tmp_path / "depth").code == 0
    with np.load(tmp_path / "a.npz") as arrays:
        assert list(arrays) == ["depth_m", "seconds"]
        depth_m = arrays["depth_m"]
    facts = json.loads((tmp_path / "depth" / "depth.json").read_text())
    assert facts["depth_m"] == "1 / (scale * value)"
    values = cv2.imread(str(tmp_path / "depth" / "000000.png"), cv2.IMREAD_UNCHANGED).astype(float)
    assert np.abs(facts["scale"] * values - 1 / depth_m[0]).max() <= 0.51 * facts["scale"]
    found = load_predictor(checkpoints["bare"], encoder="tiny", size=28, metric=True).predict_video(movie)
    assert found.depth_m == pytest.approx(depth_m, rel=1e-5)
    assert found.seconds == pytest.approx(np.arange(35) / 10)


@pytest.mark.parametrize(
    ("out", "sentence", "code"),
    [
        ("movie.mp4", "is also the input", None),
        ("link.mp4", "is also the input", None),
        ("./folder/../hard.mp4", "is also the input", None),
        ("-", "nothing is written to standard output", 2),
        ("a.avi", ".avi is not known", 2),
        ("a.mp4.zip", ".zip is not known", 2),
        ("folder", "is a folder with something in it", 2),
        ("file", "is a file; expected a folder", None),
        ("file/a.mp4", "is a file", None),
        ("is.mp4", "is a folder", None),
    ],
)
def test_the_output_is_checked_before_the_model_is_loaded(
    out: str, sentence: str, code: int | None, movie: Path, vdatrain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(movie, "movie.mp4")
    Path("link.mp4").symlink_to("movie.mp4")
    Path("hard.mp4").hardlink_to("movie.mp4")
    Path("file").touch()
    Path("is.mp4").mkdir()
    Path("folder").mkdir()
    Path("folder", "a").touch()
    result = vdatrain("infer", "movie.mp4", "--checkpoint", "none.pt", "--out", out)
    assert sentence in result.err
    assert result.code == code if code else result.code in (1, 2)
    assert Path("movie.mp4").read_bytes() == movie.read_bytes()
    assert len(list(tmp_path.iterdir())) == 6


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a.npz", "a.mp4", "folder"])
def test_a_full_disk_is_a_sentence(name: str, checkpoints, movie: Path, tmp_path: Path) -> None:
    """The largest file allowed is smaller than what has to be written; the process is one of its own for that."""
    program = "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000)); "
    program += (
        "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); from vdatrain.__main__ import main; main()"
    )
    arguments = ["infer", movie, "--checkpoint", checkpoints["basic"], "--out", tmp_path / "new" / name]
    done = subprocess.run([sys.executable, "-c", program, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert "cannot be written (File too large)" in line
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


# ---------------------------------------------------------------------------------------------- whole trajectories


@pytest.mark.slow
def test_eval_of_whole_trajectories(checkpoints, toy_shards: Path, vdatrain) -> None:
    arguments = ("eval", "--shards", toy_shards, "--checkpoint", checkpoints["conv"], "--long", "--split", "train")
    result = vdatrain(*arguments, "--json")
    assert result.code == 0
    figures = json.loads(result.out)
    row = figures["datasets"]["tartanair"]
    assert row["trajectories"] == 2
    assert 0 < row["absrel"] < 2
    assert row["tae"] > 0
    assert figures["average"]["absrel"] == row["absrel"]
    table = vdatrain(*arguments).out
    assert f"{row['absrel']:.4f}" in table
    assert "trajectories" in table
    refused(vdatrain(*arguments, "--frames", 4), 2, "--long takes whole trajectories")


def test_one_trajectory_of_one_window_agrees_with_the_metrics_of_its_windows(
    checkpoints, toy_shards: Path, vdatrain
) -> None:
    """The held-out trajectory has 7 frames; its window of 7 and the long scheme's, padded, see almost the same."""
    arguments = ("eval", "--shards", toy_shards, "--checkpoint", checkpoints["basic"], "--workers", 0, "--json")
    long, short = (json.loads(vdatrain(*arguments, *more).out)["average"] for more in (("--long",), ("--frames", 7)))
    assert long["absrel"] == pytest.approx(short["absrel"], rel=0.3)
