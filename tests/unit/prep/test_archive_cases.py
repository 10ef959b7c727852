"""What people's copies of archives look like: each is read, or named with what to do, and none vanishes in part."""

import bz2
import gzip
import io
import lzma
import os
import struct
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.unit.prep.test_archive_tars import tar_bytes
from vdaprep.raw.tree import Reader, Tree, open_tree

FIRST = {f"e/{i}.png": bytes([i]) * (700 + i) for i in range(6)}
SECOND = {f"f/{i}.png": bytes([i + 50]) * (700 + i) for i in range(6)}
NOISE = os.urandom(5000).replace(b"PK", b"KP")


def zip_bytes(files: dict[str, bytes], *, method: int = zipfile.ZIP_DEFLATED, streamed: bool = False) -> bytes:
    """Pack files; `streamed` as programs do that write to a pipe: sizes come after the members."""
    stream = io.BytesIO()

    class Pipe(io.RawIOBase):
        def writable(self) -> bool:
            return True

        def write(self, data) -> int:
            return stream.write(data)

    with zipfile.ZipFile(Pipe() if streamed else stream, "w", method) as file:
        for name, data in files.items():
            file.writestr(name, data)
    return stream.getvalue()


def stored(files: dict[str, bytes]) -> bytes:
    return zip_bytes(files, method=zipfile.ZIP_STORED)


def below(folder: str, files: dict[str, bytes]) -> dict[str, bytes]:
    return {folder + name: data for name, data in files.items()}


def hidden(data: bytes, name: str) -> bytes:
    """Take a member out of a zip's directory; its bytes stay."""
    entry = data.rindex(b"PK\1\2", 0, data.rindex(name.encode()))
    length = 46 + sum(struct.unpack_from("<3H", data, entry + 28))
    end = bytearray(data[data.rindex(b"PK\5\6") :])
    here, members, size, offset = struct.unpack_from("<2H2I", end, 8)
    struct.pack_into("<2H2I", end, 8, here - 1, members - 1, size - length, offset)
    return data[:entry] + data[entry + length : data.rindex(b"PK\5\6")] + bytes(end)


