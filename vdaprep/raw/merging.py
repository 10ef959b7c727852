"""Put archives' files of the same paths into one tree: repeats once, others apart.

Archives that are each unpacked into the same folders are the normal case: images in one, depth in another. Where two
files of one path differ, the archives are of different things, as `kitchen.zip` and `office.zip` with `rgb/000000.png`
in each; then an archive's own folder, and its name unless the folders tell them apart, come before its paths.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from vdaprep.errors import DataError
from vdaprep.raw.files import Files, Location, spelt
from vdaprep.shards.canonical import crc32
from vdaprep.shards.records import Rejection
from vdaprep.storage.urls import is_url, redact

_SAMPLES = 8  # files of two archives that are compared byte by byte, where sizes are all that is known
_REPEATED_FREELY = (".txt", ".json")  # TartanAir has its poses in every zip, for one
_ABOUT = re.compile(
    r"(?:.*/)?(?:readme|licen[cs]e|copying|changelog|citation|thumbs\.db|desktop\.ini|\._|\.ds_store|__macosx/)",
    re.IGNORECASE,
)
_ENDING = re.compile(r"\.(?:zip|tar|tgz|taz|tar\.gz|tar\.gzip)$", re.IGNORECASE)

Brief = tuple[int | None, int | None]  # size and CRC-32, as far as they are known
Pair = tuple[str, str]  # two archives, the first in order before; empty: the files outside archives


@dataclass(frozen=True)
class Contents:
    """How the bytes of files are told apart."""

    read: Callable[[Location], bytes]
    """Return a file's bytes; raises DataError."""
    size: Callable[[Location], int | None]
    """Return the bytes of a file outside archives; None if it cannot be told."""

    def brief(self, location: Location) -> Brief:
        """Return a file's size and CRC-32, as far as they are known without reading it."""
        span = location.span
        return (self.size(location), None) if span is None else (span.size, getattr(span, "crc32", None))

    def differ(self, one: Location, other: Location) -> bool:
        """Tell whether two files differ, by reading them; one that cannot be read differs from none."""
        try:
            return crc32(self.read(one)) != crc32(self.read(other))
        except DataError:
            return False


def merge(files: Files, contents: Contents) -> list[Rejection]:
    """Take repeated files out of `files`, and put archives with files of the same paths apart.

    Returns what has to be said: archives that repeat files, and files that are left out.
    """
    said = _drop_own_repeats(files)
    groups = list(files.repeated())
    if not groups:
        return said
    shares = _compare(files, groups, contents)
    apart = _prefixes(files, [pair for pair, share in shares.items() if share.differing])
    for pair, share in shares.items():
        if 2 * share.differing_frames < len(share.frames) and share.differing_frames:
            said.append(Rejection(_shown(pair[1]), _mixed(pair[0], share)))
        elif share.differing and not share.differing_frames:
            table = spelt(files.path_at(min(share.differing)))
            reason = (
                f"is another file than that of this path in {_shown(pair[0]) or 'the folder'}; both are kept, apart"
            )
            said.append(Rejection(f"{_shown(pair[1])}: {table}", reason))
    if apart:
        said += _drop_copies(files, shares, apart)
        for chunk in files.chunks:
            if chunk.container in apart:
                chunk.put_below(apart[chunk.container])
        files.forget_index()
        groups = list(files.repeated())
        shares = _compare(files, groups, contents)
    return said + _drop_repeats(files, groups, shares)


@dataclass
class _Share:
    """What two archives both have, as rows of the second one's files."""

    rows: list[int] = field(default_factory=list[int])
    frames: set[int] = field(default_factory=set[int])
    differing: set[int] = field(default_factory=set[int])
    _about: set[int] = field(default_factory=set[int])

    def add(self, row: int, path: str) -> None:
        """Add a file."""
        self.rows.append(row)
        if _ABOUT.match(path):
            self._about.add(row)
        elif not path.lower().endswith(_REPEATED_FREELY):
            self.frames.add(row)

    def note(self, row: int) -> None:
        """Note that a file differs from the first archive's, unless it is only about the data."""
        if row not in self._about:
            self.differing.add(row)

    @property
    def differing_frames(self) -> int:
        """Number of frames, or of what may be frames, that differ."""
        return len(self.frames & self.differing)


