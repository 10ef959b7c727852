"""List a zip from its directory, and account for every byte of its file.

Several zips in one file (`cat a.zip b.zip`) are all listed. A zip is whole if its members follow each other without
gaps up to its directory, if nothing but a program that unpacks it comes before them, and nothing after its end.
"""

import stat
import struct
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from vdaprep.raw.archives.sniff import is_tar_header
from vdaprep.raw.archives.spans import HEADER_BYTES, Listing, SpanTable, ZipSpan, header_bytes, note_problem
from vdaprep.storage.range_reader import Ranges

RECORD_BYTES = 10_240
"""Zeros behind an archive's end that are padding; more are taken for a download that was not finished."""
_END = struct.Struct("<4s4H2IH")  # signature, disk, directory's disk, members here, members, bytes, offset, comment
_END64 = struct.Struct("<4sQ2H2I4Q")
_MAX_COMMENT = 65_535
_SPANNED = (b"PK00", b"PK\7\x08")  # what a split zip begins with, also if all of it went into one piece
_SHORT = 1024  # where the end mark is, of a zip without a comment
_CHUNK = 1 << 20
_MAX_DIRECTORY_BYTES = 1 << 28
_MAX_SCANNED_BYTES = 1 << 26  # of what comes before the first member, and after the end
_ENTRY_BYTES = 46
_LENGTHS = struct.Struct("<3H")  # of an entry's name, extra fields and comment, at 28
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_DESCRIPTORS = (0, 12, 16, 20, 24)  # bytes that may follow a member whose size was not known when it was begun
_32 = 0xFFFFFFFF


def list_zip(archive: Ranges, *, thorough: bool = True) -> Listing:
    """List all zips in a file; raises one of UNREADABLE without one, or a damaged directory.

    Args:
        archive: The file.
        thorough: Also look for bytes that no directory names, which takes more reads; otherwise it is only listed.
    """
    problems: list[tuple[str, str]] = []
    parts: list[_Part] = []
    stop = archive.size
    while stop > 0 and (end := _find_end(archive, stop, thorough=thorough)) is not None:
        try:
            part = _read_directory(archive, end)
        except (zipfile.BadZipFile, struct.error):
            if not parts:
                raise
            break
        if problem := _behind(archive, end.stop, stop):
            problems.append(("", problem))
        parts.insert(0, part)
        stop = part.start
    if not parts:
        raise zipfile.BadZipFile("it is no zip, or is cut short: it has no directory at its end")
    if thorough and stop and (problem := _before(archive, stop)):
        problems.append(("", problem))
    names: list[str] = []
    columns: list[tuple[np.ndarray, ...]] = []
    for part in parts:
        problems += part.uncovered(archive) if thorough else ()
        problems += part.left_out
        names += part.names
        columns.append(part.columns)
    joined = [np.concatenate(column) for column in zip(*columns, strict=True)]
    return Listing(names, SpanTable(ZipSpan, joined), problems)


# ----------------------------------------------------------------------------------------------------------- its end


@dataclass(frozen=True)
class _End:
    """A zip's end mark: where its directory is, and where the mark itself ends."""

    directory: int
    directory_bytes: int
    members: int
    shift: int  # to be added to the offsets that the directory names
    exact: bool  # the number of members is not modulo 65,536
    stop: int


def _find_end(archive: Ranges, stop: int, *, thorough: bool) -> _End | None:
    """Find the last end mark before `stop`; None if there is none where one can be."""
    found = _search_end(archive, stop, _SHORT) or _search_end(archive, stop, _MAX_COMMENT + _END.size)
    if found is None and thorough:
        last = min(_last_byte(archive, stop) + _END.size, stop)
        for above in range(last, max(0, last - _MAX_SCANNED_BYTES), -_CHUNK):
            if found := _search_end(archive, above, _MAX_COMMENT + _END.size + _CHUNK):
                break
    return found


def _search_end(archive: Ranges, stop: int, length: int) -> _End | None:
    begin = max(0, stop - length)
    tail = archive.read(begin, stop - begin)
    fitting: list[_End] = []
    at = len(tail)
    while (at := tail.rfind(b"PK\5\6", 0, at)) >= 0 and len(fitting) < 8:
        if at + _END.size > len(tail):
            continue
        end = _parse_end(archive, begin, tail, at)
        if end is not None and end.stop == stop:
            return end
        if end is not None and end.stop < stop:
            fitting.append(end)
    return fitting[0] if fitting else None


