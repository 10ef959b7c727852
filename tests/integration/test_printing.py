"""What is printed: names that could move a cursor, colour a line or end a table; stdout that is full or closed."""

import ast
import json
import os
import shlex
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from rich.progress import Progress

from tests.conftest import RawTree
from vdaprep.cli.views import output
from vdaprep.cli.views.output import LabelColumn, SafeConsole, frame_bar, make_table, print_json, show, visible

ROOT = Path(__file__).parents[2]

NAMES: dict[str, tuple[str, str]] = {
    "NUL": ("a\0b", r"a\x00b"),
    "a lone surrogate": ("a\udcffb", r"a\udcffb"),
    "markup": ("[bold]a[/bold]", "[bold]a[/bold]"),
    "markup that was never opened": ("a[/red]", "a[/red]"),
    "a link in markup": ("[link=http://host]a[/link]", "[link=http://host]a[/link]"),
    "emoji in words": (":warning:", ":warning:"),
    "a colour": ("\x1b[31ma\x1b[0m", r"\x1b[31ma\x1b[0m"),
    "a title for the terminal": ("\x1b]0;a\x07", r"\x1b]0;a\x07"),
    "an eight-bit escape": ("\x9b31ma", r"\x9b31ma"),
    "a link for the terminal": ("\x1b]8;;http://host\x1b\\a", r"\x1b]8;;http://host\x1b" + "\\a"),
    "back to the line's beginning": ("a\rvdaprep: all is well", r"a\rvdaprep: all is well"),
    "backspaces": ("abc\b\b\b", r"abc\x08\x08\x08"),
    "two lines": ("a\nb", r"a\nb"),
    "two lines by Unicode": ("a\u2028b\u2029c\x85d", r"a\u2028b\u2029c\x85d"),
    "a tab": ("a\tb", r"a\tb"),
    "from right to left": ("a\u202egnp.exe", r"a\u202egnp.exe"),
    "isolated from right to left": ("\u2067a\u2069", r"\u2067a\u2069"),
    "of no width": ("a\u200bb\ufeff", r"a\u200bb\ufeff"),
    "a tag of language": ("a\U000e0041", r"a\U000e0041"),
    "another script": ("视频 фильм ویدیو é", "视频 фильм ویدیو é"),
    "quotes and backslashes": ("""a'"\\b""", """a'"\\b"""),
}
"""A text from outside, and what a terminal is to get of it."""


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("terminal", [False, True])
def test_a_name_is_shown_and_does_nothing(name: str, terminal: bool, capsys: pytest.CaptureFixture[str]) -> None:
    text, shown = NAMES[name]
    assert visible(text) == shown
    console = SafeConsole(width=200, force_terminal=terminal)
    console.print(f"1:{text}:")
    table = make_table(text, title=text)
    table.add_row(text)
    show([table, f"2:{text}:"], to=console)
    with Progress(LabelColumn(), LabelColumn("of"), console=console) as progress:
        progress.add_task(f"3:{text}:", of=f"4:{text}:")
    said = capsys.readouterr().out
    assert f"1:{shown}:\n" in said
    assert f"2:{shown}:\n" in said
    assert f"3:{shown}: 4:{shown}:" in said
    assert said.count(shown) >= 7
    if not terminal:
        assert "\x1b" not in said


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_whole_in_json(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    text, _ = NAMES[name]
    print_json({text: [text, float("nan"), {"a": (float("inf"), -float("inf"), 1.5)}]})
    said = capsys.readouterr().out
    assert said.isascii()
    assert json.loads(said, parse_constant=pytest.fail) == {text: [text, None, {"a": [None, None, 1.5]}]}


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, (text, _) in NAMES.items() if "\0" not in text and "\\" not in text])
def test_a_name_in_raw_data_is_shown_by_convert(name: str, raw: RawTree, vdaprep, tmp_path: Path) -> None:
    """As the name of a frame in an archive, of the archive, and of what is not there."""
    text, shown = NAMES[name]
    folder = raw.root / "other" / "Easy"
    folder.mkdir(parents=True)
    with zipfile.ZipFile(folder / "image_left.zip", "w") as archive:
        archive.writestr(f"P000/image_left/{text}_left.png".encode(errors="replace").decode(), b"no picture")
        archive.writestr("P000/image_left/000000_left.png", b"no picture")
    inside = text.encode(errors="replace").decode()
    for arguments in ((), ("--json",)):
        out = tmp_path / f"out{len(arguments)}" / text.replace("/", "-")
        result = vdaprep("convert", "tartanair", "--raw", raw.root, "--out", out, "--workers", "1", *arguments)
        assert "Traceback" not in result.err
        assert result.err.isprintable() or set(result.err) - {"\n"} == {one for one in result.err if one.isprintable()}
        for line in result.out.splitlines() if arguments else ():
            json.loads(line)
    missing = vdaprep("stats", tmp_path / inside.replace("/", "-"))
    assert (missing.code, missing.err.count("\n")) == (1, 1)
    assert visible(inside.replace("/", "-")) in missing.err


