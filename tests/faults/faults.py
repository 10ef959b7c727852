"""What fault tests share: conversions and recodings as processes, watched, killed, compared with a clean one."""

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.conftest import tree_bytes
from vdaprep.analysis.verify import check_folder
from vdaprep.shards.names import PLAN_FILE

# Silent while it is under way: how often a slow conversion says how far it is depends on the machine.
PROGRAM = (
    sys.executable,
    "-c",
    "from vdaprep import cli; from vdaprep.cli.views import output; output.LINE_S = 1e9; cli.main()",
)
PATIENCE_S = 300  # of conversions that take seconds
TRIES = 20  # to reach a run before it has come to its end
OPTIONS = ("--clip-frames", "4", "--frames-per-shard", "8", "--short-side", "96")
UNFINISHED = (
    "is missing: the conversion was not finished; run convert again.",
    "was left by a run that died; run convert again.",
    "so it was never finished; run convert again.",
)


@dataclass(frozen=True)
class Clean:
    """Raw data, or shards to recode, what a run that nobody disturbed made of it, how long that took, its options."""

    raw: Path
    files: dict[str, bytes]
    seconds: dict[int, float] = field(default_factory=dict)
    options: tuple[str, ...] = ()
    command: str = "convert"

    def matches(self, out: Path) -> bool:
        """Tell whether an output has the same bytes, but for the plan that --consume leaves."""
        found = files(out)
        found.pop(PLAN_FILE, None)
        return found == self.files


def files(out: Path) -> dict[str, bytes]:
    return tree_bytes(out / "tartanair")


def arguments(raw: Path, out: Path, *more: object, workers: int = 1, command: str = "convert") -> list[str]:
    source = ("recode", raw, "-q") if command == "recode" else ("convert", "tartanair", "--raw", raw, *OPTIONS)
    return [str(item) for item in (*PROGRAM, *source, "--out", out, "--workers", workers, *more)]


class Run:
    """A conversion in a session of its own, so that none of its processes is overlooked."""

    def __init__(
        self,
        raw: Path,
        out: Path,
        *more: object,
        workers: int = 1,
        command: str = "convert",
        before: Callable[[], None] | None = None,
    ) -> None:
        self._out = out
        self._process = subprocess.Popen(
            arguments(raw, out, *more, workers=workers, command=command),
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

    def reaches(self, condition: Callable[[], bool]) -> bool:
        """Wait until a condition holds; False if the run came to its end before that was seen."""
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            if self.has_ended:
                return False
            assert time.monotonic() < deadline
            time.sleep(0.002)
        return True

    def reaches_shards(self, count: int) -> bool:
        return self.reaches(lambda: len(list(self._out.glob("tartanair/*/shard-*.json"))) >= count)

    @property
    def is_concluded(self) -> bool:
        """Whether all shards were made: what happens from then on comes too late."""
        return (self._out / "tartanair" / "dataset.json").exists()

    def hold(self) -> None:
        """Stop all its processes where they are, until `go_on`."""
        self.send_all(signal.SIGSTOP)
        deadline = time.monotonic() + PATIENCE_S
        while set(session(self.pid).values()) - {"T"}:
            assert time.monotonic() < deadline
            time.sleep(0.002)

    def go_on(self) -> None:
        self.send_all(signal.SIGCONT)

    def cpu_s(self) -> float:
        """Return the processor's seconds that its processes have taken so far."""
        ticks = 0
        for pid in session(self.pid):
            of_children = 2 if pid == self.pid else 0  # those that have ended; the others are counted themselves
            ticks += sum(map(int, _status(pid)[11 : 13 + of_children]))
        return ticks / os.sysconf("SC_CLK_TCK")

    def end(self) -> tuple[int, str]:
        """Wait; returns the exit code and what it said."""
        _, said = self._process.communicate(timeout=PATIENCE_S)
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
        """Expect every process of it to end by itself."""
        deadline = time.monotonic() + 60
        while session(self.pid):
            assert time.monotonic() < deadline, [_command(pid) for pid in session(self.pid)]
            time.sleep(0.01)


def ended_cpu_s() -> float:
    """Return the processor's seconds of all processes that this one started and that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def session(leader: int) -> dict[int, str]:
    """Return the living processes of a session, each with its state."""
    pids = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal()]
    found = {pid: (status[0], int(status[3])) for pid in pids if (status := _status(pid))}
    return {pid: state for pid, (state, of) in found.items() if of == leader and state != "Z"}


def _status(pid: int) -> list[str]:
    """Return what /proc says of a process, from its state on; nothing if it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


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
    """Run to the end; finished shards stay as they are, and the bytes are those of the clean run."""
    before = finished(out)
    code, said = Run(raw, out, *clean.options, *more, command=clean.command).end()
    assert code == 0, said
    after = finished(out)
    assert {name: after[name] for name in before} == before
    assert clean.matches(out)
    assert leftovers(out) == []


SIGNALS = {signal.SIGINT: 130, signal.SIGTERM: 143}