def zip64_bytes(files: dict[str, bytes]) -> bytes:
    """Pack files with sizes of 64 bits."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        for name, data in files.items():
            with file.open(name, "w", force_zip64=True) as member:
                member.write(data)
    return stream.getvalue()


TAR, TAR2, ZIP, ZIP2 = tar_bytes(FIRST), tar_bytes(SECOND), zip_bytes(FIRST), zip_bytes(SECOND)
GZ, GZ2 = gzip.compress(TAR), gzip.compress(TAR2)
BOTH = FIRST | SECOND

WHOLE: dict[str, tuple[str, bytes, dict[str, bytes]]] = {
    "tar": ("a.tar", TAR, FIRST),
    "two tars": ("a.tar", TAR + TAR2, BOTH),
    "two tars without records": ("a.tar", TAR[: 6 * 1536] + bytes(1024) + TAR2, BOTH),
    "a tar after an empty one": ("a.tar", bytes(10_240) + TAR, FIRST),
    "two zips": ("a.zip", ZIP + ZIP2, BOTH),
    "three zips": ("a.zip", ZIP + ZIP2 + zip_bytes({"g/0.png": b"g"}), BOTH | {"g/0.png": b"g"}),
    "two gzips": ("a.tar.gz", GZ + GZ2, BOTH),
    "two tars in a gzip": ("a.tgz", gzip.compress(TAR + TAR2), BOTH),
    "one end block": ("a.tar", TAR[: 6 * 1536 + 512], FIRST),
    "padding behind a zip": ("a.zip", ZIP + bytes(2000), FIRST),
    "a zip with a comment": ("a.zip", ZIP[:-2] + b"\5\0hello", FIRST),
    "a program before a zip": ("a.zip", b"MZ" + NOISE + ZIP, FIRST),
    "a script before a zip": ("a.zip", b"#!/bin/sh\nexit\n" + ZIP, FIRST),
    "stored": ("a.zip", zip_bytes(FIRST, method=zipfile.ZIP_STORED), FIRST),
    "streamed": ("a.zip", zip_bytes(FIRST, streamed=True), FIRST),
    "zip64": ("a.zip", zip64_bytes(FIRST), FIRST),
    "one piece of a split": ("a.zip", b"PK00" + ZIP, FIRST),
    "a tar called zip": ("a.zip", TAR, FIRST),
    "a zip called tar": ("a.tar", ZIP, FIRST),
    "a zip called tar.gz": ("a.tar.gz", ZIP, FIRST),
    "a gzip called tar": ("a.tar", GZ, FIRST),
    "a gzip called zip": ("a.zip", GZ, FIRST),
    "backslashes": ("a.zip", ZIP.replace(b"e/", b"e\\"), FIRST),
    "accents apart": ("a.zip", zip_bytes({"cafe\u0301/0.png": b"x"}), {"caf\u00e9/0.png": b"x"}),
    "UTF-8 without the flag": ("a.zip", zip_bytes({"éé/0.png": b"x"}).replace(b"\0\x08", b"\0\0"), {"éé/0.png": b"x"}),
    "a zip stored in a zip": ("a.zip", stored({"d/b.zip": ZIP, **SECOND}), below("d/", FIRST) | SECOND),
    "a zip in a tar": ("a.tar", tar_bytes({"b.zip": ZIP, **SECOND}), BOTH),
    "a tar stored in a zip": ("a.zip", stored({"d/b.tar": TAR}), below("d/", FIRST)),
    "two of the same paths in a zip": (
        "a.zip", stored({"d/b.zip": ZIP, "d/c.zip": ZIP}), below("d/b/", FIRST) | below("d/c/", FIRST),
    ),
    "needless dots": ("a.zip", zip_bytes({"./e//./0.png": b"x"}), {"e/0.png": b"x"}),
}  # fmt: skip


def read_all(tree: Tree) -> dict[str, bytes]:
    with Reader(tree.root) as reader:
        return {path: reader.read(location) for path, location in tree.files.items()}


def sentences(tree: Tree) -> str:
    return "; ".join(f"{item.file} {item.reason}" for item in tree.problems)


@pytest.mark.parametrize("case", WHOLE)
def test_whole_archives_are_read_to_their_ends(case: str, tmp_path: Path) -> None:
    name, data, files = WHOLE[case]
    (tmp_path / name).write_bytes(data)
    tree = open_tree(tmp_path)
    assert (read_all(tree), sentences(tree)) == (files, "")
    assert tree.archives[name].accounted
    assert (tree.archives[name].bytes, tree.archives[name].members) == (len(data), len(files))


LARGE = {f"e/{i}.png": bytes([i + 1]) * 7000 for i in range(9)}
PARTIAL: dict[str, tuple[str, bytes, int, str]] = {
    "zeros behind a tar": ("a.tar", TAR + bytes(100_000), 6, "bytes of zeros at its end: it may be a download that"),
    "zeros behind a zip": ("a.zip", ZIP + bytes(3_000_000), 6, "has 3000000 bytes of zeros after its end"),
    "zeros behind a gzip": ("a.tar.gz", GZ + bytes(99_000), 6, "goes on for 99000 bytes of zeros after its end"),
    "zeros from the middle of a tar": ("a.tar", tar_bytes(LARGE)[:30_000] + bytes(50_000), 4, "of zeros at its end"),
    "a hole in a tar": ("a.tar", TAR + bytes(51_200) + TAR2, 12, "bytes of zeros after 6 members: it may be a"),
    "noise behind a tar": ("a.tar", TAR + NOISE, 6, "goes on for 5000 bytes after its end, which are no tar"),
    "noise behind a zip": ("a.zip", ZIP + NOISE, 6, "goes on for 5000 bytes after its end, which are no zip"),
    "much noise behind a zip": ("a.zip", ZIP + NOISE * 500, 6, "goes on for 2500000 bytes after its end"),
    "noise behind a gzip": ("a.tgz", GZ + NOISE, 6, "goes on for 5000 bytes after its end, which are no gzip"),
    "a zip behind a tar": ("a.tar", TAR + ZIP2, 6, "bytes after its end, which are no tar"),
    "a tar behind a zip": ("a.zip", ZIP + TAR2, 6, "goes on for 10240 bytes after its end, which are no zip"),
    "a gzip behind a zip": ("a.zip", ZIP + GZ2, 6, "bytes after its end, which are no zip"),
    "half a zip before a zip": ("a.zip", ZIP[:300] + ZIP2, 6, "begins with 300 bytes of another archive"),
    "a tar's half before a zip": ("a.zip", b"junk" + ZIP[:300] + ZIP2, 6, "has files in its first 304 bytes"),
    "first member hidden": ("a.zip", hidden(ZIP, "e/0.png"), 5, "or of files that its directory leaves out"),
    "a member hidden": ("a.zip", hidden(ZIP, "e/3.png"), 5, "bytes between its members that its directory leaves out"),
    "last member hidden": ("a.zip", hidden(ZIP, "e/5.png"), 5, "bytes between its members that its directory leaves"),
    "a streamed member hidden": ("a.zip", hidden(zip_bytes(FIRST, streamed=True), "e/3.png"), 5, "leaves out"),
    "a tar without its end": ("a.tar", TAR[: 3 * 1536], 3, "is cut short after 3 members; get it again"),
    "a gzip without its end": ("a.tar.gz", GZ[:-40], 4, "is cut short after 4 members"),
    "a zip in a zip": ("a.zip", zip_bytes({"b.zip": ZIP, **FIRST}), 7, "is an archive packed inside another; unpack"),
    "a tar.gz in a zip": ("a.zip", stored({"b.tar.gz": GZ, **FIRST}), 7, "is an archive packed inside another; unpack"),
    "half a tar in a zip": ("a.zip", stored({"b.tar": TAR[:4608], **SECOND}), 9, "holds b.tar, which is cut short"),
    "a name that leaves a zip in a zip": ("a.zip", stored({"d/b.zip": zip_bytes({"../x": b""})}), 0, "d/../x the name"),
    "control characters": ("a.zip", zip_bytes({"e/\x1b[31m.png": b"", **FIRST}), 6, r"\x1b[31m.png has control"),
    "a line in a name": ("a.tar", tar_bytes({"e/a\nb.png": b"", **FIRST}), 6, r"e/a\x0ab.png has control characters"),
    "NUL in a name": ("a.zip", zip_bytes({"e/aXb.png": b"", **FIRST}).replace(b"aXb", b"a\0b"), 6, r"e/a\x00b.png has"),
    "a name that leaves": ("a.zip", zip_bytes({"..\\..\\evil.png": b"", **FIRST}), 6, "leads out of the archive"),
}  # fmt: skip


@pytest.mark.parametrize("case", PARTIAL)
def test_what_is_not_read_of_an_archive_is_named(case: str, tmp_path: Path) -> None:
    name, data, members, sentence = PARTIAL[case]
    (tmp_path / name).write_bytes(data)
    tree = open_tree(tmp_path)
    assert len(read_all(tree)) == members
    assert sentence in sentences(tree)
    assert len(tree.problems) == 1
    assert tree.problems[0].file.startswith(name)  # which keeps --consume from deleting it


UNREAD: dict[str, tuple[str, bytes, str]] = {
    "tar.xz": ("a.tar.xz", lzma.compress(TAR), "is packed by xz, which cannot be read in place; unpack it: xz -d -k a"),
    "txz": ("a.txz", lzma.compress(TAR), "unpack it: xz -d -k a.txz"),
    "tar.bz2": ("a.tar.bz2", bz2.compress(TAR), "unpack it: bzip2 -d -k a.tar.bz2"),
    "tar.zst": ("a.tar.zst", b"\x28\xb5\x2f\xfd", "unpack it: zstd -d a.tar.zst"),
    "xz called tar": ("a.tar", lzma.compress(TAR), "it is packed by xz, which cannot be read in place; unpack it: xz"),
    "bzip2 called tar.gz": ("a.tar.gz", bz2.compress(TAR), "unpack it: bzip2 -d -k a.tar.gz"),
    "7z": ("a b.7z", b"", "unpack it: 7z x 'a b.7z'"),
    "7z called zip": ("a.zip", b"7z\xbc\xaf\x27\x1c" + NOISE, "it is packed by 7-Zip"),
    "rar": ("a.rar", b"Rar!\x1a\x07\0", "unpack it: unrar x a.rar"),
    "piece of a rar": ("a.part2.rar", b"", "is a piece of a split RAR archive"),
    "7z.001": ("a.7z.001", b"", "join the pieces: cat a.7z.* > a.7z"),
    "z01": ("a.z01", ZIP[:500], "join the pieces: zip -s 0 a.zip --out a-whole.zip"),
    "tar.xz.partaa": ("a.tar.xz.partaa", lzma.compress(TAR), "join the pieces: cat a.tar.xz.* > a.tar.xz"),
    "a part's part": ("a.tar.gz.partaa.part", GZ[:500], "is a download that was not finished"),
    "part": ("a.zip.part", ZIP[:500], "is a download that was not finished"),
    "crdownload": ("a.tar.gz.crdownload", GZ[:50], "is a download that was not finished"),
    "a second download": ("a.zip.1", ZIP, "rename it to end in .zip"),
    "a download with a query": ("a.zip?download=1&x=2", ZIP, "rename it to end in .zip"),
    "page": ("a.zip", b"<!DOCTYPE html><html>no</html>" * 99, "it is a web page, which a server sent instead"),
    "page with white space": ("a.tar.gz", b"\n\n <HTML><body>", "it is a web page"),
    "git-lfs": ("a.tar", b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 3\n", "git lfs pull"),
    "message": ("a.zip", b"<?xml version='1.0'?><Error><Code>AccessDenied</Code>", "it is a message of a server"),
    "zeros called tar": ("a.tar", bytes(1 << 20), "holds nothing but zeros: it was not downloaded"),
    "zeros called zip": ("a.zip", bytes(1 << 20), "holds nothing but zeros: it was not downloaded"),
    "zeros called tar.gz": ("a.tar.gz", bytes(99), "holds nothing but zeros: it was not downloaded"),
    "gzip of zeros": ("a.tar.gz", gzip.compress(bytes(1 << 20)), "it holds nothing but zeros"),
    "empty": ("a.tar", b"", "it is empty"),
    "cut zip": ("a.zip", ZIP[:-30], "it is no zip, or is cut short: it has no directory at its end"),
    "last piece of a zip": ("a.zip", ZIP[:-18] + b"\2\0" + ZIP[-16:], "is the last piece of a split zip; join"),
    "noise": ("a.tar", NOISE, "it begins as no archive does"),
}  # fmt: skip


@pytest.mark.parametrize("case", UNREAD)
def test_archives_that_are_not_read_are_named_with_what_to_do(case: str, tmp_path: Path) -> None:
    name, data, sentence = UNREAD[case]
    (tmp_path / name).write_bytes(data)
    (tmp_path / "0.png").write_bytes(b"")
    tree = open_tree(tmp_path)
    assert list(tree.files) == ["0.png"]
    assert sentence in sentences(tree)
    assert len(tree.problems) == 1


@pytest.mark.parametrize("name", ["._a.zip", "__MACOSX/e/._a.tar.gz", "e/.DS_Store", "Thumbs.db", "e/._0.png"])
def test_what_systems_put_beside_archives_is_listed_but_not_opened(name: str, tmp_path: Path) -> None:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X")
    tree = open_tree(tmp_path)
    assert (list(tree.files), tree.problems, tree.archives) == ([name], (), {})


def test_sizes_in_a_zip_that_would_fill_the_memory_cost_a_sentence(tmp_path: Path) -> None:
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 1, 1, 1 << 30, 0, 0)
    with (tmp_path / "a.zip").open("wb") as file:
        file.write(ZIP[:500])
        file.truncate(1 << 30)
        file.seek(1 << 30)
        file.write(end)
    assert "its directory has 1073741824 bytes, more than 268435456" in sentences(open_tree(tmp_path))
    info = tarfile.TarInfo("long")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 1 << 40
    (tmp_path / "a.zip").unlink()
    (tmp_path / "a.tar").write_bytes(TAR[: 2 * 1536] + info.tobuf(tarfile.GNU_FORMAT) + bytes(99_000))
    tree = open_tree(tmp_path)
    assert (len(tree.files), sentences(tree)) == (2, "a.tar is damaged after 2 members; get it again to have the rest")


def test_many_odd_members_are_counted(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for number in range(1203):
            info = tarfile.TarInfo(f"{number}.png")
            info.type, info.linkname = tarfile.SYMTYPE, "elsewhere"
            tar.addfile(info)
    problems = open_tree(tmp_path).problems
    assert len(problems) == 1001
    assert problems[-1].reason == "has 203 more members that are left out"
