"""Options that several commands share: what a training step is."""

import copy
import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any, get_args, get_type_hints

import typer
from typer.models import OptionInfo

from vdatrain.config import TrainConfig


@dataclass(frozen=True)
class StepOptions:
    """What `run` and `plan` are told of a training step; None where nothing was said, which leaves Config's default."""

    variant: Annotated[str | None, typer.Option(help="See vdatrain variants.")] = None
    encoder: Annotated[str | None, typer.Option(help="tiny, vits, vitb or vitl.")] = None
    preset: Annotated[str | None, typer.Option(help="paper, finetune, adapter or scratch.")] = None
    frames: Annotated[int | None, typer.Option(help="Frames of a window.")] = None
    size: Annotated[int | None, typer.Option(help="Pixels of a side, n x 14.")] = None
    batch: Annotated[int | None, typer.Option(help="Windows at a time, on each rank.")] = None
    accumulate: Annotated[int | None, typer.Option(help="Batches a step.")] = None
    ema: Annotated[float | None, typer.Option(help="Decay of averaged weights; 0: none.")] = None
    precision: Annotated[str | None, typer.Option(help="fp32, bf16 or fp16.")] = None
    recompute: Annotated[
        str | None, typer.Option(help="Parts computed twice, which saves their memory: none, head, encoder or all.")
    ] = None
    shard_model: Annotated[
        bool | None, typer.Option("--shard-model/--no-shard-model", help="Spread the model over the ranks (FSDP2).")
    ] = None

    def given(self) -> dict[str, Any]:
        """Return what was said, by the names of Config."""
        return {name: value for name, value in vars(self).items() if value is not None}


def with_step_options(*, on_cpu: Mapping[str, Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Let a command that takes `step: StepOptions` be given its fields as options of their own.

    --help shows Config's default of each of the command's options that Config knows and that has no words for it, and
    what the command takes `on_cpu` instead.
    """
    shared = get_type_hints(StepOptions, include_extras=True)

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        parameters: list[inspect.Parameter] = []
        for item in inspect.signature(command, eval_str=True).parameters.values():
            found = [item]
            if item.name == "step":
                found = [item.replace(name=name, annotation=hint, default=None) for name, hint in shared.items()]
            parameters += [_with_default(part, on_cpu) for part in found]

        @functools.wraps(command)
        def run(**given: Any) -> None:
            step = StepOptions(**{field.name: given.pop(field.name) for field in fields(StepOptions)})
            command(**given, step=step)

        vars(run)["__signature__"] = inspect.Signature(parameters)
        return run

    return decorate


def _with_default(parameter: inspect.Parameter, on_cpu: Mapping[str, Any]) -> inspect.Parameter:
    """Return the option as a keyword, with the words for its default."""
    kind, option = get_args(parameter.annotation)
    assert isinstance(option, OptionInfo)
    words = _default(parameter.name, on_cpu)
    if words and option.show_default is True:
        option = copy.copy(option)
        option.show_default = words
    return parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=Annotated[kind, option])


def _default(name: str, on_cpu: Mapping[str, Any]) -> str:
    """Say what Config has where nothing is given; nothing of a switch, which --help shows both ways."""
    default = {field.name: field.default for field in fields(TrainConfig)}.get(name)
    if not isinstance(default, str | int | float) or isinstance(default, bool):
        return ""
    words = _written(default)
    return f"{words}; {_written(on_cpu[name])} on a CPU" if name in on_cpu else words


def _written(value: str | int | float) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
