"""The members of a clip's frames: images or groups of video, depth, differences."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8

from vdaprep.conversion.encode.profiles import Rgb
from vdaprep.shards import codec
from vdaprep.shards.codec import PackedDepth
from vdaprep.shards.metadata import DepthSpec

_KEPT_QUALITY = 95  # from this quality on JPEGs are kept as they are; a lower one is asked for to save space
Members = tuple[tuple[str, bytes], ...]


@dataclass(frozen=True)
class ClipDepth:
    """What a clip's metadata and its record say of its depth."""

    spec: DepthSpec | None
    """How it is coded; None of frames without labels."""
    disparity_min: float
    """Least 1/m of what is known and not sky; 0 if nothing is."""
    disparity_max: float
    """Greatest 1/m of it."""
    clamped_near: int
    """Pixels nearer than the code's near end."""
    clamped_far: int
    """Pixels of finite depth that are stored as sky."""
    teacher_disparity: tuple[float, float] | None
    """A teacher's least and greatest disparity; None of metres."""


class ClipMembers:
    """Collects the frames of a clip; a complete group of video lets go of its pixels.

    Args:
        rgb: How images are encoded.
        depth: How depth was packed for the clip (`codec.pack_depth`).
    """

    def __init__(self, rgb: Rgb, depth: DepthSpec) -> None:
        self._rgb = rgb
        self._spec = depth
        self._images: list[bytes | None] = []
        self._waiting: list[UInt8[np.ndarray, "h w 3"]] = []
        self._depth: list[PackedDepth] = []
        self._diffs: list[bytes | None] = []

    def add(
        self, image: bytes | UInt8[np.ndarray, "h w 3"] | None, depth: PackedDepth | None, diff: bytes | None = None
    ) -> None:
        """Append a frame.

        Args:
            image: The member that holds it, or pixels for a group of video; None if a group before holds it.
            depth: Its depth; None without labels, then of all frames.
            diff: The member that holds its difference to the frame before; None without.
        """
        self._depth += [] if depth is None else [depth]
        self._diffs.append(diff)
        if isinstance(image, np.ndarray):
            self._waiting.append(image)
            self._images.append(None)
            if len(self._waiting) == self._rgb.spec.group:
                self._end_group()
        else:
            self._images.append(image)

    def finish(self) -> tuple[ClipDepth, tuple[Members, ...]]:
        """Return what the metadata says of depth, and each frame's members in the shard's order."""
        if self._waiting:
            self._end_group()
        depth = codec.settle(self._depth, self._spec) if self._depth else []
        stored = [item.data for item in depth] or [None] * len(self._images)
        ranges = [item.disparity_range for item in depth if item.disparity_range is not None]
        said = ClipDepth(
            depth[0].spec if depth else None,
            min((low for low, _ in ranges), default=0.0),
            max((high for _, high in ranges), default=0.0),
            sum(item.clamped_near for item in depth),
            sum(item.clamped_far for item in depth),
            depth[0].teacher_disparity if depth else None,
        )
        kinds = (self._rgb.spec.kind, "depth.zst", "diff.zst")
        frames = zip(self._images, stored, self._diffs, strict=True)
        present = (
            [(kind, data) for kind, data in zip(kinds, frame, strict=True) if data is not None] for frame in frames
        )
        return said, tuple(map(tuple, present))

    def _end_group(self) -> None:
        first = len(self._images) - len(self._waiting)
        self._images[first] = codec.encode_group(self._waiting, codec=self._rgb.codec, crf=self._rgb.quality)
        self._waiting = []


def encode_jpeg(pixels: UInt8[np.ndarray, "h w 3"], rgb: Rgb, *, own: bytes | None, optimised: bool = True) -> bytes:
    """Encode as JPEG; a frame's own is kept if none smaller is wanted, or can be made."""
    if own and rgb.quality >= _KEPT_QUALITY:
        return own
    optimised = optimised and rgb.quality < _KEPT_QUALITY
    made = codec.encode_rgb(pixels, quality=rgb.quality, optimised=optimised)
    return min(made, own, key=len) if own else made
