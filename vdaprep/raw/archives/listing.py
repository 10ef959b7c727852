"""List an archive of any kind; its first bytes, not its name, say what it is."""

import contextlib
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import accumulate
from urllib.parse import unquote, urlsplit

from vdaprep.raw.archives.parts import Series, open_archive, own_name
from vdaprep.raw.archives.sens import list_sens
from vdaprep.raw.archives.sniff import ENDINGS, found_instead, found_instead_of_part, is_tar_header
from vdaprep.raw.archives.spans import (
    HEADER_BYTES,
    UNREADABLE,
    Listing,
    Span,
    SpanTable,
    TarSpan,
    ZipSpan,
    header_bytes,
)
from vdaprep.raw.archives.targz import list_damaged, list_targz
from vdaprep.raw.archives.tars import list_tar
from vdaprep.raw.archives.zips import list_zip
from vdaprep.raw.walking import is_of_system
from vdaprep.storage.range_reader import Blocks, Joined, Part, Ranges, buffered
from vdaprep.storage.urls import is_url

SENS = ".sens"
"""What the names of ScanNet's recordings end in."""
_GZIP = b"\x1f\x8b"
_BLOCK_BYTES = 4 << 20  # some 15 frames of a recording, each with a header of where the next one begins
_ADVICE = "; get it again"  # where a sentence on a file says what to do

OnBytes = Callable[[int, int], None]
"""Called while an archive is listed with the bytes that were read, and its size in bytes."""


class PartsError(ValueError):
    """An archive cannot be read for want of one of its parts; the text says what to do."""


def list_archive(name: str, on_bytes: OnBytes, series: Series | None = None) -> tuple[int, Listing]:
    """List an archive, path or URL, and return its bytes.

    Args:
        name: Path or URL.
        on_bytes: Receives progress.
        series: Its parts, if it is in parts: what is wrong with it is said of them.

    Raises:
        One of UNREADABLE if it is no archive, or damaged so that nothing of it can be read.
    """
    if series is not None and not series.parts:
        raise PartsError(f"it {series.fault}")
    with contextlib.closing(open_archive(name)) as archive:
        on_bytes(0, archive.size)
        if series is None or not isinstance(archive, Joined):
            return archive.size, _list(archive, name, on_bytes)
        return archive.size, _list_parts(archive, name, on_bytes, series)


def say_unopened(error: Exception, *, url: bool) -> str:
    """Say that an archive cannot be opened, why, and what to do."""
    advice = "; get it again to have what it holds"
    if isinstance(error, PartsError | FileNotFoundError) or (url and isinstance(error, OSError)):
        advice = ""
    elif isinstance(error, PermissionError):
        advice = "; let this user read it, for example by chmod u+r"
    elif any(text in str(error) for text in ("unpack it: ", "join the pieces", "which is not read")):
        advice = ""
    return f"cannot be opened as an archive ({reason_of(error)}){advice}"


def reason_of(error: Exception) -> str:
    """Say what an exception that is one of UNREADABLE means."""
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    if isinstance(error, zipfile.BadZipFile):
        return str(error)
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__


def _list(archive: Ranges, name: str, on_bytes: OnBytes) -> Listing:
    path = unquote(urlsplit(name).path) if is_url(name) else name
    start = archive.read(0, 512)
    try:
        return _list_kind(archive, start, path, name, on_bytes)
    except UNREADABLE as error:
        found = found_instead(start, path.rpartition("/")[2])
        if isinstance(error, OSError) or not found:
            raise
        raise ValueError(found) from error


def _list_kind(archive: Ranges, start: bytes, path: str, name: str, on_bytes: OnBytes) -> Listing:
    if path.lower().endswith(SENS):
        headers = Blocks(archive, block_bytes=_BLOCK_BYTES) if is_url(name) else archive
        return list_sens(headers, path.rpartition("/")[2], lambda done: on_bytes(done, archive.size))
    if start.startswith(_GZIP):
        if is_url(name):
            raise ValueError("a tar.gz cannot be read in parts from a server; download it first")
        return list_targz(name, lambda done: on_bytes(done, archive.size))
    if not is_tar_header(start) and (start.startswith(b"PK") or path.lower().endswith(".zip")):
        thorough = not is_url(name)
        return _with_inner(archive, list_zip(archive, thorough=thorough), thorough=thorough)
    if not is_tar_header(start) and start.strip(b"\0"):
        raise ValueError(found_instead(start, path.rpartition("/")[2]) or "it begins as no archive does")
    return _with_inner(archive, list_tar(buffered(archive)), thorough=not is_url(name))


# ------------------------------------------------------------------------------------------- archives inside archives


