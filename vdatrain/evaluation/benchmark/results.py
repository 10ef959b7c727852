"""Results of scenes in a folder: lines of JSON that a benchmark which goes on reads again.

    benchmark.json       what is measured: protocol, sets, weights, size, precision; the same for all lines
    scenes-RANK.jsonl    a line a scene, written by one process, flushed to disk
    table.md, .csv, .json  the table; ledger.json: what was missing or left out

A line that a kill cut short, or of shards that have changed since, is passed over and the scene measured again.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from vdaprep.errors import DataError, UsageError
from vdaprep.storage.atomic import as_sentence, write_text
from vdaprep.storage.documents import DocumentError, Fields, parse_json
from vdaprep.storage.limits import MAX_SMALL_DOCUMENT_BYTES, LimitError
from vdatrain.evaluation.benchmark.clip import SceneFigures
from vdatrain.evaluation.benchmark.scenes import Remark

BENCHMARK_FILE = "benchmark.json"
LEDGER_FILE = "ledger.json"
_COUNTS = ("frames", "evaluated_frames", "pixels", "pairs", "pairs_without_pose", "apart")
_GREATEST = 1e15


@dataclass(frozen=True)
class SceneResult:
    """A line: a scene, its figures, and what they are of."""

    key: str
    """Key of the set."""
    scene: str
    """The scene."""
    identity: str
    """SHA-256 of what the shards hold of it."""
    run: str
    """SHA-256 of what is measured."""
    seconds: float
    """What it took."""
    peak_memory_bytes: int
    """The most that the GPU's tensors, or without one the process, had taken by then."""
    figures: SceneFigures
    """What was measured."""

    def to_line(self) -> str:
        """Return the line, without its end."""
        return json.dumps(asdict(self))

    @classmethod
    def from_line(cls, text: str, *, where: str) -> "SceneResult":
        """Undo `to_line`; raises DocumentError or LimitError for any other."""
        line = parse_json(text.encode(), where=where, limit=MAX_SMALL_DOCUMENT_BYTES)
        return cls(
            key=line.text("key"),
            scene=line.text("scene"),
            identity=line.sha256("identity"),
            run=line.sha256("run"),
            seconds=line.number("seconds", 0, _GREATEST),
            peak_memory_bytes=line.integer("peak_memory_bytes", 0, 2**62),
            figures=_figures(line.mapping("figures")),
        )


def _figures(found: Fields) -> SceneFigures:
    values: dict[str, Any] = {}
    for item in fields(SceneFigures):
        if item.name in _COUNTS:
            values[item.name] = found.integer(item.name, 0, 2**53)
        elif item.name in ("scale", "shift"):
            values[item.name] = found.number(item.name, -_GREATEST, _GREATEST)
        elif item.name == "tae_share":
            values[item.name] = found.number(item.name, 0, 1)
        else:
            values[item.name] = found.optional_number(item.name, 0, _GREATEST)
    return SceneFigures(**values)


def digest_of(facts: Mapping[str, Any]) -> str:
    """Return the SHA-256 of what is measured."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def begin(folder: Path, facts: Mapping[str, Any]) -> None:
    """Write what is measured, or compare it with what a benchmark that goes on has measured.

    Raises UsageError if that is another one, DataError if it cannot be read, OutputError if it cannot be written.
    """
    path = folder / BENCHMARK_FILE
    facts = json.loads(json.dumps(facts))
    try:
        before = parse_json(path.read_bytes(), where=str(path), limit=MAX_SMALL_DOCUMENT_BYTES).values
    except FileNotFoundError:
        write_text(path, json.dumps(facts, indent=2) + "\n")
        return
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}).") from error
    except (DocumentError, LimitError) as error:
        raise DataError(f"{str(error).rstrip('.')}; choose another --out.") from error
    differ = [name for name in {**before, **facts} if before.get(name) != facts.get(name)]
    if differ:
        raise UsageError(
            f"--out {folder}: holds results of another {' and '.join(differ)}; choose another folder, or delete this "
            "one to measure again."
        )


def read_results(folder: Path, *, run: str) -> dict[tuple[str, str], SceneResult]:
    """Return what has been measured, by set and scene.

    Raises DataError if a file cannot be read or a line, unless it is a file's last, is no result.
    """
    found: dict[tuple[str, str], SceneResult] = {}
    for path in sorted(folder.glob("scenes-*.jsonl")):
        try:
            lines = path.read_bytes().decode(errors="replace").splitlines()
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror}).") from error
        for number, text in enumerate(lines, 1):
            try:
                result = SceneResult.from_line(text, where=f"{path}: line {number}")
            except (DocumentError, LimitError) as error:
                if number == len(lines):
                    continue  # which a kill cut short
                raise DataError(f"{str(error).rstrip('.')}; delete that line to measure its scene again.") from error
            if result.run == run:
                found[result.key, result.scene] = result
    return found


def append_result(folder: Path, result: SceneResult, *, rank: int) -> None:
    """Append a line to a rank's file and flush it to disk; raises OutputError."""
    path = folder / f"scenes-{rank}.jsonl"
    with as_sentence(path, kept="the scenes before are kept"), path.open("ab+") as file:
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)  # what a kill cut short
        file.write(result.to_line().encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def write_ledger(folder: Path, remarks: Iterable[Remark]) -> None:
    """Write the ledger; raises OutputError."""
    write_text(folder / LEDGER_FILE, json.dumps([asdict(item) for item in remarks], indent=2) + "\n")
