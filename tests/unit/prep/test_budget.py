"""What a budget chooses, step by step, where a formula says how large everything is."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vdaprep.cli.options import command_words
from vdaprep.conversion import budget
from vdaprep.conversion.budget import Budget, Choice, Step, fit, spread
from vdaprep.conversion.encode.profiles import Rgb
from vdaprep.conversion.options import ConversionOptions, Selection, Settings
from vdaprep.conversion.plan import ConversionPlan, RawData
from vdaprep.conversion.predict import Prediction, SplitForecast
from vdaprep.conversion.probes import Prober
from vdaprep.errors import UsageError
from vdaprep.raw.frames import FrameFiles, Trajectory
from vdaprep.raw.tree import Location

RAW_SHORT_SIDE = 480
OWN = Settings(depth_error=0.001)  # no profile's, so that the profile is not changed
HELD_OUT = "hospital/Easy/P036"  # the manifest's
Formula = Callable[[Settings, int], float]


def raw_data(*, trajectories: int = 8, frames: int = 100) -> RawData:
    names = [*(f"office/Easy/P{i:03d}" for i in range(trajectories - 1)), HELD_OUT]
    files = tuple(FrameFiles(i, Location("", f"{i}.png"), Location("", f"{i}.npy")) for i in range(frames))
    return RawData("tartanair", "raw", tuple(Trajectory(name, "v1", files) for name in names), problems=())


def bytes_of(settings: Settings, frames: int) -> float:
    """Pixels times quality, and differences: 1000 bytes a frame with the default settings, 358 small, 100 tiny."""
    side = min(RAW_SHORT_SIDE, settings.short_side or RAW_SHORT_SIDE)
    diff = 0 if settings.diffs != "stored" else 200 * 16 / settings.diff_scale**2
    rgb = settings.rgb.quality / 95 if settings.rgb.codec == "jpeg" else 4 / settings.rgb.quality
    return frames * (800 * (side / RAW_SHORT_SIDE) ** 2 * rgb * (0.5 if settings.interpolate else 1) + diff)


def choose(
    limit: float, *, monkeypatch: pytest.MonkeyPatch, raw: RawData | None = None, settings: Settings | None = None,
    selection: Selection | None = None, formula: Formula = bytes_of,
) -> Choice:  # fmt: skip
    def predict(plan: ConversionPlan, prober: Prober, *, workers: int) -> Prediction:
        size = round(formula(plan.settings, plan.num_frames))
        side = min(RAW_SHORT_SIDE, plan.settings.short_side or RAW_SHORT_SIDE)
        return Prediction(
            splits={"all": SplitForecast(1, plan.num_frames, 1, 1, size)}, bytes_by_kind={"rgb.jpg": size},
            standard_error=0.01 * size, probes=1, probe_frames=2, rejected=(), sizes={(640, side): 1},
            workers=workers, peak_bytes=size, seconds_per_frame=1.0, seconds=1.0,
        )  # fmt: skip

    monkeypatch.setattr(budget, "predict", predict)
    heard: list[Step] = []
    with Prober("nowhere") as prober:
        choice = fit(
            raw or raw_data(),
            settings=settings or Settings(),
            selection=selection or Selection(),
            budget=Budget(round(limit), on_step=heard.append),
            prober=prober,
        )
    assert tuple(heard) == choice.steps
    assert choice.prediction.upper_bytes <= limit
    return choice


@pytest.fixture
def chosen(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Choice]:
    return lambda limit, **options: choose(limit, monkeypatch=monkeypatch, **options)


def test_what_fits_as_asked_is_left_alone(chosen) -> None:
    choice = chosen(2_000_000)
    assert (choice.plan.settings, choice.selection, choice.changes) == (Settings(), Selection(), ())
    assert [str(step) for step in choice.steps] == ["as asked: 781.2 KiB, 818.6 KiB at most: fits"]


def test_a_prediction_that_fits_without_its_margin_does_not_fit(chosen) -> None:
    assert chosen(830_000, settings=OWN).changes == ("--short-side 476",)


def test_profiles_come_first(chosen) -> None:
    assert chosen(830_000).changes == ("--profile small",)
    assert chosen(300_000).changes == ("--profile tiny",)
    assert chosen(70_000).changes == ("--profile tiny", "--short-side 392")
    assert chosen(40_000).changes == ("--profile tiny", "--short-side 350", "--rgb h264:24")
    assert chosen(200_000, settings=Settings().with_profile("small")).changes == ("--profile tiny",)
    assert chosen(300_000, settings=Settings(diffs="none")).plan.settings.diffs == "none"


@pytest.mark.slow
def test_settings_are_lowered_in_order_and_no_further_than_needed(chosen) -> None:
    found = {limit: chosen(limit, settings=OWN).changes for limit in range(160_000, 860_000, 10_000)}
    ladder = [
        "--short-side 476", "--short-side 434", "--short-side 392", "--short-side 350",
        "--rgb jpeg:90", "--rgb jpeg:85", "--rgb jpeg:80", "--rgb jpeg:75",
        "--diff-scale 6", "--diff-scale 8",
        "--frame-stride 2", "--frame-stride 3",
    ]  # fmt: skip
    reached = [ladder.index(changes[-1]) for changes in found.values() if changes and changes[-1] in ladder]
    assert reached == sorted(reached, reverse=True)  # the more room, the fewer steps
    assert set(reached) == set(range(len(ladder)))  # 100 frames do not bear a stride of 4
    assert found[260_000] == ("--short-side 350", "--rgb jpeg:75", "--diff-scale 8", "--frame-stride 2")
    tried = [step.change for step in chosen(160_000, settings=OWN).steps]
    assert tried[: len(ladder) + 1] == ["as asked", *ladder]


def test_lowering_begins_at_what_was_asked_for(chosen) -> None:
    asked = Settings(short_side=400, rgb=Rgb("jpeg", 82), diff_scale=7)
    choice = chosen(210_000, settings=asked)
    assert [step.change for step in choice.steps[1:7]] == [
        "--short-side 392", "--short-side 350", "--rgb jpeg:80", "--rgb jpeg:75", "--diff-scale 8",
        "--frame-stride 2",
    ]  # fmt: skip
    asked = Settings(diffs="none", depth_error=0.001)
    assert "--diff" not in " ".join(chosen(240_000, settings=asked).changes)
    assert chosen(300_000, settings=replace(OWN, frame_stride=2)).plan.settings.frame_stride == 2


def test_what_saves_nothing_is_not_kept(chosen) -> None:
    """JPEGs that are passed through do not care for a quality."""

    def passed_through(settings: Settings, frames: int) -> float:
        return frames * (800 + 200 * 16 / (settings.diff_scale or 4) ** 2)

    choice = chosen(800_000, formula=passed_through, settings=OWN)
    assert choice.changes == ("--diff-scale 6",)
    assert (choice.plan.settings.short_side, choice.plan.settings.rgb) == (540, Rgb("jpeg", 95))
    assert str(choice.steps[1]).endswith("saves nothing, left as it was")


def test_trajectories_go_last_evenly_and_one_is_held_out(chosen) -> None:
    raw = raw_data(trajectories=21)
    choice = chosen(150_000, raw=raw, settings=OWN)
    names = choice.selection.select
    assert choice.changes[-1] == f"{len(names)} of 21 trajectories"
    assert HELD_OUT in names
    numbers = [int(name[-3:]) for name in names if name != HELD_OUT]
    gaps = {b - a for a, b in zip(numbers, numbers[1:], strict=False)}
    assert max(gaps) - min(gaps) <= 1
    assert choice.plan.splits.keys() == {"train", "val"}
    more = [name for names in choice.plan.splits.values() for name in names]
    assert sorted(more) == sorted(names)
    larger = bytes_of(choice.plan.settings, math.ceil(100 / 3) * (len(names) + 1)) * 1.035
    assert larger > 150_000 - 11_000  # one more would not have fitted; a tar's last record is allowed for


def test_names_that_look_like_globs_are_taken_literally(chosen) -> None:
    raw = raw_data(trajectories=2)
    odd = [Trajectory(f"office[{i}]/Easy/P000", "v1", raw.trajectories[0].frames) for i in range(4)]
    choice = chosen(45_000, raw=RawData("tartanair", "raw", tuple(odd), problems=()), settings=OWN)
    assert 1 <= len(choice.selection.select) < 4
    assert [name for names in choice.plan.splits.values() for name in names] == [
        name.replace("[[]", "[") for name in choice.selection.select
    ]


def test_the_least_is_said_when_nothing_fits(chosen) -> None:
    with pytest.raises(
        UsageError, match=r"even 2 trajectories, one a split, with --short-side 350 .* need up to"
    ) as no:
        chosen(20_000, settings=OWN)
    least = int(str(no.value).split("need up to ")[1].split()[0])
    assert chosen(least, settings=OWN).prediction.upper_bytes == least
    with pytest.raises(UsageError, match="even one trajectory with"):
        chosen(1, raw=RawData("tartanair", "raw", raw_data().trajectories[:1], problems=()), settings=OWN)


@pytest.mark.parametrize("limit", [20_000, 47_000, 150_000, 260_000, 700_000])
def test_the_same_budget_is_the_same_choice(chosen, limit: int) -> None:
    outcomes = []
    for _ in range(2):
        try:
            outcomes.append(chosen(limit))
        except UsageError as error:
            outcomes.append(str(error))
    assert outcomes[0] == outcomes[1]


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=4), st.integers(1, 100))
def test_a_spread_takes_of_each_split(sizes: list[int], count: int) -> None:
    splits = {f"s{i}": [f"{i}/{n:02d}" for n in range(size)] for i, size in enumerate(sizes)}
    count = min(max(count, len(sizes)), sum(sizes))
    found = spread(splits, count)
    assert len(sizes) <= len(found) <= count
    assert found == sorted(set(found))
    assert {name.split("/")[0] for name in found} == {str(i) for i in range(len(sizes))}
    assert len(spread(splits, sum(sizes))) == sum(sizes)


def test_options_know_their_own_command_line() -> None:
    asked = ConversionOptions(raw="a b", val=("x/*",), diffs="none", depth_error=0.001)
    assert command_words(ConversionOptions()) == []
    lowered = replace(asked.settings(), short_side=None, rgb=Rgb("jpeg", 80), frame_stride=2)
    chosen = asked.with_choice(lowered, Selection(select=("p", "q")))
    assert command_words(chosen) == [
        "--raw", "a b", "--select", "p", "--select", "q", "--val", "x/*", "--short-side", "native",
        "--rgb", "jpeg:80", "--depth-error", "0.001", "--diffs", "none", "--frame-stride", "2",
    ]  # fmt: skip
    tiny = Settings().with_profile("tiny")
    assert command_words(ConversionOptions().with_choice(tiny, Selection())) == ["--profile", "tiny"]
    smaller = replace(tiny, rgb=Rgb("h264", 20))
    words = command_words(ConversionOptions(profile="small").with_choice(smaller, Selection()))
    assert words == ["--profile", "tiny", "--rgb", "h264:20"]
