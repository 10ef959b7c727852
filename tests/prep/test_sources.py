"""What every raw data set must do, whichever modules the folder holds."""

from pathlib import Path

import numpy as np
import pytest

from vdaprep import manifest, sources
from vdaprep.archive import Reader, open_tree
from vdaprep.errors import UsageError
from vdaprep.frames import Frame, SourceOptions, make_frame
from vdaprep.sample import SampleSpec, write_sample

NAMES = sources.names()


def test_there_are_data_sets_and_each_has_its_facts() -> None:
    assert NAMES
    for name in NAMES:
        facts = manifest.load(name)
        assert facts.title
        assert facts.home.startswith("https://")
        assert facts.depth_spec(relative_error=0.001).kind in ("linear", "half", "log")


@pytest.mark.parametrize("name", NAMES)
def test_no_trajectory_is_in_two_splits(name: str) -> None:
    facts = manifest.load(name)
    for splits in facts.splits.values():
        globs = [glob for of_split in splits.values() for glob in of_split]
        assert len(globs) == len(set(globs))


def test_unknown_names_are_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match=f"no data set 'kitty'; known: .*{NAMES[0]}"):
        sources.load("kitty")
    with pytest.raises(UsageError, match=f"no data set 'kitty'; known: .*{NAMES[0]}"):
        manifest.load("kitty")
    with pytest.raises(UsageError, match=r"--splits mine: .* has no such split set; known: default"):
        manifest.load(NAMES[0]).split_of("a", splits="mine")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("archives", [False, True])
def test_a_sample_reads_back_as_it_was_rendered(name: str, archives: bool, tmp_path: Path) -> None:
    source = sources.load(name)
    spec = SampleSpec(trajectories=2, frames=3, width=64, height=48)
    names = write_sample(name, out=tmp_path, spec=spec, archives=archives, on_frame=lambda: None)
    tree = open_tree(tmp_path)
    found = source.find_trajectories(tree, SourceOptions())
    assert sorted(item.name for item in found) == sorted(names)
    assert len({manifest.load(name).split_of(item.name, splits="default") for item in found}) == 2
    with Reader(tree.root) as reader:
        for trajectory in found:
            cameras = source.read_cameras(trajectory, reader, SourceOptions())
            for index, files in enumerate(trajectory.frames):
                rgb, depth_m = source.read_rgb(files, reader), source.read_depth(files, reader)
                frame = make_frame(files, rgb, depth_m, cameras, index)
                _same_as_rendered(frame, spec, number=names.index(trajectory.name), index=index)


def _same_as_rendered(frame: Frame, spec: SampleSpec, *, number: int, index: int) -> None:
    from vdaprep.render import render_frame
    from vdaprep.scene import make_scene

    fx, fy, cx, cy = frame.intrinsics.tolist()
    seen = render_frame(make_scene(number), frame=index, width=64, height=48, intrinsics=(fx, fy, cx, cy))
    assert np.array_equal(frame.rgb.pixels, seen.rgb)
    assert np.array_equal(np.isinf(frame.depth_m), np.isinf(seen.depth_m))
    near = np.isfinite(seen.depth_m)
    assert np.allclose(frame.depth_m[near], seen.depth_m[near], rtol=1e-6)
    assert frame.camera_to_world is not None
    assert np.allclose(frame.camera_to_world, seen.camera_to_world, atol=1e-9)
