"""Tars and tar.gz read in place: what is listed, what is left out, what is left of damaged ones."""

import gzip
import io
import os
import pickle
import random
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import make_shards, tree_bytes
from vdaprep.conversion.options import Settings
from vdaprep.errors import FrameError
from vdaprep.raw.archives import targz
from vdaprep.raw.archives.spans import GzipSpan
from vdaprep.raw.archives.targz import DamagedGzip, IndexedGzip
from vdaprep.raw.archives.tars import list_tar
from vdaprep.raw.tree import Reader, Tree, open_tree
from vdaprep.storage.range_reader import LocalFile, buffered

NOISE = random.Random(0).randbytes(400_000)
FILES = {f"e/{i}.png": NOISE[i * 10_000 : i * 10_000 + 9_000 + i] for i in range(12)} | {"e/empty.txt": b""}


def tar_bytes(files: dict[str, bytes], **header: object) -> bytes:
    """Pack files; `header` changes the last one's header."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            if name == list(files)[-1]:
                for field, value in header.items():
                    setattr(info, field, value)
            tar.addfile(info, io.BytesIO(data))
    return stream.getvalue()


def read_all(tree: Tree) -> dict[str, bytes]:
    with Reader(tree.root) as reader:
        return {path: reader.read(location) for path, location in tree.files.items()}


def sentences(tree: Tree) -> list[str]:
    return [f"{item.file} {item.reason}" for item in tree.problems]


@pytest.mark.parametrize("name", ["a.tar", "a.TAR", "a.tar.gz", "a.TGZ", "gzipped.tar", "plain.tar.gz"])
def test_members_are_read_in_place(name: str, tmp_path: Path) -> None:
    data = tar_bytes(FILES)
    gzipped = "gz" in name.lower() and name != "plain.tar.gz"
    (tmp_path / name).write_bytes(gzip.compress(data) if gzipped else data)
    tree = open_tree(tmp_path)
    assert tree.problems == ()
    assert read_all(tree) == FILES
    assert {isinstance(location.span, GzipSpan) for location in tree.files.values()} == {gzipped}
    assert sorted(path.name for path in tmp_path.iterdir()) == [name]


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz"])
def test_a_reader_looks_for_no_headers_and_inflates_from_seek_points(name: str, tmp_path: Path, monkeypatch) -> None:
    data = tar_bytes(FILES)
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    tree = pickle.loads(pickle.dumps(open_tree(tmp_path)))
    monkeypatch.setattr(tarfile, "open", None)
    monkeypatch.setattr(targz, "DamagedGzip", None)
    monkeypatch.setattr(subprocess, "run", None)
    assert read_all(tree) == FILES


def test_seek_points_that_went_away_cost_time_only(tmp_path: Path) -> None:
    (tmp_path / "a.tgz").write_bytes(gzip.compress(tar_bytes(FILES)))
    tree = open_tree(tmp_path)
    Path(next(iter(tree.files.values())).span.index).unlink()
    assert read_all(tree) == FILES


def test_seek_points_go_when_the_process_ends(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "temporary").mkdir()
    (tmp_path / "raw" / "a.tgz").write_bytes(gzip.compress(tar_bytes(FILES)))
    code = "import sys, os; from vdaprep.raw.tree import open_tree; open_tree(sys.argv[1])\n" \
        "[folder] = os.listdir(sys.argv[2]); assert len(os.listdir(sys.argv[2] + '/' + folder)) == 1"  # fmt: skip
    environment = {**os.environ, "TMPDIR": str(tmp_path / "temporary")}
    command = [sys.executable, "-c", code, tmp_path / "raw", tmp_path / "temporary"]
    subprocess.run(command, env=environment, check=True, cwd=Path(__file__).parents[3])
    assert list((tmp_path / "temporary").iterdir()) == []


@pytest.mark.parametrize("gzipped", [False, True])
def test_links_devices_and_names_that_leave_are_left_out_and_listed(gzipped: bool, tmp_path: Path) -> None:
    odd = {
        "link.png": {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"},
        "hard.png": {"type": tarfile.LNKTYPE, "linkname": "good.png"},
        "device": {"type": tarfile.CHRTYPE},
        "disk": {"type": tarfile.BLKTYPE},
        "pipe": {"type": tarfile.FIFOTYPE},
        "/etc/passwd": {},
        "a/../../evil.png": {},
        "folder": {"type": tarfile.DIRTYPE},
    }
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, fields in {"good.png": {}, **odd, "last.png": {}}.items():
            info = tarfile.TarInfo(name)
            for field, value in fields.items():
                setattr(info, field, value)
            info.size = 4 if not fields else 0
            tar.addfile(info, io.BytesIO(b"data"))
    data = gzip.compress(stream.getvalue()) if gzipped else stream.getvalue()
    (tmp_path / "a.tar").write_bytes(data)
    tree = open_tree(tmp_path)
    assert read_all(tree) == {"good.png": b"data", "last.png": b"data"}
    assert sentences(tree) == [
        "a.tar: link.png is a symbolic link; left out",
        "a.tar: hard.png is a hard link; left out",
        "a.tar: device is a device; left out",
        "a.tar: disk is a device; left out",
        "a.tar: pipe is a pipe; left out",
        "a.tar: /etc/passwd the name leads out of the archive; left out",
        "a.tar: a/../../evil.png the name leads out of the archive; left out",
    ]


def test_names_that_are_no_text_are_spelt_out(tmp_path: Path) -> None:
    data = tar_bytes({"e/Z.png": b"latin"}).replace(b"e/Z.png", b"e/\xe9.png")
    header = bytearray(data[:512])
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    (tmp_path / "a.tar").write_bytes(bytes(header) + data[512:])
    assert read_all(open_tree(tmp_path)) == {"e/\\xe9.png": b"latin"}


# ------------------------------------------------------------------------------------------------------------- damage


@pytest.mark.parametrize("gzipped", [False, True])
@pytest.mark.parametrize(
    ("cut", "members", "where"),
    [
        (5 * 9728 + 512 + 100, 5, ", inside e/5.png, which should have 9005 bytes"),
        (5 * 9728 + 300, 5, ""),
        (5 * 9728, 5, ""),
    ],
    ids=["in a member", "in a header", "between members"],
)
def test_what_comes_before_a_cut_is_used(gzipped: bool, cut: int, members: int, where: str, tmp_path: Path) -> None:
    assert tar_bytes(FILES)[5 * 9728 :].startswith(b"e/5.png")
    data = tar_bytes(FILES)[:cut]
    (tmp_path / "a.tar").write_bytes(gzip.compress(data) if gzipped else data)
    tree = open_tree(tmp_path)
    assert sentences(tree) == [f"a.tar is cut short after {members} members{where}; get it again to have the rest"]
    assert read_all(tree) == {f"e/{i}.png": FILES[f"e/{i}.png"] for i in range(5)}


@pytest.mark.parametrize("level", [0, 1, 9])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.9])
def test_a_gzip_that_is_cut_short(level: int, share: float, tmp_path: Path) -> None:
    data = gzip.compress(tar_bytes(FILES), level)
    (tmp_path / "a.tar.gz").write_bytes(data[: int(len(data) * share)])
    tree = open_tree(tmp_path)
    members = len(tree.files)
    assert abs(members - share * 12) <= 1
    [sentence] = sentences(tree)
    assert sentence.startswith(f"a.tar.gz is cut short after {members} members")
    assert read_all(tree) == {path: FILES[path] for path in tree.files}


def test_a_gzip_whose_end_is_damaged_is_all_used(tmp_path: Path) -> None:
    data = gzip.compress(tar_bytes(FILES))
    damage = (
        "a.tar.gz is damaged (Error -3 while decompressing data: incorrect data check), maybe inside one of its members"
    )
    for name, changed, expected in (
        ("crc", data[:-8] + b"????" + data[-4:], f"{damage}; get it again"),
        ("tail", data + b"tail" * 99, "a.tar.gz goes on for 396 bytes after its end, which are no gzip; get it again"),
        ("zeros", data + bytes(99_000), "a.tar.gz goes on for 99000 bytes of zeros after its end; get it again"),
        ("cut", data[:-3], "a.tar.gz makes rapidgzip fail ("),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.tar.gz").write_bytes(changed)
        tree = open_tree(tmp_path / name)
        assert read_all(tree) == FILES
        [sentence] = sentences(tree)
        assert sentence.startswith(expected)


def test_a_gzip_that_is_damaged_inside(tmp_path: Path) -> None:
    data = bytearray(gzip.compress(tar_bytes(FILES), 9))
    data[len(data) // 2 : len(data) // 2 + 20_000] = bytes(20_000)
    (tmp_path / "a.tar.gz").write_bytes(data)
    tree = open_tree(tmp_path)
    [sentence] = sentences(tree)
    assert f"after {len(tree.files)} members" in sentence
    found = read_all(tree)
    assert 5 <= len(found) <= 7
    assert found == {path: FILES[path] for path in found}


def test_gzips_of_several_parts(tmp_path: Path) -> None:
    data = tar_bytes(FILES)
    (tmp_path / "a.tar.gz").write_bytes(
        b"".join(gzip.compress(data[i : i + 30_000]) for i in range(0, len(data), 30_000))
    )
    assert read_all(open_tree(tmp_path)) == FILES
    content = DamagedGzip(LocalFile(str(tmp_path / "a.tar.gz")))
    assert (content.read(0, len(data) + 1), content.size) == (data, len(data))
    content.close()


@pytest.mark.parametrize("size", [1 << 20, 1 << 33, 1 << 62, 1 << 70])
@pytest.mark.parametrize("gzipped", [False, True])
def test_a_size_that_lies(size: int, gzipped: bool, tmp_path: Path) -> None:
    info = tarfile.TarInfo("liar.png")
    info.size = size
    liar = info.tobuf(tarfile.GNU_FORMAT)
    data = tar_bytes({"a.png": b"a" * 512})[:1024] + liar + bytes(2048)
    (tmp_path / "a.tar").write_bytes(gzip.compress(data) if gzipped else data)
    tree = open_tree(tmp_path)
    assert read_all(tree) == {"a.png": b"a" * 512}
    [sentence] = sentences(tree)
    assert sentence.startswith(f"a.tar is cut short after 1 members, inside liar.png, which should have {size} bytes")


def test_a_member_too_large_to_be_a_frame(tmp_path: Path) -> None:
    info = tarfile.TarInfo("huge.npy")
    info.size = 1 << 30
    with (tmp_path / "a.tar").open("wb") as file:
        file.write(info.tobuf())
        file.truncate((1 << 30) + 2048)
    tree = open_tree(tmp_path)
    with (
        Reader(tree.root) as reader,
        pytest.raises(FrameError, match="huge.npy: cannot be read .is larger than 256 MiB"),
    ):
        reader.read(tree.files["huge.npy"])


def test_a_damaged_header_ends_a_tar(tmp_path: Path) -> None:
    data = bytearray(tar_bytes(FILES))
    data[5 * 9728 + 150] ^= 1
    (tmp_path / "a.tar").write_bytes(data)
    tree = open_tree(tmp_path)
    assert sentences(tree) == ["a.tar is damaged after 5 members; get it again to have the rest"]
    assert len(read_all(tree)) == 5


@pytest.mark.parametrize(
    "data",
    [b"", b"<html>no</html>" * 99, b"\x1f\x8b", gzip.compress(b"no tar" * 999), b"\x1f\x8b" * 999],
    ids=["empty", "page", "two bytes", "gzip", "no gzip"],
)
def test_what_is_no_tar_is_listed_with_advice(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.tar.gz").write_bytes(data)
    tree = open_tree(tmp_path)
    assert tree.files == {}
    [problem] = tree.problems
    assert problem.reason.startswith("cannot be opened as an archive (")
    assert problem.reason.endswith("; get it again to have what it holds")


def test_an_archive_that_shrank_is_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(tar_bytes(FILES))
    tree = open_tree(tmp_path)
    os.truncate(path, 5000)
    with Reader(tree.root) as reader:
        with pytest.raises(
            FrameError, match="a.tar: e/0.png: cannot be read .has 9000 bytes, the archive ends after 4488"
        ):
            reader.read(tree.files["e/0.png"])
        with pytest.raises(
            FrameError, match="a.tar: e/9.png: cannot be read .has 9009 bytes, the archive ends after 0"
        ):
            reader.read(tree.files["e/9.png"])


@settings(max_examples=60, deadline=None)
@given(
    place=st.integers(0, 6 * 9728),
    noise=st.binary(min_size=1, max_size=600),
    cut=st.one_of(st.none(), st.integers(0, 6 * 9728)),
)
def test_no_damage_to_a_tar_is_more_than_a_sentence(
    place: int, noise: bytes, cut: int | None, tmp_path_factory
) -> None:
    data = tar_bytes({name: FILES[name] for name in list(FILES)[:6]})
    folder = tmp_path_factory.mktemp("damage")
    (folder / "a.tar").write_bytes((data[:place] + noise + data[place + len(noise) :])[:cut])
    tree = open_tree(folder)
    with Reader(tree.root) as reader:
        for location in tree.files.values():
            assert len(reader.read(location)) == location.span.size


# --------------------------------------------------------------------------------------------------------------- gzip


@pytest.fixture(scope="module")
def gzipped(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, bytes]:
    """A gzip of 3 MB, some of which packs well."""
    content = b"".join(NOISE[i * 7919 % 300_000 :][:60_000] + bytes(20_000) for i in range(40))
    path = tmp_path_factory.mktemp("gzip") / "a.gz"
    path.write_bytes(gzip.compress(content, 1))
    return str(path), content


@settings(max_examples=30, deadline=None)
@given(reads=st.lists(st.tuples(st.integers(0, 3_300_000), st.integers(0, 200_000)), min_size=1, max_size=12))
@pytest.mark.parametrize("step", [50_000, 4 << 20])
def test_damaged_gzips_are_read_in_any_order(reads: list[tuple[int, int]], step: int, gzipped) -> None:
    path, content = gzipped
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(targz, "_CHECKPOINT_STEP", step)
        patch.setattr(targz, "_CHECKPOINTS", 5)  # so that they are thinned out
        ranges = DamagedGzip(LocalFile(path))
        for offset, size in reads:
            assert ranges.read(offset, size) == content[offset : offset + size]
        assert ranges.size == len(content)
        ranges.close()


def test_whole_gzips_are_read_in_any_order(tmp_path: Path, gzipped) -> None:
    path, content = gzipped
    tar = tmp_path / "a.tar.gz"
    tar.write_bytes(gzip.compress(tar_bytes({"content": content})))
    [location] = open_tree(tmp_path).files.values()
    ranges = IndexedGzip(str(tar), location.span.index)
    for offset in (2_000_000, 0, 700_000, len(content) - 5):
        assert ranges.read(location.span.offset + offset, 70_000) == content[offset : offset + 70_000].ljust(
            min(70_000, ranges.size - location.span.offset - offset), b"\0"
        )
    ranges.close()


def test_a_damaged_list_of_seek_points_leaves_nothing_open(tmp_path: Path, gzipped) -> None:
    (tmp_path / "bad.index").write_bytes(b"no index")
    with pytest.raises((ValueError, RuntimeError)):
        IndexedGzip(gzipped[0], str(tmp_path / "bad.index"))


MEASURE = """
import random, sys
from tests.memory import peak_kib
from vdaprep.raw.tree import Reader, open_tree
tree = open_tree(sys.argv[1])
members = list(tree.files.values())
random.Random(1).shuffle(members)
with Reader(tree.root) as reader:
    total = sum(len(reader.read(member)) for member in members)
