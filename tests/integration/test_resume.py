"""`vdatrain run` that is killed, stopped, or finds its checkpoints damaged, and goes on as if nothing had been."""

import errno
import functools
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from tests.integration.conftest import end_of, start
from vdatrain import cli
from vdatrain.data import loader
from vdatrain.data.loader import TrainLoader
from vdatrain.models import tensor_files
from vdatrain.training import checkpoint, step, trainer
from vdatrain.training.state import TrainState

OPTIONS = (
    "--encoder", "tiny", "--frames", 2, "--size", 28, "--batch", 1, "--accumulate", 2, "--steps", 9, "--warmup", 2,
    "--ema", 0.5, "--log-every", 4, "--eval-every", 5, "--eval-windows", 1, "--save-every", 2, "--workers", 1,
    "--track", "none",
)  # fmt: skip
TIMED = ("frames_per_s", "waiting", "step_s", "memory_bytes", "mfu")  # what differs between two runs of the same


def arguments(shards: Path, folder: Path, *, variant: str = "conv") -> tuple[object, ...]:
    return ("run", "--shards", shards, "--variant", variant, "--out", folder, *OPTIONS)


def log(folder: Path) -> list[dict[str, object]]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in TIMED} for line in lines]


def check_equal(folder: Path, whole: Path) -> None:
    """Compare all that two finished runs left, to the last bit."""
    assert log(folder) == log(whole)
    for name in ("last.pt", "best.pt"):
        ours, theirs = tensor_files.load(folder / name), tensor_files.load(whole / name)
        assert ours["step"] == theirs["step"]
        for part in ("model", "average"):
            assert theirs[part]
            assert all(torch.equal(ours[part][key], value) for key, value in theirs[part].items())
    ours, theirs = (tensor_files.load(path / "last.pt") for path in (folder, whole))
    for number, moments in theirs["optimiser"]["state"].items():
        assert all(torch.equal(ours["optimiser"]["state"][number][key], value) for key, value in moments.items())
    assert ours["position"] == theirs["position"]
    ours, theirs = (json.loads((path / "evaluation.json").read_text()) for path in (folder, whole))
    assert ours == theirs


@dataclass(frozen=True)
class Whole:
    """A folder with finished runs of two variants that nothing interrupted; the processor's seconds of the second."""

    folder: Path
    cpu_s: float


@pytest.fixture(scope="module")
def whole(toy_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """Trained in this very process: what it imports on the way, its copies have got."""
    folder, cpu_s = tmp_path_factory.mktemp("whole"), 0.0
    for variant in ("basic", "conv"):
        began = time.process_time()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                sys, "argv", ["vdatrain", *map(str, arguments(toy_shards, folder / variant, variant=variant))]
            )
            with pytest.raises(SystemExit) as exit_:
                cli.main()
        assert not exit_.value.code
        cpu_s = time.process_time() - began
    return Whole(folder, cpu_s)


# --------------------------------------------------------------------------------------------------------- kill and go


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["basic", "conv"])
def test_a_run_killed_again_and_again_ends_as_if_it_had_not_been(
    variant: str, toy_shards: Path, whole: Whole, tmp_path: Path
) -> None:
    """The kernel ends it, at a time that counts the processor's work alone: however busy the machine, it comes."""
    folder, chance, killed = tmp_path / variant, random.Random(variant), 0
    argv = arguments(toy_shards, folder, variant=variant)
    for _ in range(3):
        after_s = chance.uniform(0.05, 0.25) * whole.cpu_s  # so that the second still finds more to do than that
        child = start(argv, before=functools.partial(signal.setitimer, signal.ITIMER_PROF, after_s))
        killed += end_of(child) == -signal.SIGPROF
        argv = ("run", "--out", folder, "--resume") if (folder / "config.json").exists() else argv
    assert killed > 1
    assert end_of(start(argv)) == 0
    check_equal(folder, whole.folder / variant)


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["first", "step", "save", "rename", "evaluation"])
def test_killed_at_the_worst_moment(moment: str, toy_shards: Path, whole: Whole, tmp_path: Path) -> None:
    """In the middle of a step, the first too, of the bytes of a checkpoint, between its two names, of an evaluation."""
    folder, calls = tmp_path / "run", 0

    def dies_at(call: int, module: object, name: str) -> None:
        real = getattr(module, name)

        def dies(*arguments: object, **options: object) -> object:
            nonlocal calls
            calls += 1
            if calls == call:
                if name == "save":
                    arguments[0].with_name("next.pt.vdaprep-tmp.pt").write_bytes(b"PK half of it")
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **options)

        setattr(module, name, dies)

    places = {
        "first": lambda: dies_at(2, step, "accumulate_gradient"),
        "step": lambda: dies_at(15, step, "accumulate_gradient"),
        "save": lambda: dies_at(4, tensor_files, "save"),
        "rename": lambda: dies_at(3, checkpoint, "_give_second_name"),
        "evaluation": lambda: dies_at(2, trainer, "evaluate_clips"),
    }
    child = start(arguments(toy_shards, folder), before=places[moment])
    assert end_of(child) == -signal.SIGKILL
    assert end_of(start(("run", "--out", folder, "--resume"))) == 0
    check_equal(folder, whole.folder / "conv")


