"""List the files of a folder, links followed, each real folder once."""

import contextlib
import os
import stat
from collections.abc import Collection, Iterator
from typing import NamedTuple

Identity = tuple[int, int]
"""Device and number of a folder: the same whatever way leads to it."""

_OF_SYSTEMS = ("._", ".DS_Store")  # what macOS puts beside files


def is_of_system(path: str) -> bool:
    """Tell whether a file is one that an operating system puts beside others."""
    return path.rpartition("/")[2].startswith(_OF_SYSTEMS) or "__MACOSX/" in path


class Listed(NamedTuple):
    """What lies below a folder; all names are paths below it."""

    names: list[str]
    """The files, sorted folder by folder."""
    problems: list[tuple[str, str]]
    """What cannot be listed, as (name, reason)."""
    passed_over: list[str]
    """The folders, and links to files in them, that were not to be listed."""


def walk(root: str, without: Collection[Identity] = ()) -> Listed:
    """List all files below a folder but those in the folders `without`.

    Links are followed. A folder that several ways lead to is listed once: where it really is, if that is below
    `root`, else below the first link to it; so links in a circle end. A link to a folder in which `root` itself lies,
    and what belongs to the system's own file systems, is a problem: all of a machine's files would be listed.
    """
    return _Walk(root.rstrip("/") or "/", without).all()


def identify_folders(top: str, *, inside: str) -> frozenset[Identity]:
    """Identify a folder and those below it; none if there are none, or `inside` lies there."""
    if os.path.commonpath([os.path.realpath(top), os.path.realpath(inside)]) == os.path.realpath(top):
        return frozenset()
    return frozenset(_identity(folder) for folder, _, _ in os.walk(top))


def _identity(folder: str) -> Identity:
    state = os.stat(folder)  # noqa: PTH116
    return state.st_dev, state.st_ino


_SYSTEMS = ("/proc", "/sys", "/dev")  # what is mounted there is not on a disk


def _system_devices(root: str) -> dict[int, str]:
    """Return where each system's own file system is mounted, by device; `root` may lie in one."""
    found: dict[int, str] = {}
    for place in _SYSTEMS:
        with contextlib.suppress(OSError):
            found[_identity(place)[0]] = place
    for place in ("/", root):
        with contextlib.suppress(OSError):
            found.pop(_identity(place)[0], None)
    return found


class _Walk:
    def __init__(self, root: str, without: Collection[Identity]) -> None:
        self._root = root
        self._real_root = os.path.realpath(root)
        self._systems = _system_devices(root)
        self._without = without
        self._passed_over: list[str] = []
        self._names: list[str] = []
        self._problems: list[tuple[str, str]] = []
        self._seen: set[tuple[int, int]] = set()
        self._links: list[str] = []

    def all(self) -> Listed:
        self._below("")
        while self._links:  # real folders were listed first
            links, self._links = sorted(self._links), []
            for name in links:
                self._below(name)
        names = sorted(self._names, key=lambda name: name.rpartition("/"))
        return Listed(names, self._problems, sorted(self._passed_over))

    def _below(self, top: str) -> None:
        waiting = [top]
        while waiting:
            folder = waiting.pop()
            place = f"{self._root}/{folder}" if folder else self._root
            try:
                identity = _identity(place)
                if identity in self._seen:
                    continue
                self._seen.add(identity)
                if reason := self._stranger(place, identity):
                    self._problems.append((folder, reason))
                    continue
                if identity in self._without:
                    self._passed_over.append(folder)
                    continue
                with os.scandir(place) as entries:
                    waiting += self._take(entries, f"{folder}/" if folder else "")
            except OSError as error:
                self._problems.append((folder or self._root, f"cannot be listed ({error.strerror})"))

    def _stranger(self, place: str, identity: Identity) -> str:
        """Say why a folder, or what a link leads to, cannot be part of a data set; empty if it can."""
        target = os.path.realpath(place)
        if identity[0] in self._systems:
            return f"leads into {self._systems[identity[0]]} of the system ({target}); left out"
        if target != self._real_root and os.path.commonpath([target, self._real_root]) == target:
            return (
                f"is a link to {target}, in which this raw data itself lies; left out: link to the folders that are "
                "meant"
            )
        return ""

    def _take(self, entries: Iterator["os.DirEntry[str]"], before: str) -> list[str]:
        """Note the files and links of a folder; returns its real folders."""
        folders: list[str] = []
        for entry in entries:
            name = before + entry.name
            if entry.is_file(follow_symlinks=False):
                self._names.append(name)
            elif entry.is_dir(follow_symlinks=False):
                folders.append(name)
            elif not os.path.exists(entry.path):  # noqa: PTH110 - a million times, perhaps
                self._problems.append((name, f"is a link that leads nowhere ({os.readlink(entry.path)})"))  # noqa: PTH115
            elif entry.is_dir():
                self._links.append(name)
            elif entry.is_file():
                if entry.stat().st_dev in self._systems:
                    self._problems.append((name, self._stranger(entry.path, _identity(entry.path))))
                    continue
                (self._passed_over if self._leads_into(entry.path) else self._names).append(name)
            else:
                self._problems.append((name, f"is {_kind(entry)}, not a file; left out"))
        return folders

    def _leads_into(self, link: str) -> bool:
        """Tell whether a link leads to a file in one of the folders that are passed over."""
        return bool(self._without) and _identity(os.path.realpath(link).rpartition("/")[0] or "/") in self._without


def _kind(entry: "os.DirEntry[str]") -> str:
    """Name what is neither file nor folder: pipes and devices may take for ever to open or read."""
    mode = entry.stat().st_mode
    return "a pipe" if stat.S_ISFIFO(mode) else "a socket" if stat.S_ISSOCK(mode) else "a device"
