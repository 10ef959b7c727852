"""Differences other than a window's own: decoded ones, and those of another clip."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.models import lively
from vdaprep.errors import DataError, UsageError
from vdaprep.shards.dataset import open_shards
from vdatrain.config import TrainConfig
from vdatrain.data.altered.differences import decoded, foreign_window, others_of
from vdatrain.data.batch import make_batch
from vdatrain.data.loader import EvalLoader, TrainLoader, eval_order
from vdatrain.data.sampler import Window, WindowShape
from vdatrain.data.samples import Sample, read_window
from vdatrain.data.transforms import fit_view
from vdatrain.device import Precision
from vdatrain.evaluation.evaluate import evaluate, plan_evaluation
from vdatrain.inference.predictor import Predictor
from vdatrain.inference.video_reader import VideoFrame
from vdatrain.models.loading import build_from_config
from vdatrain.models.variants import build

CPU = torch.device("cpu")


def config(shards: Path, **options: object) -> TrainConfig:
    small = {"encoder": "tiny", "frames": 4, "size": 28, "batch": 3, "workers": 0, "variant": "conv"}
    return TrainConfig(shards=str(shards), **{**small, **options})


def window_of(shards: Path, number: int) -> Sample:
    return read_window(open_shards(shards).clips(split="train")[number], Window(0, number, 0, WindowShape(4)))


def first_batch(config: TrainConfig):
    with TrainLoader(config, device=CPU) as loader:
        return next(loader)


@pytest.mark.parametrize("number", [2, 5], ids=["with stored ones", "without"])
def test_decoded_differences_are_those_of_the_stored_frames(number: int, toy_shards: Path) -> None:
    sample = window_of(toy_shards, number)
    view = fit_view(sample.size, size=28)
    batch = make_batch([decoded(sample)], [view], device=CPU)
    assert batch.diff_valid.tolist() == [[False, True, True, True]]
    assert not batch.differences[0, 0].any()
    rgb = (sample.rgb // 2) + 9 * torch.arange(4, dtype=torch.uint8)[:, None, None, None]
    flat = make_batch([decoded(replace(sample, images=rgb * 0 + rgb[:, :1, :1]))], [view], device=CPU)
    steps = rgb[:, 0, 0].float().diff(dim=0) / 255
    torch.testing.assert_close(flat.differences[0, 1:], steps[:, :, None, None].expand(-1, -1, *view_cells(flat)))
    if sample.diff is not None:
        stored = make_batch([sample], [view], device=CPU)
        assert not torch.equal(stored.differences, batch.differences)
        assert (stored.differences - batch.differences)[0, 1:].abs().mean() < 0.02 < batch.differences.std()


@pytest.mark.parametrize(("variant", "cells"), [("coarse", 2), ("conv", 4), ("fine", 8)])
@pytest.mark.parametrize("shown", ["both", "decoded"])
def test_a_variant_is_given_as_many_cells_as_it_takes(variant: str, cells: int, shown: str, toy_shards: Path) -> None:
    """Taken at 1/8, 1/4 and 1/2 of the frame's scale: where a window moves, all move alike."""
    given = config(toy_shards, variant=variant, differences=shown)
    batch, conv = first_batch(given), first_batch(replace(given, variant="conv"))
    assert view_cells(batch) == (2 * cells, 2 * cells)
    assert torch.equal(batch.diff_valid, conv.diff_valid)
    whole, other = (one.differences.mean(dim=(-2, -1)) for one in (batch, conv))
    assert (whole - other).abs().mean() < 0.15 * other.abs().mean()
    plan = plan_evaluation(Predictor(build(variant, encoder="tiny"), Precision(CPU), size=28, num_frames=4))
    [first, *_] = EvalLoader(
        open_shards(toy_shards).clips(split="train"), [Window(0, 0, 0, WindowShape(4))], size=28, workers=0,
        differences="decoded", cells=plan.cells,
    )  # fmt: skip
    assert view_cells(first)[0] == 2 * cells


def view_cells(batch) -> tuple[int, int]:
    return batch.differences.shape[-2], batch.differences.shape[-1]


def test_a_run_takes_the_differences_that_it_asks_for(toy_shards: Path) -> None:
    own = first_batch(config(toy_shards))
    for shown in ("past", "zeros"):  # which the model hides itself
        assert torch.equal(first_batch(config(toy_shards, differences=shown)).differences, own.differences)
    of_frames = first_batch(config(toy_shards, differences="decoded"))
    assert torch.equal(of_frames.frames, own.frames)
    assert of_frames.diff_valid.tolist() == [[False, True, True, True]] * 3
    others = first_batch(config(toy_shards, differences="shuffled"))
    assert torch.equal(others.frames, own.frames)
    assert others.keys == own.keys
    for row, key in enumerate(own.keys):
        found = [
            other
            for other in range(3)
            if torch.equal(others.differences[row], own.differences[other])
            and torch.equal(others.diff_valid[row], own.diff_valid[other])
        ]
        assert found
        assert all(own.keys[other] != key for other in found) or set(own.keys) == {key}


