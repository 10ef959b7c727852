"""Where the commands print: results on stdout, everything else on stderr."""

from collections.abc import Generator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

console = Console()
errors = Console(stderr=True, soft_wrap=True, highlight=False)


class FrameBar:
    """A bar that counts frames."""

    def __init__(self, progress: Progress, *, label: str, total: int | None) -> None:
        self._progress = progress
        self._task = progress.add_task(label, total=total, note="")

    def advance(self, frames: int = 1) -> None:
        """Count frames that are done."""
        self._progress.advance(self._task, frames)
        speed = self._progress.tasks[self._task].speed
        self._progress.update(self._task, note=f"{speed:.0f} frames/s" if speed else "")

    def notice(self, sentence: str) -> None:
        """Show a sentence above the bar."""
        self._progress.console.print(sentence, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def frame_bar(label: str, *, total: int | None) -> Generator[FrameBar]:
    """Show a bar on stderr while the block runs, if stderr is a terminal; a `total` of None is not known."""
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
