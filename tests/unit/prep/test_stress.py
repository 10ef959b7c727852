"""Stress disturbs what it is to disturb, and nothing else: images, the camera, or the scene."""

import itertools
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from vdaprep.errors import UsageError
from vdaprep.shards.pictures.stress import IMAGE_KINDS, Stress, describe, parse_stress
from vdaprep.sources import _manifest
from vdaprep.synthetic import layouts, sample
from vdaprep.synthetic.sample import PRESETS, STRESS_KINDS, SampleSpec, write_sample

FRAMES = 40
GREY = np.full((120, 160, 3), 100, np.uint8)
Signature = Callable[[np.ndarray], bool]


def shown(kind: str, *, name: str = "a", seed: int = 0, camera: int = 0) -> np.ndarray:
    """Return what stress makes of FRAMES plain grey frames."""
    stress = Stress((kind,), seed, name)
    return np.stack([stress.apply(GREY, frame=frame, camera=camera) for frame in range(FRAMES)])


def is_by_turns(frames: np.ndarray, hold: int) -> bool:
    exposure = frames.mean((1, 2, 3)) / 100
    long = exposure > 1
    turns = long[::hold]
    return (
        (frames == frames[:, :1, :1, :1]).all()
        and (long.reshape(-1, hold) == turns[:, None]).all()
        and (turns[1:] != turns[:-1]).all()
        and (abs(np.log(exposure)) > 0.08).all()
        and (abs(np.log(exposure)) < 0.36).all()
    )


def is_flashes(frames: np.ndarray) -> bool:
    bright = np.flatnonzero((frames > 150).all((1, 2, 3)))
    calm = np.delete(frames, bright, axis=0)
    return 4 <= len(bright) <= 7 and (np.diff(bright) > 1).all() and (calm == 100).all()


def is_noise(frames: np.ndarray) -> bool:
    change = frames.astype(float) - 100
    alike = abs((change[0] * change[1]).mean()) / max((change[0] ** 2).mean(), 1e-9)
    return 5 < change.std() < 16 and abs(change.mean()) < 0.5 and alike < 0.1


def is_rain(frames: np.ndarray) -> bool:
    wet = (frames > 110).all(axis=3)
    stays = [np.logical_and(wet[0], wet[frame]).mean() for frame in (1, 5)]
    return 0.01 < wet.mean() < 0.25 and max(stays) < 0.5 * wet[0].mean() and (frames >= 100).all()


SIGNATURES: dict[str, Signature] = {
    "flicker1": lambda frames: is_by_turns(frames, 1),
    "flicker2": lambda frames: is_by_turns(frames, 2),
    "flash": is_flashes,
    "noise": is_noise,
    "rain": is_rain,
}


@pytest.mark.parametrize("kind", IMAGE_KINDS)
@pytest.mark.parametrize("seed", range(3))
def test_each_kind_has_its_signature_and_no_other_has_it(kind: str, seed: int) -> None:
    found = shown(kind, seed=seed)
    assert [name for name, signature in SIGNATURES.items() if signature(found)] == [kind]


@pytest.mark.parametrize("kind", IMAGE_KINDS)
def test_name_and_seed_decide(kind: str) -> None:
    first = shown(kind)
    assert np.array_equal(first, shown(kind))
    assert not np.array_equal(first, shown(kind, name="b"))
    assert not np.array_equal(first, shown(kind, seed=1))
    # Two cameras of a rig are exposed alike.
    assert np.array_equal(first, shown(kind, camera=1)) == (kind not in ("noise", "rain"))


@pytest.mark.parametrize("kinds", [(), ("shake", "objects")])
def test_without_a_kind_of_images_they_stay_as_they_are(kinds: tuple[str, ...]) -> None:
    assert Stress(kinds, 0, "a").apply(GREY, frame=3) is GREY


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("none", ((),)),
        ("flash", (("flash",),)),
        ("none, flash+noise,rain", ((), ("flash", "noise"), ("rain",))),
        ("all", tuple((kind,) for kind in IMAGE_KINDS)),
        ("none,all", ((), *((kind,) for kind in IMAGE_KINDS))),
        ("", "'' is not understood; expected of rain, flicker1, flicker2, flash, noise, all, none"),
        ("fog", "--stress fog: 'fog' is not understood; expected of rain, "),
        ("noise,flash+none", r"'flash\+none' is not understood"),
        ("noise+noise", r"'noise\+noise' is not understood"),
        ("noise,flash,noise", "has an alternative twice"),
        ("all,rain", "has an alternative twice"),
        ("flash+shake", r"'flash\+shake' is not understood \(shake can only be rendered: vdaprep sample does\)"),
    ],
)
def test_what_is_asked_for(text: str, expected: tuple[tuple[str, ...], ...] | str) -> None:
    if isinstance(expected, str):
        with pytest.raises(UsageError, match=expected):
            parse_stress(text, known=IMAGE_KINDS)
    else:
        found = parse_stress(text, known=IMAGE_KINDS)
        assert found == expected
        assert parse_stress(",".join(map(describe, found)), known=IMAGE_KINDS) == found


