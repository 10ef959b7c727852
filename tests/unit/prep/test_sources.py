"""What every raw data set must do, whichever modules the folder holds."""

import json
from pathlib import Path

import numpy as np
import pytest

from vdaprep import sources
from vdaprep.errors import FrameError, UsageError
from vdaprep.raw.frames import SourceOptions, make_frame
from vdaprep.raw.tree import Reader, open_tree
from vdaprep.sources import _manifest
from vdaprep.synthetic.sample import SampleSpec, write_sample

NAMES = sources.names()


def test_there_are_data_sets_and_each_has_its_facts() -> None:
    assert NAMES
    for name in NAMES:
        facts = _manifest.load(name)
        assert facts.title
        assert facts.home
        assert facts.depth_spec(relative_error=0.001).kind in ("linear", "half", "log", "relative")


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
    with pytest.raises(UsageError, match=r"--splits mine: .* has no such split set; known: .*default"):
        _manifest.load(NAMES[0]).split_of("a", splits="mine")


# ------------------------------------------------------------------------------------------------------- one bad pose

POSE_FILES = {
    "custom": ("*/camera_to_world.txt", "{}"),
    "tartanair": ("*/pose_left.txt", "{}"),
    "vkitti": ("*/extrinsic.txt", "1 0 {}"),
    "mvs-synth": ("*/poses/0001.json", ""),
}
MATRIX = np.eye(4)
BAD_POSES = {
    "not a number": (np.full((4, 4), np.nan), "0 0 0 0 0 0 nan"),
    "infinite": (np.full((4, 4), np.inf), "0 inf 0 0 0 0 1"),
    "nothing": (MATRIX * 0, "0 0 0 0 0 0 0"),
    "scaled": (MATRIX * (2, 2, 2, 1), "1 2 3 0 0 0 2"),
    "huge": (MATRIX * (1e200, 1, 1, 1), "0 0 0 1e200 0 0 1e200"),
    "far away": (MATRIX + np.array([[0, 0, 0, 1e300], *[[0] * 4] * 3]), "0 1e300 0 0 0 0 1"),
    "farther": (MATRIX + np.array([[0, 0, 0, -1e12], *[[0] * 4] * 3]), "0 0 -1e12 0 0 0 1"),
    "sheared": (MATRIX + np.eye(4, k=1) * 0.5, "0 0 0 0 0 0 1.5"),
    "tiny": (MATRIX * (1e-320, 1, 1, 1), "0 0 0 1e-200 0 0 0"),
}


@pytest.mark.parametrize("bad", BAD_POSES)
@pytest.mark.parametrize("name", POSE_FILES)
def test_a_bad_pose_is_a_problem_of_its_frame_only(name: str, bad: str, tmp_path: Path) -> None:
    spec = SampleSpec(trajectories=1, frames=3, width=64, height=48)
    write_sample(name, out=tmp_path, spec=spec, archives=False, on_frame=lambda: None)
    matrix, quaternion = BAD_POSES[bad]
    _replace_second_pose(tmp_path, name, matrix=matrix, line=quaternion)
    source, tree = sources.load(name), open_tree(tmp_path)
    [trajectory] = source.find_trajectories(tree, SourceOptions()).trajectories
    with Reader(tree.root) as reader:
        cameras = source.read_cameras(trajectory, reader, SourceOptions())
        assert list(cameras.problems) == [1]
        frames = trajectory.frames
        images = [(source.read_rgb(files, reader), source.read_depth(files, reader)) for files in frames]
    for index in (0, 2):
        assert make_frame(frames[index], *images[index], cameras, index).camera_to_world is not None
    with pytest.raises(FrameError, match="has no (usable )?(pose|camera): "):
        make_frame(frames[1], *images[1], cameras, 1)


def _replace_second_pose(root: Path, name: str, *, matrix: np.ndarray, line: str) -> None:
    pattern, row = POSE_FILES[name]
    [path] = root.rglob(pattern)
    if path.suffix == ".json":
        path.write_text(json.dumps({**json.loads(path.read_text()), "extrinsic": matrix.tolist()}))
        return
    lines = path.read_text().splitlines()
    number = next((i for i, text in enumerate(lines) if row != "{}" and text.startswith(row.format(""))), 1)
    lines[number] = row.format(line if name == "tartanair" else " ".join(map(str, matrix.ravel().tolist())))
    path.write_text("\n".join(lines) + "\n")
