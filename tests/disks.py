"""File systems of a few bytes, for tests of disks that are full."""

import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def small_disk(disk: Path, *, size: int) -> Generator[Path]:
    """Mount a file system of `size` bytes at a new folder; the test is skipped where nothing can be mounted."""
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", disk], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"nothing can be mounted here: {mounted.stderr.decode().strip()}")
    try:
        yield disk
    finally:
        subprocess.run(["umount", disk], check=True)


@contextmanager
def full_disk(disk: Path) -> Generator[Path]:
    """Mount a file system without room, as `small_disk` does."""
    with small_disk(disk, size=1 << 16):
        (disk / "filling").write_bytes(bytes(1 << 16))
        yield disk
