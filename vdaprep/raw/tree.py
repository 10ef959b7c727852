"""A raw tree as one list of files, wherever each lies: in folders, in archives, behind URLs, or in all of them.

Nothing is unpacked to disk. A Tree is made once, by the planning process; workers get Locations, which say where in an
archive a file's bytes are, and read them through a Reader of their own.
"""

import functools
import os
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from types import TracebackType

from vdaprep.errors import DataError, FrameError
from vdaprep.raw.containers import UNREADABLE, GzipSpan, Listing, Span, list_tar, list_zip
from vdaprep.raw.targz import list_targz, open_gzip
from vdaprep.shards.records import Rejection
from vdaprep.storage import remote
from vdaprep.storage.range_reader import Ranges, buffered, open_ranges, read_file
from vdaprep.storage.urls import is_url, join_url, redact, split_urls

_ENDINGS = (".zip", ".tar", ".tar.gz", ".tgz")
_REPEATED_FREELY = (".txt", ".json")  # TartanAir has its poses in every zip, for one
_OPEN_ARCHIVES = 8

OnListing = Callable[[str, int, int], None]
"""Called while an archive is listed with its name, the bytes that were read, and its size in bytes."""


@dataclass(frozen=True, slots=True)
class Location:
    """Where a file lies: `container` is an archive's path below the root or its URL; empty for a file of the tree.

    `member` is the file's path in its archive, or below the root, or its URL. `span` is None for a file of the tree.
    """

    container: str
    member: str
    span: Span | None = None

    def __str__(self) -> str:
        member = redact(self.member)
        return f"{redact(self.container)}: {member}" if self.container else member


@dataclass(frozen=True)
class Tree:
    """All files below a root, by their path inside the data set, and what was left out, with the reasons.

    `root` is the folder; of a URL only its name is used.
    """

    root: Path
    files: Mapping[str, Location]
    problems: tuple[Rejection, ...]


def open_tree(root: str | Path, on_listing: OnListing = lambda name, done, size: None) -> Tree:
    """List every file below `root`: a folder, an archive, or URLs of such, separated by commas.

    Of files with the same path the unpacked one counts, or that of the first archive in order of the archives' names.
    Archives that cannot be read, what cannot be read of one, members whose names would leave the tree, links and
    repeated frames are listed in `problems`. Raises DataError if `root` does not exist.
    """
    base, loose, problems = _loose(str(root))
    found = _Found(problems=problems)
    for path, name in loose:
        if not _is_archive(name):
            found.files.setdefault(path, Location("", name))
    for archive in sorted(name for _, name in loose if _is_archive(name)):
        try:
            listing = _list_archive(_join(base, archive), functools.partial(on_listing, redact(archive)))
        except UNREADABLE as error:
            found.problems.append(Rejection(redact(archive), _cannot_be_opened(error)))
            continue
        _add(found, archive, listing)
        found.report_repeats(archive)
    return Tree(root=base, files=found.files, problems=tuple(found.problems))


@dataclass
class _Found:
    """What `open_tree` has found so far; `repeats` counts an archive's frames that an earlier one has too."""

    files: dict[str, Location] = field(default_factory=dict[str, Location])
    problems: list[Rejection] = field(default_factory=list[Rejection])
    repeats: Counter[str] = field(default_factory=Counter[str])

    def report_repeats(self, archive: str) -> None:
        """Turn the counts into problems, one for each pair of archives."""
        for earlier, count in self.repeats.items():
            own = earlier == archive
            reason = "of its own files; the last is used" if own else f"files of {redact(earlier)}; the first is used"
            self.problems.append(Rejection(redact(archive), f"repeats {count} {reason}"))
        self.repeats.clear()


def _add(found: _Found, archive: str, listing: Listing[Span]) -> None:
    shown = redact(archive)
    for member, reason in listing.problems:
        found.problems.append(Rejection(f"{shown}: {member}" if member else shown, reason))
    for member, span in listing.members:
        if _leaves_tree(member):
            found.problems.append(Rejection(f"{shown}: {member}", "the name leads out of the archive; left out"))
            continue
        path = PurePosixPath(member).as_posix()
        earlier = found.files.setdefault(path, Location(archive, member, span))
        if earlier.span is None or earlier.span is span:
            continue
        if not path.lower().endswith(_REPEATED_FREELY):
            found.repeats[earlier.container] += 1
        if earlier.container == archive:  # what is appended to an archive replaces what it holds
            found.files[path] = Location(archive, member, span)


