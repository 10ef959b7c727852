"""Disks that are full, too small or faulty: a sentence, a tree that can be continued, and then the clean bytes."""

import errno
import os
import resource
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.disks import small_disk
from tests.faults.faults import TRIES, Clean, Run, expect_only_unfinished, files, finish, finished, leftovers
from vdaprep import cli
from vdaprep.storage.range_reader import LocalFile


def stopped_for_space(run: Run, out: Path, *reasons: str) -> None:
    code, said = run.end()
    assert code == 1, said
    last = said.splitlines()[-1]
    assert last.startswith(f"vdaprep: {out}")
    assert any(
        f"cannot be written ({reason}); {remedy}" in last
        for reason in reasons
        for remedy in ("free some space and run the same command again", "allow larger files there (ulimit -f)")
    )
    assert "Traceback" not in said
    assert leftovers(out) == []
    run.expect_gone()
    expect_only_unfinished(out)


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "clean"), [(1, "tiny"), (2, "standard")], indirect=["clean"])
def test_files_that_may_not_grow(workers: int, clean: Clean, tmp_path: Path) -> None:
    sizes = sorted(len(data) for name, data in clean.files.items() if name.endswith(".tar"))
    limit = (sizes[0] + sizes[-1]) // 2
    assert sizes[0] < limit < sizes[-1]
    run = Run(
        clean.raw,
        tmp_path / "out",
        *clean.options,
        workers=workers,
        before=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    stopped_for_space(run, tmp_path / "out", "File too large")
    finish(clean, clean.raw, tmp_path / "out")


@pytest.mark.slow
def test_a_disk_that_fills_up(clean: Clean, tmp_path: Path) -> None:
    """On a file system of its own where one can be mounted; the test above needs none."""
    with small_disk(tmp_path / "disk", size=sum(map(len, clean.files.values())) * 6 // 10) as disk:
        for workers in (2, 1):
            stopped_for_space(
                Run(clean.raw, disk / "out", *clean.options, workers=workers), disk / "out", "No space left on device"
            )
            assert 2 <= len(finished(disk / "out")) < len(clean.files) // 2
        subprocess.run(["mount", "-o", "remount,size=1g", disk], check=True)
        finish(clean, clean.raw, disk / "out")


@pytest.mark.slow
def test_the_floor_of_free_space(raw, vdaprep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that loses as much as is written, with the floor in the middle of the conversion."""
    options = ("--workers", 1, "--clip-frames", 4, "--frames-per-shard", 4)
    arguments = ("convert", "tartanair", "--raw", raw.root, *options)
    assert vdaprep(*arguments, "--out", tmp_path / "clean").code == 0
    clean = files(tmp_path / "clean")
    floor, room = 1_000_000_000, (1 << 20) + sum(map(len, clean.values())) // 2
    written, real_write = [0], os.write

    def write(handle: int, data: bytes) -> int:
        count = real_write(handle, data)
        written[0] += count
        return count

    monkeypatch.setattr(os, "write", write)
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_bavail=floor + room - written[0], f_frsize=1))
    result = vdaprep(*arguments, "--out", tmp_path / "out", "--min-free", "1GB")
    assert result.code == 1
    assert f"bytes are free there and --min-free keeps {floor}; free some space and run the same" in result.err
    assert room - (1 << 20) - 200_000 < written[0] < room
    assert leftovers(tmp_path / "out") == []
    expect_only_unfinished(tmp_path / "out")
    assert len(finished(tmp_path / "out")) >= 2
    monkeypatch.undo()
    monkeypatch.setattr("sys.argv", [])
    kept = finished(tmp_path / "out")
    again = [str(item) for item in (*arguments, "--out", tmp_path / "out", "--min-free", "1MB")]
    monkeypatch.setattr("sys.argv", ["vdaprep", *again])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    after = finished(tmp_path / "out")
    assert {name: after[name] for name in kept} == kept
    assert files(tmp_path / "out") == clean


def test_read_errors_reject_frames_by_name_and_can_be_made_good(
    raw, vdaprep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk of raw data that fails for some files, once: three frames are lost, and come back with repair."""
    arguments = ("convert", "tartanair", "--raw", raw.root, "--workers", 1, "--frames-per-shard", 4, "--clip-frames", 4)
    assert vdaprep(*arguments, "--out", tmp_path / "clean").code == 0
    bad = {
        "P000/image_left/000003_left.png",
        "P000/depth_left/000008_left_depth.npy",
        "P011/image_left/000000_left.png",
    }
    real_read = LocalFile.read

    def read(self: LocalFile, offset: int, size: int) -> bytes:
        assert self._handle is not None
        if any(os.readlink(f"/proc/self/fd/{self._handle}").endswith(name) for name in bad):  # noqa: PTH115
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real_read(self, offset, size)

    with monkeypatch.context() as faulty:
        faulty.setattr(LocalFile, "read", read)
        result = vdaprep(*arguments, "--out", tmp_path / "out", "--strict")
    assert result.code == 1
    for name in bad:
        assert f"rejected: abandonedfactory/Easy/{name}: cannot be read (Input/output error)" in result.err
    assert "3 inputs were rejected, and --strict takes none" in result.err
    assert vdaprep("verify", tmp_path / "out", "--deep").code == 0
    repair = ("repair", "tartanair", "--raw", raw.root, "--out", tmp_path / "out", "--workers", 1)
    assert vdaprep(*repair, "--retry-rejected").code == 0
    assert files(tmp_path / "out") == files(tmp_path / "clean")


def test_a_folder_in_the_place_of_a_raw_file(raw, vdaprep, tmp_path: Path) -> None:
    easy = raw.root / "abandonedfactory" / "Easy"
    image = easy / "P000" / "image_left" / "000003_left.png"
    image.unlink()
    image.mkdir()
    result = vdaprep("convert", "tartanair", "--raw", raw.root, "--out", tmp_path / "out", "--workers", 1)
    assert result.code == 0
    assert "P000/depth_left/000003_left_depth.npy: has no image beside it" in result.err


@pytest.mark.slow
def test_an_output_that_vanishes_meanwhile(clean: Clean, tmp_path: Path) -> None:
    for _ in range(TRIES):
        run = Run(clean.raw, tmp_path / "out", *clean.options, workers=2)
        run.reaches_shards(2)
        run.hold()
        is_concluded = run.is_concluded
        shutil.rmtree(tmp_path / "out")
        run.go_on()
        code, said = run.end()
        run.expect_gone()
        if not is_concluded:
            break
    assert "Traceback" not in said
    assert code == 1
    shutil.rmtree(tmp_path / "out", ignore_errors=True)
    finish(clean, clean.raw, tmp_path / "out")