@pytest.mark.slow
def test_a_run_that_never_saved_begins_again(toy_shards: Path, whole: Whole, vdatrain, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    child = start(arguments(toy_shards, folder), before=lambda: setattr(trainer, "evaluate_clips", die))
    assert end_of(child) == -signal.SIGKILL
    assert not (folder / "last.pt").exists()
    result = vdatrain("run", "--out", folder, "--resume")
    assert result.code == 0
    assert f"{folder}: holds no checkpoint yet, so the run begins again" in result.err
    check_equal(folder, whole.folder / "conv")


def die(*arguments: object, **options: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def wait_for(path: Path, *, patience_s: float = 600) -> None:
    began = time.monotonic()
    while not path.exists():
        assert time.monotonic() - began < patience_s
        time.sleep(0.01)


# ------------------------------------------------------------------------------------------------------ asked to leave


@pytest.fixture
def send(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Send signals to this process in the middle of a step."""
    real = trainer.train_step

    def arrange(*signals: int, at_step: int) -> None:
        def train_step(run: TrainState, feed: TrainLoader) -> None:
            if run.step == at_step:
                for number in signals:
                    os.kill(os.getpid(), number)
            real(run, feed)

        monkeypatch.setattr(trainer, "train_step", train_step)

    yield arrange
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_lets_the_step_end_saves_and_leaves(
    number: int, code: int, toy_shards: Path, whole: Whole, vdatrain, send, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    send(number, at_step=6)
    result = vdatrain(*arguments(toy_shards, folder))
    assert result.code == code
    last = result.err.splitlines()[-1]
    if number == signal.SIGTERM:
        assert last == (
            f"vdatrain: {folder}: saved and left after SIGTERM, 7 of 9 steps done; "
            f"vdatrain run --resume --out {folder} goes on."
        )
    else:
        assert last == "vdatrain: stopped; a run goes on from its last checkpoint with --resume."
    assert tensor_files.load(folder / "last.pt")["step"] == 7
    assert vdatrain("run", "--out", folder, "--resume").code == 0
    check_equal(folder, whole.folder / "conv")


@pytest.mark.slow
def test_the_second_ctrl_c_leaves_at_once(toy_shards: Path, vdatrain, send, tmp_path: Path) -> None:
    send(signal.SIGINT, signal.SIGINT, at_step=7)
    result = vdatrain(*arguments(toy_shards, tmp_path / "run"))
    assert result.code == 130
    assert result.err.splitlines()[-1].startswith("vdatrain: stopped; ")
    assert tensor_files.load(tmp_path / "run" / "last.pt")["step"] == 6


@pytest.mark.slow
def test_a_signal_during_an_evaluation_is_heard_between_two_windows(
    toy_shards: Path, whole: Whole, vdatrain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, real, calls = tmp_path / "run", trainer.evaluate_clips, 0

    def evaluate_clips(model, clips, plan, *, precision, on_window=lambda: None):
        nonlocal calls
        calls += 1

        def window() -> None:
            if calls == 2:
                os.kill(os.getpid(), signal.SIGTERM)
            on_window()

        return real(model, clips, plan, precision=precision, on_window=window)

    monkeypatch.setattr(trainer, "evaluate_clips", evaluate_clips)
    result = vdatrain(*arguments(toy_shards, folder))
    assert result.code == 0
    assert "5 of 9 steps done" in result.err
    assert tensor_files.load(folder / "last.pt")["evaluated"] == 0
    monkeypatch.undo()
    assert vdatrain("run", "--out", folder, "--resume").code == 0
    check_equal(folder, whole.folder / "conv")


@pytest.mark.slow
def test_sigterm_to_all_processes_of_a_run(toy_shards: Path, whole: Whole, vdatrain, tmp_path: Path) -> None:
    """As a scheduler sends it, to a command line of its own, which goes on with a step when it was sent."""
    folder, step_is_due, was_sent = (tmp_path / name for name in ("run", "due", "sent"))
    program = (
        "import pathlib, sys, time\n"
        "from vdatrain import cli\n"
        "from vdatrain.training import trainer\n"
        "due, sent, real = pathlib.Path(sys.argv.pop(1)), pathlib.Path(sys.argv.pop(1)), trainer.train_step\n"
        "def train_step(run, feed):\n"
        "    if run.step == 3:\n"
        "        due.touch()\n"
        "        while not sent.exists():\n"
        "            time.sleep(0.01)\n"
        "    real(run, feed)\n"
        "trainer.train_step = train_step\n"
        "cli.main()\n"
    )
    command = [sys.executable, "-c", program, step_is_due, was_sent, *map(str, arguments(toy_shards, folder))]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    wait_for(step_is_due)
    os.killpg(process.pid, signal.SIGTERM)
    was_sent.touch()
    _, said = process.communicate(timeout=600)
    assert process.returncode == 0
    assert "saved and left after SIGTERM" in said.splitlines()[-1]
    assert "Traceback" not in said
    assert vdatrain("run", "--out", folder, "--resume").code == 0
    check_equal(folder, whole.folder / "conv")


@pytest.mark.slow
def test_a_run_leaves_when_its_time_is_over(
    toy_shards: Path, whole: Whole, vdatrain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, real = tmp_path / "run", trainer.train_step

    def train_step(run: TrainState, feed: TrainLoader) -> None:
        if run.step == 4:
            time.sleep(1.01)  # the machine may be fast
        real(run, feed)

    monkeypatch.setattr(trainer, "train_step", train_step)
    result = vdatrain(*arguments(toy_shards, folder), "--time-limit", "1s")
    monkeypatch.undo()
    assert result.code == 0
    assert "saved and left at its time limit of 1 s, " in result.err.splitlines()[-1]
    result = vdatrain("run", "--out", folder, "--resume", "--time-limit", "2h")
    assert result.code == 0
    check_equal(folder, whole.folder / "conv")
    result = vdatrain("run", "--out", folder, "--resume", "--time-limit", "soon")
    assert result.code == 2
    assert "--time-limit soon: expected a time such as 11h30m" in result.err


# ----------------------------------------------------------------------------------------------- damage and full disks


@pytest.fixture(scope="module")
def left_early(whole: Whole, toy_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that left after step 7, with the checkpoint of step 6 beside that."""
    folder = tmp_path_factory.mktemp("left") / "run"

    def arrange() -> None:
        real = trainer.train_step

        def train_step(run: TrainState, feed: TrainLoader) -> None:
            if run.step == 6:
                os.kill(os.getpid(), signal.SIGTERM)
            real(run, feed)

        trainer.train_step = train_step

    assert end_of(start(arguments(toy_shards, folder), before=arrange)) == 0
    return folder


@pytest.fixture
def stopped(left_early: Path, tmp_path: Path) -> Path:
    """A copy of `left_early` that can be changed."""
    return shutil.copytree(left_early, tmp_path / "run")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5000])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


@pytest.mark.slow
@pytest.mark.parametrize("damage", [cut, flip, Path.unlink])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(
    damage: Callable[[Path], object], stopped: Path, whole: Whole, vdatrain
) -> None:
    assert {path.name for path in stopped.glob("*.pt")} == {"best.pt", "last.pt", "step-000006.pt"}
    damage(stopped / "last.pt")
    result = vdatrain("run", "--out", stopped, "--resume")
    assert result.code == 0
    said = [line for line in result.err.splitlines() if "last.pt: is no whole" in line]
    if damage is Path.unlink:
        assert not said
    else:
        assert len(said) == 1
        assert said[0].startswith(f"vdatrain: {stopped / 'last.pt'}: is no whole checkpoint of tensors (")
        assert said[0].endswith("; the run goes on from step-000006.pt, step 6.")
    check_equal(stopped, whole.folder / "conv")
    assert {path.name for path in stopped.glob("*.pt")} == {"best.pt", "last.pt", "step-000008.pt"}


def test_without_a_whole_checkpoint_nothing_goes_on(stopped: Path, vdatrain) -> None:
    for name in ("last.pt", "step-000006.pt"):
        cut(stopped / name)
    result = vdatrain("run", "--out", stopped, "--resume")
    assert result.code == 1
    assert "last.pt: is no whole checkpoint" in result.err
    assert "nor is any before it; begin the run again elsewhere" in result.err


@pytest.mark.slow
def test_a_full_disk_is_a_sentence_and_leaves_what_was_there(
    stopped: Path, whole: Whole, vdatrain, tmp_path: Path
) -> None:
    def fill() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, resource.RLIM_INFINITY))

    said = tmp_path / "said"
    assert end_of(start(("run", "--out", stopped, "--resume"), stderr=said, before=fill)) == 1
    last = said.read_text().splitlines()[-1]
    assert last.startswith(f"vdatrain: {stopped / 'next.pt'}: cannot be written ({os.strerror(errno.EFBIG)})")
    assert "Traceback" not in said.read_text()
    assert tensor_files.load(stopped / "last.pt")["step"] == 7
    assert not list(stopped.glob("*tmp*"))
    assert vdatrain("run", "--out", stopped, "--resume").code == 0
    check_equal(stopped, whole.folder / "conv")


