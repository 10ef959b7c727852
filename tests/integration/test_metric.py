"""Depth in metres through the command line: train, evaluate, compare, infer."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from PIL.ExifTags import IFD, Base

from tests.conftest import Run, make_shards
from tests.integration.conftest import refused
from vdaprep.shards.dataset import open_shards
from vdaprep.synthetic import layouts
from vdaprep.synthetic.sample import render_as_frame, unpack
from vdaprep.synthetic.scene import make_scene
from vdatrain import cli
from vdatrain.config import TrainConfig
from vdatrain.evaluation.evaluate import evaluate
from vdatrain.inference.loading import load_predictor
from vdatrain.training.trainer import train

SMALL = (
    "--encoder", "tiny", "--frames", 3, "--size", 28, "--batch", 2, "--steps", 2, "--warmup", 1, "--ema", 0.5,
    "--log-every", 1, "--eval-every", 2, "--workers", 0, "--track", "none",
)  # fmt: skip


@pytest.fixture(scope="module")
def runs(toy_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of each task."""
    folder = tmp_path_factory.mktemp("runs")
    for task in ("relative", "metric"):
        argv = ["vdatrain", "run", "--shards", toy_shards, "--out", folder / task, "--task", task, *SMALL]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", list(map(str, argv)))
            with pytest.raises(SystemExit) as exit_:
                cli.main()
            assert not exit_.value.code
    return folder


def test_a_run_is_measured_as_eval_does_and_compared_with_its_like(
    runs: Path, toy_shards: Path, vdatrain: Run, tmp_path: Path
) -> None:
    again = ("eval", "--shards", toy_shards, "--checkpoint", runs / "metric" / "best.pt", "--workers", 0)
    assert vdatrain(*again, "--metric", "--out", tmp_path / "again").code == 0
    own, theirs = (
        json.loads((folder / "evaluation.json").read_text()) for folder in (runs / "metric", tmp_path / "again")
    )
    assert own["protocol"] == theirs["protocol"]
    assert own["protocol"]["alignment"] == "none"
    assert theirs["average"] == pytest.approx(own["average"])
    assert own["average"]["absrel"] > 0.3  # of weights that learned nothing yet; fitted they would be near the truth
    refused(vdatrain(*again, "--no-metric"), 2, "best.pt is of a run that learned depth in metres")
    refused(
        vdatrain("compare", runs / "relative", runs / "metric", "--report", tmp_path / "r.html"), 2,
        f"compare: {runs / 'metric'} was measured in metres as predicted, {runs / 'relative'} after a fit",
    )  # fmt: skip
    refused(vdatrain("run", "--resume", "--out", runs / "metric", "--task", "relative"), 2, "--task metric to relative")


