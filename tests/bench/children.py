"""Processes of `tests.bench.readers`, told what to read and what to measure."""

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Child:
    """A process that reads and times."""

    process: subprocess.Popen[str]
    log: Path

    def receive(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.process.args}: {self.log.read_text()}")
        return json.loads(line)

    def ask(self, name: str, what: str) -> Any:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([name, what]) + "\n")
        self.process.stdin.flush()
        return self.receive()


@contextlib.contextmanager
def running(family: str, spec: Path, *, python: str = sys.executable) -> Iterator[Child]:
    """Start the process of a family; its log is written beside `spec`, and it ends with the block."""
    log = spec.with_name(f"{spec.stem}-{family}.log")
    command = [python, "-m", "tests.bench.readers", family, str(spec)]
    with log.open("w") as errors:
        process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
        )
    with process:
        yield Child(process, log)
        assert process.stdin is not None
        process.stdin.close()
