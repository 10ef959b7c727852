"""`vdatrain run` on several ranks: the same training as on one, and an end for all when one of them is gone."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.fsdp  # noqa: F401 - seconds, here rather than in every child

from tests.e2e import on_ranks
from vdatrain import checkpoint, cli
from vdatrain.distributed import Ranks

ROOT = Path(__file__).parents[2]
SMALL = {"encoder": "tiny", "frames": 2, "size": 28, "steps": 6, "warmup": 1, "ema": 0.5, "workers": 1}
SMALL |= {"eval_split": "none", "log_every": 1, "eval_every": 100, "track": "none", "accumulate": 2, "lr": 1e-4}
PATIENCE_S = 240  # for processes that import torch on a busy machine
TOLERANCE = 1e-4  # of losses; float32's rounding, which Adam makes more of with every step
REAL_TOLERANCE = 5e-3  # of the real loss: see `on_ranks.smooth_loss`


def entry(folder: Path, shards: Path, *, smooth: bool = True, **options: object) -> dict[str, Any]:
    return {"folder": str(folder), "smooth": smooth, "options": {**SMALL, "shards": str(shards), **options}}


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@dataclass
class Child:
    """A rank in a copy of this process, which has imported everything already, and where it writes."""

    number: int
    out: Path
    err: Path
    code: int | None = None  # of its end, negative for a signal

    def poll(self) -> int | None:
        if self.code is None:
            number, status = os.waitpid(self.number, os.WNOHANG)
            self.code = os.waitstatus_to_exitcode(status) if number else None
        return self.code

    def wait(self) -> int:
        wait_until(lambda: self.poll() is not None)
        assert self.code is not None
        return self.code

    def send(self, signal_number: int) -> None:
        if self.poll() is None:
            os.kill(self.number, signal_number)


Start = Callable[..., list[Child]]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Do the same as each of two ranks; what is left of them in the end is killed."""
    children: list[Child] = []

    def begin(work: Callable[[], object]) -> list[Child]:
        port, folder = free_port(), tmp_path_factory.mktemp("ranks")
        new = [fork(work, folder, {"RANK": rank, "WORLD_SIZE": 2, "MASTER_PORT": port}) for rank in range(2)]
        children.extend(new)
        return new

    yield begin
    for child in children:
        child.send(signal.SIGKILL)
        child.wait()


def fork(work: Callable[[], object], folder: Path, variables: dict[str, int]) -> Child:
    out, err = (folder / f"{name}{variables['RANK']}" for name in ("out", "err"))
    number = os.fork()
    if number:
        return Child(number, out, err)
    code = 70
    try:
        sys.stdout, sys.stderr = out.open("w"), err.open("w")
        os.dup2(sys.stderr.fileno(), 2)
        os.environ.update({name: str(value) for name, value in variables.items()}, MASTER_ADDR="127.0.0.1")
        work()
        code = 0
    except SystemExit as exit_:
        code = exit_.code if isinstance(exit_.code, int) else 0 if exit_.code is None else 1
    except BaseException:  # noqa: BLE001 - the end of a process, which says what it died of
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def command_line(*argv: object) -> Callable[[], None]:
    def work() -> None:
        sys.argv = ["vdatrain", *map(str, argv)]
        cli.main()

    return work


def wait_until(true: Callable[[], bool]) -> None:
    began = time.monotonic()
    while not true():
        assert time.monotonic() - began < PATIENCE_S
        time.sleep(0.02)


def losses(folder: Path) -> list[float]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "total" in line] == list(range(1, SMALL["steps"] + 1))
    return [line["total"] for line in lines if "total" in line]


def first_evaluation(folder: Path) -> dict[str, Any]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return next(line["evaluation"] for line in lines if "evaluation" in line)


