"""Where both programs print: results on stdout, all else on stderr, everything as text.

Names come from strangers' files, so each string that is printed, that of a table's cell or of a bar's label too, goes
through `visible`: no markup, no terminal's escape sequence, no text that turns direction, no line that is two. JSON
goes through `print_json`. Nothing else in the two programs prints.
"""

import contextlib
import io
import json
import logging
import math
import os
import sys
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from typing import Any, cast

import typer
from rich import box
from rich.console import Console, RenderableType
from rich.measure import Measurement
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from vdaprep.errors import OutputError
from vdaprep.storage.atomic import write_error

LINE_S = 10.0  # between two lines of progress where there is no terminal, and before the first
_NARROWEST = 16  # characters that a column of text folds to on a narrow terminal


def visible(text: str) -> str:
    """Return a text as one line; control characters and the like are written as escapes."""
    return text if text.isprintable() else "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)


class SafeConsole(Console):
    """Prints strings as they are: no markup, no control characters, no line broken or cut.

    Raises OutputError where stdout takes no more; what stderr does not take is lost, and the work goes on.
    """

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

    def print(self, *parts: Any, **options: Any) -> None:
        """Print as rich does; see the class for what cannot be printed."""
        with _printing(self.file, is_needed=not self.stderr):
            super().print(*parts, **options)

    def on_broken_pipe(self) -> None:
        """End quietly if nobody reads stdout any more."""
        _close(self.file)
        if not self.stderr:
            raise SystemExit(1)


@contextmanager
def _printing(file: Any, *, is_needed: bool) -> Generator[None]:
    """Raise OutputError for what a stream does not take, or lose it if it is not needed.

    A closed pipe ends quietly.
    """
    try:
        yield
    except BrokenPipeError:
        _close(file)
        if is_needed:
            raise SystemExit(1) from None
    except OSError as error:
        _close(file)
        if is_needed:
            raise OutputError(f"{write_error(error, 'stdout')}.") from error


def _close(file: Any) -> None:
    """Let what else is written to a stream get lost, and with it what is left in its buffer."""
    with contextlib.suppress(OSError, AttributeError):  # a stream of a test has no descriptor
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, file.fileno())
        os.close(nowhere)


console = SafeConsole()
errors = SafeConsole(stderr=True)


def prepare_streams() -> None:
    """Let stdout and stderr write what their encoding lacks as escapes."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def flush_results() -> None:
    """Bring to stdout what was printed; raises OutputError if it takes no more."""
    if sys.stdout is not None:  # pyright: ignore[reportUnnecessaryComparison] - it is None where it was closed
        with _printing(sys.stdout, is_needed=True):
            sys.stdout.flush()


def print_json(value: Any, *, indent: int | None = 2, to: Any = None) -> None:
    """Print a value as JSON, in ASCII, on stdout or `to`; numbers not finite are null."""
    file = to or console.file
    with _printing(file, is_needed=True):
        file.write(json.dumps(_finite(value), indent=indent, allow_nan=False) + "\n")
        file.flush()


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in cast("Mapping[str, Any]", value).items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in cast("list[Any]", value)]
    return value


def confirm(question: str) -> bool:
    """Ask on stderr."""
    return typer.confirm(visible(question), err=True)


def make_table(*columns: str, title: str = "", texts: int = 1) -> Table:
    """Make a table: `texts` columns of texts, to the left, then figures, to the right."""
    table = Table(title=title or None, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for index, name in enumerate(columns):
        if index < texts:
            table.add_column(name, overflow="fold")
        else:
            table.add_column(name, justify="right", no_wrap=True)
    return table


def show(parts: Iterable[RenderableType], *, to: Console = console) -> None:
    """Print strings and tables, one below the other, as wide as their figures need.

    On a terminal the columns that fold are narrowed to what fits; elsewhere nothing is.
    """
    for part in parts:
        if isinstance(part, Table):
            if part.title:
                to.print(part.title, style="italic")  # as part of the table it would be folded to the table's width
                part.title = None
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
    """Let what both packages log appear on stderr: warnings and worse, unless told otherwise.

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
    """Let more of what the packages log appear; `quiet`: errors only, and no progress bars."""
    level = logging.DEBUG if verbose else logging.ERROR if quiet else logging.WARNING
    for name in ("vdaprep", "vdatrain"):
        logging.getLogger(name).setLevel(level)


def is_quiet() -> bool:
    """Whether nothing but errors and results is to be printed."""
    return logging.getLogger("vdaprep").level >= logging.ERROR


# -------------------------------------------------------------------------------------------------------------- a bar


class Every:
    """Limits how often something is printed."""

    def __init__(self, every_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._every_s = every_s
        self._clock = clock
        self._last = clock()

    def is_due(self) -> bool:
        """Return whether `every_s` seconds have passed since this last was true."""
        now = self._clock()
        if now - self._last < self._every_s:
            return False
        self._last = now
        return True


class LabelColumn(ProgressColumn):
    """The description of a bar's task, or a field of it, as plain text."""

    def __init__(self, field: str | None = None) -> None:
        super().__init__()
        self._field = field

    def render(self, task: Task) -> Text:
        """Return the text."""
        return Text(visible(task.description if self._field is None else str(task.fields[self._field])), no_wrap=True)


class FrameBar:
    """Counts frames: in a bar on a terminal, elsewhere in a line now and then."""

    def __init__(self, progress: Progress, *, label: str, total: int | None, unit: str = "frames") -> None:
        self._progress = progress
        self._label, self._total, self._unit = label, total, unit
        self._done, self._began, self._due = 0, time.monotonic(), Every(LINE_S)
        self._task = progress.add_task(label, total=total, note=self._note())

    def expect(self, total: int) -> None:
        """Set how many frames there are, as soon as that is known."""
        self._total = total
        self._progress.update(self._task, total=total, note=self._note())

    def advance(self, frames: int = 1) -> None:
        """Count frames that are done."""
        self._done += frames
        self._progress.update(self._task, completed=self._done, note=self._note())
        if self._progress.disable and self._due.is_due() and not is_quiet():
            errors.print(f"{self._label}: {self._note()}")

    def notice(self, sentence: str) -> None:
        """Show a sentence above the bar."""
        self._progress.console.print(sentence)

    def _note(self) -> str:
        of = "" if self._total is None else f"/{self._total}"
        seconds = time.monotonic() - self._began
        speed = f", {self._done / seconds:.0f} {self._unit}/s" if self._done and seconds > 1 else ""
        return f"{self._done}{of} {self._unit}{speed}"


@contextmanager
def frame_bar(label: str, *, total: int | None, unit: str = "frames") -> Generator[FrameBar]:
    """Show on stderr how far the block is, unless --quiet; a `total` of None is not known."""
    console = SafeConsole(stderr=True)
    columns = (LabelColumn(), BarColumn(), LabelColumn("note"), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=is_quiet() or not console.is_terminal) as progress:
        yield FrameBar(progress, label=label, total=total, unit=unit)


@contextmanager
def current_work() -> Generator[Callable[[str], None]]:
    """Yield what shows on stderr what is being done; elsewhere than on terminals now and then."""
    if is_quiet():
        yield lambda sentence: None
    elif errors.is_terminal:
        with errors.status("") as status:
            yield lambda sentence: status.update(Text(visible(sentence)))
    else:
        due = Every(LINE_S)
        yield lambda sentence: errors.print(sentence) if due.is_due() else None
