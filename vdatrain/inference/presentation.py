"""How a stored frame is shown: which way up, with which pixel shape, and when."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import cv2
import numpy as np
from jaxtyping import UInt8

_SMALLEST_STEP = Fraction(1, 1000)  # seconds by which a frame follows one of the same time
_SET_BACK = 2  # usual steps: a time that is further before the last one is of a clock that was set back
_WIDEST_PIXEL = 8  # width over height, or height over width; a header that says more is not believed


@dataclass(frozen=True)
class Turn:
    """One of the eight ways to lay a picture: where its x axis and its y axis point."""

    x: tuple[int, int] = (1, 0)
    """Direction of a stored row in the picture shown: right is (1, 0), down is (0, 1)."""
    y: tuple[int, int] = (0, 1)
    """Direction of a stored column."""

    @classmethod
    def of_display_matrix(cls, data: bytes) -> "Turn":
        """Return the way nearest to a display matrix, by which (x, y, 1), a row, is multiplied.

        Args:
            data: Nine 32-bit integers a, b, u, c, d, v, x, y, w, as in ISO/IEC 14496-12, 8.3.2, in the machine's order.

        Returns:
            The quarter turn, mirrored or not, that agrees best; none for a matrix that is no use.
        """
        if len(data) < 36:
            return cls()
        a, b, _, c, d, *_ = struct.unpack("=9i", data[:36])
        return max(_TURNS, key=lambda turn: a * turn.x[0] + b * turn.x[1] + c * turn.y[0] + d * turn.y[1])

    @property
    def is_sideways(self) -> bool:
        """Whether width and height change places."""
        return self.x[0] == 0

    def apply(self, picture: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "shown_h shown_w 3"]:
        """Lay a stored picture as it is shown."""
        if self.is_sideways:
            picture = picture.transpose(1, 0, 2)
        right, down = self.x[0] + self.y[0], self.x[1] + self.y[1]
        return np.ascontiguousarray(picture[::down, ::right])


_TURNS = (Turn(),) + tuple(
    turn for i in (1, -1) for j in (1, -1) for turn in (Turn((i, 0), (0, j)), Turn((0, i), (j, 0))) if turn != Turn()
)


def square_pixels(picture: UInt8[np.ndarray, "h w 3"], pixel_shape: Fraction) -> UInt8[np.ndarray, "h shown_w 3"]:
    """Stretch or shrink a picture's rows so that its pixels are square.

    Args:
        picture: As stored.
        pixel_shape: Width of a stored pixel over its height.

    Returns:
        A picture of the same height.
    """
    height, width = picture.shape[:2]
    shown = shown_width(width, pixel_shape)
    if shown == width:
        return picture
    how = cv2.INTER_AREA if shown < width else cv2.INTER_CUBIC
    return cv2.resize(picture, (shown, height), interpolation=how).astype(np.uint8, copy=False)


def shown_width(width: int, pixel_shape: Fraction) -> int:
    """Return the width of a picture whose pixels were made square."""
    return max(1, round(width * pixel_shape))


def believable_shape(pixel_shape: Fraction | None) -> Fraction:
    """Return a pixel shape that a header states, 1 for none or one that no camera has."""
    if not pixel_shape or not Fraction(1, _WIDEST_PIXEL) <= pixel_shape <= _WIDEST_PIXEL:
        return Fraction(1)
    return pixel_shape


class Clock:
    """Presentation times that grow from frame to frame; counts those it had to change.

    Args:
        frame_seconds: Time from a frame to the next where the file does not say.
    """

    def __init__(self, frame_seconds: Fraction) -> None:
        self._step = frame_seconds
        self._offset = Fraction(0)
        self._last: Fraction | None = None
        self.missing = 0
        """Frames without a time: each follows the one before by `frame_seconds`."""
        self.repeated = 0
        """Frames whose time is not later than the one before: each is moved to just after it."""
        self.set_back = 0
        """How often the clock went back: what follows is moved to continue after the frame before."""

    def time_of(self, stated: Fraction | None) -> Fraction:
        """Return the time of the next frame.

        Args:
            stated: What the file says, in seconds; None where it says nothing.

        Returns:
            Seconds, later than those of the frame before.
        """
        last = self._last
        if stated is None:
            self.missing += 1
            time = Fraction(0) if last is None else last + self._step
        else:
            time = stated + self._offset
            if last is not None and time < last - _SET_BACK * self._step:
                self.set_back += 1
                self._offset += last + self._step - time
                time = last + self._step
            elif last is not None and time <= last:
                self.repeated += 1
                time = last + min(_SMALLEST_STEP, self._step)
        self._last = time
        return time

    def sentences(self, frames: int) -> Sequence[str]:
        """Say what was changed in the times of so many frames."""
        assumed = f"{float(1 / self._step):.6g} frames a second"
        found = [
            (self.missing, f"{self.missing} of {frames} frames have no time; {assumed} are assumed there"),
            (self.repeated, f"{self.repeated} of {frames} frames do not come after the one before, and are shown just "
             "after it"),
            (self.set_back, f"the times go back ({self.set_back} x); what follows is moved to come after"),
        ]  # fmt: skip
        return [f"{sentence}." for count, sentence in found if count]
