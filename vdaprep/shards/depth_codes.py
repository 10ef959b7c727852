"""Metres to depth codes of 16 bits and back.

Codes (uint16, monotonic in depth):

    code             metres                                decoded as
    0                unknown: nan, or <= 0                 nan
    1 to 65534       by kind, see below                    float32 metres along z
    65535            sky: inf, or beyond the kind's range  inf

    linear           code * unit_m                         range to 65534 * unit_m
    half             half float with bits `code` * unit_m  range to 65504 * unit_m
    log              near_m * exp((code - 1) * step)       range near_m to far_m; nearer is stored as near_m
    relative         65533 / (65534 - code), no metres     1 / normalised disparity: 1 at code 1, inf at 65534

Of kind `relative` a teacher's disparity was normalised by the clip's least and greatest, so that it is (65534 - code) /
65533, 1 nearest and 0 farthest; it is known up to scale and shift, and nothing in metres follows from it.

Of kind `log` step = 0.999 * 2 * log1p(relative_error), so that half a step and the rounding to float32 stay within the
error. A depth takes the code whose metres are nearest, of two as near the farther one.
"""

import functools
import math

import numpy as np
from jaxtyping import Float32, UInt16, UInt32

from vdaprep.shards.metadata import MAX_CODE, DepthSpec

UNKNOWN_CODE = 0
SKY_CODE = 65535
_MAX_HALF = 65504  # the largest finite half float
_MAX_HALF_CODE = 0x7BFF  # its bits
_INFINITY_BITS = 0x7F800000  # of a float32; above are nans, then negative numbers
_ROUNDING = 1e-6  # relative: what "exact" may lose to float32 on the way to metres and back
_STRIP_PIXELS = 1 << 16  # so many at a time stay in the processor's cache from one numpy call to the next


@functools.lru_cache(maxsize=16)
def depth_table(spec: DepthSpec) -> Float32[np.ndarray, "65536"]:
    """Return each code's metres: nan for 0, inf for 65535 and codes that are not used."""
    codes = np.arange(65536, dtype=np.float64)
    if spec.kind == "linear":
        metres = codes * _some(spec.unit_m)
    elif spec.kind == "half":
        metres = np.full(65536, np.inf)
        halves = np.arange(_MAX_HALF_CODE + 1, dtype=np.uint16).view(np.float16)
        metres[: len(halves)] = halves.astype(np.float64) * _some(spec.unit_m)
    elif spec.kind == "relative":
        with np.errstate(divide="ignore"):
            metres = (MAX_CODE - 1) / np.maximum(MAX_CODE - codes, 0)
    else:
        top = spec.log_codes
        metres = _some(spec.near_m) * np.exp(np.minimum(codes - 1, top) * spec.log_step)
        metres[top + 1 :] = np.inf
    metres[UNKNOWN_CODE] = np.nan
    metres[SKY_CODE] = np.inf
    table = metres.astype(np.float32)
    table.flags.writeable = False
    return table


def metres_of(codes: UInt16[np.ndarray, "h w"], spec: DepthSpec) -> Float32[np.ndarray, "h w"]:
    """Turn codes into metres: nan for unknown, inf for sky."""
    table = depth_table(spec)
    metres = np.empty(codes.shape, np.float32)
    for rows in strips(*codes.shape):  # numpy needs four times the memory of the codes that it looks up at once
        metres[rows] = table.take(codes[rows])
    return metres


def unused_code(codes: UInt16[np.ndarray, "h w"], spec: DepthSpec) -> int | None:
    """Return a code that the kind does not use; None if there is none."""
    unused = np.isinf(depth_table(spec))
    unused[SKY_CODE] = False
    unused[MAX_CODE] &= spec.is_metric  # a relative disparity of 0
    for rows in strips(*codes.shape):
        found = unused.take(codes[rows])
        if found.any():
            return int(codes[rows][found][0])
    return None


