"""Tasks in processes: results, errors, processes that die or that nobody wants any more."""

import importlib
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from tests.conftest import write_raw
from vdaprep.errors import DataError, WorkerError
from vdaprep.workers.local import LocalExecutor
from vdaprep.workers.progress import Amount, ProgressEvent

WORK = """
import os, signal, threading, time
from pathlib import Path
from vdaprep.errors import DataError
from vdaprep.workers.progress import Amount

class Task(str):
    pass

def square(task, tick):
    for _ in range(3):
        tick(Amount(frames=1))
    return int(task) ** 2

def die_once(task, tick):
    tick(Amount(frames=5))
    marker = Path(task)
    if marker.suffix == ".mortal" and not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return marker.name

def die(task, tick):
    if task.endswith("deadly"):
        os.kill(os.getpid(), signal.SIGSEGV)
    return task

def fail(task, tick):
    if task == "2":
        raise DataError(f"{task}: is bad")
    time.sleep(3600)

class Odd(Exception):
    def __init__(self, a, b):
        super().__init__(a)

def fail_oddly(task, tick):
    raise Odd("x", "y")

def never_end(task, tick):
    Path(task).write_text(str(os.getpid()))
    time.sleep(3600)

def ignore_nothing(task, tick):
    os.kill(os.getpid(), signal.SIGINT)
    os.kill(os.getpid(), signal.SIGTERM)
    return threading.active_count()

def heavy(task, tick):
    return len(task)
"""


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """A module that other processes can import, which they cannot do with a test's."""
    (tmp_path / "work_of_a_test.py").write_text(WORK)
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("work_of_a_test")
    del sys.modules["work_of_a_test"]


PATIENCE_S = 120  # with processes that start on a busy machine


class Heard:
    def __init__(self) -> None:
        self.ticks: list[int] = []
        self.notices: list[str] = []

    def __call__(self, event: ProgressEvent) -> None:
        if event.kind == "work":
            self.ticks.append(event.amount.frames)
        else:
            self.notices.append(event.text)


def no_children() -> bool:
    deadline = time.monotonic() + PATIENCE_S
    while multiprocessing.active_children() and time.monotonic() < deadline:
        time.sleep(0.01)
    return not multiprocessing.active_children()


@pytest.mark.parametrize("workers", [1, 2])
def test_every_task_is_done_once_and_what_it_ticks_is_heard(workers: int, work: ModuleType) -> None:
    heard = Heard()
    tasks = [str(i) for i in range(7)]
    assert sorted(LocalExecutor(workers).run(work.square, tasks, heard)) == [i * i for i in range(7)]
    assert heard.ticks == [1] * 21
    assert heard.notices == []
    assert no_children()
    assert list(LocalExecutor(workers).run(work.square, [], heard)) == []


def test_the_task_of_a_process_that_dies_is_done_by_another(work: ModuleType, tmp_path: Path) -> None:
    heard = Heard()
    tasks = [str(tmp_path / name) for name in ("a", "b.mortal", "c", "d.mortal")]
    assert sorted(LocalExecutor(2).run(work.die_once, tasks, heard)) == ["a", "b.mortal", "c", "d.mortal"]
    assert sum(heard.ticks) == 4 * 5
    assert -5 in heard.ticks
    assert sorted(heard.notices) == [
        f"{tmp_path / name}: the process that made it died (SIGKILL, as when memory runs out); another begins it again."
        for name in ("b.mortal", "d.mortal")
    ]
    assert no_children()


def test_a_task_that_kills_every_process_ends_the_run_with_a_sentence(work: ModuleType) -> None:
    heard = Heard()
    with pytest.raises(WorkerError, match=r"^deadly: the process that made it died 3 times \(SIGSEGV\); finished"):
        list(LocalExecutor(2).run(work.die, ["a", "deadly", "b"], heard))
    assert len(heard.notices) == 2
    assert no_children()


def test_an_error_of_a_task_stops_the_others_at_once(work: ModuleType) -> None:
    with pytest.raises(DataError) as caught:  # the others would take an hour
        list(LocalExecutor(2).run(work.fail, ["1", "2", "3"]))
    assert str(caught.value) == "2: is bad"
    assert any("in fail" in note for note in caught.value.__notes__)
    assert no_children()


def test_an_error_that_cannot_travel_is_told(work: ModuleType) -> None:
    with pytest.raises(WorkerError, match=r"^[12]: Odd\('x'\)$"):
        list(LocalExecutor(2).run(work.fail_oddly, ["1", "2"]))


def test_signals_of_the_terminal_are_the_first_process_s_own(work: ModuleType) -> None:
    assert all(count >= 1 for count in LocalExecutor(2).run(work.ignore_nothing, ["1", "2", "3"]))


def test_tasks_larger_than_a_pipe(work: ModuleType) -> None:
    assert list(LocalExecutor(2).run(work.heavy, ["x" * 3_000_000] * 4)) == [3_000_000] * 4


def test_closing_ends_all_processes(work: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "d.mortal").touch()
    running = LocalExecutor(2).run(work.die_once, [str(tmp_path / f"d{i}") for i in range(50)])
    next(running)
    running.close()
    assert no_children()


def test_processes_end_with_the_one_that_started_them(work: ModuleType, tmp_path: Path) -> None:
    program = (
        "import work_of_a_test as work\n"
        "from vdaprep.workers.local import LocalExecutor\n"
        "if __name__ == '__main__':\n"
        f"    tasks = [{str(tmp_path / 'a')!r}, {str(tmp_path / 'b')!r}]\n"
        "    list(LocalExecutor(2).run(work.never_end, tasks))\n"
    )
    (tmp_path / "program.py").write_text(program)
    first = subprocess.Popen([sys.executable, tmp_path / "program.py"], env={**os.environ, "PYTHONPATH": str(tmp_path)})
    pids = [_pid(tmp_path / name) for name in "ab"]
    first.send_signal(signal.SIGKILL)
    first.wait()
    deadline = time.monotonic() + PATIENCE_S
    while any(map(_is_alive, pids)):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _pid(path: Path) -> int:
    deadline = time.monotonic() + PATIENCE_S
    while not path.is_file() or not path.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return int(path.read_text())


def _is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def test_amounts_add_up() -> None:
    assert Amount(1, 2, 3) + Amount(bytes_in=1) - Amount(frames=1) == Amount(0, 3, 3)


CALLS = {
    "convert": "vdaprep.convert(vdaprep.plan('tartanair', raw={raw!r}, **options), out={out!r}, workers=2)",
    "an executor": "list(LocalExecutor(2).run(print, [1, 2]))",
}


@pytest.mark.parametrize("name", CALLS)
def test_a_script_that_every_process_runs_again_is_told_the_cause(name: str, tmp_path: Path) -> None:
    raw = write_raw(tmp_path / "raw", lengths={"abandonedfactory/Easy/P000": 8}).root
    call = CALLS[name].format(raw=str(raw), out=str(tmp_path / "out"))
    text = "import vdaprep\nfrom vdaprep.workers.local import LocalExecutor\n"
    text += f"options = {{'clip_frames': 2, 'frames_per_shard': 2}}\n{call}\n"
    (tmp_path / "script.py").write_text(text)
    found = subprocess.run([sys.executable, tmp_path / "script.py"], capture_output=True, text=True, check=False)
    assert found.returncode == 1
    assert found.stderr.count("Traceback") == 1  # of the script itself
    assert "WorkerError: every process that encodes imports the script that is run" in found.stderr
    assert 'below `if __name__ == "__main__":`' in found.stderr
