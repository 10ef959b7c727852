"""Encoded clips to the bytes of a tar, hashed as they are written."""

import hashlib
import tarfile
import zlib
from collections import Counter

from vdaprep.encode import EncodedClip
from vdaprep.outputs import Writer
from vdaprep.schema import ClipEntry, member_name


class TarWriter:
    """Writes USTAR members with mtime, uid and gid 0 and mode 0644, so that equal clips are equal bytes.

    `offset` is the number of bytes so far, `members` and `bytes` count the members and their bytes by kind.
    """

    def __init__(self, file: Writer) -> None:
        self._file = file
        self.offset = 0
        self._sha256 = hashlib.sha256()
        self._crc32 = 0
        self.members: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()

    @property
    def sha256(self) -> str:
        """The SHA-256, in hexadecimal, of everything written so far."""
        return self._sha256.hexdigest()

    def add(self, key: str, frame: int | None, kind: str, data: bytes) -> None:
        """Append a member; raises what the file raises."""
        info = tarfile.TarInfo(member_name(key, frame, kind))
        info.size = len(data)
        self._write(info.tobuf(tarfile.USTAR_FORMAT))
        self._write(data)
        self._write(bytes(-len(data) % tarfile.BLOCKSIZE))
        self.members[kind] += 1
        self.bytes[kind] += len(data)

    def finish(self) -> None:
        """Append what ends a tar."""
        self._write(bytes(2 * tarfile.BLOCKSIZE))
        self._write(bytes(-self.offset % tarfile.RECORDSIZE))

    def take_crc32(self) -> int:
        """Return the CRC-32 of what was written since the last call."""
        taken, self._crc32 = self._crc32, 0
        return taken

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._sha256.update(data)
        self._crc32 = zlib.crc32(data, self._crc32)
        self.offset += len(data)


def write_clip(tar: TarWriter, clip: EncodedClip) -> tuple[ClipEntry, int]:
    """Append a clip; returns its entry in the record, and how many of its pixels were nearer than near_m."""
    start = tar.offset
    tar.add(clip.key, None, "json", clip.meta.to_bytes())
    frame_offsets: list[int] = []
    checksums = [tar.take_crc32()]
    for number, members in enumerate(clip.frames):
        frame_offsets.append(tar.offset)
        for kind, data in members:
            tar.add(clip.key, number, kind, data)
        checksums.append(tar.take_crc32())
    entry = ClipEntry(
        clip.key, start, tar.offset - start, len(clip.frames), tuple(frame_offsets), crc32=tuple(checksums)
    )
    return entry, clip.clamped_near
