"""Folders and zips as one tree, and zips that are not what they should be."""

import contextlib
import os
import pickle
import stat
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vdaprep.errors import DataError, FrameError
from vdaprep.raw.tree import Location, Reader, open_tree
from vdaprep.storage.range_reader import MAX_FILE_BYTES


def pack(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as file:
        for name, data in members.items():
            file.writestr(name, data)
    return path


def test_folders_and_zips_are_one_tree(tmp_path: Path) -> None:
    (tmp_path / "env").mkdir()
    (tmp_path / "env" / "a.png").write_bytes(b"loose")
    pack(tmp_path / "x" / "one.zip", {"env/a.png": b"loose", "env/b.png": b"b1"})
    pack(tmp_path / "x" / "two.ZIP", {"env/b.png": b"b1", "./env/c.png": b"c"})
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
        with pytest.raises(
            FrameError, match=r"^one.zip: a.png: cannot be read \(its bytes are not those that the zip's CRC"
        ):
            reader.read(tree.files["a.png"])


def test_what_went_away_is_a_sentence(tmp_path: Path) -> None:
    path = pack(tmp_path / "one.zip", {"a.png": b"a"})
    tree = open_tree(tmp_path)
    path.unlink()
    with Reader(tmp_path) as reader:
        with pytest.raises(FrameError, match=r"^gone.png: is missing"):
            reader.read(Location("", "gone.png"))
        with pytest.raises(FrameError, match=r"^one.zip: a.png: is missing"):
            reader.read(tree.files["a.png"])
    pack(path, {"other.png": b"o" * 100})
    with Reader(tmp_path) as reader, pytest.raises(FrameError, match=r"^one.zip: a.png: cannot be read \("):
        reader.read(tree.files["a.png"])


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


def test_a_reader_lists_no_zip_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pack(tmp_path / "one.zip", {"env/a.png": b"a" * 1000, "env/b.png": b"b"})
    tree = pickle.loads(pickle.dumps(open_tree(tmp_path)))
    monkeypatch.setattr(zipfile, "ZipFile", None)
    with Reader(tree.root) as reader:
        assert {path: reader.read(location) for path, location in tree.files.items()} == {
            "env/a.png": b"a" * 1000,
            "env/b.png": b"b",
        }


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("extra", [0, 40, 500])
def test_headers_of_any_length(tmp_path: Path, method: int, extra: int) -> None:
    data = os.urandom(300)
    with zipfile.ZipFile(tmp_path / "one.zip", "w", method) as file:
        for name in ("a.png", "\N{SNOWMAN}.png", "empty.png"):
            info = zipfile.ZipInfo(name)
            info.compress_type = method
            info.extra = b"\x99\x99" + extra.to_bytes(2, "little") + bytes(extra) if extra else b""
            file.writestr(info, b"" if name.startswith("empty") else data)
    tree = open_tree(tmp_path)
    with Reader(tree.root) as reader:
        assert reader.read(tree.files["a.png"]) == reader.read(tree.files["\N{SNOWMAN}.png"]) == data
        assert reader.read(tree.files["empty.png"]) == b""


def in_directory(path: Path, name: str, *, at: int, value: int, length: int = 4) -> None:
    """Overwrite a field of a member's entry in the central directory."""
    data = bytearray(path.read_bytes())
    entry = data.rindex(name.encode()) - 46
    assert data[entry : entry + 4] == b"PK\1\2"
    data[entry + at : entry + at + length] = value.to_bytes(length, "little")
    path.write_bytes(data)


SIZE, STORED, OFFSET, FLAGS, METHOD = 24, 20, 42, 8, 10


@pytest.mark.parametrize(
    ("at", "value", "sentence"),
    [
        (SIZE, 90, "holds more than 90 bytes, the zip's directory says 90"),
        (SIZE, 150, "holds 100 bytes, the zip's directory says 150"),
        (SIZE, 1 << 30, "is larger than 256 MiB"),
        (STORED, 1 << 30, "is larger than 256 MiB"),
        (STORED, 1 << 20, "the zip ends in the middle of it"),
        (OFFSET, 7, "is not where the zip's directory says"),
    ],
)
def test_a_directory_that_lies(tmp_path: Path, at: int, value: int, sentence: str) -> None:
    path = tmp_path / "one.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("good.png", b"good")
        file.writestr("liar.png", b"l" * 100)
    in_directory(path, "liar.png", at=at, value=value)
    tree = open_tree(tmp_path)
    with Reader(tree.root) as reader:
        assert reader.read(tree.files["good.png"]) == b"good"
        with pytest.raises(FrameError, match=rf"^one.zip: liar.png: cannot be read \({sentence}\)"):
            reader.read(tree.files["liar.png"])


@pytest.mark.parametrize(
    ("at", "value", "sentence"),
    [(FLAGS, 1, "is encrypted; left out"), (METHOD, 9, "is packed by method 9, only 0")],
)
def test_members_that_nobody_here_can_read(tmp_path: Path, at: int, value: int, sentence: str) -> None:
    path = pack(tmp_path / "one.zip", {"good.png": b"good", "odd.png": b"odd"})
    in_directory(path, "odd.png", at=at, value=value, length=2)
    tree = open_tree(tmp_path)
    assert list(tree.files) == ["good.png"]
    [problem] = tree.problems
    assert problem.file == "one.zip: odd.png"
    assert problem.reason.startswith(sentence)


def test_links_in_a_zip_are_left_out(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "one.zip", "w") as file:
        info = zipfile.ZipInfo("link.png")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        file.writestr(info, "/etc/passwd")
    [problem] = open_tree(tmp_path).problems
    assert (problem.file, problem.reason) == ("one.zip: link.png", "is a symbolic link; left out")


def test_a_damaged_directory_costs_its_zip_only(tmp_path: Path) -> None:
    pack(tmp_path / "good.zip", {"a.png": b"a"})
    path = pack(tmp_path / "bad.zip", {f"{i}.png": b"b" for i in range(9)})
    path.write_bytes(path.read_bytes().replace(b"PK\1\2", b"PK\0\0", 2))
    tree = open_tree(tmp_path)
    assert list(tree.files) == ["a.png"]
    [problem] = tree.problems
    assert problem.file == "bad.zip"
    assert problem.reason.startswith("cannot be opened as an archive (")
    assert problem.reason.endswith("get it again to have what it holds")


def test_repeated_frames_are_told_of_once_for_each_pair(tmp_path: Path) -> None:
    (tmp_path / "e").mkdir()
    (tmp_path / "e" / "0.png").write_bytes(b"0")
    names = [f"e/{i}.png" for i in range(4)]
    for archive in ("b", "a", "c"):  # sorted, not in order of their making
        held = [*names, "e/pose_left.txt", "e/n.json"]
        pack(tmp_path / f"{archive}.zip", {name: name[2:3].encode() for name in held})
    tree = open_tree(tmp_path)
    assert [(item.file, item.reason) for item in tree.problems] == [
        ("a.zip", "repeats 1 files that lie beside it; those are used"),
        ("b.zip", "repeats 1 files that lie beside it; those are used"),
        ("c.zip", "repeats 1 files that lie beside it; those are used"),
        ("b.zip", "repeats 3 files of a.zip; the first is used"),
        ("c.zip", "repeats 3 files of a.zip; the first is used"),
    ]
    with Reader(tree.root) as reader:
        assert [reader.read(tree.files[name]) for name in names] == [b"0", b"1", b"2", b"3"]


def test_what_is_appended_to_a_zip_replaces_what_it_holds(tmp_path: Path) -> None:
    pack(tmp_path / "one.zip", {"a.png": b"old"})
    with zipfile.ZipFile(tmp_path / "one.zip", "a") as file, pytest.warns(UserWarning, match="Duplicate name"):
        file.writestr("a.png", b"new")
    tree = open_tree(tmp_path)
    [problem] = tree.problems
    assert problem.reason == "repeats 1 of its own files; the last is used"
    with Reader(tree.root) as reader:
        assert reader.read(tree.files["a.png"]) == b"new"


def test_a_folder_that_cannot_be_listed_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shut").mkdir()
    listed = os.scandir

    def refuse(path):
        if str(path).endswith("shut"):
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(os, "scandir", refuse)
    [problem] = open_tree(tmp_path).problems
    assert problem.file.endswith("shut")
    assert problem.reason == "cannot be listed (Permission denied)"


@settings(max_examples=60, deadline=None)
@given(
    place=st.integers(0, 3000),
    noise=st.binary(min_size=1, max_size=40),
    cut=st.one_of(st.none(), st.integers(0, 3000)),
)
def test_no_damage_to_a_zip_is_more_than_a_sentence(
    place: int, noise: bytes, cut: int | None, tmp_path_factory
) -> None:
    path = pack(tmp_path_factory.mktemp("damage") / "a.zip", {f"{i}.png": bytes([i]) * 400 for i in range(5)})
    data = path.read_bytes()
    path.write_bytes((data[:place] + noise + data[place + len(noise) :])[:cut])
    tree = open_tree(path)
    with Reader(tree.root) as reader:
        for location in tree.files.values():
            with contextlib.suppress(FrameError):
                assert reader.read(location) in [bytes([i]) * 400 for i in range(5)]
