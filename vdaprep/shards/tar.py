"""Encoded clips to the bytes of a tar, hashed as they are written."""

import hashlib
import tarfile
from collections import Counter

from vdaprep.shards.canonical import crc32
from vdaprep.shards.names import member_name
from vdaprep.storage.output import Writer

_NAME_BYTES = 100
# What surrounds a member's size in its header: mode, uid and gid; mtime; after the sum the type, the magic and nothing.
_OWNER = b"0000644\x00" + 2 * b"0000000\x00"
_TIME = b"00000000000\x00"
_REST = (b"0" + bytes(100) + b"ustar\x00" + b"00").ljust(tarfile.BLOCKSIZE - 156, b"\x00")
_FIXED_SUM = sum(_OWNER + _TIME + _REST) + 8 * ord(" ")  # a header's own sum counts as blanks


class TarWriter:
    """Writes USTAR members with mtime, uid and gid 0 and mode 0644, so that equal clips are equal bytes.

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
        """Append members, (kind, bytes), of a frame or of the clip (None); raises what the file raises.

        Returns the CRC-32 of the bytes that were written.
        """
        parts: list[bytes] = []
        for kind, data in members:
            parts += [header(member_name(key, frame, kind), len(data)), data, bytes(-len(data) % tarfile.BLOCKSIZE)]
            self.members[kind] += 1
            self.bytes[kind] += len(data)
        return self._write(b"".join(parts))

    def finish(self) -> None:
        """Append what ends a tar."""
        end = 2 * tarfile.BLOCKSIZE
        self._write(bytes(end + -(self.offset + end) % tarfile.RECORDSIZE))

    def _write(self, data: bytes) -> int:
        self._file.write(data)
        self._sha256.update(data)
        self.offset += len(data)
        return crc32(data)


def header(name: str, size: int) -> bytes:
    """Return the block before a member, in a fraction of the time that `tarfile` takes for the same one."""
    encoded, octal = name.encode("ascii"), b"%011o\x00" % size
    assert len(encoded) <= _NAME_BYTES  # schema sees to it
    assert len(octal) == 12  # no member has 8 GiB
    total = _FIXED_SUM + sum(encoded) + sum(octal)
    return b"%b%b%b%b%06o\x00 %b" % (encoded.ljust(_NAME_BYTES, b"\x00"), _OWNER, octal, _TIME, total, _REST)
