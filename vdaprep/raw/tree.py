"""A raw tree as one list of files, in folders, archives and behind URLs.

Every file is in the list, or is named in the tree's problems. Nothing is unpacked to disk. A Tree is made once, by the
planning process; workers get Locations, which say where in an archive a file's bytes are, and read them through a
Reader of their own.
"""

import contextlib
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from urllib.parse import unquote

from vdaprep.errors import DataError, FrameError
from vdaprep.raw.archives.listing import SENS, list_archive, reason_of, say_unopened
from vdaprep.raw.archives.parts import Series, find_series, is_part, open_archive, own_name
from vdaprep.raw.archives.sniff import ENDINGS, named_otherwise
from vdaprep.raw.archives.spans import HEADER_BYTES, UNREADABLE, GzipSpan, Listing, Span, TarSpan, name_end
from vdaprep.raw.archives.targz import open_gzip
from vdaprep.raw.files import Files, Location, spelt, tree_path, tree_paths
from vdaprep.raw.merging import Contents, merge
from vdaprep.raw.walking import identify_folders, is_of_system, walk
from vdaprep.shards.records import Rejection
from vdaprep.storage import remote
from vdaprep.storage.atomic import KEPT
from vdaprep.storage.range_reader import InMemory, Part, Ranges, open_ranges, read_file
from vdaprep.storage.urls import is_url, join_url, redact, split_urls

_ENDINGS = (*ENDINGS, SENS)
_COMMON = ("png", "jpg", "jpeg", "npy", "exr", "txt", "json")  # no need to ask whether these are pieces of archives
_OPEN_ARCHIVES = 8

OnListing = Callable[[str, int, int], None]
"""Called while an archive is listed with its name, the bytes that were read, and its size in bytes."""


@dataclass(frozen=True)
class Archive:
    """What is known of an archive as a whole."""

    bytes: int
    """Its size."""
    members: int
    """Its regular files, those that repeat others included."""
    accounted: bool
    """Whether every byte of it is a member's, or its own: nothing was cut, hidden, left out or left over."""
    files: tuple[str, ...]
    """Its paths below the root or URLs: one, or all of its parts, in order."""


@dataclass(frozen=True)
class Tree:
    """All files below a root, and what was left out."""

    root: Path
    """The folder; of a URL only the name is used."""
    files: Mapping[str, Location]
    """Where each file lies, by its path inside the data set."""
    problems: tuple[Rejection, ...]
    """What was left out, and why."""
    archives: Mapping[str, Archive] = field(default_factory=dict[str, Archive])
    """The archives that were listed, by their path below the root or URL."""
    unopened: tuple[str, ...] = ()
    """Archives that were not opened, as they hold nothing that is wanted."""
    passed_over: tuple[str, ...] = ()
    """Folders below the root that were not looked into, as what is made of the tree lies there."""


def open_tree(
    root: str | Path,
    on_listing: OnListing = lambda name, done, size: None,
    wants: Callable[[str, str], bool] = lambda archive, first: True,
    outputs: Sequence[Path] = (),
) -> Tree:
    """List every file below `root`: a folder, an archive, or URLs of such, separated by commas.

    Two files of one path that are equal count once; where they differ, the archives' names become part of the path, as
    `merging` says. Archives that cannot be read, what cannot be read of one, members whose names would leave the tree,
    links and repeated frames are listed in `problems`.

    Args:
        root: Path or URLs.
        on_listing: Receives progress.
        wants: Tells whether an archive is worth opening by its path below the root, or its URL without query and
            fragment, and by the name of its first member; that is empty unless it is a zip on this machine.
        outputs: Folders that are passed over, wherever they lie and whatever link leads to them.

    Raises:
        DataError: `root` does not exist, or a server lists nothing there.
    """
    base, loose, problems, passed_over = _loose(str(root), outputs)
    files = Files()
    archives: dict[str, Archive] = {}
    unopened: list[str] = []
    whole = [name for _, name in loose if _is_archive(name)]
    found = find_series(name for path, name in loose if _may_be_of_archive(path))
    of_archives = {*whole, *(name for item in found for name in item.files)}
    series = _without_wholes(found, whole, problems)
    _add_loose(files, [item for item in loose if item[1] not in of_archives], problems)
    held = {name: (name,) for name in whole} | {name: item.files for name, item in series.items()}
    for archive in _distinct(base, held):
        if not wants(redact(archive), _first_member(_join(base, archive))):
            unopened.append(archive)
            continue
        shown = spelt(redact(archive))
        try:
            progress = functools.partial(on_listing, shown)
            size, listing = list_archive(_join(base, archive), progress, series.get(archive))
        except UNREADABLE as error:
            problems.append(Rejection(shown, say_unopened(error, url=is_url(archive))))
            continue
        _add_members(files, archive, listing, problems)
        members = sum(len(item.names) for item in (listing, *listing.inner))
        archives[archive] = Archive(size, members, listing.is_whole, held[archive])
    if archives:
        with Reader(base) as reader:
            problems += merge(files, Contents(reader.read, functools.partial(_measure, base)))
    return Tree(base, files, tuple(problems), archives, tuple(unopened), passed_over)


