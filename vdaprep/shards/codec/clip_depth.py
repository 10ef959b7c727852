"""The depth of a clip, whose kind and packing are chosen when its frames are known.

Where a clip is to be stored code by code, and all its depth is half floats as renderers write them, kind `half` is
exact at about the size of `log`. Of the packings `nibbles` and `bytes` it takes the smaller, by every eighth frame.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float32, UInt16

from vdaprep.shards.codec.depth import pack_codes, unpack_codes
from vdaprep.shards.codec.interpolation import pack_interpolated
from vdaprep.shards.depth_codes import SKY_CODE, code_depth, count_beyond, disparity_range, metres_of
from vdaprep.shards.metadata import DepthSpec

HALF_METRES = DepthSpec("half", 0.0, unit_m=1.0, packing="nibbles")
"""How the depth of a clip is stored, in place of kind `log`, if all of it is half floats in metres."""
_COMPARED_EVERY = 8  # of so many frames one is packed both ways
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


def pack_depth(depth_m: Float32[np.ndarray, "h w"], spec: DepthSpec, *, halves: bool = True) -> PackedDepth:
    """Encode metres (nan or <= 0: unknown, inf: sky) for a clip to be stored as `spec` says.

    `halves` asks for kind `half` where the depth is that. Raises ValueError if the depth cannot be kept within the
    kind's promise.
    """
    codes = _half_codes(depth_m, spec) if halves and (spec.kind, spec.packing) == ("log", "nibbles") else None
    if codes is not None:
        return _packed(codes, HALF_METRES, depth_m)
    codes, clamped_near = code_depth(depth_m, spec)
    return replace(_packed(codes, spec, depth_m), clamped_near=clamped_near)


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
        compared = frames[::_COMPARED_EVERY]
        if sum(len(_packed_as_bytes(frame).data) for frame in compared) < sum(len(frame.data) for frame in compared):
            return [_packed_as_bytes(frame) for frame in frames]
    return list(frames)


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
    )


def _half_codes(depth_m: Float32[np.ndarray, "h w"], spec: DepthSpec) -> UInt16[np.ndarray, "h w"] | None:
    """Return the bits of half floats, sky beyond far_m; None if a depth up to there is none."""
    assert spec.far_m is not None  # kind log has it
    far_m = np.float32(spec.far_m)
    few = depth_m[::_LOOKED_AT, ::_LOOKED_AT]
    with np.errstate(invalid="ignore", over="ignore"):
        if not _are_halves(few, few.astype(np.float16), far_m):
            return None
        halves = depth_m.astype(np.float16)
        if not _are_halves(depth_m, halves, far_m):
            return None
        codes = halves.view(np.uint16)
        np.copyto(codes, 0, where=~(depth_m > 0))
        np.copyto(codes, SKY_CODE, where=depth_m > far_m)
    return codes


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


def _packed_as_bytes(frame: PackedDepth) -> PackedDepth:
    spec = replace(frame.spec, packing="bytes")
    codes = unpack_codes(frame.data, frame.spec, height=frame.height, width=frame.width)
    return replace(frame, data=pack_codes(codes, spec), spec=spec)