# ------------------------------------------------------------------------------------------------------------- samples


def files_of(folder: Path, *stress: tuple[str, ...], dataset: str = "tartanair") -> dict[str, bytes]:
    spec = SampleSpec(2, 3, 64, 48, stress=stress)
    write_sample(dataset, out=folder, spec=spec, archives=False, on_frame=lambda: None)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.*")}


@pytest.mark.parametrize("dataset", layouts.names())
def test_stress_of_images_changes_images_alone(dataset: str, tmp_path: Path) -> None:
    clean = files_of(tmp_path / "clean", dataset=dataset)
    noisy = files_of(tmp_path / "noisy", ("noise",), dataset=dataset)
    assert noisy.keys() == clean.keys()
    changed = {name for name in clean if clean[name] != noisy[name]}
    images = {name for name in clean if "/image" in name or "/rgb/" in name}
    assert changed == images


@pytest.mark.parametrize(("kind", "kept"), [("shake", ()), ("objects", ("pose_left.txt",))])
def test_stress_of_the_scene_is_in_images_and_depth(kind: str, kept: tuple[str, ...], tmp_path: Path) -> None:
    clean, found = files_of(tmp_path / "clean", ()), files_of(tmp_path / kind, (kind,))
    same = {Path(name).name for name in clean if clean[name] == found[name]}
    assert same == set(kept)


def test_trajectories_take_alternatives_in_turn_each_with_its_own_draws(tmp_path: Path) -> None:
    spec = SampleSpec(6, 1, 28, 28, stress=((), ("flash", "noise"), ("noise",)))
    kinds = write_sample("custom", out=tmp_path, spec=spec, archives=False, on_frame=lambda: None)
    assert list(kinds) == layouts.load("custom").trajectory_names(6, held_out=["val/*"])
    assert Counter(kinds.values()) == dict.fromkeys(spec.stress, 2)


def test_preset_study_holds_out_worlds_that_no_training_shows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither of the data set itself nor of another one."""
    worlds: dict[str, dict[str, int]] = {}

    def note(layout: object, spec: SampleSpec, *, stress: Stress, world: int, on_frame: object) -> tuple[()]:
        worlds[dataset][stress.name] = world
        return ()

    monkeypatch.setattr(sample, "_render", note)
    shown_by: dict[tuple[str, str], set[int]] = {}
    for dataset in layouts.names():
        worlds[dataset] = {}
        spec, facts = sample.preset("study", dataset), _manifest.load(dataset)
        assert (spec.frames, spec.width, spec.height) == (32, 160, 120)
        kinds = write_sample(dataset, out=tmp_path / dataset, spec=spec, archives=False, on_frame=lambda: None)
        assert 50 <= len(kinds) <= 60
        for name, world in worlds[dataset].items():
            split = facts.split_of(name, splits=spec.splits)
            assert split is not None
            assert not _manifest.matches(name, facts.exclude)
            shown_by.setdefault((dataset, split), set()).add(world)
    assert all(len(found) >= 5 for found in shown_by.values())
    assert all(not one & other for one, other in itertools.combinations(shown_by.values(), 2))


def test_a_preset_that_there_is_not() -> None:
    with pytest.raises(UsageError, match=f"--preset big: there is no such preset; known: {', '.join(PRESETS)}"):
        sample.preset("big", "vkitti")


@pytest.mark.parametrize("dataset", layouts.names())
def test_no_data_set_has_more_names_than_it_says(dataset: str, tmp_path: Path) -> None:
    most = layouts.load(dataset).MAX_TRAJECTORIES
    held_out = [glob for globs in _manifest.load(dataset).splits["default"].values() for glob in globs]
    assert len(set(layouts.load(dataset).trajectory_names(most, held_out=held_out))) == most
    with pytest.raises(UsageError, match=f"--trajectories {most + 1}: a sample of {dataset} has {most} at most"):
        write_sample(dataset, out=tmp_path, spec=SampleSpec(most + 1), archives=False, on_frame=lambda: None)


def test_all_kinds_have_a_name_of_their_own() -> None:
    assert len(set(STRESS_KINDS)) == len(STRESS_KINDS) == 7