Found = dict[str, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def trained(toy_shards: Path, tmp_path_factory: pytest.TempPathFactory, start: Start) -> tuple[Path, Found]:
    """Runs on one rank with a batch of 2 and on two with 1; returns their folder and what each rank showed in them."""
    folder = tmp_path_factory.mktemp("runs")
    stills = {"variant": "conv", "images_per_clip": 1, "eval_split": "val"}
    alone = [
        entry(folder / "basic", toy_shards, batch=2),
        entry(folder / "conv", toy_shards, batch=2, **stills),
        entry(folder / "real", toy_shards, batch=2, smooth=False, lr=1e-5, variant="conv"),
        {**entry(folder / "one-then-two", toy_shards, batch=2), "stop_at": 2},
    ]
    together = [
        entry(folder / "basic-joined", toy_shards),
        entry(folder / "basic-sharded", toy_shards, shard_model=True),
        entry(folder / "conv-joined", toy_shards, **stills),
        entry(folder / "conv-sharded", toy_shards, shard_model=True, **stills),
        entry(folder / "real-joined", toy_shards, smooth=False, lr=1e-5, variant="conv"),
        {**entry(folder / "one-then-two", toy_shards), "resume": True, "stop_at": 3},
        {**entry(folder / "one-then-two", toy_shards, shard_model=True), "resume": True},
        {**entry(folder / "two-then-one", toy_shards, shard_model=True), "stop_at": 2},
    ]
    after = [{**entry(folder / "two-then-one", toy_shards, batch=2), "resume": True}]

    found: Found = {}

    def note(name: str, result: dict[str, Any]) -> None:
        found.setdefault(name, []).append(result)

    for plan in alone:
        note(Path(plan["folder"]).name, on_ranks.work(Ranks(), plan))
    for child in start(lambda: on_ranks.main(together)):
        assert (child.wait(), child.err.read_text()) == (0, "")
        for line in child.out.read_text().splitlines():
            result = json.loads(line)
            note(result["name"], result)
    for plan in after:
        note(Path(plan["folder"]).name, on_ranks.work(Ranks(), plan))
    return folder, found


# -------------------------------------------------------------------------------------------------- the same as on one


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["joined", "sharded"])
@pytest.mark.parametrize("variant", ["basic", "conv"])
def test_two_ranks_train_as_one_with_the_double_batch(variant: str, kind: str, trained: tuple[Path, Found]) -> None:
    """With accumulation and, in conv, images beside the windows; weights, averages and moments as well as losses."""
    folder, found = trained
    assert losses(folder / f"{variant}-{kind}") == pytest.approx(losses(folder / variant), rel=TOLERANCE)
    alone, first, second = (*found[variant], *found[f"{variant}-{kind}"])
    both = {tuple(shown) for shown in first["shown"] + second["shown"]}
    assert {tuple(shown) for shown in alone["shown"]} == both  # sample for sample, though the clips' lengths are odd
    assert len(first["shown"]) == len(second["shown"])
    ours, theirs = (checkpoint.load(path / "last.pt") for path in (folder / f"{variant}-{kind}", folder / variant))
    assert list(ours["model"]) == list(theirs["model"])
    assert {type(value) for value in ours["model"].values()} == {torch.Tensor}
    for part in ("model", "average"):
        for name, value in theirs[part].items():
            torch.testing.assert_close(ours[part][name], value, rtol=1e-2, atol=2 * SMALL["steps"] * SMALL["lr"])
    for number, moments in theirs["optimiser"]["state"].items():
        mine = ours["optimiser"]["state"][number]
        assert {name: value.shape for name, value in mine.items()} == {n: value.shape for n, value in moments.items()}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["joined", "sharded"])
def test_two_ranks_share_an_evaluation(kind: str, trained: tuple[Path, Found]) -> None:
    """Of the weights it begins with, which are the same to the last bit, as the figures are then."""
    folder, _ = trained
    assert first_evaluation(folder / f"conv-{kind}") == first_evaluation(folder / "conv")
    assert list((folder / f"conv-{kind}").glob("gallery-*.npz"))
    assert (folder / f"conv-{kind}" / "evaluation.json").is_file()


@pytest.mark.slow
def test_the_loss_of_the_published_model_stays_close(trained: tuple[Path, Found]) -> None:
    folder, _ = trained
    ours, theirs = losses(folder / "real-joined"), losses(folder / "real")
    assert ours == pytest.approx(theirs, rel=REAL_TOLERANCE)
    assert ours[0] == pytest.approx(theirs[0], rel=1e-6)


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_ranks(trained: tuple[Path, Found]) -> None:
    """Of one rank to two, joined and then sharded, and back: samples in the same order, the same losses."""
    folder, found = trained
    windows = 2 * SMALL["accumulate"]  # of a step
    whole = [tuple(shown) for shown in found["basic"][0]["shown"]]

    results = found["one-then-two"]
    assert [result["step"] for result in results] == [2, 4, 6, 4, 6]  # what was done; then the second rank's
    parts = [results[0]["shown"][: 2 * windows]]
    for mine, theirs in ((results[1], results[3]), (results[2], results[4])):
        parts.append(sorted(mine["shown"][:windows] + theirs["shown"][:windows]))
    assert [tuple(shown) for part in parts for shown in part] == whole[: 6 * windows]
    assert [position for position, _ in results[3]["shown"]][:windows] == [9, 11, 13, 15]
    assert losses(folder / "one-then-two") == pytest.approx(losses(folder / "basic"), rel=TOLERANCE)

    first, second, alone = found["two-then-one"]
    assert (first["step"], second["step"], alone["step"]) == (3, 3, 6)  # the other hears of it a step later
    assert first["said"].startswith(f"{folder / 'two-then-one'}: saved and left as another rank was asked to, 3 of 6")
    assert [tuple(shown) for shown in alone["shown"]] == whole[3 * windows :]
    assert losses(folder / "two-then-one") == pytest.approx(losses(folder / "basic"), rel=TOLERANCE)


