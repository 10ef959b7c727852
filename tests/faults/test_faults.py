"""Conversions and recodings that are killed, stopped and disturbed at any moment end as if they had not been."""

import contextlib
import fcntl
import os
import random
import shutil
import signal
import time
import zipfile
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.faults.faults import (
    SIGNALS,
    TRIES,
    Clean,
    Run,
    ended_cpu_s,
    expect_only_unfinished,
    files,
    finish,
    finished,
    leftovers,
)
from vdaprep.analysis.verify import verify
from vdaprep.raw import tree


@pytest.mark.slow
@pytest.mark.parametrize(
    ("workers", "clean"), [(1, "standard"), (2, "standard"), (2, "tiny"), (2, "recode")], indirect=["clean"]
)
def test_killed_at_random_moments(workers: int, clean: Clean, tmp_path: Path) -> None:
    """Ten kills each, of the first process alone or of all; a run that came to its end begins again."""
    rng = random.Random(workers)
    kills, before, longest_s = 0, dict[str, int](), clean.seconds[workers]
    while kills < 10:
        run = Run(clean.raw, tmp_path / "out", *clean.options, workers=workers, command=clean.command)
        time.sleep(rng.uniform(0.1, longest_s))
        if run.has_ended:
            assert run.end() == (0, "")
            assert clean.matches(tmp_path / "out")
            shutil.rmtree(tmp_path / "out")
            before, longest_s = {}, max(0.5, 0.8 * longest_s)  # the machine may be less busy than it was
            continue
        kills += 1
        (run.send_all if kills % 2 else run.send)(signal.SIGKILL)
        run.end()
        run.expect_gone()
        expect_only_unfinished(tmp_path / "out")
        now = finished(tmp_path / "out")
        assert {name: now[name] for name in before} == before, "a finished shard was written again"
        before = now
    finish(clean, clean.raw, tmp_path / "out")


@pytest.mark.slow
@pytest.mark.parametrize("clean", ["standard", "tiny"], indirect=True)
def test_killed_while_raw_data_is_consumed(clean: Clean, tmp_path: Path) -> None:
    """The raw data is there until its shards are whole: whatever moment it is, the end is the clean one."""
    rng = random.Random(3)
    raw = _pack(clean.raw, tmp_path / "raw")
    for kill in range(6):
        run = Run(raw, tmp_path / "out", *clean.options, "--consume", "--yes", workers=1 + kill % 2)
        time.sleep(rng.uniform(0.3, 1.1 * clean.seconds[2]))
        run.send_all(signal.SIGKILL)
        run.end()
        run.expect_gone()
        expect_only_unfinished(tmp_path / "out")
    finish(clean, raw, tmp_path / "out", "--consume", "--yes")
    assert [path for path in raw.rglob("*") if path.is_file()] == []
    finish(clean, raw, tmp_path / "out")


def _pack(raw: Path, out: Path) -> Path:
    """Lay the raw data out so that it can go bit by bit: folders, and archives of single trajectories."""
    easy = Path("abandonedfactory") / "Easy"
    shutil.copytree(raw / easy / "P000", out / easy / "P000")
    for name in ("P001", "P011"):
        for kind in ("image", "depth"):
            with zipfile.ZipFile(out / f"{name}_{kind}.zip", "w") as file:
                for path in sorted((raw / easy / name).rglob("*")):
                    if path.is_file() and (kind in path.parent.name or path.suffix == ".txt"):
                        file.write(path, path.relative_to(raw).as_posix())
    return out


@pytest.mark.slow
def test_a_part_that_was_killed_is_made_again(clean: Clean, tmp_path: Path) -> None:
    run = Run(clean.raw, tmp_path / "out", *clean.options, "--part", "1/2")
    assert run.reaches_shards(2)
    run.send_all(signal.SIGKILL)
    run.end()
    both = [Run(clean.raw, tmp_path / "out", *clean.options, "--part", f"{number}/2") for number in (1, 2)]
    assert [part.end()[0] for part in both] == [0, 0]
    assert "dataset.json" not in files(tmp_path / "out")
    finish(clean, clean.raw, tmp_path / "out", "--finish")


# ------------------------------------------------------------------------------------------------------------- signals


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "clean"), [(1, "standard"), (2, "standard"), (1, "tiny")], indirect=["clean"])
@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_a_signal_ends_it_cleanly_within_two_seconds(
    number: signal.Signals, workers: int, clean: Clean, tmp_path: Path
) -> None:
    """Of the processor: on an idle machine that is what passes, a busy one takes longer. `signals` bounds any wait."""
    out = tmp_path / "out"
    for moment in ("the lock is held", "processes start", "shards are made"):
        for _ in range(TRIES):
            code, said, spent_s = signalled(moment, number, clean, out, workers)
            if not (out / "tartanair" / "dataset.json").exists():
                break
            shutil.rmtree(out)  # it was at its end before the signal came
        assert (code, said) == (
            SIGNALS[number],
            "vdaprep: stopped; run the same command again to go on: what is finished is kept.\n",
        )
        assert spent_s < 2, moment
        assert leftovers(out) == []
        expect_only_unfinished(out)
    finish(clean, clean.raw, out)