def _without_wholes(found: list[Series], archives: list[str], problems: list[Rejection]) -> dict[str, Series]:
    """Return archives in parts by the names of the wholes, unless these lie there, too."""
    shown = {redact(name) for name in archives}
    for item in found:
        if redact(item.whole) in shown:
            reason = f"is a part of {spelt(own_name(item.whole))}, which lies beside it and is read; delete either"
            problems.append(Rejection(spelt(redact(item.files[0])), reason))
    return {item.whole: item for item in found if redact(item.whole) not in shown}


def _may_be_of_archive(path: str) -> bool:
    return path.rpartition(".")[2].lower() not in _COMMON and not is_of_system(path)


def _distinct(base: Path, archives: Mapping[str, tuple[str, ...]]) -> list[str]:
    """Leave out links to archives that are listed anyway; of each the files are given."""
    first: dict[tuple[str, ...], str] = {}
    places = {name: [_join(base, file) for file in files] for name, files in archives.items()}
    links = {name for name, files in places.items() if any(not is_url(f) and os.path.islink(f) for f in files)}  # noqa: PTH114
    for name in sorted(sorted(archives), key=links.__contains__):
        real = (place if is_url(place) else os.path.realpath(place) for place in places[name])
        first.setdefault(tuple(real), name)
    return sorted(first.values())


def _first_member(name: str) -> str:
    """Return what a local zip names first, from its first bytes; empty if it is none."""
    if is_url(name):
        return ""
    try:
        with contextlib.closing(open_archive(name)) as archive:
            start = archive.read(0, 1024)
    except OSError:
        return ""
    return start[HEADER_BYTES : name_end(start)].decode("utf-8", "replace") if start[:4] == b"PK\3\4" else ""


def _add_loose(files: Files, loose: list[tuple[str, str]], problems: list[Rejection]) -> None:
    paths: list[str] = []
    names: list[str] = []
    for path, name in loose:
        shown = spelt(redact(name))
        plain = not is_url(name) and path.isascii() and path.isprintable() and "\\" not in path
        kept, reason = (path, "") if plain else tree_path(path, is_member=False)
        if not reason and _may_be_of_archive(path):
            reason = named_otherwise(shown if is_url(name) else name)
        if reason:
            problems.append(Rejection(shown, reason))
        else:
            paths.append(kept)
            names.append(name)
    files.add("", names, paths, None)


def _add_members(files: Files, archive: str, listing: Listing, problems: list[Rejection]) -> None:
    shown = spelt(redact(archive))
    for member, reason in listing.problems:
        problems.append(Rejection(f"{shown}: {spelt(member)}" if member else shown, reason))
    names, spans = listing.names, listing.spans
    paths = tree_paths(names)
    if paths is None:
        found = [tree_path(name, is_member=True) for name in names]
        for name, (_, reason) in zip(names, found, strict=True):
            if reason:
                problems.append(Rejection(f"{shown}: {spelt(name)}", reason))
        rows = [row for row, (path, _) in enumerate(found) if path]
        names, paths = [names[row] for row in rows], [found[row][0] for row in rows]
        spans = spans if len(rows) == len(spans) else [spans[row] for row in rows]
    if any(path.lower().endswith(_ENDINGS) and not is_of_system(path) for path in paths):
        inner = next(path for path in paths if path.lower().endswith(_ENDINGS) and not is_of_system(path))
        problems.append(
            Rejection(f"{shown}: {spelt(inner)}", "is an archive packed inside another; unpack the outer one")
        )
    files.add(archive, names, paths, spans)
    for inner in listing.inner:
        _add_members(files, archive, inner, problems)


