"""List the files of a folder, links followed, each real folder once."""

import os
import stat
from collections.abc import Iterator

_OF_SYSTEMS = ("._", ".DS_Store")  # what macOS puts beside files


def is_of_system(path: str) -> bool:
    """Tell whether a file is one that an operating system puts beside others."""
    return path.rpartition("/")[2].startswith(_OF_SYSTEMS) or "__MACOSX/" in path


def walk(root: str) -> tuple[list[str], list[tuple[str, str]]]:
    """List all files below a folder, sorted, and what cannot be listed, as (name, reason).

    Links are followed. A folder that several ways lead to is listed once: where it really is, if that is below
    `root`, else below the first link to it; so links in a circle end.
    """
    return _Walk(root.rstrip("/") or "/").all()


class _Walk:
    def __init__(self, root: str) -> None:
        self._root = root
        self._names: list[str] = []
        self._problems: list[tuple[str, str]] = []
        self._seen: set[tuple[int, int]] = set()
        self._links: list[str] = []

    def all(self) -> tuple[list[str], list[tuple[str, str]]]:
        self._below("")
        while self._links:  # real folders were listed first
            links, self._links = sorted(self._links), []
            for name in links:
                self._below(name)
        return sorted(self._names, key=lambda name: name.rpartition("/")), self._problems

    def _below(self, top: str) -> None:
        waiting = [top]
        while waiting:
            folder = waiting.pop()
            place = f"{self._root}/{folder}" if folder else self._root
            try:
                state = os.stat(place)  # noqa: PTH116
                if (state.st_dev, state.st_ino) in self._seen:
                    continue
                self._seen.add((state.st_dev, state.st_ino))
                with os.scandir(place) as entries:
                    waiting += self._take(entries, f"{folder}/" if folder else "")
            except OSError as error:
                self._problems.append((folder or self._root, f"cannot be listed ({error.strerror})"))

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
                self._names.append(name)
            else:
                self._problems.append((name, f"is {_kind(entry)}, not a file; left out"))
        return folders


def _kind(entry: "os.DirEntry[str]") -> str:
    """Name what is neither file nor folder: pipes and devices may take for ever to open or read."""
    mode = entry.stat().st_mode
    return "a pipe" if stat.S_ISFIFO(mode) else "a socket" if stat.S_ISSOCK(mode) else "a device"
