"""Files that are complete under their name, or not there."""

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

_TEMPORARY = ".vdatrain-tmp"


@contextmanager
def new_file(path: Path) -> Generator[BinaryIO]:
    """Open a temporary file that takes the name `path` once its bytes are on the disk; an error leaves nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + _TEMPORARY)
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8."""
    with new_file(path) as file:
        file.write(text.encode("utf-8"))
