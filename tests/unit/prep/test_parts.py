"""Archives in parts: read as the whole is, and what is wrong with their parts named with what to do."""

import gzip
import lzma
import os
from collections.abc import Callable
from pathlib import Path
from string import ascii_lowercase

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.serving import serve
from tests.unit.prep.conftest import Bucket
from tests.unit.prep.test_archive_cases import read_all, sentences, zip_bytes
from tests.unit.prep.test_archive_tars import FILES, NOISE, tar_bytes
from vdaprep.raw.archives import targz
from vdaprep.raw.archives.parts import files_of, find_series
from vdaprep.raw.archives.spans import GzipSpan
from vdaprep.raw.tree import open_tree
from vdaprep.storage.range_reader import Blocks, InMemory, Joined

TAR, ZIP = tar_bytes(FILES), zip_bytes(FILES)
GZ = gzip.compress(TAR)
SIZE = 30_000  # of a part: 5 of a tar, 4 of a tar.gz and of a zip


def cut(data: bytes, size: int = SIZE) -> list[bytes]:
    """Cut as `split -b` does."""
    return [data[at : at + size] for at in range(0, len(data), size)]


def write(folder: Path, names: list[str], parts: list[bytes]) -> None:
    folder.mkdir(exist_ok=True)
    for name, part in zip(names, parts, strict=True):
        (folder / name).write_bytes(part)


NAMINGS: dict[str, tuple[str, Callable[[int], str]]] = {
    "partaa": ("a.tar.gz", lambda i: f".parta{'abcde'[i]}"),
    "aa": ("a.tar.gz", lambda i: f".a{'abcde'[i]}"),
    "part-aa": ("a.tgz", lambda i: f".part-a{'abcde'[i]}"),
    "part00": ("a.tar.gz", lambda i: f".part{i:02d}"),
    "part1": ("a.tar", lambda i: f".part{i + 1}"),
    "part8 to part12": ("a.tar", lambda i: f".part{i + 1}"),
    "part1of5": ("a.tar", lambda i: f".part{i + 1}of5"),
    "001": ("a.zip", lambda i: f".{i + 1:03d}"),
    "00": ("a.tar", lambda i: f".{i:02d}"),
    "_aa": ("a.tar", lambda i: f"_a{'abcde'[i]}"),
    "PARTAA": ("a.TAR.GZ", lambda i: f".PARTA{'ABCDE'[i]}"),
}


@pytest.mark.parametrize("case", NAMINGS)
def test_the_parts_of_an_archive_are_read_as_the_whole(case: str, tmp_path: Path) -> None:
    whole, ending = NAMINGS[case]
    data = {"tar": TAR, "zip": ZIP}.get(whole.rpartition(".")[2], GZ)
    size = SIZE if case != "part8 to part12" else len(data) // 11
    parts = cut(data, size)
    write(tmp_path, [f"{whole}{ending(i)}" for i in range(len(parts))], parts)
    tree = open_tree(tmp_path)
    assert (read_all(tree), sentences(tree)) == (FILES, "")
    assert {location.container for location in tree.files.values()} == {whole}
    archive = tree.archives[whole]
    assert (archive.bytes, archive.members, archive.accounted) == (len(data), len(FILES), True)
    assert [(tmp_path / name).read_bytes() for name in archive.files] == parts
    assert {isinstance(location.span, GzipSpan) for location in tree.files.values()} == {data is GZ}


@pytest.mark.parametrize(
    ("names", "whole"),
    [
        ([f"a.tar.{i:02d}" for i in range(90)] + ["a.tar.9000", "a.tar.9001"], True),
        ([f"a.tar.{i:02d}" for i in range(100)], True),
        ([f"a.zip.{a}{b}" for a in ascii_lowercase[:-1] for b in ascii_lowercase] + ["a.zip.zaaa", "a.zip.zaab"], True),
        (["a.tar.az", "a.tar.ba"], False),
        (["a.tar.89", "a.tar.9000"], False),
    ],
    ids=["after 89", "to 99", "after yz", "from az", "from 89"],
)  # fmt: skip
def test_parts_are_in_the_order_in_which_split_counts(names: list[str], whole: bool) -> None:
    [series] = find_series(reversed(names))
    assert (series.parts, series.files) == (tuple(names) if whole else (), tuple(names))
    assert bool(series.fault) != whole


@pytest.mark.parametrize(
    "name",
    ["a.tar.gz", "a.tar.xz", "a.zip.1", "a.zip.gz", "a.zip.bak", "a.tar.gz.asc", "a.tar.gz.part", "a.zip.partial",
     "a.tar-20240131", "a.rar.001", "a_part1.zip", "000.png", "zip.aa"],
)  # fmt: skip
def test_what_is_called_otherwise_is_no_part(name: str) -> None:
    assert find_series([name]) == []


