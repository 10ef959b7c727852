"""Who is told of a run under way."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from vdatrain.evaluate import Evaluation


@dataclass(frozen=True)
class Listener:
    """Who is told of every logged step and of every evaluation, in numbers that are on the host already.

    Both are called between steps, so nothing in here can make the device wait; what they raise ends the run.
    """

    on_step: Callable[[int, Mapping[str, int | float]], None] = lambda step, figures: None
    on_evaluation: Callable[[int, Evaluation], None] = lambda step, evaluation: None


def tell_all(*listeners: Listener) -> Listener:
    """Return a listener that tells all of `listeners`, in their order."""

    def on_step(step: int, figures: Mapping[str, int | float]) -> None:
        for listener in listeners:
            listener.on_step(step, figures)

    def on_evaluation(step: int, evaluation: Evaluation) -> None:
        for listener in listeners:
            listener.on_evaluation(step, evaluation)

    return Listener(on_step, on_evaluation)
