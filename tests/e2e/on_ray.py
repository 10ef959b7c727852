"""What `test_scale.py` runs in a process of its own: vdaprep on a Ray cluster of two nodes on this machine.

Its arguments: a folder, and as JSON the arguments of the conversions to do.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import ray
from ray.cluster_utils import Cluster

from vdaprep import cli, convert, gzips
from vdaprep.errors import DataError
from vdaprep.ray_executor import RayExecutor, connect
from vdaprep.tasks import Amount, Listener

STORE_BYTES = 80 << 20


def nothing() -> None: ...


def wait_for(condition: Any) -> bool:
    """Wait, at most a minute, until something is true; returns whether it is."""
    until_s = time.monotonic() + 60
    while not condition() and time.monotonic() < until_s:
        time.sleep(0.02)
    return condition()


def node() -> str:
    return ray.get_runtime_context().get_node_id()


def die_once(task: str, tick: Any) -> str:
    """Tick five frames; die at the first try of `mortal`, when that was heard."""
    marker = Path(task)
    mortal = marker.name == "mortal"
    tick(Amount(frames=3))
    time.sleep(0.4)
    tick(Amount(frames=2, bytes_in=10, bytes_out=int(mortal)))
    if mortal and not marker.exists():
        marker.touch()
        wait_for(marker.with_name("heard").exists)
        os.kill(os.getpid(), signal.SIGKILL)
    return task


def fail(task: str, tick: Any) -> str:
    """Fail once the other task is under way, saying when."""
    if not task.endswith("bad"):
        Path(task).write_text(str(os.getpid()))
        time.sleep(60)
        return task
    wait_for(Path(task).with_name("slow").exists)
    raise DataError(str(time.time()))


def deaths(executor: RayExecutor, folder: Path) -> dict[str, Any]:
    """Four tasks, one of whose processes dies."""
    notices: list[str] = []
    ticks: list[Amount] = []

    def on_tick(amount: Amount) -> None:
        ticks.append(amount)
        if amount.bytes_out > 0:
            (folder / "heard").touch()

    listener = Listener(on_tick=on_tick, on_notice=notices.append)
    results = list(executor.run(die_once, [str(folder / name) for name in ("a", "mortal", "b", "c")], listener))
    total = sum(ticks, Amount())
    return {
        "results": len(results),
        "notices": notices,
        "frames": total.frames,
        "bytes_in": total.bytes_in,
        "taken_back": any(tick.frames < 0 for tick in ticks),
    }


def failure(executor: RayExecutor, folder: Path) -> dict[str, Any]:
    """A task that fails while another would take a minute."""
    try:
        list(executor.run(fail, [str(folder / "slow"), str(folder / "bad")], Listener()))
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
        gzips.DamagedGzip = None
        (folder / task.shard.name.replace("/", "-")).write_text(node())
        wait_for(lambda: len({path.read_text() for path in folder.iterdir()} - {""}) == 2)
        return real(task, tick)

    return spy


def conversion(folder: Path, arguments: list[str]) -> int:
    """Run `vdaprep convert`; the seek points that it makes are taken away, as if workers were on other machines."""
    folder.mkdir()
    real, carried = convert.encode_shard, gzips.made_seek_points

    def hidden() -> gzips.SeekPoints:
        made = carried()
        for path in made.indexes:
            Path(path).unlink()
        return made

    convert.encode_shard, gzips.made_seek_points = spied(real, folder), hidden
    sys.argv = ["vdaprep", "convert", *arguments, "--executor", "ray"]
    try:
        cli.main()
    except SystemExit as end:
        return int(end.code or 0)
    finally:
        convert.encode_shard, gzips.made_seek_points = real, carried
    return 0


def main(folder: Path, conversions: list[list[str]]) -> None:
    """Go through all scenarios, and say in `found.json` what each came to."""
    found: dict[str, Any] = {"alone": conversion(folder / "alone", conversions[0])}
    cluster = Cluster()
    try:
        for _ in range(2):
            cluster.add_node(num_cpus=1, object_store_memory=STORE_BYTES, include_dashboard=False, no_monitor=True)
        os.environ["RAY_ADDRESS"] = cluster.address
        with connect("", workers=0, prepare=nothing) as executor:
            found["workers"] = executor.workers
            found["deaths"] = deaths(executor, folder)
            found["failure"] = failure(executor, folder)
        for number, arguments in enumerate(conversions):
            place = folder / f"nodes-{number}"
            code = conversion(place, arguments)
            found[f"conversion-{number}"] = {"code": code, "nodes": len({path.read_text() for path in place.iterdir()})}
    finally:
        cluster.shutdown()
    Path(folder, "found.json").write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
