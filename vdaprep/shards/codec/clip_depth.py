"""The depth of a clip, whose kind and packing are chosen when its frames are known.

Where a clip is to be stored code by code, and all its depth is half floats as renderers write them, kind `half` is
exact at about the size of `log`. Of the packings without loss it takes the smallest, by every eighth frame; `sparse` is
tried where points are lone. Interpolated, lone points would take ten times the time and more bytes than code by code.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float32, UInt16

from vdaprep.shards.codec.depth import pack_codes, pack_planes, unpack_codes, unpack_planes
from vdaprep.shards.codec.interpolation import pack_interpolated
from vdaprep.shards.codec.sparse import is_sparse
from vdaprep.shards.depth_codes import (
    SKY_CODE,
    UNKNOWN_CODE,
    code_depth,
    code_disparity,
    count_beyond,
    disparity_range,
    metres_of,
)
from vdaprep.shards.metadata import DepthSpec

HALF_METRES = DepthSpec("half", 0.0, unit_m=1.0, packing="nibbles")
"""How the depth of a clip is stored, in place of kind `log`, if all of it is half floats in metres."""
LOSSLESS = ("bytes", "nibbles", "sparse")
"""The packings that keep every code; of as many bytes the first is taken."""
_COMPARED_EVERY = 8  # of so many frames one is packed both ways
_LEAST_FULL_HALF, _MOST_HALF = np.float32(2**-14), np.float32(65504)  # smaller ones have fewer digits
_CUT_BITS = np.uint32(0x1FFF)  # of a float32's digits, which a half does not have
_EXPONENTS_APART = np.uint32((127 - 15) << 10)  # of the exponents' zeros, in a half's bits
_LOOKED_AT = 16  # of so many pixels each way one is asked first whether depth is half floats


@dataclass(frozen=True)
class PackedDepth:
    """The depth of a frame, packed as `spec` says until its clip is known."""

    data: bytes
    """The packed codes."""
    spec: DepthSpec
    """How they are packed."""
    height: int
    """Pixels."""
    width: int
    """Pixels."""
    disparity_range: tuple[float, float] | None
    """Least and greatest 1/m of what is known and not sky; None if nothing is."""
    clamped_near: int
    """Pixels nearer than near_m."""
    clamped_far: int
    """Pixels of finite depth that are stored as sky."""
    is_sparse: bool = False
    """Whether most known pixels are lone points."""
    teacher_disparity: tuple[float, float] | None = None
    """Least and greatest disparity of the clip as its teacher gave it, of kind `relative`."""

    @functools.cached_property
    def otherwise(self) -> "PackedDepth":
        """The same with the other one of the packings `nibbles` and `bytes`."""
        spec = replace(self.spec, packing="bytes" if self.spec.packing == "nibbles" else "nibbles")
        planes = unpack_planes(self.data, self.spec, height=self.height, width=self.width)
        return replace(self, data=pack_planes(planes, spec), spec=spec)


def pack_depth(
    depth_m: Float32[np.ndarray, "h w"], spec: DepthSpec, *, halves: bool = True, likely: str = "nibbles"
) -> PackedDepth:
    """Encode metres (nan or <= 0: unknown, inf: sky) for a clip to be stored as `spec` says.

    `halves` asks for kind `half` where the depth is that. Where either will do, the frame is packed as `likely`; if
    `settle` then decides so, that saves packing it again. Raises ValueError if the depth cannot be kept within the
    kind's promise.
    """
    either = spec.packing == "nibbles"
    codes = _half_codes(depth_m, spec) if halves and either and spec.kind == "log" else None
    if codes is not None:
        return _packed(codes, replace(HALF_METRES, packing=likely), depth_m)
    codes, clamped_near = code_depth(depth_m, spec)
    packed = _packed(codes, replace(spec, packing=likely) if either else spec, depth_m)
    return replace(packed, clamped_near=clamped_near)


def pack_disparity(disparities: Sequence[Float32[np.ndarray, "h w"]], spec: DepthSpec) -> list[PackedDepth]:
    """Encode the frames of a clip of kind `relative`, whose range is that of all of them.

    Args:
        disparities: A teacher's numbers, near being greater, of each frame; what is not finite is unknown.
        spec: How they are to be stored; with packing `nibbles` as `settle` then decides.

    Raises:
        ValueError: Nothing is known of the clip, or one number alone, which no scale and shift can be fitted to.
    """
    known = [values[np.isfinite(values)] for values in disparities]
    least = min((float(values.min()) for values in known if values.size), default=math.nan)
    greatest = max((float(values.max()) for values in known if values.size), default=math.nan)
    if not least < greatest:
        found = "no number that is finite" if math.isnan(least) else f"{least:g} everywhere"
        raise ValueError(f"disparity has {found}, expected numbers that are greater where it is nearer")
    codes = [code_disparity(values, least=least, greatest=greatest) for values in disparities]
    return [replace(_packed(one, spec, None), teacher_disparity=(least, greatest)) for one in codes]


def likely_packing(frame: PackedDepth) -> str:
    """Return the packing without loss that takes least, for the frames that follow."""
    return _smallest([frame])


def suited(depth_m: Float32[np.ndarray, "h w"], spec: DepthSpec) -> DepthSpec:
    """Return how depth like a clip's first is to be packed: code by code where points are lone.

    Within the same error; other packings than `interpolation` stay, as `settle` decides.
    """
    if spec.packing != "interpolation" or not is_sparse(depth_m > 0):
        return spec
    return replace(spec, packing="sparse", steps=1)


def pack_again(codes: UInt16[np.ndarray, "h w"], spec: DepthSpec) -> PackedDepth:
    """Pack codes that were packed otherwise."""
    return _packed(codes, spec, None)


def keep_packed(data: bytes, codes: UInt16[np.ndarray, "h w"], spec: DepthSpec) -> PackedDepth:
    """Take over bytes that decode to these codes."""
    height, width = codes.shape
    return PackedDepth(data, spec, height, width, disparity_range(codes, spec), clamped_near=0, clamped_far=0)


def settle(frames: Sequence[PackedDepth], spec: DepthSpec) -> list[PackedDepth]:
    """Return a clip's frames with one kind and one packing; `spec` is what they were packed for."""
    if any(frame.spec.kind != HALF_METRES.kind for frame in frames):
        frames = [_coded_again(frame, spec) if frame.spec.kind != spec.kind else frame for frame in frames]
    if spec.packing == "nibbles":
        packing = _smallest(frames[::_COMPARED_EVERY])
        return [_packed_as(frame, packing) for frame in frames]
    return list(frames)


