"""A signal at any moment of the two programs."""

import signal
from collections.abc import Callable
from types import ModuleType

import pytest

import vdaprep.cli
import vdatrain.cli
from vdaprep.workers.signals import Interrupted


@pytest.mark.parametrize(
    ("program", "stop", "code", "said"),
    [
        (vdaprep.cli, lambda: Interrupted(signal.SIGINT), 130, "run the same command again to go on"),
        (vdaprep.cli, lambda: Interrupted(signal.SIGTERM), 143, "run the same command again to go on"),
        (vdatrain.cli, KeyboardInterrupt, 130, "a run goes on from its last checkpoint with --resume."),
    ],
)
def test_a_signal_that_another_error_hides_is_found(
    program: ModuleType,
    stop: Callable[[], BaseException],
    code: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As in CPython 3.11, where one that arrives while a class is made becomes a RuntimeError."""

    def app() -> None:
        try:
            raise stop()
        except BaseException as error:
            raise RuntimeError("Error calling __set_name__") from error

    monkeypatch.setattr(program, "app", app)
    with pytest.raises(SystemExit) as caught:
        program.main()
    assert caught.value.code == code
    told = capsys.readouterr().err
    assert said in told
    assert told.count("\n") == 1


@pytest.mark.parametrize("program", [vdaprep.cli, vdatrain.cli])
def test_an_error_of_its_own_is_not_hidden(program: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def app() -> None:
        raise RuntimeError("its own")

    monkeypatch.setattr(program, "app", app)
    with pytest.raises(RuntimeError, match="its own"):
        program.main()