def code_depth(depth_m: Float32[np.ndarray, "h w"], spec: DepthSpec) -> tuple[UInt16[np.ndarray, "h w"], int]:
    """Turn metres (nan or <= 0: unknown, inf: sky) into codes.

    Returns the codes and the number of pixels that were nearer than `near_m` (kind `log`). Raises ValueError, with the
    worst pixel, if a decoded pixel would be farther from its source than the kind promises. Kind `relative` has no
    metres: see `code_disparity`.
    """
    assert spec.is_metric
    depth_m = np.ascontiguousarray(depth_m)
    codes = np.empty(depth_m.shape, np.uint16)
    with np.errstate(invalid="ignore", over="ignore"):  # nan, inf - inf, huge numbers of units: all of them have codes
        if spec.kind == "log":
            return codes, _code_log(depth_m, spec, codes)
        code = _code_linear if spec.kind == "linear" else _code_half
        if not code(depth_m, spec, codes):
            _expect_exact(depth_m, codes, spec)
    return codes, 0


def code_disparity(
    disparity: Float32[np.ndarray, "h w"], *, least: float, greatest: float
) -> UInt16[np.ndarray, "h w"]:
    """Turn a teacher's disparity into codes of kind `relative`; what is not finite is unknown.

    Args:
        disparity: The teacher's numbers, near being greater; from `least` to `greatest` where finite.
        least: Disparity of the farthest pixel of the clip, of code 65534.
        greatest: That of the nearest one, of code 1.
    """
    assert least < greatest
    known = np.isfinite(disparity)
    share = (np.where(known, disparity, least).astype(np.float64) - least) / (greatest - least)
    codes = MAX_CODE - np.rint(share.clip(0, 1) * (MAX_CODE - 1))
    return np.where(known, codes, UNKNOWN_CODE).astype(np.uint16)


def count_beyond(depth_m: Float32[np.ndarray, "h w"], codes: UInt16[np.ndarray, "h w"]) -> int:
    """Count pixels whose depth is finite but beyond the kind's range, coded as sky."""
    if codes.max() != SKY_CODE:
        return 0
    return int(np.count_nonzero(codes == SKY_CODE) - np.count_nonzero(depth_m == np.inf))


def disparity_range(codes: UInt16[np.ndarray, "h w"], spec: DepthSpec) -> tuple[float, float] | None:
    """Return the least and greatest 1/metres of known, non-sky pixels; None if none."""
    nearest, farthest = _known_range(codes)
    if nearest > MAX_CODE or farthest < 1:
        return None
    table = depth_table(spec)
    return 1 / float(table[farthest]), 1 / float(table[nearest])


def _known_range(codes: UInt16[np.ndarray, "h w"]) -> tuple[int, int]:
    """Return the least and greatest code but unknown and sky; 65536 and -1 if none."""
    nearest, farthest = int(codes.min()), int(codes.max())
    if nearest == UNKNOWN_CODE:
        nearest = int((codes - np.uint16(1)).min()) + 1  # unknown wraps round to the far end
    if farthest == SKY_CODE:
        farthest = int((codes + np.uint16(1)).max()) - 1  # and sky to the near one
    return nearest, farthest