def _compare(files: Files, groups: Iterable[list[int]], contents: Contents) -> dict[Pair, _Share]:
    """Compare files of one path with the first before that it may equal, or the first of all."""
    shares: defaultdict[Pair, _Share] = defaultdict(_Share)
    unsure: defaultdict[Pair, list[tuple[int, int]]] = defaultdict(list)
    for rows in groups:
        found = [files.at(row) for row in rows]
        briefs = [contents.brief(location) for location in found]
        path = files.path_at(rows[0])
        for index in range(1, len(rows)):
            first = briefs.index(briefs[index]) % index  # the first of all if it is the first of its kind
            pair = found[first].container, found[index].container
            shares[pair].add(rows[index], path)
            if _may_equal(briefs[first], briefs[index]):
                unsure[pair].append((rows[first], rows[index]))
            elif briefs[first] != briefs[index]:
                shares[pair].note(rows[index])
    for pair, candidates in unsure.items():
        step = -(-len(candidates) // _SAMPLES)
        if any(contents.differ(files.at(one), files.at(other)) for one, other in candidates[::step]):
            for _, row in candidates:
                shares[pair].note(row)
    return shares


def _may_equal(one: Brief, other: Brief) -> bool:
    """Tell whether nothing but their bytes can say whether two files are equal."""
    same_size = one[0] == other[0] or None in (one[0], other[0])
    return same_size and None in (*one, *other)


def _prefixes(files: Files, conflicts: list[Pair]) -> dict[str, str]:
    """Return what comes before the paths of each archive that shares paths with others."""
    archives = sorted({name for pair in conflicts for name in pair if name})
    folders = {name: _folder(name) for name in {chunk.container for chunk in files.chunks if chunk.container}}
    by_folder = all(folders[name] for name in archives) and all(
        folders.get(one) != folders[other] for one, other in conflicts
    )
    if by_folder:  # what lies in the same folder belongs together
        wanted = {folders[name] for name in archives}
        return {name: f"{folder}/" for name, folder in folders.items() if folder in wanted}
    return {name: "/".join(filter(None, (folders[name], _stem(name)))) + "/" for name in archives}


def _folder(archive: str) -> str:
    """Return an archive's folder below the root; of a URL its last part."""
    if is_url(archive):
        return unquote(urlsplit(archive).path).rpartition("/")[0].rpartition("/")[2]
    return spelt(archive.rpartition("/")[0])


def _stem(archive: str) -> str:
    name = unquote(urlsplit(archive).path) if is_url(archive) else archive
    return spelt(_ENDING.sub("", name.rpartition("/")[2]))


# ------------------------------------------------------------------------------------------------------------ repeats


def _drop_own_repeats(files: Files) -> list[Rejection]:
    """Take out all but the last of an archive's repeats: appended ones replace."""
    counts: Counter[str] = Counter()
    for rows in files.repeated():
        last: dict[str, int] = {}
        for row in rows:
            container = files.chunk_of(row).container
            if container in last:
                files.drop(last[container])
                counts[container] += not files.path_at(row).lower().endswith(_REPEATED_FREELY)
            last[container] = row
    reason = "of its own files; the last is used"
    return [Rejection(_shown(name), f"repeats {count} {reason}") for name, count in sorted(counts.items()) if count]


def _drop_copies(files: Files, shares: Mapping[Pair, _Share], apart: Mapping[str, str]) -> list[Rejection]:
    """Take out files that only repeat one put apart, which would else seem the odd ones."""
    said: list[Rejection] = []
    for (earlier, archive), share in shares.items():
        if share.frames and not share.differing and earlier in apart and archive not in apart:
            for row in share.rows:
                files.drop(row)
            said.append(Rejection(_shown(archive), _repeats(len(share.frames), earlier)))
    return said


def _repeats(count: int, earlier: str) -> str:
    of = f"files of {_shown(earlier)}; the first is used" if earlier else "files that lie beside it; those are used"
    return f"repeats {count} {of}"


def _drop_repeats(files: Files, groups: Iterable[list[int]], shares: Mapping[Pair, _Share]) -> list[Rejection]:
    """Take out all but the first file of a path, and say so of frames, once a pair."""
    differing = {row for share in shares.values() for row in share.differing}
    counts: Counter[Pair] = Counter()
    said: list[Rejection] = []
    for rows in groups:
        first = files.chunk_of(rows[0]).container
        path = files.path_at(rows[0])
        for row in rows[1:]:
            files.drop(row)
            container = files.chunk_of(row).container
            if row in differing:
                reason = f"is another file than that of this path in {_shown(first) or 'the folder'}; left out"
                said.append(Rejection(f"{_shown(container)}: {spelt(path)}", reason))
            elif not path.lower().endswith(_REPEATED_FREELY) and not _ABOUT.match(path):
                counts[container, first] += 1
    return said + [Rejection(_shown(name), _repeats(count, earlier)) for (name, earlier), count in counts.items()]


def _mixed(earlier: str, share: _Share) -> str:
    where = f"of {_shown(earlier)}" if earlier else "beside it"
    count = f"{share.differing_frames} of {len(share.frames)}"
    return f"differs from the files {where} in {count} that both hold; both are kept, apart"


def _shown(archive: str) -> str:
    return spelt(redact(archive))
