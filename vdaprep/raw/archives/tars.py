"""List a tar, and account for every byte of its file.

Several tars in one file (`cat a.tar b.tar`) are all listed. A tar is whole if its end mark is followed by zeros up to
the end of its file, no more than one record of them.
"""

import io
import json
import sys
import tarfile
from collections.abc import Iterator
from typing import Any, cast

from vdaprep.raw.archives.sniff import is_tar_header
from vdaprep.raw.archives.spans import UNREADABLE, Listing, SpanTable, TarSpan, note_problem

BLOCK_BYTES = 512
_MARK_BYTES = 2 * BLOCK_BYTES
RECORD_BYTES = 10_240
_CHUNK = 1 << 20
_MAX_HEADER_BYTES = 1 << 20  # of an extended header: a name, in fact
_MAX_ZEROS = 1 << 30  # of these, packed well, an archive of a few megabytes may hold terabytes


def list_tar(stream: io.BufferedIOBase) -> Listing:
    """List a tar by seeking from header to header; up to where it is damaged, if it is.

    Raises one of UNREADABLE if it does not begin as a tar does.
    """
    found = _Found()
    first = stream.read(BLOCK_BYTES)
    if first and not first.strip(b"\0"):
        start, end = _skip_zeros(stream, 0)
        if end:
            raise tarfile.ReadError("it holds nothing but zeros: it is empty, or was not downloaded")
    else:
        start = 0
    while start is not None:
        start = _list_one(stream, start, found)
    spans = SpanTable(TarSpan, (found.offsets, found.sizes))
    return Listing(found.names, spans, found.problems, found.has_end, found.stop)


class _Found:
    """Members and problems, in order."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.offsets: list[int] = []
        self.sizes: list[int] = []
        self.problems: list[tuple[str, str]] = []
        self.has_end = True
        self.stop: int | None = None  # where the damage is

    def end_early(self, reason: str) -> None:
        """Note why what comes after the members so far cannot be read."""
        self.problems.append(("", reason))
        self.has_end = False


def _list_one(stream: io.BufferedIOBase, start: int, found: _Found) -> int | None:
    """List the tar that begins at `start`; returns where another one follows, or None."""
    stream.seek(start)
    # Bytes that are no text become surrogates, as in the names of files.
    file = tarfile.TarFile(fileobj=cast(Any, _Headers(stream)), mode="r", encoding="utf-8", errors="surrogateescape")
    for info in _headers(file):
        if problem := _problem(info):
            note_problem(found.problems, info.name, problem)
        elif _is_whole(stream, info):
            found.names.append(info.name)
            found.offsets.append(info.offset_data)
            found.sizes.append(info.size)
        else:
            found.end_early(_cut_short(len(found.names), inside=info))
            return None
    stop = file.offset
    stream.seek(stop)
    block = stream.read(BLOCK_BYTES)
    if len(block) < BLOCK_BYTES:
        found.end_early(_cut_short(len(found.names), inside=None))
        return None
    if block.strip(b"\0"):
        found.end_early(f"is damaged after {len(found.names)} members; get it again to have the rest")
        found.stop = stop
        return None
    return _after_mark(stream, stop, found)


def _after_mark(stream: io.BufferedIOBase, stop: int, found: _Found) -> int | None:
    """Say what comes after an end mark, unless it is padding; returns where another tar begins."""
    begin, at_end = _skip_zeros(stream, stop)
    zeros = begin - stop
    if zeros > _MARK_BYTES + RECORD_BYTES:
        where = "at its end" if at_end else f"after {len(found.names)} members"
        reason = f"has {zeros} bytes of zeros {where}: it may be a download that was not finished; get it again"
        found.problems.append(("", reason))
        found.stop = stop if found.stop is None else found.stop
    if at_end:
        return None
    begin -= begin % BLOCK_BYTES
    stream.seek(begin)
    if is_tar_header(stream.read(BLOCK_BYTES)):
        return begin
    size = stream.seek(0, io.SEEK_END) - begin
    reason = f"goes on for {size} bytes after its end, which are no tar; get it again, or cut them off"
    found.problems.append(("", reason))
    found.stop = begin if found.stop is None else found.stop
    return None


def _skip_zeros(stream: io.BufferedIOBase, start: int) -> tuple[int, bool]:
    """Return the offset of the first byte that is not zero, or the end, and whether it is."""
    stream.seek(start)
    at, wanted = start, RECORD_BYTES
    while data := stream.read(wanted):
        rest = data.lstrip(b"\0")
        at += len(data) - len(rest)
        if rest:
            return at, False
        if at - start > _MAX_ZEROS:
            break
        wanted = min(2 * wanted, _CHUNK)
    return at, True


class _Headers:
    """A stream of which only headers are read: sizes that lie must not fill the memory."""

    def __init__(self, stream: io.BufferedIOBase) -> None:
        self._stream = stream
        self.seek, self.tell = stream.seek, stream.tell

    def read(self, size: int) -> bytes:
        """Return `size` bytes; raises ReadError if that is more than any header has."""
        if size > _MAX_HEADER_BYTES:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return self._stream.read(size)


def _headers(file: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Yield the readable headers but folders'; the file's offset is where reading stopped."""
    try:
        while (info := file.next()) is not None:
            cast(Any, file).members.clear()  # or a million of them would take a gigabyte
            if info.size < 0:  # the next header would be looked for before this one
                return
            if not info.isdir():
                yield info
    except UNREADABLE:
        return


def _problem(info: tarfile.TarInfo) -> str | None:
    kinds = {
        tarfile.SYMTYPE: "a symbolic link",
        tarfile.LNKTYPE: "a hard link",
        tarfile.CHRTYPE: "a device",
        tarfile.BLKTYPE: "a device",
        tarfile.FIFOTYPE: "a pipe",
    }
    if info.isreg() and not info.issparse():
        return None
    return f"is {kinds.get(info.type, 'not a plain file')}; left out"


def _is_whole(stream: io.BufferedIOBase, info: tarfile.TarInfo) -> bool:
    if info.size == 0:
        return True
    last = info.offset_data + info.size - 1
    if last > sys.maxsize:
        return False
    stream.seek(last)
    return bool(stream.read(1))


def _cut_short(members: int, *, inside: tarfile.TarInfo | None) -> str:
    where = "" if inside is None else f", inside {inside.name}, which should have {inside.size} bytes"
    return f"is cut short after {members} members{where}; get it again to have the rest"


def listing_to_json(listing: Listing) -> str:
    """Write a tar's listing for another process."""
    spans = [span for span in listing.spans if isinstance(span, TarSpan)]
    columns = {"offsets": [span.offset for span in spans], "sizes": [span.size for span in spans]}
    return json.dumps({"names": list(listing.names), **columns, "problems": list(listing.problems)})
