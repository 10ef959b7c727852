"""Flaws that show without any warping: frames that are black, empty or the same as the one before."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

from vdaprep.schema import ClipMeta
from vdaprep.warp import View

_BLACK = 12  # grey levels: JPEG does not keep zeros


@dataclass(frozen=True, eq=False)
class DecodedFrame:
    """A frame of a clip: its number, its stored bytes, whether it is black, its depth, and how it was seen.

    `stride` is what the numbers of the trajectory's frames go up by.
    """

    number: int
    stride: int
    rgb: bytes
    depth: bytes
    is_black: bool
    depth_m: Float32[np.ndarray, "h w"]
    view: View | None

    def follows(self, other: "DecodedFrame") -> bool:
        """Tell whether it comes right after another frame, and has its size."""
        return self.number == other.number + self.stride and self.depth_m.shape == other.depth_m.shape

    def stands_still_after(self, other: "DecodedFrame") -> bool:
        """Tell whether the poses say that the camera did not move."""
        if self.view is None or other.view is None:
            return False
        return np.array_equal(self.view.camera_to_world, other.view.camera_to_world)


def decoded_frames(
    members: Iterable[tuple[str, bytes, np.ndarray | ClipMeta]], *, stride: int
) -> Iterator[tuple[ClipMeta, DecodedFrame]]:
    """Put the members of a clip, in their order, together to frames with the clip's metadata."""
    meta, rgb, is_black, index = None, b"", False, 0
    for kind, data, value in members:
        if isinstance(value, ClipMeta):
            meta = value
        elif kind == "rgb.jpg":
            rgb, is_black = data, bool(value.max() <= _BLACK)
        elif kind == "depth.zst":
            assert meta is not None  # it comes first
            yield (
                meta,
                DecodedFrame(meta.frame_ids[index], stride, rgb, data, is_black, value, _view(meta, index, value)),
            )
            index += 1


def _view(meta: ClipMeta, index: int, depth_m: Float32[np.ndarray, "h w"]) -> View | None:
    if meta.camera_to_world is None:
        return None
    return View(depth_m, np.array(meta.intrinsics[index]), np.array(meta.camera_to_world[index]))


class Flaws:
    """Counts the frames of a trajectory that cannot be as they should, and keeps the first of each sort."""

    def __init__(self) -> None:
        self._numbers: defaultdict[str, list[int]] = defaultdict(list)
        self._flat = 0
        self._stuck = 0

    def look(self, frame: DecodedFrame, before: DecodedFrame | None) -> None:
        """Look at a frame, and at the one that it follows."""
        known = frame.depth_m[np.isfinite(frame.depth_m)]
        self._flat += bool(known.size and known.min() == known.max())
        flaws = {
            "are black": frame.is_black,
            "are nothing but sky": bool(np.isposinf(frame.depth_m).all()),
            "have no known depth": bool(np.isnan(frame.depth_m).all()),
        }
        if before is not None and not frame.stands_still_after(before):
            same_rgb, same_depth = frame.rgb == before.rgb, frame.depth == before.depth
            flaws["repeat the frame before, though the camera moves"] = same_rgb and same_depth
            self._stuck += same_depth and not same_rgb
        for text, holds in flaws.items():
            if holds:
                self._numbers[text].append(frame.number)

    def sentences(self, frames: int) -> Iterator[str]:
        """Say what is wrong with a trajectory of that many frames."""
        for text, numbers in self._numbers.items():
            yield f"{len(numbers)} of {frames} frames {text} (the first: {numbers[0]})"
        if self._flat == frames:
            yield "depth never varies within a frame"
        if frames > 1 and self._stuck == frames - 1:
            yield "depth never varies from frame to frame, though the images do"