def test_nothing_prints_but_one_module() -> None:
    """In cli/, what reaches a terminal goes through `vdaprep.cli.views.output`; elsewhere ruff's T20 forbids print."""
    files = [path for package in ("vdaprep", "vdatrain") for path in (ROOT / package / "cli").rglob("*.py")]
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node.func)}"
        for path in files
        if path != ROOT / "vdaprep" / "cli" / "views" / "output.py"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and _prints(ast.unparse(node.func))
    ]
    assert found == []
    assert _prints("sys.stdout.write")
    assert _prints("typer.echo")
    assert not _prints("console.print")


def _prints(function: str) -> bool:
    words = {"print", "sys.stdout.write", "sys.stderr.write", "json.dumps", "json.dump", "Console", "TextColumn"}
    return (
        function in words
        or function.startswith(("typer.echo", "typer.secho", "typer.confirm", "click.", "rich."))
        or function.endswith(".status")
    )


def test_a_sum_without_an_end_shows_no_question_mark(capsys: pytest.CaptureFixture[str]) -> None:
    with frame_bar("read", total=None) as bar:
        bar.advance(400)
        assert bar._note() == "400 frames"
    with frame_bar("read", total=500, unit="windows") as bar:
        bar.advance(400)
        assert bar._note() == "400/500 windows"


def test_work_that_takes_long_says_so_without_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "LINE_S", 0.0)
    with frame_bar("render", total=2) as bar:
        bar.advance()
        bar.advance()
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "render: 1/2 frames\nrender: 2/2 frames\n")


# ------------------------------------------------------------------------------------------------- stdout and stderr


@pytest.fixture(scope="module")
def lines(toy_shards: Path) -> dict[str, str]:
    """Command lines that print something."""
    shard = next(toy_shards.rglob("shard-*.tar"))
    return {
        "--version": "vdaprep --version",
        "--help": "vdaprep --help",
        "datasets": "vdaprep datasets",
        "datasets --json": "vdaprep datasets --json",
        "inspect": f"vdaprep inspect {shard}",
        "stats --json": f"vdaprep stats {toy_shards} --json",
        "verify": f"vdaprep verify {toy_shards}",
        "sample": "vdaprep sample tartanair --trajectories 1 --frames 1 --size 40x30 --out {out}",
    }


NAMES_OF_LINES = ("--version", "--help", "datasets", "inspect", "stats --json", "verify", "sample")


def shell(line: str, tmp_path: Path, **environment: str) -> tuple[int, str, str]:
    program, _, rest = line.replace("{out}", f"{tmp_path}/sample").partition(" ")
    command = f"{shlex.quote(sys.executable)} -m {program} {rest}"
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, check=False, env={**os.environ, **environment}
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("name", NAMES_OF_LINES)
def test_stdout_that_takes_no_more(name: str, lines: dict[str, str], tmp_path: Path) -> None:
    code, _, said = shell(f"{lines[name]} >/dev/full", tmp_path)
    assert (code, said.count("\n")) == (1, 1), said
    assert said.startswith("vdaprep: ")
    assert "(No space left on device); free some space and run the same command again." in said


@pytest.mark.parametrize("name", NAMES_OF_LINES)
def test_stdout_that_nobody_reads(name: str, lines: dict[str, str], tmp_path: Path) -> None:
    """The reader is gone before anything is printed, as the second command of `vdaprep ... | head` may be."""
    code, _, said = shell(lines[name] + " | true; exit ${PIPESTATUS[0]}", tmp_path)
    assert (code in (0, 1), said) == (True, ""), said  # 0: it was faster than the reader went away


@pytest.mark.slow
@pytest.mark.parametrize("ending", [">&-", "2>&-", ">&- 2>&-", "2>/dev/full", "</dev/null", "<&-"])
def test_streams_that_are_closed(ending: str, lines: dict[str, str], tmp_path: Path) -> None:
    for name in ("datasets", "datasets --json", "sample"):
        code, _, said = shell(f"{lines[name]} {ending}", tmp_path)
        assert (code, said) == (0, "")


@pytest.mark.parametrize("ending", ["2>&-", "2>/dev/full"])
def test_an_error_that_cannot_be_printed_keeps_its_exit_code(ending: str, tmp_path: Path) -> None:
    assert shell(f"vdaprep stats {tmp_path}/missing {ending}", tmp_path) == (1, "", "")


def test_an_encoding_without_the_letters(lines: dict[str, str], tmp_path: Path) -> None:
    code, said, errors = shell(lines["inspect"], tmp_path, PYTHONIOENCODING="ascii")
    assert (code, errors, said.isascii(), r"\u2588" in said) == (0, "", True, True)
