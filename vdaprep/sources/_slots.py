"""Which raw file is which frame's: (trajectory, kind, frame number) holds one file.

A source says what the files of a folder are (`Folder`); `gather` goes through the tree once. A trajectory takes its
frames of one kind from one root, the folder that the copy lies in; images and depth maps may have different ones, as
when each archive was unpacked into a folder of its own. Whatever else claims a slot is named as a problem, and which
file is taken depends on the names alone, not on the order in which the tree was listed.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from vdaprep.raw.files import Numbered
from vdaprep.raw.frames import Frames, Trajectory
from vdaprep.raw.tree import Location, Tree
from vdaprep.shards.records import Rejection
from vdaprep.storage.urls import redact

DIGITS = "[0-9]{1,9}"
"""The pattern of a frame's number."""


@dataclass(frozen=True)
class Folder:
    """What the files directly in a folder are."""

    trajectory: tuple[str, str]
    """Name and layout of the trajectory that they are of."""
    root: str
    """Path of the copy that they belong to; empty if that is the tree itself."""
    kind: str = ""
    """`rgb`, `depth`, or another kind of which each frame has one file; empty: files of the whole trajectory only."""
    frame: re.Pattern[str] | None = None
    """Matches the name of a frame's file, whose number is its first group."""
    tables: Mapping[str, str] = field(default_factory=dict[str, str])
    """Keys in `Trajectory.shared` of files of the whole trajectory, by their names in lower case."""
    number: Callable[[str], int] = int
    """Turns the first group of a match of `frame` into the number."""
    beside: tuple["Folder", ...] = ()
    """What other files there are, where frames' files of several kinds lie in one folder."""
    numbers: range | None = None
    """Numbers of the frames that are part of the trajectory; None: all."""


@dataclass(frozen=True)
class Found:
    """What a source finds in a raw tree."""

    trajectories: tuple[Trajectory, ...]
    """The trajectories, by name; every frame that has a file is listed."""
    others: tuple[str, ...] = ()
    """Paths of the files that are no part of any trajectory's layout."""
    refusal: str = ""
    """Why nothing of it can be converted, and what to do; empty if it can."""


class Claims:
    """The files that claim the slots of one trajectory."""

    def __init__(self, trajectory: tuple[str, str], files: Mapping[str, Location]) -> None:
        self.name, self.layout = trajectory
        self.problems: list[Rejection] = []
        self.unused: list[Location] = []
        self._frames: defaultdict[str, defaultdict[str, Numbered]] = defaultdict(
            lambda: defaultdict(lambda: Numbered(files))
        )
        self._tables: defaultdict[str, dict[str, Location]] = defaultdict(dict)
        self._doubles: defaultdict[tuple[str, str], list[tuple[int, Location]]] = defaultdict(list)
        self._table_doubles: list[tuple[str, str, Location]] = []

    def frame(self, folder: Folder, number: int, location: Location) -> None:
        """Claim a frame's slot."""
        slots = self._frames[folder.kind][folder.root]
        if number in slots:
            self._doubles[folder.kind, folder.root].append((number, location))
        else:
            slots[number] = location

    def table(self, folder: Folder, key: str, location: Location) -> None:
        """Claim the slot of a file of the whole trajectory."""
        if key in self._tables[folder.root]:
            self._table_doubles.append((folder.root, key, location))
        else:
            self._tables[folder.root][key] = location

    def has(self, *kinds: str) -> bool:
        """Tell whether there are files of any of these kinds."""
        return any(kind in self._frames for kind in kinds)

    def settle(self, more: Iterable[str] = ()) -> tuple[Frames, dict[str, Location]]:
        """Decide which file each slot holds.

        Args:
            more: Kinds beside `rgb` and `depth`.

        Returns:
            The frames, ascending, and the shared files: of the whole trajectory by their keys, of `more` kinds by
            their frames' numbers as text.
        """
        self._settle_doubles()
        roots = self._roots()
        rgb, depth = (self._of(kind).get(roots.get(kind, ""), Numbered({})) for kind in ("rgb", "depth"))
        for kind in ("rgb", "depth"):
            self._leave_out(kind, self._of(kind), roots.get(kind, ""))
        frames = Frames(rgb, depth)
        preferred = [roots[kind] for kind in ("rgb", "depth") if kind in roots]
        shared = self._settle_tables(preferred)
        for kind in more:
            there = self._of(kind)
            if there:
                root = _first(preferred, there)
                shared |= {str(number): location for number, location in there[root].items()}
                self._leave_out(kind, there, root)
        return frames, shared

    def _of(self, kind: str) -> Mapping[str, Numbered]:
        return self._frames.get(kind, {})

    def _roots(self) -> dict[str, str]:
        """Choose the roots of images and depth maps that share most frames, one if possible."""
        rgb, depth = self._of("rgb"), self._of("depth")
        if not (rgb and depth):
            return {
                kind: min(there, key=lambda root: (-len(there[root]), root))
                for kind, there in (("rgb", rgb), ("depth", depth))
                if there
            }
        if len(rgb) == len(depth) == 1:
            return {"rgb": next(iter(rgb)), "depth": next(iter(depth))}
        best = min(
            ((first, second) for first in rgb for second in depth),
            key=lambda pair: (-len(rgb[pair[0]].keys() & depth[pair[1]].keys()), pair[0] != pair[1], pair),
        )
        return dict(zip(("rgb", "depth"), best, strict=True))

    def _leave_out(self, kind: str, there: Mapping[str, Numbered], taken: str) -> None:
        """Name what lies in other roots than the one that is taken."""
        for root in sorted(there.keys() - {taken}):
            files = [there[root][number] for number in sorted(there[root])]
            place = f"below {taken}" if taken else "at the top"
            what = f"{len(files)} {kind} files of another copy of {self.name}; those {place} are used"
            self.problems.append(Rejection(str(files[0]), f"is one of {what}"))
            self.unused += files

    def _settle_doubles(self) -> None:
        """Of files for the same frame, take that whose name is like those of most of the others."""
        for (kind, root), doubles in sorted(self._doubles.items()):
            slots = self._frames[kind][root]
            rank = _ranks([*slots.values(), *(location for _, location in doubles)])
            numbers = sorted({number for number, _ in doubles})
            left: list[Location] = []
            for number, location in doubles:
                keep, drop = sorted((slots[number], location), key=lambda item: (rank[_form(item)], str(item)))
                slots[number] = keep
                left.append(drop)
            first = min(left, key=str)
            others = f", and {len(left) - 1} more like it" if len(left) > 1 else ""
            self.problems.append(
                Rejection(
                    str(first),
                    f"is a second {kind} file of a frame of {self.name}{others}; "
                    f"for frame {numbers[0]} {slots[numbers[0]]} is used",
                )
            )
            self.unused += left

    def _settle_tables(self, preferred: list[str]) -> dict[str, Location]:
        for root, key, location in self._table_doubles:
            keep, drop = sorted((self._tables[root][key], location), key=str)
            self._tables[root][key] = keep
            self._name_table(drop, keep)
        shared: dict[str, Location] = {}
        for key in sorted({key for tables in self._tables.values() for key in tables}):
            there = {root: tables[key] for root, tables in self._tables.items() if key in tables}
            root = _first(preferred, there)
            shared[key] = there[root]
            for other in sorted(there.keys() - {root}):  # every archive of a download may have its own
                self.unused.append(there[other])
                if root not in preferred:
                    self._name_table(there[other], there[root])
        return shared

    def _name_table(self, drop: Location, keep: Location) -> None:
        self.problems.append(Rejection(str(drop), f"is a second file of its kind for {self.name}; {keep} is used"))
        self.unused.append(drop)


