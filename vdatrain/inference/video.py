"""What a source of frames is: frames with their times, and what is said of the source."""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from jaxtyping import Float64, UInt8
from numpy import ndarray

from vdaprep.errors import DataError
from vdaprep.shards.metadata import DiffSpec
from vdaprep.storage.limits import LimitError

DEFAULT_FPS = Fraction(24)  # of images and shards, which do not say
DEFAULT_DIFF = DiffSpec(scale=4, step=2)  # as `vdaprep convert` stores differences unless told otherwise
_EXAMPLES = 3
_LONGEST = 16  # of the long side, in short sides: five screens of 3:1
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class VideoFrame:
    """A frame as it is shown: upright, with square pixels."""

    number: int
    """Successive frames have successive numbers; where frames are missing a number is left out."""
    rgb: UInt8[ndarray, "h w 3"]
    """Its pixels."""
    seconds: Fraction | None = None
    """When it is shown, by the file's own clock; None of an array, which has no times."""
    intrinsics: Float64[ndarray, "4"] | None = None
    """fx, fy, cx, cy in its pixels; None or nan where the source does not say."""


class Remarks:
    """What to know of a video: each sentence is logged once, however often it is read."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._said: set[str] = set()
        self.is_complete = True
        """Whether all that the source holds or promises has been read, so far."""

    def add(self, sentence: str, *, lost: bool = False) -> None:
        """Log a sentence about the source.

        Args:
            sentence: Without the name of the source, which is put before it.
            lost: Whether frames are missing for that reason.
        """
        self.is_complete &= not lost
        if sentence not in self._said:
            self._said.add(sentence)
            _logger.warning("%s: %s", self._where, sentence)


@dataclass(frozen=True)
class Video:
    """A source of frames that can be read repeatedly, one frame in memory at a time."""

    frames: Callable[[], Iterator[VideoFrame]]
    """Starts at the first frame at each call; all frames have one size, their times grow. A frame that cannot be read
    is left out and named in `remarks`. Raises DataError where a picture has another size, or where there is no frame.
    """
    num_frames: int
    """What the container promises, 0 where it says nothing."""
    fps: Fraction = DEFAULT_FPS
    """Frames a second, on average."""
    time_base: Fraction = 1 / DEFAULT_FPS
    """Seconds of which the frames' times are multiples."""
    diff: DiffSpec = DEFAULT_DIFF
    """How differences between the frames are to be taken."""
    remarks: Remarks = field(default_factory=lambda: Remarks("video"))
    """What there is to say of it."""


def checked(frames: Iterator[tuple[str, VideoFrame]], *, where: str) -> Iterator[VideoFrame]:
    """Yield named frames; raises DataError if there are none, or of two sizes.

    Raises LimitError if the first is a strip.
    """
    size: tuple[int, ...] | None = None
    for name, frame in frames:
        found = frame.rgb.shape
        if size is None:
            _check_shape(name, width=found[1], height=found[0])
        size = size or found
        if found != size:
            raise DataError(
                f"{name}: is {found[1]}x{found[0]} pixels, the frames before it are {size[1]}x{size[0]}; "
                "all must have one size."
            )
        yield frame
    if size is None:
        raise DataError(f"{where}: holds no frame of video that can be read.")


def _check_shape(name: str, *, width: int, height: int) -> None:
    """Refuse a strip, whose long side would take memory without bound."""
    if max(width, height) > _LONGEST * min(width, height):
        raise LimitError(
            name,
            f"is {width}x{height} pixels; expected a long side of at most {_LONGEST} times the short one; crop it.",
        )


def some(names: Sequence[str]) -> str:
    """Name the first of many: "a, b, c and 4 more"."""
    more = len(names) - _EXAMPLES
    return ", ".join(names[:_EXAMPLES]) + (f" and {more} more" if more > 0 else "")
