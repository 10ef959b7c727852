"""`vdatrain run` on two machines, as far as one can stand for two: an agent of torchrun for each, in its own folder."""

import contextlib
import functools
import json
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from tests.conftest import Run
from tests.distributed.forked import Child, exit_code, fork, free_port, wait_until
from vdatrain import cli
from vdatrain.models import tensor_files

SMALL = {"variant": "conv", "encoder": "tiny", "frames": 2, "size": 28, "warmup": 1, "workers": 1, "log-every": 1}
SMALL |= {"eval-every": 100_000, "eval-windows": 2, "track": "none", "lr": 1e-5, "out": "run"}
TOLERANCE = 5e-3  # of losses in float32; `test_distributed.py` says more of it


def rank(said: str, arguments: list[str]) -> None:
    """Do as `vdatrain` with these arguments, in a copy of an agent; what it says goes to a file of its own."""
    name = f"{said}-{os.environ['RANK']}"
    Path(f"{name}.pid").write_text(str(os.getpid()))
    sys.stderr = Path(f"{name}.err").open("w", buffering=1)  # noqa: SIM115 - until the process ends
    os.dup2(sys.stderr.fileno(), 2)
    sys.argv = ["vdatrain", *arguments]
    try:
        cli.main()
    except SystemExit as exit_:
        if exit_code(exit_):
            raise


def agent(folder: Path, port: int, said: Path, arguments: list[str]) -> None:
    """Do as `torchrun --nnodes 2 --nproc-per-node 2 --rdzv-backend c10d` in a folder; its ranks are copies of this."""
    warnings.simplefilter("default")  # torchrun's own are not ours to mend
    os.chdir(folder)
    config = LaunchConfig(
        min_nodes=2,
        max_nodes=2,
        nproc_per_node=2,
        run_id="test",
        rdzv_backend="c10d",
        rdzv_endpoint=f"127.0.0.1:{port}",
        logs_specs=DefaultLogsSpecs(log_dir=str(said.parent)),
        start_method="fork",
        max_restarts=0,
    )
    try:
        elastic_launch(config, rank)(str(said), arguments)
    except ChildFailedError:
        sys.exit(1)


Nodes = Callable[..., tuple[Child, Child]]


@pytest.fixture
def nodes(toy_shards: Path, tmp_path: Path) -> Iterator[Nodes]:
    """Train on two nodes of two ranks each, in the folders `first` and `second`; nothing is left of them in the end."""
    agents: list[Child] = []
    said = tmp_path / "said"
    said.mkdir()

    def begin(*arguments: object) -> tuple[Child, Child]:
        port = free_port()
        given = [*map(str, arguments)]
        for name in ("first", "second"):
            (tmp_path / name).mkdir(exist_ok=True)
            work = functools.partial(agent, tmp_path / name, port, said / "rank", given)
            agents.append(fork(work, said, name, {"OMP_NUM_THREADS": 1}))
        return agents[-2], agents[-1]

    yield begin
    for child in agents:
        child.kill()
    for path in said.glob("rank-*.pid"):
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(path.read_text()), signal.SIGKILL)


def command(shards: Path, **options: object) -> list[object]:
    given = {**SMALL, "shards": shards, **options}
    return ["run", *(part for name, value in given.items() for part in (f"--{name}", value))]


@pytest.mark.slow
def test_four_ranks_on_two_nodes_train_as_one(toy_shards: Path, tmp_path: Path, nodes: Nodes, vdatrain: Run) -> None:
    """The first rank alone writes: the other node's folder stays empty."""
    alone = vdatrain(
        *command(toy_shards, steps=3, batch=4, out=tmp_path / "alone")
    )  # imports for all, which are copies
    assert alone.code == 0
    both = nodes(*command(toy_shards, steps=3, batch=1))
    assert [child.wait() for child in both] == [0, 0], [child.err.read_text() for child in both]
    folders = [[path.name for path in (tmp_path / name).iterdir()] for name in ("first", "second")]
    assert sorted(folders) == [[], ["run"]]
    [folder] = tmp_path.glob("*/run")
    assert [(tmp_path / f"said/rank-{rank}.err").read_text() for rank in (1, 2, 3)] == ["", "", ""]
    assert tensor_files.load(folder / "last.pt")["step"] == 3
    ours, theirs = losses(folder), losses(tmp_path / "alone")
    assert len(ours) == 3
    assert ours == pytest.approx(theirs, rel=TOLERANCE)
    assert ours[0] == pytest.approx(theirs[0], rel=1e-6)


def losses(folder: Path) -> list[float]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [line["total"] for line in lines if "total" in line]


@pytest.mark.slow
def test_a_rank_killed_on_one_node_ends_both(toy_shards: Path, tmp_path: Path, nodes: Nodes) -> None:
    both = nodes(*command(toy_shards, steps=100_000, batch=1))
    wait_until(lambda: any(tmp_path.glob("*/run/last.pt")) or any(child.poll() is not None for child in both))
    pids = [int((tmp_path / f"said/rank-{rank}.pid").read_text()) for rank in range(4)]
    os.kill(pids[3], signal.SIGKILL)
    assert [child.wait() for child in both] == [1, 1]  # left alone they would go on for hours
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))
    said = [(tmp_path / f"said/rank-{rank}.err").read_text() for rank in range(3)]
    sentences = {line for text in said for line in text.splitlines() if line.startswith("vdatrain: rank 3 (process ")}
    [sentence] = sentences  # the ranks beside it may be ended by their agent before they can say it
    assert sentence.startswith(f"vdatrain: rank 3 (process {pids[3]} on ")
    assert "Traceback" not in "".join(said)
