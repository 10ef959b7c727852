"""Options made from dataclasses: a field is an option, the string under it the help.

    @dataclass(frozen=True)
    class Camera:
        focal_px: float = 500.0
        "Focal length in pixels."

    @cli_options(Camera)
    def command(camera: Camera) -> None: ...  # --focal-px FLOAT  Focal length in pixels. [default: 500]

The dataclass does not know the command line. What a field's type and default cannot say is in its metadata:

    metavar, min, max, hidden   as in typer.Option
    show_default  words for --help instead of the default, or False for none
    option        names of the option instead of --the-field, with spaces between: "--workers -w", "--fast/--slow"
    argument      True: a positional argument
    cli           False: no option, the field keeps its default
    help          instead of the string under the field
    parse, write  str -> value and back, for values that have a notation of their own; parse raises UsageError

A `bool` is a flag, with a --no-flag where its default is True; `tuple[X, ...]` is repeatable; enums and Literal are
choices.
"""

import ast
import functools
import inspect
import textwrap
from collections.abc import Callable, Collection, Mapping
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from enum import Enum, StrEnum
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, cast, get_args, get_origin, get_type_hints

import typer

from vdaprep.storage.atomic import check_output_folder
from vdaprep.storage.urls import is_url

Command = Callable[..., None]

Dataset = Annotated[str, typer.Argument(help="The data set, for example tartanair.", show_default=False)]


def check_shards_folder(out: str, dataset: str, *, raw: str) -> None:
    """Raise OutputError unless OUT/DATASET can be written to; `raw` may hold it.

    URLs are not looked at.
    """
    if not is_url(out):
        check_output_folder(Path(out, dataset), inputs=[raw], may_be_inside=True)


def cli_options(*classes: type) -> Callable[[Command], Command]:
    """Give a command dataclasses' fields as options, and instances where it takes them.

    Args:
        classes: Dataclasses; the command has one parameter annotated with each of them.

    Returns:
        A decorator; the command's other parameters are typer's as usual.
    """

    def decorate(command: Command) -> Command:
        takes = inspect.signature(command, eval_str=True).parameters.values()
        made = {item.name: item.annotation for item in takes if item.annotation in classes}
        assert {*made.values()} == {*classes}, f"{command} does not take each of {classes}"
        return _expand(command, {name: (kind, _options_of(kind)) for name, kind in made.items()})

    return decorate


def given_options(
    kind: type, *, only: Collection[str] | None = None, defaults: Mapping[str, str] | None = None
) -> Callable[[Command], Command]:
    """Give a command a dataclass's fields as options, and those that were set as `given`.

    What is absent from `given` can come from a file or a stored configuration; a `bool` has its --no-flag always.

    Args:
        kind: The dataclass.
        only: Names of the fields to take, in this order; None takes all.
        defaults: What --help shows as the default of a field instead of the field's own.

    Returns:
        A decorator for a command that takes `given: dict[str, Any]`.
    """

    def decorate(command: Command) -> Command:
        options = _options_of(kind, only=only, defaults=defaults, partial=True)
        return _expand(command, {"given": (dict, options)})

    return decorate


def command_words(instance: Any, *, only: Collection[str] | None = None) -> list[str]:
    """Return a dataclass's instance as words of a command line, defaults left out."""
    words: list[str] = []
    kind: type = type(instance)  # pyright: ignore[reportUnknownVariableType]
    for item in _fields(kind, only):
        value = getattr(instance, item.name)
        if value == _default(item):
            continue
        name, *negative = _names(item)[0].split("/")
        if isinstance(value, bool):
            words.append(name if value else negative[0])
        else:
            words += [word for one in _texts(item, value) for word in (name, one)]
    return words


def field_help(kind: type) -> dict[str, str]:
    """Return the string under each field of a dataclass and of its bases, on one line."""
    texts: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        texts |= _literals(base) if is_dataclass(base) else {}
    return texts


@functools.cache
def _literals(kind: type) -> dict[str, str]:
    body = cast(ast.ClassDef, ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]).body
    return {
        item.target.id: " ".join(below.value.value.split())
        for item, below in zip(body, body[1:], strict=False)
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
        if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant) and isinstance(below.value.value, str)
    }


@dataclass(frozen=True)
class _Option:
    parameter: inspect.Parameter
    convert: Callable[[Any], Any]
    """From what typer returns to the field's value."""