A, B, C, D, E = (f"a.tar.gz.parta{letter}" for letter in "abcde")
TARS = [f"a.tar.part{number}" for number in range(1, 6)]
ZIPS = [f"a.zip.{number:03d}" for number in range(1, 5)]
OTHER = gzip.compress(tar_bytes({f"f/{i}.png": NOISE[i * 9000 :][:9000] for i in range(12)}))
G, T, Z = cut(GZ), cut(TAR), cut(ZIP)
assert (len(G), len(T), len(Z)) == (4, 5, 4)

FAULTS: dict[str, tuple[list[str], list[bytes], int, str]] = {
    "gz, the first is missing": (
        [B, C, D], G[1:], 0, f"cannot be opened as an archive (it lacks its first part, {A}; get it)",
    ),
    "gz, one in the middle is missing": (
        [A, B, D], [*G[:2], G[3]], 6, "is cut short after 6 members, inside e/6.png, which should have 9006 bytes; "
        f"its part {C} is missing, as {D} is there; get it",
    ),
    "gz, the last is missing": (
        [A, B, C], G[:3], 9, "is cut short after 9 members, inside e/9.png, which should have 9009 bytes; a part "
        f"{D} should follow, as {C} is as large as the others; get it",
    ),
    "gz, one alone": (
        [A], G[:1], 3, "is cut short after 3 members, inside e/3.png, which should have 9003 bytes; either its "
        f"part {A} was not downloaded to its end or a part {B} is missing; get them",
    ),
    "gz, one is short": (
        [A, B, C, D], [G[0], G[1][:9000], *G[2:]], 4, "is cut short after 4 members, inside e/4.png, "
        f"which should have 9004 bytes; its part {B} has 9000 bytes, others have 30000: its download broke off; get",
    ),
    "gz, the last is short": (
        [A, B, C, D], [*G[:3], G[3][:9000]], 10, f"; either its part {D} was not downloaded to its end or a",
    ),
    "gz, one is empty": (
        [A, B, C, D], [G[0], b"", *G[2:]], 3, f"; its part {B} is none: it is empty",
    ),
    "gz, one is damaged, being of another archive": (
        [A, B, C, D], [*G[:2], cut(OTHER)[2], G[3]], 6, f"; that is in its part {C}, which is",
    ),
    "gz, one is damaged": (
        [A, B, C, D], [*G[:2], NOISE[:SIZE], G[3]], 6, f"; that is in its part {C}, which is damaged or of",
    ),
    "gz, two are exchanged": (
        [A, B, C, D], [G[1], G[0], *G[2:]], 0, "cannot be opened as an archive (it begins as no archive does; "
        f"{B} begins as an archive, {A} does not: the parts are out of order, or of several archives)",
    ),
    "gz, one is too many": (
        [A, B, C, D, E], [*G, NOISE[:9000]], 13, f"which are no gzip; that is in its part {E}, which is damaged or of",
    ),
    "gz, one is a web page": (
        [A, B, C, D], [*G[:2], b"<!DOCTYPE html><html>no</html>" * 99, G[3]], 6, "which should have 9006 bytes; its "
        f"part {C} is none: it is a web page, which a server sent instead of the file",
    ),
    "gz, the first is a pointer": (
        [A, B], [b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 3\n"] * 2, 0, "cannot be opened as "
        f"an archive (its part {A} is none: it is a pointer of git-lfs, not the file: git lfs pull gets that)",
    ),
    "gz, they are of another kind": (
        [A, B], cut(lzma.compress(TAR), 60_000), 0, "unpack it: xz -d -k a.tar.gz)",
    ),
    "tar, one in the middle is missing": (
        [TARS[0], *TARS[2:]], [T[0], *T[2:]], 3, "; its part a.tar.part2 is missing, as a.tar.part3 is there",
    ),
    "tar, one is short": (
        TARS, [T[0][:28_000], *T[1:]], 2, "is cut short after 2 members, inside e/2.png, which should have 9002 "
        "bytes; its part a.tar.part1 has 28000 bytes, others have 30000: its download broke off; get it again",
    ),
    "tar, one is damaged": (
        TARS, [*T[:2], NOISE[:SIZE], *T[3:]], 7, "is damaged after 7 members; that is in its part a",
    ),
    "tar, one is all zeros": (
        TARS, [*T[:2], bytes(SIZE), *T[3:]], 7, "; that is in its part a.tar.part3, which is damaged or of",
    ),
    "tar, they are numbered twice": (
        ["a.tar.part1", "a.tar.part01"], [TAR, TAR], 0, "(it has two files for one part, a.tar.part01 and a.tar.part1;",
    ),
    "tar, there are two series": (
        ["a.tar.part1", "a.tar.02"], cut(TAR, 80_000), 0, "(it has parts of two series, a.tar.part1 and a.tar.02; keep",
    ),
    "tar, not as many as their names say": (
        [f"a.tar.part{i}of6" for i in range(1, 6)], T, 13, "5 of its 6 parts are there, up to a.tar.part5of6; get",
    ),
    "zip, the first is missing": (
        ZIPS[1:], Z[1:], 0, "(it lacks its first part, a.zip.000 or a.zip.001; get it)",
    ),
    "zip, one in the middle is missing": (
        [*ZIPS[:2], ZIPS[3]], [*Z[:2], Z[3]], 0, "; its part a.zip.003 is missing, as a.zip.004 is there; get",
    ),
    "zip, one is short": (
        ZIPS, [Z[0], Z[1][:9000], *Z[2:]], 0, "; its part a.zip.002 has 9000 bytes, others have 30000",
    ),
    "zip, the last is missing": (
        ZIPS[:3], Z[:3], 0, "has no directory at its end; a part a.zip.004 should follow, as a.zip.003 is as large",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", FAULTS)
def test_what_is_wrong_with_parts_is_named_with_what_to_do(case: str, tmp_path: Path) -> None:
    names, parts, members, sentence = FAULTS[case]
    write(tmp_path, names, parts)
    tree = open_tree(tmp_path)
    assert sentence in sentences(tree)
    found = read_all(tree)
    assert list(found) == list(FILES)[:members]
    doubtful = list(found)[-1:] if "damaged" in case or "zeros" in case else []  # nothing tells where damage begins
    assert all(found[name] == FILES[name] for name in found if name not in doubtful)
    assert {problem.file for problem in tree.problems} == {f"a.{case.partition(',')[0].replace('gz', 'tar.gz')}"}
    assert not any(archive.accounted for archive in tree.archives.values())


def test_parts_of_any_sizes_are_read(tmp_path: Path) -> None:
    write(tmp_path, [A, B, C], [GZ[:100], GZ[100:90_000], GZ[90_000:]])
    assert (read_all(open_tree(tmp_path)), sentences(open_tree(tmp_path))) == (FILES, "")
    write(tmp_path, [A, B, C], [GZ[:100], GZ[100:60_000], GZ[60_000:-9000]])
    tree = open_tree(tmp_path)
    assert len(read_all(tree)) > 9
    assert "is cut short after" in sentences(tree)


def test_a_whole_archive_is_read_instead_of_its_parts(tmp_path: Path) -> None:
    write(tmp_path, ["a.tar.gz", A, B], [GZ, GZ[:9000], GZ[9000:]])
    tree = open_tree(tmp_path)
    assert read_all(tree) == FILES
    assert sentences(tree) == f"{A} is a part of a.tar.gz, which lies beside it and is read; delete either"
    assert tree.archives["a.tar.gz"].files == ("a.tar.gz",)


def test_one_part_stands_for_all_as_raw_data(tmp_path: Path) -> None:
    write(tmp_path, [A, B, "other.tar"], [GZ[:9000], GZ[9000:], TAR])
    for name in (A, B):
        tree = open_tree(tmp_path / name)
        assert list(tree.archives) == ["a.tar.gz"]
        assert read_all(tree) == FILES


def test_links_to_parts_are_followed_and_repeat_nothing(tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    (tmp_path / "raw").mkdir()
    for name, part in ((A, GZ[:9000]), (B, GZ[9000:])):
        (tmp_path / "blobs" / name).write_bytes(part)
        (tmp_path / "raw" / name).symlink_to(tmp_path / "blobs" / name)
    for folder in (tmp_path / "raw", tmp_path):
        tree = open_tree(folder)
        assert (read_all(tree), sentences(tree), len(tree.archives)) == (FILES, "", 1)


def test_an_archive_is_listed_again_once_a_part_has_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, [A, B], [GZ[:9000], GZ[9000:]])
    first = open_tree(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(targz, "make_seek_points", None)
        assert dict(open_tree(tmp_path).files.items()) == dict(first.files.items())
    other = gzip.compress(tar_bytes({"f/0.png": b"other"}))
    (tmp_path / B).write_bytes(b"")
    assert sentences(open_tree(tmp_path)).startswith("a.tar.gz is cut short")
    write(tmp_path, [A, B], [other[:50], other[50:]])
    assert read_all(open_tree(tmp_path)) == {"f/0.png": b"other"}


# ----------------------------------------------------------------------------------------------------------- servers


@pytest.mark.parametrize("lists", [True, False])
@pytest.mark.parametrize(("whole", "data"), [("a.tar", TAR), ("a.zip", ZIP)])
def test_parts_on_a_server_are_read_by_ranges(
    whole: str, data: bytes, lists: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "*")
    parts = cut(data)
    names = [f"{whole}.parta{letter}" for letter in "abcde"[: len(parts)]]
    write(tmp_path, names, parts)
    with serve(tmp_path) as server:
        server.lists = lists
        server.token = "" if lists else "secret"
        query = "" if lists else "?token=secret"
        url = f"{server.url}/" if lists else ",".join(f"{server.url}/{name}{query}" for name in reversed(names))
        tree = open_tree(url)
        assert (read_all(tree), sentences(tree)) == (FILES, "")
        assert {str(location).partition(": ")[0] for location in tree.files.values()} == {f"{server.url}/{whole}"}
        [archive] = tree.archives
        assert files_of(archive) == [f"{server.url}/{name}{query}" for name in names]
        asked = sum(server.asked.values())
        assert asked < 80  # 5 sizes and 5 reads at least; a member across a border takes two
        (tmp_path / names[1]).unlink()
        if lists:
            [problem] = open_tree(url).problems
            assert f"its part {names[1]} is missing, as {names[2]} is there; get it" in problem.reason
            assert problem.file == f"{server.url}/{whole}"


def test_parts_of_a_gzip_on_a_server_are_to_be_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    write(tmp_path, [A, B], [GZ[:9000], GZ[9000:]])
    with serve(tmp_path) as server:
        server.lists = True
        [problem] = open_tree(f"{server.url}/").problems
    assert "a tar.gz cannot be read in parts from a server; download it first" in problem.reason


@pytest.mark.s3
def test_parts_in_an_object_store_are_read_by_ranges(bucket: Bucket) -> None:
    for number, part in enumerate(T):
        bucket.put(f"raw/a.tar.part{number + 1}", part)
    for root in (f"{bucket.url}/raw", ",".join(f"{bucket.url}/raw/{name}" for name in TARS)):
        tree = open_tree(root)
        assert (read_all(tree), sentences(tree)) == (FILES, "")


# ------------------------------------------------------------------------------------------------------ joined ranges


@settings(max_examples=100, deadline=None)
@given(
    data=st.data(),
    sizes=st.lists(st.integers(0, 40), min_size=1, max_size=6),
    reads=st.lists(st.tuples(st.integers(0, 260), st.integers(0, 1 << 40)), min_size=1, max_size=20),
)
def test_joined_files_read_as_one(data, sizes: list[int], reads: list[tuple[int, int]], tmp_path_factory) -> None:
    folder = tmp_path_factory.mktemp("joined")
    contents = [data.draw(st.binary(min_size=size, max_size=size)) for size in sizes]
    names = [str(folder / str(index)) for index in range(len(sizes))]
    for name, content in zip(names, contents, strict=True):
        Path(name).write_bytes(content)
    whole = b"".join(contents)
    joined = Joined(names)
    assert (joined.size, joined.sizes) == (len(whole), sizes)
    for offset, size in [*reads, (0, len(whole))]:
        assert joined.read(offset, size) == whole[offset : offset + size]
    joined.close()
    joined.close()


@settings(max_examples=100, deadline=None)
@given(
    reads=st.lists(st.tuples(st.integers(0, 260), st.integers(0, 1 << 40)), min_size=1, max_size=20),
    block_bytes=st.integers(1, 300),
)
def test_blocks_of_a_file_read_as_it_does(reads: list[tuple[int, int]], block_bytes: int) -> None:
    blocks = Blocks(InMemory(NOISE[:200]), block_bytes=block_bytes)
    assert blocks.size == 200
    for offset, size in reads:
        assert blocks.read(offset, size) == NOISE[:200][offset : offset + size]


def test_joined_files_hold_one_file_open(tmp_path: Path) -> None:
    names = [str(tmp_path / str(index)) for index in range(30)]
    for name in names:
        Path(name).write_bytes(b"0123456789")
    before = len([*Path("/dev/fd").iterdir()])
    joined = Joined(names)
    assert joined.read(0, 300) == b"0123456789" * 30
    assert len([*Path("/dev/fd").iterdir()]) == before + 1
    os.truncate(names[3], 4)  # after its size was taken
    assert joined.read(25, 300) == b"567890123"
    joined.close()
    assert len([*Path("/dev/fd").iterdir()]) == before
