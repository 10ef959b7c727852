"""What the fault tests share: conversions as processes of their own, watched, killed, and compared with a clean one."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.conftest import tree_bytes
from vdaprep.outputs import PLAN_FILE
from vdaprep.verify import check_folder

PROGRAM = Path(sys.executable).with_name("vdaprep")
OPTIONS = ("--clip-frames", "4", "--frames-per-shard", "8", "--short-side", "96")
UNFINISHED = (
    "is missing: the conversion was not finished; run convert again.",
    "was left by a run that died; run convert again.",
    "so it was never finished; run convert again.",
)


@dataclass(frozen=True)
class Clean:
    """Raw data, what a conversion that nobody disturbed made of it, and how long that took."""

    raw: Path
    files: dict[str, bytes]
    seconds: dict[int, float] = field(default_factory=dict)

    def matches(self, out: Path) -> bool:
        """Tell whether an output has the same bytes, but for the plan that --consume leaves."""
        found = files(out)
        found.pop(PLAN_FILE, None)
        return found == self.files


def files(out: Path) -> dict[str, bytes]:
    return tree_bytes(out / "tartanair")


def arguments(raw: Path, out: Path, *more: object, workers: int = 1) -> list[str]:
    fixed = (PROGRAM, "convert", "tartanair", "--raw", raw, "--out", out, "--workers", workers, *OPTIONS)
    return [str(item) for item in (*fixed, *more)]


class Run:
    """A conversion in a session of its own, so that none of its processes is overlooked."""

    def __init__(self, raw: Path, out: Path, *more: object, workers: int = 1, before: Callable[[], None] | None = None):
        self._out = out
        self._process = subprocess.Popen(
            arguments(raw, out, *more, workers=workers),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
            preexec_fn=before,
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def wait_for(self, condition: Callable[[], bool], *, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert not self.has_ended, f"it ended before, saying {self.end()}"
            assert time.monotonic() < deadline
            time.sleep(0.002)

    def wait_for_shards(self, count: int) -> None:
        self.wait_for(lambda: len(list(self._out.glob("tartanair/*/shard-*.json"))) >= count)

    def end(self) -> tuple[int, str]:
        """Wait; returns the exit code and what it said."""
        _, said = self._process.communicate(timeout=120)
        return self._process.returncode, said

    def workers(self) -> list[int]:
        """List the processes that do the work."""
        found = [pid for pid in session(self.pid) if pid != self.pid]
        return [pid for pid in found if "multiprocessing-fork" in _command(pid)]

    def send_all(self, number: int) -> None:
        """Send a signal to every process, as a terminal does."""
        os.killpg(self.pid, number)

    def send(self, number: int) -> None:
        os.kill(self.pid, number)

    def expect_gone(self) -> None:
        """Expect every process of it to end by itself, soon."""
        deadline = time.monotonic() + 5
        while session(self.pid):
            assert time.monotonic() < deadline, [_command(pid) for pid in session(self.pid)]
            time.sleep(0.01)


def session(leader: int) -> list[int]:
    """List the living processes of a session."""
    found: list[int] = []
    for path in Path("/proc").iterdir():
        if not path.name.isdecimal():
            continue
        try:
            state, _, _, of, *_ = (path / "stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(of) == leader and state != "Z":
            found.append(int(path.name))
    return found


def _command(pid: int) -> str:
    try:
        return (Path("/proc") / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def expect_only_unfinished(out: Path) -> None:
    """Expect that nothing finished is wrong, and nothing wrong looks finished."""
    folder = out / "tartanair"
    if folder.is_dir():
        _, findings = check_folder(folder, deep=True, on_frames=lambda count: None)
        assert [str(item) for item in findings if not item.what.endswith(UNFINISHED)] == []


def finished(out: Path) -> dict[str, int]:
    """Return when each finished shard was written."""
    records = out.glob("tartanair/*/shard-*.json")
    return {str(path): path.with_suffix(".tar").stat().st_mtime_ns for path in records}


def leftovers(out: Path) -> list[str]:
    return [path.name for path in out.rglob("*") if "vdaprep" in path.name]


def finish(clean: Clean, raw: Path, out: Path, *more: object) -> None:
    """Convert to the end; finished shards stay as they are, and the bytes are those of the clean run."""
    before = finished(out)
    code, said = Run(raw, out, *more).end()
    assert code == 0, said
    after = finished(out)
    assert {name: after[name] for name in before} == before
    assert clean.matches(out)
    assert leftovers(out) == []


SIGNALS = {signal.SIGINT: 130, signal.SIGTERM: 143}
