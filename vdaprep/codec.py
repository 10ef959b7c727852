"""Frames to the bytes of a shard's members and back; every encoder stands next to its decoder.

Depth codes (uint16, monotonic in depth):

    code             metres                                decoded as
    0                unknown: nan, or <= 0                 nan
    1 to 65534       by kind, see below                    float32 metres along z
    65535            sky: inf, or beyond the kind's range  inf

    linear           code * unit_m                         range to 65534 * unit_m
    half             half float with bits `code` * unit_m  range to 65504 * unit_m
    log              near_m * exp((code - 1) * step)       range near_m to far_m; nearer is stored as near_m

with step = 0.999 * 2 * log1p(relative_error), so that half a step and the rounding to float32 stay within the error.

Depth bytes: zstd(low bytes, then high bytes, of zigzag(gradient residual of the codes)); the residual of a pixel is
code - left - above + above-left modulo 65536 (outside the image: 0), so two cumulative sums undo it.

Differences (int8, channels first): clip(round(d / step), -127, 127) of the difference d of two area-averaged frames in
grey levels; bytes: zstd of the array.
"""

import functools
import math
import threading

import cv2
import numpy as np
import zstandard
from jaxtyping import Float32, Int8, UInt8, UInt16

from vdaprep.errors import ShardError
from vdaprep.schema import DepthSpec, DiffSpec

UNKNOWN_CODE = 0
SKY_CODE = 65535
_MAX_CODE = 65534
_MAX_HALF_CODE = 0x7BFF  # the bits of 65504, the largest finite half
_ROUNDING = 1e-6  # relative: what "exact" may lose to float32 on the way to metres and back

# After the prediction zstd's level 1 packs as small as level 3 (62 KiB a real frame of 540x360) and is quicker; level 6
# saves 6.5 % for four times the time, level 19 19 % for 140 times. `make bench` prints the table.
ZSTD_LEVEL = 1
_zstd = threading.local()


# ---------------------------------------------------------------------------------------------------------- zstandard


def _compress(data: bytes | memoryview) -> bytes:
    compressor: zstandard.ZstdCompressor | None = getattr(_zstd, "compressor", None)
    if compressor is None:
        compressor = zstandard.ZstdCompressor(level=ZSTD_LEVEL, write_checksum=True, write_content_size=True)
        _zstd.compressor = compressor
    return compressor.compress(data)


