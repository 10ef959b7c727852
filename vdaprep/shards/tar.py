"""USTAR: the writer of shards, which hashes, and the reader of a stretch of one."""

import hashlib
import tarfile
from collections import Counter
from dataclasses import dataclass

from vdaprep.errors import ShardError
from vdaprep.shards.canonical import crc32
from vdaprep.shards.names import member_name
from vdaprep.storage.atomic import Writer

_BLOCK = tarfile.BLOCKSIZE
_NAME_BYTES = 100
_SIZE_FIELD = slice(124, 136)
# What surrounds a member's size in its header: mode, uid and gid; mtime; after the sum the type, the magic and nothing.
_OWNER = b"0000644\x00" + 2 * b"0000000\x00"
_TIME = b"00000000000\x00"
_REST = (b"0" + bytes(100) + b"ustar\x00" + b"00").ljust(_BLOCK - 156, b"\x00")
_FIXED_SUM = sum(_OWNER + _TIME + _REST) + 8 * ord(" ")  # a header's own sum counts as blanks


class TarWriter:
    """Writes USTAR members alike (time and ids 0, mode 0644): equal clips, equal bytes.

    `offset` is the number of bytes so far, `members` and `bytes` count the members and their bytes by kind.
    """

    def __init__(self, file: Writer) -> None:
        self._file = file
        self.offset = 0
        self._sha256 = hashlib.sha256()
        self.members: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()

    @property
    def sha256(self) -> str:
        """The SHA-256, in hexadecimal, of everything written so far."""
        return self._sha256.hexdigest()

    def add(self, key: str, frame: int | None, members: tuple[tuple[str, bytes], ...]) -> int:
        """Append members, (kind, bytes), of a frame or of the clip (None); raises as the file.

        Returns the CRC-32 of the bytes that were written.
        """
        parts: list[bytes] = []
        for kind, data in members:
            parts += [header(member_name(key, frame, kind), len(data)), data, bytes(-len(data) % _BLOCK)]
            self.members[kind] += 1
            self.bytes[kind] += len(data)
        return self._write(b"".join(parts))

    def finish(self) -> None:
        """Append what ends a tar."""
        end = 2 * _BLOCK
        self._write(bytes(end + -(self.offset + end) % tarfile.RECORDSIZE))

    def _write(self, data: bytes) -> int:
        self._file.write(data)
        self._sha256.update(data)
        self.offset += len(data)
        return crc32(data)


def header(name: str, size: int) -> bytes:
    """Return the block before a member, in a fraction of the time `tarfile` takes."""
    encoded, octal = name.encode("ascii"), b"%011o\x00" % size
    assert len(encoded) <= _NAME_BYTES  # schema sees to it
    assert len(octal) == 12  # no member has 8 GiB
    total = _FIXED_SUM + sum(encoded) + sum(octal)
    return b"%b%b%b%b%06o\x00 %b" % (encoded.ljust(_NAME_BYTES, b"\x00"), _OWNER, octal, _TIME, total, _REST)


@dataclass(frozen=True)
class Member:
    """One member of a stretch of a tar."""

    name: str
    """Its name."""
    offset: int
    """Where its header begins in the stretch."""
    data: memoryview
    """Its bytes."""


def split_members(data: bytes, *, where: str) -> list[Member]:
    """Cut a stretch of a USTAR file, headers and padding included, into its members.

    `tarfile`, and with it webdataset, takes a tenth of a second for a thousand frames, all of it under the
    interpreter's lock, which the threads that unpack and the training itself would wait for. Raises ShardError naming
    `where` for bytes that are no members. Checksums of headers are not compared: the record's CRC-32 covers them.
    """
    members: list[Member] = []
    view = memoryview(data)
    at = 0
    while at < len(data):
        block = data[at : at + _BLOCK]
        digits = block[_SIZE_FIELD].rstrip(b"\0 ")
        begin = at + _BLOCK
        size = int(digits, 8) if digits.isdigit() and b"8" not in digits and b"9" not in digits else -1
        if size < 0 or begin + size > len(data):
            raise ShardError(f"{where}: holds bytes that are no member of a tar; the shard is damaged.")
        name = block[:_NAME_BYTES].partition(b"\0")[0].decode("ascii", "replace")
        members.append(Member(name, at, view[begin : begin + size]))
        at = begin + -(-size // _BLOCK) * _BLOCK
    return members
