"""What a terminal shows while a run is under way."""

import time
from collections.abc import Callable, Mapping
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID
from rich.table import Table

from vdaprep.cli.views.output import LabelColumn
from vdatrain.config import TrainConfig
from vdatrain.evaluation.evaluate import Evaluation
from vdatrain.models.weights import LoadReport
from vdatrain.training.callbacks import Callback

_GIB = 1 << 30
_LINE_S = 30.0  # between two lines about an evaluation, without a terminal
# What is shown of a step's figures, those that it has, in this order; how each is written is part of what it says.
_SHOWN: Mapping[str, tuple[str, Callable[[int | float], str]]] = {
    "total": ("loss", lambda value: f"{value:.4f}"),
    "spatial": ("spatial", lambda value: f"{value:.4f}"),
    "temporal": ("temporal", lambda value: f"{value:.5f}"),
    "step_s": ("step", lambda value: f"{1000 * value:.0f} ms" if value < 1 else f"{value:.2f} s"),
    "frames_per_s": ("frames/s", lambda value: f"{value:.1f}"),
    "waiting": ("waiting for data", lambda value: f"{value:.1%}"),
    "memory_bytes": ("memory", lambda value: f"{value / _GIB:.2f} GiB"),
    "mfu": ("MFU", lambda value: f"{value:.1%}"),
    "lr": ("learning rate", lambda value: f"{value:.2e}"),
    "gradient_norm": ("gradient", lambda value: f"{value:.3g}"),
    "skipped": ("steps skipped", lambda value: f"{value:.0f}"),
}


class LiveView(Callback):
    """A bar over the steps with the latest figures, evaluations above it; else plain lines.

    While an evaluation is under way, a bar over its windows; without a terminal a line, if it takes long. The time left
    is that of the steps and evaluations so far, stretched.
    """

    def __init__(self, console: Console, *, now: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._steps, self._begun, self._started = 0, 0, 0.0
        self._now = now
        self._evaluating: TaskID | None = None
        self._said = 0.0  # when an evaluation began, or was last mentioned
        self._progress = Progress(
            LabelColumn(),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            LabelColumn("left"),
            expand=True,
        )
        self._live = Live(self._progress, console=console, refresh_per_second=4)

    def __enter__(self) -> "LiveView":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def on_start(self, config: TrainConfig, step: int, loaded: LoadReport | None) -> None:
        """Show what became of the weights that the run begins with, and an empty bar."""
        if loaded is not None:
            self._console.print(str(loaded), markup=False)
        self._steps, self._begun, self._started = config.steps, step, self._now()
        self._task = self._progress.add_task(config.variant, total=config.steps, completed=step, left="")
        if self._console.is_terminal:
            self._live.start()

    def on_step(self, step: int, figures: Mapping[str, int | float]) -> None:
        """Show the latest figures and the time left."""
        shown = {title: write(figures[name]) for name, (title, write) in _SHOWN.items() if name in figures}
        left = self._time_left(step)
        if self._console.is_terminal:
            self._progress.update(self._task, completed=step, left=left)
            self._live.update(Group(self._progress, _grid(shown)))
        else:
            parts = ", ".join(f"{title} {text}" for title, text in shown.items())
            self._console.print(f"step {step} of {self._steps}: {parts}, {left}", highlight=False)

    def on_advance(self, step: int) -> None:
        """Move the bar."""
        self._progress.update(self._task, completed=step, left=self._time_left(step))

    def on_window(self, step: int, done: int, total: int) -> None:
        """Move the bar of the evaluation, which is there until its last window."""
        now = self._now()
        if self._evaluating is None:
            self._said = now
            self._evaluating = self._progress.add_task("evaluate", total=total, left="")
        self._progress.update(self._evaluating, completed=done)
        if not self._console.is_terminal and now - self._said >= _LINE_S:
            self._said = now
            self._console.print(f"step {step}: {done} of {total} windows evaluated", highlight=False)
        if done == total:
            self._progress.remove_task(self._evaluating)
            self._evaluating = None

    def on_evaluation(self, step: int, evaluation: Evaluation) -> None:
        """Print the averages over the data sets."""
        average = evaluation.average()
        tae = "no poses" if average["tae"] is None else f"{average['tae']:.3f}"
        self._console.print(
            f"step {step}, held out: loss {average['loss']:.4f}, absrel {average['absrel']:.4f}, "
            f"delta1 {average['delta1']:.4f}, TAE {tae}"
        )

    def _time_left(self, step: int) -> str:
        done = step - self._begun
        if done < 1:
            return ""
        seconds = round((self._now() - self._started) / done * (self._steps - step))
        hours, minutes = divmod(seconds // 60, 60)
        return f"{hours}:{minutes:02d}:{seconds % 60:02d} left"


def _grid(shown: Mapping[str, str]) -> Table:
    """Lay titles out above their figures, in two rows at most."""
    table = Table.grid(padding=(0, 2))
    items = list(shown.items())
    columns = -(-len(items) // 2)
    for line in (items[:columns], items[columns:]):
        table.add_row(*(f"[dim]{title}[/dim]" for title, _ in line))
        table.add_row(*(text for _, text in line))
    return table
