"""The files of a raw tree, wherever each lies, as a mapping that takes some 40 bytes a file.

A data set of a million frames has two million files: as strings and objects they would take gigabytes. So names are
kept packed, spans as columns of numbers, and Locations are made when they are asked for.
"""

import re
import unicodedata
import zlib
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import ItemsView, Iterator, Mapping, MutableMapping, Sequence
from typing import Any

import numpy as np

from vdaprep.raw.archives.spans import Span
from vdaprep.storage.urls import redact

_CHUNK_FILES = 16_384  # whose names are decoded at once
_DECODED = 8  # chunks whose names are kept decoded
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_SURROGATE = re.compile("[\ud800-\udfff]")


class Location:
    """Where a file lies: in an archive, by path or URL, or, `container` empty, in the tree.

    `member` is the file's path in its archive, or below the root, or its URL. `span` is None for a file of the tree.
    """

    __slots__ = ("_chunk", "_span", "container", "member", "row")

    def __init__(self, container: str, member: str, span: Span | None = None) -> None:
        self.container, self.member = container, member
        self.row = -1
        """Row in the `Files` that it comes from; -1 if it comes from none."""
        self._span = span
        self._chunk: Chunk | None = None

    @property
    def span(self) -> Span | None:
        """Where in its archive the file's bytes are."""
        if self._chunk is not None:
            self._span, self._chunk = self._chunk.span(self.row), None
        return self._span

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Location):
            return NotImplemented
        return (self.container, self.member, self.span) == (other.container, other.member, other.span)

    def __hash__(self) -> int:
        return hash((self.container, self.member))

    def __reduce__(self) -> tuple[type["Location"], tuple[str, str, Span | None]]:
        return Location, (self.container, self.member, self.span)

    def __repr__(self) -> str:
        return f"Location({self.container!r}, {self.member!r}, {self.span!r})"

    def __str__(self) -> str:
        member = spelt(redact(self.member))
        return f"{spelt(redact(self.container))}: {member}" if self.container else member


def spelt(name: str) -> str:
    """Return a name with what is no text (bytes, control characters) spelt out."""
    if name.isascii() and name.isprintable():
        return name
    name = _SURROGATE.sub(lambda found: f"\\x{ord(found[0]) & 0xFF:02x}", name)
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", name)


# ------------------------------------------------------------------------------------------------------------- paths


def tree_paths(names: Sequence[str]) -> list[str] | None:
    """Return the paths inside the data set of an archive's members; None if some have none."""
    joined = "|".join(names)
    plain = joined.isascii() and joined.isprintable() and "\\" not in joined and ":" not in joined
    odd = ("//", "|/", "/./", "/../", "|./", "|../", "/.|", "/..|", "||")
    return list(names) if plain and not any(part in f"|{joined}|" for part in odd) else None


def tree_path(name: str, *, is_member: bool) -> tuple[str, str]:
    r"""Return a file's path inside the data set, or why it has none, the other being empty.

    Both `/` and `\` separate; letters are composed (macOS stores accents apart); bytes that are no text are spelt out.
    """
    path = name.replace("\\", "/")
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if ".." in parts or (is_member and (path.startswith("/") or any(":" in part for part in parts[:1]))):
        return "", "the name leads out of the archive; left out"
    if _CONTROL.search(path):
        return "", "has control characters in its name; left out"
    if not parts:
        return "", "has no name; left out"
    return unicodedata.normalize("NFC", spelt("/".join(parts))), ""


# ------------------------------------------------------------------------------------------------------------- files