def _decompress(data: bytes, *, size: int, where: str) -> bytes:
    """Decompress to exactly `size` bytes; the size is compared before anything is allocated."""
    try:
        found = zstandard.get_frame_parameters(data).content_size
        if found != size:
            raise ShardError(f"{where}: holds {found} bytes when unpacked, expected {size}; the shard is damaged.")
        decompressor: zstandard.ZstdDecompressor | None = getattr(_zstd, "decompressor", None)
        if decompressor is None:
            decompressor = _zstd.decompressor = zstandard.ZstdDecompressor()
        return decompressor.decompress(data, max_output_size=size, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise ShardError(f"{where}: not readable as zstd ({error}); the shard is damaged.") from error


# -------------------------------------------------------------------------------------------------------- depth codes


def log_step(relative_error: float) -> float:
    """Return the width of a `log` code in log(metres), just under 2 log(1 + relative_error)."""
    return 0.999 * 2 * math.log1p(relative_error)


@functools.lru_cache(maxsize=16)
def depth_table(spec: DepthSpec) -> Float32[np.ndarray, "65536"]:
    """Return the metres of each code: nan for 0, inf for 65535 and for codes that the kind does not use."""
    codes = np.arange(65536, dtype=np.float64)
    if spec.kind == "linear":
        metres = codes * _some(spec.unit_m)
    elif spec.kind == "half":
        metres = np.full(65536, np.inf)
        halves = np.arange(_MAX_HALF_CODE + 1, dtype=np.uint16).view(np.float16)
        metres[: len(halves)] = halves.astype(np.float64) * _some(spec.unit_m)
    else:
        top = _log_codes(spec)
        metres = _some(spec.near_m) * np.exp(np.minimum(codes - 1, top) * log_step(spec.relative_error))
        metres[top + 1 :] = np.inf
    metres[UNKNOWN_CODE] = np.nan
    metres[SKY_CODE] = np.inf
    table = metres.astype(np.float32)
    table.flags.writeable = False
    return table


def code_depth(depth_m: Float32[np.ndarray, "h w"], spec: DepthSpec) -> tuple[UInt16[np.ndarray, "h w"], int]:
    """Turn metres (nan or <= 0: unknown, inf: sky) into codes.

    Returns the codes and the number of pixels that were nearer than `near_m` (kind `log`). Raises ValueError, with the
    worst pixel, if a decoded pixel would be farther from its source than the kind promises.
    """
    clamped = 0
    if spec.kind == "log":
        codes = _code_log(depth_m, spec)
        near = (depth_m > 0) & (depth_m < np.float32(_some(spec.near_m)))
        clamped = int(np.count_nonzero(near))
    else:
        codes = _code_units(depth_m, spec)
        near = None
    _check_promise(depth_m, codes, spec, ignore=near if clamped else None)
    return codes, clamped


def _code_units(depth_m: Float32[np.ndarray, "h w"], spec: DepthSpec) -> UInt16[np.ndarray, "h w"]:
    unit_m = _some(spec.unit_m)
    known = (depth_m > 0) & np.isfinite(depth_m)
    units = np.where(known, depth_m, 0).astype(np.float64) / unit_m
    if spec.kind == "linear":
        beyond = units > _MAX_CODE + 0.5
        codes = np.rint(np.minimum(units, _MAX_CODE)).astype(np.uint16)
    else:
        beyond = units > 65504 * (1 + _ROUNDING)
        codes = np.minimum(units, 65504).astype(np.float16).view(np.uint16)
    codes[beyond | np.isposinf(depth_m)] = SKY_CODE
    return codes


@functools.lru_cache(maxsize=4)
def _log_buckets(spec: DepthSpec) -> tuple[UInt16[np.ndarray, " n"], Float32[np.ndarray, " n"], int]:
    """Split the bit patterns of float32 into buckets finer than a code.

    Returns per bucket the code of its lower end and the depth at which the next code begins (inf: none), and the
    number of low bits a bucket spans. Comparing, not taking logarithms, makes codes equal on every machine.
    """
    step = log_step(spec.relative_error)
    mantissa_bits = min(23, max(1, math.ceil(-math.log2(step)) + 1))
    shift = 23 - mantissa_bits
    edges = (np.arange(1 << (31 - shift), dtype=np.uint32) << shift).view(np.float32)
    starts = (_some(spec.near_m) * np.exp((np.arange(1, _log_codes(spec)) - 0.5) * step)).astype(np.float32)
    finite = np.isfinite(edges)
    base = np.zeros(2 * len(edges), np.uint16)  # upper half: negative numbers, unknown
    base[: len(edges)][finite] = 1 + np.searchsorted(starts, edges[finite], side="left")
    threshold = np.full(len(base), np.inf, np.float32)
    bucket_of_start = starts.view(np.uint32) >> shift
    threshold[bucket_of_start] = starts
    base[0], threshold[0] = UNKNOWN_CODE, np.nextafter(np.float32(0), np.float32(1))
    return base, threshold, shift


def _code_log(depth_m: Float32[np.ndarray, "h w"], spec: DepthSpec) -> UInt16[np.ndarray, "h w"]:
    base, threshold, shift = _log_buckets(spec)
    bucket = np.ascontiguousarray(depth_m).view(np.uint32) >> np.uint32(shift)
    codes = base.take(bucket)
    codes += depth_m >= threshold.take(bucket)
    codes[depth_m > np.float32(_some(spec.far_m))] = SKY_CODE
    return codes


def _log_codes(spec: DepthSpec) -> int:
    count = 1 + math.ceil(math.log(_some(spec.far_m) / _some(spec.near_m)) / log_step(spec.relative_error))
    if count > _MAX_CODE:
        raise ValueError(
            f"a relative error of {spec.relative_error:g} from {spec.near_m:g} to {spec.far_m:g} m "
            f"needs {count} codes, 16 bits hold {_MAX_CODE}"
        )
    return count


def _check_promise(
    depth_m: Float32[np.ndarray, "h w"],
    codes: UInt16[np.ndarray, "h w"],
    spec: DepthSpec,
    *,
    ignore: np.ndarray | None,
) -> None:
    bound = np.float32(max(spec.relative_error, _ROUNDING))
    with np.errstate(invalid="ignore"):  # inf - inf at sky
        error = np.abs(depth_table(spec).take(codes) - depth_m)
        broken = error > bound * depth_m
    broken &= (codes != SKY_CODE) | (depth_m < _farthest_m(spec))
    if ignore is not None:
        broken &= ~ignore
    if not broken.any():
        return
    row, column = np.unravel_index(int(np.argmax(np.where(broken, error, 0))), broken.shape)
    raise ValueError(
        f"depth {depth_m[row, column]:g} m at row {row}, column {column} would decode as "
        f"{depth_table(spec)[codes[row, column]]:g} m, outside the promise of kind {spec.kind!r} ({bound:g} relative)"
    )


def disparity_range(codes: UInt16[np.ndarray, "h w"], spec: DepthSpec) -> tuple[float, float] | None:
    """Return the least and the greatest 1/metres of known pixels that are not sky; None if there is none."""
    nearest = int((codes - np.uint16(1)).min()) + 1  # unknown wraps round to the far end
    farthest = int((codes + np.uint16(1)).max()) - 1  # and so does sky to the near one
    if nearest > _MAX_CODE or farthest < 1:
        return None
    table = depth_table(spec)
    return 1 / float(table[farthest]), 1 / float(table[nearest])


@functools.lru_cache(maxsize=16)
def _farthest_m(spec: DepthSpec) -> np.float32:
    table = depth_table(spec)
    return np.float32(spec.far_m or table[np.isfinite(table)].max())


def _some(value: float | None) -> float:
    assert value is not None  # DepthSpec refuses a kind without its numbers
    return value


# -------------------------------------------------------------------------------------------------------- depth bytes


def encode_depth(depth_m: Float32[np.ndarray, "h w"], spec: DepthSpec) -> tuple[bytes, int]:
    """Encode metres (nan or <= 0: unknown, inf: sky); returns the bytes and the number of pixels nearer than near_m.

    Raises ValueError if the depth cannot be kept within the kind's promise.
    """
    codes, clamped = code_depth(depth_m, spec)
    return pack_codes(codes), clamped


def decode_depth(
    data: bytes, spec: DepthSpec, *, height: int, width: int, where: str = "depth"
) -> Float32[np.ndarray, "{height} {width}"]:
    """Decode to metres: nan = unknown, inf = sky. Raises ShardError naming `where` if the bytes are damaged."""
    return depth_table(spec).take(unpack_codes(data, height=height, width=width, where=where))


def pack_codes(codes: UInt16[np.ndarray, "h w"]) -> bytes:
    """Compress codes: gradient prediction, zigzag, byte planes, zstd."""
    residual = codes.copy()
    residual[:, 1:] -= codes[:, :-1]
    residual[1:] -= residual[:-1].copy()
    signed = residual.view(np.int16)
    zigzag = ((signed << 1) ^ (signed >> 15)).view(np.uint16)
    planes = np.empty((2, *codes.shape), np.uint8)
    planes[0] = zigzag & 0xFF
    planes[1] = zigzag >> 8
    return _compress(planes.data)


def unpack_planes(
    data: bytes, *, height: int, width: int, where: str = "depth"
) -> UInt8[np.ndarray, "2 {height} {width}"]:
    """Undo only the compression: the low and the high bytes of the zigzag residuals, for a device to go on from."""
    raw = _decompress(data, size=2 * height * width, where=where)
    return np.frombuffer(raw, np.uint8).reshape(2, height, width)


def unpack_codes(
    data: bytes, *, height: int, width: int, where: str = "depth"
) -> UInt16[np.ndarray, "{height} {width}"]:
    """Undo `pack_codes`. Raises ShardError naming `where` if the bytes are damaged."""
    low, high = unpack_planes(data, height=height, width=width, where=where)
    zigzag = low | (high.astype(np.uint16) << 8)
    residual = (zigzag >> 1) ^ (np.uint16(0) - (zigzag & 1))
    rows = np.cumsum(residual, axis=1, dtype=np.uint16)
    return np.cumsum(rows, axis=0, dtype=np.uint16)


# -------------------------------------------------------------------------------------------------------- differences


def shrink(rgb: UInt8[np.ndarray, "h w 3"], spec: DiffSpec) -> Float32[np.ndarray, "dh dw 3"]:
    """Average a frame over areas of `spec.scale` x `spec.scale` pixels, in grey levels, without rounding."""
    rows, columns = spec.size_of(*rgb.shape[:2])
    return cv2.resize(rgb.astype(np.float32), (columns, rows), interpolation=cv2.INTER_AREA)


def encode_diff(
    current: Float32[np.ndarray, "dh dw 3"], previous: Float32[np.ndarray, "dh dw 3"] | None, spec: DiffSpec
) -> bytes:
    """Encode the difference of two shrunk frames, current minus previous; zeros if there is no previous one."""
    if previous is None:
        steps = np.zeros(current.shape, np.float32)
    else:
        steps = np.rint((current - previous) * np.float32(1 / spec.step))
    quantised = np.clip(steps, -127, 127).astype(np.int8)
    return _compress(np.ascontiguousarray(quantised.transpose(2, 0, 1)).data)


def decode_diff(
    data: bytes, spec: DiffSpec, *, height: int, width: int, where: str = "difference"
) -> Int8[np.ndarray, "3 dh dw"]:
    """Decode the difference of a frame of `height` x `width` pixels, in steps of `spec.step` grey levels.

    Raises ShardError naming `where` if the bytes are damaged.
    """
    rows, columns = spec.size_of(height, width)
    raw = _decompress(data, size=3 * rows * columns, where=where)
    return np.frombuffer(raw, np.int8).reshape(3, rows, columns)


# ---------------------------------------------------------------------------------------------------------------- rgb


def encode_rgb(rgb: UInt8[np.ndarray, "h w 3"], *, quality: int) -> bytes:
    """Encode as JPEG of the given quality (1 to 100), chroma halved both ways."""
    ok, data = cv2.imencode(".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    assert ok  # cv2 encodes any uint8 image
    return data.tobytes()


def decode_rgb(data: bytes, *, where: str = "frame") -> UInt8[np.ndarray, "h w 3"]:
    """Decode a JPEG. Raises ShardError naming `where` if it is cut short or is no JPEG."""
    if data[:2] != b"\xff\xd8" or data[-2:] != b"\xff\xd9":  # cv2 fills what is missing with grey
        raise ShardError(f"{where}: not a whole JPEG; the shard is damaged.")
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise ShardError(f"{where}: the JPEG cannot be decoded; the shard is damaged.")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
