"""The stream alone, against other libraries' readers and against raw files read as research code does."""

import contextlib
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from rich.table import Table

from tests.bench.children import ROOT, Child, running
from tests.bench.readers import FAMILIES, RAW, RAW_WHOLE
from tests.bench.rendered import Rendered
from tests.bench.timing import Timing, new_table, ratio

PEERS = ROOT / ".venv" / "bench-peers" / "bin" / "python"  # `make bench` makes it
NEED_PEERS = ("streaming", "litdata")
COLUMNS = (
    "windows/s, best",
    "median",
    "frames/s, best",
    "median",
    "first s, min",
    "median",
    "MB",
    "x raw",
    "x whole",
)


def tables(rendered: Rendered, scratch: Path) -> Iterator[Table]:
    taken: dict[str, list[tuple[float, float]]] = {}
    with contextlib.ExitStack() as stack:
        readers = _start(rendered, scratch, stack)
        for _ in range(1 + rendered.scale.rounds // 2):
            for name, child in readers.items():
                first, each = child.ask(name, "time")
                taken.setdefault(name, []).append((first, each))
        megabytes = {name: child.ask(name, "memory") / 1e6 for name, child in readers.items()}
    yield _table(taken, megabytes, rendered)


def _table(taken: Mapping[str, list[tuple[float, float]]], megabytes: Mapping[str, float], rendered: Rendered) -> Table:
    """Fill the table; the first round of each reader does not count."""
    first = {name: Timing(tuple(first for first, _ in pairs[1:])) for name, pairs in taken.items()}
    window = {name: Timing(tuple(each for _, each in pairs[1:])) for name, pairs in taken.items()}
    table = new_table("(c) the stream alone", "reader", COLUMNS, caption=_caption(rendered, window))
    for name in sorted(window, key=lambda name: window[name].median):
        each = window[name]
        counts = (1, rendered.scale.window)
        rates = [rate for count in counts for rate in (count / each.minimum, count / each.median)]
        starts = (f"{first[name].minimum:.2f}", f"{first[name].median:.2f}")
        speeds = (f"{ratio(window[raw], each):.1f}" for raw in (RAW, RAW_WHOLE))
        table.add_row(name, *(f"{rate:.1f}" for rate in rates), *starts, f"{megabytes[name]:.0f}", *speeds)
    for family in NEED_PEERS:
        if not any(name.startswith(f"{family},") for name in window):
            table.add_row(
                f"{family}: {'not installed' if rendered.scale.peers else 'left out'}", *("-" for _ in COLUMNS)
            )
    return table


def _caption(rendered: Rendered, window: Mapping[str, Timing]) -> str:
    return (
        f"{rendered.note}, windows of {rendered.scale.window}, {len(window[RAW].seconds)} rounds of "
        f"{rendered.scale.stream_windows} windows in which the readers took turns, each in a process of its own; all "
        "files are in the page cache. The others have 2 worker processes and decode by the calls that the stream makes "
        "(our bytes), or JPEG and 16-bit PNG of the depth codes, without differences (JPEG + PNG). Raw: cv2.imread, "
        "cvtColor and np.load of each frame, no more; raw whole: also floats from 0 to 1 and the differences, as a "
        "training script needs them and the shards hold them. First: seconds to the first window. MB: the most memory "
        "of all processes of a reader, shared pages once. Ratios are medians of the rounds' own. The stream leaves the "
        "last of decoding to the device."
    )


def _start(rendered: Rendered, scratch: Path, stack: contextlib.ExitStack) -> dict[str, Child]:
    """Start the process of each family; returns which of them has which reader."""
    spec = scratch / "readers.json"
    value = {
        "shards": str(rendered.shards),
        "raw_files": [(str(image), str(depth)) for image, depth in rendered.raw_files],
        "scratch": str(scratch),
        "window": rendered.scale.window,
        "count": rendered.scale.stream_windows,
    }
    spec.write_text(json.dumps(value))
    has_peers = rendered.scale.peers and PEERS.is_file()
    families = [family for family in FAMILIES if has_peers or family not in NEED_PEERS]
    children = [
        stack.enter_context(running(family, spec, python=str(PEERS) if family in NEED_PEERS else sys.executable))
        for family in families
    ]
    return {name: child for child in children for name in child.receive()}
