"""A mutation run over every parser: `python -m tests.fuzz [--seconds 300] [--seed 0] [NAME...]`, or `make fuzz`.

Each parser runs in a process of its own for its share of the time, which is larger for slow ones. A fault is an
exception that is no VdakitError, an input that takes longer than 10 s, a file outside the input's folder, a process
that dies, or one that needs more than 1 GiB. The input of each is kept in `fuzz/`, its seed is printed.
"""

import argparse
import collections
import contextlib
import faulthandler
import json
import logging
import os
import pickle
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Generator
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded

from tests.fuzz.targets import SHARES, Target, targets
from tests.memory import peak_kib
from vdaprep.errors import VdakitError

LONGEST_S = 10
MOST_KIB = 1 << 20
_BATCH = 100
_KEPT = Path("fuzz")
_MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # folders come and go a hundredfold faster there


class _HangError(BaseException):
    """An input takes too long."""


def main() -> int:
    """Run the parsers one after the other; 1 if there is a fault."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--seconds", type=float, default=float(os.environ.get("FUZZ_SECONDS", "300")))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--child", action="store_true")
    asked = parser.parse_args()
    if asked.child:
        _child(asked.names[0], asked.seconds, asked.seed)
        return 0
    names = asked.names or list(targets(Path("unused")))
    shares = {name: SHARES.get(name, 1.0) for name in names}
    faults = 0
    _say(f"{'parser':24}{'inputs':>8}{'refused':>9}{'MiB':>6}{'faults':>8}")
    for name in names:
        found = _run(name, asked.seconds * shares[name] / sum(shares.values()), asked.seed)
        faults += len(found["faults"])
        count, refused, mib = found["inputs"], found["refused"], found["peak_kib"] >> 10
        _say(f"{name:24}{count:8}{refused:9}{mib:6}{len(found['faults']):8}")
        for fault in found["faults"]:
            _say(f"    {fault}")
    return 1 if faults else 0


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _run(name: str, seconds: float, seed: int) -> dict[str, Any]:
    """Run one parser in a process of its own, whose last input is a fault if the process dies."""
    command = [sys.executable, "-m", "tests.fuzz", "--child", name, "--seconds", str(seconds), "--seed", str(seed)]
    with tempfile.TemporaryDirectory(dir=_MEMORY) as scratch, tempfile.TemporaryFile() as errors:
        environment = {**os.environ, "TMPDIR": scratch, "OMP_NUM_THREADS": "1"}
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, env=environment)
        try:
            out, _ = child.communicate(timeout=seconds + 120)
            problem = f"the process ended with {child.returncode}"
        except subprocess.TimeoutExpired:
            child.kill()
            out, _ = child.communicate()
            problem = f"an input took longer than {LONGEST_S} s in one call of the system"
        if child.returncode == 0:
            return json.loads(out.splitlines()[-1])
        errors.seek(0)
        last = errors.read().decode("utf-8", "replace").strip().splitlines()[-4:]
        kept = _keep(name, next(iter(Path(scratch).glob("*/last")), None))
        return {"inputs": 0, "refused": 0, "peak_kib": 0, "faults": [f"{problem}; {kept}; {' | '.join(last)}"]}


def _keep(name: str, last: Path | None) -> str:
    if last is None:
        return "before any input"
    _KEPT.mkdir(exist_ok=True)
    kept = _KEPT / f"{name.replace(' ', '-')}-{int(time.time())}.pickle"
    shutil.copy(last, kept)
    return str(kept)


# --------------------------------------------------------------------------------------------------------------- child


class _Run:
    """What comes of the inputs of one parser."""

    def __init__(self, name: str, target: Target, folder: Path, *, seconds: float) -> None:
        self.counts = collections.Counter(inputs=0, refused=0)
        self.faults: dict[str, str] = {}
        self._name, self._target, self._folder = name, target, folder
        self._last = folder / "last"
        self._end = time.monotonic() + seconds

    @property
    def is_over(self) -> bool:
        """Whether the time is over, or there are faults enough."""
        return time.monotonic() > self._end or len(self.faults) > 20

    def check(self, value: Any) -> None:
        """Give the parser an input, and note a fault."""
        if self.is_over:
            return
        self._last.write_bytes(pickle.dumps(value))
        self.counts["inputs"] += 1
        before = peak_kib()
        problem = self._problem(value)
        if peak_kib() > max(before, MOST_KIB):
            problem = f"needs {peak_kib() >> 10} MiB"
        if problem and problem not in self.faults:
            self.faults[problem] = _keep(f"{self._name}-{len(self.faults)}", self._last)

    def _problem(self, value: Any) -> str | None:
        try:
            with _sandbox(self._folder) as place, _alarm():
                self._target.run(value, place)
        except VdakitError as error:
            self.counts["refused"] += 1
            return "an error of several lines" if "\n" in str(error) else None
        except _OutsideError as error:
            return str(error)
        except (Exception, _HangError) as error:  # noqa: BLE001 - every one of them is a fault to note
            where = traceback.extract_tb(error.__traceback__)
            ours = [item for item in where if "/vdaprep/" in item.filename or "/vdatrain/" in item.filename] or where
            at = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}"
            return f"{type(error).__name__}: {str(error)[:120]!r} at {at}"
        return None


def _child(name: str, seconds: float, seed: int) -> None:
    """Give a parser spoilt inputs until the time is over, and print what came of it as JSON."""
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    faulthandler.enable()
    resource.setrlimit(resource.RLIMIT_DATA, (4 << 30, 4 << 30))  # rather than take the machine's memory
    signal.signal(signal.SIGALRM, _hang)
    folder = Path(tempfile.mkdtemp())
    run = _Run(name, targets(folder / "seeds")[name](), folder, seconds=seconds)
    options = settings(
        max_examples=_BATCH, database=None, deadline=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    for batch in range(10**6):
        if run.is_over:
            break
        seeded(seed * 10**6 + batch)(options(given(run._target.inputs)(run.check)))()
    shown = [f"{problem} (seed {seed}, {kept})" for problem, kept in run.faults.items()]
    sys.stdout.write(json.dumps({**run.counts, "peak_kib": peak_kib(), "faults": shown}))
    sys.stdout.flush()
    os._exit(0)  # whatever a library's threads think of it


class _OutsideError(Exception):
    """Something was written outside the input's folder."""


@contextlib.contextmanager
def _sandbox(folder: Path) -> Generator[Path]:
    """Yield an empty folder deep within another, where nothing else may appear."""
    top = folder / "box"
    place = top / "a" / "b" / "c" / "d" / "work"
    place.mkdir(parents=True)
    try:
        yield place
        others = [path for path in top.rglob("*") if place not in path.parents and path not in (place, *place.parents)]
        others += [path for path in (Path("/escaped"), folder / "escaped") if path.exists()]
        if others:
            raise _OutsideError(f"wrote {others[0]}")
    finally:
        shutil.rmtree(top)


@contextlib.contextmanager
def _alarm() -> Generator[None]:
    signal.alarm(LONGEST_S)
    try:
        yield
    finally:
        signal.alarm(0)


def _hang(number: int, frame: object) -> None:
    raise _HangError(f"took longer than {LONGEST_S} s")


if __name__ == "__main__":
    sys.exit(main())