def _with_inner(archive: Ranges, listing: Listing, *, thorough: bool) -> Listing:
    """List the zips and tars among the members that are not compressed, in their places.

    Their paths are those that unpacking each where it lies gives; if that would put files onto each other, in folders
    of their own names.
    """
    rows = [row for row, name in enumerate(listing.names) if name.lower().endswith(ENDINGS) and not is_of_system(name)]
    listed = ((row, _list_inner(archive, listing.spans[row], thorough=thorough)) for row in rows)
    found = {row: inner for row, inner in listed if inner is not None}
    if not found:
        return listing
    folders = {row: "".join(listing.names[row].rpartition("/")[:2]) for row in found}
    paths = [folders[row] + name for row, inner in found.items() for name in inner.names]
    if len({*paths}) < len(paths):
        folders = {row: f"{listing.names[row].rpartition('.')[0]}/" for row in found}
    problems = [*listing.problems]
    for row, inner in found.items():
        problems += [_of_inner(listing.names[row], member, reason) for member, reason in inner.problems]
    kept = [row for row in range(len(listing.names)) if row not in found]
    return replace(
        listing,
        names=[listing.names[row] for row in kept],
        spans=[listing.spans[row] for row in kept],
        problems=problems,
        inner=[
            replace(inner, names=[folders[row] + name for name in inner.names], problems=())
            for row, inner in found.items()
        ],
    )


def _of_inner(archive: str, member: str, reason: str) -> tuple[str, str]:
    return (f"{archive}: {member}", reason) if member else ("", f"holds {archive}, which {reason}")


def _list_inner(archive: Ranges, span: Span, *, thorough: bool) -> Listing | None:
    """List an archive among the members of another; None if it is compressed there, or none."""
    if isinstance(span, ZipSpan) and span.method == zipfile.ZIP_STORED:
        begin = span.offset + header_bytes(archive.read(span.offset, HEADER_BYTES))
    elif type(span) is TarSpan:
        begin = span.offset
    else:
        return None
    part = Part(archive, begin, span.size)
    start = part.read(0, 512)
    try:
        found = list_tar(buffered(part)) if is_tar_header(start) else list_zip(part, thorough=thorough)
    except UNREADABLE:
        return None
    return replace(found, spans=found.spans.moved(begin)) if isinstance(found.spans, SpanTable) else None


# -------------------------------------------------------------------------------------------------------------- parts


def _list_parts(archive: Joined, name: str, on_bytes: OnBytes, series: Series) -> Listing:
    """List an archive in parts; what it says of the whole names the part that is at fault."""
    try:
        listing = _list(archive, name, on_bytes)
    except UNREADABLE as error:
        if isinstance(error, OSError) or (is_url(name) and archive.read(0, 2) == _GZIP):
            raise
        raise PartsError(_explain_start(archive, series, reason_of(error))) from error
    if listing.has_end and listing.stop is None:
        more = [("", series.fault)] if series.fault and listing.is_whole else []
        return replace(listing, problems=[*listing.problems, *more])
    gap = None if listing.has_end else _find_gap(archive, series)
    if gap is not None and (before := _list_before_gap(archive, sum(archive.sizes[: gap[0]]), listing)) is not None:
        return replace(before, problems=[*_with_reason(before, gap[1])])
    return replace(listing, problems=[*_with_reason(listing, series.explain(archive.sizes, listing.stop))])


def _with_reason(listing: Listing, reason: str) -> Iterator[tuple[str, str]]:
    """Let the first problem of the archive as a whole end in a reason, and its advice."""
    for member, said in listing.problems:
        if not member and reason:
            said, reason = f"{said.partition(_ADVICE)[0]}; {reason}", ""
        yield member, said


def _list_before_gap(archive: Joined, size: int, listing: Listing) -> Listing | None:
    """List what lies before a gap, as if the archive ended there.

    A member across it would have another's bytes. Returns None if much more than that was listed, so that there is
    none: parts may be of any sizes.
    """
    part = Part(archive, 0, size)
    gzipped = part.read(0, 2) == _GZIP
    try:
        found = list_damaged(part, reason="its parts do not fit") if gzipped else list_tar(buffered(part))
    except UNREADABLE:
        return None
    return found if len(listing.names) <= len(found.names) + 1 else None


def _find_gap(archive: Joined, series: Series) -> tuple[int, str] | None:
    """Return how many parts are right up to one that is not, and what is said of that."""
    for index, start in enumerate(_starts(archive)):
        if found := found_instead_of_part(start):
            return index, f"its part {own_name(series.parts[index])} is none: {found}"
    return series.find_short(archive.sizes)


def _starts(archive: Joined) -> list[bytes]:
    begins = accumulate(archive.sizes, initial=0)
    return [archive.read(begin, min(size, 512)) for begin, size in zip(begins, archive.sizes, strict=False)]


def _explain_start(archive: Joined, series: Series, reason: str) -> str:
    """Say why nothing can be read of an archive in parts, of which `reason` is said as a whole."""
    starts = _starts(archive)
    first = next((index for index, start in enumerate(starts) if start.startswith((_GZIP, b"PK\3\4"))), 0)
    gap = _find_gap(archive, series)
    if gap is not None and gap[0] == 0:
        return gap[1]
    if first:
        one, other = (own_name(series.parts[index]) for index in (0, first))
        why = f"{other} begins as an archive, {one} does not: the parts are out of order, or of several archives"
    elif found_instead(starts[0], ""):  # of another kind, and it says so
        return reason
    else:
        why = series.explain(archive.sizes, None) if gap is None else gap[1]
    return f"{reason}; {why}"
