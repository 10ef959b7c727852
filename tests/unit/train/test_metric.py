"""Depth in metres: its loss, its canonical camera, and which weights begin a run that learns it."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from tests.models import lively
from vdaprep.errors import DataError, UsageError
from vdaprep.shards.dataset import open_shards
from vdaprep.shards.metadata import DepthSpec
from vdatrain.config import TrainConfig
from vdatrain.data.loader import TrainLoader
from vdatrain.data.sampler import Window, WindowShape
from vdatrain.data.samples import read_window
from vdatrain.data.transforms import CropParams, fit_view, view_intrinsics
from vdatrain.device import Precision
from vdatrain.inference.loading import load_predictor
from vdatrain.inference.predictor import Predictor
from vdatrain.models.canonical import TYPICAL_DEPTH_M, focal_of, in_metres
from vdatrain.models.layers.dpt import LAST_LAYER
from vdatrain.models.loading import build_from_config, initialise, load_model
from vdatrain.models.weights import read_weights
from vdatrain.objectives.losses import ExtraTerms
from vdatrain.objectives.metric import FORGIVEN, metric_loss, silog
from vdatrain.objectives.metrics import clip_metrics
from vdatrain.objectives.warping import Cameras

CONFIG = TrainConfig(shards="s", task="metric", encoder="tiny", size=28)
RANGE = torch.tensor([[0.02, 0.8]], dtype=torch.float64)


def scene(frames: int = 3) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return disparity in 1/m, the same normalised by RANGE, and a mask; a row is sky, one unknown."""
    generator = torch.Generator().manual_seed(0)
    disparity = 0.05 + 0.7 * torch.rand(1, 1, 6, 8, generator=generator, dtype=torch.float64).expand(1, frames, 6, 8)
    target = (disparity - RANGE[0, 0]) / (RANGE[0, 1] - RANGE[0, 0])
    mask = torch.ones_like(target, dtype=torch.bool)
    target, mask = target.clone(), mask.clone()
    target[:, :, 0], mask[:, :, 1] = 0, False
    target[:, :, 1] = torch.nan
    return disparity.clone(), target, mask


# ----------------------------------------------------------------------------------------------------------- the loss


def test_the_spatial_term_is_its_definition_frame_by_frame() -> None:
    generator = torch.Generator().manual_seed(1)
    error = torch.randn(2, 3, 5, 7, generator=generator, dtype=torch.float64)
    mask = torch.rand(2, 3, 5, 7, generator=generator) < 0.6
    mask[1, 2] = False
    frames = [error[i, j][mask[i, j]].numpy() for i in range(2) for j in range(3) if mask[i, j].any()]
    expected = np.mean([math.sqrt(np.mean(d**2) - FORGIVEN * np.mean(d) ** 2) for d in frames])
    assert silog(error, mask).item() == pytest.approx(expected, rel=1e-12)


def test_scale_counts_and_neither_sky_nor_unknown_pixels_do() -> None:
    disparity, target, mask = scene()
    disparity[:, :, :2] = 1e-9  # what is predicted where there is no truth
    exact = metric_loss(disparity, target, mask, RANGE)
    assert exact.total.item() < 1e-5
    doubled = metric_loss(2 * disparity, target, mask, RANGE)
    assert doubled.spatial.item() == pytest.approx(math.sqrt(1 - FORGIVEN) * math.log(2), rel=1e-9)
    assert doubled.temporal.item() < 1e-9  # of changes a common factor is gone
    flicker = disparity * torch.tensor([1.0, 1.1, 1.0], dtype=torch.float64).view(3, 1, 1)
    assert metric_loss(flicker, target, mask, RANGE).temporal.item() == pytest.approx(math.log(1.1), rel=1e-9)


@pytest.mark.parametrize("case", ["no pixel", "one frame", "exact", "zero"])
def test_the_gradient_is_finite_where_nothing_can_be_learned(case: str) -> None:
    disparity, target, mask = scene(1 if case == "one frame" else 3)
    disparity = (torch.zeros_like(disparity) if case == "zero" else disparity).requires_grad_()
    loss = metric_loss(disparity, target, mask & (case != "no pixel"), RANGE)
    loss.total.backward()
    assert loss.total.isfinite()
    assert disparity.grad is not None
    assert disparity.grad.isfinite().all()
    assert (loss.total.item() == 0) == (case == "no pixel")


