"""Places that an output can be written to, and those that cannot: the sentence of each, and nothing left there."""

import errno
import os
import resource
import stat
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from tests.disks import full_disk
from vdaprep.errors import OutputError, UsageError
from vdaprep.storage.atomic import check_output, check_output_folder, new_file, write_text

Place = Callable[[Path], Path]


def tree(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def made(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"in")
    return path


def link(path: Path, target: Path | str) -> Path:
    path.symlink_to(target)
    return path


def hard_link(path: Path, target: Path) -> Path:
    path.hardlink_to(target)
    return path


def fifo(path: Path) -> Path:
    os.mkfifo(path)
    return path


FILE = "folder/in.png"  # the input of the cases below, in the input folder "folder"

REFUSED_FILES: dict[str, tuple[Place, str]] = {
    "under a file": (lambda at: made(at / "file") / "a.png", "is a file"),
    "deep under a file": (lambda at: made(at / "file") / "b" / "c" / "a.png", "is a file"),
    "under a link to a file": (lambda at: link(at / "l", made(at / "file")) / "a.png", "is a file"),
    "a folder": (lambda at: at / "folder", "is a folder; expected the name of a file"),
    "a link to a folder": (lambda at: link(at / "l", "folder"), "is a folder"),
    "here": (lambda at: Path(), "is a folder"),
    "a device": (lambda at: Path("/dev/full"), "is a device"),
    "a pipe": (lambda at: fifo(at / "pipe"), "is a device"),
    "a loop of links": (lambda at: link(at / "l", "l") / "a.png", "lead"),
    "below a link to nowhere": (lambda at: link(at / "l", "nowhere") / "a.png", "leads nowhere"),
    "a name too long": (lambda at: at / ("x" * 300), "choose a shorter name"),
    "a name too long with its temporary ending": (lambda at: at / ("x" * 250), "choose a shorter name"),
    "a folder to be made, its name too long": (lambda at: at / "new" / ("x" * 300) / "a.png", "choose a shorter name"),
    "a URL": (lambda at: Path("s3://bucket/a.png"), "is a URL"),
    "NUL": (lambda at: at / "a\0b.png", "characters that no path can have"),
    "a lone surrogate": (lambda at: at / "a\ud800.png", "characters that no path can have"),
    "the input": (lambda at: at / FILE, "is also the input"),
    "the input, spelt otherwise": (lambda at: at / "folder" / "." / ".." / FILE, "is also the input"),
    "a link to the input": (lambda at: link(at / "l.png", FILE), "is also the input"),
    "a hard link of the input": (lambda at: hard_link(at / "h.png", at / FILE), "is also the input"),
    "the input through a linked folder": (lambda at: link(at / "l", "folder") / "in.png", "is also the input"),
    "read only": (lambda at: Path("/proc/a.png"), "cannot be written"),
}
REFUSED_FOLDERS: dict[str, tuple[Place, str]] = {
    "a file": (lambda at: made(at / "file"), "is a file; expected a folder"),
    "a link to a file": (lambda at: link(at / "l", made(at / "file")), "is a file; expected a folder"),
    "a device": (lambda at: Path("/dev/null"), "is a file; expected a folder"),
    "under a file": (lambda at: made(at / "file") / "a", "is a file"),
    "a link to nowhere": (lambda at: link(at / "l", "nowhere"), "leads nowhere"),
    "the input": (lambda at: at / "folder", "is also the input"),
    "a link to the input": (lambda at: link(at / "l", "folder"), "is also the input"),
    "in the input": (lambda at: at / "folder" / "a" / "b", "lies in the input"),
    "in the input, through a link": (lambda at: link(at / "l", "folder") / "a", "lies in the input"),
    "in the input, after a turn": (lambda at: at / "folder" / "new" / ".." / "a", "lies in the input"),
    "a circle of links": (lambda at: link(at / "l", "l") / "a", "lead"),
    "a name too long": (lambda at: at / "new" / ("x" * 300), "choose a shorter name"),
    "read only": (lambda at: Path("/proc/a"), "cannot be written"),
    "a URL": (lambda at: Path("https://host/a"), "is a URL"),
}
TAKEN_FILES: dict[str, Place] = {
    "new": lambda at: at / "a.png",
    "in folders to be made": lambda at: at / "b" / "c" / "a.png",
    "one that is there": lambda at: made(at / "a.png"),
    "one that is read only": lambda at: (made(at / "a.png").chmod(0o400), at / "a.png")[1],
    "a link to another file": lambda at: link(at / "l.png", made(at / "other.png")),
    "a link to nowhere": lambda at: link(at / "l.png", "nowhere"),
    "beside the input": lambda at: at / "folder" / "out.png",
    "a name with a colon": lambda at: at / "s3:" / "a.png",
    "bytes that are no UTF-8": lambda at: at / os.fsdecode(b"a\xff.png"),
}


@pytest.fixture
def at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    made(tmp_path / FILE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def inputs(at: Path) -> list[Path | str]:
    return ["s3://bucket/in.tar", at / "missing.png", at / FILE, at / "folder"]


@pytest.mark.parametrize("name", REFUSED_FILES)
def test_a_file_that_cannot_be_written(name: str, at: Path) -> None:
    place, sentence = REFUSED_FILES[name]
    path = place(at)
    before = tree(at)
    with pytest.raises(OutputError, match=sentence) as caught:
        check_output(path, inputs=inputs(at))
    assert str(caught.value).startswith(f"{path}:")
    assert isinstance(caught.value, UsageError) == ("cannot be written" not in str(caught.value))
    assert tree(at) == before
    assert (at / FILE).read_bytes() == b"in"


@pytest.mark.parametrize("name", REFUSED_FOLDERS)
def test_a_folder_that_cannot_be_written_into(name: str, at: Path) -> None:
    place, sentence = REFUSED_FOLDERS[name]
    path = place(at)
    before = tree(at)
    with pytest.raises(OutputError, match=sentence) as caught:
        check_output_folder(path, inputs=inputs(at))
    assert str(caught.value).startswith(f"{path}:")
    assert isinstance(caught.value, UsageError) == ("cannot be written" not in str(caught.value))
    assert tree(at) == before


@pytest.mark.parametrize("name", TAKEN_FILES)
def test_a_file_that_can_be_written(name: str, at: Path) -> None:
    path = TAKEN_FILES[name](at)
    before = tree(at)
    check_output(path, inputs=inputs(at))
    assert tree(at) == before
    write_text(path, "out")
    assert path.read_text(encoding="utf-8") == "out"
    assert (at / FILE).read_bytes() == b"in"


@pytest.mark.parametrize("where", ["out", "out/deep", "folder2", "."])
def test_a_folder_that_can_be_written_into(where: str, at: Path) -> None:
    before = tree(at)
    check_output_folder(Path(where), inputs=inputs(at))
    assert tree(at) == before


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "free some space and run the same command again"),
        (errno.EDQUOT, "free some space"),
        (errno.EFBIG, "ulimit -f"),
        (errno.EACCES, "get the right to write there"),
        (errno.EROFS, "that one is read-only"),
        (errno.EIO, "mend that and run the same command again"),
        (errno.ESTALE, "mend that"),
    ],
)
def test_what_the_system_refuses_while_writing(number: int, remedy: str, at: Path) -> None:
    with pytest.raises(OutputError, match=remedy), new_file(at / "a.png"):
        raise OSError(number, os.strerror(number))
    assert tree(at) == ["folder", FILE]


@pytest.fixture
def full(tmp_path: Path) -> Generator[Path]:
    with full_disk(tmp_path / "disk") as disk:
        yield disk


def test_a_full_disk(full: Path) -> None:
    for check in (check_output, check_output_folder):
        with pytest.raises(OutputError, match="No space left on device.*free some space"):
            check(full / "a")


def test_a_file_that_may_not_grow(at: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(OutputError, match=r"File too large.*ulimit -f"):
            write_text(at / "a.txt", "a" * 2000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert tree(at) == ["folder", FILE]


def test_a_folder_without_the_right_to_write(at: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("the superuser may write anywhere")
    (at / "folder").chmod(stat.S_IRUSR | stat.S_IXUSR)
    with pytest.raises(OutputError, match="get the right to write there"):
        check_output(at / "folder" / "a.png")
