"""What end-to-end tests share: how a command refuses what it is given, and commands in processes of their own."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

from tests.conftest import Outcome


def refused(result: Outcome, code: int, *sentence: str) -> None:
    """Expect `vdatrain` to have said one sentence, that has these parts, beside what it takes without a GPU."""
    assert result.code == code
    [line] = [line for line in result.err.splitlines() if not line.startswith("no GPU here")]
    assert line.startswith("vdatrain: ")
    for part in sentence:
        assert part in line


def start(argv: tuple[object, ...], *, stderr: Path | None = None, before: Callable[[], object] | None = None) -> int:
    """Run the command line in a copy of this process, which has imported everything already; returns its number."""
    child = os.fork()
    if child:
        return child
    from vdatrain import cli

    code = 70
    try:
        sink = os.open(stderr or os.devnull, os.O_WRONLY | os.O_CREAT)
        os.dup2(sink, 1)
        os.dup2(sink, 2)
        sys.stdout, sys.stderr = (os.fdopen(number, "w", closefd=False) for number in (1, 2))
        cli.errors.file = sys.stderr
        sys.argv = ["vdatrain", *map(str, argv)]
        if before:
            before()
        cli.main()
        code = 0
    except SystemExit as exit_:
        code = exit_.code if isinstance(exit_.code, int) else 0 if exit_.code is None else 1
    finally:
        sys.stderr.flush()
        os._exit(code)


def end_of(child: int) -> int:
    """Wait for a child; returns its exit code, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
