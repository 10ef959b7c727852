"""Options made from dataclasses, on a toy."""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

import pytest
import typer
from typer.testing import CliRunner

from vdaprep.cli.options import cli_options, command_words, field_help, given_options
from vdaprep.errors import UsageError


class Side(StrEnum):
    left = "left"
    right = "right"


def _point(text: str) -> tuple[float, float]:
    try:
        x, y = (float(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(f"--point {text}: expected x,y.") from error
    return x, y


@dataclass(frozen=True)
class Base:
    name: str = field(metadata={"argument": True})
    """Whose it is."""
    secret: str = field(default="no option", metadata={"cli": False})
    """Nothing that --help shows."""


@dataclass(frozen=True)
class Toy(Base):
    """A toy."""

    count: int = field(default=64, metadata={"min": 1, "option": "--count -n"})
    """Things to take
    at most."""
    rate: float = 0.0005
    side: Side = Side.left
    mode: Literal["slow", "fast"] = "slow"
    globs: tuple[str, ...] = field(default=(), metadata={"metavar": "GLOB"})
    point: tuple[float, float] | None = field(
        default=None, metadata={"parse": _point, "write": lambda point: f"{point[0]:g},{point[1]:g}"}
    )
    """Where."""
    out: Path | None = field(default=None, metadata={"show_default": "toys/NAME"})
    """Folder."""
    dry: bool = False
    """Only say."""
    colour: bool = True
    """In colour."""


@dataclass(frozen=True)
class Other:
    speed: int = 1
    """Metres a second."""


def _run(command: Callable[..., None], *words: str) -> Any:
    app = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False)
    app.command()(command)
    return CliRunner().invoke(app, list(words), env={"COLUMNS": "200"})


def _given(*words: str) -> tuple[Toy, Other, bool]:
    seen: list[tuple[Toy, Other, bool]] = []

    @cli_options(Toy, Other)
    def command(toy: Toy, other: Other, yes: bool = False) -> None:
        seen.append((toy, other, yes))

    result = _run(command, *words)
    assert result.exit_code == 0, result.output
    return seen[0]


def test_what_is_left_out_is_the_dataclass_default() -> None:
    assert _given("me") == (Toy("me"), Other(), False)


def test_every_kind_of_field_is_read() -> None:
    words = "me -n 3 --rate 0.5 --side right --mode fast --globs a* --globs b* --point 1,2 --out here --dry --no-colour"
    toy, other, yes = _given(*words.split(), "--speed", "7", "--yes")
    assert toy == Toy(
        "me", count=3, rate=0.5, side=Side.right, mode="fast", globs=("a*", "b*"), point=(1, 2), out=Path("here"),
        dry=True, colour=False,
    )  # fmt: skip
    assert (other, yes) == (Other(7), True)


@pytest.mark.parametrize("words", ["me --count 0", "me --side up", "me --mode no", "", "me --secret x"])
def test_what_cannot_be_is_a_usage_error(words: str) -> None:
    @cli_options(Toy)
    def command(toy: Toy) -> None:
        raise AssertionError(toy)

    assert _run(command, *words.split()).exit_code == 2


def test_a_notation_of_its_own_has_its_own_sentence() -> None:
    @cli_options(Toy)
    def command(toy: Toy) -> None:
        raise AssertionError(toy)

    assert str(_run(command, "me", "--point", "x").exception) == "--point x: expected x,y."


def test_help_has_the_strings_under_the_fields_and_the_defaults() -> None:
    @cli_options(Toy)
    def command(toy: Toy) -> None: ...

    text = " ".join(_run(command, "--help").output.split())
    for part in (
        "Things to take at most. [default: 64] [x>=1]",
        "[default: 0.0005]",
        "left|right",
        "slow|fast",
        "--globs GLOB",
        "Where.",
        "Folder. [default: toys/NAME]",
        "--dry Only say.",
        "--colour / --no-colour In colour.",
    ):
        assert part in text, part
    assert "secret" not in text


def test_given_options_are_those_that_were_set() -> None:
    seen: list[dict[str, Any]] = []

    @given_options(Toy, only=("count", "dry", "colour", "globs"), defaults={"count": "64; 8 on a CPU"})
    def command(given: dict[str, Any]) -> None:
        seen.append(given)

    assert "[default: 64; 8 on a CPU]" in _run(command, "--help").output
    for words in ([], ["--count", "64"], ["--no-dry", "--globs", "x"]):
        assert _run(command, *words).exit_code == 0
    assert seen == [{}, {"count": 64}, {"dry": False, "globs": ("x",)}]
    assert _run(command, "--rate", "1").exit_code == 2


def test_words_make_the_same_instance_again() -> None:
    toy = Toy("me", count=3, side=Side.right, mode="fast", globs=("a*", "b"), point=(1, 2.5), dry=True, colour=False)
    words = command_words(toy, only=("count", "rate", "side", "mode", "globs", "point", "dry", "colour"))
    assert _given("me", *words)[0] == toy
    assert command_words(Toy("me"), only=("count", "point", "dry")) == []


def test_strings_under_fields_are_found_in_bases_too() -> None:
    assert field_help(Toy)["name"] == "Whose it is."
    assert field_help(Toy)["count"] == "Things to take at most."
    assert "rate" not in field_help(Toy)
