"""What is printed, wherever it is printed."""

import io
import logging
import re

import pytest
from rich.text import Text

from vdaprep.cli.views.output import SafeConsole, is_quiet, make_table, print_log, set_verbosity, show

NAME = "tartanair-" + "abandonedfactory-" * 6 + "[bold]\x1b[31m:smile:"
SEEN = NAME.replace("\x1b", "\\x1b")


def _printed(*parts: object, width: int, terminal: bool = False) -> str:
    console = SafeConsole(width=width, force_terminal=terminal)
    console.file = io.StringIO()
    show(parts, to=console)
    return console.file.getvalue()


def test_strings_are_printed_as_they_are() -> None:
    for terminal in (False, True):
        assert _printed(NAME, width=20, terminal=terminal) == f"{SEEN}\n"


@pytest.mark.parametrize("width", [10, 80, 300])
def test_a_table_that_is_piped_is_not_broken(width: int) -> None:
    table = make_table("name", "frames", "size", title="clips")
    table.add_row(NAME, "123,456,789", "1.234 GB")
    assert any(
        SEEN in line and "123,456,789" in line and "1.234 GB" in line
        for line in _printed(table, width=width).splitlines()
    )


@pytest.mark.parametrize("terminal", [False, True])
def test_a_title_is_one_line(terminal: bool) -> None:
    table = make_table("m", title=f"depth of {NAME}")
    table.add_row("1")
    first = re.sub(r"\x1b\[\d*m", "", _printed(table, width=30, terminal=terminal)).splitlines()[0]
    assert first == f"depth of {SEEN}"


@pytest.mark.parametrize("width", [10, 50, 300])
def test_on_a_terminal_texts_fold_and_figures_do_not(width: int) -> None:
    table = make_table("name", "frames", "size")
    table.add_row(NAME, "123,456,789", "1.234 GB")
    table.add_row(Text("best", style="bold"), "1", "2")
    lines = re.sub(r"\x1b\[\d*m", "", _printed(table, width=width, terminal=True)).splitlines()
    assert any("123,456,789" in line and "1.234 GB" in line for line in lines)
    assert "…" not in "".join(lines)
    assert max(map(len, lines)) == {10: 41, 50: 50, 300: 158}[width]


def test_what_the_library_logs_is_printed_as_sentences(capsys: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger("vdaprep.somewhere")
    for _ in range(2):
        print_log("vdatrain", prefix=lambda: ", rank 3")
    logger.info("not at first")
    logger.warning("a [warning]")
    set_verbosity(verbose=True)
    logger.info("more")
    set_verbosity(quiet=True)
    logger.warning("less")
    assert is_quiet()
    logger.critical("for all")
    set_verbosity()
    assert not is_quiet()
    said = ["vdatrain, rank 3: a [warning]", "vdatrain, rank 3: more", "vdatrain: for all"]
    assert capsys.readouterr().err.replace("\x1b[?25h", "").splitlines() == said
