r"""Tables of text whose rows belong to frames by position: parsed, then counted.

A row is a line that holds anything but a comment: blank lines, what follows `#`, and a first row of words alone (a
header) are none, as for `numpy.loadtxt`. Lines end in `\n`, `\r\n`, `\r` or `\r\r\n`; a byte order mark is dropped.
"""

import functools
import logging
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from vdaprep.errors import FrameError, VdakitError
from vdaprep.raw.tree import Location
from vdaprep.storage.documents import read_text_lines

_BEGINS_AS_NUMBER = re.compile(r"[-+\[({,;'\"]*(?:\.?\d|(?:nan|inf|infinity)\W*$)", re.IGNORECASE)
_WHOLE = 64  # rows that no header, footer or repetition adds to a table

_log = logging.getLogger("vdaprep")


@dataclass(frozen=True)
class Row:
    """A row of a table."""

    line: int
    """Number of its line in the file, from 1."""
    words: tuple[str, ...]
    """What it holds."""

    def numbers(self, columns: int) -> list[float] | None:
        """Return the row as `columns` finite numbers; None if it is anything else."""
        found = [_number(word) for word in self.words]
        return [*found] if len(found) == columns and all(map(math.isfinite, found)) else None


def _number(word: str) -> float:
    try:
        return math.nan if "_" in word else float(word)  # Python reads 1_0 as ten
    except ValueError:
        return math.nan


def read_rows(data: bytes, location: Location) -> list[Row]:
    """Parse a table, its header being a row like the others; raises FrameError if it is no text."""
    try:
        lines = read_text_lines(data, where=str(location))
    except VdakitError as error:
        raise FrameError(str(location), str(error).removeprefix(f"{location}: ").rstrip(".")) from error
    rows = (Row(number, tuple(text.partition("#")[0].split())) for number, text in enumerate(lines, start=1))
    return [row for row in rows if row.words]


def without_header(rows: Sequence[Row]) -> Sequence[Row]:
    """Drop a first row of words, none of which begins as a number does, as `1,5` would."""
    is_header = bool(rows) and not any(map(_BEGINS_AS_NUMBER.match, rows[0].words))
    return rows[1:] if is_header else rows


def rows_of_frames(count: int, frame_ids: Sequence[int], location: Location) -> Sequence[int]:
    """Return which row is each frame's, proven by the count of rows.

    As many rows as the highest frame number plus 1: rows go by the frames' numbers. As many rows as frames: in order
    of the frames. Far more rows than frames that count up from 0: the table of a whole trajectory of which only the
    first frames are there. Whichever was used is logged unless both of the first two agree.

    Args:
        count: Rows of the table.
        frame_ids: The frames' numbers, ascending.
        location: The table, for messages.

    Returns:
        The index of each frame's row.

    Raises:
        FrameError: The count proves nothing: one sentence for the whole trajectory.
    """
    frames, needed = len(frame_ids), frame_ids[-1] + 1
    if count == needed:
        if frames < needed:
            _say(f"{location}: has {count} rows, as the highest frame number {needed - 1} asks; rows go by number.")
        return frame_ids
    if count == frames:
        _say(f"{location}: has {count} rows, as many as there are frames; rows go by the frames' order.")
        return range(frames)
    if needed == frames and count >= frames + _WHOLE:
        _say(
            f"{location}: has {count} rows for frames 0 to {needed - 1}, so it is taken to be of the whole trajectory."
        )
        return frame_ids
    raise FrameError(
        str(location),
        f"has {count} rows, and nothing tells which frame each is of: expected {_expected(frames, needed)}; "
        "get the files that are missing, or correct the table",
    )


def _expected(frames: int, needed: int) -> str:
    if frames == needed:
        return f"{needed}, one for each of the frames 0 to {needed - 1}"
    return f"{needed} (the highest frame number plus 1) or {frames} (the frames that are there)"


@functools.cache  # a table is read for every shard that has frames of it
def _say(sentence: str) -> None:
    _log.info(sentence)


def frame_rows(
    data: bytes, location: Location, *, columns: int, frame_ids: Sequence[int], alike: bool = False
) -> tuple[Float64[np.ndarray, "n k"], list[int]]:
    """Read the row of each frame of a table without a key.

    Args:
        data: The file.
        location: Where it is, for messages.
        columns: Numbers in a row.
        frame_ids: The frames' numbers, ascending.
        alike: Whether a single row stands for all frames.

    Returns:
        The rows by frame, nan where one is not `columns` finite numbers, and the line in the file of each.

    Raises:
        FrameError: It is no text, or its rows do not belong to the frames for certain.
    """
    rows = without_header(read_rows(data, location))
    which = [0] * len(frame_ids) if alike and len(rows) == 1 else rows_of_frames(len(rows), frame_ids, location)
    found = [rows[index].numbers(columns) for index in which]
    values = np.array([[math.nan] * columns if row is None else row for row in found], np.float64)
    return values, [rows[index].line for index in which]