def _expand(command: Command, made: Mapping[str, tuple[type, list[_Option]]]) -> Command:
    """Replace parameters by the options that they are made of."""
    parameters: list[inspect.Parameter] = []
    for item in inspect.signature(command, eval_str=True).parameters.values():
        inner = [option.parameter for option in made[item.name][1]] if item.name in made else [item]
        parameters += [part.replace(kind=inspect.Parameter.KEYWORD_ONLY) for part in inner]

    @functools.wraps(command)
    def run(**values: Any) -> None:
        for name, (kind, options) in made.items():
            found = {option.parameter.name: (values.pop(option.parameter.name), option.convert) for option in options}
            values[name] = kind(**{key: convert(value) for key, (value, convert) in found.items() if not _unset(value)})
        command(**values)

    vars(run)["__signature__"] = inspect.Signature(parameters)
    return run


def _unset(value: Any) -> bool:
    return value is None or value == []


def _options_of(
    kind: type, *, only: Collection[str] | None = None, defaults: Mapping[str, str] | None = None, partial: bool = False
) -> list[_Option]:
    """Make a dataclass's options; `partial`: none required, every flag has its negative."""
    hints, helps = get_type_hints(kind), field_help(kind)
    return [
        _option(
            item,
            hints[item.name],
            text=item.metadata.get("help", helps.get(item.name, "")),
            default=(defaults or {}).get(item.name),
            partial=partial,
        )
        for item in _fields(kind, only)
    ]


def _option(item: Field[Any], hint: Any, *, text: str, default: str | None, partial: bool) -> _Option:
    """Make the option of a field.

    Its default for typer is None, so that what was not given is known; the field's own default is words of the help.
    """
    annotation, convert = (str, item.metadata["parse"]) if "parse" in item.metadata else _typed(hint)
    known = {name: item.metadata[name] for name in ("metavar", "min", "max", "hidden") if name in item.metadata}
    words = f"{text} {_shown(item, default)}".strip()
    empty = _default(item) is MISSING and not partial
    if item.metadata.get("argument"):
        info = typer.Argument(help=words, show_default=False, **known)
    else:
        names = _names(item, switch=partial)
        info = typer.Option(*names, help=words, show_default=False, **known)
    parameter = inspect.Parameter(
        item.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=inspect.Parameter.empty if empty else None,
        annotation=Annotated[annotation if empty else annotation | None, info],
    )
    return _Option(parameter, convert)


def _typed(hint: Any) -> tuple[Any, Callable[[Any], Any]]:
    """Return the type that typer is given for a field's, and what turns its values back."""
    inner = [one for one in get_args(hint) if one is not NoneType]
    if NoneType in get_args(hint):
        assert len(inner) == 1, f"{hint}: no option can be one of several types"
        return _typed(inner[0])
    if get_origin(hint) is tuple:
        assert inner[1:] == [...], f"{hint}: only tuple[X, ...] is repeatable"
        kind, convert = _typed(inner[0])
        return list[kind], lambda values: tuple(convert(value) for value in values)
    if get_origin(hint) is Literal:
        return StrEnum("Choice", {value: value for value in inner}), lambda value: value.value
    return hint, lambda value: value


def _fields(kind: type, only: Collection[str] | None) -> list[Field[Any]]:
    known = {item.name: item for item in fields(kind) if item.metadata.get("cli", True)}
    return list(known.values()) if only is None else [known[name] for name in only]


def _names(item: Field[Any], *, switch: bool = False) -> list[str]:
    if "option" in item.metadata:
        return item.metadata["option"].split()
    name = item.name.replace("_", "-")
    is_flag = item.type in (bool, "bool")
    return [f"--{name}/--no-{name}" if is_flag and (switch or _default(item) is True) else f"--{name}"]


def _default(item: Field[Any]) -> Any:
    return item.default if item.default_factory is MISSING else item.default_factory()


def _shown(item: Field[Any], default: str | None) -> str:
    """Return the default as the help says it; nothing for flags and where there is none."""
    value = item.metadata.get("show_default", default or _default(item))
    if value is MISSING or value is None or isinstance(value, bool) or value in ("", ()):
        return ""
    return f"[default: {value if isinstance(value, str) else ', '.join(_texts(item, value))}]"


def _texts(item: Field[Any], value: Any) -> list[str]:
    """Write a value as words of a command line, a text for each time that it is repeated."""
    if "write" in item.metadata:
        return [item.metadata["write"](value)]
    return [_written(one) for one in (cast("tuple[Any, ...]", value) if isinstance(value, tuple) else (value,))]


def _written(value: Any) -> str:
    if isinstance(value, Enum):
        return str(value.value)
    return f"{value:g}" if isinstance(value, float) else str(value)
