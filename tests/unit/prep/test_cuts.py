"""Cuts are told from motion by image and depth together."""

import numpy as np
import pytest

from vdaprep.conversion.encode.cuts import Thumbnail, is_cut, shrink_frame
from vdaprep.synthetic.sample import render_as_frame
from vdaprep.synthetic.scene import make_scene

SIZE, INTRINSICS = (96, 54), np.array([48.0, 48, 47.5, 26.5])


def seen(seed: int, number: int) -> Thumbnail:
    frame = render_as_frame(make_scene(seed), number, size=SIZE, intrinsics=INTRINSICS)
    return shrink_frame(frame.rgb.pixels, frame.depth_m)


def made(level: float, depth_m: float, *, noise: float = 60.0, seed: int = 0) -> Thumbnail:
    rgb = np.random.default_rng(seed).normal(level, noise, (54, 96, 3)).clip(0, 255).astype(np.uint8)
    return shrink_frame(rgb, np.full((54, 96), depth_m, np.float32))


@pytest.mark.parametrize("scene", range(6))
def test_a_camera_that_moves_makes_no_cut_and_another_scene_does(scene: int) -> None:
    frames = [seen(scene, number) for number in range(1, 6)]
    assert not any(map(is_cut, frames, frames[1:]))
    assert is_cut(frames[3], seen((scene + 1) % 6, 5))


NOISE = made(128, 3.0)
CASES: dict[str, tuple[Thumbnail, Thumbnail, bool]] = {
    "both change": (NOISE, made(128, 6.0, seed=1), True),
    "depth is the same": (NOISE, made(128, 3.1, seed=1), False),  # a lamp goes on
    "image is the same": (NOISE, made(128, 9.0), False),
    "darker": (NOISE, made(64, 3.0, noise=30), False),
    "both plain": (made(90, 3.0, noise=0), made(92, 6.0, noise=0), False),
    "a plain one follows": (NOISE, made(90, 6.0, noise=0), False),  # a wall may fill the view
    "no depth": (made(128, np.nan), made(128, np.nan, seed=1), False),
    "from sky": (made(128, np.inf), made(128, 5.0, seed=1), True),
    "to sky": (made(128, 5.0), made(128, np.inf, seed=1), True),
}


@pytest.mark.parametrize("case", CASES)
def test_what_changes_decides(case: str) -> None:
    before, after, cut = CASES[case]
    assert is_cut(before, after) == cut
