"""Predictions against what conversions then make, and what the probes are."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import RawTree, write_raw
from vdaprep.conversion.clips import plan_shards
from vdaprep.conversion.encode.profiles import Rgb
from vdaprep.conversion.options import Selection, Settings
from vdaprep.conversion.plan import ConversionPlan, make_plan
from vdaprep.conversion.predict import RECORDS, TAR, Prediction, _deviations, _standard_error, predict, room
from vdaprep.conversion.probes import Probe, Prober, Probes, choose_probes
from vdaprep.errors import DataError
from vdaprep.raw.frames import FrameFiles, Trajectory
from vdaprep.raw.tree import Location
from vdaprep.synthetic.sample import SampleSpec, write_sample

FRAMES = 4 * 32
PROBES = 6
SIZES = {"tartanair": (64, 48), "mvs-synth": (64, 36)}


def trajectory(name: str, ids: list[int]) -> Trajectory:
    return Trajectory(name, "v1", tuple(FrameFiles(i, Location("", f"{i}.png"), None) for i in ids))


def forecast(plan: ConversionPlan, *, probes: int = 64, workers: int = 1) -> Prediction:
    with Prober(plan.raw, count=probes) as prober:
        return predict(plan, prober, workers=workers)


def made(folder: Path) -> dict[str, int]:
    """Return the bytes by kind of a converted data set, everything in its folder."""
    totals = json.loads((folder / "dataset.json").read_bytes())["totals"]
    kinds = dict(totals["bytes_by_kind"])
    every = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return {**kinds, TAR: totals["bytes"] - sum(kinds.values()), RECORDS: every - totals["bytes"]}


@pytest.fixture(scope="module", params=sorted(SIZES))
def rendered(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    folder = tmp_path_factory.mktemp("rendered") / "raw"
    width, height = SIZES[request.param]
    write_sample(
        request.param, out=folder, spec=SampleSpec(4, 32, width, height), archives=False, on_frame=lambda: None
    )
    return request.param, folder


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [[], ["--frame-stride", 2, "--frames-per-shard", 20, "--rgb", "jpeg:80"], ["--diffs", "none"]]
)
def test_few_probes_predict_the_bytes_of_rendered_data(rendered, options, vdaprep, tmp_path: Path) -> None:
    dataset, raw = rendered
    where = (dataset, "--raw", raw, "--out", tmp_path)
    said = json.loads(vdaprep("plan", *where, *options, "--probes", PROBES, "--json").out)
    assert vdaprep("convert", *where, *options, "--workers", 1).code == 0
    found = made(tmp_path / dataset)
    total = sum(found.values())
    assert said["probe_frames"] == 2 * PROBES <= FRAMES / 10
    assert said["bytes"] == pytest.approx(total, rel=0.1)  # the promise; a tenth of that is what is seen
    assert total <= said["upper_bytes"] <= 1.25 * total
    assert said["bytes_by_kind"].keys() == found.keys()
    for kind, size in found.items():
        assert said["bytes_by_kind"][kind] == pytest.approx(size, rel=0.15), kind
    counted = json.loads((tmp_path / dataset / "dataset.json").read_bytes())
    for name in ("frames", "clips"):
        assert sum(split[name] for split in said["splits"].values()) == counted["totals"][name]
    assert sum(split["shards"] for split in said["splits"].values()) == len(counted["shards"])


@pytest.mark.slow
def test_what_was_probed_whole_is_sure(rendered) -> None:
    dataset, raw = rendered
    plan = make_plan(dataset, raw=raw, settings=Settings(), selection=Selection())
    few, all_of_them = (forecast(plan, probes=count).standard_error for count in (PROBES, FRAMES))
    assert few > all_of_them == 0


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 3, 4, 6, 9, 10, 64])
def test_the_upper_bound_holds_however_few_the_probes(count: int) -> None:
    """Of samples of normal sizes at most a hundredth exceeds it; three standard errors of 4 probes miss a thirtieth."""
    shards = plan_shards([trajectory("t", list(range(5000)))], split="train", clip_frames=1000, frames_per_shard=5000)
    plan = ConversionPlan("tartanair", "raw", Settings(), {}, tuple(shards), {}, ())
    missed, trials = 0, 4000
    for sizes in np.random.default_rng(count).normal(1000, 10, (trials, count)).tolist():
        found = tuple(Probe({}, None, (0.0, size), None, asked=2, seconds_per_frame=1.0) for size in sizes)
        bound = sum(sizes) / count + _deviations(count) * _standard_error(plan, Probes(found, ())) / 5000
        missed += bound < 1000
    assert missed <= 0.015 * trials


def test_splits_peak_and_time_follow_the_shards(raw: RawTree) -> None:
    plan = make_plan("tartanair", raw=raw.root, settings=Settings(frames_per_shard=7), selection=Selection())
    one, two, many = (forecast(plan, workers=workers) for workers in (1, 2, 50))
    assert {name: (split.trajectories, split.frames) for name, split in one.splits.items()} == {
        "train": (2, 19), "val": (1, 5)
    }  # fmt: skip
    assert sum(split.bytes for split in one.splits.values()) < one.bytes  # dataset.json belongs to none
    assert one.bytes < one.peak_bytes < two.peak_bytes < many.peak_bytes <= 2 * one.bytes
    assert one.seconds == pytest.approx(24 * one.seconds_per_frame)
    assert one.sizes == {(64, 48): 24}


def test_frames_after_a_gap_have_differences_that_weigh_nothing(tmp_path: Path, vdaprep) -> None:
    """With a hole after every other frame half of the differences are zeros, and the probes know."""
    tree = write_raw(tmp_path / "raw", lengths={"abandonedfactory/Easy/P000": 48})
    for image in sorted(tree.root.rglob("*_left.png"))[2::3]:
        image.unlink()
        (tree.root / str(image.relative_to(tree.root)).replace("image_left", "depth_left")).with_name(
            image.stem + "_depth.npy"
        ).unlink()
    poses = next(tree.root.rglob("pose_left.txt"))  # one row for each number up to the highest that is left
    poses.write_text("\n".join(poses.read_text().splitlines()[:47]))
    plan = make_plan("tartanair", raw=tree.root, settings=Settings(), selection=Selection())
    assert len(plan.shards[0].clips) == 16
    said = forecast(plan, probes=8).bytes_by_kind
    vdaprep("convert", "tartanair", "--raw", tree.root, "--out", tmp_path, "--workers", 1)
    found = made(tmp_path / "tartanair")
    assert said["diff.zst"] == pytest.approx(found["diff.zst"], rel=0.05)
    assert said["json"] == pytest.approx(found["json"], rel=0.05)


def test_a_bad_probe_is_named_and_counted_as_nothing(raw: RawTree) -> None:
    plan = make_plan("tartanair", raw=raw.root, settings=Settings(), selection=Selection())
    whole = forecast(plan)
    bad = raw.root / "abandonedfactory/Easy/P001/image_left/000003_left.png"
    bad.write_bytes(bad.read_bytes()[:100])
    found = forecast(plan)
    assert [item.file for item in found.rejected] == ["abandonedfactory/Easy/P001/image_left/000003_left.png"]
    assert 0.9 * whole.bytes < found.bytes < whole.bytes
    for image in raw.root.rglob("*.png"):
        image.write_bytes(b"")
    with pytest.raises(DataError, match=r"none of \d+ probe frames can be used; the first: abandonedfactory"):
        forecast(plan)


def test_a_prober_reads_once(raw: RawTree) -> None:
    plan = make_plan("tartanair", raw=raw.root, settings=Settings(), selection=Selection())
    with Prober(plan.raw) as prober:
        first = predict(plan, prober, workers=1)
        shutil.rmtree(raw.root)
        again = predict(plan, prober, workers=1)
        smaller = predict(replace(plan, settings=Settings(rgb=Rgb("jpeg", 50))), prober, workers=1)
    assert again.bytes_by_kind == first.bytes_by_kind
    assert smaller.bytes_by_kind["rgb.jpg"] < first.bytes_by_kind["rgb.jpg"]
    assert smaller.bytes_by_kind["depth.zst"] == first.bytes_by_kind["depth.zst"]
    assert again.seconds_per_frame > 0


def test_what_is_there_is_not_needed_again(toy_shards: Path, tmp_path: Path) -> None:
    tree = write_raw(tmp_path / "raw", lengths={"abandonedfactory/Easy/P000": 13})
    plan = make_plan("tartanair", raw=tree.root, settings=Settings(), selection=Selection())
    said = forecast(plan)
    fresh, begun = room(said, tmp_path / "not" / "there"), room(said, toy_shards / "tartanair")
    assert (fresh.there, fresh.needed) == (0, said.peak_bytes)
    assert begun.there == sum(path.stat().st_size for path in toy_shards.rglob("*") if path.is_file())
    assert begun.needed == max(0, said.peak_bytes - begun.there)
    assert fresh.suffices
    assert not replace(fresh, free=fresh.needed - 1).suffices


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.sets(st.integers(0, 40), min_size=1), min_size=1, max_size=5),
    st.integers(1, 30),
    st.integers(1, 3),
    st.integers(1, 9),
)
def test_probes_are_neighbours_spread_over_all_frames(
    numbers: list[set[int]], count: int, stride: int, clip_frames: int
) -> None:
    items = [trajectory(f"t{i}", sorted(ids)) for i, ids in enumerate(numbers)]
    shards = plan_shards(items, split="train", clip_frames=clip_frames, frames_per_shard=20, stride=stride)
    order = [
        (clip.trajectory.name, clip.trajectory.frames[index].frame_id)
        for shard in shards for clip in shard.clips for index in clip.indices
    ]  # fmt: skip
    probes = [clip for _, clip in choose_probes(shards, count)]
    assert len(probes) == min(count, len(order))
    last = -1
    for number, clip in enumerate(probes):
        ids = [clip.trajectory.frames[index].frame_id for index in clip.indices]
        assert clip.before is None
        assert len(ids) == 1 or ids[1] - ids[0] == stride
        places = [order.index((clip.trajectory.name, i)) for i in ids]
        wanted = (2 * number + 1) * len(order) // (2 * len(probes))
        assert wanted in places
        assert wanted > last
        last = wanted
        first = (clip.trajectory.name, ids[0] - stride) not in order
        assert len(ids) == 2 or first
