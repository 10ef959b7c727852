"""Recipes: each is whole and can be planned; what its data should be is said; its number is compared."""

import contextlib
import json
import math
import tomllib
from pathlib import Path

import pytest

from vdaprep import sources
from vdaprep.errors import DataError
from vdatrain.config import TrainConfig, from_mapping, parse_mix
from vdatrain.distributed import ranks
from vdatrain.distributed.ranks import Ranks
from vdatrain.evaluation.evaluate import Evaluation
from vdatrain.objectives.metrics import ClipMetrics
from vdatrain.training import recipes, trainer
from vdatrain.training.recipes import GPUS, Expected, hours_on

ROOT = Path(__file__).parents[2]
NAMES = recipes.names()


def evaluation(absrel: float) -> Evaluation:
    metrics = {"a": ClipMetrics(absrel=absrel, delta1=0.5, rmse=1.0, tae=None, tae_share=0.0)}
    return Evaluation(metrics, {"a": 1.0}, {"a": 1}, {}, {})


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_is_whole(name: str) -> None:
    recipe = recipes.load(name)
    config = from_mapping({"shards": "s", **recipe.options}, where=name)
    assert isinstance(config, TrainConfig)
    assert recipe.summary
    assert recipe.source
    assert recipe.licence
    known = {item.name for item in recipe.data}
    assert known <= set(sources.names())
    mix = parse_mix(config.mix)
    assert set(mix.numbers) <= known
    assert not mix.of_frames or set(mix.numbers) == known
    assert all(row.low <= row.high for row in recipe.expected)


@pytest.mark.parametrize("name", NAMES)
def test_sizes_are_those_of_the_manifests(name: str) -> None:
    for item in recipes.load(name).data:
        manifest = tomllib.loads((ROOT / "manifests" / f"{item.name}.toml").read_text())
        for profile, size in item.disk_gb.items():
            assert item.frames is not None
            kib = manifest["kib_per_frame"][profile]
            assert math.isclose(size, item.frames * kib * 1024 / 1e9, rel_tol=0.12, abs_tol=0.06), (item.name, profile)


def test_what_is_missing_is_named_with_its_size_and_command() -> None:
    recipe = recipes.load("earlier-study")
    recipe.check_data(["tartanair", "vkitti", "mvs-synth", "mine"], mix=None)
    with pytest.raises(DataError, match=r"are of vkitti, and it trains on tartanair \(210 GB to download, 5 GB"):
        recipe.check_data(["vkitti"], mix=None)
    with pytest.raises(DataError, match=r"vdaprep convert mvs-synth --profile tiny\), too; convert them"):
        recipe.check_data(["vkitti", "tartanair"], mix=None)
    recipe.check_data(["vkitti"], mix="vkitti=1")  # the user knows what is there


def test_a_number_is_compared() -> None:
    row = Expected("absrel", "average", 0.1, 0.2, "measured", "here")
    assert row.sentence(evaluation(0.15)) == "average absrel 0.1500, as expected: 0.1 to 0.2 (here)"
    assert "NOT as expected" in str(row.sentence(evaluation(0.25)))
    assert Expected("absrel", "kitti", 0.1, 0.1, "published", "they").sentence(evaluation(0.1)) is None
    assert Expected("tae", "average", 0.1, 0.1, "measured", "here").sentence(evaluation(0.1)) is None


def test_hours_follow_from_arithmetic() -> None:
    [fastest, *_] = sorted(GPUS, key=lambda gpu: -gpu.tflops)
    assert hours_on(fastest, flops_per_step=round(fastest.tflops * 1e12 * 0.35), steps=3600) == pytest.approx(1)


def test_the_commands_tell_recipes(vdatrain, tmp_path: Path) -> None:
    listed = vdatrain("recipes")
    assert (listed.code, all(name in listed.out for name in NAMES)) == (0, True)
    assert [row["name"] for row in json.loads(vdatrain("recipes", "--json").out)] == NAMES
    planned = vdatrain("plan", "--recipe", "tiny-cpu", "--device", "cpu")
    assert planned.code == 0
    assert "It fits" in planned.out
    assert "Hours for 150 steps" in planned.out
    unknown = vdatrain("run", "--recipe", "huge", "--shards", tmp_path)
    assert (unknown.code, "known: earlier-study, gemdepth-stage1-like" in unknown.err) == (2, True)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_each_recipe_is_planned_for_a_gpu(name: str, vdatrain) -> None:
    planned = vdatrain("plan", "--recipe", name, "--device-memory", "24GB")
    assert planned.code == 0
    if name == "one-gpu-24gb":
        assert "It fits" in planned.out
    assert "RTX 4090" in planned.out


def test_a_run_takes_a_recipe_and_needs_its_data(vdatrain, toy_shards: Path, tmp_path: Path) -> None:
    result = vdatrain("run", "--shards", toy_shards, "--recipe", "tiny-cpu", "--out", tmp_path / "run")
    assert result.code == 1
    assert "are of tartanair, and it trains on vkitti (vdaprep convert vkitti --profile tiny); mvs-synth" in result.err


def test_the_first_rank_alone_reads_options_and_shards(
    vdatrain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On other machines neither the file nor the folder has to be there."""
    settled = TrainConfig(shards="there").options(), "runs/there"
    given: list[TrainConfig] = []

    class Other(Ranks):
        def broadcast_from_rank0(self, value: object) -> object:
            assert value is None
            return settled

    def train(config: TrainConfig, **_: object) -> None:
        given.append(config)

    monkeypatch.setattr(ranks, "process_group", lambda: contextlib.nullcontext(Other(rank=1, world=2)))
    monkeypatch.setattr(trainer, "train", train)
    missing = tmp_path / "missing.toml"
    done = vdatrain("run", "--config", missing, "--recipe", "tiny-cpu", "--shards", tmp_path / "nowhere")
    assert (done.code, done.err) == (0, "")
    assert given == [TrainConfig(shards="there")]