print(total, peak_kib() >> 10)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_does_not_grow_with_the_archive(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "a.tar.gz", "wb", compresslevel=1) as file:
        file.write(tar_bytes({f"{i:03d}.png": random.Random(i).randbytes(3_000_000) for i in range(40)}))
    command = [sys.executable, "-c", MEASURE, tmp_path]
    output = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[3]).stdout
    total, peak_mib = map(int, output.split())
    assert total == 120_000_000
    assert peak_mib < 200  # 103 when this was written


# ------------------------------------------------------------------------------------------------------------- shards


@pytest.mark.slow
def test_shards_from_tars_are_those_from_folders(raw, tmp_path: Path) -> None:
    files = {path.relative_to(raw.root).as_posix(): path.read_bytes() for path in sorted(raw.root.rglob("*.*"))}
    images = {name: data for name, data in files.items() if "depth_left" not in name}
    depths = {name: data for name, data in files.items() if "image_left" not in name}  # the poses lie in both
    (tmp_path / "tars").mkdir()
    (tmp_path / "tars" / "image.tar").write_bytes(tar_bytes(images))
    (tmp_path / "tars" / "depth.tar.gz").write_bytes(gzip.compress(tar_bytes(depths), 1))
    for name, root in (("loose", raw.root), ("tars", tmp_path / "tars")):
        wanted = Settings(frames_per_shard=6)
        made = make_shards("tartanair", raw=root, out=tmp_path / "out" / name, settings=wanted, workers=2)
        assert made.rejected == ()
    assert len(tree_bytes(tmp_path / "out" / "loose")) > 6
    assert tree_bytes(tmp_path / "out" / "loose") == tree_bytes(tmp_path / "out" / "tars")


def test_a_local_file_gives_no_more_than_it_has(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"0123456789")
    file = LocalFile(str(tmp_path / "a"))
    assert [file.read(8, 1 << 40), file.read(10, 1), file.read(1 << 80, 1), file.read(3, 0)] == [b"89", b"", b"", b""]
    with buffered(file) as stream:
        assert (stream.seek(-3, os.SEEK_END), stream.read(), stream.tell()) == (7, b"789", 10)
        with pytest.raises(ValueError, match="nothing at offset -1"):
            stream.seek(-1)
    file.close()
    file.close()


def test_a_tar_is_listed_without_reading_its_members(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(tar_bytes({f"{i}.png": bytes(100_000) for i in range(20)}))
    file = LocalFile(str(tmp_path / "a.tar"))
    read: list[int] = []

    class Counted:
        size = file.size

        def read(self, offset: int, size: int) -> bytes:
            read.append(size)
            return file.read(offset, size)

        def close(self) -> None: ...

    assert len(list_tar(buffered(Counted())).names) == 20
    file.close()
    assert sum(read) < 100_000
    assert len(read) < 3 * 20
