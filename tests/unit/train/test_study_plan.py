"""Arms of a study and its plan: what is shared, what is done, what is refused."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from vdaprep.errors import DataError, UsageError, VdakitError
from vdaprep.shards.dataset import open_shards
from vdatrain.config import TrainConfig
from vdatrain.data.loader import TrainLoader
from vdatrain.device import Precision
from vdatrain.evaluation.windows import WindowFigures, write_windows
from vdatrain.run_dir import write_facts
from vdatrain.training.state import new_state
from vdatrain.training.study import plan as study_plan
from vdatrain.training.study.arms import ArmSpec, check_arms, parse_arms, read_arms
from vdatrain.training.study.plan import StudyPlan, parse_seeds, plan_study, run_folder
from vdatrain.training.study.summary import scene_of, summarise
from vdatrain.training.study.worker import OUTCOME_FILE

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("basic,conv", [("basic", "basic", {}), ("conv", "conv", {})]),
        ("conv:zeros", [("conv:zeros", "conv", {"differences": "zeros"})]),
        ("basic+lr=1e-4", [("basic+lr=1e-4", "basic", {"lr": 1e-4})]),
        ("basic+past-only=true+ema=0", [("basic+past-only=true+ema=0", "basic", {"past_only": True, "ema": 0})]),
        ("conv:past+clip=2", [("conv:past+clip=2", "conv", {"differences": "past", "clip": 2})]),
        (" basic , diff ", [("basic", "basic", {}), ("diff", "diff", {})]),
        ("", []),
    ],
)  # fmt: skip
def test_arms_as_text(text: str, expected: list[tuple[str, str, dict[str, Any]]]) -> None:
    assert [(arm.name, arm.variant, dict(arm.options)) for arm in parse_arms(text)] == expected


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("basic,,conv", "has an arm without a variant"),
        (":zeros", "has an arm without a variant"),
        ("conv+", "'' is not understood"),
        ("conv+lr", "'lr' is not understood"),
        ("conv+lr=1+lr=2", "'lr=2' is not understood; expected each option once"),
        ("conv:zeros+differences=past", "'differences=past' is not understood"),
        ("conv+steps=9", "has --steps of its own, which all arms have to share"),
        ("conv+preset=paper+size=28", "has --preset, --size of its own"),
        ("c" * 81, "expected a name of 1 to 80 characters"),
    ],
)
def test_what_no_arm_is(text: str, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence.replace("+", r"\+")):
        parse_arms(text)


def test_arms_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "arms.toml"
    path.write_text(
        '[arms.basic]\nvariant = "basic"\n[arms."conv, half"]\nvariant = "conv"\nlr = 0.5\nmix = "a=1,b=2"\n'
    )
    with pytest.raises(UsageError, match="arm conv, half: has --mix of its own"):
        read_arms(path)
    path.write_text(path.read_text().replace('mix = "a=1,b=2"\n', ""))
    basic, half = read_arms(path)
    assert (basic, half) == (ArmSpec("basic", "basic", {}), ArmSpec("conv, half", "conv", {"lr": 0.5}))
    assert half.folder == "conv-half"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (None, "cannot be read"),
        ("arms", "is not valid TOML"),
        ("", "arms is missing"),
        ("[arms]", "has no arm"),
        ("[arms.x]\nlr = 1", "arm x: has no variant"),
        ("arms = 3", "expected a table"),
    ],
)
def test_a_file_of_no_arms(text: str | None, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "arms.toml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UsageError, match=sentence):
        read_arms(path)


@pytest.mark.parametrize(
    ("text", "baseline"), [("conv,basic", "basic"), ("conv,diff", "conv"), ("basic:zeros,conv", "basic:zeros")]
)
def test_the_baseline_is_basic_or_the_first(text: str, baseline: str) -> None:
    assert check_arms(parse_arms(text)) == baseline


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("basic", "compares two arms or more"),
        ("basic,basic", "its name basic is another's"),
        ("conv:zeros,conv-zeros", "its folder conv-zeros is another's"),
    ],
)
def test_arms_that_cannot_be_told_apart(text: str, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        check_arms(parse_arms(text))


@pytest.mark.parametrize("text", ["", "0,0", "0,00", "a", "1.5", "-1", "0,,1", "9" * 30])
def test_seeds_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match="expected different whole numbers"):
        parse_seeds(text)


def test_seeds() -> None:
    assert parse_seeds("3, 1,2") == [3, 1, 2]


@pytest.mark.parametrize(
    ("trajectory", "scene"),
    [("Scene01/fog", "Scene01"), ("abandonedfactory/Easy/P001", "abandonedfactory"), ("7", "7")],
)
def test_the_scene_of_a_trajectory(trajectory: str, scene: str) -> None:
    assert scene_of(trajectory) == scene


# ------------------------------------------------------------------------------------------------------ equal for all


@pytest.fixture(scope="module")
def shards(write_dataset: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set to train on and one to measure on."""
    folder = tmp_path_factory.mktemp("study")
    write_dataset(folder / "alpha", lengths=(9, 8, 12))
    write_dataset(folder / "beta", lengths=(6, 6), split="val")
    return folder


