"""Headers are those of the standard library, checksums those of the bytes."""

import io
import tarfile
import zlib

import pytest

from vdaprep.errors import ShardError
from vdaprep.shards.tar import TarWriter, header, split_members


@pytest.mark.parametrize("name", ["k.json", "toy-t0-000000.f063.depth.zst", "x" * 100])
@pytest.mark.parametrize("size", [0, 1, 511, 512, 98_765, 8**11 - 1])
def test_headers_are_those_of_tarfile(name: str, size: int) -> None:
    info = tarfile.TarInfo(name)
    info.size = size
    assert header(name, size) == info.tobuf(tarfile.USTAR_FORMAT)


def test_a_tar_is_what_was_added() -> None:
    stream = io.BytesIO()
    tar = TarWriter(stream)
    members = (("rgb.jpg", b"j" * 700), ("depth.zst", b"d" * 512), ("diff.zst", b""))
    start = tar.offset
    checksum = tar.add("k", 7, members)
    assert checksum == zlib.crc32(stream.getvalue()[start : tar.offset])
    assert tar.add("k", 8, ()) == 0
    tar.finish()
    assert tar.offset == len(stream.getvalue())
    assert tar.offset % tarfile.RECORDSIZE == 0
    parts = split_members(stream.getvalue()[start : start + 3072], where="t")
    assert [(part.name, bytes(part.data)) for part in parts] == [(f"k.f007.{kind}", data) for kind, data in members]
    stream.seek(0)
    with tarfile.open(fileobj=stream) as archive:
        found = [(info.name, archive.extractfile(info)) for info in archive]
    assert [name for name, _ in found] == [f"k.f007.{kind}" for kind, _ in members]
    assert tar.bytes == {"rgb.jpg": 700, "depth.zst": 512, "diff.zst": 0}


def test_bytes_that_are_no_tar_are_a_sentence() -> None:
    with pytest.raises(ShardError, match=r"^t: holds bytes that are no member of a tar; the shard is damaged\.$"):
        split_members(b"x" * 2000, where="t")


@pytest.mark.parametrize("fill", range(0, 20 * 512 + 1, 512))
def test_the_end_fills_a_record_however_much_is_there(fill: int) -> None:
    stream = io.BytesIO()
    tar = TarWriter(stream)
    tar.add("k", None, (("json", bytes(fill)),))
    before = tar.offset
    tar.finish()
    assert tar.offset % tarfile.RECORDSIZE == 0
    assert 2 * tarfile.BLOCKSIZE <= tar.offset - before < 2 * tarfile.BLOCKSIZE + tarfile.RECORDSIZE