def written(folder: Path, *, equivalent_mm: int | None) -> Path:
    """Write two photographs of 60x40 pixels, with what EXIF says of their focal length."""
    folder.mkdir()
    exif = Image.Exif()
    if equivalent_mm is not None:
        exif.get_ifd(IFD.Exif)[Base.FocalLengthIn35mmFilm] = equivalent_mm
    for number in range(2):
        pixels = np.random.default_rng(number).integers(0, 255, (40, 60, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.jpg", exif=exif.tobytes())
    return folder


def test_metres_take_the_focal_length_of_shard_exif_or_option(
    runs: Path, toy_shards: Path, vdatrain: Run, tmp_path: Path
) -> None:
    def depth_m(source: Path, name: str, *options: object) -> np.ndarray:
        arguments = ("infer", source, "--checkpoint", runs / "metric" / "best.pt", "--out", tmp_path / name, *options)
        result = vdatrain(*arguments)
        assert result.code == 0, result.err
        assert "depth in metres by a focal length of" in " ".join(result.err.split())
        with np.load(tmp_path / name) as arrays:
            return arrays["depth_m"]

    photographs = written(tmp_path / "with", equivalent_mm=36)
    by_exif = depth_m(photographs, "a.npz")
    focal_px = 36 * np.hypot(60, 40) / np.hypot(36, 24)
    assert focal_px == pytest.approx(60)
    assert depth_m(photographs, "b.npz", "--intrinsics", "60,60,29.5,19.5", "--metric") == pytest.approx(by_exif)
    assert depth_m(photographs, "c.npz", "--intrinsics", "120,120,29.5,19.5") == pytest.approx(2 * by_exif, rel=1e-5)

    silent = ("infer", written(tmp_path / "without", equivalent_mm=None), "--out", tmp_path / "no.npz", "--checkpoint")
    refused(vdatrain(*silent, runs / "metric" / "best.pt"), 2, "give --intrinsics fx,fy,cx,cy in pixels of its 60x40")
    refused(vdatrain(*silent, runs / "relative" / "best.pt", "--metric"), 2, "of a run that learned relative disparity")
    refused(vdatrain(*silent, runs / "metric" / "best.pt", "--intrinsics", "60,60"), 2, "expected four numbers")
    assert not (tmp_path / "no.npz").exists()

    [clip, *_] = open_shards(toy_shards).clips(split="val")
    fx, fy, cx, cy = clip.meta.intrinsics[0]  # pyright: ignore[reportOptionalSubscript]
    tar = next(path for path in toy_shards.rglob("val/*.tar"))
    own, given = depth_m(tar, "d.npz"), depth_m(tar, "e.npz", "--intrinsics", f"{2 * fx},{2 * fy},{cx},{cy}")
    assert given == pytest.approx(2 * own, rel=1e-5)

    images = ("infer", photographs, "--checkpoint", runs / "metric" / "best.pt", "--out", tmp_path / "maps")
    assert vdatrain(*images).code == 0
    scale = json.loads((tmp_path / "maps" / "depth.json").read_text())["scale"]
    values = cv2.imread(str(tmp_path / "maps" / "000000.png"), cv2.IMREAD_UNCHANGED)
    assert 1 / (scale * values) == pytest.approx(by_exif[0], rel=1e-3)


def test_metric_weights_leave_by_name(runs: Path, vdatrain: Run, tmp_path: Path) -> None:
    export = ("export", "--checkpoint", runs / "metric" / "best.pt", "--out")
    refused(vdatrain(*export, tmp_path / "mine.pth"), 2, "let it have the word metric, such as metric_mine.pth")
    assert vdatrain(*export, tmp_path / "metric_mine.pth").code == 0
    facts = json.loads((tmp_path / "metric_mine.pth.json").read_text())
    assert facts["output"].startswith("depth [B, T, H, W] in a camera of 28 pixels focal length")
    assert load_predictor(tmp_path / "metric_mine.pth", encoder="tiny", device="cpu").metric


# --------------------------------------------------------------------------------------------------- scale is learned


def render(folder: Path, worlds: range, *, focal_px: float, said_px: float) -> str:
    """Render worlds by a camera and convert them with what is said of it; returns the shards."""
    layout, (width, height) = layouts.load("custom"), (128, 96)
    seen, said = (np.array([focal, focal, (width - 1) / 2, (height - 1) / 2]) for focal in (focal_px, said_px))
    for number in worlds:
        world = make_scene(number)
        frames = [render_as_frame(world, frame, size=(width, height), intrinsics=seen) for frame in range(4)]
        name = f"{'val' if number >= 30 else 'train'}/scene-{number:03d}"
        files = layout.encode_files(name, ((replace(frame, intrinsics=said),) for frame in frames))
        unpack(folder / "raw", files)
    make_shards("custom", raw=folder / "raw", out=folder / "shards")
    return str(folder / "shards")


@pytest.mark.slow
def test_scale_is_learned_and_carries_over_to_another_camera(tmp_path: Path) -> None:
    """Rendered worlds, 90 degrees wide: delta1 of unseen ones, 110 degrees wide, without a fit.

    The best depth that is the same everywhere has about 0.25 there.
    """
    shards = render(tmp_path / "learned", range(34), focal_px=64.0, said_px=64.0)
    config = TrainConfig(
        shards=shards, task="metric", encoder="tiny", size=56, frames=2, batch=8, steps=150, eval_every=150,
        eval_windows=0, lr=1e-3, warmup=20, ema=0.95, track="none", workers=1, final="last", device="cpu",
    )  # fmt: skip
    train(config, out=tmp_path / "run")
    lines = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    untrained = next(found for line in lines if (found := json.loads(line).get("evaluation")))
    assert untrained["average"]["delta1"] < 0.05
    predictor = load_predictor(tmp_path / "run" / "last.pt", device="cpu")
    delta1 = {
        said_px: evaluate(predictor, render(tmp_path / f"{said_px}", range(50, 58), focal_px=45.0, said_px=said_px))
        for said_px in (45.0, 64.0)
    }
    known, assumed = (found.average()["delta1"] or 0.0 for found in delta1.values())
    assert known > 0.4
    assert known > 1.3 * assumed