@pytest.fixture
def common(shards: Path) -> TrainConfig:
    return TrainConfig(
        shards=str(shards), encoder="tiny", frames=3, size=28, batch=2, steps=4, warmup=1, ema=0.5, workers=0,
        eval_every=2, track="none", final="last", device="cpu",
    )  # fmt: skip


ARMS = parse_arms("basic,conv,conv:zeros,conv:shuffled,conv:past,diff,crossatt,film,gate,tdn,token,basic+lr=1e-3")


def test_all_arms_see_the_same_windows_and_begin_alike(common: TrainConfig, tmp_path: Path) -> None:
    """Keys and pixels of the first batches, and what the untrained models predict, bit for bit."""
    seen: dict[str, list[tuple[tuple[str, ...], torch.Tensor]]] = {}
    predicted: dict[str, torch.Tensor] = {}
    learning: dict[str, set[str]] = {}
    for arm in ARMS:
        config = arm.config(common, seed=5)
        run = new_state(config, tmp_path / arm.folder, precision=Precision(CPU))
        with TrainLoader(config, device=CPU) as loader:
            batches = [next(loader) for _ in range(3)]
        seen[arm.name] = [(tuple(batch.keys), batch.frames) for batch in batches]
        with torch.no_grad():
            run.model.eval()
            predicted[arm.name] = run.model(batches[0].frames, batches[0].differences, batches[0].diff_valid)
        own = run.model.own_prefixes
        names = {name for name, value in run.model.named_parameters() if value.requires_grad}
        learning[arm.name] = {name for name in names if not own or not name.startswith(own)}
    for name in seen:
        assert [keys for keys, _ in seen[name]] == [keys for keys, _ in seen["basic"]], name
        assert all(torch.equal(a[1], b[1]) for a, b in zip(seen[name], seen["basic"], strict=True)), name
        assert torch.equal(predicted[name], predicted["basic"]), name
        assert learning[name] == learning["basic"], name
    assert not torch.equal(seen["basic"][0][1], seen["basic"][1][1])


# ---------------------------------------------------------------------------------------------------------------- plan


def write_run(folder: Path, config: TrainConfig, *, steps: int, step: int | None = None) -> None:
    """Write what a run leaves behind: its options, a log of `steps` steps and, with `step`, an evaluation of that."""
    write_facts(folder, {"config": config.to_json(), "data": open_shards(config.shards).fingerprint})
    lines = [{"step": number, "step_s": 0.5, "memory_bytes": 1000} for number in range(1, steps + 1)]
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if step is not None:
        figures = {"absrel": 0.5, "delta1": 0.5, "tae": 0.5}
        evaluation = {
            "datasets": {"beta": figures}, "average": figures, "step": step, "config": config.to_json(),
            "protocol": {"split": "val", "size": 28, "frames": 3, "stride": 1}, "data": {"beta": "0" * 64},
        }  # fmt: skip
        (folder / "evaluation.json").write_text(json.dumps(evaluation))
        clips = open_shards(config.shards).clips(split="val")
        write_windows(folder, [WindowFigures("beta", clip.key, 0, 0.5, 0.5, 0.5, 0.5, 0.5) for clip in clips])


