"""What every raw data set must do, whichever modules the folder holds."""

from pathlib import Path

import numpy as np
import pytest

from vdaprep import sources
from vdaprep.errors import UsageError
from vdaprep.raw.frames import Frame, SourceOptions, make_frame
from vdaprep.raw.tree import Reader, open_tree
from vdaprep.shards import codec
from vdaprep.shards.metadata import DepthSpec
from vdaprep.sources import _manifest
from vdaprep.synthetic.render import render_frame
from vdaprep.synthetic.sample import SampleSpec, write_sample
from vdaprep.synthetic.scene import make_scene
from vdaprep.synthetic.world import Scene

NAMES = sources.names()
SIZES = ((64, 48), (64, 36))  # a data set may insist on its own aspect


def test_there_are_data_sets_and_each_has_its_facts() -> None:
    assert NAMES
    for name in NAMES:
        facts = _manifest.load(name)
        assert facts.title
        assert facts.home
        assert facts.depth_spec(relative_error=0.001).kind in ("linear", "half", "log")


@pytest.mark.parametrize("name", NAMES)
def test_no_trajectory_is_in_two_splits(name: str) -> None:
    facts = _manifest.load(name)
    for splits in facts.splits.values():
        globs = [glob for of_split in splits.values() for glob in of_split]
        assert len(globs) == len(set(globs))


def test_unknown_names_are_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match=f"no data set 'kitty'; known: .*{NAMES[0]}"):
        sources.load("kitty")
    with pytest.raises(UsageError, match=f"no data set 'kitty'; known: .*{NAMES[0]}"):
        _manifest.load("kitty")
    with pytest.raises(UsageError, match=r"--splits mine: .* has no such split set; known: default"):
        _manifest.load(NAMES[0]).split_of("a", splits="mine")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("archives", [False, True])
def test_a_sample_reads_back_as_it_was_rendered(name: str, archives: bool, tmp_path: Path) -> None:
    source = sources.load(name)
    width, height = next(size for size in SIZES if _is_allowed(source, size))
    spec = SampleSpec(trajectories=2, frames=3, width=width, height=height)
    names = write_sample(name, out=tmp_path, spec=spec, archives=archives, on_frame=lambda: None)
    worlds = list(dict.fromkeys(source.sample_world(trajectory) for trajectory in names))
    tree = open_tree(tmp_path)
    with Reader(tree.root) as reader:
        for camera, right_m in enumerate(source.SAMPLE_CAMERAS_M):
            options = SourceOptions(camera=camera)
            found = source.find_trajectories(tree, options)
            assert sorted(item.name for item in found) == sorted(names)
            assert len({_manifest.load(name).split_of(item.name, splits="default") for item in found}) == 2
            for trajectory in found:
                assert trajectory.frame_ids == (0, 1, 2)
                cameras = source.read_cameras(trajectory, reader, options)
                scene = make_scene(worlds.index(source.sample_world(trajectory.name)))
                for index, files in enumerate(trajectory.frames):
                    rgb, depth_m = source.read_rgb(files, reader), source.read_depth(files, reader)
                    frame = make_frame(files, rgb, depth_m, cameras, index)
                    _same_as_rendered(frame, scene, right_m, _manifest.load(name).depth_spec(relative_error=1e-6))


def _is_allowed(source: sources.Source, size: tuple[int, int]) -> bool:
    try:
        source.sample_intrinsics(width=size[0], height=size[1])
    except UsageError:
        return False
    return True


def _same_as_rendered(frame: Frame, scene: Scene, right_m: float, spec: DepthSpec) -> None:
    fx, fy, cx, cy = frame.intrinsics.tolist()
    height, width = frame.depth_m.shape
    seen = render_frame(
        scene, frame=frame.frame_id, width=width, height=height, intrinsics=(fx, fy, cx, cy), right_m=right_m
    )
    if frame.rgb.jpeg is None:
        assert np.array_equal(frame.rgb.pixels, seen.rgb)
    else:
        assert np.array_equal(codec.decode_rgb(frame.rgb.jpeg), frame.rgb.pixels)
        assert np.abs(frame.rgb.pixels.astype(int) - seen.rgb).mean() < 4
    assert np.array_equal(np.isinf(frame.depth_m), np.isinf(seen.depth_m))
    near = np.isfinite(seen.depth_m)
    # Raw depth is stored in units, in half floats or in floats, as the kind says: half a step is lost on the way.
    absolute_m, relative = {"linear": ((spec.unit_m or 0) / 2, 1e-6), "half": (0, 2**-11), "log": (0, 1e-6)}[spec.kind]
    assert np.allclose(frame.depth_m[near], seen.depth_m[near], atol=absolute_m, rtol=relative)
    assert frame.camera_to_world is not None
    assert np.allclose(frame.camera_to_world, seen.camera_to_world, atol=1e-9)