class Chunk:
    """Some files of one archive, or files outside archives, in order."""

    def __init__(
        self, container: str, names: Sequence[str], paths: Sequence[str], spans: Sequence[Span] | None, *, begin: int
    ) -> None:
        """Hold files; `begin` is the row of the first in `spans`."""
        self.container = container
        self.prefix = ""  # before the paths
        self.first = 0  # row in the Files
        self.dropped: set[int] = set()  # rows here, from 0
        self.count = len(names)
        self._spans, self._begin = spans, begin
        self._names = _join(names)
        self._paths = self._names if names == paths else _join(paths)
        self.hashes = array("q", map(hash, paths))

    def paths(self) -> list[str]:
        """Return the paths inside the data set."""
        found = _split(self._paths)
        return [f"{self.prefix}{path}" for path in found] if self.prefix else found

    def names(self) -> list[str]:
        """Return the names that the archive has."""
        return _split(self._names)

    def span(self, row: int) -> Span | None:
        """Return the span of a row of the Files."""
        return None if self._spans is None else self._spans[self._begin + row - self.first]

    def put_below(self, prefix: str) -> None:
        """Put the files below a folder."""
        self.prefix = prefix
        self.hashes = array("q", map(hash, self.paths()))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "hashes": None}  # another process hashes otherwise

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.hashes = array("q", map(hash, self.paths()))


def _join(names: Sequence[str]) -> bytes:
    return zlib.compress("\n".join(names).encode("utf-8", "surrogatepass"), 1)


def _split(data: bytes) -> list[str]:
    return zlib.decompress(data).decode("utf-8", "surrogatepass").split("\n")


