"""The metrics against the published numbers, and what they must not depend on."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vdaprep.errors import DataError, VdakitError
from vdatrain.objectives.metrics import ClipMetrics, clip_metrics, mean_metrics

GOLDEN = Path(__file__).parents[2] / "golden" / "vda_metrics.npz"
UNKNOWN_DISPARITY = 0.2  # what the published "perfect" prediction holds where the depth is unknown


@dataclasses.dataclass(frozen=True)
class Case:
    disparity: torch.Tensor
    depth_m: torch.Tensor
    intrinsics: torch.Tensor
    camera_to_world: torch.Tensor | None
    max_depth_m: float

    def metrics(self, **changes) -> ClipMetrics:
        case = dataclasses.replace(self, **changes)
        arguments = (case.disparity, case.depth_m, case.intrinsics, case.camera_to_world)
        return clip_metrics(*arguments, max_depth_m=case.max_depth_m)

    def first(self, count: int) -> "Case":
        poses = None if self.camera_to_world is None else self.camera_to_world[:count]
        return Case(
            self.disparity[:count], self.depth_m[:count], self.intrinsics[:count], poses, max_depth_m=self.max_depth_m
        )


def golden(name: str) -> tuple[Case, dict[str, float]]:
    with np.load(GOLDEN) as arrays:
        inputs = {key: torch.tensor(arrays[f"{name}_{key}"]) for key in ("disparity", "depth", "camera_to_world")}
        matrix = arrays[f"{name}_intrinsics"]
        numbers = {key.removeprefix(f"{name}_"): float(arrays[key]) for key in arrays if arrays[key].ndim == 0}
    intrinsics = torch.tensor([matrix[0, 0], matrix[1, 1], matrix[0, 2], matrix[1, 2]]).expand(len(inputs["depth"]), 4)
    case = Case(
        inputs["disparity"], inputs["depth"], intrinsics, inputs["camera_to_world"], max_depth_m=numbers["max_depth"]
    )
    return case, numbers


def static(height: int = 20, width: int = 30) -> Case:
    """Return a camera that stands still before a scene that does too, predicted exactly."""
    depth_m = 1 + 5 * torch.rand(height, width, generator=torch.Generator().manual_seed(0))
    depth_m = depth_m.expand(4, height, width).clone()
    intrinsics = torch.tensor([25.0, 26.0, 14.5, 9.5]).expand(4, 4)
    pose = golden("short")[0].camera_to_world
    assert pose is not None
    return Case(0.3 / depth_m + 0.1, depth_m, intrinsics, pose[2].expand(4, 4, 4), max_depth_m=80.0)


@pytest.mark.parametrize("name", ["short", "near"])
def test_published_numbers(name: str) -> None:
    case, expected = golden(name)
    found = case.metrics()
    assert found.absrel == pytest.approx(expected["absrel"], rel=1e-6)
    assert found.rmse == pytest.approx(expected["rmse"], rel=1e-6)
    assert found.delta1 == pytest.approx(expected["delta1"], rel=1e-6)
    assert found.tae == pytest.approx(expected["tae_x100"], rel=1e-6)
    assert 0.8 < found.tae_share < 1


@pytest.mark.parametrize("name", ["short", "near"])
def test_published_numbers_of_a_perfect_prediction(name: str) -> None:
    case, expected = golden(name)
    found = case.metrics(disparity=torch.where(case.depth_m > 0, 1 / case.depth_m, UNKNOWN_DISPARITY))
    assert found.tae == pytest.approx(expected["tae_x100_perfect"], rel=1e-6)
    assert found.absrel == pytest.approx(0, abs=1e-6)
    assert found.rmse == pytest.approx(0, abs=1e-5)
    assert found.delta1 == 1


@settings(max_examples=20, deadline=None)
@given(scale=st.floats(0.1, 100), shift=st.floats(0, 10))
def test_scale_and_shift_of_the_disparity_do_not_matter(scale: float, shift: float) -> None:
    case = golden("short")[0].first(3)
    expected, found = case.metrics(), case.metrics(disparity=scale * case.disparity.double() + shift)
    for field in dataclasses.fields(ClipMetrics):
        assert getattr(found, field.name) == pytest.approx(getattr(expected, field.name), rel=1e-6)


def test_a_still_scene_has_no_temporal_error() -> None:
    found = static().metrics()
    assert found.tae == pytest.approx(0, abs=1e-4)
    assert found.tae_share == 1
    assert found.absrel == pytest.approx(0, abs=1e-6)


def test_flicker_has_temporal_error() -> None:
    case = static()
    flicker = case.disparity * torch.tensor([1.0, 1.2, 1.0, 1.2]).view(4, 1, 1)
    tae = case.metrics(disparity=flicker).tae
    assert tae is not None
    assert tae > 5


def test_a_zooming_camera_uses_each_frames_intrinsics() -> None:
    """A tilted plane, 1/z = a + b x/z, seen with two focal lengths: what is left is the rounding to pixels."""
    intrinsics = torch.tensor([[50.0, 50, 19.5, 9.5], [100.0, 100, 19.5, 9.5]], dtype=torch.float64)
    tangent = (torch.arange(40) - intrinsics[:, 2:3]) / intrinsics[:, :1]
    disparity = (0.5 + 0.5 * tangent)[:, None].expand(2, 20, 40)
    poses = torch.eye(4, dtype=torch.float64).expand(2, 4, 4)
    tae = Case(disparity, 1 / disparity, intrinsics, poses, max_depth_m=80.0).metrics().tae
    assert tae is not None
    assert tae < 0.6


def test_without_poses_or_neighbours_there_is_no_tae() -> None:
    case, expected = golden("short")
    found = case.metrics(camera_to_world=None)
    assert (found.tae, found.tae_share) == (None, 0.0)
    assert found.absrel == pytest.approx(expected["absrel"], rel=1e-6)
    assert case.first(1).metrics().tae is None


def test_views_without_a_common_pixel_compare_nothing() -> None:
    case = static()
    turned = torch.diag(torch.tensor([-1.0, 1, -1, 1], dtype=torch.float64))
    assert case.camera_to_world is not None
    poses = torch.stack([case.camera_to_world[0], case.camera_to_world[0] @ turned])
    two = case.first(2)
    found = two.metrics(camera_to_world=poses)
    assert (found.tae, found.tae_share) == (0.0, 0.0)


@pytest.mark.parametrize("unknown", [math.nan, math.inf, -1.0, 80.0])
def test_unknown_depth_is_not_evaluated(unknown: float) -> None:
    case, _ = golden("short")
    assert case.metrics(depth_m=case.depth_m.masked_fill(case.depth_m == 0, unknown)) == case.metrics()


def test_frames_without_depth_do_not_count() -> None:
    case, _ = golden("short")
    depth_m = case.depth_m.clone()
    depth_m[4:] = 0
    cut = case.first(4).metrics()
    assert case.metrics(depth_m=depth_m).absrel == pytest.approx(cut.absrel, rel=1e-12)
    assert case.metrics(depth_m=depth_m).rmse == pytest.approx(cut.rmse, rel=1e-12)


def test_clip_without_depth_is_nan() -> None:
    case, _ = golden("short")
    found = case.metrics(depth_m=torch.zeros_like(case.depth_m))
    assert math.isnan(found.absrel) and math.isnan(found.delta1) and math.isnan(found.rmse)
    assert found.tae is None


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_prediction_that_is_not_finite_is_refused(value: float) -> None:
    case, _ = golden("short")
    disparity = case.disparity.clone()
    disparity[0, 0, 0] = value
    with pytest.raises(VdakitError, match="diverged"):
        case.metrics(disparity=disparity)


def test_constant_prediction_is_fitted_by_the_mean() -> None:
    case, _ = golden("short")
    found = case.metrics(disparity=torch.full_like(case.disparity, 0.4))
    assert 0.1 < found.absrel < 1


def test_mean_of_clips() -> None:
    clips = [
        ClipMetrics(absrel=0.1, delta1=0.9, rmse=1.0, tae=4.0, tae_share=0.8),
        ClipMetrics(absrel=0.3, delta1=0.7, rmse=2.0, tae=None, tae_share=0.0),
        ClipMetrics(absrel=math.nan, delta1=math.nan, rmse=math.nan, tae=None, tae_share=0.0),
    ]
    found = mean_metrics(clips)
    assert dataclasses.astuple(found) == pytest.approx((0.2, 0.8, 1.5, 4.0, 0.4))
    assert mean_metrics(clips[1:]).tae is None


@pytest.mark.parametrize("clips", [[], [ClipMetrics(math.nan, math.nan, math.nan, None, 0.0)]])
def test_mean_of_nothing_is_refused(clips: list[ClipMetrics]) -> None:
    with pytest.raises(DataError, match="no clip"):
        mean_metrics(clips)