class Reader:
    """Reads Locations below a root, keeping a few archives open; a context manager, one per process.

    `bytes_read` counts the bytes of the files that were read, as they are outside their archives.
    """

    def __init__(self, root: str | Path) -> None:
        self.bytes_read = 0
        self._root = Path(root)
        self._open: dict[str, Ranges] = {}  # the least recently used first

    def read(self, location: Location) -> bytes:
        """Return the file's bytes; raises FrameError if it is missing, damaged or larger than MAX_FILE_BYTES.

        Raises DataError if a server does not answer: the fault is not the frame's.
        """
        try:
            data = self._read(location)
        except FileNotFoundError as error:
            raise FrameError(str(location), "is missing") from error
        except UNREADABLE as error:
            raise FrameError(str(location), f"cannot be read ({_reason(error)})") from error
        self.bytes_read += len(data)
        return data

    def _read(self, location: Location) -> bytes:
        if location.span is None:
            return read_file(_join(self._root, location.member))
        return location.span.read(self._archive(location.container, location.span))

    def close(self) -> None:
        """Close all archives."""
        while self._open:
            self._open.popitem()[1].close()

    def _archive(self, name: str, span: Span) -> Ranges:
        archive = self._open.pop(name, None) or _open(_join(self._root, name), span)
        self._open[name] = archive
        if len(self._open) > _OPEN_ARCHIVES:
            self._open.pop(next(iter(self._open))).close()
        return archive

    def __enter__(self) -> "Reader":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _open(name: str, span: Span) -> Ranges:
    return open_gzip(name, index=span.index) if isinstance(span, GzipSpan) else open_ranges(name)


def _join(root: Path, name: str) -> str:
    return name if is_url(name) else str(root / name)


# ------------------------------------------------------------------------------------------------------ what there is


def _loose(root: str) -> tuple[Path, list[tuple[str, str]], list[Rejection]]:
    """List the files outside archives, and the archives, as (path inside the data set, path below the base or URL)."""
    if is_url(root):
        return Path(redact(root)), _loose_urls(root), []
    path = Path(root)
    if not path.exists():
        raise DataError(f"{root}: there is no such file or folder.")
    if path.is_file():
        return path.parent, [(path.name, path.name)], []
    problems: list[Rejection] = []
    names = _walk(path, lambda error: problems.append(Rejection(str(error.filename), "cannot be listed")))
    return path, [(name, name) for name in names], problems


def _walk(root: Path, on_error: Callable[[OSError], None]) -> list[str]:
    names: list[str] = []
    for folder, folders, files in os.walk(root, onerror=on_error):
        folders.sort()
        names.extend(Path(folder, file).relative_to(root).as_posix() for file in sorted(files))
    return names


def _loose_urls(root: str) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for url in split_urls(root):
        try:
            below = [(url, url)] if _is_archive(url) else [(name, join_url(url, name)) for name in remote.files(url)]
        except UNREADABLE as error:
            raise DataError(f"{redact(url)}: cannot be listed ({_reason(error)}); {_NAME_ARCHIVES}") from error
        if not below:
            raise DataError(f"{redact(url)}: the server lists no files there; {_NAME_ARCHIVES}")
        found.extend(below)
    return found


_NAME_ARCHIVES = "give the URLs of the archives themselves, separated by commas."


def _list_archive(name: str, on_bytes: Callable[[int, int], None]) -> Listing[Span]:
    """List an archive; what it is, its first bytes say: browsers and users give files other endings."""
    archive = open_ranges(name)
    try:
        on_bytes(0, archive.size)
        start = archive.read(0, 4)
        if not start:
            raise ValueError("it is empty")
        if start.startswith(b"\x1f\x8b"):
            return _list_local_targz(name, lambda done: on_bytes(done, archive.size))
        is_zip = start.startswith(b"PK") or name.lower().endswith(".zip")
        return list_zip(buffered(archive)) if is_zip else list_tar(buffered(archive))
    finally:
        archive.close()


def _list_local_targz(name: str, on_bytes: Callable[[int], None]) -> Listing[Span]:
    if is_url(name):
        raise ValueError("a tar.gz cannot be read in parts from a server; download it first")
    return list_targz(name, on_bytes)


def _cannot_be_opened(error: Exception) -> str:
    advice = "" if isinstance(error, FileNotFoundError) else "; get it again to have what it holds"
    return f"cannot be opened as an archive ({_reason(error)}){advice}"


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__


def _is_archive(name: str) -> bool:
    path = name.partition("?")[0] if is_url(name) else name
    return path.lower().endswith(_ENDINGS)


def _leaves_tree(member: str) -> bool:
    parts = member.replace("\\", "/").split("/")
    return member.startswith(("/", "\\")) or ".." in parts or ":" in parts[0]
