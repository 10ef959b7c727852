"""Archives that were cut into parts; the name of the whole stands for them.

As `split` and 7-Zip do it, a part is called as the whole with `.partaa`, `.part1`, `.part1of4`, `.001` or `.aa` behind
it, and the parts in the order of these are the whole byte for byte. `split` goes on with 9000 after 89, zaaa after yz.
"""

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import NamedTuple
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from vdaprep.raw.archives.sniff import ENDINGS
from vdaprep.storage.range_reader import Joined, Ranges, open_ranges
from vdaprep.storage.urls import is_url

_PART = re.compile(
    rf"(?P<whole>.+(?:{'|'.join(map(re.escape, ENDINGS))}))(?P<before>[._-]part[._-]?|[._-](?!\d(?:\D|$)))"
    r"(?P<number>\d{1,5}|[a-z]{2}|aa[a-z]|z[a-y][a-z]{2})(?:[._-]?of[._-]?(?P<total>\d+))?",
    re.IGNORECASE | re.DOTALL,
)
_PACKED_AGAIN = ("gz", "xz", "bz", "lz")  # what these are behind an archive's name, but for a part of many
_FRAGMENT = "parts="


@dataclass(frozen=True)
class Series:
    """The parts of an archive, as far as they follow each other."""

    whole: str
    """Path or URL of the archive that they make up: it names the archive, and `open_archive` opens it."""
    parts: tuple[str, ...]
    """Paths or URLs, in order, up to one that is missing; none if it cannot be told what comes first."""
    files: tuple[str, ...]
    """All that are called as its parts, `parts` among them."""
    fault: str = ""
    """What of the series is missing or more than there should be, and what to do; empty: nothing that names tell."""

    def find_short(self, sizes: Sequence[int]) -> tuple[int, str] | None:
        """Find the first part that is smaller than others and not the last; `split` leaves none.

        Args:
            sizes: Bytes of each of `parts`.

        Returns:
            How many parts there are up to it, and what is said of it.
        """
        full, count = max(sizes), len(sizes)
        short = (index for index, size in enumerate(sizes[:-1]) if size + count < full)  # `split -n` differs by as much
        if (index := next(short, None)) is None:
            return None
        found = f"its part {own_name(self.parts[index])} has {sizes[index]} bytes, others have {full}"
        return index + 1, f"{found}: its download broke off; get it again"

    def explain(self, sizes: Sequence[int], stop: int | None) -> str:
        """Say which part keeps the archive from being read to its end.

        Args:
            sizes: Bytes of each of `parts`.
            stop: Where in the archive its bytes are found to be damaged; None where they end too early.
        """
        count = len(sizes)
        if stop is not None:
            ends = accumulate(sizes)
            place = next((index for index, end in enumerate(ends) if stop < end), count - 1)
            before = ", if it is not the one before it" if place else ""  # damage shows only after some bytes
            name = own_name(self.parts[place])
            return f"that is in its part {name}, which is damaged or of another archive{before}; get it again"
        if self.fault:
            return self.fault
        last, after = own_name(self.parts[-1]), own_name(_next(self.parts[-1]))
        if count > 1 and sizes[-1] + count >= max(sizes):
            return f"a part {after} should follow, as {last} is as large as the others; get it"
        return f"either its part {last} was not downloaded to its end or a part {after} is missing; get them"


def find_series(names: Iterable[str]) -> list[Series]:
    """Put the parts among paths, or URLs, in order; all other names are passed over."""
    groups: defaultdict[str, list[_Named]] = defaultdict(list)
    for name in names:
        if (found := _parse(name)) is not None:
            groups[found.whole].append(found)
    kept = (items for items in groups.values() if len(items) > 1 or items[0].number not in _PACKED_AGAIN)
    return [_series(sorted(items, key=_order)) for items in kept]


def is_part(name: str) -> bool:
    """Tell whether a path or URL is called as a part of an archive."""
    return _parse(name) is not None


def open_archive(name: str) -> Ranges:
    """Open an archive, or the parts that are there instead of it; raises as `open_ranges` does."""
    return open_parts(name) or open_ranges(name)


def open_parts(name: str) -> Joined | None:
    """Open the parts that are there instead of an archive; None if it is not in parts."""
    files = files_of(name)
    return None if files == [name] else Joined(files)


def files_of(name: str) -> list[str]:
    """Return the paths or URLs of an archive's parts, in order; its own if it is not in parts."""
    if is_url(name):
        return _parts_of_url(name) or [name]
    if os.path.lexists(name):
        return [name]
    folder, _, own = name.rpartition("/")
    try:
        beside = os.listdir(folder or ("/" if name.startswith("/") else "."))  # noqa: PTH208 - names, not paths
    except OSError:
        return [name]
    series = find_series(item for item in beside if item.startswith(own))
    found = [item for item in series if item.whole == own]
    return [f"{folder}/{part}" if "/" in name else part for item in found for part in item.parts] or [name]


# -------------------------------------------------------------------------------------------------------------- names


class _Named(NamedTuple):
    name: str  # of the part
    whole: str
    before: str  # the number
    number: str  # in lower case
    total: str  # how many there are, if that is said


