"""Images from shards of their own beside windows: their order, loss, shares, licences, and what is refused."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.unit.train.conftest import RELATIVE
from vdaprep.errors import DataError, UsageError
from vdaprep.shards.dataset import open_shards
from vdatrain.config import TrainConfig
from vdatrain.data.batch import Batch
from vdatrain.data.loader import TrainLoader
from vdatrain.device import Precision
from vdatrain.training import state, step, trainer
from vdatrain.training.state import TrainState

CPU = Precision(torch.device("cpu"))
TEACHER = {
    "licence": "CC0",
    "commercial": True,
    "teacher_terms": [{"dataset": "big-teacher", "licence": "CC BY-NC 4.0", "citation": "They", "commercial": False}],
}


@pytest.fixture(scope="session")
def image_shards(write_dataset: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Single frames: five that a teacher labelled, three with truth; do not write to it."""
    folder = tmp_path_factory.mktemp("images")
    plain = {"diff": None, "poses": False}
    write_dataset(folder / "photos", lengths=(1,) * 5, size=(44, 60), depth=RELATIVE, source=TEACHER, **plain)
    write_dataset(folder / "rendered", lengths=(1,) * 3, size=(60, 48), **plain)
    return folder


@pytest.fixture
def config(toy_shards: Path, image_shards: Path) -> TrainConfig:
    small = {"encoder": "tiny", "frames": 2, "size": 28, "batch": 2, "steps": 4, "warmup": 1, "ema": 0.5, "workers": 0}
    return TrainConfig(
        shards=str(toy_shards), images=str(image_shards), images_per_clip=3, log_every=1, eval_every=100,
        save_every=2, track="none", **small,
    )  # fmt: skip


def batches(config: TrainConfig, count: int, *, start: int = 0, **ranks: int) -> list[Batch]:
    with TrainLoader(config, device=torch.device("cpu"), start=start, **ranks) as loader:
        return [next(loader) for _ in range(count)]


def images_of(found: list[Batch]) -> list[Batch]:
    return [batch.images for batch in found if batch.images is not None]


def test_both_are_in_one_batch_and_windows_are_those_without_images(config: TrainConfig) -> None:
    beside, plain = batches(config, 4), batches(replace(config, images="", images_per_clip=0), 4)
    for ours, theirs in zip(beside, plain, strict=True):
        assert torch.equal(ours.frames, theirs.frames)
        assert ours.images is not None
        assert ours.images.frames.shape[:2] == (6, 1)
        assert ours.images.taught.tolist() == [name == "photos" for name in ours.images.datasets]
        assert not ours.taught.any()
    shown = [key for batch in images_of(beside) for key in batch.keys]
    assert all(sorted(set(shown[first : first + 8])) == sorted(shown[first : first + 8]) for first in (0, 8, 16))