# ----------------------------------------------------------------------------------------------------- what may change


def test_going_on_with_another_batch_keeps_the_order_of_windows(
    stopped: Path, toy_shards: Path, vdatrain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also from where the shards have moved to, with other workers, compiled or not: none of that is the run itself."""
    shown: list[int] = []
    real = loader.make_batch

    def make_batch(samples, *arguments: object, **options: object) -> object:
        shown.extend(sample.window.position for sample in samples)
        return real(samples, *arguments, **options)

    monkeypatch.setattr(loader, "make_batch", make_batch)
    moved = shutil.copytree(toy_shards, tmp_path / "moved")
    changed = ("--shards", moved, "--batch", 3, "--accumulate", 1, "--workers", 0, "--recompute", "all", "--keep", 3)
    result = vdatrain("run", "--out", stopped, "--resume", *changed)
    assert result.code == 0
    assert shown[: 2 * 3] == list(range(14, 14 + 2 * 3))
    facts = json.loads((stopped / "config.json").read_text())
    assert (facts["config"]["batch"], facts["config"]["shards"]) == (3, str(moved))
    steps = sorted(path.name for path in stopped.glob("step-*.pt"))
    assert steps == ["step-000006.pt", "step-000007.pt", "step-000008.pt"]
    result = vdatrain("run", "--out", stopped, "--resume", "--lr", 0.1, "--frames", 3)
    assert result.code == 2
    assert "leave out what would change --frames 2 to 3, --lr None to 0.1" in result.err


def test_a_run_says_what_it_was_computed_with(stopped: Path) -> None:
    facts = json.loads((stopped / "config.json").read_text())
    assert {"python", "torch", "numpy", "vdakit"} <= set(facts["versions"])
    assert facts["git"] is None or len(facts["git"]["commit"]) == 40
    assert tensor_files.load(stopped / "last.pt")["versions"] == facts["versions"]