def strips(height: int, width: int) -> list[slice]:
    """Cut an image into rows that stay in the cache; the first strip is the longest."""
    rows = max(1, _STRIP_PIXELS // width)
    return [slice(top, min(top + rows, height)) for top in range(0, height, rows)]


def _some(value: float | None) -> float:
    assert value is not None  # DepthSpec refuses a kind without its numbers
    return value


# ---------------------------------------------------------------------------------------------------------------- log


def _code_log(depth_m: Float32[np.ndarray, "h w"], spec: DepthSpec, codes: UInt16[np.ndarray, "h w"]) -> int:
    """Fill in the codes; returns the number of pixels nearer than near_m."""
    table, shift = _log_table(spec)
    shape = strips(*depth_m.shape)[0].stop, depth_m.shape[1]
    all_buckets, all_mixed = np.empty(shape, np.intp), np.empty(shape, np.uint32)
    for rows in strips(*depth_m.shape):
        bits = depth_m[rows].view(np.uint32)
        buckets, mixed = all_buckets[: len(bits)], all_mixed[: len(bits)]
        np.right_shift(bits, shift, out=buckets, casting="unsafe")
        table.take(buckets, out=mixed, mode="wrap")  # every bucket has its number; this is the mode without a check
        mixed += bits
        np.right_shift(mixed, shift, out=codes[rows], casting="unsafe")
    return _clamp(depth_m, spec, codes)


def _clamp(depth_m: Float32[np.ndarray, "h w"], spec: DepthSpec, codes: UInt16[np.ndarray, "h w"]) -> int:
    """Turn what is just beyond far_m into sky; count what is nearer than near_m."""
    nearest, farthest = _known_range(codes)
    if farthest >= spec.log_codes - 1:
        np.copyto(codes, SKY_CODE, where=depth_m > np.float32(_some(spec.far_m)))
    if nearest > 1:
        return 0
    return int(np.count_nonzero((depth_m > 0) & (depth_m < np.float32(_some(spec.near_m)))))


@functools.lru_cache(maxsize=4)
def _log_table(spec: DepthSpec) -> tuple[UInt32[np.ndarray, " n"], np.uint32]:
    """Return numbers, and a `shift`, with which codes are exact without a logarithm.

    The bit pattern of a float32 without its last `shift` bits is a bucket finer than a code: at most once within it
    the next code begins, at the last bits `begin`. With the bucket's first code c its number is
    (c << shift) + (1 << shift) - begin - (bucket << shift); added to the pattern, bits above `shift` are c or c + 1.
    All is modulo 2^32, and codes modulo 2^16, where unknown follows sky. In the bucket of far_m, what is beyond has
    the code of far_m or the next one. Raises ValueError if float32 is too coarse.
    """
    shift = 23 - min(23, max(7, math.ceil(-math.log2(0.99 * spec.log_step))))
    starts = _log_starts(spec)
    bits = starts.view(np.uint32)
    patterns = np.arange(1 << (32 - shift), dtype=np.uint32) << np.uint32(shift)
    first = np.zeros(len(patterns), np.uint32)
    finite = patterns < _INFINITY_BITS
    first[finite] = 1 + np.searchsorted(bits, patterns[finite], side="right")
    begin = np.full(len(patterns), 1 << shift, np.uint32)
    within = bits & np.uint32((1 << shift) - 1)
    begin[(bits >> np.uint32(shift))[within > 0]] = within[within > 0]
    beyond = patterns > np.float32(_some(spec.far_m)).view(np.uint32)
    first[beyond & finite], begin[beyond] = SKY_CODE, 1 << shift
    for pattern, code in ((0, UNKNOWN_CODE), (_INFINITY_BITS, SKY_CODE)):  # each just this pattern, then the next code
        first[pattern >> shift], begin[pattern >> shift] = code, 1
    numbers = (first << np.uint32(shift)) + np.uint32(1 << shift) - begin - patterns
    numbers.flags.writeable = False
    return numbers, np.uint32(shift)


def _log_starts(spec: DepthSpec) -> Float32[np.ndarray, " n"]:
    """Return where codes from 2 on begin: half way from one's metres to the next, rounded up.

    Raises ValueError if that is farther from either than the relative error, which is so for all float32 if for any.
    """
    metres = depth_table(spec)[1 : spec.log_codes + 1].astype(np.float64)
    middles = (metres[:-1] + metres[1:]) / 2
    if (np.diff(metres) / 2 > spec.relative_error * middles).any():
        raise ValueError(f"a relative error of {spec.relative_error:g} is finer than metres in float32 allow")
    starts = middles.astype(np.float32)
    return np.where(starts < middles, np.nextafter(starts, np.float32(np.inf)), starts)


# ---------------------------------------------------------------------------------------------------- linear and half


def _code_linear(depth_m: Float32[np.ndarray, "h w"], spec: DepthSpec, codes: UInt16[np.ndarray, "h w"]) -> bool:
    """Fill in the codes; returns whether all are plainly exact."""
    unit_m = np.float32(_some(spec.unit_m))
    exact = True
    for rows in strips(*depth_m.shape):
        units = _units(depth_m[rows], unit_m, limit=SKY_CODE)
        np.rint(units, out=units)
        np.copyto(codes[rows], units, casting="unsafe")
        units *= unit_m
        exact = exact and _near(units, depth_m[rows], codes[rows])
    return exact


def _code_half(depth_m: Float32[np.ndarray, "h w"], spec: DepthSpec, codes: UInt16[np.ndarray, "h w"]) -> bool:
    """Fill in the codes; returns whether all are plainly exact."""
    unit_m = np.float32(_some(spec.unit_m))
    exact = True
    for rows in strips(*depth_m.shape):
        units = _units(depth_m[rows], unit_m, limit=2 * _MAX_HALF)
        np.absolute(units, out=units)  # the bits of -0 are those of no code
        beyond = units > np.float32(_MAX_HALF * (1 + _ROUNDING))
        np.minimum(units, np.float32(_MAX_HALF), out=units)
        halves = units.astype(np.float16)
        codes[rows] = halves.view(np.uint16)
        np.copyto(codes[rows], SKY_CODE, where=beyond)
        exact = exact and _near(halves.astype(np.float32) * unit_m, depth_m[rows], codes[rows])
    return exact


def _units(metres: Float32[np.ndarray, "h w"], unit_m: np.float32, *, limit: int) -> Float32[np.ndarray, "h w"]:
    """Return metres / unit_m between 0, also for unknown, and `limit`."""
    units = metres / unit_m
    np.fmax(units, np.float32(0), out=units)
    return np.minimum(units, np.float32(limit), out=units)


def _near(
    decoded: Float32[np.ndarray, "h w"], metres: Float32[np.ndarray, "h w"], codes: UInt16[np.ndarray, "h w"]
) -> bool:
    """Tell whether all that is known and not sky is well within rounding."""
    off = np.abs(decoded - metres) > metres * np.float32(_ROUNDING / 2)
    return not (off & (codes != SKY_CODE)).any()


def _expect_exact(depth_m: Float32[np.ndarray, "h w"], codes: UInt16[np.ndarray, "h w"], spec: DepthSpec) -> None:
    bound = max(spec.relative_error, _ROUNDING)
    decoded = depth_table(spec)[codes].astype(np.float64)
    error = np.abs(decoded - depth_m)
    broken = ~(error <= bound * depth_m) & (depth_m > 0)  # what would become unknown is broken too
    broken &= (codes != SKY_CODE) | (depth_m < _farthest_m(spec))
    if not broken.any():
        return
    worst = np.where(broken, np.nan_to_num(error, nan=np.inf), -1)
    row, column = np.unravel_index(int(np.argmax(worst)), broken.shape)
    raise ValueError(
        f"depth {depth_m[row, column]:g} m at row {row}, column {column} would decode as "
        f"{decoded[row, column]:g} m, outside the promise of kind {spec.kind!r} ({bound:g} relative)"
    )


def within_range(depth_m: Float32[np.ndarray, "h w"], spec: DepthSpec) -> Float32[np.ndarray, "h w"]:
    """Take the farthest code of kind `log`, up to a step beyond the range, back into it.

    Converted again, it would be sky otherwise.
    """
    if spec.far_m is None:
        return depth_m
    return np.where(np.isfinite(depth_m), np.minimum(depth_m, np.float32(spec.far_m)), depth_m)


def log_range(spec: DepthSpec) -> tuple[float, float]:
    """Return the nearest and farthest metres for a code of kind `log` in place of this one."""
    if spec.near_m is not None and spec.far_m is not None:
        return spec.near_m, spec.far_m
    nearest = _some(spec.unit_m) * (1 if spec.kind == "linear" else 2**-14)  # smaller halves have fewer digits
    return nearest, _farthest_m(spec)


def _farthest_m(spec: DepthSpec) -> float:
    table = depth_table(spec)
    return float(table[np.isfinite(table)].max())
