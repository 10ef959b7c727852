"""Folders and zips as one tree, and archives that are not what they should be."""

import zipfile
from pathlib import Path

import pytest

from vdaprep.archive import MAX_FILE_BYTES, Location, Reader, open_tree
from vdaprep.errors import DataError, FrameError


def pack(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as file:
        for name, data in members.items():
            file.writestr(name, data)
    return path


def test_folders_and_zips_are_one_tree(tmp_path: Path) -> None:
    (tmp_path / "env").mkdir()
    (tmp_path / "env" / "a.png").write_bytes(b"loose")
    pack(tmp_path / "x" / "one.zip", {"env/a.png": b"archived", "env/b.png": b"b1"})
    pack(tmp_path / "x" / "two.ZIP", {"env/b.png": b"b2", "./env/c.png": b"c"})
    tree = open_tree(tmp_path)
    assert sorted(tree.files) == ["env/a.png", "env/b.png", "env/c.png"]
    with Reader(tree.root) as reader:
        assert reader.read(tree.files["env/a.png"]) == b"loose"
        assert reader.read(tree.files["env/b.png"]) == b"b1"
        assert reader.read(tree.files["env/c.png"]) == b"c"
    assert str(tree.files["env/b.png"]) == "x/one.zip: env/b.png"


def test_one_archive_can_be_the_root(tmp_path: Path) -> None:
    tree = open_tree(pack(tmp_path / "one.zip", {"env/a.png": b"a"}))
    with Reader(tree.root) as reader:
        assert reader.read(tree.files["env/a.png"]) == b"a"


@pytest.mark.parametrize("name", ["../evil.png", "a/../../evil.png", "/etc/passwd", "C:/evil.png", "..\\evil.png"])
def test_names_that_leave_the_tree_are_left_out_and_listed(tmp_path: Path, name: str) -> None:
    pack(tmp_path / "one.zip", {name: b"evil", "good.png": b"good"})
    tree = open_tree(tmp_path)
    assert list(tree.files) == ["good.png"]
    [problem] = tree.problems
    assert problem.file.startswith("one.zip: ")
    assert problem.reason == "the name leads out of the archive; left out"


def test_an_archive_that_is_none_is_listed(tmp_path: Path) -> None:
    (tmp_path / "cut.zip").write_bytes(pack(tmp_path / "whole.zip", {"a.png": b"a" * 500}).read_bytes()[:300])
    tree = open_tree(tmp_path)
    assert list(tree.files) == ["a.png"]
    assert tree.problems[0].file == "cut.zip"
    assert "cannot be opened as an archive" in tree.problems[0].reason


def test_a_broken_member_is_a_sentence(tmp_path: Path) -> None:
    path = pack(tmp_path / "one.zip", {"a.png": b"a" * 100, "b.png": b"b" * 100})
    path.write_bytes(path.read_bytes().replace(b"a" * 100, b"a" * 99 + b"!"))
    tree = open_tree(tmp_path)
    with Reader(tree.root) as reader:
        assert reader.read(tree.files["b.png"]) == b"b" * 100
        with pytest.raises(FrameError, match=r"^one.zip: a.png: cannot be read \(Bad CRC-32"):
            reader.read(tree.files["a.png"])


def test_what_went_away_is_a_sentence(tmp_path: Path) -> None:
    pack(tmp_path / "one.zip", {"a.png": b"a"})
    with Reader(tmp_path) as reader:
        with pytest.raises(FrameError, match=r"^gone.png: is missing"):
            reader.read(Location("", "gone.png"))
        with pytest.raises(FrameError, match=r"^one.zip: gone.png: is not in the archive"):
            reader.read(Location("one.zip", "gone.png"))


def test_a_file_too_large_to_be_a_frame_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "huge.npy").open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)
    with Reader(tmp_path) as reader, pytest.raises(FrameError, match="is larger than 256 MiB"):
        reader.read(Location("", "huge.npy"))


def test_many_archives_can_be_read_in_turn(tmp_path: Path) -> None:
    for i in range(12):
        pack(tmp_path / f"{i}.zip", {f"{i}.png": bytes([i])})
    tree = open_tree(tmp_path)
    with Reader(tree.root) as reader:
        for _ in range(2):
            assert [reader.read(tree.files[f"{i}.png"])[0] for i in range(12)] == list(range(12))


def test_a_root_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no such file or folder"):
        open_tree(tmp_path / "nowhere")
