"""The folder of a run: one process at a time, one run in it, and what may change when it is resumed."""

import dataclasses
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import Run
from tests.integration.conftest import end_of, refused, start
from vdaprep.errors import UsageError
from vdatrain.config import CHANGEABLE, TrainConfig, option_name
from vdatrain.models import tensor_files
from vdatrain.run_dir import owned
from vdatrain.training.trainer import train

OPTIONS = (
    "--encoder", "tiny", "--frames", 2, "--size", 28, "--batch", 1, "--steps", 3, "--warmup", 1, "--ema", 0.5,
    "--log-every", 1, "--eval-every", 50, "--eval-windows", 1, "--workers", 1, "--track", "none",
)  # fmt: skip


@pytest.fixture(scope="module")
def finished(toy_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["vdatrain", "run", "--shards", str(toy_shards), "--out", str(folder), *texts()])
        from vdatrain import cli

        with pytest.raises(SystemExit) as exit_:
            cli.main()
    assert not exit_.value.code
    return folder


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished run that can be changed."""
    return shutil.copytree(finished, tmp_path / "run")


def texts() -> list[str]:
    return [str(word) for word in OPTIONS]


def losses(folder: Path) -> dict[int, float]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return {line["step"]: line["total"] for line in lines if "total" in line}


# ---------------------------------------------------------------------------------------------------- one owner a time


@contextmanager
def owner(folder: Path) -> Generator[subprocess.Popen[str]]:
    """Let another process train in a folder, as far as anybody can see."""
    program = (
        "import pathlib, sys\n"
        "from vdatrain.run_dir import owned\n"
        "with owned(pathlib.Path(sys.argv[1])):\n"
        "    print('ready', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", program, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
        if process.poll() is None:
            process.kill()


@pytest.mark.parametrize(
    "place",
    [
        lambda folder: folder,
        lambda folder: f"{folder}/",
        lambda folder: folder / ".." / folder.name,
        lambda folder: linked(folder),
    ],
    ids=["same", "slash", "dots", "link"],
)
@pytest.mark.parametrize("resume", [True, False])
def test_a_second_process_is_refused(
    place: Callable[[Path], object], resume: bool, run: Path, toy_shards: Path, vdatrain: Run
) -> None:
    before = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}
    words = ("--resume",) if resume else ("--shards", toy_shards, *OPTIONS)
    with owner(run) as other:
        result = vdatrain("run", "--out", place(run), *words)
        assert result.code == 2
        assert result.err.count("\n") == 1
        assert "another vdatrain run is training there (process " in result.err
        assert f"process {other.pid} of " in result.err
        assert ", since 20" in result.err
    assert {name: (run / name).read_bytes() for name in before} == before


def linked(folder: Path) -> Path:
    link = folder.with_name("link")
    link.symlink_to(folder)
    return link


@pytest.mark.slow
def test_a_killed_owner_is_none(run: Path, vdatrain: Run) -> None:
    with owner(run) as other:
        other.send_signal(signal.SIGKILL)
        other.wait()
        assert (run / ".vdatrain-lock").exists()
        assert vdatrain("run", "--out", run, "--resume").code == 0
    assert not (run / ".vdatrain-lock").exists()


def test_the_library_takes_the_same_lock(run: Path, toy_shards: Path) -> None:
    config = TrainConfig(shards=str(toy_shards), encoder="tiny", frames=2, size=28)
    with owned(run), pytest.raises(UsageError, match="another vdatrain run is training there"):
        train(config, out=run)


@pytest.mark.slow
def test_two_that_begin_at_once_are_one(toy_shards: Path, tmp_path: Path) -> None:
    """Whoever comes second ends with a sentence, whether the other is at its beginning or done; nothing is mixed."""
    out = tmp_path / "runs" / "same"
    words = ("run", "--shards", toy_shards, "--out", out, *OPTIONS)
    said = [tmp_path / "said-0", tmp_path / "said-1"]
    children = [start((*words, "--seed", seed), stderr=said[seed]) for seed in (0, 1)]
    codes = [end_of(child) for child in children]
    assert sorted(codes) == [0, 2]
    kept, refused = codes.index(0), codes.index(2)
    last = said[refused].read_text().splitlines()[-1]
    assert "another vdatrain run is training there" in last or "holds a run; give --resume" in last
    assert json.loads((out / "config.json").read_text())["config"]["seed"] == kept
    assert tensor_files.load(out / "last.pt")["config"]["seed"] == kept


def test_what_fails_at_once_leaves_no_folder(tmp_path: Path, vdatrain: Run) -> None:
    assert vdatrain("run", "--shards", tmp_path / "none", "--out", tmp_path / "run", *OPTIONS).code == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_a_folder_that_cannot_be_made_is_a_sentence(
    place: str, toy_shards: Path, tmp_path: Path, vdatrain: Run
) -> None:
    (tmp_path / "file").write_text("mine")
    result = vdatrain("run", "--shards", toy_shards, "--out", tmp_path / place, *OPTIONS)
    assert result.code in (1, 2)
    assert str(tmp_path / "file") in result.err.splitlines()[-1]
    assert (tmp_path / "file").read_text() == "mine"


# ------------------------------------------------------------------------------------------------- one run in a folder


def edit(name: str, value: object) -> Callable[[Path], object]:
    """Return what gives an option of config.json another value."""

    def change(folder: Path) -> None:
        facts = json.loads((folder / "config.json").read_text())
        facts["config"][name] = value
        (folder / "config.json").write_text(json.dumps(facts))

    return change


def overwrite(text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / "config.json").write_text(text)


def drop(*names: str) -> Callable[[Path], object]:
    """Return what takes parts out of last.pt."""

    def change(folder: Path) -> None:
        state = tensor_files.load(folder / "last.pt")
        tensor_files.save(folder / "last.pt", {name: value for name, value in state.items() if name not in names})

    return change


def put(**values: object) -> Callable[[Path], object]:
    """Return what gives parts of last.pt other contents."""

    def change(folder: Path) -> None:
        state = tensor_files.load(folder / "last.pt")
        torch.save({**state, **values}, folder / "last.pt")

    return change


def put_option(name: str, value: object) -> Callable[[Path], object]:
    """Return what gives an option in last.pt another value."""

    def change(folder: Path) -> None:
        state = tensor_files.load(folder / "last.pt")
        put(config={**state["config"], name: value})(folder)

    return change


def cycle() -> list[object]:
    found: list[object] = []
    found.append(found)
    return found


MIXED = {
    **{
        f"config.json says another {name}": (edit(name, value), f"changes {option_name(name)} ")
        for name, value in {
            "seed": 7, "lr": 0.5, "frames": 3, "variant": "conv", "encoder": "vits", "warmup": 2, "ema": 0.9,
            "stride": 2, "mix": "tartanair=2", "precision": "bf16", "preset": "paper", "train_split": "val",
            "weight_decay": 0.5, "clip": 3.0, "order": "sequential", "eval_every": 49, "size": 42,
        }.items()
    },
    "bare weights as last.pt": (drop("optimiser", "step"), "is no whole state of a run, it lacks"),
    "a last.pt without options": (drop("config"), "is no whole state of a run, it lacks config"),
    "a list of options": (put(config=["seed", 1]), "is no whole state of a run, it lacks config"),
    "a step that is text": (put(step="three"), "is no whole state of a run, it lacks step"),
    "a position that is a tensor": (put(position=torch.ones(3)), "is no whole state of a run, it lacks position"),
    "an optimiser of something else": (put(optimiser={"state": {}}), "holds no state that this run can go on from"),
    "figures of something else": (put(meter=[1, 2]), "is no whole state of a run, it lacks meter"),
    "an encoder in itself": (put_option("encoder", cycle()), "begin the run again elsewhere"),
    "an encoder without end": (put_option("encoder", "x" * 10**6), "last.pt"),
    "an encoder that is a tensor": (put_option("encoder", torch.ones(10)), "last.pt"),
    "a million frames": (put_option("frames", 10**6), "last.pt: holds options that no run has (--frames 1000000: "),
    "an option of none": (put_option("colour", "red"), 'last.pt: holds options that no run has (there is no option "c'),
    "options of no shards": (put_option("shards", ""), "last.pt: holds options that no run has (--shards is missing"),
    "a number as config.json": (overwrite("3"), "config.json: holds JSON's 3, expected a JSON object"),
    "a list": (overwrite("[1, 2]"), "config.json: holds a JSON list"),
    "options that cannot be": (edit("frames", 0), "config.json: holds options that no run has (--frames 0: expected"),
    "no options": (overwrite('{"data": "x"}'), "config is missing, expected an object"),
    "options of another type": (overwrite('{"data": "x", "config": "conv"}'), "config is \"conv\", expected an object"),
    "deep nesting": (overwrite("[" * 100_000 + "]" * 100_000), "config.json: is nested deeper"),
    "an unknown option": (edit("colour", "red"), 'there is no option "colour"'),
    "a value of another type": (edit("seed", "seven"), 'seed is "seven", expected int'),
    "a value that cannot be": (edit("frames", -1), "--frames -1: expected at least 1"),
    "a number beyond all bounds": (edit("lr", 10**400), "a whole number of 1329 bits, which is no finite number"),
    "no checksum of data": (overwrite('{"config": {}, "data": 7}'), "data is 7, expected text"),
    "UTF-16": (lambda folder: (folder / "config.json").write_bytes("{}".encode("utf-16")), "is UTF-16, expected text"),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("change", "sentence"), MIXED.values(), ids=MIXED)
def test_a_mix_of_two_runs_is_refused(
    change: Callable[[Path], object], sentence: str, run: Path, vdatrain: Run
) -> None:
    for earlier in run.glob("step-*.pt"):  # what a damaged last.pt falls back to
        earlier.unlink()
    change(run)
    before = (run / "last.pt").read_bytes()
    result = vdatrain("run", "--out", run, "--resume")
    refused(result, 1, str(run), sentence)
    assert (run / "last.pt").read_bytes() == before


# ---------------------------------------------------------------------------------------------------- what may change


OTHER: dict[str, Any] = {
    "variant": "conv", "encoder": "vits", "init": "dinov2", "preset": "paper", "precision": "bf16",
    "order": "sequential", "recompute": "head", "lr": 0.5, "ema": 0.25, "size": 42, "mix": "tartanair=2",
    "track": "wandb", "cache": "there", "cache_size": "1GB", "cache_free": "2GB", "device": "cpu",
    "shards": "elsewhere", "train_split": "val", "licence": "commercial",
    "eval_split": "train", "final": "last", "differences": "past", "attention": "causal", "task": "metric",
    "images": "elsewhere", "aspect": "native", "short_clips": "bucket",
}  # fmt: skip


@pytest.mark.parametrize("name", [item.name for item in dataclasses.fields(TrainConfig)])
def test_each_option_may_change_or_is_refused_by_name(name: str) -> None:
    config = TrainConfig(shards="shards", encoder="tiny")
    now = getattr(config, name)
    other = OTHER[name] if name in OTHER else not now if isinstance(now, bool) else now + 1
    assert other != now
    if name in CHANGEABLE:
        assert getattr(config.changed({name: other}), name) == other
    else:
        with pytest.raises(UsageError, match=f"leave out what would change {option_name(name)} "):
            config.changed({name: other})


def test_help_lists_what_may_change(vdatrain: Run) -> None:
    shown = " ".join(vdatrain("run", "--help").out.split()).replace(
        "- ", "-"
    )  # where an option breaks at the end of a line
    listed = shown.partition("What may change then: ")[2].partition(" (steps: more only)")[0]
    assert set(listed.split(", ")) == {option_name(name) for name in CHANGEABLE}


@pytest.mark.slow
def test_a_run_is_lengthened(run: Path, finished: Path, vdatrain: Run) -> None:
    """Also once it was finished: what was logged stays, and the schedule has another end, which is said."""
    result = vdatrain("run", "--out", run, "--resume", "--steps", 6)
    assert result.code == 0
    assert f"{run}: 3 steps become 6, so the learning rate falls until step 6: at step 3 it is " in result.err
    assert list(losses(run)) == [1, 2, 3, 4, 5, 6]
    assert {step: loss for step, loss in losses(run).items() if step <= 3} == losses(finished)
    assert json.loads((run / "config.json").read_text())["config"]["steps"] == 6
    assert tensor_files.load(run / "last.pt")["step"] == 6
    again = vdatrain("run", "--out", run, "--resume")
    assert (again.code, "steps become" in again.err) == (0, False)


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (("--steps", 2), 2, "--steps 2: the run has 3 steps, and --resume makes it longer, never shorter"),
        (("--steps", 6, "--seed", 1), 2, "leave out what would change --seed 0 to 1"),
        (("--frames", 3, "--steps", 2), 2, "leave out what would change --frames 2 to 3"),
        (("--config", "{file}"), 2, "leave out what would change --lr None to 0.25"),
    ],
)
def test_what_resuming_refuses(
    words: tuple[object, ...], code: int, sentence: str, run: Path, tmp_path: Path, vdatrain: Run
) -> None:
    """Options from a file count as those of the command line do."""
    file = tmp_path / "options.toml"
    file.write_text("lr = 0.25\n")
    result = vdatrain("run", "--out", run, "--resume", *(str(word).format(file=file) for word in words))
    assert (result.code, result.err.count("\n")) == (code, 1)
    assert sentence in result.err


def test_the_library_refuses_what_the_command_line_refuses(run: Path) -> None:
    stored = json.loads((run / "config.json").read_text())["config"]
    with pytest.raises(UsageError, match="leave out what would change --seed 0 to 4"):
        train(TrainConfig(**{**stored, "seed": 4}), out=run, resume=True)
    assert json.loads((run / "config.json").read_text())["config"] == stored


@pytest.mark.parametrize("place", ["shards/tartanair", "shards/tartanair/val", "shards/tartanair/runs/x", "link/x"])
def test_a_run_adds_nothing_to_a_data_set(place: str, toy_shards: Path, tmp_path: Path, vdatrain: Run) -> None:
    shards = shutil.copytree(toy_shards, tmp_path / "shards")
    (tmp_path / "link").symlink_to(shards / "tartanair")
    before = sorted(shards.rglob("*"))
    result = vdatrain("run", "--shards", shards, "--out", tmp_path / place, *OPTIONS)
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert str(tmp_path / place) in result.err
    assert sorted(shards.rglob("*")) == before


# ------------------------------------------------------------------------------------------- what cannot be written


def folder_at(name: str) -> Callable[[Path], object]:
    """Return what puts a folder where a run wants to write a file."""
    return lambda folder: (folder / name / "mine").mkdir(parents=True)


UNWRITABLE = {
    "a full disk for the log": (lambda folder: (folder / "log.jsonl").symlink_to("/dev/full"), "log.jsonl: cannot be"),
    "log.jsonl": (folder_at("log.jsonl"), "log.jsonl: cannot be written"),
    "last.pt": (folder_at("last.pt"), "next.pt: the system refuses it (Is a directory)"),
    "next.pt": (folder_at("next.pt"), "next.pt: cannot be written"),
    "best.pt": (folder_at("best.pt"), "best.pt: cannot be written"),
    "evaluation.json": (folder_at("evaluation.json"), "evaluation.json: cannot be written"),
    "an earlier checkpoint": (folder_at("step-000000.pt"), "step-000000.pt: the system refuses it (Is a directory)"),
}


@pytest.mark.slow
@pytest.mark.parametrize(("spoil", "sentence"), UNWRITABLE.values(), ids=UNWRITABLE)
def test_what_a_run_cannot_write_is_a_sentence(
    spoil: Callable[[Path], object], sentence: str, toy_shards: Path, tmp_path: Path, vdatrain: Run
) -> None:
    (tmp_path / "run").mkdir()
    spoil(tmp_path / "run")
    result = vdatrain("run", "--shards", toy_shards, "--out", tmp_path / "run", *OPTIONS)
    assert result.code == 1
    assert sentence in result.err.splitlines()[-1]
    assert "Traceback" not in result.err