def planned(common: TrainConfig, out: Path, *, text: str = "basic,conv", seeds: str = "0,1") -> StudyPlan:
    return plan_study(parse_arms(text), common, seeds=parse_seeds(seeds), out=out)


@pytest.mark.slow
def test_a_plan_tells_what_is_over_and_what_is_left(common: TrainConfig, tmp_path: Path) -> None:
    basic, conv = parse_arms("basic,conv")
    write_run(run_folder(tmp_path, basic, 0), basic.config(common, seed=0), steps=4, step=4)
    write_run(run_folder(tmp_path, conv, 0), conv.config(common, seed=0), steps=3)
    diverged = run_folder(tmp_path, conv, 1)
    write_run(diverged, conv.config(common, seed=1), steps=2)
    (diverged / OUTCOME_FILE).write_text('{"state": "diverged", "sentence": "nan"}\n')
    plan = planned(common, tmp_path)
    assert [(run.arm, run.config.seed, run.steps_done, run.is_over, run.diverged) for run in plan.runs] == [
        ("basic", 0, 4, True, None),
        ("basic", 1, 0, False, None),
        ("conv", 0, 3, False, None),
        ("conv", 1, 2, True, "nan"),
    ]
    assert [(run.arm, run.config.seed) for run in plan.left] == [("conv", 0), ("basic", 1)]
    assert plan.efforts["basic"].is_measured
    # Four steps of 0.5 s, three evaluations of two windows and the last, a window taking a sixth of a step of two.
    assert plan.efforts["basic"].hours_left * 3600 == pytest.approx(4 * 0.5 + (3 * 4 + 4) * 0.5 / 6)
    results = summarise(plan.runs, parse_arms("basic,conv"), baseline="basic", out=tmp_path)
    assert [run.state for arm in results.arms for run in arm.runs] == ["finished", "missing", "missing", "diverged"]
    assert results.arms[1].cost is None
    assert results.arms[0].cost is not None
    assert (results.arms[0].cost.step_s, results.arms[0].cost.memory_bytes) == (0.5, 1000)
    assert results.remarks[:3] == [
        "conv, seed 1, diverged and is left out: nan",
        "basic, seed 1, is not finished and is left out.",
        "conv, seed 0, is not finished and is left out.",
    ]


@pytest.mark.slow
def test_a_new_study_is_planned_by_arithmetic(common: TrainConfig, tmp_path: Path) -> None:
    plan = planned(common, tmp_path)
    assert len(plan.left) == 4
    assert not plan.efforts["conv"].is_measured
    assert plan.efforts["conv"].hours_left > plan.efforts["basic"].hours_left > 0
    assert plan.efforts["conv"].memory_bytes > plan.efforts["basic"].memory_bytes > 1 << 20
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_study_whose_runs_all_diverged_says_why(common: TrainConfig, tmp_path: Path) -> None:
    for arm in parse_arms("basic,conv"):
        write_run(run_folder(tmp_path, arm, 0), arm.config(common, seed=0), steps=2)
        (run_folder(tmp_path, arm, 0) / OUTCOME_FILE).write_text('{"state": "diverged", "sentence": "nan at step 2."}')
    with pytest.raises(DataError, match=r"no run is finished, all that are over diverged: nan at step 2\.$"):
        summarise(planned(common, tmp_path, seeds="0").runs, parse_arms("basic,conv"), baseline="basic", out=tmp_path)