class Files(Mapping[str, Location]):
    """Locations by their path inside the data set, in the order in which they were added."""

    def __init__(self) -> None:
        self.chunks: list[Chunk] = []
        self._firsts: list[int] = []
        self._rows = 0
        self._sorted: tuple[np.ndarray, np.ndarray] | None = None
        self._decoded: dict[int, tuple[list[str], list[str]]] = {}  # names and paths, by the chunk's first row

    def add(self, container: str, names: Sequence[str], paths: Sequence[str], spans: Sequence[Span] | None) -> None:
        """Add the files of an archive, or, with an empty container, those outside archives."""
        for begin in range(0, len(names), _CHUNK_FILES):
            stop = begin + _CHUNK_FILES
            chunk = Chunk(container, names[begin:stop], paths[begin:stop], spans, begin=begin)
            chunk.first = self._rows
            self.chunks.append(chunk)
            self._firsts.append(self._rows)
            self._rows += chunk.count
        self.forget_index()

    def forget_index(self) -> None:
        """Forget how paths are found, as chunks have changed."""
        self._sorted = None
        self._decoded.clear()

    def at(self, row: int) -> Location:
        """Return the Location of a row."""
        chunk = self.chunk_of(row)
        return _located(chunk, self._decode(chunk)[0][row - chunk.first], row)

    def path_at(self, row: int) -> str:
        """Return the path of a row."""
        chunk = self.chunk_of(row)
        return self._decode(chunk)[1][row - chunk.first]

    def _decode(self, chunk: Chunk) -> tuple[list[str], list[str]]:
        """Return names and paths of a chunk, which are kept for the next call."""
        found = self._decoded.get(chunk.first)
        if found is None:
            found = self._decoded[chunk.first] = chunk.names(), chunk.paths()
            if len(self._decoded) > _DECODED:
                del self._decoded[next(iter(self._decoded))]
        return found

    def chunk_of(self, row: int) -> Chunk:
        """Return the chunk that holds a row."""
        return self.chunks[bisect_right(self._firsts, row) - 1]

    def drop(self, row: int) -> None:
        """Take a file out."""
        chunk = self.chunk_of(row)
        chunk.dropped.add(row - chunk.first)

    def repeated(self) -> Iterator[list[int]]:
        """Yield the rows of each path that several files have, in order."""
        hashes, rows = self._index()
        same = hashes[1:] == hashes[:-1]
        among = np.sort(rows[np.append(same, False) | np.append(False, same)]) if len(hashes) else rows
        by_path: dict[str, list[int]] = {}
        for chunk in self.chunks:
            own = among[np.searchsorted(among, chunk.first) : np.searchsorted(among, chunk.first + chunk.count)]
            paths = chunk.paths() if len(own) else []
            for row in map(int, own):
                if row - chunk.first not in chunk.dropped:
                    by_path.setdefault(paths[row - chunk.first], []).append(row)
        yield from (found for found in by_path.values() if len(found) > 1)

    def __getitem__(self, path: str) -> Location:
        hashes, rows = self._index()
        wanted = hash(path)
        for place in range(int(np.searchsorted(hashes, wanted)), len(hashes)):
            if int(hashes[place]) != wanted:
                break
            row = int(rows[place])
            chunk = self.chunk_of(row)
            if row - chunk.first not in chunk.dropped and self.path_at(row) == path:
                return self.at(row)
        raise KeyError(path)

    def __len__(self) -> int:
        return self._rows - sum(len(chunk.dropped) for chunk in self.chunks)

    def __iter__(self) -> Iterator[str]:
        for chunk in self.chunks:
            yield from (path for row, path in enumerate(chunk.paths()) if row not in chunk.dropped)

    def items(self) -> ItemsView[str, Location]:
        """Return the pairs of path and Location."""
        return _Items(self)

    def _index(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the hashes of all paths in order, and the rows that have them."""
        if self._sorted is None:
            parts = [np.frombuffer(chunk.hashes, np.int64) for chunk in self.chunks]
            hashes = np.concatenate(parts) if parts else np.empty(0, np.int64)
            order = np.argsort(hashes, kind="stable")
            self._sorted = hashes[order], order.astype(np.uint32)
        return self._sorted

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_sorted": None, "_decoded": {}}


class _Items(ItemsView[str, Location]):
    """Pairs of path and Location, made one chunk at a time."""

    _mapping: Files

    def __iter__(self) -> Iterator[tuple[str, Location]]:
        for chunk in self._mapping.chunks:
            names = chunk.names()
            paths = chunk.paths()
            for row, (path, name) in enumerate(zip(paths, names, strict=True), start=chunk.first):
                if not chunk.dropped or row - chunk.first not in chunk.dropped:
                    yield path, _located(chunk, name, row)


def _located(chunk: Chunk, name: str, row: int) -> Location:
    found = Location(chunk.container, name)
    found.row = row
    found._chunk = chunk  # pyright: ignore[reportPrivateUsage] # noqa: SLF001 - one module, and quick
    return found


class Numbered(MutableMapping[int, Location]):
    """Locations by frame number, ascending: 16 bytes each, if they are of its `Files`."""

    def __init__(self, files: Mapping[str, Location]) -> None:
        self._files = files if isinstance(files, Files) else None
        self._numbers = array("q")
        self._rows = array("q")  # in the Files; below 0 they count in `_others`
        self._others: list[Location] = []

    def __setitem__(self, number: int, location: Location) -> None:
        row = location.row
        if row < 0 or self._files is None:
            self._others.append(location)
            row = -len(self._others)
        numbers = self._numbers
        place = len(numbers) if not numbers or number > numbers[-1] else bisect_left(numbers, number)
        if place < len(numbers) and numbers[place] == number:
            self._rows[place] = row
        else:
            numbers.insert(place, number)
            self._rows.insert(place, row)

    def __getitem__(self, number: int) -> Location:
        place = bisect_left(self._numbers, number)
        if place == len(self._numbers) or self._numbers[place] != number:
            raise KeyError(number)
        row = self._rows[place]
        if row < 0 or self._files is None:
            return self._others[-1 - row]
        return self._files.at(row)

    def __delitem__(self, number: int) -> None:
        place = bisect_left(self._numbers, number)
        if place == len(self._numbers) or self._numbers[place] != number:
            raise KeyError(number)
        del self._numbers[place], self._rows[place]

    def __contains__(self, number: object) -> bool:
        if not isinstance(number, int) or not self._numbers or number > self._numbers[-1]:
            return False
        return self._numbers[bisect_left(self._numbers, number)] == number

    def __iter__(self) -> Iterator[int]:
        return iter(self._numbers)

    def __len__(self) -> int:
        return len(self._numbers)
