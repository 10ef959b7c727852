"""Seek points of a tar.gz, made in one pass by a process of its own.

As a program (`python -m vdaprep.raw.archives.targz_index ARCHIVE INDEX`) it is that process.
"""

import contextlib
import io
import json
import mmap
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import rapidgzip  # pyright: ignore[reportMissingModuleSource]

from vdaprep.raw.archives.parts import open_parts
from vdaprep.raw.archives.spans import GzipSpan, Listing, SpanTable
from vdaprep.raw.archives.tars import list_tar, listing_to_json
from vdaprep.storage.range_reader import Ranges, RangeStream

_INDEXING_THREADS = 4  # each more takes up to 30 MB
_MAX_BYTES = 640 << 20  # of memory; 100 to 200 MB are usual
_WATCH_S = 0.05
_REPORT_S = 0.5  # between two progress lines
_AT = "at byte "  # begins a progress line


class NoSeekPointsError(Exception):
    """rapidgzip could not index the file, damaged most likely; the text is rapidgzip's."""


def make_seek_points(path: str, index: str, on_bytes: Callable[[int], None]) -> Listing:
    """Make a tar.gz's seek points and list it, in a process that rapidgzip may abort.

    `on_bytes` is called now and then with the number of the file's bytes that were read. Raises NoSeekPointsError.
    """
    command = [sys.executable, "-m", "vdaprep.raw.archives.targz_index", path, index]
    messages: list[str] = []
    with (
        tempfile.TemporaryFile() as listing,
        subprocess.Popen(command, stdout=listing, stderr=subprocess.PIPE, encoding="utf-8", errors="replace") as child,
    ):
        assert child.stderr is not None  # a pipe was asked for
        threading.Thread(target=_watch_memory, args=(child,), daemon=True).start()
        try:
            for line in map(str.strip, child.stderr):
                if line.startswith(_AT):
                    on_bytes(int(line.removeprefix(_AT)))
                elif line:
                    messages.append(line)
        except BaseException:
            child.kill()
            raise
        if child.wait() != 0:
            raise NoSeekPointsError(messages[-1] if messages else "no reason is known")
        listing.seek(0)
        value = json.load(listing)
    spans = SpanTable(GzipSpan, (value["offsets"], value["sizes"]), index)
    return Listing(value["names"], spans, [(member, reason) for member, reason in value["problems"]])


def _watch_memory(child: "subprocess.Popen[str]") -> None:
    """End a process that needs much memory: rapidgzip holds inflated pieces, maybe GBs."""
    with contextlib.suppress(OSError, ValueError, IndexError):  # it has ended, or there is no /proc
        while child.poll() is None:
            pages = int(Path(f"/proc/{child.pid}/statm").read_text("ascii").split()[1])
            if pages * mmap.PAGESIZE > _MAX_BYTES:
                child.kill()
            time.sleep(_WATCH_S)


def open_rapidgzip(source: str | Ranges, *, threads: int) -> Any:
    """Open a gzip by rapidgzip, by path or in parts; an open one keeps the process from ending."""
    file = source if isinstance(source, str) else RangeStream(source)
    return cast(Any, rapidgzip).RapidgzipFile(file, parallelization=threads)


class _Reporting(io.RawIOBase):
    """A RapidgzipFile that writes its position to stderr now and then."""

    def __init__(self, file: Any) -> None:
        super().__init__()
        self._file = file
        self._reported_s = time.monotonic()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def readinto(self, buffer: Any, /) -> int:
        if time.monotonic() - self._reported_s > _REPORT_S:
            self._reported_s = time.monotonic()
            sys.stderr.write(f"{_AT}{self._file.tell_compressed() // 8}\n")
            sys.stderr.flush()
        return self._file.readinto(buffer)

    def close(self) -> None:
        self._file.close()
        super().close()


def main(path: str, index: str) -> int:
    """Write seek points and print the listing; 1 if the archive is not whole."""
    file = open_rapidgzip(open_parts(path) or path, threads=min(_INDEXING_THREADS, os.cpu_count() or 1))
    with io.BufferedReader(cast(Any, _Reporting(file)), 1024) as stream:
        listing = list_tar(stream)
        if not listing.has_end:
            return 1
        stream.seek(0, io.SEEK_END)  # what comes after the tar's end mark is checked too
        file.export_index(index, cast(Any, rapidgzip).IndexFormat.GZTOOL)  # the one that keeps windows compressed
    sys.stdout.write(listing_to_json(listing))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
