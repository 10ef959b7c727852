"""Files of an output: whole or not there, one writer, a floor of free space, what dead runs left goes."""

import errno
import multiprocessing
import os
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from vdaprep.errors import OutputError, UsageError
from vdaprep.shards.names import FINISHED_FILES
from vdaprep.storage.output import LocalOutput, write_file

NAME = "train/shard-0001.tar"
REST = "shard-0001.tar.0123abcd.vdaprep-tmp"


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_a_file_is_there_when_its_block_has_ended(tmp_path: Path) -> None:
    output = LocalOutput(tmp_path)
    with output.new_file(NAME) as file:
        for _ in range(5):
            file.write(b"x" * 700_000)
        [temporary] = names(tmp_path)
        assert temporary.startswith(f"{NAME}.")
        assert temporary.endswith(".vdaprep-tmp")
        assert output.size(NAME) is None
    assert names(tmp_path) == [NAME]
    assert output.size(NAME) == 3_500_000
    assert output.names(*FINISHED_FILES) == [NAME]


def test_an_error_leaves_nothing_and_the_file_that_was_there(tmp_path: Path) -> None:
    output = LocalOutput(tmp_path)
    write_file(output, NAME, b"before")
    with pytest.raises(RuntimeError), output.new_file(NAME) as file:
        file.write(b"half")
        raise RuntimeError
    assert names(tmp_path) == [NAME]
    assert output.read(NAME) == b"before"


def test_the_order_is_write_flush_rename_flush_of_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "train").mkdir()
    calls: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def flush(handle: int) -> None:
        calls.append("flush folder" if os.path.isdir(f"/proc/self/fd/{handle}") else "flush file")  # noqa: PTH112
        fsync(handle)

    monkeypatch.setattr(os, "fsync", flush)
    monkeypatch.setattr(Path, "replace", lambda path, target: (calls.append("rename"), replace(path, target))[1])
    write_file(LocalOutput(tmp_path), NAME, b"data")
    assert calls == ["flush file", "rename", "flush folder"]


@pytest.mark.parametrize(("number", "advice"), [(errno.ENOSPC, "free some space"), (errno.EIO, "mend that")])
@pytest.mark.parametrize("call", ["write", "fsync"])
def test_a_disk_that_refuses_is_a_sentence(
    call: str, number: int, advice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, call, refuse)
    with pytest.raises(OutputError) as caught:
        write_file(LocalOutput(tmp_path), NAME, b"data")
    monkeypatch.undo()
    text = f"{tmp_path / NAME}: cannot be written ({os.strerror(number)}); {advice} and run the same command again"
    assert str(caught.value).startswith(text)
    assert names(tmp_path) == []


def test_a_folder_that_cannot_be_made_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="cannot be written"), LocalOutput(tmp_path / "file" / "out").lock():
        pass


def test_the_floor_is_never_crossed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk of 100 MiB that fills by what is written, by two processes in lockstep."""
    size, floor = 100 << 20, 40 << 20
    written = [0]
    real_write = os.write

    def write(handle: int, data: bytes) -> int:
        count = real_write(handle, data)
        written[0] += 2 * count  # the other process does the same at the same time
        assert size - written[0] >= floor
        return count

    monkeypatch.setattr(os, "write", write)
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_bavail=(size - written[0]) >> 12, f_frsize=4096))
    output = LocalOutput(tmp_path, min_free=floor, writers=2)
    with pytest.raises(OutputError, match=f"bytes are free there and --min-free keeps {floor}; free some space"):
        for number in range(20):
            write_file(output, f"train/shard-{number:04d}.tar", bytes(5_000_000 + number))
    assert size - written[0] < floor + (8 << 20), "and what there is above it is used"
    assert all(path.endswith(".tar") for path in names(tmp_path))


def test_rests_of_dead_runs_go_and_those_of_living_ones_stay(tmp_path: Path) -> None:
    output = LocalOutput(tmp_path)
    (tmp_path / "train").mkdir()
    for path in (tmp_path / "train" / REST, tmp_path / "plan.json.0123abcd.vdaprep-tmp"):
        path.write_bytes(b"half")
    with output.new_file("train/shard-0002.tar") as file:
        file.write(b"living")
        with output.lock(part="1-of-2"):
            assert [name for name in names(tmp_path) if name.endswith("-tmp")] == [
                name for name in names(tmp_path) if "shard-0002" in name
            ]
    assert output.names(*FINISHED_FILES) == ["train/shard-0002.tar"]


def test_a_rest_of_the_same_file_goes_before_it_is_written_again(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / REST).write_bytes(b"half")
    (tmp_path / "train" / REST.replace("0001", "0002")).write_bytes(b"half")
    with LocalOutput(tmp_path).new_file(NAME):
        assert REST not in {path.name for path in (tmp_path / "train").iterdir()}
    assert names(tmp_path) == [NAME, f"train/{REST.replace('0001', '0002')}"]


def test_nothing_that_others_wrote_is_removed_not_even_through_a_link(tmp_path: Path) -> None:
    folder = tmp_path / "out" / "train"
    folder.mkdir(parents=True)
    mine = tmp_path / "mine"
    mine.write_bytes(b"mine")
    (folder / REST).symlink_to(mine)
    (folder / "notes.vdaprep-tmp").write_bytes(b"")
    (folder / "shard-0003.tar.0123abcd.vdaprep-tmp").mkdir()
    with LocalOutput(tmp_path / "out").lock():
        pass
    assert mine.read_bytes() == b"mine"
    assert len(list(folder.iterdir())) == 3


def test_one_writer_or_several_parts(tmp_path: Path) -> None:
    output = LocalOutput(tmp_path)

    def refused(part: str | None) -> bool:
        try:
            with LocalOutput(tmp_path).lock(part=part):
                return False
        except UsageError as error:
            assert "another vdaprep is writing there; wait for it, or choose another --out" in str(error)
            return True

    with output.lock():
        assert refused(None)
        assert refused("1-of-2")
    with output.lock(part="1-of-2"):
        assert refused(None)
        assert refused("1-of-2")
        assert not refused("2-of-2")
    with output.lock():
        pass
    assert names(tmp_path) == []


def test_the_lock_goes_with_its_holder_and_its_file_with_an_error(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), LocalOutput(tmp_path).lock():
        raise RuntimeError
    assert names(tmp_path) == []
    process = multiprocessing.get_context("fork").Process(target=_die_holding, args=(tmp_path,))
    process.start()
    process.join()
    assert names(tmp_path) == [".vdaprep-lock"]
    with LocalOutput(tmp_path).lock():
        pass
    assert names(tmp_path) == []


def _die_holding(folder: Path) -> None:
    with LocalOutput(folder).lock():
        os._exit(1)


def test_of_many_that_want_the_lock_one_has_it_at_a_time(tmp_path: Path) -> None:
    inside, most, refused = [0], [0], [0]

    def want() -> None:
        for _ in range(60):
            try:
                with LocalOutput(tmp_path).lock():
                    inside[0] += 1
                    most[0] = max(most[0], inside[0])
                    inside[0] -= 1
            except UsageError:
                refused[0] += 1

    threads = [threading.Thread(target=want) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1]
    assert refused[0] < 240
    assert names(tmp_path) == []
