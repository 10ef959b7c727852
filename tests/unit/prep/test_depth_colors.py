"""Colours of depth: unknown is not far, sky is neither, and the bar says the metres of each colour."""

import itertools

import numpy as np
import pytest

from vdaprep.shards.pictures import depth_colors
from vdaprep.shards.pictures.depth_colors import SKY_RGB, colour_depth, depth_legend, near_is_bright, text_line

FAR, NEAR, UNKNOWN, SKY = 80.0, 0.5, np.nan, np.inf


def colours(value: float) -> np.ndarray:
    depth_m = np.full((16, 16), value, np.float32)
    return colour_depth(depth_m, disparity_min=1 / FAR, disparity_max=1 / NEAR).reshape(-1, 3).astype(int)


def test_far_near_sky_and_unknown_differ_from_one_another() -> None:
    """Every pixel of one differs from every pixel of another by more than an encoder of video changes."""
    found = [colours(value) for value in (FAR, 1.0, NEAR, SKY, UNKNOWN)]
    for one, other in itertools.combinations(found, 2):
        assert np.abs(one[:, None] - other[None]).max(-1).min() > 40
    assert (found[3] == SKY_RGB).all()
    assert len(np.unique(found[4], axis=0)) == 2  # stripes


def test_no_colour_of_depth_is_a_stripe() -> None:
    ramp = near_is_bright(np.arange(256, dtype=np.uint8)[None])[0].astype(int)
    for stripe in np.unique(colours(UNKNOWN), axis=0):
        assert np.abs(ramp - stripe).max(-1).min() > 40


def test_depth_beyond_the_range_has_the_colour_of_its_end() -> None:
    assert (colours(0.1) == colours(NEAR)).all()
    assert (colours(500.0) == colours(FAR)).all()


@pytest.mark.parametrize(
    ("near_m", "far_m"), [(0.5, 80), (3.1, 3.4), (1.35, 6.93), (3, 655.35), (0.02, 10000), (0.1, 0.1001), (2, np.inf)]
)
@pytest.mark.parametrize("width", [200, 360, 1600])
def test_ticks_stand_where_their_colour_is_and_do_not_touch(
    near_m: float, far_m: float, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[tuple[int, int, str]] = []

    def write(picture: np.ndarray, text: str, *, left: int, base: int) -> None:
        written.append((left, left + depth_colors._width_of(text), text))
        assert left >= 0
        assert left + depth_colors._width_of(text) <= picture.shape[1]

    monkeypatch.setattr(depth_colors, "write_text", write)
    bar = depth_legend(width, disparity_min=1 / far_m, disparity_max=1 / near_m)
    ticks = sorted(item for item in written if item[2].endswith(" m"))
    assert ticks
    assert len(ticks) > 3 or width < 1600
    assert "e" not in "".join(text for *_, text in ticks)
    assert all(one[1] < other[0] for one, other in itertools.pairwise(ticks))
    metres = [float(text.removesuffix(" m")) for *_, text in ticks]
    assert metres == sorted(set(metres), reverse=True)
    marks = np.flatnonzero((bar[16] != 255).any(-1))
    for column, metre in zip(marks, metres, strict=True):
        expected = colour_depth(np.full((1, 1), metre, np.float32), disparity_min=1 / far_m, disparity_max=1 / near_m)[
            0, 0
        ].astype(int)
        assert np.abs(bar[5, column].astype(int) - expected).max() <= 16  # metres are rounded to three digits


def test_a_clip_without_known_depth_has_no_bar() -> None:
    strip = depth_legend(300, disparity_min=0.0, disparity_max=0.0)
    assert (strip[:3] == 255).all()


@pytest.mark.parametrize(
    "text", ["", "a", "tartanair-" + "factory-easy-" * 30 + "000123", "difference to the frame before"]
)
@pytest.mark.parametrize("width", [20, 90, 400])
def test_a_line_of_text_fits(text: str, width: int) -> None:
    strip = text_line(text, width)
    assert strip.shape == (20, width, 3)
    assert (strip[:, -1:] == 255).all()
    assert (strip != 255).any() == bool(text)