def _parse_end(archive: Ranges, begin: int, tail: bytes, place: int) -> _End | None:
    """Parse an end mark in the bytes from `begin`, or zip64's before it; None if none."""
    _, disk, _, _, members, size, offset, comment = _END.unpack_from(tail, place)
    at = begin + place
    stop, before, exact = at + _END.size + comment, at, False
    locator = tail[place - 20 : place] if place >= 20 else archive.read(max(0, at - 20), 20)
    if locator.startswith(b"PK\6\7"):
        before = at - 20 - _END64.size
        found = archive.read(before, _END64.size) if before >= 0 else b""
        if found.startswith(b"PK\6\6"):
            _, _, _, _, disk, _, _, members, size, offset = _END64.unpack(found)
            exact = True
        else:
            before = at
    if disk not in (0, 0xFFFF, _32):
        raise zipfile.BadZipFile("it is the last piece of a split zip; join the pieces: zip -s 0 FILE --out WHOLE.zip")
    directory = before - size
    shift = directory - offset
    if directory < 0 or shift < 0:
        return None
    return _End(directory, size, members, shift, exact, stop)


def _last_byte(archive: Ranges, stop: int) -> int:
    """Return the offset after the last byte before `stop` that is not zero."""
    while stop > 0:
        begin = max(0, stop - _CHUNK)
        data = archive.read(begin, stop - begin).rstrip(b"\0")
        if data:
            return begin + len(data)
        stop = begin
    return 0


def _behind(archive: Ranges, begin: int, stop: int) -> str:
    """Say what lies between a zip's end and the next zip or file's end, unless padding."""
    size = stop - begin
    if size == 0:
        return ""
    if _last_byte(archive, stop) > begin:
        return f"goes on for {size} bytes after its end, which are no zip; get it again, or cut them off"
    if size > RECORD_BYTES:
        return f"has {size} bytes of zeros after its end: it may be a download that was not finished; get it again"
    return ""


def _before(archive: Ranges, stop: int) -> str:
    """Say what lies before the first member, unless a program, as in self-extracting zips."""
    start = archive.read(0, 512)
    if stop == len(_SPANNED[0]) and start.startswith(_SPANNED):
        return ""
    if is_tar_header(start) or start.startswith((b"PK", b"\x1f\x8b")):
        return f"begins with {stop} bytes of another archive, or of files that its directory leaves out; get it again"
    done = 0
    while done < min(stop, _MAX_SCANNED_BYTES):
        data = archive.read(done, min(_CHUNK + 64, stop - done))
        if any(_is_header(data, at) for at in _places(data, b"PK\3\4")):
            return f"has files in its first {stop} bytes that its directory leaves out; get it again"
        done += _CHUNK
    return ""


def _places(data: bytes, wanted: bytes) -> Iterator[int]:
    at = -1
    while (at := data.find(wanted, at + 1)) >= 0:
        yield at


def _is_header(data: bytes, at: int) -> bool:
    """Tell whether a local header begins at `at`; a program may hold its signature alone."""
    header = data[at : at + HEADER_BYTES]
    if len(header) < HEADER_BYTES:
        return False
    version, _, method = struct.unpack_from("<3H", header, 4)
    return version & 0xFF <= 63 and method < 100 and 0 < int.from_bytes(header[26:28], "little") < 4096


# --------------------------------------------------------------------------------------------------------- directory


@dataclass(frozen=True)
class _Part:
    """One zip of a file: its members, in its directory's order, and where entries lie."""

    names: list[str]
    columns: tuple[np.ndarray, ...]  # the fields of ZipSpan
    left_out: list[tuple[str, str]]
    extents: np.ndarray  # [entries, 3]: offset, the least bytes that the entry takes, its packed bytes
    directory: int

    @property
    def start(self) -> int:
        """Offset of the first entry, or of the directory if there is none."""
        return min(int(self.extents[:, 0].min()), self.directory) if len(self.extents) else self.directory

    def uncovered(self, archive: Ranges) -> list[tuple[str, str]]:
        """Describe bytes between the first member and the directory that no entry covers.

        Local headers have fields that the directory does not tell the length of, the same for most members. So one
        header is read for each distance to the next member that occurs.
        """
        if not len(self.extents):
            return []
        order = np.argsort(self.extents[:, 0], kind="stable")
        offsets, least, stored = self.extents[order].T
        room = np.append(offsets[1:], self.directory) - offsets - least
        if (room < 0).any():
            return [("", "is damaged: members lie on top of each other, as its directory has it; get it again")]
        lost = 0
        distances, first, counts = np.unique(room, return_index=True, return_counts=True)
        for distance, index, count in zip(distances.tolist(), first.tolist(), counts.tolist(), strict=True):
            if distance:
                length = int(least[index]) + distance
                lost += count * _unused(archive, int(offsets[index]), length, int(stored[index]))
        if not lost:
            return []
        return [("", f"has {lost} bytes between its members that its directory leaves out; get it again")]


def _unused(archive: Ranges, offset: int, length: int, stored: int) -> int:
    """Return how many of the `length` bytes up to the next entry are not an entry's own."""
    header = archive.read(offset, HEADER_BYTES)
    if len(header) < HEADER_BYTES or not header.startswith(b"PK\3\4"):
        return 0  # its frame is rejected when it is read
    own = header_bytes(header) + stored
    gap = length - own
    if gap in _DESCRIPTORS and (gap == 0 or header[6] & 8):
        return 0
    if 0 < gap <= RECORD_BYTES and not archive.read(offset + own, gap).strip(b"\0"):
        return 0  # padding
    return abs(gap)


