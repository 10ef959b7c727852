"""What a terminal shows while a run is under way."""

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from vdatrain.config import Config
from vdatrain.evaluate import Evaluation
from vdatrain.train import Listener


class LiveView:
    """A bar over the steps with the latest figures, evaluations as lines above it; plain lines without a terminal."""

    def __init__(self, config: Config, console: Console) -> None:
        self._console = console
        self._steps = config.steps
        self._progress = _progress(console)
        self._task = self._progress.add_task(config.variant, total=config.steps, note="")

    def __enter__(self) -> "LiveView":
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def listener(self) -> Listener:
        """Return what a run tells its progress to."""
        return Listener(on_step=self._on_step, on_evaluation=self._on_evaluation)

    def _on_step(self, step: int, figures: Mapping[str, float]) -> None:
        note = f"loss {figures['total']:.3f}, {figures['frames_per_s']:.0f} frames/s, {figures['waiting']:.0%} waiting"
        self._progress.update(self._task, completed=step, note=note)
        if not self._console.is_terminal:
            self._console.print(f"step {step} of {self._steps}: {note}")

    def _on_evaluation(self, step: int, evaluation: Evaluation) -> None:
        average = evaluation.average()
        tae = "no poses" if average["tae"] is None else f"{average['tae']:.3f}"
        self._console.print(
            f"step {step}, held out: loss {average['loss']:.4f}, absrel {average['absrel']:.4f}, "
            f"delta1 {average['delta1']:.4f}, TAE {tae}"
        )


@contextmanager
def window_bar(label: str, *, total: int, console: Console) -> Generator[Callable[[], None]]:
    """Show a bar over windows while the block runs, if there is a terminal; yields what counts one."""
    with _progress(console) as progress:
        task = progress.add_task(label, total=total, note="")
        yield lambda: progress.advance(task)


def _progress(console: Console) -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=console, disable=not console.is_terminal)
