"""What `test_ray.py` runs in a process of its own: vdaprep on a Ray cluster of two nodes on this machine.

Its arguments: a folder, and as JSON the arguments of two conversions, the second of which consumes its raw data. With
a third one, `held`, it is one conversion that never ends by itself.
"""

import contextlib
import functools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from unittest import mock

import ray
from ray._private import services
from ray.cluster_utils import Cluster

from vdaprep import cli
from vdaprep.conversion import api, convert
from vdaprep.errors import DataError, WorkerError
from vdaprep.raw.archives import targz
from vdaprep.workers import ray_cluster
from vdaprep.workers.progress import Amount, ProgressEvent
from vdaprep.workers.ray_cluster import RayExecutor, connect

STORE_BYTES = 80 << 20
FIRST = "train/shard-0001.tar"
FIRST_TRAJECTORY = "abandonedfactory/Easy/P000"
LONG_S = 300.0  # for what takes seconds where nothing else goes on
CONSUME = ("--consume", "--yes")


def nothing() -> None: ...


def wait_for(condition: Any) -> bool:
    """Wait, at most some minutes, until something is true; returns whether it is."""
    until_s = time.monotonic() + LONG_S
    while not condition() and time.monotonic() < until_s:
        time.sleep(0.02)
    return condition()


def node() -> str:
    return ray.get_runtime_context().get_node_id()


def die_once(task: str, tick: Any) -> str:
    """Do five frames; die at the first try of `mortal`."""
    marker = Path(task)
    tick(Amount(frames=3))
    tick(Amount(frames=2, bytes_in=10))
    if marker.name == "mortal" and not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return task


def die(task: str, tick: Any) -> str:
    """Die at every try."""
    os.kill(os.getpid(), signal.SIGKILL)
    return task


def fail(task: str, tick: Any) -> str:
    """Fail once the other task is under way, saying when."""
    if not task.endswith("bad"):
        Path(task).write_text(str(os.getpid()))
        time.sleep(3600)
        return task
    wait_for(Path(task).with_name("slow").exists)
    raise DataError(str(time.time()))


def deaths(executor: RayExecutor, folder: Path) -> dict[str, Any]:
    """Four tasks, one of whose processes dies."""
    events: list[ProgressEvent] = []
    tasks = [str(folder / name) for name in ("a", "mortal", "b", "c")]
    results = list(executor.run(die_once, tasks, events.append))
    total = sum((event.amount for event in events), Amount())
    return {"results": len(results), "frames": total.frames, "bytes_in": total.bytes_in}


def always_deadly(executor: RayExecutor, folder: Path) -> str:
    """A task that kills every process."""
    try:
        list(executor.run(die, [str(folder / "deadly")]))
    except WorkerError as error:
        return str(error)
    return ""


def failure(executor: RayExecutor, folder: Path) -> dict[str, Any]:
    """A task that fails while another would take an hour."""
    try:
        list(executor.run(fail, [str(folder / "slow"), str(folder / "bad")]))
    except DataError as error:
        pid = int(Path(folder, "slow").read_text())
        seconds = time.time() - float(str(error))
        return {"seconds": seconds, "other_ended": wait_for(lambda: not Path(f"/proc/{pid}").exists())}
    return {}


def spied(real: Any, folder: Path) -> Any:
    """Return `encode_shard`, that says in a file where it runs, and begins when two nodes run it.

    Slow reading of gzips is denied to it.
    """

    def spy(task: Any, tick: Any) -> Any:
        targz.DamagedGzip = None
        (folder / task.shard.name.replace("/", "-")).write_text(node())
        wait_for(lambda: len({path.read_text() for path in folder.iterdir()} - {""}) == 2)
        return real(task, tick)

    return spy


def conversion(folder: Path, arguments: list[str]) -> int:
    """Run `vdaprep convert`; the seek points that it makes are taken away, as if workers were on other machines."""
    folder.mkdir()
    real, carried = convert.encode_shard, api.made_seek_points
    told = folder.with_suffix(".jsonl").open("w", encoding="utf-8")

    def hidden() -> targz.SeekPoints:
        made = carried()
        for path in made.indexes:
            Path(path).unlink()
        return made

    convert.encode_shard = spied(real, folder)  # not that of --consume: there may be one shard only
    api.made_seek_points = hidden
    sys.argv = ["vdaprep", "convert", *arguments, "--executor", "ray", "--json"]
    try:
        with told, contextlib.redirect_stdout(told):
            cli.main()
    except SystemExit as end:
        return int(end.code or 0)
    finally:
        convert.encode_shard = real
        api.made_seek_points = carried
    return 0


def alone(folder: Path, arguments: list[str]) -> int:
    """Run a conversion that finds no cluster, even if others have one on this machine."""
    none = functools.cache(set)  # as Ray's own function, which it asks to forget
    with mock.patch.multiple(services, find_gcs_addresses=none, find_bootstrap_address=lambda temp_dir: None):
        return conversion(folder, arguments)


# ---------------------------------------------------------------------------------------------------------- interrupted