def _read_directory(archive: Ranges, end: _End) -> _Part:
    """Parse a central directory; raises BadZipFile if it is damaged."""
    if end.directory_bytes > _MAX_DIRECTORY_BYTES:
        raise zipfile.BadZipFile(f"its directory has {end.directory_bytes} bytes, more than {_MAX_DIRECTORY_BYTES}")
    data = archive.read(end.directory, end.directory_bytes)
    places, names = _walk(data)
    expected = end.members if end.exact else end.members & 0xFFFF
    if (len(places) if end.exact else len(places) & 0xFFFF) != expected:
        raise zipfile.BadZipFile(f"its directory is damaged after {len(places)} members, it should have {end.members}")
    table = np.frombuffer(data, np.uint8)
    at = np.array(places, np.int64)

    def field(offset: int, size: int) -> np.ndarray:
        taken = table[(at + offset)[:, None] + np.arange(size)] if len(at) else np.empty((0, size), np.uint8)
        return taken.astype(np.int64) @ (1 << 8 * np.arange(size, dtype=np.int64))

    flags, method, crc32, mode = field(8, 2), field(10, 2), field(16, 4), field(38, 4) >> 16
    stored, size, offset, name_bytes = field(20, 4), field(24, 4), field(42, 4), field(28, 2)
    for row in np.flatnonzero((stored == _32) | (size == _32) | (offset == _32)).tolist():
        extra = places[row] + _ENTRY_BYTES + len(names[row])
        length = int.from_bytes(data[places[row] + 30 : places[row] + 32], "little")
        size[row], stored[row], offset[row] = _large(data[extra : extra + length], size[row], stored[row], offset[row])
    offset += end.shift
    text = _decode(names, flags)
    keep = np.array([not name.endswith(("/", "\\")) for name in text], bool)
    left_out: list[tuple[str, str]] = []
    odd = keep & (((mode & 0o170000) == stat.S_IFLNK) | (flags & 1 == 1) | ~np.isin(method, _METHODS))
    for row in np.flatnonzero(odd).tolist():
        note_problem(left_out, text[row], _problem(int(mode[row]), int(flags[row]), int(method[row])))
    keep &= ~odd
    columns = tuple(column[keep] for column in (offset, name_bytes, stored, size, method, crc32))
    extents = np.stack([offset, HEADER_BYTES + name_bytes + stored, stored], axis=1)
    chosen = text if keep.all() else [name for name, kept in zip(text, keep.tolist(), strict=True) if kept]
    return _Part(chosen, columns, left_out, extents, end.directory)


def _walk(data: bytes) -> tuple[list[int], list[bytes]]:
    """Find where each entry of a directory begins, and its name, up to a missing signature."""
    places: list[int] = []
    names: list[bytes] = []
    at, last, unpack = 0, len(data) - _ENTRY_BYTES, _LENGTHS.unpack_from
    while at <= last and data.startswith(b"PK\1\2", at):
        name, extra, comment = unpack(data, at + 28)
        places.append(at)
        names.append(data[at + _ENTRY_BYTES : at + _ENTRY_BYTES + name])
        at += _ENTRY_BYTES + name + extra + comment
    if at > len(data):
        raise zipfile.BadZipFile(f"its directory ends inside the entry of member {len(places)}")
    return places, names


def _large(extra: bytes, size: int, stored: int, offset: int) -> tuple[int, int, int]:
    """Return sizes and offset from zip64's extra field where 32 bits do not hold them."""
    values = [int(size), int(stored), int(offset)]
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, at)
        if kind == 1:
            fields = extra[at + 4 : at + 4 + length]
            for index, value in enumerate(values):
                if value == _32 and len(fields) >= 8:
                    values[index] = min(int.from_bytes(fields[:8], "little"), 1 << 60)
                    fields = fields[8:]
        at += 4 + length
    return values[0], values[1], values[2]


def _decode(names: Sequence[bytes], flags: np.ndarray) -> list[str]:
    """Decode names: UTF-8, also where a program forgot to say so, else the code page of MS-DOS."""
    joined = b"\0".join(names)
    if joined.isascii() and joined.count(b"\0") == len(names) - 1:
        return joined.decode("ascii").split("\0")
    return [_decode_one(name, utf8=bool(flag & 0x800)) for name, flag in zip(names, flags.tolist(), strict=True)]


def _decode_one(name: bytes, *, utf8: bool) -> str:
    try:
        return name.decode("utf-8")
    except UnicodeDecodeError:
        return name.decode("utf-8", "surrogateescape") if utf8 else name.decode("cp437")


def _problem(mode: int, flags: int, method: int) -> str:
    if stat.S_ISLNK(mode):
        return "is a symbolic link; left out"
    if flags & 1:
        return "is encrypted; left out"
    return f"is packed by method {method}, only 0 (stored) and 8 (deflated) are read; left out"