def _parse(name: str) -> _Named | None:
    """Take a part's name apart; None if it is no part's."""
    url = urlsplit(name) if is_url(name) else None
    path = url.path if url else name
    match = _PART.fullmatch(path)
    if match is None or path.lower().endswith(ENDINGS):
        return None
    whole = urlunsplit(url._replace(path=match["whole"], query="", fragment="")) if url else match["whole"]
    return _Named(name, whole, match["before"].lower(), match["number"].lower(), match["total"] or "")


def _order(part: _Named) -> tuple[int, str]:
    """Sort as `split` counts: numbers by their value, after them letters, by their length first."""
    return (int(part.number), "") if part.number.isdigit() else (10**6 * len(part.number), part.number)


def _series(parts: list[_Named]) -> Series:
    first, names = parts[0], tuple(part.name for part in parts)
    whole = _whole_url(first.whole, names) if is_url(first.whole) else first.whole
    for one, other in pairwise(parts):
        if (one.before, one.number.isdigit(), one.total) != (other.before, other.number.isdigit(), other.total):
            return Series(whole, (), names, f"has parts of two series, {_pair(one, other)}; keep those of one")
        if _order(one) == _order(other):
            return Series(whole, (), names, f"has two files for one part, {_pair(one, other)}; keep one")
    if missing := _missing_first(first):
        return Series(whole, (), names, f"lacks its first part, {missing}; get it")
    for index, (one, other) in enumerate(pairwise(parts), start=1):
        if not _follows(one.number, other.number):
            fault = f"its part {own_name(_next(one.name))} is missing, as {own_name(other.name)} is there; get it"
            right = names[:index]
            return Series(_whole_url(first.whole, right) if is_url(whole) else whole, right, names, fault)
    fault = ""
    if first.total and len(parts) != int(first.total):
        fault = f"{len(parts)} of its {int(first.total)} parts are there, up to {own_name(names[-1])}; get the others"
    return Series(whole, names, names, fault)


def _pair(one: _Named, other: _Named) -> str:
    return f"{own_name(one.name)} and {own_name(other.name)}"


def _missing_first(first: _Named) -> str:
    """Return what the first part should be called, if that is not what it is called."""
    if first.number.isdigit():
        wanted = ["0", "1"] if not first.total else ["1"]
        if int(first.number) in (0, 1):
            return ""
    elif not first.number.strip("a"):
        return ""
    else:
        wanted = ["a" * min(len(first.number), 3)]
    width = len(first.number)
    return " or ".join(own_name(_renumbered(first.name, number.zfill(width))) for number in wanted)


def _follows(one: str, other: str) -> bool:
    """Tell whether a number comes right after another."""
    if one.isdigit() and int(other) == int(one) + 1:
        return True
    if not one.isdigit() and len(one) == len(other) and _value(other) == _value(one) + 1:
        return True
    zero, before_last, last = ("0", "8", "9") if one.isdigit() else ("a", "y", "z")
    grown = len(one) - len(one.lstrip(last))
    is_at_end = one == last * grown + before_last + last * (len(one) - grown - 1)
    return is_at_end and other == last * (grown + 1) + zero * (len(one) - grown + 1)


def _value(letters: str) -> int:
    return sum((ord(letter) - ord("a")) * 26**place for place, letter in enumerate(reversed(letters)))


def _next(name: str) -> str:
    """Return the name of the part after one, as long as the number's width does."""
    part = _parse(name)
    assert part is not None  # it was one
    if part.number.isdigit():
        return _renumbered(name, str(int(part.number) + 1).zfill(len(part.number)))
    value = _value(part.number) + 1
    letters = "".join(chr(ord("a") + value // 26**place % 26) for place in reversed(range(len(part.number))))
    return _renumbered(name, letters)


def _renumbered(name: str, number: str) -> str:
    path = urlsplit(name).path if is_url(name) else name
    match = _PART.fullmatch(path)
    assert match is not None  # it is a part's
    upper = match["number"].isupper()
    return f"{path[: match.start('number')]}{number.upper() if upper else number}{path[match.end('number') :]}"


def own_name(name: str) -> str:
    """Return the last part of a path, or of a URL's path, which holds no secrets."""
    return unquote(urlsplit(name).path.rpartition("/")[2]) if is_url(name) else name.rpartition("/")[2]


# ------------------------------------------------------------------------------------------------------------- of URLs


def _whole_url(whole: str, parts: Sequence[str]) -> str:
    """Return the URL that stands for parts, and names them in its fragment."""
    path = urlsplit(whole).path
    found = [urlsplit(part) for part in parts]
    endings = (f"{part.path.removeprefix(path)}?{part.query}".removesuffix("?") for part in found)
    return f"{whole}#{_FRAGMENT}{','.join(quote(ending, safe='') for ending in endings)}"


def _parts_of_url(url: str) -> list[str]:
    whole = urlsplit(url)
    if not whole.fragment.startswith(_FRAGMENT):
        return []
    endings = [unquote(item).partition("?") for item in whole.fragment.removeprefix(_FRAGMENT).split(",")]
    return [urlunsplit(whole._replace(path=whole.path + path, query=query, fragment="")) for path, _, query in endings]