def _first(preferred: Iterable[str], there: Mapping[str, object]) -> str:
    return next((root for root in preferred if root in there), min(there))


def _form(location: Location) -> tuple[str, int]:
    """Return what a trajectory's files' names have in common: ending and length."""
    name = location.member.rpartition("/")[2]
    return name.rpartition(".")[2], len(name)


def _ranks(locations: Iterable[Location]) -> dict[tuple[str, int], tuple[int, tuple[str, int]]]:
    counts = Counter(map(_form, locations))
    return {form: (-count, form) for form, count in counts.items()}


def gather(
    tree: Tree,
    folder_of: Callable[[str], Folder | None],
    table_of: Callable[[str], tuple[Folder, str] | None] = lambda path: None,
    below: Callable[[str], str] = lambda archive: "",
) -> tuple[list[Claims], list[str]]:
    """Sort the files of a tree into the slots of trajectories.

    Args:
        tree: The files.
        folder_of: Says what the files of a folder are, None: no files of the data set; called once a folder.
        table_of: Says of a file elsewhere that it is of a whole trajectory: where it belongs, and its key.
        below: Says what comes before the paths in an archive, for `folder_of`, where its place is part of the names.

    Returns:
        The trajectories, by name and layout, and the paths of all other files.
    """
    folders: dict[str, Folder | None] = {}
    claims: dict[tuple[str, str], Claims] = {}
    others: list[str] = []
    for path, location in tree.files.items():
        above, _, name = path.rpartition("/")
        above = below(redact(location.container)) + above
        if above not in folders:
            folders[above] = folder_of(above)
        folder = folders[above]
        of_frame = None if folder is None else _frame(folder, name)
        if of_frame is not None:
            _claims_of(of_frame[0], claims, tree.files).frame(*of_frame, location)
        elif found := table_of(path) if folder is None else _table(folder, name):
            _claims_of(found[0], claims, tree.files).table(*found, location)
        else:
            others.append(path)
    return [claims[key] for key in sorted(claims)], others


def _frame(folder: Folder, name: str) -> tuple[Folder, int] | None:
    for part in (folder, *folder.beside):
        if part.frame is not None and (match := part.frame.match(name)):
            number = part.number(match[1])
            return (part, number) if part.numbers is None or number in part.numbers else None
    return None


def _table(folder: Folder, name: str) -> tuple[Folder, str] | None:
    key = folder.tables.get(name.lower())
    return None if key is None else (folder, key)


def _claims_of(folder: Folder, claims: dict[tuple[str, str], Claims], files: Mapping[str, Location]) -> Claims:
    found = claims.get(folder.trajectory)
    if found is None:
        found = claims[folder.trajectory] = Claims(folder.trajectory, files)
    return found


def trajectory_of(claims: Claims, *, more: Iterable[str] = ()) -> Trajectory:
    """Return the trajectory that claims are of; `more` is as for `Claims.settle`."""
    frames, shared = claims.settle(more)
    return Trajectory(claims.name, claims.layout, frames, shared, tuple(claims.problems), tuple(claims.unused))