def _smallest(frames: Sequence[PackedDepth]) -> str:
    """Return the packing without loss that takes least for these frames."""
    sizes = {packing: sum(_size(frame, packing) for frame in frames) for packing in ("nibbles", "bytes")}
    if any(frame.is_sparse for frame in frames):
        sizes["sparse"] = sum(_size(frame, "sparse") for frame in frames)
    return min(sizes, key=lambda packing: sizes[packing])


def _packed(
    codes: UInt16[np.ndarray, "h w"], spec: DepthSpec, depth_m: Float32[np.ndarray, "h w"] | None
) -> PackedDepth:
    height, width = codes.shape
    if spec.packing == "interpolation":
        data, codes = pack_interpolated(codes, steps=spec.steps)
    else:
        data = pack_codes(codes, spec)
    return PackedDepth(
        data,
        spec,
        height,
        width,
        disparity_range(codes, spec),
        clamped_near=0,
        clamped_far=0 if depth_m is None else count_beyond(depth_m, codes),
        is_sparse=spec.packing != "interpolation" and is_sparse(codes != UNKNOWN_CODE),
    )


def _half_codes(depth_m: Float32[np.ndarray, "h w"], spec: DepthSpec) -> UInt16[np.ndarray, "h w"] | None:
    """Return the bits of half floats, sky beyond far_m; None if a depth up to there is none."""
    assert spec.far_m is not None  # kind log has it
    far_m = np.float32(spec.far_m)
    few = depth_m[::_LOOKED_AT, ::_LOOKED_AT]
    with np.errstate(invalid="ignore", over="ignore"):
        if not _are_halves(few, few.astype(np.float16), far_m):
            return None
        return _bits_of_halves(depth_m, far_m)


def _bits_of_halves(depth_m: Float32[np.ndarray, "h w"], far_m: np.float32) -> UInt16[np.ndarray, "h w"] | None:
    """Return the bits of half floats, sky beyond far_m; None if a depth up to there is none.

    Cut out of the float32's bits where all have a half's full 11 digits: numpy's conversion takes thrice the time. As
    whole numbers, less 1, bits are in the order of the depths, behind which come inf, nan, what is below 0, and 0.
    """
    bits = np.ascontiguousarray(depth_m).view(np.uint32)
    ranks = bits - np.uint32(1)
    nearest, farthest = ranks.min(), ranks.max()
    if nearest >= _rank(_LEAST_FULL_HALF) and far_m <= _MOST_HALF:
        known = bits if farthest <= _rank(far_m) else bits[ranks <= _rank(far_m)]
        if np.bitwise_or.reduce(known, axis=None) & _CUT_BITS:
            return None
        codes = np.right_shift(bits, 13, out=ranks, casting="unsafe").astype(np.uint16)
        codes -= np.uint16(_EXPONENTS_APART)
    else:
        halves = depth_m.astype(np.float16)
        if not _are_halves(depth_m, halves, far_m):
            return None
        codes = halves.view(np.uint16)
    if farthest > _rank(far_m):
        np.copyto(codes, 0, where=~(depth_m > 0))
        np.copyto(codes, SKY_CODE, where=depth_m > far_m)
    return codes


def _rank(metres: np.float32) -> np.uint32:
    return metres.view(np.uint32) - np.uint32(1)


def _are_halves(depth_m: Float32[np.ndarray, "h w"], halves: np.ndarray, far_m: np.float32) -> bool:
    off = halves.astype(np.float32) != depth_m
    off &= depth_m > 0
    off &= depth_m <= far_m
    return not off.any()


def _coded_again(frame: PackedDepth, spec: DepthSpec) -> PackedDepth:
    """Code a frame that was stored as half floats, which lost nothing, as its clip is."""
    codes = unpack_codes(frame.data, frame.spec, height=frame.height, width=frame.width)
    again = pack_depth(metres_of(codes, frame.spec), spec, halves=False)
    return replace(again, clamped_far=frame.clamped_far)


def _size(frame: PackedDepth, packing: str) -> int:
    return len(_packed_as(frame, packing).data)


def _packed_as(frame: PackedDepth, packing: str) -> PackedDepth:
    if frame.spec.packing == packing:
        return frame
    if "sparse" not in (frame.spec.packing, packing):
        return frame.otherwise
    codes = unpack_codes(frame.data, frame.spec, height=frame.height, width=frame.width)
    spec = replace(frame.spec, packing=packing)
    return replace(frame, data=pack_codes(codes, spec), spec=spec)
