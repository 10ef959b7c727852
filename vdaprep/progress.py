"""A progress bar over frames: rich on a terminal, silent elsewhere."""

from collections.abc import Generator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from vdaprep.schema import ShardRecord


class FrameBar:
    """A bar that counts frames and rejections."""

    def __init__(self, progress: Progress, *, label: str, total: int) -> None:
        self._progress = progress
        self._rejected = 0
        self._task = progress.add_task(label, total=total, note="")

    def advance(self, frames: int = 1) -> None:
        """Count frames that are done."""
        self._progress.advance(self._task, frames)
        speed = self._progress.tasks[self._task].speed
        rejected = f", {self._rejected} rejected" if self._rejected else ""
        self._progress.update(self._task, note=f"{speed:.0f} frames/s{rejected}" if speed else rejected.lstrip(", "))

    def on_shard(self, record: ShardRecord, earlier: bool) -> None:
        """Count a shard's rejections, and its frames if an earlier run made it."""
        self._rejected += len(record.rejected)
        if earlier:
            self.advance(record.num_frames + len(record.rejected))

    def notice(self, sentence: str) -> None:
        """Show a sentence above the bar."""
        self._progress.console.print(sentence, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def frame_bar(label: str, *, total: int) -> Generator[FrameBar]:
    """Show a bar on stderr while the block runs, if stderr is a terminal."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        yield FrameBar(progress, label=label, total=total)


def human_bytes(count: int | float) -> str:
    """Return a size for people: 1.5 MiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
