"""The figures of each window of an evaluation, in `windows.jsonl`, a line a window.

Those under stress lie beside it, in `windows-KINDS.jsonl`, KINDS as `parse_stress` reads them.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from vdaprep.errors import DataError
from vdaprep.shards.pictures.stress import Kinds, describe
from vdaprep.storage.atomic import write_text
from vdaprep.storage.documents import parse_json
from vdaprep.storage.limits import MAX_SMALL_DOCUMENT_BYTES

WINDOWS_FILE = "windows.jsonl"
_MAX_FILE_BYTES = 256 << 20
_GREATEST = 1e15
WINDOW_METRICS = ("absrel", "delta1", "rmse", "tae", "loss")
"""The figures of a window."""


@dataclass(frozen=True)
class WindowFigures:
    """What was measured of a window; None where it has no pixel to measure, or no pose."""

    dataset: str
    """Name of the data set."""
    clip: str
    """Key of the clip."""
    first: int
    """Its first frame in the clip."""
    absrel: float | None
    """As in `ClipMetrics`, like the next three."""
    delta1: float | None
    """Fraction of pixels."""
    rmse: float | None
    """Metres."""
    tae: float | None
    """Times 100."""
    loss: float | None
    """The training loss."""


def windows_file(kinds: Kinds = ()) -> str:
    """Return the name of the file of an evaluation under `kinds` of stress; (): without."""
    return f"windows-{describe(kinds)}.jsonl" if kinds else WINDOWS_FILE


def write_windows(folder: Path, windows: Sequence[WindowFigures], *, kinds: Kinds = ()) -> None:
    """Write the lines in the order of windows; raises OutputError.

    kinds: the stress that they were measured under.
    """
    write_text(folder / windows_file(kinds), "".join(f"{json.dumps(asdict(window))}\n" for window in windows))


def read_windows(folder: Path, *, kinds: Kinds = ()) -> list[WindowFigures]:
    """Read the lines; raises DataError, DocumentError or LimitError unless there are such."""
    path = folder / windows_file(kinds)
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_FILE_BYTES)
    except FileNotFoundError as error:
        raise DataError(f"{path}: is missing; evaluate the weights again to have it.") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}).") from error
    found = [_window(line, where=f"{path}: line {number}") for number, line in enumerate(data.splitlines(), 1)]
    if not found or not data.endswith(b"\n"):
        raise DataError(f"{path}: ends early, after {len(found)} lines; evaluate the weights again.")
    return found


def _window(text: bytes, *, where: str) -> WindowFigures:
    line = parse_json(text, where=where, limit=MAX_SMALL_DOCUMENT_BYTES)
    figures = {name: line.optional_number(name, 0, _GREATEST) for name in WINDOW_METRICS}
    return WindowFigures(line.name("dataset"), line.name("clip"), line.integer("first", 0, 2**53), **figures)
