"""Where both programs print: results on stdout, everything else on stderr, nothing from outside taken as markup."""

import logging
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from typing import Any

from rich import box
from rich.console import Console, RenderableType
from rich.measure import Measurement
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

_NARROWEST = 16  # characters that a column of text folds to on a narrow terminal


def visible(text: str) -> str:
    """Return a text with its control characters, which could move a terminal's cursor, written out as escapes."""
    return "".join(one if one.isprintable() or one in "\n\t" else repr(one)[1:-1] for one in text)


class SafeConsole(Console):
    """Prints strings as they are: no markup, no emoji, no control characters, no line broken or cut."""

    def __init__(self, *, stderr: bool = False, width: int | None = None, force_terminal: bool | None = None) -> None:
        super().__init__(
            stderr=stderr,
            width=width,
            force_terminal=force_terminal,
            soft_wrap=True,
            markup=False,
            emoji=False,
            highlight=False,
        )

    def render_str(self, text: str, **options: Any) -> Text:
        """Render a string, that of a table's cell too; a `Text` brings its own style instead."""
        plain: dict[str, Any] = {**options, "markup": False, "emoji": False, "highlight": False}
        return super().render_str(visible(text), **plain)


console = SafeConsole()
errors = SafeConsole(stderr=True)


def make_table(*columns: str, title: str = "", texts: int = 1) -> Table:
    """Make a table whose first `texts` columns are texts, to the left, and whose others are figures, to the right."""
    table = Table(title=title or None, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for index, name in enumerate(columns):
        if index < texts:
            table.add_column(name, overflow="fold")
        else:
            table.add_column(name, justify="right", no_wrap=True)
    return table


def show(parts: Iterable[RenderableType], *, to: Console = console) -> None:
    """Print strings and tables one below the other; a table is as wide as its figures need, wherever it is printed.

    On a terminal the columns that fold are narrowed to what fits; elsewhere nothing is.
    """
    for part in parts:
        if isinstance(part, Table):
            part.width = _width(part, to)
            to.print(part, crop=False, soft_wrap=False, no_wrap=False)
        else:
            to.print(part)


def _width(table: Table, console: Console) -> int:
    unlimited = console.options.update(max_width=10_000)
    table.width = None
    natural = Measurement.get(console, unlimited, table).maximum
    if not console.is_terminal:
        return natural
    folding = [column for column in table.columns if column.overflow == "fold" and not column.no_wrap]
    widths = [
        max(Measurement.get(console, unlimited, cell).maximum for cell in (column.header, *column.cells))
        for column in folding
    ]
    needed = natural - sum(width - min(width, _NARROWEST) for width in widths)
    return min(natural, max(needed, console.width))


# ---------------------------------------------------------------------------------------------- what the library logs


class _LogPrinter(logging.Handler):
    """Prints what the library logs as the program's own sentences."""

    def __init__(self, program: str, prefix: Callable[[], str]) -> None:
        super().__init__()
        self._program, self._prefix = program, prefix

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record; one that ends all ranks needs no rank's number."""
        if record.levelno >= logging.CRITICAL:
            errors.show_cursor()  # a progress bar may have hidden it
            errors.print(f"{self._program}: {record.getMessage()}")
        else:
            errors.print(f"{self._program}{self._prefix()}: {record.getMessage()}")


def print_log(program: str, *, prefix: Callable[[], str] = str) -> None:
    """Let what both packages log appear on stderr, warnings and worse at first; once however often this is called.

    Args:
        program: The name before each sentence.
        prefix: Returns what follows it, such as a rank.
    """
    for name in ("vdaprep", "vdatrain"):
        logger = logging.getLogger(name)
        logger.handlers = [handler for handler in logger.handlers if not isinstance(handler, _LogPrinter)]
        logger.addHandler(_LogPrinter(program, prefix))
        logger.setLevel(logging.WARNING)
        logger.propagate = False


def set_verbosity(*, verbose: bool = False, quiet: bool = False) -> None:
    """Let more of what the packages log appear, or errors only; `quiet` also leaves progress bars out."""
    level = logging.DEBUG if verbose else logging.ERROR if quiet else logging.WARNING
    for name in ("vdaprep", "vdatrain"):
        logging.getLogger(name).setLevel(level)


def is_quiet() -> bool:
    """Whether nothing but errors and results is to be printed."""
    return logging.getLogger("vdaprep").level >= logging.ERROR


# -------------------------------------------------------------------------------------------------------------- a bar


class FrameBar:
    """A bar that counts frames."""

    def __init__(self, progress: Progress, *, label: str, total: int | None, unit: str = "frames") -> None:
        self._progress = progress
        self._unit = unit
        self._task = progress.add_task(label, total=total, note="")

    def advance(self, frames: int = 1) -> None:
        """Count frames that are done."""
        self._progress.advance(self._task, frames)
        speed = self._progress.tasks[self._task].speed
        self._progress.update(self._task, note=f"{speed:.0f} {self._unit}/s" if speed else "")

    def notice(self, sentence: str) -> None:
        """Show a sentence above the bar."""
        self._progress.console.print(sentence)


@contextmanager
def frame_bar(label: str, *, total: int | None, unit: str = "frames") -> Generator[FrameBar]:
    """Show a bar on stderr while the block runs, if stderr is a terminal; a `total` of None is not known."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeRemainingColumn(),
    )
    console = SafeConsole(stderr=True)
    with Progress(*columns, console=console, disable=is_quiet() or not console.is_terminal) as progress:
        yield FrameBar(progress, label=label, total=total, unit=unit)