def signalled(moment: str, number: int, clean: Clean, out: Path, workers: int) -> tuple[int, str, float]:
    """Send a signal at a moment; returns the exit code, what was said, and the seconds of work that it still took."""
    before_s, shards = ended_cpu_s(), len(finished(out))
    run = Run(clean.raw, out, *clean.options, workers=workers)
    if moment == "shards are made":
        run.reaches_shards(shards + 1)
    elif moment == "processes start" and workers > 1:
        run.reaches(lambda: len(run.workers()) >= 1)
    else:
        run.reaches((out / "tartanair" / ".vdaprep-lock").exists)
    spent_s = run.cpu_s()
    (run.send_all if number == signal.SIGINT else run.send)(number)
    code, said = run.end()
    run.expect_gone()
    return code, said, ended_cpu_s() - before_s - spent_s


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_a_signal_while_raw_data_is_listed(
    number: signal.Signals, raw, vdaprep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handlers = {item: signal.getsignal(item) for item in SIGNALS}
    walk = tree.walk

    def interrupted(*given: object) -> object:
        os.kill(os.getpid(), number)
        return walk(*given)

    monkeypatch.setattr(tree, "walk", interrupted)
    result = vdaprep("convert", "tartanair", "--raw", raw.root, "--out", tmp_path / "out")
    assert result.code == SIGNALS[number]
    assert result.err == "vdaprep: stopped; run the same command again to go on: what is finished is kept.\n"
    assert not (tmp_path / "out").exists()
    assert {item: signal.getsignal(item) for item in SIGNALS} == handlers


# ------------------------------------------------------------------------------------------------------------- workers


@pytest.mark.slow
@pytest.mark.parametrize("clean", ["standard", "tiny"], indirect=True)
def test_a_worker_that_dies_is_replaced(clean: Clean, tmp_path: Path) -> None:
    for _ in range(TRIES):
        run = Run(clean.raw, tmp_path / "out", *clean.options, workers=2)
        run.reaches_shards(1)
        kill(run.workers()[:1])
        code, said = run.end()
        assert code == 0
        assert clean.matches(tmp_path / "out")
        assert leftovers(tmp_path / "out") == []
        if said:
            break
        shutil.rmtree(tmp_path / "out")  # it had nothing to do any more
    assert "the process that made it died (SIGKILL, as when memory runs out); another begins it again." in said


def kill(pids: Iterable[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):  # it was about to end
            os.kill(pid, signal.SIGKILL)


@pytest.mark.slow
def test_workers_that_always_die_end_it_with_a_sentence(clean: Clean, tmp_path: Path) -> None:
    for _ in range(TRIES):
        run = Run(clean.raw, tmp_path / "out", *clean.options, workers=2)
        run.reaches_shards(1)
        while not run.has_ended:
            kill(run.workers())
            time.sleep(0.02)
        code, said = run.end()
        if code:
            break
        shutil.rmtree(tmp_path / "out")  # they did not die often enough
    assert code == 1
    last = said.splitlines()[-1]
    assert last.startswith(f"vdaprep: {tmp_path}")
    assert "the process that made it died 3 times (SIGKILL, as when memory runs out); finished shards are kept" in last
    assert "Traceback" not in said
    assert leftovers(tmp_path / "out") == []
    run.expect_gone()
    expect_only_unfinished(tmp_path / "out")
    finish(clean, clean.raw, tmp_path / "out")


# -------------------------------------------------------------------------------------------------------- a second run


@pytest.mark.slow
def test_a_second_convert_on_the_same_output_is_refused(clean: Clean, tmp_path: Path) -> None:
    lock = tmp_path / "out" / "tartanair" / ".vdaprep-lock"
    for _ in range(TRIES):
        first = Run(clean.raw, tmp_path / "out", *clean.options)
        first.reaches(lock.exists)
        first.hold()
        if is_locked(lock):
            break
        first.go_on()  # it was at its end
        assert first.end() == (0, "")
        shutil.rmtree(tmp_path / "out")
    for more in ((), ("--part", "1/2"), ("--finish",)):
        code, said = Run(clean.raw, tmp_path / "out", *clean.options, *more).end()
        assert code == 2
        assert said.endswith("another vdaprep is writing there; wait for it, or choose another --out.\n")
    first.go_on()
    assert first.end() == (0, "")
    assert clean.matches(tmp_path / "out")


def is_locked(path: Path) -> bool:
    try:
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def test_the_lock_is_not_in_the_way_of_who_reads(raw, vdaprep, tmp_path: Path) -> None:
    arguments = ("convert", "tartanair", "--raw", raw.root, "--out", tmp_path / "out", "--workers", 1)
    assert vdaprep(*arguments).code == 0
    lock = tmp_path / "out" / "tartanair" / ".vdaprep-lock"
    handle = os.open(lock, os.O_RDWR | os.O_CREAT)
    fcntl.flock(handle, fcntl.LOCK_EX)
    assert verify([tmp_path / "out"], deep=True, on_frames=lambda count: None).findings == ()
    assert vdaprep(*arguments).code == 2
    os.close(handle)
    assert vdaprep(*arguments).code == 0
    assert not lock.exists()
