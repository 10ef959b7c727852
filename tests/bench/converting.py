"""A whole conversion in a process of its own, with the memory that its processes came to."""

import json
import os
import re
import resource
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.bench.rendered import DATASET
from tests.memory import peak_kib
from vdaprep.conversion.convert import convert_plan
from vdaprep.conversion.options import Selection, Settings
from vdaprep.conversion.plan import make_plan
from vdaprep.storage.output import LocalOutput
from vdaprep.workers.local import LocalExecutor


@dataclass(frozen=True)
class Conversion:
    """What it took: seconds, those of processors, KiB at the peak of its first process and of the largest worker."""

    seconds: float
    processor_s: float
    frames: int
    own_kib: int
    worker_kib: int


def run(raw: Path, out: Path, *, workers: int, shard_frames: int) -> Conversion:
    """Convert in a new process, whose start and planning do not count; the start of its workers does."""
    command = [sys.executable, "-m", __name__, str(raw), str(out), str(workers), str(shard_frames)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    return Conversion(**json.loads(result.stdout))


def lay_out(rendered: list[tuple[Path, Path]], poses: Path, root: Path, *, trajectories: int, frames: int) -> Path:
    """Make a raw tree of trajectories that repeat the rendered frames, by links."""
    lines = poses.read_text("ascii").splitlines()
    for number in range(trajectories):
        folder = root / f"abandonedfactory/Easy/P{100 + number}"
        for index in range(frames):
            for path in rendered[index % len(rendered)]:
                link = folder / path.parent.name / re.sub(r"^\d+", f"{index:06d}", path.name)
                link.parent.mkdir(parents=True, exist_ok=True)
                os.link(path, link)
        repeated = [lines[index % len(lines)] for index in range(frames)]
        (folder / poses.name).write_text("\n".join(repeated) + "\n", "ascii")
    return root


def main(raw: str, out: str, workers: str, shard_frames: str) -> None:
    """Convert, a clip a shard, then print the figures."""
    settings = Settings(clip_frames=int(shard_frames), frames_per_shard=int(shard_frames))
    plan = make_plan(DATASET, raw=raw, settings=settings, selection=Selection())
    output, executor = LocalOutput(Path(out), writers=int(workers)), LocalExecutor(int(workers))
    before, busy = time.perf_counter(), time.process_time()
    record = convert_plan(plan, output=output, executor=executor)
    seconds, busy = time.perf_counter() - before, time.process_time() - busy
    of_workers = resource.getrusage(resource.RUSAGE_CHILDREN)
    conversion = Conversion(
        seconds=seconds,
        processor_s=busy + of_workers.ru_utime + of_workers.ru_stime,
        frames=record.totals["frames"],
        own_kib=peak_kib(),
        worker_kib=of_workers.ru_maxrss,
    )
    sys.stdout.write(json.dumps(asdict(conversion)))


if __name__ == "__main__":
    main(*sys.argv[1:])
