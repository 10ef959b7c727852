"""What `vdaprep convert` tells: on a terminal, in a log, to a script; and the counting behind it."""

import io
import json
import os
import pty
import random
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import RawTree, Run
from vdaprep.cli.views import output, progress
from vdaprep.raw.archives import targz_index
from vdaprep.raw.tree import Reader, open_tree
from vdaprep.workers.progress import Amount, ProgressEvent, Throughput

OPTIONS = ("--frames-per-shard", "7", "--clip-frames", "7", "--workers", "1")


def told(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


# -------------------------------------------------------------------------------------------------------------- events


@pytest.mark.slow
def test_events_tell_all_and_nothing_else_is_on_stdout(
    raw: RawTree, vdaprep: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "EVENT_S", 0.0)
    bad = next((raw.root / "abandonedfactory/Easy/P000/image_left").glob("000003*"))
    bad.write_bytes(b"no image")
    convert = ("convert", "tartanair", "--raw", raw.root, "--out", tmp_path / "out", *OPTIONS, "--json")
    result = vdaprep(*convert)
    assert (result.code, result.err) == (0, "")
    events = told(result.out)
    place = f"{tmp_path}/out/tartanair"
    plan, done = events[0], events[-1]
    assert plan == {
        "event": "plan", "dataset": "tartanair", "raw": str(raw.root), "out": place,
        "frames": 24, "clips": 4, "shards": 4,
    }  # fmt: skip
    [rejected] = [event for event in events if event["event"] == "rejected"]
    assert rejected["file"].endswith(bad.name)
    assert rejected["reason"] == "is not a PNG"
    shards = [event for event in events if event["event"] == "shard"]
    assert [event["name"] for event in shards] == [
        "train/shard-0001.tar", "train/shard-0002.tar", "train/shard-0003.tar", "val/shard-0001.tar",
    ]  # fmt: skip
    for event in shards:
        tar = tmp_path / "out" / "tartanair" / event["name"]
        assert event["bytes"] == tar.stat().st_size
        assert event["earlier"] is False
    told_of = [event for event in events if event["event"] == "progress"]
    assert [event["frames"] for event in told_of] == sorted(event["frames"] for event in told_of)
    assert (told_of[-1]["frames"], told_of[-1]["total_frames"], told_of[-1]["seconds_left"]) == (24, 24, 0.0)
    tars = sum(path.stat().st_size for path in (tmp_path / "out").rglob("*.tar"))
    files = sum(path.stat().st_size for path in raw.root.rglob("*.*"))
    assert (done["event"], done["frames"], done["rejected"], done["bytes"]) == ("done", 23, 1, tars)
    assert (done["new_frames"], done["bytes_out"]) == (24, tars)
    assert 0.8 * files < done["bytes_in"] < 1.5 * files  # poses are not counted, frames before a shard's first are
    assert done["frames_per_s"] == pytest.approx(24 / done["seconds"], rel=0.05)

    again = told(vdaprep(*convert).out)
    assert [event["earlier"] for event in again if event["event"] == "shard"] == [True] * 4
    assert again[-1] == {**done, **{name: again[-1][name] for name in ("seconds", "frames_per_s")}, **ZERO}


ZERO = {"new_frames": 0, "bytes_in": 0, "bytes_out": 0, "frames_per_s": 0, "bytes_in_per_s": 0, "bytes_out_per_s": 0}


def test_errors_are_events_too(raw: RawTree, vdaprep: Run, tmp_path: Path) -> None:
    convert = ("convert", "tartanair", "--raw", raw.root, "--out", tmp_path, *OPTIONS, "--json")
    result = vdaprep(*convert, "--select", "nothing")
    [event] = told(result.out)
    assert (result.code, event["event"], event["exit_code"]) == (1, "error", 1)
    assert result.err == f"vdaprep: {event['message']}\n"
    next((raw.root / "abandonedfactory/Easy/P000/image_left").glob("000003*")).write_bytes(b"no image")
    result = vdaprep(*convert, "--strict")
    assert [event["event"] for event in told(result.out)][-2:] == ["done", "error"]
    assert result.code == 1


@pytest.mark.slow
def test_the_frames_of_a_process_that_died_are_taken_back(raw: RawTree, vdaprep: Run, tmp_path: Path) -> None:
    program = (
        "import os, signal\n"
        "from pathlib import Path\n"
        "from vdaprep import cli\n"
        "from vdaprep.cli.views import progress\n"
        "from vdaprep.conversion import convert\n"
        "progress.EVENT_S = 0.0\n"
        "real, marker = convert.encode_shard, Path(__file__).with_name('marker')\n"
        "def deadly(task, tick):\n"
        "    result = real(task, tick)\n"
        "    if task.shard.name == 'train/shard-0001.tar' and not marker.exists():\n"
        "        marker.touch()\n"
        "        task.output.delete('train/shard-0001.json')\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return result\n"
        "convert.encode_shard = deadly\n"
        "if __name__ == '__main__':\n"
        "    cli.main()\n"
    )
    (tmp_path / "deadly.py").write_text(program)
    arguments = ("convert", "tartanair", "--raw", raw.root, "--out", tmp_path / "out", "--json", "--workers", "2")
    result = subprocess.run(
        [sys.executable, tmp_path / "deadly.py", *arguments],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    events = told(result.stdout)
    [notice] = [event for event in events if event["event"] == "notice"]
    assert (
        "shard-0001.tar: the process that made it died (SIGKILL, as when memory runs out); another" in notice["message"]
    )
    assert events[-1]["new_frames"] == 24
    frames = [event["frames"] for event in events if event["event"] == "progress"]
    assert frames != sorted(frames)


# ---------------------------------------------------------------------------------------------------------------- text


@pytest.mark.slow
def test_a_log_gets_a_line_now_and_then_and_a_summary(
    raw: RawTree, vdaprep: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    convert = ("convert", "tartanair", "--raw", raw.root, *OPTIONS)
    quick = vdaprep(*convert, "--out", tmp_path / "quick")
    assert quick.err == ""
    first, second, third, account, *pictures = quick.out.splitlines()
    assert first.startswith(f"{tmp_path}/quick/tartanair: 24 frames in 4 clips, 4 shards, ")
    assert second.startswith("of that depth.zst ")
    assert second.endswith("; 0 inputs rejected")
    assert third.startswith("24 frames in 0:")
    assert "MB/s in" in third
    assert account == "51 files found: 51 used, 0 not recognised"
    assert [line.split(": ")[0] for line in pictures] == [
        f"abandonedfactory/Easy/{name}" for name in ("P000", "P001", "P011")
    ]
    monkeypatch.setattr(output, "LINE_S", 0.0)
    slow = vdaprep(*convert, "--out", tmp_path / "slow")
    lines = slow.err.splitlines()
    assert lines[0].startswith("1/24 frames, 0/4 shards, ")
    assert any(
        line.startswith("24/24 frames, 3/4 shards, ") and line.endswith("MB/s out, 0:00:00 left") for line in lines
    )


def in_terminal(command: list[str], folder: Path) -> str:
    """Run a program on a terminal; returns what that showed."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80"}
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, cwd=folder, env=environment) as child:
        os.close(theirs)
        shown = io.BytesIO()
        while True:
            try:
                part = os.read(ours, 4096)
            except OSError:  # nobody writes there any more
                break
            if not part:
                break
            shown.write(part)
    os.close(ours)
    assert child.returncode == 0, shown.getvalue()
    return shown.getvalue().decode()


def test_a_terminal_shows_a_bar(raw: RawTree, tmp_path: Path) -> None:
    program = [sys.executable, "-c", "from vdaprep.cli import main; main()", "convert", "tartanair"]
    shown = in_terminal([*program, "--raw", str(raw.root), "--out", str(tmp_path / "out"), *OPTIONS], tmp_path)
    assert "━" in shown
    assert "24/24 frames, " in shown
    assert "/s, " in shown
    assert " MB/s in, " in shown
    assert "24 frames in 4 clips, 4 shards" in shown


# ------------------------------------------------------------------------------------------------------------ counting


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def begin(meter: Throughput, *, frames: int, shards: int) -> None:
    meter.update(ProgressEvent("plan", facts={"frames": frames, "shards": shards}))


def add(meter: Throughput, amount: Amount) -> None:
    meter.update(ProgressEvent("work", amount=amount))


def test_speed_is_of_the_last_half_minute_and_time_left_follows_it() -> None:
    clock = Clock()
    meter = Throughput(clock)
    clock.now_s += 50  # listing
    begin(meter, frames=1000, shards=4)
    assert meter.seconds_left() is None
    clock.now_s += 20  # processes start
    add(meter, Amount(frames=1))
    assert meter.speed().frames == pytest.approx(1 / 20)
    for _ in range(60):
        clock.now_s += 1
        add(meter, Amount(frames=10, bytes_in=2_000_000, bytes_out=1_000_000))
    assert str(meter.speed()) == "10.0 frames/s, 2.0 MB/s in, 1.0 MB/s out"
    assert meter.seconds_left() == pytest.approx((1000 - 601) / 10)
    assert meter.mean_speed().frames == pytest.approx(601 / 80)
    for _ in range(40):
        clock.now_s += 1
        add(meter, Amount(frames=2))
    assert meter.speed().frames == pytest.approx(2)
    add(meter, Amount(frames=-300))
    assert meter.frames == 381
    assert meter.speed().frames == 0
    assert meter.seconds_left() is None


def test_frames_of_earlier_runs_count_for_no_speed() -> None:
    clock = Clock()
    meter = Throughput(clock)
    begin(meter, frames=20, shards=2)
    meter.update(ProgressEvent("shard", amount=Amount(frames=7), facts={"earlier": True}))
    meter.update(ProgressEvent("rejected"))
    meter.update(ProgressEvent("rejected"))
    clock.now_s += 1
    assert (meter.frames, meter.shards, meter.rejected) == (7, 1, 2)
    assert meter.mean_speed().frames == 0
    add(meter, Amount(frames=13))
    meter.update(ProgressEvent("shard", amount=Amount(frames=13), facts={"earlier": False}))
    assert meter.to_json()["frames"] == 20


def test_a_reader_counts_what_it_reads(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"a" * 100)
    with tarfile.open(tmp_path / "b.tar.gz", "w:gz") as file:
        info = tarfile.TarInfo("b.png")
        info.size = 5000
        file.addfile(info, io.BytesIO(b"b" * 5000))
    tree = open_tree(tmp_path)
    with Reader(tree.root) as reader:
        for location in tree.files.values():
            reader.read(location)
        assert reader.bytes_read == 5100


def test_listing_a_large_gzip_tells_how_far_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = random.Random(0).randbytes(1 << 20)
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz", compresslevel=1) as file:
        for number in range(24):
            info = tarfile.TarInfo(f"{number}.png")
            info.size = len(noise)
            file.addfile(info, io.BytesIO(noise))
    size = (tmp_path / "a.tar.gz").stat().st_size
    real = targz_index.subprocess.Popen

    def eager(command: list[str], **options: Any) -> Any:
        program = "import sys; from vdaprep.raw.archives import targz_index; targz_index._REPORT_S = 0.0; "
        return real(
            [sys.executable, "-c", f"{program}sys.exit(targz_index.main(*sys.argv[1:]))", *command[3:]], **options
        )

    monkeypatch.setattr(targz_index.subprocess, "Popen", eager)
    heard: list[tuple[str, int, int]] = []
    open_tree(tmp_path, on_listing=lambda *facts: heard.append(facts))
    assert {name for name, _, _ in heard} == {"a.tar.gz"}
    assert {whole for _, _, whole in heard} == {size}
    done = [count for _, count, _ in heard]
    assert done == sorted(done)
    assert len(set(done)) > 3
    assert 0 < done[-1] <= size


def test_the_listing_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(output, "LINE_S", 0.0)
    monkeypatch.setattr(progress, "EVENT_S", 0.0)
    facts = {"bytes": 1_500_000_000, "total_bytes": 3_000_000_000}
    with progress.reporter(as_json=False) as report:
        report(ProgressEvent("listing", "depth.tar.gz", facts=facts))
    assert capsys.readouterr().err == "listing depth.tar.gz: 1.5 of 3.0 GB\n"
    with progress.reporter(as_json=True) as report:
        report(ProgressEvent("listing", "depth.tar.gz", facts=facts))
    assert told(capsys.readouterr().out) == [{"event": "listing", "archive": "depth.tar.gz", **facts}]
