"""Evaluation under stress: images disturbed before differences, by clip and seed alone; depth as it was."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from vdaprep.shards.dataset import open_shards
from vdaprep.shards.pictures.stress import IMAGE_KINDS
from vdatrain.data.altered.stress import StressPlan
from vdatrain.data.batch import Batch, make_batch
from vdatrain.data.sampler import Window, WindowShape
from vdatrain.data.samples import Sample, read_window
from vdatrain.data.transforms import fit_view
from vdatrain.device import Precision
from vdatrain.evaluation.evaluate import EvaluationPlan, evaluate_clips
from vdatrain.evaluation.long import evaluate_long
from vdatrain.inference.predictor import Predictor
from vdatrain.models import variants

CPU = torch.device("cpu")


def window(shards: Path, *, first: int = 0, count: int = 6, stride: int = 1, dataset: str = "alpha") -> Sample:
    clip = max(
        (clip for clip in open_shards(shards).clips(split="train") if clip.dataset == dataset),
        key=lambda clip: clip.num_frames,
    )
    return read_window(clip, Window(0, 0, first, WindowShape(count, stride)))


def shown(sample: Sample) -> Batch:
    return make_batch([sample], [fit_view(sample.size, size=56)], device=CPU)


@pytest.mark.parametrize("kind", IMAGE_KINDS)
def test_differences_are_of_the_disturbed_images(kind: str, toy_shards: Path) -> None:
    clean = window(toy_shards, count=12)
    stressed = StressPlan((kind,)).apply(clean)
    assert stressed.differences is None
    assert not np.array_equal(stressed.rgb, clean.rgb)
    assert stressed.diff_valid.tolist() == [False] + 11 * [True]
    batch, before = shown(stressed), shown(clean)
    # What stored differences would be, had these images been stored: the same but for rounding to steps.
    assert clean.diff is not None
    stored = replace(clean, images=stressed.images, differences=None, diff=replace(clean.diff, origin="decoded"))
    assert torch.equal(batch.differences, shown(stored).differences)
    assert not torch.allclose(batch.differences[0, 1:], before.differences[0, 1:], atol=0.02)
    for name in ("disparity", "mask", "intrinsics", "camera_to_world"):
        assert torch.equal(getattr(batch, name), getattr(before, name))


def test_windows_that_share_frames_see_them_alike_and_seeds_differ(toy_shards: Path) -> None:
    plan = StressPlan(("rain", "flicker2", "flash", "noise"), seed=3)
    one, other = (plan.apply(window(toy_shards, first=first)) for first in (0, 4))
    assert torch.equal(one.rgb[4:], other.rgb[:2])
    assert not torch.equal(one.rgb, replace(plan, seed=4).apply(window(toy_shards)).rgb)
    renamed = plan.apply(replace(window(toy_shards), key="alpha-other"))
    assert not torch.equal(one.rgb, renamed.rgb)


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_flicker_is_of_the_frames_that_the_model_sees(stride: int, toy_shards: Path) -> None:
    clean = window(toy_shards, count=5, stride=stride)
    change = StressPlan(("flicker1",)).apply(clean).rgb.double().mean((1, 2, 3)) - clean.rgb.double().mean((1, 2, 3))
    assert (change[1:] * change[:-1] < 0).all()


def test_without_differences_there_are_none_under_stress(toy_shards: Path) -> None:
    clean = window(toy_shards, dataset="beta", count=4)
    stressed = StressPlan(("noise",)).apply(clean)
    assert (stressed.diff, stressed.diff_valid.any()) == (None, False)
    assert shown(stressed).differences.eq(0).all()
    assert StressPlan().apply(clean) is clean


class Brightness(torch.nn.Module):
    """Predicts the grey level, or where `blind` the picture's rows."""

    def __init__(self, *, blind: bool = False) -> None:
        super().__init__()
        self.blind = blind

    def forward(self, frames: torch.Tensor, differences: torch.Tensor, diff_valid: torch.Tensor) -> torch.Tensor:
        rows = torch.arange(1.0, frames.shape[-2] + 1)[:, None]
        return rows.expand(frames.mean(2).shape) if self.blind else frames.mean(2) + 3


def test_an_evaluation_under_stress(toy_shards: Path) -> None:
    clips = open_shards(toy_shards).clips(split="train")
    plan = EvaluationPlan(WindowShape(4, 1), size=28, windows=4)
    stressed = replace(plan, stress=StressPlan(("flicker1",)))
    precision = Precision(CPU)
    clean, first, again = (
        evaluate_clips(Brightness(), clips, one, precision=precision) for one in (plan, stressed, stressed)
    )
    assert first.to_json() == again.to_json()
    assert first.average()["absrel"] != clean.average()["absrel"]
    assert not np.array_equal(first.galleries["alpha"].frames, clean.galleries["alpha"].frames)
    assert np.array_equal(first.galleries["alpha"].truth, clean.galleries["alpha"].truth)
    blind = [
        evaluate_clips(Brightness(blind=True), clips, one, precision=precision).to_json() for one in (plan, stressed)
    ]
    assert blind[0] == blind[1]


def test_whole_trajectories_under_stress(toy_shards: Path) -> None:
    clips = [clip for clip in open_shards(toy_shards).clips(split="train") if clip.dataset == "alpha"][:1]
    predictor = Predictor(variants.build("basic", encoder="tiny").eval(), Precision(CPU), size=28)
    plans = (StressPlan(), StressPlan(("flicker1",)), StressPlan(("flicker1",)), StressPlan(("flicker1",), seed=1))
    clean, first, again, other = (evaluate_long(clips, predictor, stress=plan).to_json() for plan in plans)
    assert first == again
    assert len({found["average"]["absrel"] for found in (clean, first, other)}) == 3
