"""Depth codes are those that a plain float64 formula gives, for every kind and any float."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from vdaprep.shards import depth_codes
from vdaprep.shards.depth_codes import SKY_CODE, UNKNOWN_CODE, code_depth, depth_table, disparity_range
from vdaprep.shards.metadata import DepthSpec

ERRORS = [8e-5, 0.0005, 0.003, 0.1]
RANGES = [(0.1, 1000.0), (0.37, 91.3), (1e-3, 0.9)]
LOGS = [DepthSpec("log", error, near_m=near, far_m=far) for error in ERRORS for near, far in RANGES]
DEFAULT = LOGS[3]
LINEAR = DepthSpec("linear", 0.0, unit_m=0.01)
HALF = DepthSpec("half", 0.0, unit_m=0.1)
SHAPES = st.tuples(st.integers(1, 9), st.integers(1, 9))
ANY_FLOATS = arrays(np.float32, SHAPES, elements=st.floats(width=32, allow_nan=True, allow_infinity=True))


def known_metres(spec: DepthSpec) -> np.ndarray:
    """Return the metres of the codes from 1 that are neither unknown nor sky."""
    table = depth_table(spec)
    return table[1 : 1 + np.count_nonzero(np.isfinite(table))].astype(np.float64)


def formula(depth_m: np.ndarray, spec: DepthSpec) -> np.ndarray:
    """Return the codes whose metres are nearest, the farther one of two, in float64 and without tricks."""
    metres = known_metres(spec)
    with np.errstate(invalid="ignore"):  # signalling nans
        wide = depth_m.astype(np.float64)
    nearest = 1 + np.searchsorted((metres[:-1] + metres[1:]) / 2, wide, side="right")
    nearest[wide > np.float32(spec.far_m)] = SKY_CODE
    nearest[~(wide > 0)] = UNKNOWN_CODE
    return nearest.astype(np.uint16)


def around(values: np.ndarray) -> np.ndarray:
    """Return float32s with the two next to each below and above."""
    found = [values.astype(np.float32)]
    for _ in range(2):
        found = [np.nextafter(found[0], np.float32(0)), *found, np.nextafter(found[-1], np.float32(np.inf))]
    return np.concatenate(found)


@pytest.mark.parametrize("spec", LOGS, ids=str)
def test_codes_change_exactly_half_way(spec: DepthSpec) -> None:
    metres = known_metres(spec)
    depth_m = around(np.concatenate([metres, (metres[:-1] + metres[1:]) / 2, [spec.near_m, spec.far_m]]))[None]
    assert np.array_equal(code_depth(depth_m, spec)[0], formula(depth_m, spec))


@pytest.mark.parametrize("spec", LOGS, ids=str)
def test_random_depths_have_the_code_of_the_formula(spec: DepthSpec) -> None:
    assert spec.near_m is not None
    assert spec.far_m is not None
    rng = np.random.default_rng(0)
    depth_m = np.exp(rng.uniform(np.log(spec.near_m / 3), np.log(spec.far_m * 3), (300, 500))).astype(np.float32)
    found, clamped = code_depth(depth_m, spec)
    assert np.array_equal(found, formula(depth_m, spec))
    assert clamped == np.count_nonzero(depth_m < np.float32(spec.near_m))
    within = (depth_m >= np.float32(spec.near_m)) & (depth_m <= np.float32(spec.far_m))
    known_m = depth_m[within].astype(np.float64)
    assert np.abs(depth_table(spec)[found[within]] / known_m - 1).max() <= spec.relative_error
    step = spec.log_step
    off = np.abs(found[within] - (1 + np.log(known_m / spec.near_m) / step)).max()
    assert off <= 0.5 + step / 8 + 0.01  # half way in metres is a little farther than half way in their logarithms


@settings(deadline=None)  # tables are made on the way
@given(ANY_FLOATS, st.sampled_from(LOGS[3:6]))
def test_any_float_has_the_code_of_the_formula(depth_m: np.ndarray, spec: DepthSpec) -> None:
    assert np.array_equal(code_depth(depth_m, spec)[0], formula(depth_m, spec))


def test_extreme_patterns_have_the_code_of_the_formula() -> None:
    # Every sign and exponent, with the least, the greatest and some other mantissas: nans and infinities among them.
    exponents = np.arange(512, dtype=np.uint32)[:, None] << np.uint32(23)
    mantissas = np.array([0, 1, 2, 0x1FFF, 0x2000, 0x3FFFFF, 0x400000, 0x7FFFFE, 0x7FFFFF], np.uint32)
    depth_m = (exponents | mantissas).view(np.float32)
    for spec in LOGS:
        assert np.array_equal(code_depth(depth_m, spec)[0], formula(depth_m, spec))


@pytest.mark.parametrize("spec", [*LOGS, LINEAR, HALF], ids=str)
def test_every_code_goes_round(spec: DepthSpec) -> None:
    used = np.arange(1 + len(known_metres(spec)), dtype=np.uint16)
    if spec.kind == "log" and known_metres(spec)[-1] > np.float32(spec.far_m):
        used = used[:-1]  # the last one's metres, which stand for those just below far_m, are themselves beyond
    used = np.append(used, np.uint16(SKY_CODE))[None]
    assert np.array_equal(code_depth(depth_table(spec)[used], spec)[0], used)


@pytest.mark.parametrize("spec", [DEFAULT, LINEAR, HALF], ids=str)
@pytest.mark.parametrize("shape", [(1, 1), (1, 70_000), (70_000, 1), (257, 300)])
def test_images_of_any_shape_are_coded_whole(spec: DepthSpec, shape: tuple[int, int]) -> None:
    table = depth_table(spec)
    used = np.flatnonzero(np.isfinite(table))[:9000]
    wanted = np.random.default_rng(0).choice(used, shape).astype(np.uint16)
    found, _ = code_depth(table[wanted], spec)
    assert np.array_equal(found, wanted)
    turned, _ = code_depth(table[wanted].T, spec)
    assert np.array_equal(turned, wanted.T)


@pytest.mark.parametrize("spec", [LINEAR, HALF], ids=str)
def test_what_the_integers_do_not_reach_is_sky_or_unknown(spec: DepthSpec) -> None:
    farthest = float(known_metres(spec)[-1])
    depth_m = np.array([[np.nan, np.inf, -np.inf, -1, 0, -0.0, 2 * farthest, 3e38, farthest]], np.float32)
    last = len(known_metres(spec))
    assert code_depth(depth_m, spec)[0].tolist() == [[0, SKY_CODE, 0, 0, 0, 0, SKY_CODE, SKY_CODE, last]]


@pytest.mark.parametrize("spec", [LINEAR, HALF], ids=str)
def test_known_depth_that_would_become_unknown_is_refused(spec: DepthSpec) -> None:
    with pytest.raises(ValueError, match=r"depth 1e-09 m at row 1, column 0 would decode as nan m"):
        code_depth(np.array([[1.0], [1e-9]], np.float32), spec)


def test_what_float32_cannot_hold_is_refused() -> None:
    with pytest.raises(ValueError, match="a relative error of 3e-08 is finer than metres in float32 allow"):
        code_depth(np.ones((1, 1), np.float32), DepthSpec("log", 3e-8, near_m=1.0, far_m=1.001))


@given(arrays(np.uint16, SHAPES, elements=st.sampled_from([0, 1, 2, 500, 65533, 65534, 65535])))
def test_disparities_are_those_of_known_pixels(found: np.ndarray) -> None:
    known = found[(found != UNKNOWN_CODE) & (found != SKY_CODE)].astype(np.float64)
    expected = (100 / known.max(), 100 / known.min()) if known.size else None
    assert disparity_range(found, LINEAR) == (None if expected is None else pytest.approx(expected))


def test_tables_are_made_once() -> None:
    code_depth(np.ones((2, 2), np.float32), DEFAULT)
    before = depth_codes._log_table.cache_info().misses
    code_depth(np.ones((2, 2), np.float32), DepthSpec(**{**DEFAULT.to_json(), "kind": "log"}))
    assert depth_codes._log_table.cache_info().misses == before