DAMAGE: dict[str, tuple[str, Callable[[str], str], str]] = {
    "no JSON": ("config.json", lambda text: text[:9], "config.json: is not valid JSON"),
    "no run's options": ("config.json", lambda text: text.replace('"frames"', '"fames"'), "there is no option"),
    "an evaluation cut short": ("evaluation.json", lambda text: text[:40], "evaluation.json: is not valid JSON"),
    "an evaluation without figures": ("evaluation.json", lambda text: text.replace("absrel", "x"), "absrel is missing"),
    "a log of no lines": ("log.jsonl", lambda text: "{\n" + text, "log.jsonl: holds a line that is no JSON"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_folder_is_named_with_what_to_do(name: str, common: TrainConfig, tmp_path: Path) -> None:
    file, spoil, sentence = DAMAGE[name]
    basic = parse_arms("basic")[0]
    folder = run_folder(tmp_path, basic, 0)
    write_run(folder, basic.config(common, seed=0), steps=4, step=4)
    (folder / file).write_text(spoil((folder / file).read_text()))
    with pytest.raises(DataError) as caught:
        planned(common, tmp_path)
    assert sentence in str(caught.value)
    assert str(folder) in str(caught.value)
    assert str(caught.value).endswith(f"delete {folder} and run the same command again, which trains that run anew.")


@pytest.mark.slow
def test_windows_that_are_damaged_are_named_by_the_summary(common: TrainConfig, tmp_path: Path) -> None:
    basic = parse_arms("basic")[0]
    folder = run_folder(tmp_path, basic, 0)
    write_run(folder, basic.config(common, seed=0), steps=4, step=4)
    (folder / "windows.jsonl").write_text("")
    with pytest.raises(DataError, match=r"seed-0/windows.jsonl: ends early, after 0 lines; delete the folder"):
        summarise(planned(common, tmp_path).runs, parse_arms("basic,conv"), baseline="basic", out=tmp_path)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "another rate": ({"lr": 0.5}, "--lr None, not 0.5"),
    "more steps": ({"steps": 9}, "--steps 4, not 9"),
    "another batch": ({"batch": 4}, "--batch 2, not 4"),
    "another evaluation": ({"final": "best"}, "--final last, not best"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", REFUSED)
def test_a_study_goes_on_with_the_options_that_it_began_with(name: str, common: TrainConfig, tmp_path: Path) -> None:
    changed, sentence = REFUSED[name]
    basic = parse_arms("basic")[0]
    write_run(run_folder(tmp_path, basic, 0), basic.config(common, seed=0), steps=4, step=4)
    with pytest.raises(UsageError, match=f"seed-0: was trained with {sentence}; choose another --out"):
        planned(replace(common, **changed), tmp_path)
    planned(replace(common, save_every=7, stall_timeout=9.0), tmp_path)  # which change nothing


def test_other_shards_are_refused(common: TrainConfig, tmp_path: Path, toy_shards: Path) -> None:
    basic = parse_arms("basic")[0]
    write_run(run_folder(tmp_path, basic, 0), basic.config(common, seed=0), steps=4, step=4)
    facts = json.loads((run_folder(tmp_path, basic, 0) / "config.json").read_text())
    (run_folder(tmp_path, basic, 0) / "config.json").write_text(json.dumps({**facts, "data": "1" * 64}))
    with pytest.raises(DataError, match="seed-0: was trained on other shards than"):
        planned(common, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        pytest.param({"eval_split": "test"}, "have no split 'test' to measure on, only train, val", id="held out"),
        pytest.param({"train_split": "val"}, "no", id="no differences"),
    ],
)
def test_what_there_is_no_data_for(
    changed: dict[str, Any], sentence: str, write_dataset: Callable[..., Path], common: TrainConfig, tmp_path: Path
) -> None:
    if "train_split" in changed:
        write_dataset(tmp_path / "shards" / "gamma", lengths=(6, 6), diff=None)
        write_dataset(tmp_path / "shards" / "delta", lengths=(6, 6), split="val", diff=None)
        changed, sentence = {"shards": str(tmp_path / "shards")}, "have no frame differences, which conv looks at"
    with pytest.raises(VdakitError, match=sentence):
        planned(replace(common, **changed), tmp_path / "out")


def test_an_arm_with_an_option_that_is_none(common: TrainConfig, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r'arm conv\+colour=3: there is no option "colour"'):
        planned(common, tmp_path, text="basic,conv+colour=3")
    with pytest.raises(UsageError, match="variant 'cnv' is not known"):
        planned(common, tmp_path, text="basic,cnv")


def test_accumulated_batches_are_counted_once(
    common: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study_plan, "attainable_flops", lambda precision: 1e12)
    hours = [planned(replace(common, accumulate=n), tmp_path).efforts["basic"].hours_left for n in (1, 2, 4)]
    assert hours[2] - hours[1] == pytest.approx(2 * (hours[1] - hours[0]), rel=1e-3)
