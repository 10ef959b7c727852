"""How much memory an input may cost, checked on headers' sizes before decoding."""

from vdaprep.errors import VdakitError

MAX_FRAME_PIXELS = 2**26
"""Pixels of a frame: twice 8K video."""
MAX_FRAME_BYTES = 2**28
"""Bytes of a frame's file, or of its members in a shard, before they are decoded."""
MAX_WINDOW_BYTES = 2**29
"""Bytes of the decoded frames of a window: 48 frames of 1920x1080 pixels."""
MAX_CLIP_BYTES = 2**30
"""Bytes of the decoded frames that `Clip.read` returns: a clip of 64 frames of 1920x1080 pixels has 660 MB."""
MAX_DOCUMENT_BYTES = 48 << 20
"""Bytes of a JSON document: `dataset.json` of 100,000 shards has 30 MB."""
MAX_SMALL_DOCUMENT_BYTES = 4 << 20
"""Bytes of a document that describes one thing, such as the metadata of a clip of 1000 frames, or a configuration."""


class LimitError(VdakitError):
    """An input asks for more memory than its kind may take; `reason` lacks the file."""

    def __init__(self, where: str, reason: str) -> None:
        super().__init__(f"{where}: {reason}" if where else reason)
        self.where = where
        self.reason = reason

    def __reduce__(self) -> tuple[type["LimitError"], tuple[str, str]]:
        return LimitError, (self.where, self.reason)


def check_pixels(width: int, height: int, *, where: str = "") -> None:
    """Refuse a size that a frame cannot have, or that takes too much memory.

    Args:
        width: Pixels of a row, as the file's header says.
        height: Number of rows.
        where: The file, with which the sentence begins; empty if the caller adds it.

    Raises:
        LimitError: There is no pixel, or there are more than MAX_FRAME_PIXELS.
    """
    if width < 1 or height < 1:
        raise LimitError(where, f"is {width}x{height} pixels by its header, expected at least 1x1.")
    if width * height > MAX_FRAME_PIXELS:
        raise LimitError(
            where,
            f"is {width}x{height} pixels by its header, expected at most {MAX_FRAME_PIXELS} pixels a frame; "
            "make it smaller, or leave it out.",
        )


def check_window(size: int, *, where: str = "", limit: int = MAX_WINDOW_BYTES) -> None:
    """Refuse to decode a window that takes over `limit` bytes; raises LimitError."""
    if size > limit:
        raise LimitError(
            where,
            f"asks for {size >> 20} MiB of frames at once, expected at most {limit >> 20} MiB; "
            "read fewer frames at once, or convert with a smaller --short-side.",
        )


def check_document(size: int, *, where: str, limit: int = MAX_DOCUMENT_BYTES) -> None:
    """Refuse a text document of more than `limit` bytes; raises LimitError naming `where`."""
    if size > limit:
        raise LimitError(where, f"has more than {limit} bytes, the most that a document of its kind may have.")