def test_further_terms_are_added_by_their_weights() -> None:
    disparity, target, mask = scene()
    still = torch.eye(4, dtype=torch.float64).expand(1, 3, 4, 4)
    cameras = Cameras(torch.tensor([9.0, 9, 3.5, 2.5], dtype=torch.float64).expand(1, 3, 4), still, RANGE)
    wrong = disparity * torch.tensor([1.0, 1.2, 1.0], dtype=torch.float64).view(3, 1, 1)
    plain = metric_loss(wrong, target, mask, RANGE)
    loss = metric_loss(wrong, target, mask, RANGE, extra=ExtraTerms(0.5, 0.0, 2.0, cameras=cameras))
    # A camera that stands still: the depth of one frame over that of the next is 1.2, or its inverse.
    assert loss.extra["warp"].item() == pytest.approx((0.2 / 1.2 + (1 - 1 / 1.2)) / 2, rel=1e-6)
    added = 0.5 * loss.extra["stride"] + 2 * loss.extra["warp"]
    assert loss.total.item() == pytest.approx((plain.total + added).item())
    assert (
        metric_loss(disparity, target, mask, RANGE, extra=ExtraTerms(0.0, 0.0, 1.0, cameras=cameras)).extra["warp"]
        < 1e-6
    )


# ------------------------------------------------------------------------------------------------ the canonical camera


def test_a_crop_leaves_the_focal_length_resizing_scales_it() -> None:
    camera = np.array([[100.0, 100.0, 31.5, 23.5]])
    views = {
        CropParams(3, 5, 28, 28, 28, 28): 100.0,
        CropParams(3, 5, 28, 28, 28, 28, flip=True): 100.0,
        CropParams(3, 5, 14, 14, 28, 28): 200.0,
        CropParams(0, 0, 56, 42, 28, 42): 100 / math.sqrt(2),  # another aspect: the mean of both ways
    }
    for view, expected in views.items():
        assert focal_of(torch.from_numpy(view_intrinsics(view, camera))).item() == pytest.approx(expected)


def test_canonical_depth_becomes_metres_by_the_focal_length() -> None:
    model = build_from_config(CONFIG)
    cameras = torch.tensor([[56.0, 56.0, 13.5, 13.5], [14.0, 14.0, 13.5, 13.5]])
    canonical_m = torch.full((2, 28, 28), 10.0)
    depth_m = 1 / in_metres(model, 1 / canonical_m, cameras)
    assert_close(depth_m[:, 0, 0], torch.tensor([20.0, 5.0]))  # twice and half as long as 28 pixels
    for other in (build_from_config(replace(CONFIG, task="relative")), lively("basic")):
        assert in_metres(other, canonical_m, cameras) is canonical_m


def test_the_metrics_of_metric_models_are_not_fitted() -> None:
    depth_m = 2 + torch.rand(2, 8, 8, generator=torch.Generator().manual_seed(0))
    cameras = torch.tensor([8.0, 8.0, 3.5, 3.5]).expand(2, 4)
    wrong = 1 / (1.5 * depth_m)
    fitted = clip_metrics(wrong, depth_m, cameras, None, max_depth_m=80.0)
    found = clip_metrics(wrong, depth_m, cameras, None, max_depth_m=80.0, alignment="none")
    assert (fitted.delta1, found.delta1) == (1.0, 0.0)
    assert fitted.absrel == pytest.approx(0, abs=1e-5)
    assert found.absrel == pytest.approx(0.5, rel=1e-6)
    assert found.rmse == pytest.approx(0.5 * depth_m.square().mean((-1, -2)).sqrt().mean().item(), rel=1e-6)


# ------------------------------------------------------------------------------------------------------------- weights


def saved(folder: Path, name: str, *, task: str = "", size: int = 28) -> Path:
    """Write a tiny model's weights, bare or, with a task, as a run leaves them."""
    weights = lively("basic").state_dict()
    config = replace(CONFIG, task=task or "relative", size=size).to_json()
    torch.save({"model": weights, "average": {}, "config": config, "step": 3} if task else weights, folder / name)
    return folder / name


@pytest.mark.parametrize(
    ("name", "task", "size", "factor"),
    [
        ("metric_video_depth_anything_tiny.pth", "", 28, 1.0),
        ("best.pt", "metric", 28, 1.0),
        ("best.pt", "metric", 14, 2.0),  # the same metres, in a camera of twice the focal length
        ("video_depth_anything_tiny.pth", "", 28, None),
        ("best.pt", "relative", 28, None),
    ],
)
def test_what_a_metric_run_begins_with(name: str, task: str, size: int, factor: float | None, tmp_path: Path) -> None:
    path = saved(tmp_path, name, task=task, size=size)
    config = replace(CONFIG, init=str(path))
    fresh, model = build_from_config(config), build_from_config(config)
    report = initialise(model, config)
    assert report is not None
    assert (model.metric, model.canonical_focal_px) == (True, 28.0)
    theirs = lively("basic").state_dict()
    for key, value in model.state_dict().items():
        if not key.startswith(LAST_LAYER):
            assert_close(value, theirs[key])
        else:
            expected = torch.tensor([TYPICAL_DEPTH_M]) if key.endswith("bias") else fresh.state_dict()[key]
            assert_close(value, expected if factor is None else factor * theirs[key])
    assert ("last layer begins anew" in str(report)) == (factor is None)
    if factor is not None:
        with pytest.raises(DataError, match="metric weights, which predict depth in metres.*--task metric"):
            initialise(build_from_config(config), replace(config, task="relative"))