@pytest.mark.parametrize(
    ("keys", "given"),
    [("abc", "bca"), ("aab", "bba"), ("aba", "bab"), ("aa", "aa"), ("abbb", "baaa"), ("a", "a")],
)
def test_each_window_is_given_those_of_another_clip(keys: str, given: str) -> None:
    assert "".join(keys[row] for row in others_of(keys)) == given


def test_images_beside_windows_are_given_those_of_other_images(toy_shards: Path) -> None:
    own, others = (
        first_batch(config(toy_shards, images_per_clip=2, differences=shown)).images for shown in ("both", "shuffled")
    )
    assert own is not None
    assert others is not None
    given = others_of(own.keys)
    assert torch.equal(own.differences[given], others.differences)
    assert given != list(range(len(given)))


def test_an_evaluation_shows_those_of_another_held_out_clip(toy_shards: Path) -> None:
    clips = open_shards(toy_shards).clips(split="train")
    order = eval_order(clips, WindowShape(4))
    foreign = [foreign_window(order, position) for position in range(len(order))]
    assert all(one.clip != other.clip for one, other in zip(order, foreign, strict=True))
    loaders = [
        EvalLoader(clips, order, size=28, workers=0, differences="shuffled", foreign=foreign),
        EvalLoader(clips, order, size=28, workers=0),
        EvalLoader(clips, foreign, size=28, workers=0),
    ]
    alike = 0
    for shown, own, other in zip(*loaders, strict=True):
        assert torch.equal(shown.frames, own.frames)
        assert torch.equal(shown.disparity, own.disparity)
        assert shown.differences.shape == own.differences.shape
        if own.frames.shape == other.frames.shape:
            alike += 1
            assert torch.equal(shown.differences, other.differences)
            assert torch.equal(shown.diff_valid, other.diff_valid)
    assert alike > 3


def test_an_evaluation_of_a_single_clip_has_no_other(toy_shards: Path) -> None:
    clips = open_shards(toy_shards).clips(split="train")
    order = [window for window in eval_order(clips, WindowShape(4)) if window.clip == 0]
    with pytest.raises(UsageError, match="--differences shuffled: all windows of the evaluation are of one clip"):
        foreign_window(order, 0)


@pytest.mark.slow
def test_what_was_trained_is_what_is_evaluated(toy_shards: Path) -> None:
    model = lively("conv").eval()
    figures: dict[str, object] = {}
    for shown in ("both", "decoded", "shuffled"):
        predictor = Predictor(model, Precision(CPU), 28, differences=shown, num_frames=4)
        figures[shown] = evaluate(predictor, toy_shards, split="train", workers=0).average()["absrel"]
    assert len(set(figures.values())) == 3


def test_a_video_alone_has_no_other_clip(toy_frame) -> None:
    predictor = Predictor(lively("conv").eval(), Precision(CPU), 28, differences="shuffled")
    frames = [VideoFrame(number, toy_frame(0, number, (30, 40))[0]) for number in range(3)]
    with pytest.raises(UsageError, match="measure it with vdatrain eval, without --long"):
        predictor.predict_frames(frames)


class Spy(nn.Module):
    """A model that keeps the differences that it is shown."""

    def forward(self, frames: Tensor, differences: Tensor, diff_valid: Tensor) -> Tensor:
        self.differences = differences
        return frames[:, :, 0]


def test_a_video_is_decoded_for_a_model_that_learnt_so(toy_frame) -> None:
    frames = [VideoFrame(number, toy_frame(0, number, (28, 56))[0]) for number in range(2)]
    shown = []
    for differences in ("both", "decoded"):
        spy = Spy()
        eye = Predictor(spy, Precision(CPU), 28, differences=differences)
        eye.predict_window([eye.prepare(frame) for frame in frames])
        shown.append(spy.differences[0, 1])
    assert 0 < (shown[0] - shown[1]).abs().max() <= 1.01 / 255  # stored ones are whole steps of two grey levels


@pytest.mark.parametrize("shown", ["both", "past", "decoded", "zeros", "shuffled"])
def test_shards_without_differences_serve_what_needs_none(shown: str, toy_shards: Path) -> None:
    asked = config(toy_shards / "beta", differences=shown)
    if shown in ("decoded", "zeros"):
        assert first_batch(asked).differences.any() == (shown == "decoded")
        return
    with pytest.raises(DataError, match=re.escape("or train with --differences decoded, or --variant basic")):
        TrainLoader(asked, device=CPU)


def test_a_model_hides_what_its_configuration_says(toy_shards: Path) -> None:
    model = build_from_config(config(toy_shards, differences="past", attention="causal"))
    assert (model.differences_shown, model.past_only) == ("past", True)
    model = build_from_config(config(toy_shards, differences="shuffled"))
    assert (model.differences_shown, model.past_only) == ("both", False)
    with pytest.raises(UsageError, match="--differences shuffled .*; give --batch 2 or more"):
        config(toy_shards, differences="shuffled", batch=1)