# ------------------------------------------------------------------------------------------------------ one is gone


def arguments(shards: Path, folder: Path) -> tuple[object, ...]:
    """Return the command line of a run that does not end in the time of a test."""
    options = {**SMALL, "steps": 100_000, "eval_every": 100_000, "save_every": 20, "batch": 1}
    del options["eval_split"]  # of a file for --config alone
    given = [part for name, value in options.items() for part in (f"--{name.replace('_', '-')}", value)]
    return ("run", "--shards", shards, "--out", folder, *given)


@pytest.mark.slow
def test_ranks_leave_together_and_end_together(toy_shards: Path, tmp_path: Path, start: Start) -> None:
    """Asked to leave, a rank takes the other along and the run is saved; killed, it ends the other with a sentence."""
    folder = tmp_path / "run"
    first, second = start(command_line(*arguments(toy_shards, folder)))
    wait_until(lambda: (folder / "step-000000.pt").exists() or first.poll() is not None)
    second.send(signal.SIGTERM)
    assert (first.wait(), second.wait()) == (0, 0), first.err.read_text()
    assert "saved and left as another rank was asked to, " in first.err.read_text().splitlines()[-1]
    assert second.err.read_text() == ""
    saved = checkpoint.load(folder / "last.pt")["step"]

    first, second = start(command_line("run", "--resume", "--out", folder))
    wait_until(lambda: (folder / f"step-{saved:06d}.pt").exists() or first.poll() is not None)
    second.send(signal.SIGKILL)
    began = time.monotonic()
    assert first.wait() == 1
    assert time.monotonic() - began < 30
    said = first.err.read_text()
    assert said.splitlines()[-1].startswith(f"vdatrain: rank 1 (process {second.number} on ")
    assert said.splitlines()[-1].endswith("All ranks end; with --resume the run goes on from its last checkpoint.")
    assert "Traceback" not in said
    assert checkpoint.load(folder / "last.pt")["step"] >= saved


@pytest.mark.slow
def test_torchrun_ends_all_when_one_is_killed(toy_shards: Path, tmp_path: Path) -> None:
    folder, said = tmp_path / "run", tmp_path / "said"
    command = (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", 2, "--master-port", free_port())
    argv = [str(part) for part in (*command, "-m", "vdatrain", *arguments(toy_shards, folder))]
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with said.open("w") as file, subprocess.Popen(argv, env=variables, stdout=file, stderr=file) as agent:
        try:
            wait_until(lambda: (folder / "last.pt").exists() or agent.poll() is not None)
            ranks = workers_of(agent.pid)
            assert sorted(ranks) == ["0", "1"]
            os.kill(ranks["1"], signal.SIGKILL)
            began = time.monotonic()
            assert agent.wait(PATIENCE_S) == 1
            assert time.monotonic() - began < 30
        finally:
            agent.terminate()
    [sentence] = [line for line in said.read_text().splitlines() if line.startswith("vdatrain: rank 1 (process ")]
    assert sentence.startswith(f"vdatrain: rank 1 (process {ranks['1']} on ")
    assert not any(Path(f"/proc/{number}").exists() for number in ranks.values())


def workers_of(agent: int) -> dict[str, int]:
    """Return the processes that an agent of torchrun has started, by rank."""
    found: dict[str, int] = {}
    for child in Path(f"/proc/{agent}/task/{agent}/children").read_text().split():
        variables = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
        ranks = [value[5:].decode() for value in variables if value.startswith(b"RANK=")]
        found.update({rank: int(child) for rank in ranks})
    return found


def test_an_error_on_one_rank_ends_all(toy_shards: Path, tmp_path: Path, start: Start) -> None:
    """Also before the training: only the first rank looks into the folder of the run."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    first, second = start(command_line(*arguments(toy_shards, folder)))
    assert (first.wait(), second.wait()) == (2, 1)
    sentence = f"{folder}: holds a run; give --resume to go on with it, or another --out."
    assert first.err.read_text() == f"vdatrain: {sentence}\n"
    assert second.err.read_text().startswith(f"vdatrain: rank 0 ended: {sentence}")