def test_a_checkpoint_says_what_it_learned(tmp_path: Path) -> None:
    model = load_model(saved(tmp_path, "best.pt", task="metric")).model
    assert (model.metric, model.canonical_focal_px) == (True, 28.0)
    found = read_weights(tmp_path / "best.pt")
    assert (found.metric, found.canonical_focal_px) == (True, 28.0)


@pytest.mark.parametrize("task", ["relative", "metric"])
def test_a_run_is_not_taken_for_what_it_did_not_learn(task: str, tmp_path: Path) -> None:
    path, asked = saved(tmp_path, "best.pt", task=task), task == "relative"
    for encoder in (None, "tiny"):
        assert load_predictor(path, metric=not asked, encoder=encoder, device="cpu").metric is not asked
        with pytest.raises(UsageError, match=f"metric: {path} is of a run that learned (relative|depth)"):
            load_predictor(path, metric=asked, encoder=encoder, device="cpu")


def test_resuming_as_another_task_is_refused() -> None:
    with pytest.raises(UsageError, match="leave out what would change --task metric to relative"):
        CONFIG.changed({"task": "relative"})


# ---------------------------------------------------------------------------------------------------------------- data


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({}, None),
        ({"depth": DepthSpec(kind="relative", relative_error=0.0)}, "depth without a unit"),
        ({"intrinsics": np.full((2, 4), np.nan)}, "no camera"),
    ],
)
def test_frames_without_metres_or_camera_are_refused(changes: dict, found: str | None, toy_shards: Path) -> None:
    clip = open_shards(toy_shards).clips()[0]
    sample = replace(read_window(clip, Window(0, 0, 0, WindowShape(2))), **changes)
    if found is None:
        sample.expect_metres()
        return
    with pytest.raises(DataError, match=f"data set .* clip .* has {found}, and a metric model takes metres"):
        sample.expect_metres()
    # Nor does a loader show it.
    loader = TrainLoader(replace(CONFIG, shards=str(toy_shards), frames=2, batch=1), device=torch.device("cpu"))
    with loader, pytest.raises(DataError, match=f"has {found}"):
        loader._show([sample])


# ----------------------------------------------------------------------------------------------------------- inference


def test_a_predictor_gives_metres_by_the_camera_of_each_video() -> None:
    model = lively("basic").eval()
    model.metric, model.canonical_focal_px = True, 28.0  # pyright: ignore[reportAttributeAccessIssue, reportArgumentType]
    predictor = Predictor(model, Precision(torch.device("cpu")), size=28)
    frames = np.random.default_rng(0).integers(0, 255, (3, 40, 56, 3), np.uint8)
    with pytest.raises(UsageError, match=r"give --intrinsics fx,fy,cx,cy in pixels of its 56x40\."):
        predictor.predict(frames)
    with pytest.raises(UsageError, match=r"principal point cx,cy is outside the frames of 56x40 pixels"):
        replace(predictor, intrinsics=(50.0, 50.0, 60.0, 20.0)).predict(frames)
    one, two = (replace(predictor, intrinsics=(f, f, 27.5, 19.5)).predict(frames) for f in (40.0, 80.0))
    assert_close(one, 2 * two)
    view = fit_view((40, 56), size=28)
    focal = focal_of(torch.from_numpy(view_intrinsics(view, np.array([[40.0, 40.0, 27.5, 19.5]]))))
    prepared = replace(predictor, intrinsics=(40.0, 40.0, 27.5, 19.5))
    model.canonical_focal_px = None  # pyright: ignore[reportAttributeAccessIssue, reportArgumentType]
    assert_close(one, predictor.predict(frames) * np.float32(28 / focal.item()))
    streamed = np.stack([*predictor.stream(frames)])
    model.canonical_focal_px = 28.0  # pyright: ignore[reportAttributeAccessIssue, reportArgumentType]
    assert_close(np.stack([*prepared.stream(frames)]), streamed * np.float32(28 / focal.item()))
