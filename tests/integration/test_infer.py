"""`vdatrain infer` and `vdatrain eval --long` through the command line."""

import json
import re
from pathlib import Path

import cv2
import imageio.v3 as iio
import numpy as np
import pytest
import torch

from tests.models import lively
from vdatrain.config import TrainConfig

VARIANTS = ("basic", "conv")


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Checkpoints as a run leaves them, of models that look along time and at differences."""
    folder = tmp_path_factory.mktemp("checkpoints")
    paths: dict[str, Path] = {}
    for variant in VARIANTS:
        model = lively(variant)
        config = TrainConfig(shards="none", variant=variant, encoder="tiny", size=28).to_json()
        paths[variant] = folder / f"{variant}.pt"
        torch.save({"model": model.state_dict(), "average": {}, "config": config}, paths[variant])
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


def test_windows_and_stream_and_variants_differ(checkpoints, movie: Path, vdatrain, tmp_path: Path) -> None:
    found: list[np.ndarray] = []
    for variant, mode in [("basic", ()), ("basic", ("--stream",)), ("conv", ())]:
        out = tmp_path / "a.npz"
        assert vdatrain("infer", movie, "--checkpoint", checkpoints[variant], "--out", out, *mode).code == 0
        found.append(disparity(out))
    assert np.abs(found[0] - found[1]).max() > 1e-3
    assert np.abs(found[0] - found[2]).max() > 1e-3


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
    wrong = vdatrain("infer", movie, *known, "--precision", "fp8")
    assert wrong.code == 2
    assert "'fp8' is not one of 'fp32', 'bf16', 'fp16'" in wrong.err
    refused(vdatrain("infer", movie, *known, "--side-by-side"), 2, "a.npz is no .mp4")
    refused(vdatrain("infer", movie, *known[:2], "--out", tmp_path / "a.avi"), 2, ".avi is not known; expected .mp4")
    refused(
        vdatrain("infer", movie, "--checkpoint", tmp_path / "none.pt", *known[2:]), 1, "there is no such checkpoint"
    )
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------------------------------------- whole trajectories


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