@pytest.mark.parametrize("ranks", [1, 2])
def test_their_order_is_one_of_positions(ranks: int, config: TrainConfig) -> None:
    """From any position on, for any number of ranks, the same images are beside a global batch."""
    whole = images_of(batches(replace(config, batch=4), 3))
    for rank in range(ranks):
        parts = batches(replace(config, batch=4 // ranks), 2, start=4, rank=rank, world_size=ranks)
        for all_, mine in zip(whole[1:], images_of(parts), strict=True):
            assert mine.keys == all_.keys[rank::ranks]
            assert torch.equal(mine.disparity, all_.disparity[rank::ranks])


def begun(config: TrainConfig, folder: Path) -> TrainState:
    folder.mkdir(exist_ok=True)
    return state.new_state(config, folder, precision=CPU)


def test_distill_weighs_what_a_teacher_labelled(config: TrainConfig, tmp_path: Path) -> None:
    [batch] = batches(replace(config, images_per_clip=8), 1)
    assert batch.images is not None
    assert 0 < batch.images.taught.sum() < len(batch.images.taught)
    figures = {}
    for weight in (0.0, 0.5, 1.0):
        run = begun(replace(config, distill=weight), tmp_path / str(weight))
        total, spatial, temporal, images = step.accumulate_gradient(run, batch).tolist()
        assert total == pytest.approx(spatial + 10 * temporal + images, rel=1e-5)
        figures[weight] = images
    assert figures[0.5] == pytest.approx((figures[0.0] + figures[1.0]) / 2, rel=1e-5)
    assert figures[0.0] < figures[0.5]


def test_a_run_is_resumed_with_the_same_images(config: TrainConfig, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    trainer.train(config, out=whole)
    trainer.train(replace(config, steps=2), out=parts)
    # As if it had been stopped after two of four steps, whose learning rates are other ones.
    stopped = json.loads((parts / "config.json").read_text())["config"]
    assert stopped["images"] == config.images
    first = log_of(parts)
    trainer.train(config, out=parts, resume=True)
    assert [line["step"] for line in log_of(parts)] == [1, 2, 3, 4]
    assert log_of(parts)[0]["images"] == first[0]["images"] == log_of(whole)[0]["images"]
    shares = [json.loads(line) for line in (whole / "log.jsonl").read_text().splitlines()]
    [mix] = [line["mix"] for line in shares if "mix" in line]
    [image_mix] = [line["image_mix"] for line in shares if "image_mix" in line]
    assert set(mix) == {"alpha", "beta"}
    assert image_mix == {
        "photos": {"expected": 0.625, "shown": pytest.approx(15 / 24, abs=0.05)},
        "rendered": {"expected": 0.375, "shown": pytest.approx(9 / 24, abs=0.05)},
    }


def log_of(folder: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if "total" in line]


def test_other_images_are_another_run(config: TrainConfig, tmp_path: Path, write_dataset: Callable[..., Path]) -> None:
    trainer.train(replace(config, steps=1), out=tmp_path / "run")
    others = write_dataset(tmp_path / "others", lengths=(1, 1), size=(44, 60), depth=RELATIVE, diff=None, poses=False)
    with pytest.raises(DataError, match=f"and {others}: are not the shards that"):
        trainer.train(replace(config, steps=1, images=str(others)), out=tmp_path / "run", resume=True)


def test_the_teacher_is_named_and_its_licence_counts(config: TrainConfig, image_shards: Path, tmp_path: Path) -> None:
    assert [terms.dataset for terms in open_shards(image_shards).terms()] == ["big-teacher", "photos", "rendered"]
    assert "big-teacher" in {terms.dataset for terms in begun(config, tmp_path / "run").data}
    mine = replace(config, shards=str(image_shards / "photos"), frames=1, licence="commercial")
    with pytest.raises(UsageError, match=r"these data sets are known to allow: big-teacher \(CC BY-NC 4.0\)"):
        begun(replace(mine, images="", images_per_clip=0), tmp_path / "a")


@pytest.mark.parametrize(
    ("options", "error", "sentence"),
    [
        ({"images_per_clip": 0}, UsageError, "--images: none of them would be shown; say how many .*--images-per-clip"),
        ({"images": "nowhere"}, DataError, "nowhere: is no folder"),
        ({"images": "{unlabelled}"}, DataError, "frames of waiting have no labels, .* vdatrain label writes"),
        ({"shards": "{unlabelled}"}, DataError, "frames of waiting have no labels, .* vdatrain label writes"),
    ],
)
def test_what_cannot_be_learnt_from_is_refused(
    options: dict[str, object],
    error: type[Exception],
    sentence: str,
    config: TrainConfig,
    tmp_path: Path,
    write_dataset: Callable[..., Path],
) -> None:
    waiting = write_dataset(tmp_path / "waiting", lengths=(3, 3), size=(44, 60), depth=None, diff=None, poses=False)
    given = {name: str(waiting) if value == "{unlabelled}" else value for name, value in options.items()}
    with pytest.raises(error, match=sentence):
        trainer.train(replace(config, **given), out=tmp_path / "run")