def _measure(base: Path, location: Location) -> int | None:
    """Return the bytes of a file outside archives; None if that cannot be told."""
    try:
        ranges = open_ranges(_join(base, location.member))
    except (OSError, DataError):
        return None
    try:
        return ranges.size
    finally:
        ranges.close()


class Reader:
    """Reads Locations below a root, keeping a few archives open; one per process.

    `bytes_read` counts the bytes of the files that were read, as they are outside their archives.
    """

    def __init__(self, root: str | Path) -> None:
        self.bytes_read = 0
        self._root = Path(root)
        self._open: dict[str, Ranges] = {}  # the least recently used first

    def read(self, location: Location) -> bytes:
        """Return the file's bytes; raises FrameError if it is missing, damaged or too large.

        Raises DataError if a server does not answer: the fault is not the frame's.
        """
        try:
            data = self._read(location)
        except FileNotFoundError as error:
            raise FrameError(str(location), "is missing") from error
        except UNREADABLE as error:
            raise FrameError(str(location), f"cannot be read ({reason_of(error)})") from error
        except DataError as error:
            raise DataError(f"{str(error).removesuffix('.')}; {KEPT}: run the same command again.") from error
        self.bytes_read += len(data)
        return data

    def open(self, location: Location) -> Ranges:
        """Return a file to be read in parts, as it may be too large to be read as a whole.

        It must be closed; of a zip's members, which are compressed, none is larger than one that can be read. Raises
        FrameError as `read` does.
        """
        span = location.span
        try:
            if span is None:
                return open_ranges(_join(self._root, location.member))
            if isinstance(span, TarSpan):
                return Part(self._archive(location.container, span), span.offset, span.size)
        except FileNotFoundError as error:
            raise FrameError(str(location), "is missing") from error
        except UNREADABLE as error:
            raise FrameError(str(location), f"cannot be read ({reason_of(error)})") from error
        return InMemory(self.read(location))

    def _read(self, location: Location) -> bytes:
        span = location.span
        if span is None:
            return read_file(_join(self._root, location.member))
        return span.read(self._archive(location.container, span))

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
    return open_gzip(name, index=span.index) if isinstance(span, GzipSpan) else open_archive(name)


def _join(root: Path, name: str) -> str:
    return name if is_url(name) else f"{root}/{name}"


# ------------------------------------------------------------------------------------------------------ what there is


def _loose(root: str, outputs: Sequence[Path]) -> tuple[Path, list[tuple[str, str]], list[Rejection], tuple[str, ...]]:
    """List files outside archives, and archives: (path in the data set, path or URL).

    Returns the base, these, what cannot be listed, and the folders that were passed over.
    """
    if is_url(root):
        return Path(redact(root)), _loose_urls(root), [], ()
    path = Path(root)
    if not path.exists():
        raise DataError(f"{root}: there is no such file or folder.")
    if path.is_file():
        beside = find_series(item.name for item in path.parent.iterdir()) if is_part(path.name) else []
        names = next((item.files for item in beside if path.name in item.files), (path.name,))
        return path.parent, [(name, name) for name in names], [], ()
    without = [identity for output in outputs for identity in identify_folders(str(output), inside=root)]
    names, problems, passed_over = walk(root, frozenset(without))
    rejected = [Rejection(spelt(name), reason) for name, reason in problems]
    return path, [(name, name) for name in names], rejected, tuple(passed_over)


def _loose_urls(root: str) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for url in split_urls(root):
        try:
            below = [(url, url)] if _is_archive(url) or is_part(url) else _below(url)
        except UNREADABLE as error:
            raise DataError(f"{redact(url)}: cannot be listed ({reason_of(error)}); {_NAME_ARCHIVES}") from error
        if not below:
            raise DataError(f"{redact(url)}: the server lists no files there; {_NAME_ARCHIVES}")
        found.extend(below)
    return found


def _below(url: str) -> list[tuple[str, str]]:
    """List the files below a URL; web servers quote names, object stores do not."""
    plain = unquote if url.startswith("http") else str
    return [(plain(name), join_url(url, name)) for name in remote.files(url)]


_NAME_ARCHIVES = "give the URLs of the archives themselves, separated by commas."


def _is_archive(name: str) -> bool:
    path = name.partition("?")[0] if is_url(name) else name
    return path.lower().endswith(_ENDINGS) and not is_of_system(path)
