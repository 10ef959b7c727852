"""`vdatrain run` on several ranks: the same training as on one, and an end for all when one of them is gone."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.fsdp  # noqa: F401 - seconds, here rather than in every child

from tests.distributed import on_ranks
from tests.distributed.forked import PATIENCE_S, Child, fork, free_port, wait_until
from vdatrain import cli
from vdatrain.distributed.ranks import Ranks
from vdatrain.distributed.watchdog import Heartbeat
from vdatrain.models import tensor_files

ROOT = Path(__file__).parents[2]
SMALL = {"encoder": "tiny", "frames": 2, "size": 28, "steps": 6, "warmup": 1, "ema": 0.5, "workers": 1}
SMALL |= {"eval_split": "none", "log_every": 1, "eval_every": 100, "track": "none", "accumulate": 2, "lr": 1e-4}
TOLERANCE = 1e-9  # of losses in float64, relative; see `on_ranks.in_float64`
TOLERANCE_FLOAT32 = 5e-3  # of losses over so few steps at this rate


def entry(folder: Path, shards: Path, *, exact: bool = True, **options: object) -> dict[str, Any]:
    return {"folder": str(folder), "exact": exact, "options": {**SMALL, "shards": str(shards), **options}}


Start = Callable[..., list[Child]]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Do the same as each of two ranks, or more; what is left of them in the end is killed."""
    children: list[Child] = []

    def begin(work: Callable[[], object], *, ranks: int = 2) -> list[Child]:
        folder = tmp_path_factory.mktemp("ranks")
        meeting = {"WORLD_SIZE": ranks, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
        new = [fork(work, folder, rank, {"RANK": rank, **meeting}) for rank in range(ranks)]
        children.extend(new)
        return new

    yield begin
    for child in children:
        child.kill()


def command_line(*argv: object) -> Callable[[], None]:
    def work() -> None:
        sys.argv = ["vdatrain", *map(str, argv)]
        cli.main()

    return work


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
    """Runs with global batches of 2 on one rank and two, of 4 on one and four; returns what each rank showed."""
    folder = tmp_path_factory.mktemp("runs")
    stills = {"variant": "conv", "images_per_clip": 1, "eval_split": "val"}
    wide = {"variant": "conv", "images_per_clip": 1}
    buckets = {"variant": "conv", "frames": 8, "size": 56, "aspect": "native", "short_clips": "bucket"}
    alone = [
        entry(folder / "basic", toy_shards, batch=2),
        entry(folder / "conv", toy_shards, batch=2, **stills),
        entry(folder / "wide", toy_shards, batch=4, **wide),
        entry(folder / "buckets", toy_shards, batch=2, **buckets),
        entry(folder / "rounded", toy_shards, batch=2, exact=False, lr=1e-5, variant="conv"),
        {**entry(folder / "one-then-two", toy_shards, batch=2), "stop_at": 2},
    ]
    together = [
        entry(folder / "basic-joined", toy_shards),
        entry(folder / "basic-sharded", toy_shards, shard_model=True),
        entry(folder / "conv-joined", toy_shards, **stills),
        entry(folder / "conv-sharded", toy_shards, shard_model=True, **stills),
        entry(folder / "buckets-joined", toy_shards, **buckets),
        entry(folder / "buckets-sharded", toy_shards, shard_model=True, **buckets),
        entry(folder / "rounded-joined", toy_shards, exact=False, lr=1e-5, variant="conv"),
        {**entry(folder / "one-then-two", toy_shards), "resume": True, "stop_at": 3},
        {**entry(folder / "one-then-two", toy_shards, shard_model=True), "resume": True},
        {**entry(folder / "two-then-one", toy_shards, shard_model=True), "stop_at": 2},
    ]
    by_four = [entry(folder / "wide-joined", toy_shards, **wide)]
    after = [{**entry(folder / "two-then-one", toy_shards, batch=2), "resume": True}]

    found: Found = {}

    def note(name: str, result: dict[str, Any]) -> None:
        found.setdefault(name, []).append(result)

    for plan in alone:
        note(Path(plan["folder"]).name, on_ranks.work(Ranks(), plan))
    for plans, ranks in ((together, 2), (by_four, 4)):
        for child in start(lambda plans=plans: on_ranks.main(plans), ranks=ranks):
            assert (child.wait(), child.err.read_text()) == (0, "")
            for line in child.out.read_text().splitlines():
                result = json.loads(line)
                note(result["name"], result)
    for plan in after:
        note(Path(plan["folder"]).name, on_ranks.work(Ranks(), plan))
    return folder, found


# -------------------------------------------------------------------------------------------------- the same as on one


def batches(shown: list[list[Any]], *, ranks: int) -> list[set[tuple[Any, ...]]]:
    """Return what was shown in each global batch."""
    assert len(shown) == ranks
    assert len({len(part) for part in shown}) == 1
    count = SMALL["steps"] * SMALL["accumulate"]
    size = len(shown[0]) // count
    assert size * count == len(shown[0])
    return [{tuple(one) for part in shown for one in part[n * size : (n + 1) * size]} for n in range(count)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("alone", "apart", "ranks"),
    [
        ("basic", "basic-joined", 2),
        ("basic", "basic-sharded", 2),
        ("conv", "conv-joined", 2),
        ("conv", "conv-sharded", 2),
        ("wide", "wide-joined", 4),
        ("buckets", "buckets-joined", 2),
        ("buckets", "buckets-sharded", 2),
    ],
)
def test_ranks_train_as_one_with_their_batches_together(
    alone: str, apart: str, ranks: int, trained: tuple[Path, Found]
) -> None:
    """With accumulation and, but for basic, images beside the windows; the clips' lengths are odd."""
    folder, found = trained
    assert losses(folder / apart) == pytest.approx(losses(folder / alone), rel=TOLERANCE)
    whole = batches([found[alone][0]["shown"]], ranks=1)
    assert batches([one["shown"] for one in found[apart]], ranks=ranks) == whole
    ours, theirs = (tensor_files.load(folder / name / "last.pt") for name in (apart, alone))
    assert list(ours["model"]) == list(theirs["model"])
    assert {type(value) for value in ours["model"].values()} == {torch.Tensor}
    for part in ("model", "average"):
        assert_alike(ours[part], theirs[part])
    assert len(ours["optimiser"]["state"]) == len(theirs["optimiser"]["state"])
    for number, moments in theirs["optimiser"]["state"].items():
        assert_alike(ours["optimiser"]["state"][number], moments)


def assert_alike(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    """Adam divides by what is next to nothing where a weight makes no difference, so the bound is absolute."""
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        assert value.dtype == torch.float64 or name == "step"
        torch.testing.assert_close(ours[name], value, rtol=0, atol=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["joined", "sharded"])
def test_two_ranks_share_an_evaluation(kind: str, trained: tuple[Path, Found]) -> None:
    """Of the weights it begins with, which are the same to the last bit, as the figures are then."""
    folder, _ = trained
    assert first_evaluation(folder / f"conv-{kind}") == first_evaluation(folder / "conv")
    assert list((folder / f"conv-{kind}").glob("gallery-*.npz"))
    assert (folder / f"conv-{kind}" / "evaluation.json").is_file()


@pytest.mark.slow
def test_in_float32_losses_stay_close(trained: tuple[Path, Found]) -> None:
    folder, _ = trained
    ours, theirs = losses(folder / "rounded-joined"), losses(folder / "rounded")
    assert ours == pytest.approx(theirs, rel=TOLERANCE_FLOAT32)
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
    assert (first["stopped"], first["step"]) == ("as another rank was asked to", 3)
    assert [tuple(shown) for shown in alone["shown"]] == whole[3 * windows :]
    assert losses(folder / "two-then-one") == pytest.approx(losses(folder / "basic"), rel=TOLERANCE)


@pytest.mark.slow
def test_ranks_compile_or_go_on_without(toy_shards: Path, tmp_path: Path, start: Start) -> None:
    """Where it fails on one rank, there or back, that one says so and computes the same as the other all the same."""
    toy = {"toy": True, **entry(tmp_path / "plain", toy_shards, exact=False, batch=2)}
    on_ranks.work(Ranks(), toy)
    plans = [
        {**entry(tmp_path / name, toy_shards, exact=False, compile=True), "toy": True, "fails": name}
        for name in ("nowhere", "there", "back")
    ]
    first, second = start(lambda: on_ranks.main(plans))
    assert (first.wait(), second.wait()) == (0, 0), first.err.read_text() + second.err.read_text()
    for plan in plans:
        assert losses(Path(plan["folder"])) == pytest.approx(losses(tmp_path / "plain"), rel=1e-5)
    said = [[line for line in child.err.read_text().splitlines() if "--compile" in line] for child in (first, second)]
    assert [len(lines) for lines in said] == [0, 2]
    for line in said[1]:
        assert line.startswith("vdatrain, rank 1: --compile: torch.compile failed (")
        assert line.endswith("; the run goes on without it.")


# ------------------------------------------------------------------------------------------------------ one is gone


def arguments(shards: Path, folder: Path) -> tuple[object, ...]:
    """Return the command line of a run that does not end in the time of a test."""
    options = {**SMALL, "steps": 100_000, "eval_every": 100_000, "save_every": 20, "batch": 1}
    del options["eval_split"]  # of a file for --config alone
    given = [part for name, value in options.items() for part in (f"--{name.replace('_', '-')}", value)]
    return ("run", "--shards", shards, "--out", folder, *given)


def has_gone_on(folder: Path, step: int) -> bool:
    """Tell whether a checkpoint was written after that of a step, which then bears its number, or a later one's has."""
    return any(int(path.stem.removeprefix("step-")) >= step for path in folder.glob("step-*.pt"))


@pytest.mark.slow
def test_ranks_leave_together_and_end_together(toy_shards: Path, tmp_path: Path, start: Start) -> None:
    """Asked to leave, a rank takes the other along and the run is saved; killed, it ends the other with a sentence.

    Left alone they would go on for hours. What a rank waits for before it ends is below half a minute in all.
    """
    pulse = Heartbeat()
    assert max(pulse.silence_s, pulse.suspected_s) + pulse.farewell_s + 5 * pulse.beat_s < 30
    folder = tmp_path / "run"
    first, second = start(command_line(*arguments(toy_shards, folder)))
    wait_until(lambda: has_gone_on(folder, 0) or first.poll() is not None)
    second.send(signal.SIGTERM)
    assert (first.wait(), second.wait()) == (0, 0), first.err.read_text()
    assert "saved and left as another rank was asked to, " in first.err.read_text().splitlines()[-1]
    assert second.err.read_text() == ""
    saved = tensor_files.load(folder / "last.pt")["step"]

    first, second = start(command_line("run", "--resume", "--out", folder))
    wait_until(lambda: has_gone_on(folder, saved) or first.poll() is not None)
    second.send(signal.SIGKILL)
    assert first.wait() == 1
    said = first.err.read_text()
    assert said.splitlines()[-1].startswith(f"vdatrain: rank 1 (process {second.number} on ")
    assert said.splitlines()[-1].endswith("All ranks end; with --resume the run goes on from its last checkpoint.")
    assert "Traceback" not in said
    assert tensor_files.load(folder / "last.pt")["step"] >= saved


@contextmanager
def torchrun(said: Path, *words: object) -> Iterator[subprocess.Popen[bytes]]:
    """Start torchrun with two ranks; `words` are its options and what it runs, and go to `said` what they say."""
    argv = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", *map(str, words)]
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with said.open("w") as file, subprocess.Popen(argv, env=variables, stdout=file, stderr=file) as agent:
        try:
            yield agent
        finally:
            agent.terminate()


@pytest.mark.slow
def test_torchrun_ends_all_when_one_is_killed(toy_shards: Path, tmp_path: Path) -> None:
    folder, said = tmp_path / "run", tmp_path / "said"
    with torchrun(said, "--master-port", free_port(), "-m", "vdatrain", *arguments(toy_shards, folder)) as agent:
        wait_until(lambda: (folder / "last.pt").exists() or agent.poll() is not None)
        ranks = workers_of(agent.pid)
        assert sorted(ranks) == ["0", "1"]
        os.kill(ranks["1"], signal.SIGKILL)
        assert agent.wait(PATIENCE_S) == 1
    [sentence] = [line for line in said.read_text().splitlines() if line.startswith("vdatrain: rank 1 (process ")]
    assert sentence.startswith(f"vdatrain: rank 1 (process {ranks['1']} on ")
    assert not any(Path(f"/proc/{number}").exists() for number in ranks.values())


@pytest.mark.slow
@pytest.mark.parametrize(("meeting", "killed"), [("static", "1"), ("standalone", "0")])
def test_ranks_that_torchrun_starts_again_go_on_with_their_run(
    meeting: str, killed: str, toy_shards: Path, tmp_path: Path
) -> None:
    """The same command, without --resume: neither the folder's lock nor the run in it is a stranger's."""
    folder, said = tmp_path / "run", tmp_path / "said"
    how = ("--standalone",) if meeting == "standalone" else ("--master-port", free_port())
    with torchrun(said, *how, "--max-restarts", 1, "-m", "vdatrain", *arguments(toy_shards, folder)) as agent:
        wait_until(lambda: has_gone_on(folder, 0) or agent.poll() is not None)
        ranks = workers_of(agent.pid)
        os.kill(ranks[killed], signal.SIGKILL)
        wait_until(lambda: not any(Path(f"/proc/{number}").exists() for number in ranks.values()))
        saved = tensor_files.load(folder / "last.pt")["step"]
        wait_until(lambda: has_gone_on(folder, saved) or agent.poll() is not None)
        assert agent.poll() is None, said.read_text()
        again = workers_of(agent.pid)
        assert not set(again.values()) & set(ranks.values())
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    steps = [line["step"] for line in lines if "total" in line]
    assert steps == list(range(1, len(steps) + 1))
    assert len(steps) > saved > 0
    assert sum("evaluation" in line for line in lines) == 1  # that of step 0


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
    assert second.err.read_text().startswith(f"vdatrain: rank 0 on {socket.gethostname()} ended: {sentence}")