def unending(real: Any, folder: Path) -> Any:
    """Return `encode_shard` that makes the first shard, but stays in the midst of any other, saying which process."""

    def stays(task: Any, tick: Any) -> Any:
        if task.shard.name == FIRST:
            return real(task, tick)
        with task.output.new_file(task.shard.name) as file:
            file.write(b"a beginning")
            (folder / str(os.getpid())).touch()
            wait_for(lambda: False)
            raise DataError("nobody has ended it")

    return stays


def held(folder: Path, arguments: list[str]) -> None:
    """Run `vdaprep convert` to be interrupted, with time to unwind however busy the machine is."""
    ray_cluster._GRACE_S = LONG_S  # noqa: SLF001
    convert.encode_shard = unending(convert.encode_shard, folder)
    sys.argv = ["vdaprep", "convert", *arguments, "--executor", "ray"]
    cli.main()


def interruption(number: int, folder: Path, arguments: list[str], out: Path, *, early: bool) -> dict[str, Any]:
    """Send a signal to a conversion as soon as it holds the lock, or when a shard is made and another begun."""
    folder.mkdir()
    command = [sys.executable, __file__, folder, json.dumps(arguments), "held"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    lock, record = out / ".vdaprep-lock", (out / FIRST).with_suffix(".json")
    begun = wait_for(lock.exists if early else lambda: record.exists() and any(folder.iterdir()))
    os.killpg(process.pid, number)
    said = process.communicate(timeout=2 * LONG_S)[1]
    workers = [Path("/proc") / path.name for path in folder.iterdir()]
    return {
        "begun": begun,
        "code": process.returncode,
        "said": said,
        "left": sorted(path.name for path in out.rglob("*") if "vdaprep" in path.name),
        "shards": sorted(path.relative_to(out).as_posix() for path in out.glob("*/shard-*")),
        "others_ended": wait_for(lambda: not any(path.exists() for path in workers)),
    }


def interruptions(folder: Path, arguments: list[str]) -> list[dict[str, Any]]:
    """Interrupt one conversion again and again."""
    out = Path(arguments[arguments.index("--out") + 1]) / arguments[0]
    found = [interruption(signal.SIGINT, folder / "early", arguments, out, early=True)]
    for number in (signal.SIGTERM, signal.SIGINT):
        found.append(interruption(number, folder / number.name, arguments, out, early=False))
    return found


# ------------------------------------------------------------------------------------------------------------- consumed


def damaged(folder: Path, arguments: list[str]) -> dict[str, Any]:
    """Run a conversion that finds a bit of its first shard flipped; the bit is put back."""
    raw, out = (Path(arguments[arguments.index(option) + 1]) for option in ("--raw", "--out"))
    tar, first = out / arguments[0] / FIRST, raw / FIRST_TRAJECTORY
    whole, before = tar.read_bytes(), sorted(first.rglob("*"))
    tar.write_bytes(whole[:3000] + bytes([whole[3000] ^ 1]) + whole[3001:])
    code = conversion(folder, arguments)
    tar.write_bytes(whole)
    return {"code": code, "raw_is_there": bool(before) and sorted(first.rglob("*")) == before}


def unshared(folder: Path, arguments: list[str]) -> int:
    """Run a conversion whose raw data is not there any more when it is to be read, as on a machine without it."""
    raw = Path(arguments[arguments.index("--raw") + 1])
    real = api.made_seek_points

    def move() -> targz.SeekPoints:
        raw.rename(raw.with_name("elsewhere"))
        return real()

    api.made_seek_points = move
    try:
        return conversion(folder, arguments)
    finally:
        api.made_seek_points = real
        raw.with_name("elsewhere").rename(raw)


def main(folder: Path, conversions: list[list[str]]) -> None:
    """Go through all scenarios, and say in `found.json` what each came to."""
    plain, consuming = conversions
    found: dict[str, Any] = {"alone": alone(folder / "alone", plain)}
    cluster = Cluster()
    try:
        for _ in range(2):
            cluster.add_node(num_cpus=1, object_store_memory=STORE_BYTES, include_dashboard=False, no_monitor=True)
        os.environ["RAY_ADDRESS"] = cluster.address
        with connect("", workers=0, prepare=nothing) as executor:
            found["workers"] = executor.workers
            found["deaths"] = deaths(executor, folder)
            found["always_deadly"] = always_deadly(executor, folder)
            found["failure"] = failure(executor, folder)
        place = folder / "plain"
        code = conversion(place, plain)
        found["plain"] = {"code": code, "nodes": len({path.read_text() for path in place.iterdir()})}
        found["interruptions"] = interruptions(folder, [word for word in consuming if word not in CONSUME])
        found["unshared"] = unshared(folder / "unshared", consuming)
        found["damaged"] = damaged(folder / "damaged", consuming)
        found["consuming"] = conversion(folder / "consuming", consuming)
    finally:
        cluster.shutdown()
    Path(folder, "found.json").write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    (held if sys.argv[3:] else main)(Path(sys.argv[1]), json.loads(sys.argv[2]))
